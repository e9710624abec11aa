"""Mesh files read back by trimesh: places, colours, frames."""

import numpy as np
import pytest
import trimesh

from homae_jax.errors import UserError
from homae_jax.viz.mesh_export import write_meshes
from homae_jax.viz.overlay import Mesh

BOX = trimesh.creation.box((0.1, 0.2, 0.3))
HAND = Mesh(BOX.vertices + np.array([[0, 0.1, 0.5]]), BOX.faces, (200, 100, 50))
OBJECT = Mesh(BOX.vertices - np.array([[0, 0.1, -0.6]]), BOX.faces, (10, 20, 30))
MESHES = {"hand": HAND, "object": OBJECT}


def test_write_meshes_glb_stands_upright_and_keeps_names_and_colours(tmp_path):
    path = tmp_path / "meshes.glb"
    write_meshes(path, MESHES)
    scene = trimesh.load(path)
    assert set(scene.geometry) == {"hand", "object"}
    flip = np.array([[1.0, -1.0, -1.0]])
    for name, mesh in MESHES.items():
        read = scene.geometry[name]
        np.testing.assert_allclose(read.vertices, mesh.vertices * flip, atol=1e-6)
        np.testing.assert_array_equal(read.visual.vertex_colors[0, :3], mesh.colour)


def test_write_meshes_obj_keeps_the_camera_frame_and_numbers_rows_on(tmp_path):
    path = tmp_path / "meshes.obj"
    write_meshes(path, MESHES)
    rows = [line.split() for line in path.read_text().splitlines()]
    vertices = np.array([r[1:4] for r in rows if r[0] == "v"], float)
    faces = np.array([r[1:] for r in rows if r[0] == "f"], int)
    expected = np.concatenate([HAND.vertices, OBJECT.vertices])
    np.testing.assert_allclose(vertices, expected, atol=1e-6)
    np.testing.assert_array_equal(faces[-12:] - 9, OBJECT.faces)


def test_write_meshes_raises_on_another_format(tmp_path):
    with pytest.raises(UserError, match="stl"):
        write_meshes(tmp_path / "meshes.stl", MESHES)
