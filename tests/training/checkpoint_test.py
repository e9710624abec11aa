"""Checkpoints: exact round trips, damage that is found, models that do not fit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from homae_jax.errors import UserError
from homae_jax.training import checkpoint
from homae_jax.training.state import TrainState, create_state

ROOT = Path(__file__).resolve().parents[2]
CONFIG = {"model": {"width": 3}, "list": [1, 2]}


def make_state(scale: float = 1.0, width: int = 3, tx=None) -> TrainState:
    kernel = scale * np.arange(2.0 * width, dtype=np.float32).reshape(2, width)
    params = {"layer": {"kernel": jnp.asarray(kernel)}, "beta": jnp.float32(0.1)}
    tx = optax.chain(optax.clip(1.0), optax.adam(1e-3)) if tx is None else tx
    state = create_state(params, tx, seed=7)
    return jax.tree.map(np.asarray, state._replace(step=jnp.int32(scale)))


def save(workdir, steps=(10,), keep=3, **options):
    saver = checkpoint.Checkpointer(workdir, keep=keep)
    for step in steps:
        state = make_state(float(step), **options)
        saver.save(step, state, data={"next_index": step}, config=CONFIG)
    saver.wait()


def test_restore_round_trips_state_data_and_config(tmp_path):
    save(tmp_path)
    found = checkpoint.restore(tmp_path, 10, make_state())
    chex.assert_trees_all_equal(found.state, make_state(10.0))
    chex.assert_trees_all_equal_dtypes(found.state, make_state(10.0))
    assert jax.tree.structure(found.state) == jax.tree.structure(make_state())
    assert found.data == {"next_index": 10}
    assert found.config == CONFIG == checkpoint.read_config(tmp_path, 10)


def test_restore_needs_no_more_than_shapes(tmp_path):
    save(tmp_path)
    template = jax.eval_shape(lambda state: state, make_state())
    found = checkpoint.restore(tmp_path, 10, template)
    chex.assert_trees_all_equal(found.state, make_state(10.0))


def test_restore_params_reads_parameters_alone(tmp_path):
    save(tmp_path)
    found = checkpoint.restore_params(tmp_path, 10, make_state().params)
    chex.assert_trees_all_equal(found, make_state(10.0).params)


def test_save_keeps_what_it_was_given(tmp_path):
    """The position in the data is the one at the call, not when the file is written."""
    saver = checkpoint.Checkpointer(tmp_path, keep=1)
    position = {"next_index": 4}
    saver.save(1, make_state(), data=position, config=CONFIG)
    position["next_index"] = 5
    saver.wait()
    assert checkpoint.restore(tmp_path, 1, make_state()).data == {"next_index": 4}


def test_objects_trained_with_are_in_the_checkpoint(tmp_path):
    saver = checkpoint.Checkpointer(tmp_path, keep=2)
    given = {"data": {}, "config": CONFIG}
    saver.save(1, make_state(), **given)
    saver.save(2, make_state(), **given, object_names=("010_potted_meat_can", "mug"))
    saver.wait()
    assert checkpoint.read_object_names(tmp_path, 1) == ()
    found = checkpoint.restore(tmp_path, 2, make_state())
    assert found.object_names == ("010_potted_meat_can", "mug")
    assert found.object_names == checkpoint.read_object_names(tmp_path, 2)


@pytest.mark.parametrize("names", [None, "mug", {"mug": 1}, [1], [["mug"]], ["m\x1b["]])
def test_objects_that_are_no_names_are_refused(tmp_path, names):
    save(tmp_path, steps=(1,))
    path = tmp_path / "checkpoints" / "1" / checkpoint.META
    path.write_text(json.dumps(json.loads(path.read_text()) | {"objects": names}))
    with pytest.raises(UserError, match=r"damaged: .*meta\.json"):
        checkpoint.read_object_names(tmp_path, 1)


def test_checkpointer_keeps_the_newest(tmp_path):
    save(tmp_path, steps=(1, 2, 10, 11), keep=2)
    assert checkpoint.finished_steps(tmp_path) == [10, 11]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["10", "11"]


def test_checkpointer_removes_what_a_killed_run_left(tmp_path):
    save(tmp_path)
    for leftover in ("20.part", "5.old"):
        (tmp_path / "checkpoints" / leftover).mkdir()
    assert checkpoint.finished_steps(tmp_path) == [10]
    checkpoint.Checkpointer(tmp_path, keep=1)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["10"]


def every_file(workdir: Path, step: int) -> list[Path]:
    folder = workdir / "checkpoints" / str(step)
    return sorted(p for p in folder.rglob("*") if p.is_file())


def test_choose_step_finds_one_flipped_bit_in_any_file(tmp_path):
    save(tmp_path, steps=(1, 2))
    for file in every_file(tmp_path, 2):
        content = file.read_bytes()
        if not content:
            continue
        changed = bytearray(content)
        changed[len(changed) // 2] ^= 1
        file.write_bytes(bytes(changed))
        with pytest.raises(UserError, match=r"step 2 is damaged.*--restore_step=N"):
            checkpoint.choose_step(tmp_path)
        file.write_bytes(content)
    assert checkpoint.choose_step(tmp_path) == 2


@pytest.mark.parametrize("harm", ["truncate", "remove", "add"])
def test_choose_step_names_the_damaged_file(tmp_path, harm, capsys):
    save(tmp_path, steps=(1, 2))
    file = max(every_file(tmp_path, 2), key=lambda path: path.stat().st_size)
    if harm == "truncate":
        file.write_bytes(file.read_bytes()[:-1])
    elif harm == "remove":
        file.unlink()
    else:
        file = file.with_name("stranger")
        file.write_text("")
    with pytest.raises(UserError, match=file.name):
        checkpoint.choose_step(tmp_path)
    assert checkpoint.choose_step(tmp_path, latest_valid=True) == 1
    assert "passed over: checkpoint of step 2" in capsys.readouterr().out


def test_choose_step_takes_the_step_asked_for_or_lists_them(tmp_path):
    save(tmp_path, steps=(1, 2))
    assert checkpoint.choose_step(tmp_path, step=1) == 1
    with pytest.raises(UserError, match="no checkpoint of step 3; there are 1, 2"):
        checkpoint.choose_step(tmp_path, step=3)


def test_choose_step_without_a_checkpoint_says_so(tmp_path):
    with pytest.raises(UserError, match="no finished checkpoint"):
        checkpoint.choose_step(tmp_path)


def test_set_aside_moves_later_steps_out_of_the_way(tmp_path):
    save(tmp_path, steps=(1, 2, 3))
    assert checkpoint.set_aside(tmp_path, after=1) == [2, 3]
    assert checkpoint.finished_steps(tmp_path) == [1]
    save(tmp_path, steps=(2, 3))
    assert checkpoint.set_aside(tmp_path, after=2) == [3]
    aside = tmp_path / "checkpoints" / "set_aside"
    assert sorted(p.name for p in aside.iterdir()) == ["2", "3", "3.2"]


def test_restore_lists_parameters_of_another_model(tmp_path):
    save(tmp_path)
    with pytest.raises(UserError, match=r"kernel \(wanted \(2, 4\), found \(2, 3\)\)"):
        checkpoint.restore(tmp_path, 10, make_state(width=4))
    renamed = make_state()._replace(params={"layr": {"kernel": np.zeros((2, 3))}})
    with pytest.raises(UserError, match=r"layer/kernel \(wanted none, found \(2, 3\)"):
        checkpoint.restore(tmp_path, 10, renamed)


def test_restore_says_when_the_optimiser_is_another(tmp_path):
    save(tmp_path)
    advice = f"another optimiser.* new --workdir .*init_from={tmp_path}"
    with pytest.raises(UserError, match=advice):
        checkpoint.restore(tmp_path, 10, make_state(tx=optax.sgd(0.1)))


def test_restore_refuses_another_format(tmp_path):
    save(tmp_path)
    file = tmp_path / "checkpoints" / "10" / "meta.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format_version": 99}))
    with pytest.raises(UserError, match="checkpoint format 99, this program reads 2"):
        checkpoint.restore(tmp_path, 10, make_state())


def test_checkpointer_reports_a_full_disk_and_keeps_the_step_before(
    tmp_path, monkeypatch
):
    save(tmp_path, steps=(1,))

    def fail(*args, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_sync", fail)
    saver = checkpoint.Checkpointer(tmp_path, keep=1)
    saver.save(2, make_state(2.0), data={}, config=CONFIG)
    with pytest.raises(UserError, match=r"No space left on device.*are intact"):
        saver.wait()
    saver.wait()  # told once
    assert checkpoint.choose_step(tmp_path) == 1
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["1"]


KILLED = """
import sys
import numpy as np, optax
from homae_jax.training import checkpoint
from tests.training import checkpoint_test as t
saver = checkpoint.Checkpointer(sys.argv[1], keep=2)
for step in range(1, 1000):
    saver.save(step, t.make_state(float(step), width=100_000), data={}, config=t.CONFIG)
    saver.wait()
    print(step, flush=True)
"""


def test_a_process_killed_while_it_saves_leaves_whole_steps(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, tmp_path],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    for _ in range(3):
        written = int(process.stdout.readline())
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    step = checkpoint.choose_step(tmp_path)
    assert step >= written
    found = checkpoint.restore(tmp_path, step, make_state(width=100_000))
    chex.assert_trees_all_equal(found.state, make_state(float(step), width=100_000))
