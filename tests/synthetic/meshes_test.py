import numpy as np
import pytest

from homae_jax.errors import UserError
from homae_jax.synthetic import meshes
from tests.synthetic import toy_world


@pytest.fixture
def box(tmp_path):
    toy_world.write_box(tmp_path / "box", (0.1, 0.2, 0.3), centre=(0.01, 0.02, 0.03))
    return tmp_path / "box"


def test_load_model_reads_polygons_and_their_texture(box):
    model = meshes.load_model(box)
    assert model.name == "box"
    assert model.faces.shape == (12, 3)
    np.testing.assert_allclose(
        model.bounds, [[-0.04, -0.08, -0.12], [0.06, 0.12, 0.18]], atol=1e-6
    )
    assert model.material.texture.shape == (32, 32, 3)
    np.testing.assert_array_equal(model.material.texture[31, 0], [200, 30, 30])


def test_load_model_points_faces_outwards(box):
    model = meshes.load_model(box)
    corners = model.vertices[model.faces]
    outwards = corners.mean(axis=1) - model.bounds.mean(axis=0)
    normals = meshes.face_normals(model.vertices, model.faces)
    assert ((outwards * normals).sum(axis=1) > 0).all()


def test_load_model_counts_negative_indices_from_the_end(tmp_path):
    (tmp_path / "textured_simple.obj").write_text(
        "v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 0.5 0\nvt 0 0.25\n"
        "vn 0 0 1\nf -3/-3/-1 -2/-2/-1 -1/-1/-1\n"
    )
    model = meshes.load_model(tmp_path)
    np.testing.assert_array_equal(model.faces, [[0, 1, 2]])
    order = np.lexsort(model.mesh.positions.T[::-1])
    np.testing.assert_allclose(model.mesh.uvs[order], [[0, 0], [0, 0.25], [0.5, 0]])


def test_load_model_paints_plain_without_a_picture(box):
    (box / "texture_map.png").unlink()
    texture = meshes.load_model(box).material.texture
    assert (texture == texture[0, 0]).all()


def test_load_model_raises_on_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"textured_simple\.obj"):
        meshes.load_model(tmp_path)


def test_make_draw_mesh_splits_at_creases_only(box):
    model = meshes.load_model(box)
    assert len(model.mesh.positions) == 24  # a box's corner has three normals
    vertices, faces = toy_world.egg((0.05, 0.05, 0.05))
    uvs = np.zeros((len(faces), 3, 2))
    smooth = meshes.make_draw_mesh(vertices, faces, uvs)
    radial = smooth.positions / np.linalg.norm(smooth.positions, axis=1, keepdims=True)
    assert ((radial * smooth.normals).sum(axis=1) > 0.97).all()


def test_sample_surface_spreads_points_by_area(box):
    model = meshes.load_model(box)
    points = meshes.sample_surface(model.vertices, model.faces, 4000)
    low, high = model.bounds
    assert (points >= low - 1e-6).all() and (points <= high + 1e-6).all()
    on_end = np.abs(points[:, 2] - high[2]) < 1e-6
    assert abs(on_end.mean() - 0.02 / 0.22) < 0.01  # that side's share of the area
