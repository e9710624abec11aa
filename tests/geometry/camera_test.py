import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homae_jax.geometry import camera

# fx and fy far apart, so that a turn which takes them for equal shows.
INTRINSICS = np.array([[600.0, 0.0, 310.0], [0.0, 480.0, 250.0], [0.0, 0.0, 1.0]])


def points(num=50, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform([-0.2, -0.2, 0.3], [0.2, 0.2, 0.9], size=(num, 3))


def test_project_matches_worked_example():
    px = camera.project(np.array([[0.1, -0.2, 0.5]]), INTRINSICS)
    np.testing.assert_allclose(px, [[310 + 600 * 0.2, 250 - 480 * 0.4]])


def test_project_agrees_for_numpy_and_jax():
    batch = points(12).reshape(2, 6, 3).astype(np.float32)
    matrices = np.stack([INTRINSICS, INTRINSICS + np.eye(3) * [9, 5, 0]])
    matrices = matrices.astype(np.float32)
    on_device = camera.project(jnp.asarray(batch), jnp.asarray(matrices))
    np.testing.assert_allclose(camera.project(batch, matrices), on_device, atol=1e-3)


def test_project_is_finite_with_finite_gradients_behind_the_camera():
    behind = jnp.array([[0.1, 0.1, 0.0], [0.1, 0.1, -0.5], [0.0, 0.0, 1e-9]])
    matrix = jnp.asarray(INTRINSICS, jnp.float32)
    assert np.isfinite(camera.project(behind, matrix)).all()
    gradient = jax.grad(lambda x: camera.project(x, matrix).sum())(behind)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("as_array", [np.asarray, jnp.asarray])
def test_unproject_round_trips_with_intrinsics_of_a_turned_crop(as_array):
    affine = camera.crop_affine(np.array([300.0, 200.0]), 200.0, 128, 0.7)
    matrix = camera.crop_intrinsics(affine, INTRINSICS, 0.7)
    x = points().astype(np.float32)
    x, matrix = as_array(x), as_array(matrix.astype(np.float32))
    back = camera.unproject(camera.project(x, matrix), x[..., 2], matrix)
    np.testing.assert_allclose(back, x, atol=1e-5)


def test_points_gl_to_cv_round_trips_exactly():
    x = points()
    x_gl = camera.points_gl_to_cv(x)
    np.testing.assert_array_equal(x_gl, x * [1, -1, -1])
    np.testing.assert_array_equal(camera.points_gl_to_cv(x_gl), x)
    on_device = camera.points_gl_to_cv(jnp.asarray(x, jnp.float32))
    np.testing.assert_array_equal(on_device, x_gl.astype(np.float32))


def test_pose_gl_to_cv_moves_posed_points_as_points():
    rotmat, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    trans, x = np.array([0.1, 0.2, -0.6]), points()
    rotmat_cv, trans_cv = camera.pose_gl_to_cv(rotmat, trans)
    expected = camera.points_gl_to_cv(x @ rotmat.T + trans)
    np.testing.assert_allclose(x @ rotmat_cv.T + trans_cv, expected, atol=1e-12)
    back = camera.pose_gl_to_cv(rotmat_cv, trans_cv)
    np.testing.assert_array_equal(back[0], rotmat)
    np.testing.assert_array_equal(back[1], trans)


def test_crop_affine_matches_worked_example():
    """A square of 100 px round (50, 60) doubles; its outer edges are the crop's."""
    affine = camera.crop_affine(np.array([50.0, 60.0]), 100.0, 200, 0.0)
    corners = np.array([[0.0, 10.0, 1], [100.0, 110.0, 1], [50.0, 60.0, 1]])
    expected = [[-0.5, -0.5, 1], [199.5, 199.5, 1], [99.5, 99.5, 1]]
    np.testing.assert_allclose(corners @ affine.T, expected)


def test_crop_affine_turns_x_towards_y():
    affine = camera.crop_affine(np.array([50.0, 60.0]), 101.0, 101, np.pi / 2)
    right_of_center = affine @ [60.0, 60.0, 1.0]
    np.testing.assert_allclose(right_of_center, [50.0, 60.0, 1.0])


@pytest.mark.parametrize("angle", [0.0, 1e-8, 0.4, np.pi / 2, 3.0, np.pi, -2.2])
def test_crop_intrinsics_project_turned_points_where_the_crop_shows_them(angle):
    affine = camera.crop_affine(np.array([280.0, 190.0]), 230.0, 224, angle)
    matrix = camera.crop_intrinsics(affine, INTRINSICS, angle)
    x = points()
    px = camera.project(x, INTRINSICS)
    expected = px @ affine[:2, :2].T + affine[:2, 2]
    turned = x @ camera.roll_rotmat(angle).T
    np.testing.assert_allclose(camera.project(turned, matrix), expected, atol=1e-9)
    np.testing.assert_allclose(matrix[2], [0.0, 0.0, 1.0], atol=1e-15)


def test_crop_intrinsics_are_a_plain_pinhole_where_fx_equals_fy():
    square = np.array([[500.0, 0.0, 310.0], [0.0, 500.0, 250.0], [0.0, 0.0, 1.0]])
    affine = camera.crop_affine(np.array([280.0, 190.0]), 230.0, 224, 1.1)
    block = camera.crop_intrinsics(affine, square, 1.1)[:2, :2]
    np.testing.assert_allclose(block, np.eye(2) * 500 * 224 / 230, atol=1e-9)
