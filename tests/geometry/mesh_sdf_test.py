"""Against analytic shapes, trimesh's point-triangle distance in float64, bad meshes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh

from homae_jax.geometry import mesh_sdf
from homae_jax.objects.sdf_bake import bake_sdf, nearby_faces
from tests.proof import assert_close

SIGNS = ["winding", "ray"]


@functools.cache
def distance_function(sign, face_chunk=None):
    function = functools.partial(
        mesh_sdf.signed_distance, sign=sign, face_chunk=face_chunk
    )
    return jax.jit(function)


def sdf(points, mesh, sign="winding", face_chunk=None):
    return np.asarray(
        distance_function(sign, face_chunk)(
            jnp.asarray(points, jnp.float32),
            jnp.asarray(mesh.vertices, jnp.float32),
            jnp.asarray(mesh.faces, jnp.int32),
        )
    )


def box(extents):
    return trimesh.creation.box(extents)


def box_distance(points, extents):
    beyond = np.abs(points) - np.asarray(extents) / 2
    outside = np.linalg.norm(np.maximum(beyond, 0), axis=-1)
    return outside + np.minimum(beyond.max(axis=-1), 0)


def uniform(num, half, seed=0):
    return np.random.default_rng(seed).uniform(-half, half, (num, 3))


def unsigned(points, mesh):
    """Distance to the nearest of all faces, in float64."""
    faces = np.asarray(mesh.triangles, np.float64)
    pairs = np.repeat(points, len(faces), axis=0), np.tile(faces, (len(points), 1, 1))
    nearest = trimesh.triangles.closest_point(pairs[1], pairs[0])
    distance = np.linalg.norm(nearest - pairs[0], axis=-1)
    return distance.reshape(len(points), -1).min(axis=1)


def glove(is_closed):
    """A bent, bumpy tube, its lower end open as a hand's wrist, or capped by a fan."""
    turns, rings = 16, 20
    angle = np.arange(turns) * 2 * np.pi / turns
    height = np.linspace(0, 0.18, rings)
    radius = 0.03 * np.sqrt(1 - (height / 0.19) ** 2) * (1 + 0.2 * np.sin(60 * height))
    x = radius[:, None] * np.cos(angle) + 2 * height[:, None] ** 2
    y = radius[:, None] * np.sin(angle)
    z = np.broadcast_to(height[:, None], x.shape)
    vertices = np.stack([x, y, z], axis=-1).reshape(-1, 3)
    faces = []
    for ring in range(rings - 1):
        for i in range(turns):
            a, b = ring * turns + i, ring * turns + (i + 1) % turns
            faces += [[a, b, a + turns], [b, b + turns, a + turns]]
    top = (rings - 1) * turns
    faces += [[top, top + i, top + i + 1] for i in range(1, turns - 1)]
    if is_closed:
        faces += [[0, i + 1, i] for i in range(1, turns - 1)]
    return trimesh.Trimesh(vertices, faces, process=False)


@pytest.mark.parametrize("sign", SIGNS)
def test_signed_distance_matches_the_box(sign):
    extents = [0.1, 0.06, 0.2]
    points = np.concatenate([uniform(1500, 0.15), np.zeros((1, 3))])
    expected = box_distance(points, extents)
    actual = sdf(points, box(extents), sign)
    assert_close(f"signed distance of a box by {sign}, m", actual, expected, atol=1e-7)


@pytest.mark.parametrize("sign", SIGNS)
def test_signed_distance_matches_the_box_where_rays_meet_corners_and_sides(sign):
    extents = [0.125, 0.0625, 0.25]
    axis = np.arange(-8, 9) / 64  # exact in float32: many rays through sides
    points = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3)
    expected = box_distance(points, extents)
    points, expected = points[expected != 0], expected[expected != 0]
    np.testing.assert_allclose(sdf(points, box(extents), sign), expected, atol=1e-7)


@pytest.mark.parametrize("sign", SIGNS)
def test_signed_distance_matches_the_sphere(sign):
    sphere = trimesh.creation.icosphere(subdivisions=4, radius=0.04)
    points = uniform(1000, 0.06)
    expected = np.linalg.norm(points, axis=-1) - 0.04
    actual = sdf(points, sphere, sign)
    np.testing.assert_allclose(actual, expected, atol=1e-4)  # the mesh's own error
    is_far = np.abs(expected) > 1e-4
    np.testing.assert_array_equal(np.sign(actual)[is_far], np.sign(expected)[is_far])


