"""Explicit geometry: a PointNet over the sampled points (HOMAE sec. III-C).

Per sample. The paper gives F_3D one row per point, so the pooled shape code is joined
back to every point's own feature.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from homae_jax.models.products import between, dense


class PointNet(nn.Module):
    """Shared MLP -> max pool -> shape code joined to each point -> MLP (F_3D)."""

    widths: Sequence[int]
    width_out: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, points_norm: Float[Array, "p 3"]) -> Float[Array, "p c"]:
        x = points_norm.astype(between(self.dtype))
        for layer, width in enumerate((*self.widths, self.width_out)):
            x = nn.relu(dense(width, self.dtype, name=f"point_{layer}")(x))
        shape_code = jnp.broadcast_to(jnp.max(x, axis=0, keepdims=True), x.shape)
        x = jnp.concatenate([x, shape_code], axis=-1)
        x = nn.relu(dense(self.width_out, self.dtype, name="join_0")(x))
        return dense(self.width_out, self.dtype, name="join_1")(x)
