"""Checkpoints: exact round trips, damage that is found, models that do not fit."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from homae_jax.errors import UserError
from homae_jax.training import checkpoint
from homae_jax.training.state import create_state

CONFIG = {"model": {"width": 3}, "list": [1, 2]}


def make_state(scale=1.0, width=3):
    params = {"layer": {"kernel": scale * jnp.arange(2.0 * width).reshape(2, width)}}
    return create_state(params, optax.adam(1e-3), seed=7)


def save(workdir, steps=(10,), keep=3):
    saver = checkpoint.Checkpointer(workdir, keep=keep)
    for step in steps:
        saver.save(step, make_state(step), data={"next_index": step}, config=CONFIG)


def test_restore_round_trips_state_data_and_config(tmp_path):
    save(tmp_path)
    found = checkpoint.restore(tmp_path, 10, make_state())
    np.testing.assert_array_equal(
        found.state.params["layer"]["kernel"], make_state(10).params["layer"]["kernel"]
    )
    np.testing.assert_array_equal(found.state.rng, make_state().rng)
    assert found.data == {"next_index": 10}
    assert found.config == CONFIG


def test_restore_params_reads_parameters_alone(tmp_path):
    save(tmp_path)
    found = checkpoint.restore_params(tmp_path, 10, make_state().params)
    np.testing.assert_array_equal(
        found["layer"]["kernel"], make_state(10).params["layer"]["kernel"]
    )


def test_checkpointer_keeps_the_newest(tmp_path):
    save(tmp_path, steps=(1, 2, 3, 4), keep=2)
    assert checkpoint.finished_steps(tmp_path) == [3, 4]


def test_finished_steps_passes_over_a_save_that_was_cut_off(tmp_path):
    save(tmp_path, steps=(1, 2))
    (tmp_path / "checkpoints" / "hashes" / "2.json").unlink()
    assert checkpoint.choose_step(tmp_path) == 1


def payload(workdir, step):
    files = (workdir / "checkpoints" / str(step) / "state").rglob("*")
    return max((f for f in files if f.is_file()), key=lambda f: f.stat().st_size)


@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
def test_choose_step_finds_damage_and_names_file_and_remedy(tmp_path, harm):
    save(tmp_path, steps=(1, 2))
    file = payload(tmp_path, 2)
    content = bytearray(file.read_bytes())
    if harm == "flip":
        content[len(content) // 2] ^= 1
        file.write_bytes(bytes(content))
    elif harm == "truncate":
        file.write_bytes(bytes(content[:-1]))
    else:
        file.unlink()
    with pytest.raises(UserError, match=r"step 2 is damaged.*--restore_step") as error:
        checkpoint.choose_step(tmp_path)
    assert str(file.name) in str(error.value)
    assert checkpoint.choose_step(tmp_path, latest_valid=True) == 1


def test_restore_lists_parameters_of_another_model(tmp_path):
    save(tmp_path)
    with pytest.raises(UserError, match=r"kernel \(wanted \(2, 4\), found \(2, 3\)\)"):
        checkpoint.restore(tmp_path, 10, make_state(width=4))


def test_choose_step_without_a_checkpoint_says_so(tmp_path):
    with pytest.raises(UserError, match="no finished checkpoint"):
        checkpoint.choose_step(tmp_path)