@pytest.mark.parametrize("sign", SIGNS)
def test_signed_distance_is_exact_on_a_closed_glove_in_the_camera_frame(sign):
    mesh = glove(is_closed=True)
    assert mesh.is_watertight and mesh.volume > 0
    points = mesh.sample(400, seed=0) + np.random.default_rng(0).normal(
        scale=0.01, size=(400, 3)
    )
    expected = unsigned(points, mesh) * np.where(mesh_contains(points, mesh), -1, 1)
    offset = np.array([0.05, -0.1, 0.6])
    moved = trimesh.Trimesh(mesh.vertices + offset, mesh.faces, process=False)
    actual = sdf(points + offset, moved, sign)
    np.testing.assert_allclose(np.abs(actual), np.abs(expected), atol=3e-7)
    is_far = np.abs(expected) > 2e-5
    np.testing.assert_array_equal(np.sign(actual)[is_far], np.sign(expected)[is_far])


def mesh_contains(points, mesh):
    """Winding number by solid angles in float64."""
    a, b, c = (mesh.triangles[None, :, i] - points[:, None] for i in range(3))
    la, lb, lc = (np.linalg.norm(x, axis=-1) for x in (a, b, c))
    volume = (a * np.cross(b, c)).sum(-1)
    cosine = la * lb * lc
    cosine += (a * b).sum(-1) * lc + (b * c).sum(-1) * la + (c * a).sum(-1) * lb
    return np.arctan2(volume, cosine).sum(1) > np.pi


def test_signed_distance_by_winding_keeps_the_sign_at_an_open_wrist():
    closed, is_open = glove(is_closed=True), glove(is_closed=False)
    points = closed.sample(500, seed=1) + np.random.default_rng(1).normal(
        scale=0.01, size=(500, 3)
    )
    truth = sdf(points, closed)
    is_far = np.abs(truth) > 2e-4
    is_far &= points[:, 2] > 0.005  # over the opening itself there is no right answer
    actual = sdf(points, is_open)
    np.testing.assert_array_equal(np.sign(actual)[is_far], np.sign(truth)[is_far])


@pytest.mark.parametrize("sign", SIGNS)
def test_signed_distance_is_negative_where_two_spheres_overlap(sign):
    spheres = [trimesh.creation.icosphere(subdivisions=3, radius=0.03) for _ in "ab"]
    spheres[1].apply_translation([0.02, 0, 0])
    both = trimesh.util.concatenate(spheres)
    points = uniform(800, 0.05)
    near, far = (np.linalg.norm(points - [x, 0, 0], axis=-1) - 0.03 for x in (0, 0.02))
    expected = np.where(np.minimum(near, far) < 0, -1, 1)
    is_clear = np.minimum(np.abs(near), np.abs(far)) > 5e-4
    assert ((near < 0) & (far < 0)).sum() > 30
    actual = np.sign(sdf(points, both, sign))
    np.testing.assert_array_equal(actual[is_clear], expected[is_clear])


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("face_chunk", [None, 5])
def test_signed_distance_ignores_faces_of_no_area(sign, face_chunk):
    extents = [0.1, 0.06, 0.2]
    mesh = box(extents)
    middle = mesh.vertices[[0, 1]].mean(axis=0)  # for a collinear sliver
    vertices = np.concatenate([mesh.vertices, middle[None]])
    flat = [[0, 0, 0], [3, 3, 3], [0, 1, 1], [0, 1, len(vertices) - 1], [1, 0, 0]]
    padded = trimesh.Trimesh(vertices, [*mesh.faces, *flat], process=False)
    points = uniform(300, 0.15)
    actual = sdf(points, padded, sign, face_chunk)
    np.testing.assert_allclose(actual, box_distance(points, extents), atol=1e-7)


