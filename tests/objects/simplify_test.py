import numpy as np
import pytest
import trimesh

from homae_jax.objects.simplify import is_closed, merge_vertices, simplify_exactly


def ball(subdivisions=4):
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions, radius=0.05)
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


def soup(mesh):
    """Every face with vertices of its own."""
    vertices, faces = mesh
    return vertices[faces].reshape(-1, 3), np.arange(faces.size).reshape(-1, 3)


def test_merge_vertices_closes_seams():
    vertices, faces = merge_vertices(*soup(ball(2)))
    assert vertices.shape == ball(2)[0].shape and is_closed(faces)
    assert trimesh.Trimesh(vertices, faces, process=False).volume > 0


def test_merge_vertices_drops_faces_of_no_area():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1e-9]], float)
    points, faces = merge_vertices(vertices, np.array([[0, 1, 2], [0, 3, 1]]))
    assert len(points) == 3 and faces.tolist() == [[0, 1, 2]]


def test_is_closed_sees_a_hole_and_ignores_padding():
    _, faces = ball(1)
    padded = np.concatenate([faces, np.zeros((5, 3), int)])
    assert is_closed(faces) and is_closed(padded)
    assert not is_closed(faces[1:]) and not is_closed(padded[1:])


def test_is_closed_sees_a_face_turned_over():
    _, faces = ball(1)
    assert not is_closed(np.concatenate([faces[:1, ::-1], faces[1:]]))


@pytest.mark.parametrize("subdivisions", [1, 4])
def test_simplify_exactly_keeps_a_ball_closed_and_round(subdivisions):
    vertices, faces = simplify_exactly(*ball(subdivisions), 300)
    assert vertices.shape == (300, 3) and faces.shape == (596, 3)
    assert is_closed(faces)
    slack = 0.0105 if subdivisions == 1 else 0.0008  # of the coarse ball itself
    radius = np.linalg.norm(vertices, axis=1)
    assert radius.max() < 0.0505 and radius.min() > 0.05 - slack


def test_simplify_exactly_reaches_the_number_on_loose_faces():
    vertices, faces = ball(3)
    shrunk = vertices[faces]
    shrunk = shrunk + 0.1 * (shrunk.mean(axis=1, keepdims=True) - shrunk)
    loose = shrunk.reshape(-1, 3), np.arange(faces.size).reshape(-1, 3)
    assert len(simplify_exactly(*loose, 200)[0]) == 200


def test_simplify_exactly_does_not_depend_on_where_the_mesh_lies_or_its_scale():
    vertices, faces = ball(3)
    small, small_faces = simplify_exactly(vertices, faces, 100)
    large, large_faces = simplify_exactly(100 * vertices + 7.0, faces, 100)
    np.testing.assert_array_equal(small_faces, large_faces)
    np.testing.assert_allclose((large - 7.0) / 100, small, atol=1e-6)


def test_simplify_exactly_spreads_vertices_over_flat_sides():
    box = trimesh.creation.box((0.1, 0.1, 0.2))
    vertices, faces = simplify_exactly(
        np.asarray(box.vertices), np.asarray(box.faces), 200
    )
    edges = vertices[faces] - vertices[np.roll(faces, 1, axis=1)]
    assert np.linalg.norm(edges, axis=-1).max() < 0.06
