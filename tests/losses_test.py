"""Loss terms against worked numbers."""

import jax
import jax.numpy as jnp
import numpy as np

from homae_jax import losses


def test_masked_mean_ignores_uncounted_rows_even_when_they_are_nan():
    values = jnp.array([[1.0, 3.0], [jnp.nan, jnp.nan]])
    assert float(losses.masked_mean(values, jnp.array([True, False]))) == 2.0
    gradient = jax.grad(lambda v: losses.masked_mean(v, jnp.array([True, False])))
    np.testing.assert_array_equal(gradient(values), [[0.5, 0.5], [0.0, 0.0]])


def test_masked_mean_is_zero_when_nothing_counts():
    assert float(losses.masked_mean(jnp.ones((2, 3)), jnp.zeros(2, bool))) == 0.0


def test_smooth_l1_is_quadratic_then_linear():
    np.testing.assert_allclose(
        losses.smooth_l1(jnp.array([0.5, -1.0, 3.0])), [0.125, 0.5, 2.5]
    )


def test_groups_name_every_weighted_term_once():
    names = [name for group in losses.GROUPS.values() for name in group]
    assert len(names) == len(set(names)) == 15