def test_signed_distance_survives_slivers_whose_normal_is_noise():
    vertices = np.array([[0, 0, 0], [0.1, 0, 0], [0.05, 1e-8, 1e-8], [0, 0.1, 0]])
    mesh = trimesh.Trimesh(vertices, [[0, 1, 2], [0, 1, 3]], process=False)
    points = uniform(500, 0.1)
    expected = unsigned(points, mesh)
    np.testing.assert_allclose(np.abs(sdf(points, mesh)), expected, atol=1e-6)


@pytest.mark.parametrize("sign", SIGNS)
def test_signed_distance_in_chunks_equals_the_whole(sign):
    mesh = glove(is_closed=True)
    points = uniform(200, 0.2)
    whole, chunked = sdf(points, mesh, sign), sdf(points, mesh, sign, 100)
    np.testing.assert_allclose(chunked, whole, atol=1e-7)


@pytest.mark.parametrize("sign", SIGNS)
def test_signed_distance_batch_equals_single_rows(sign):
    mesh = glove(is_closed=True)
    scales = np.array([1.0, 0.5, 2.0])[:, None, None]
    vertices = jnp.asarray(mesh.vertices * scales, jnp.float32)
    points = jnp.asarray(uniform(3 * 50, 0.1).reshape(3, 50, 3), jnp.float32)
    faces = jnp.asarray(mesh.faces, jnp.int32)
    batch = jax.jit(functools.partial(mesh_sdf.signed_distance_batch, sign=sign))
    shared = batch(points, vertices, faces)
    own = batch(points, vertices, jnp.broadcast_to(faces, (3, *faces.shape)))
    rows = [distance_function(sign)(points[i], vertices[i], faces) for i in range(3)]
    np.testing.assert_allclose(shared, np.stack(rows), atol=1e-7)
    np.testing.assert_array_equal(own, shared)


def test_signed_distance_has_the_normal_as_gradient():
    mesh = box([0.1, 0.1, 0.1])
    gradient = jax.vmap(
        jax.grad(
            lambda p: mesh_sdf.signed_distance(
                p[None],
                jnp.asarray(mesh.vertices, jnp.float32),
                jnp.asarray(mesh.faces, jnp.int32),
            )[0]
        )
    )(jnp.array([[0.08, 0.01, 0.0], [0.03, 0.01, 0.0], [0.05, 0.01, 0.02]]))
    expected = [[1.0, 0, 0], [1.0, 0, 0]]
    np.testing.assert_allclose(gradient[:2], expected, atol=1e-5)
    assert np.isfinite(gradient).all()


def test_signed_distance_raises_on_an_unknown_sign():
    with pytest.raises(ValueError, match='use "winding" or "ray"'):
        sdf(uniform(2, 0.1), box([0.1, 0.1, 0.1]), "parity")


def test_sample_surface_lies_on_the_surface_spread_by_area():
    mesh = box([0.1, 0.2, 0.4])
    faces = np.concatenate([mesh.faces, np.zeros((7, 3), int)])
    points = mesh_sdf.sample_surface(
        jax.random.key(0),
        jnp.asarray(mesh.vertices, jnp.float32),
        jnp.asarray(faces, jnp.int32),
        4000,
    )
    np.testing.assert_allclose(sdf(points, mesh), 0, atol=1e-7)
    areas = np.array([0.2 * 0.4, 0.1 * 0.4, 0.1 * 0.2])  # of the pairs of sides
    at_side = np.abs(np.abs(points) - np.array([0.05, 0.1, 0.2])) < 1e-6
    np.testing.assert_allclose(at_side.mean(0), areas / areas.sum(), atol=0.03)
    np.testing.assert_allclose(points.mean(0), 0, atol=0.01)


def test_grid_signed_distance_matches_the_lattice_it_was_given():
    pitch, origin = 0.18 / 31, np.full(3, -0.09)
    index = np.stack(np.meshgrid(*[np.arange(32)] * 3, indexing="ij"), axis=-1)
    grid = box_distance(origin + pitch * index, [0.1, 0.06, 0.14])
    grids = np.stack([np.full_like(grid, 7.0), grid])
    lookup = jax.jit(mesh_sdf.grid_signed_distance)

    def error(points):
        values = lookup(
            jnp.asarray(points, jnp.float32),
            jnp.asarray(grids, jnp.float32),
            jnp.int32(1),
            jnp.asarray(origin, jnp.float32),
            jnp.float32(pitch),
        )
        return np.asarray(values) - box_distance(points, [0.1, 0.06, 0.14])

    assert np.abs(error(origin + pitch * index[3:9, 4, 5])).max() < 1e-6
    within = uniform(500, 0.085)
    assert np.abs(error(within)).max() < 0.5 * pitch
    assert np.median(np.abs(error(within))) < 0.02 * pitch
    # Outside, the lattice's value plus the distance to it bounds the truth from above.
    outside = uniform(500, 0.3)
    assert error(outside).min() > -0.5 * pitch
    assert error(np.array([[0.3, 0, 0], [0, 0, -0.4]])).max() < 1e-5


