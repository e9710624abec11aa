"""Sampling volume and surface sampling, against a sphere of known distance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homae_jax.models import points as points_lib

RADIUS = 0.4
EVERYWHERE = jnp.array([-1e6, -1e6, 1e6, 1e6])


CENTRE = jnp.array([0.013, -0.027, 0.041])  # off the lattice: no two equal distances


def sphere(points):
    return jnp.sqrt(jnp.sum((points - CENTRE[None, None]) ** 2, axis=-1)) - RADIUS


def no_box(points):
    return jnp.zeros(points.shape[:2])


def test_encode_points_matches_worked_example():
    encoded = points_lib.encode_points(jnp.array([[0.5, 0.0, -1.0]]), octaves=2)
    sines = np.sin([0.5, 0.0, -1.0, 1.0, 0.0, -2.0])
    cosines = np.cos([0.5, 0.0, -1.0, 1.0, 0.0, -2.0])
    np.testing.assert_allclose(encoded[0], np.r_[sines, cosines], atol=1e-6)


def test_encode_points_has_the_papers_width():
    assert points_lib.encode_points(jnp.zeros((7, 3)), octaves=5).shape == (7, 30)


def test_grid_points_is_an_unsheared_lattice():
    grid = points_lib.grid_points(4)
    expected = np.stack(
        np.meshgrid(*[np.linspace(-1, 1, 4)] * 3, indexing="ij"), axis=-1
    )
    np.testing.assert_allclose(grid, expected.reshape(-1, 3), atol=1e-6)


def test_distance_outside_box_is_zero_inside_and_euclidean_outside():
    points = jnp.array([[[1.0, 1.0], [-3.0, -4.0], [12.0, 1.0]]])
    box = jnp.array([[0.0, 0.0, 10.0, 10.0]])
    np.testing.assert_allclose(
        points_lib.distance_outside_box(points, box), [[0.0, 5.0, 2.0]]
    )


def test_sample_dense_returns_the_points_nearest_to_the_surface():
    found = points_lib.sample_dense(
        sphere, no_box, num=50, batch_size=2, grid_size=16, chunk=1000
    )
    lattice = points_lib.grid_points(16)[None]
    best = np.sort(np.abs(sphere(lattice)))[:, :50]
    np.testing.assert_allclose(
        np.sort(np.abs(sphere(found.points_norm))), best.repeat(2, 0), atol=1e-6
    )
    assert bool(found.in_box.all())


def test_sample_dense_fills_from_the_nearest_outside_the_box_and_flags_it():
    def outside(points):
        return jnp.maximum(0.0, jnp.abs(points[..., 0]) - 0.05)

    found = points_lib.sample_dense(
        sphere, outside, num=300, batch_size=1, grid_size=16
    )
    inside = np.asarray(outside(points_lib.grid_points(16)[None]) <= 0)
    assert inside.sum() == found.in_box.sum() == 0
    closest = np.abs(np.asarray(found.points_norm)[..., 0])
    np.testing.assert_allclose(closest, 1 / 15, atol=1e-6)


def test_sample_coarse_to_fine_returns_the_dense_points_with_fewer_evaluations():
    evaluated = []

    def counted(points):
        jax.debug.callback(lambda n: evaluated.append(int(n)), points.shape[1])
        return sphere(points)

    dense = points_lib.sample_dense(
        sphere, no_box, num=200, batch_size=1, grid_size=32, chunk=8192
    )
    fine = points_lib.sample_coarse_to_fine(
        counted,
        no_box,
        num=200,
        batch_size=1,
        grid_size=32,
        factor=4,
        share=0.125,
    )
    jax.effects_barrier()
    as_set = [
        set(map(tuple, np.round(np.asarray(s.points_norm[0]), 5)))
        for s in (dense, fine)
    ]
    assert as_set[0] == as_set[1]
    assert sum(evaluated) <= 32**3 / 6


@pytest.mark.parametrize("factor", [1, 2, 3, 6])
def test_sample_coarse_to_fine_takes_factors_that_are_no_power_of_two(factor):
    options = {"num": 40, "batch_size": 1, "grid_size": 12}
    dense = points_lib.sample_dense(sphere, no_box, **options)
    fine = points_lib.sample_coarse_to_fine(
        sphere, no_box, factor=factor, share=0.6, **options
    )
    as_set = [
        set(map(tuple, np.round(np.asarray(s.points_norm[0]), 5)))
        for s in (dense, fine)
    ]
    assert as_set[0] == as_set[1]


def test_sample_coarse_to_fine_spends_nothing_outside_the_box():
    """A box round an eighth of the sphere: a tenth of the lattice is enough."""

    def outside(points):
        return jnp.maximum(0.0, jnp.max(0.1 - points, axis=-1))

    options = {"num": 100, "batch_size": 1, "grid_size": 32}
    dense = points_lib.sample_dense(sphere, outside, **options)
    fine = points_lib.sample_coarse_to_fine(
        sphere, outside, factor=8, share=0.02, **options
    )
    assert bool(fine.in_box.all())
    as_set = [
        set(map(tuple, np.round(np.asarray(s.points_norm[0]), 5)))
        for s in (dense, fine)
    ]
    assert len(as_set[0] & as_set[1]) >= 99


def test_a_bent_surface_is_found_with_few_evaluations():
    """Straight lines between the cells' values would miss one point in seven here."""

    def bent(points):
        x, y, z = jnp.moveaxis(points, -1, 0)
        ripple = 0.08 * jnp.sin(9 * x) * jnp.cos(8 * y + 3 * z)
        return jnp.linalg.norm(points, axis=-1) - 0.5 + ripple

    options = {"num": 300, "batch_size": 1, "grid_size": 64}
    dense = points_lib.sample_dense(bent, no_box, **options)
    fine = points_lib.sample_coarse_to_fine(
        bent, no_box, factor=16, share=0.015, **options
    )
    as_set = [
        set(map(tuple, np.round(np.asarray(s.points_norm[0]), 5)))
        for s in (dense, fine)
    ]
    assert len(as_set[0] & as_set[1]) >= 0.99 * 300


