"""Features of points: bilinear lookup in the pyramid (HOMAE eq. 11-12).

Points are pixels of the crop with the centre of the top-left pixel at (0, 0), x first.
A map of stride s covers the crop with cells whose centres lie at (i + 0.5) s - 0.5 px;
beyond the outermost centres the border value holds.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from homae_jax.models.activations import gelu
from homae_jax.models.products import between, dense, dot_general_in


class PointFeatures(nn.Module):
    """F_img: the levels at the projected points, then an MLP (HOMAE eq. 11-12).

    The paper applies the MLP to a dense H x W map and then samples it; sampling first
    is the same up to the order of interpolation and far less arithmetic. Only levels
    with more channels than the MLP's first layer has go through it before: there are
    few cells, and less is left to look up. Points are independent, so a long list may
    be handed over in chunks; the levels are prepared once for all of them.
    """

    image_size: int
    channels: tuple[int, ...]  # of the levels
    width: int = 223  # C
    multiscale: bool = True  # False: the last level alone (Table V, row 2)
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        self.fc1 = _Affine(sum(self._channels), self.width)
        self.fc2 = dense(self.width, self.dtype)

    def prepare(self, levels: tuple[Array, ...]) -> tuple[Array, ...]:
        """The maps that `read` looks up, of the decoder's levels ("b s s c" each)."""
        maps = levels[-len(self._channels) :]
        return tuple(
            self._product(level, rows) if self._is_wide(level.shape[-1]) else level
            for level, rows in zip(maps, self._rows(), strict=True)
        )

    def read(
        self, maps: tuple[Array, ...], points_px: Float[Array, "b p 2"]
    ) -> Float[Array, "b p c"]:
        """Features of points given in crop pixels; `maps` come from `prepare`."""
        look_up = jax.vmap(
            lambda one, points: sample_bilinear(one, points, image_size=self.image_size)
        )
        bias = self.fc1.bias.astype(between(self.dtype))
        x = jnp.broadcast_to(bias, (*points_px.shape[:2], self.width))
        narrow = []
        for one, rows in zip(maps, self._rows(), strict=True):
            found = look_up(one, points_px)
            if self._is_wide(len(rows)):
                x = x + found
            else:
                narrow.append((found, rows))
        if narrow:
            values, rows = zip(*narrow, strict=True)
            values = jnp.concatenate(values, axis=-1)
            x = x + self._product(values, jnp.concatenate(rows))
        return self.fc2(gelu(x, approximate=True))

    @property
    def _channels(self) -> tuple[int, ...]:
        return self.channels if self.multiscale else self.channels[-1:]

    def _is_wide(self, channels: int) -> bool:
        return channels > self.width

    def _rows(self) -> list[Array]:
        """The first layer's kernel, level by level."""
        ends = np.cumsum(self._channels)[:-1].tolist()
        return jnp.split(self.fc1.kernel, ends)

    def _product(
        self, x: Float[Array, "*b d"], kernel: Float[Array, "d e"]
    ) -> Float[Array, "*b e"]:
        x, kernel = (y.astype(between(self.dtype)) for y in (x, kernel))
        contracted = (((x.ndim - 1,), (0,)), ((), ()))
        return dot_general_in(self.dtype)(x, kernel, contracted)


class _Affine(nn.Module):
    """The parameters of a dense layer that is not applied in one go."""

    width_in: int
    width: int

    def setup(self) -> None:
        init = nn.initializers.lecun_normal()
        self.kernel = self.param("kernel", init, (self.width_in, self.width))
        self.bias = self.param("bias", nn.initializers.zeros, (self.width,))


@functools.partial(jax.jit, static_argnames="image_size")  # traced once per shape
def sample_bilinear(
    feature_map: Float[Array, "h w c"],
    points_px: Float[Array, "p 2"],
    *,
    image_size: int,
) -> Float[Array, "p c"]:
    """Values of a map that spans the whole crop at points of the crop.

    Args:
      feature_map: its sides may have any size; cell (0, 0) is the top-left one.
      points_px: x, y in the crop; outside it the nearest border value is taken, with a
        gradient of zero across the border.
      image_size: side of the square crop in pixels.
    """
    height, width, channels = feature_map.shape
    scale = jnp.array([width, height], jnp.float32) / image_size
    limit = jnp.array([width - 1, height - 1], jnp.float32)
    cell = (points_px.astype(jnp.float32) + 0.5) * scale[None] - 0.5
    cell = jnp.clip(cell, 0.0, limit[None])
    low = jnp.floor(cell)
    fraction = cell - low
    x0, y0 = low.astype(jnp.int32).T[:, None]
    x1, y1 = jnp.minimum(x0 + 1, width - 1), jnp.minimum(y0 + 1, height - 1)
    fx, fy = fraction.T[:, None]
    # One gather of whole rows of channels: its transpose is one scatter-add. Corners
    # by choice, not by stacking, which takes a kernel or two of its own at every use.
    down, right = np.array([[0, 0, 1, 1], [0, 1, 0, 1]])[..., None] > 0
    index = jnp.where(down, y1, y0) * width + jnp.where(right, x1, x0)
    weight = jnp.where(down, fy, 1 - fy) * jnp.where(right, fx, 1 - fx)
    # float32 first: the gradients of all points that read a cell add up in it.
    corners = feature_map.reshape(-1, channels).astype(jnp.float32)[index]
    corners = corners * weight[..., None]
    # Written out: XLA's CPU compiler takes a hundred times as long to sum over an axis
    # of four, and this would be half of all inference.
    value = corners[0] + corners[1] + corners[2] + corners[3]
    return value.astype(feature_map.dtype)
