"""Smooth activations whose derivatives are worked out on the way back.

JAX would work them out on the way forth and keep them, each as large as the activation:
a sixth of what the encoder's gradient needs, and on a CPU slower than the arithmetic.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def gelu(x: Float[Array, "*b"], *, approximate: bool) -> Float[Array, "*b"]:
    """GELU, exact or by tanh (Hendrycks and Gimpel 2016)."""
    function = functools.partial(nn.gelu, approximate=True) if approximate else _exact
    return jax.checkpoint(function)(x)


def _exact(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    # PyTorch's form. JAX's, by erfc, keeps the digits of values below 1e-6 as well and
    # costs a CPU an eighth of the encoder's gradient. In bfloat16 this one would lose
    # the negative side, hence float32.
    y = x.astype(jnp.float32)
    return (0.5 * y * (1.0 + lax.erf(y * 0.5**0.5))).astype(x.dtype)


@jax.checkpoint
def swiglu(gate: Float[Array, "*b"], value: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """silu(gate) x value (Shazeer 2020)."""
    return nn.silu(gate) * value
