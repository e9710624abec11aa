"""Signed distance heads (HOMAE eq. 13; layer sizes of HOISDF's decoder).

Per sample: points are the leading axis. Values are normalised distances, negative
inside, squashed to (-1, 1) by tanh.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from homae_jax.errors import UserError
from homae_jax.models.products import between, dot_general_in, read_out


class WeightNormDense(nn.Module):
    """A dense layer whose columns are a direction times a learnt length.

    Salimans and Kingma 2016; the length starts at the direction's own, so that the
    layer starts as a plain dense layer.
    """

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "p d"]) -> Float[Array, "p e"]:
        init = nn.initializers.lecun_normal()
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        norm = jnp.sqrt(jnp.sum(kernel**2, axis=0) + 1e-12)
        scale = self.param("scale", lambda _: norm)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        weight = kernel * (scale / norm)[None, :]
        x, weight, bias = (y.astype(between(self.dtype)) for y in (x, weight, bias))
        contracted = (((x.ndim - 1,), (0,)), ((), ()))
        return dot_general_in(self.dtype)(x, weight, contracted) + bias[None, :]


class SdfHead(nn.Module):
    """MLP(gamma(p) + F_img + p) -> signed distance; the input re-enters once."""

    width: int
    depth: int
    dropout: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "p d"], train: bool) -> Float[Array, " p"]:
        if x.shape[-1] >= self.width:
            raise UserError(
                f"model.sdf.width={self.width} must exceed its input of {x.shape[-1]} "
                "channels (point features + encoding + 3), which re-enters midway"
            )
        skip_at = self.depth // 2
        y = x
        for layer in range(self.depth):
            features = self.width - x.shape[-1] * (layer == skip_at - 1)
            y = nn.relu(
                WeightNormDense(features, self.dtype, name=f"hidden_{layer}")(y)
            )
            y = nn.Dropout(self.dropout, deterministic=not train)(y)
            if layer == skip_at - 1:
                y = jnp.concatenate([y, x.astype(y.dtype)], axis=-1)
        # Starts near zero: tanh and the clamp of the loss leave room on both sides.
        init = nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")
        out = read_out(1, self.dtype, kernel_init=init, name="out")(y)
        return jnp.tanh(out[..., 0])
