"""Functions whose value and gradient stay finite where the textbook form fails."""

import jax.numpy as jnp
from jaxtyping import Array, Float

TINY = 1e-12


def safe_sqrt(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Square root of max(x, 0), with gradient 0 at and below 0; NaN of NaN."""
    is_flat = x <= 0
    return jnp.where(is_flat, 0.0, jnp.sqrt(jnp.where(is_flat, 1.0, x)))


def safe_norm(x: Float[Array, "*b d"]) -> Float[Array, "*b"]:
    """Euclidean length over the last axis, with gradient 0 at 0."""
    return safe_sqrt(jnp.sum(x**2, axis=-1))


def safe_divide(x: Float[Array, "*b"], y: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """x / y, and 0 where y is 0."""
    is_zero = y == 0
    return jnp.where(is_zero, 0.0, x / jnp.where(is_zero, 1.0, y))
