"""Against scipy and numerical Jacobians, at the angles where formulas break too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from homae_jax.geometry import rotations
from tests.proof import assert_close

ANGLES = [0.0, 1e-8, 1e-4, 0.00999, 0.0101, 1.0, 3.0, np.pi - 1e-3, np.pi - 1e-6, np.pi]
AXES = [[1, 0, 0], [0, -1, 0], [0, 0, 1], [1, 2, -2], [-1, 1e-4, 0], [1, 1, 1]]


def sample_aa():
    axes = np.array(AXES, np.float64)
    axes /= np.linalg.norm(axes, axis=-1, keepdims=True)
    return (np.array(ANGLES)[:, None, None] * axes).reshape(-1, 3)


def sample_rotmat():
    """Rotations of every hard angle, and random ones."""
    hard = Rotation.from_rotvec(sample_aa()).as_matrix()
    easy = Rotation.random(50, np.random.default_rng(0)).as_matrix()
    return np.concatenate([hard, easy])


def f32(x):
    return jnp.asarray(x, jnp.float32)


def angle_of(a, b):
    a, b = Rotation.from_matrix(np.asarray(a)), Rotation.from_matrix(np.asarray(b))
    return (a.inv() * b).magnitude()


def numerical_jacobian(function, x, step):
    columns = [
        (function(x + step * e) - function(x - step * e)) / (2 * step)
        for e in np.eye(x.size)
    ]
    return np.stack(columns, axis=-1)


def test_aa_to_rotmat_matches_scipy():
    aa = sample_aa()
    expected = Rotation.from_rotvec(aa).as_matrix()
    actual = rotations.aa_to_rotmat(f32(aa))
    assert_close("axis-angle to matrix, to pi", actual, expected, atol=5e-7)


def test_aa_to_rotmat_matches_scipy_beyond_pi():
    aa = np.random.default_rng(0).normal(size=(100, 3)) * 4
    expected = Rotation.from_rotvec(aa).as_matrix()
    actual = rotations.aa_to_rotmat(f32(aa))
    assert_close("axis-angle to matrix, beyond pi", actual, expected, atol=3e-6)


def test_rotmat_to_aa_round_trips_at_every_angle():
    rotmat = sample_rotmat()
    aa = rotations.rotmat_to_aa(f32(rotmat))
    back = Rotation.from_rotvec(np.asarray(aa, np.float64)).as_matrix()
    assert angle_of(rotmat, back).max() < 2e-6
    assert np.linalg.norm(aa, axis=-1).max() <= np.pi + 1e-6


def test_rotmat_to_aa_matches_scipy_below_pi():
    aa = sample_aa()
    aa = aa[np.linalg.norm(aa, axis=-1) < np.pi - 1e-4]
    rotmat = Rotation.from_rotvec(aa).as_matrix()
    actual = rotations.rotmat_to_aa(f32(rotmat))
    assert_close("matrix to axis-angle", actual, aa, atol=2e-6)


def test_rotmat_to_quat_matches_scipy_up_to_sign():
    rotmat = sample_rotmat()
    expected = Rotation.from_matrix(rotmat).as_quat()
    quat = np.asarray(rotations.rotmat_to_quat(f32(rotmat)))
    likeness = np.abs((quat * expected).sum(-1))
    assert_close("matrix to quaternion, up to sign", likeness, 1, atol=1e-6)
    assert (quat[:, 3] >= 0).all()


def test_quat_to_rotmat_matches_scipy_for_any_length():
    quat = np.random.default_rng(1).normal(size=(20, 4)) * 3
    expected = Rotation.from_quat(quat).as_matrix()
    actual = rotations.quat_to_rotmat(f32(quat))
    assert_close("quaternion to matrix", actual, expected, atol=1e-6)


def test_rot6d_is_the_first_two_columns_and_round_trips():
    rotmat = f32(sample_rotmat())
    rot6d = rotations.rotmat_to_rot6d(rotmat)
    np.testing.assert_array_equal(rot6d[:, 3:], rotmat[:, :, 1])
    back = rotations.rot6d_to_rotmat(rot6d)
    assert_close("matrix to 6D and back", back, rotmat, atol=1e-6)


def test_rot6d_to_rotmat_ignores_scale_and_mixing_of_the_second_column():
    rotmat = f32(sample_rotmat())
    a, b = rotmat[..., 0], rotmat[..., 1]
    rot6d = jnp.concatenate([2.5 * a, 0.3 * b - 1.7 * a], axis=-1)
    np.testing.assert_allclose(rotations.rot6d_to_rotmat(rot6d), rotmat, atol=3e-6)


@pytest.mark.parametrize("angle", [*ANGLES, -1e-30])
def test_aa_to_rotmat_jacobians_agree_with_scipy(angle):
    aa = angle * np.array([1.0, 2.0, -2.0]) / 3
    forward = jax.jacfwd(rotations.aa_to_rotmat)(f32(aa))
    reverse = jax.jacrev(rotations.aa_to_rotmat)(f32(aa))
    expected = numerical_jacobian(
        lambda x: Rotation.from_rotvec(x).as_matrix(), aa, 1e-6
    )
    label = f"Jacobian of the exponential at {angle:.6g}"
    assert_close(f"{label}, forward", forward, expected, atol=2e-6)
    assert_close(f"{label}, reverse", reverse, expected, atol=2e-6)


@pytest.mark.parametrize("angle", [*ANGLES[:-1], np.pi])
def test_rotmat_to_aa_jacobians_are_finite_and_invert_the_exponential(angle):
    aa = f32(angle * np.array([1.0, 2.0, -2.0]) / 3)

    def round_trip(delta):
        return rotations.rotmat_to_aa(rotations.aa_to_rotmat(aa + delta))

    forward, reverse = jax.jacfwd(round_trip), jax.jacrev(round_trip)
    at_zero = np.asarray(forward(jnp.zeros(3)))
    assert np.isfinite(at_zero).all()
    np.testing.assert_allclose(at_zero, reverse(jnp.zeros(3)), atol=1e-5)
    if angle < 3.1:  # at pi the axis may flip: then the Jacobian is not the identity
        np.testing.assert_allclose(at_zero, np.eye(3), atol=1e-5)


def test_rotmat_to_aa_has_a_nonzero_gradient_at_the_identity():
    gradient = jax.jacrev(rotations.rotmat_to_aa)(jnp.eye(3))
    assert np.abs(gradient).max() > 0.4


def test_rot6d_to_rotmat_gradients_are_finite_for_degenerate_input():
    for rot6d in ([0.0] * 6, [1.0, 0, 0, 2.0, 0, 0], [0.0, 0, 0, 0, 1.0, 0]):
        value = rotations.rot6d_to_rotmat(f32(rot6d))
        gradient = jax.jacrev(rotations.rot6d_to_rotmat)(f32(rot6d))
        assert np.isfinite(value).all() and np.isfinite(gradient).all()


def test_project_to_so3_is_the_nearest_rotation():
    matrix = np.random.default_rng(2).normal(size=(30, 3, 3))
    nearest = np.asarray(rotations.project_to_so3(f32(matrix)))
    np.testing.assert_allclose(np.linalg.det(nearest), 1, atol=1e-5)
    distance = np.linalg.norm(nearest - matrix, axis=(1, 2))
    others = Rotation.random(200, np.random.default_rng(3)).as_matrix()
    to_others = np.linalg.norm(others[None] - matrix[:, None], axis=(2, 3))
    assert (distance[:, None] <= to_others + 1e-5).all()
    u, _, vt = np.linalg.svd(matrix)
    sign = np.linalg.det(u @ vt)
    expected = u @ (np.stack([sign**0, sign**0, sign], -1)[..., None] * vt)
    np.testing.assert_allclose(nearest, expected, atol=2e-5)


def test_project_to_so3_jacobians_agree_with_numerical_ones():
    def reference(matrix):
        u, _, vt = np.linalg.svd(matrix)
        return u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt

    for seed in range(5):
        matrix = np.random.default_rng(seed).normal(size=(3, 3))
        expected = numerical_jacobian(
            lambda x: reference(x.reshape(3, 3)), matrix.reshape(-1), 1e-6
        ).reshape(3, 3, 3, 3)
        for jacobian in (jax.jacfwd, jax.jacrev):
            actual = jacobian(rotations.project_to_so3)(f32(matrix))
            np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(
    "matrix",
    [
        np.zeros((3, 3)),
        np.eye(3),
        -np.eye(3),
        np.ones((3, 3)),
        np.diag([1.0, 1, -1]),
        np.diag([1.0, 0, 0]),
        1e-12 * np.eye(3),
    ],
)
def test_project_to_so3_is_a_rotation_with_finite_gradient_when_degenerate(matrix):
    value = np.asarray(rotations.project_to_so3(f32(matrix)))
    np.testing.assert_allclose(value @ value.T, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(np.linalg.det(value), 1, atol=1e-6)
    gradient = jax.jacrev(rotations.project_to_so3)(f32(matrix))
    assert np.isfinite(gradient).all()


def test_mean_rotmat_matches_scipy():
    rotation = Rotation.from_rotvec(np.random.default_rng(4).normal(size=(20, 3)))
    weights = np.random.default_rng(5).uniform(size=20)
    mean = rotations.mean_rotmat(f32(rotation.as_matrix()))
    np.testing.assert_allclose(mean, rotation.mean().as_matrix(), atol=1e-5)
    weighted = rotations.mean_rotmat(f32(rotation.as_matrix()), f32(weights))
    expected = rotation.mean(weights).as_matrix()
    np.testing.assert_allclose(weighted, expected, atol=1e-5)


def test_angle_between_matches_scipy_at_both_ends():
    rotmat = sample_rotmat()
    fixed = np.broadcast_to(Rotation.from_rotvec([0.4, -1, 2]).as_matrix(), (3, 3))
    turned = fixed @ rotmat
    angle = rotations.angle_between(
        jnp.broadcast_to(f32(fixed), rotmat.shape), f32(turned)
    )
    np.testing.assert_allclose(angle, angle_of(fixed, turned), atol=2e-6)


def test_angle_between_has_a_finite_gradient_for_equal_rotations():
    gradient = jax.grad(lambda x: rotations.angle_between(x, jnp.eye(3)))(jnp.eye(3))
    assert np.isfinite(gradient).all()


def test_random_rotmat_is_uniform():
    rotmat = np.asarray(rotations.random_rotmat(jax.random.key(0), (2000,)))
    np.testing.assert_allclose(np.linalg.det(rotmat), 1, atol=1e-5)
    # E[R] = 0 and E[tr(R)^2] = 1 under the Haar measure.
    assert np.abs(rotmat.mean(0)).max() < 0.06
    assert abs((np.trace(rotmat, axis1=1, axis2=2) ** 2).mean() - 1) < 0.1
