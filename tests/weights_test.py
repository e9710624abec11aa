"""Exports: what goes in comes out, and what was touched is refused."""

import json

import numpy as np
import orbax.checkpoint as ocp
import pytest

from homae_jax import weights
from homae_jax.errors import UserError

PARAMS = {
    "vit": {"kernel": np.arange(12, dtype=np.float32).reshape(3, 4).T},
    "head": {"layer_0": {"bias": np.array([1.5, -2.0], np.float32)}},
    "fusion": {"beta": np.array(0.1, np.float32)},  # a scalar stays one
}
CONFIG = '{"model": {"dtype": "float32"}}'


def write(folder, **changes):
    options = {"config_json": CONFIG, "step": 7, **changes}
    return weights.write_export(folder, PARAMS, **options)


def assert_equal_trees(a, b):
    assert a.keys() == b.keys()
    for key in a:
        if isinstance(a[key], dict):
            assert_equal_trees(a[key], b[key])
        else:
            assert np.shape(a[key]) == np.shape(b[key])
            np.testing.assert_array_equal(a[key], b[key])


def test_load_export_round_trips(tmp_path):
    loaded = weights.load_export(write(tmp_path / "out"))
    assert_equal_trees(loaded.params, PARAMS)
    assert loaded.config_json == CONFIG and loaded.step == 7
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_write_export_lets_others_read_as_the_umask_says(tmp_path):
    files = [path for path in write(tmp_path / "out").iterdir() if path.is_file()]
    modes = {path.stat().st_mode & 0o777 for path in files}
    (tmp_path / "plain").touch()
    assert modes == {(tmp_path / "plain").stat().st_mode & 0o777}


def test_write_export_checkpoint_is_read_by_orbax(tmp_path):
    folder = write(tmp_path / "out")
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(folder / "checkpoint", PARAMS)
    assert_equal_trees(restored, PARAMS)


def test_load_export_raises_on_the_parameters_of_another_model(tmp_path):
    folder = write(tmp_path / "out")
    weights.load_export(folder, PARAMS)
    other = PARAMS | {"vit": {"kernel": np.zeros((2, 2))}}
    message = r"1 parameters differ: vit/kernel \(wanted \(2, 2\), found \(4, 3\)\)"
    with pytest.raises(UserError, match=message):
        weights.load_export(folder, other)


@pytest.mark.parametrize("name", ["parameters.safetensors", "config.json"])
def test_load_export_raises_on_a_flipped_bit(tmp_path, name):
    folder = write(tmp_path / "out")
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(UserError, match=name):
        weights.load_export(folder)


def test_load_export_raises_on_what_is_missing(tmp_path):
    with pytest.raises(UserError, match="not a folder made by export"):
        weights.load_export(tmp_path)
    folder = write(tmp_path / "out")
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json: missing"):
        weights.load_export(folder)


def test_load_export_raises_on_a_strange_manifest(tmp_path):
    folder = write(tmp_path / "out")
    manifest = json.loads((folder / "manifest.json").read_text())
    for text in ("{", "{}", json.dumps(manifest | {"version": 99})):
        (folder / "manifest.json").write_text(text)
        with pytest.raises(UserError, match=r"manifest\.json"):
            weights.load_export(folder)


def test_write_export_leaves_orbax_out_when_told(tmp_path):
    folder = write(tmp_path / "export", with_orbax=False)
    assert not (folder / weights.CHECKPOINT).exists()
    found = weights.load_export(folder)
    assert_equal_trees(found.params, PARAMS)


def test_write_export_replaces_only_exports_and_only_when_told(tmp_path):
    folder = write(tmp_path / "out")
    with pytest.raises(UserError, match="--overwrite"):
        write(folder)
    write(folder, step=8, overwrite=True)
    assert weights.load_export(folder).step == 8
    other = tmp_path / "photos"
    other.mkdir()
    (other / "a.txt").write_text("keep me")
    with pytest.raises(UserError, match="no export"):
        write(other, overwrite=True)
    assert (other / "a.txt").read_text() == "keep me"
