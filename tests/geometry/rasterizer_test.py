import numpy as np

from homae_jax.geometry.rasterizer import rasterize

INTRINSICS = np.array([[50.0, 0.0, 10.0], [0.0, 60.0, 8.0], [0.0, 0.0, 1.0]])


def plane(depth, half):
    corners = [[-half, -half], [half, -half], [half, half], [-half, half]]
    vertices = np.array([[x, y, depth] for x, y in corners])
    return vertices, np.array([[0, 1, 2], [0, 2, 3]])


def test_rasterize_samples_at_integer_pixel_centres():
    # A square from 0 to 4 px: centres 0..4 lie on it, 5 does not; 4.4 px ends alike.
    for end in (4.0, 4.4):
        scale = np.array([50.0, 60.0])
        low = (np.array([-0.3, -0.3]) - [10.0, 8.0]) / scale
        high = (np.array([end, end]) - [10.0, 8.0]) / scale
        corners = [low, [high[0], low[1]], high, [low[0], high[1]]]
        vertices = np.array([[*corner, 1.0] for corner in corners])
        faces = np.array([[0, 1, 2], [0, 2, 3]])
        face_id, _, _ = rasterize(vertices, faces, INTRINSICS, 20, 24)
        rows, columns = np.nonzero(face_id >= 0)
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (0, 4, 0, 4)
        assert len(rows) == 25


def test_rasterize_keeps_the_nearer_face():
    far, faces = plane(0.9, 0.5)
    near, _ = plane(0.6, 0.05)
    vertices = np.concatenate([far, near])
    face_id, _, depth = rasterize(
        vertices, np.concatenate([faces, faces + 4]), INTRINSICS, 16, 20
    )
    assert set(np.unique(face_id[8, 10:11])) <= {2, 3}
    np.testing.assert_allclose(depth[8, 10], 0.6, rtol=1e-6)
    np.testing.assert_allclose(depth[0, 0], 0.9, rtol=1e-6)


def test_rasterize_interpolates_perspective_correctly():
    rng = np.random.default_rng(0)
    vertices = np.array([[-0.4, -0.3, 0.5], [0.5, -0.2, 1.4], [0.0, 0.6, 0.8]])
    vertices += rng.normal(size=(3, 3)) * 0.02
    faces = np.array([[0, 1, 2]])
    face_id, barycentric, depth = rasterize(vertices, faces, INTRINSICS, 30, 40)
    rows, columns = np.nonzero(face_id == 0)
    assert len(rows) > 50
    points = barycentric[rows, columns].astype(float) @ vertices
    projected = points @ INTRINSICS.T
    projected = projected[:, :2] / projected[:, 2:]
    np.testing.assert_allclose(projected, np.stack([columns, rows], 1), atol=1e-3)
    np.testing.assert_allclose(points[:, 2], depth[rows, columns], atol=1e-5)


def test_rasterize_leaves_empty_pixels_empty():
    vertices, faces = plane(0.5, 0.02)
    face_id, barycentric, depth = rasterize(vertices, faces, INTRINSICS, 16, 20)
    is_empty = face_id < 0
    assert is_empty.any() and not is_empty.all()
    assert not barycentric[is_empty].any() and not depth[is_empty].any()


def test_rasterize_drops_faces_behind_the_camera():
    vertices, faces = plane(-0.5, 0.2)
    face_id, _, _ = rasterize(vertices, faces, INTRINSICS, 16, 20)
    assert (face_id == -1).all()
    vertices[0, 2] = 0.5  # one corner in front does not draw a wild triangle
    face_id, _, _ = rasterize(vertices, faces, INTRINSICS, 16, 20)
    assert (face_id == -1).all()


def test_rasterize_covers_a_closed_mesh_without_cracks():
    # A grid of shared edges drawn over the picture: no pixel may fall between faces.
    xs, ys = np.meshgrid(np.linspace(-0.5, 0.5, 9), np.linspace(-0.5, 0.5, 9))
    vertices = np.stack([xs.ravel(), ys.ravel(), np.full(81, 0.7)], axis=1)
    corner = (np.arange(8)[:, None] * 9 + np.arange(8)).ravel()
    faces = np.concatenate(
        [
            np.stack([corner, corner + 1, corner + 10], axis=1),
            np.stack([corner, corner + 10, corner + 9], axis=1),
        ]
    )
    face_id, _, _ = rasterize(vertices, faces, INTRINSICS, 16, 20)
    assert (face_id >= 0).all()
