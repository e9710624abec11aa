"""The command from a run's checkpoint to a verified export and back."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import synthetic
from homae_jax import assembly, bundle, weights
from homae_jax.errors import UserError
from homae_jax.training.checkpoint import Checkpointer
from tests import toy


class State(NamedTuple):
    """As much of a training state as an export looks at."""

    params: Any
    step: Any


PARAMS = {"vit": {"kernel": np.arange(6.0, dtype=np.float32).reshape(2, 3)}}


@pytest.fixture
def config(tmp_path) -> dict[str, Any]:
    """Of a training whose data set is gone, also where this clone has one."""
    config = synthetic.get_config()
    config.data.root = str(tmp_path / "gone")
    return config.to_dict()


@pytest.fixture
def workdir(tmp_path, config):
    saver = Checkpointer(tmp_path / "run", keep=5)
    for step in (10, 20):
        params = jax.tree.map(lambda x, s=step: jnp.asarray(x + s), PARAMS)
        state = State(params, jnp.int32(step))
        saver.save(step, state, data={}, config=config)
    saver.wait()
    return tmp_path / "run"


def export(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "homae_jax.export", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_export_writes_the_newest_checkpoint_and_its_configuration(
    workdir, config, tmp_path
):
    out = tmp_path / "out"
    done = export(f"--workdir={workdir}", f"--out={out}")
    assert done.returncode == 0, done.stderr
    loaded = weights.load_export(out)
    np.testing.assert_array_equal(
        loaded.params["vit"]["kernel"], PARAMS["vit"]["kernel"] + 20
    )
    run = assembly.open_run(out)
    assert run.step == loaded.step == 20
    assert run.config.to_dict() == config
    again = export(f"--workdir={workdir}", f"--out={out}")
    assert again.returncode == 2
    assert again.stderr.startswith("error:") and "--overwrite" in again.stderr


def test_open_run_takes_the_step_asked_for(workdir):
    assert assembly.open_run(workdir).step == 20
    run = assembly.open_run(workdir, 10)
    np.testing.assert_array_equal(
        assembly.stored_params(run)["vit"]["kernel"], PARAMS["vit"]["kernel"] + 10
    )
    wanted = jax.eval_shape(lambda: PARAMS)
    loaded = assembly.load_params(workdir, wanted, 10)
    np.testing.assert_array_equal(loaded["vit"]["kernel"], PARAMS["vit"]["kernel"] + 10)


def test_open_run_knows_the_objects_trained_with(workdir, tmp_path):
    assert assembly.open_run(workdir).object_names == ()  # of a run before that
    saver = Checkpointer(workdir, keep=5)
    given = {"data": {}, "config": synthetic.get_config().to_dict()}
    state = State(PARAMS, jnp.int32(30))
    saver.save(30, state, **given, object_names=("mug", "box"))
    saver.save(40, state, **given, object_names=("mug",) * 22)
    saver.wait()
    assert assembly.open_run(workdir, 30).object_names == ("mug", "box")
    with pytest.raises(UserError, match="names 22 objects, and the network tells 21"):
        assembly.open_run(workdir, 40)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (("box",), "without mug;"),
        (("box", "can", "mug"), "with can;"),
        (("can", "mug"), "without box and with can;"),
        (("mug", "box"), "in another order;"),
    ],
)
def test_other_objects_than_those_trained_with_are_named(tmp_path, found, message):
    config = synthetic.get_config()
    config.data.models = str(tmp_path)
    assembly.check_objects(config, found, ("box", "mug"))  # nobody names them
    config.model.auxiliary = True
    assembly.check_objects(config, ("box", "mug"), ("box", "mug"))
    assembly.check_objects(config, found, ())  # of a run before it was noted
    with pytest.raises(UserError, match=f"{tmp_path}: not the .* {message} give"):
        assembly.check_objects(config, found, ("box", "mug"))


def test_models_that_are_not_here_are_looked_for_from_this_folder(
    tmp_path, monkeypatch
):
    """A run's relative data.root is another folder elsewhere."""
    monkeypatch.chdir(tmp_path)
    config = synthetic.get_config()
    with pytest.raises(UserError, match=f"cache/.*: no such folder in {tmp_path};"):
        assembly.build_templates(config)
    config.data.models = str(tmp_path / "models")
    with pytest.raises(UserError, match=f"{tmp_path}/models: no such folder; set"):
        assembly.build_templates(config)
    (tmp_path / "models").mkdir()
    with pytest.raises(UserError, match=f"{tmp_path}/models: holds no YCB model"):
        assembly.build_templates(config)


def test_open_run_raises_on_what_is_no_run(workdir, tmp_path):
    for folder, step in ((tmp_path / "nowhere", None), (workdir, 15)):
        with pytest.raises(UserError, match=str(folder)):
            assembly.open_run(folder, step)


def test_open_run_raises_on_a_configuration_that_is_none():
    long_key = json.dumps({"model": {"a." * 3000: 1}})
    for text in ("{", "[]", '{"a": 1}', long_key):
        with pytest.raises(UserError, match="exports/x") as caught:
            assembly.config_from_json(text, "exports/x")
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("dataset", "path", "may"),
    [
        ("synthetic", "", True),
        ("synthetic", "/data/mano/MANO_RIGHT.pkl", False),
        ("ho3d", "", False),
        ("dexycb", "/data/mano/MANO_RIGHT.pkl", False),
    ],
)
def test_only_the_synthetic_worlds_own_hand_is_handed_on(dataset, path, may):
    assert bundle.may_hand_on(dataset, path) == may


def test_config_json_round_trips_with_its_tuples():
    config = synthetic.get_config()
    text = assembly.config_to_json(config)
    assert assembly.config_from_json(text, "x").to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("encoder.width_out", 999, "is of another model, .* parameters differ"),
        ("dtype", "float31", "model.dtype"),
    ],
)
def test_a_configuration_that_does_not_fit_is_not_exported(
    monkeypatch, key, value, message
):
    """It was said to leave out programs, and nobody could open what was written."""
    from homae_jax import export as command

    parts = SimpleNamespace(
        mano=toy.toy_mano(), templates=toy.toy_templates(), object_names=("mug", "box")
    )
    monkeypatch.setattr(assembly, "build_parts", lambda config: parts)
    monkeypatch.setattr(assembly, "param_shapes", lambda *_: PARAMS)
    config = synthetic.get_config()
    config.model.update_from_flattened_dict({key: value})
    run = assembly.StoredRun(Path("run"), 1, config)
    command.FLAGS(["export", "--program=false"])
    other = jax.tree.map(lambda leaf: np.zeros((*leaf.shape, 2)), PARAMS)
    with pytest.raises(UserError, match=message):
        command._extras(run, other)


@pytest.mark.parametrize("mano", ["", "/data/mano/MANO_RIGHT.pkl"])
def test_a_hand_that_was_given_is_not_handed_on(monkeypatch, mano):
    """MANO has a licence of its own; the hand of the synthetic world has not."""
    from homae_jax import export as command

    parts = SimpleNamespace(
        mano=toy.toy_mano(), templates=toy.toy_templates(), object_names=("mug", "box")
    )
    monkeypatch.setattr(assembly, "build_parts", lambda config: parts)
    monkeypatch.setattr(assembly, "param_shapes", lambda *_: PARAMS)
    config = synthetic.get_config()
    config.data.mano = mano
    run = assembly.StoredRun(Path("run"), 1, config)
    command.FLAGS(["export", "--program=false"])
    names = command._extras(run, PARAMS).keys()
    assert (bundle.HAND in names) == (mano == "") and bundle.OBJECTS in names
