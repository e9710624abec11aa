"""HOISDF's way to its scores, as the benchmarks time it, gives our metrics."""

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy")

from homae_jax import metrics
from homae_jax.benchmarks import _peer_hoisdf_scores as peer
from homae_jax.geometry.rotations import aa_to_rotmat
from tests.proof import assert_close

pytestmark = pytest.mark.parity

NUM, RNG = 4, np.random.default_rng(0)


def draw(*shape, scale):
    return (scale * RNG.normal(size=(NUM, *shape))).astype(np.float32)


def test_scores_of_hands_are_those_of_hoisdfs_protocol():
    joints, vertices = draw(21, 3, scale=0.05), draw(778, 3, scale=0.05)
    pred_joints = joints + draw(21, 3, scale=0.01)
    pred_vertices = vertices + draw(778, 3, scale=0.004)
    arrays = pred_joints, joints, pred_vertices, vertices
    ours = metrics.hand_metrics(*map(jnp.asarray, arrays), protocol="hoisdf")
    # Its network and its labels have the wrist at 0; its protocol puts it there.
    wrists = pred_joints[:, :1], joints[:, :1]
    rooted = [each - wrists[row % 2] for row, each in enumerate(arrays)]
    found = peer.score_hands(*(each.astype(np.float64) for each in rooted))
    assert set(found) <= set(ours)
    for key, values in found.items():
        assert_close(key, np.asarray(ours[key]), values, atol=2e-5)
    assert 0.05 < found["f_5"].mean() < found["f_15"].mean()


def test_a_mirrored_hand_is_not_aligned_by_reflection():
    points = draw(21, 3, scale=0.05)[0]
    mirrored = points * np.array([-1.0, 1.0, 1.0])
    assert np.abs(peer.align(mirrored, points) - points).max() > 0.01
    turn = np.asarray(aa_to_rotmat(jnp.array([0.3, -1.0, 0.5])))
    moved = 1.7 * points @ turn.T + 0.2
    assert_close("aligned", peer.align(moved, points), points, atol=1e-6)


def test_scores_of_objects_are_those_of_hoisdfs_protocol():
    model, trans = draw(1000, 3, scale=0.05), draw(3, scale=0.1)
    rotmat = np.asarray(aa_to_rotmat(jnp.asarray(draw(3, scale=1.0))))
    turn = np.asarray(aa_to_rotmat(jnp.asarray(draw(3, scale=0.1))))
    poses = turn @ rotmat, trans + draw(3, scale=0.01), rotmat, trans
    arrays = [jnp.asarray(each) for each in (*poses, model)]
    corners = jnp.zeros((NUM, 8, 3))  # the protocol takes those of the posed points
    ours = metrics.object_metrics(*arrays, corners, protocol="hoisdf")
    found = peer.score_objects(*(torch.tensor(each) for each in (*poses, model)))
    for key, values in found.items():
        assert_close(key, np.asarray(ours[key]), values.numpy(), atol=1e-5)
