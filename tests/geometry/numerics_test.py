import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homae_jax.geometry import numerics

VALUES = jnp.array([-2.0, -1.0, -1e-8, 0.0, 1e-20, 1e-8, 0.5, 1.0, 3.0])


def test_safe_sqrt_is_finite_in_value_and_gradient_everywhere():
    assert np.isfinite(numerics.safe_sqrt(VALUES)).all()
    assert np.isfinite(jax.vmap(jax.grad(numerics.safe_sqrt))(VALUES)).all()


def test_nothing_safe_hides_what_is_not_a_number():
    """An error of 0 where the prediction is lost would be a perfect score."""
    lost = jnp.array([jnp.nan, 4.0])
    np.testing.assert_array_equal(numerics.safe_sqrt(lost), [np.nan, 2.0])
    np.testing.assert_array_equal(numerics.safe_norm(lost[:, None]), [np.nan, 4.0])
    np.testing.assert_array_equal(numerics.safe_divide(lost, lost), [np.nan, 1.0])


def test_safe_sqrt_matches_numpy_above_zero():
    np.testing.assert_allclose(
        numerics.safe_sqrt(VALUES), np.sqrt(np.maximum(VALUES, 0)), rtol=1e-6
    )


@pytest.mark.parametrize("scale", [0.0, 1e-18, 1e-8, 1.0])
def test_safe_norm_is_finite_with_gradient(scale):
    x = scale * jnp.array([[3.0, 0.0, 4.0]])
    np.testing.assert_allclose(numerics.safe_norm(x), [5 * scale], rtol=1e-5)
    gradient = jax.grad(lambda x: numerics.safe_norm(x).sum())(x)
    assert np.isfinite(gradient).all()


def test_safe_norm_has_the_unit_gradient_away_from_zero():
    gradient = jax.grad(lambda x: numerics.safe_norm(x))(jnp.array([3.0, 0.0, 4.0]))
    np.testing.assert_allclose(gradient, [0.6, 0.0, 0.8], rtol=1e-6)


def test_safe_divide_is_zero_over_zero_with_finite_gradients():
    x, y = jnp.array([0.0, 2.0, 6.0]), jnp.array([0.0, 0.0, 3.0])
    np.testing.assert_array_equal(numerics.safe_divide(x, y), [0.0, 0.0, 2.0])
    for argument in (0, 1):
        gradient = jax.grad(lambda x, y: numerics.safe_divide(x, y).sum(), argument)
        assert np.isfinite(gradient(x, y)).all()
