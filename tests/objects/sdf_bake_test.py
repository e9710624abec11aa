import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh

from homae_jax.geometry.mesh_sdf import signed_distance
from homae_jax.objects.sdf_bake import bake_sdf, nearby_faces


def arrays(mesh):
    return np.asarray(mesh.vertices), np.asarray(mesh.faces, np.int32)


def tube():
    """Walls thinner than the lattice's pitch."""
    return arrays(trimesh.creation.annulus(0.038, 0.040, 0.09, sections=24))


def lattice(grid):
    index = np.stack(np.meshgrid(*[np.arange(len(grid.values))] * 3, indexing="ij"), -1)
    return grid.origin + grid.pitch * index


def brute(grid, vertices, faces):
    """Every point of a lattice against every face."""
    points = jnp.asarray(lattice(grid).reshape(-1, 3), jnp.float32)
    mesh = jnp.asarray(vertices, jnp.float32), jnp.asarray(faces)
    return jax.jit(signed_distance)(points, *mesh).reshape(grid.values.shape)


def box_distance(points, half):
    q = np.abs(points) - half
    outside = np.linalg.norm(np.maximum(q, 0), axis=-1)
    return outside + np.minimum(q.max(axis=-1), 0)


def test_bake_sdf_matches_the_analytic_box():
    half, centre = np.array([0.03, 0.05, 0.10]), np.array([0.4, -0.2, 0.1])
    vertices, faces = arrays(trimesh.creation.box(2 * half))
    grid = bake_sdf(vertices + centre, faces, 32, 0.02)
    expected = box_distance(lattice(grid) - centre, half)
    np.testing.assert_allclose(grid.values, expected, atol=1e-6)


def test_bake_sdf_covers_the_box_and_its_margin():
    vertices, faces = arrays(trimesh.creation.box((0.06, 0.1, 0.2)))
    grid = bake_sdf(vertices, faces, 16, 0.02)
    np.testing.assert_allclose(grid.origin, [-0.12] * 3, atol=1e-6)
    assert grid.pitch == pytest.approx(0.24 / 15)


def test_bake_sdf_matches_brute_force_on_thin_walls():
    vertices, faces = tube()
    ours = bake_sdf(vertices, faces, 24, 0.02)
    np.testing.assert_allclose(ours.values, brute(ours, vertices, faces), atol=2e-7)
    assert (ours.values < 0).any()


def test_bake_sdf_matches_brute_force_on_an_open_mesh():
    vertices, faces = arrays(trimesh.creation.icosphere(subdivisions=2, radius=0.05))
    faces = faces[vertices[faces].mean(axis=1)[:, 2] < 0.03]
    ours = bake_sdf(vertices, faces, 20, 0.02)
    np.testing.assert_allclose(ours.values, brute(ours, vertices, faces), atol=2e-7)


def test_bake_sdf_tells_sides_of_an_open_mesh_to_micrometres():
    margin, off = 0.02, 2e-5
    half = (margin + off) * 15 / 4 - margin  # the third points lie `off` inside
    vertices, faces = arrays(trimesh.creation.box([2 * half] * 3))
    open_above = faces[(vertices[faces][..., 2] < 0).any(axis=1)]
    assert len(open_above) == 10
    grid = bake_sdf(vertices, open_above, 16, margin)
    np.testing.assert_allclose(grid.values[4:12, 4:12, 2], -off, atol=1e-6)
    np.testing.assert_allclose(grid.values[4:12, 2, 4:8], -off, atol=1e-6)


def test_bake_sdf_counts_overlapping_parts_as_inside():
    one = trimesh.creation.box((0.08, 0.08, 0.08))
    two = trimesh.creation.box((0.08, 0.08, 0.08)).apply_translation([0.04, 0, 0])
    grid = bake_sdf(*arrays(trimesh.util.concatenate([one, two])), 16, 0.02)
    points = lattice(grid)
    is_deep = (np.abs(points) < [0.07, 0.03, 0.03]).all(axis=-1) & (
        points[..., 0] > -0.03
    )
    assert (grid.values[is_deep] < 0).all()


def test_bake_sdf_ignores_faces_of_no_area():
    vertices, faces = tube()
    padded = np.concatenate([faces, np.zeros((7, 3), np.int32)])
    ours, same = (bake_sdf(vertices, f, 16, 0.02).values for f in (padded, faces))
    np.testing.assert_array_equal(ours, same)


def test_bake_sdf_raises_on_a_size_that_blocks_do_not_fill():
    with pytest.raises(ValueError, match="size=18"):
        bake_sdf(*tube(), 18, 0.02)


def test_bake_sdf_names_a_nearest_face_of_every_point():
    vertices, faces = tube()
    grid = bake_sdf(vertices, faces, 16, 0.02)
    points = lattice(grid).reshape(-1, 3)
    named = vertices[faces[grid.nearest.reshape(-1)]]
    reached = np.linalg.norm(
        trimesh.triangles.closest_point(named, points) - points, axis=1
    )
    np.testing.assert_allclose(reached, np.abs(grid.values).reshape(-1), atol=1e-6)
    assert grid.nearest.dtype == np.int16


def test_nearby_faces_are_the_nearest_others():
    vertices, faces = tube()
    found = nearby_faces(vertices, faces, 5)
    assert found.shape == (len(faces), 5)
    triangles = vertices[faces]
    for face in range(0, len(faces), 17):
        centre = np.repeat(triangles[face].mean(axis=0)[None], len(faces), axis=0)
        nearest = trimesh.triangles.closest_point(triangles, centre)
        distance = np.linalg.norm(nearest - centre, axis=1)
        others = np.delete(distance, face)
        assert face not in found[face]
        limit = np.sort(others)[4] + 1e-6
        assert (distance[found[face]] <= limit).all()


def test_nearby_faces_of_a_small_mesh_end_with_the_face_itself():
    vertices, faces = arrays(trimesh.creation.box((0.06, 0.1, 0.2)))
    found = nearby_faces(vertices, faces, 12)
    np.testing.assert_array_equal(
        np.sort(found, axis=1), np.tile(np.arange(12), (12, 1))
    )
    np.testing.assert_array_equal(found[:, -1], np.arange(12))
    assert nearby_faces(vertices, faces, 20).shape == (12, 12)