def test_count_evaluations_matches_what_is_spent():
    for factor, share in ((4, 0.125), (8, 0.015)):
        evaluated = []

        def counted(points, evaluated=evaluated):
            jax.debug.callback(lambda n: evaluated.append(int(n)), points.shape[1])
            return sphere(points)

        options = {"num": 20, "grid_size": 32, "factor": factor, "share": share}
        points_lib.sample_coarse_to_fine(counted, no_box, batch_size=1, **options)
        jax.effects_barrier()
        count = points_lib.count_evaluations(sampler="coarse_to_fine", **options)
        assert count == sum(evaluated) <= 32**3 * (factor**-3 + share)
    dense = points_lib.count_evaluations(sampler="dense", **options)
    assert dense == 32**3


def test_sample_coarse_to_fine_names_the_keys_that_do_not_fit():
    with pytest.raises(ValueError, match=r"points\.grid_size=10.*coarse_factor=4"):
        points_lib.sample_coarse_to_fine(
            sphere, no_box, num=5, batch_size=1, grid_size=10, factor=4, share=0.1
        )


def test_project_points_matches_the_pinhole_model():
    intrinsics = jnp.array([[[100.0, 0, 64], [0, 110.0, 60], [0, 0, 1]]])
    origin = jnp.array([[0.01, 0.02, 0.5]])
    points = jnp.array([[[0.31, -0.62, 0.155]]])
    x, y, z = np.array([0.01 + 0.1, 0.02 - 0.2, 0.5 + 0.05])
    pixels = points_lib.project_points(points, origin, intrinsics, scale=3.1)
    np.testing.assert_allclose(
        pixels[0, 0], [100 * x / z + 64, 110 * y / z + 60], rtol=1e-5
    )


def test_samplers_keep_every_samples_own_surface():
    centres = jnp.array([[0.5, 0.1, -0.2], [-0.4, -0.3, 0.3]])

    def spheres(points):
        away = points - centres[: points.shape[0], None]
        return jnp.sqrt(jnp.sum(away**2, axis=-1)) - RADIUS

    options = {"num": 64, "batch_size": 2, "grid_size": 16, "chunk": 2048}
    dense = points_lib.sample_dense(spheres, no_box, **options)
    fine = points_lib.sample_coarse_to_fine(
        spheres, no_box, factor=4, share=0.3, **options
    )
    for found in (dense, fine):
        away = np.linalg.norm(found.points_norm - centres[:, None], axis=-1)
        np.testing.assert_allclose(away, RADIUS, atol=0.05)
