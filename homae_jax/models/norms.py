"""LayerNorm whose gradient is written out.

JAX would derive it operation by operation, keep several arrays of the input's size for
the way back and go over them again and again: a seventh of the encoder's gradient on a
CPU. Here the input is kept, and two numbers for each of its rows.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

EPSILON = 1e-6  # DINOv2's, and flax's default

_mean = functools.partial(jnp.mean, axis=-1, keepdims=True)


class LayerNorm(nn.Module):
    """As `flax.linen.LayerNorm`, with its parameters; worked out in float32.

    The variance takes two passes: DINOv2's outlier channels spoil E[x^2] - E[x]^2.
    """

    dtype: DTypeLike = jnp.float32  # of the result

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        """Normalises over the last axis (Ba et al. 2016)."""
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        rows = jnp.asarray(x, jnp.float32).reshape(-1, x.shape[-1])
        y = _normalised(rows, jnp.asarray(scale), jnp.asarray(bias))
        return y.reshape(x.shape).astype(self.dtype)


@jax.custom_vjp
def _normalised(
    x: Float[Array, "n d"], scale: Float[Array, " d"], bias: Float[Array, " d"]
) -> Float[Array, "n d"]:
    return _forward(x, scale, bias)[0]


def _forward(x: Array, scale: Array, bias: Array) -> tuple[Array, tuple[Array, ...]]:
    mean = _mean(x)
    inverse = lax.rsqrt(_mean(jnp.square(x - mean)) + EPSILON)
    y = (x - mean) * inverse * scale[None] + bias[None]
    return y, (x, mean, inverse, scale)


def _backward(kept: tuple[Array, ...], gradient: Array) -> tuple[Array, Array, Array]:
    x, mean, inverse, scale = kept
    unit = (x - mean) * inverse
    of_unit = gradient * scale[None]
    # What would move the mean or the length of a row is lost in normalising it.
    of_x = of_unit - _mean(of_unit) - unit * _mean(of_unit * unit)
    return of_x * inverse, jnp.sum(gradient * unit, axis=0), jnp.sum(gradient, axis=0)


_normalised.defvjp(_forward, _backward)
