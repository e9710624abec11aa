"""Probes against values one can work out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import trimesh

from homae_jax.evaluation import probes

KEY = jax.random.key(0)


def test_masked_errors_matches_worked_example():
    clean = np.zeros((1, 4, 4, 3), np.float32)
    clean[0, :2, :2] = 2.0  # the masked patch
    clean[0, 2:, 2:] = 0.5
    mask = np.array([[[True, False], [False, False]]])
    image = np.full_like(clean, 9.0)  # wrong where it does not matter
    image[0, :2, :2] = 1.5
    errors = probes.masked_errors(
        jnp.asarray(image), jnp.asarray(clean), jnp.asarray(mask)
    )
    np.testing.assert_allclose(errors["rec_masked"], [0.25], atol=1e-6)
    mean = 0.5 * 4 / 12  # of the twelve visible pixels
    np.testing.assert_allclose(errors["rec_masked_fill"], [(2 - mean) ** 2], rtol=1e-5)


def test_masked_errors_is_finite_without_a_mask():
    image = jnp.ones((1, 4, 4, 3))
    errors = probes.masked_errors(image, image, jnp.zeros((1, 2, 2), bool))
    assert all(np.isfinite(v).all() for v in errors.values())


def test_near_surface_scatters_about_each_surface():
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.05)
    shift = np.array([[[0.1, 0.0, 0.0]], [[0.0, -0.2, 0.0]]], np.float32)
    vertices = jnp.asarray(ball.vertices[None] + shift, jnp.float32)
    faces = jnp.asarray(np.stack([ball.faces] * 2), jnp.int32)
    points = probes.near_surface(KEY, vertices, faces, num=400, sigma=0.01)
    distance = np.linalg.norm(np.asarray(points) - shift, axis=-1) - 0.05
    assert np.abs(distance.mean()) < 0.003
    assert 0.008 < distance.std() < 0.012


def test_sign_shares_matches_worked_example():
    gt = jnp.array([[-1.0, 1.0, 1.0, 1.0]])
    shares = probes.sign_shares(jnp.array([[1.0, 1.0, 1.0, -1.0]]), gt)
    np.testing.assert_allclose(shares["sign"], [0.5])
    np.testing.assert_allclose(shares["sign_balanced"], [(0 + 2 / 3) / 2], rtol=1e-6)
    np.testing.assert_allclose(shares["sign_majority"], [0.75])
    right = probes.sign_shares(gt * 0.1, gt)
    np.testing.assert_allclose(right["sign_balanced"], [1.0])
