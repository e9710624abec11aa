"""Smooth activations whose derivatives are worked out on the way back.

JAX would work them out on the way forth and keep them, each as large as the activation:
a sixth of what the encoder's gradient needs, and on a CPU slower than the arithmetic.
"""

import functools

import flax.linen as nn
import jax
from jaxtyping import Array, Float


def gelu(x: Float[Array, "*b"], *, approximate: bool) -> Float[Array, "*b"]:
    """GELU, exact or by tanh (Hendrycks and Gimpel 2016)."""
    return jax.checkpoint(functools.partial(nn.gelu, approximate=approximate))(x)


@jax.checkpoint
def swiglu(gate: Float[Array, "*b"], value: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """silu(gate) x value (Shazeer 2020)."""
    return nn.silu(gate) * value
