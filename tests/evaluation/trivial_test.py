"""The trivial predictor is a mean, over what is real and labelled alone."""

import jax
import numpy as np
import pytest

from homae_jax.errors import UserError
from homae_jax.evaluation.trivial import fit_trivial, nearest_rotmat
from homae_jax.geometry import rotations
from tests import toy


def labelled(num, **changes):
    batch = jax.tree.map(np.asarray, toy.toy_batch(num))._replace(**changes)
    vertices = np.random.default_rng(0).normal(size=(num, 778, 3)).astype(np.float32)
    return batch, vertices


def test_fit_trivial_is_the_mean_of_labelled_frames():
    batch, vertices = labelled(3)
    pose = fit_trivial([(batch, vertices)])
    rooted = batch.joints - batch.wrist[:, None]
    np.testing.assert_allclose(pose.joints_root, rooted.mean(0), atol=1e-6)
    np.testing.assert_allclose(pose.vertices_root, vertices.mean(0), atol=1e-6)
    offset = (batch.object_trans - batch.object_center).mean(0)
    np.testing.assert_allclose(pose.object_offset, offset, atol=1e-6)
    assert pose.num_frames == 3


def test_fit_trivial_ignores_padding_and_missing_labels():
    batch, vertices = labelled(3)
    joints = batch.joints.copy()
    joints[2] = np.nan
    batch = batch._replace(
        joints=joints,
        is_real=np.array([True, True, False]),
        has_hand=np.array([True, False, True]),
    )
    pose = fit_trivial([(batch, vertices)])
    np.testing.assert_allclose(
        pose.joints_root, batch.joints[0] - batch.wrist[0], atol=1e-6
    )
    assert pose.num_frames == 2


def test_fit_trivial_says_none_where_nothing_is_labelled():
    batch, vertices = labelled(2, has_hand=np.zeros(2, bool))
    pose = fit_trivial([(batch, vertices)])
    assert pose.joints_root is None and pose.object_rotmat is not None
    empty = batch._replace(is_real=np.zeros(2, bool))
    with pytest.raises(UserError):
        fit_trivial([(empty, vertices)])


def test_nearest_rotmat_recovers_a_scattered_rotation():
    center = np.asarray(rotations.random_rotmat(jax.random.key(1), ()))
    noise = 0.2 * jax.random.normal(jax.random.key(2), (400, 3))
    scattered = np.asarray(rotations.aa_to_rotmat(noise)) @ center
    np.testing.assert_allclose(nearest_rotmat(scattered.mean(0)), center, atol=0.03)
    assert np.linalg.det(nearest_rotmat(np.diag([1.0, 1.0, -0.1]))) > 0.99
