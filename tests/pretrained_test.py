"""The checkpoint that ships with the package: whole, small, and it answers."""

import json
from pathlib import Path

import numpy as np

import homae_jax
from homae_jax import Predictor, config_flags, weights

SHIPPED = Path(homae_jax.__file__).parent / "pretrained"
MAX_BYTES = 20e6


def test_shipped_checkpoint_is_whole_small_and_of_the_committed_configuration():
    from configs import pretrained

    export = weights.load_export(SHIPPED)
    files = [path for path in SHIPPED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    stored = config_flags.completed(json.loads(export.config_json), "config.json")
    wanted = json.loads(json.dumps(pretrained.get_config().to_dict()))
    for group in ("model", "data", "synthetic"):
        assert json.loads(json.dumps(stored[group])) == wanted[group]
    assert export.step == pretrained.get_config().train.steps


def test_shipped_checkpoint_finds_hand_and_object_in_an_unlabelled_picture():
    picture = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    result = Predictor(SHIPPED)(picture)
    assert result.vertices_cam.shape == (778, 3)
    assert np.isfinite(result.vertices_cam).all()
    rotmat = result.cam_T_obj[:3, :3]
    np.testing.assert_allclose(rotmat @ rotmat.T, np.eye(3), atol=1e-4)
    assert (result.vertices_cam[:, 2] > 0).all()