@functools.cache
def looked_up(shape, size=32):
    """A function from points to their distance by the faces of a shape's lattice."""
    mesh = SHAPES[shape]()
    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces, np.int32)
    lattice = bake_sdf(vertices, faces, size, 0.02)
    near = nearby_faces(vertices, faces, 12)
    lattice = lattice._replace(pitch=jnp.float32(lattice.pitch))
    mesh = [jnp.asarray(x) for x in (vertices.astype(np.float32), faces, near)]
    lookup = jax.jit(mesh_sdf.lattice_signed_distance)
    return lambda points: lookup(
        jnp.asarray(points, jnp.float32), *mesh, jax.tree.map(jnp.asarray, lattice)
    )


SHAPES = {
    "box": lambda: box([0.04, 0.10, 0.16]).subdivide_to_size(0.02),
    "ball": lambda: trimesh.creation.icosphere(subdivisions=3, radius=0.06),
    "capsule": lambda: trimesh.creation.capsule(0.08, 0.03, count=(16, 16)),
    # Walls of 1 mm in cells of 4 mm.
    "tube": lambda: trimesh.creation.annulus(0.037, 0.038, 0.09, sections=24),
    "plate": lambda: box([0.10, 0.001, 0.06]).subdivide_to_size(0.02),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_lattice_signed_distance_is_exact_to_half_a_millimetre(shape):
    mesh = SHAPES[shape]()
    rng = np.random.default_rng(1)
    surface = mesh.sample(1000, seed=2)
    points = surface + rng.uniform(-1, 1, surface.shape) * 0.01 / np.sqrt(3)
    error = np.abs(np.asarray(looked_up(shape)(points)) - sdf(points, mesh))
    assert error.mean() < 2e-5
    assert np.mean(error <= 5e-4) >= 0.999
    assert error.max() < 1.5e-3


def test_lattice_signed_distance_matches_the_analytic_box():
    points = uniform(500, 0.09)
    found = np.asarray(looked_up("box")(points))
    expected = box_distance(points, [0.04, 0.10, 0.16])
    assert np.abs(found - expected).max() < 5e-4
    assert np.median(np.abs(found - expected)) < 1e-6


def test_lattice_signed_distance_tells_the_sides_of_a_thin_wall():
    """Every corner of the cells lies outside."""
    height = np.array([-6e-4, -4e-4, -2e-4, 0.0, 2e-4, 4e-4, 6e-4])
    points = np.stack([np.full(7, 0.011), height, np.full(7, 0.007)], axis=1)
    found = np.asarray(looked_up("plate", 16)(points))
    np.testing.assert_allclose(found, np.abs(height) - 5e-4, atol=1e-6)


def test_lattice_signed_distance_goes_on_beyond_the_lattice():
    points = np.array([[0.3, 0.0, 0.0], [0.0, -0.4, 0.05], [0.2, 0.3, -0.4]])
    expected = box_distance(points, [0.04, 0.10, 0.16])
    np.testing.assert_allclose(looked_up("box")(points), expected, atol=1e-4)


def test_lattice_signed_distance_has_finite_gradients_of_length_one():
    mesh = SHAPES["box"]()
    special = np.concatenate([mesh.vertices[:8], mesh.triangles_center[:8]])
    points = np.concatenate([special, uniform(50, 0.09)]).astype(np.float32)
    look = looked_up("box")
    gradient = np.asarray(jax.grad(lambda x: look(x).sum())(jnp.asarray(points)))
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(np.linalg.norm(gradient[16:], axis=1), 1, atol=1e-3)
