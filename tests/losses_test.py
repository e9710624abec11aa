"""Loss terms against worked numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


@pytest.mark.parametrize(
    ("pred", "gt", "loss", "slope"),
    [
        (0.02, 0.05, 0.03, -1.0),
        (0.60, 0.05, 0.55, 1.0),  # beyond the clamp and wrong: pulled back
        (-0.40, -0.10, 0.30, -1.0),
        (0.60, 0.15, 0.0, 0.0),  # both far outside
        (-0.40, -0.15, 0.0, 0.0),
        (0.60, -0.15, 0.75, 1.0),
        (0.10, 0.15, 0.05, -1.0),
    ],
)
def test_sdf_losses_are_l1_free_of_charge_beyond_a_clamped_truth(pred, gt, loss, slope):
    value, gradient = jax.value_and_grad(losses.clamped_l1)(
        jnp.float32(pred), jnp.float32(gt), clamp=0.15
    )
    np.testing.assert_allclose([value, gradient], [loss, slope], atol=1e-6)


def test_groups_name_every_weighted_term_once():
    names = [name for group in losses.GROUPS.values() for name in group]
    assert len(names) == len(set(names)) == 20
