"""Functions whose value and gradient stay finite where the textbook form fails."""

import jax.numpy as jnp
from jaxtyping import Array, Float

TINY = 1e-12


def safe_sqrt(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Square root of max(x, 0), with gradient 0 at and below 0."""
    is_positive = x > 0
    return jnp.where(is_positive, jnp.sqrt(jnp.where(is_positive, x, 1.0)), 0.0)


def safe_norm(x: Float[Array, "*b d"]) -> Float[Array, "*b"]:
    """Euclidean length over the last axis, with gradient 0 at 0."""
    return safe_sqrt(jnp.sum(x**2, axis=-1))


def safe_arccos(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Angle in [0, pi] of a cosine, clamped to [-1, 1], with gradient 0 at the ends.

    Near the ends an angle cannot be read from a float32 cosine to better than 3e-4:
    where that matters take an arctan2 (`rotations.angle_between`).
    """
    is_inside = jnp.abs(x) < 1
    ends = jnp.where(x > 0, 0.0, jnp.pi).astype(x.dtype)
    return jnp.where(is_inside, jnp.arccos(jnp.where(is_inside, x, 0.0)), ends)


def safe_divide(x: Float[Array, "*b"], y: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """x / y, and 0 where y is 0."""
    is_zero = y == 0
    return jnp.where(is_zero, 0.0, x / jnp.where(is_zero, 1.0, y))
