"""Decoder pyramid: multi-scale features, dense predictions, image (HOMAE eq. 9).

A stack of MLPs, each applied to every cell of its map; space is mixed by the encoder
alone. The levels have strides patch, 8, 4 and 2 px: 16, 28, 56 and 112 cells at the
paper's 224 px. Features are in ``dtype``; heat map, mask logits and image in float32.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from homae_jax.errors import UserError
from homae_jax.models.activations import gelu
from homae_jax.models.norms import LayerNorm
from homae_jax.models.products import between, dense, read_out

STRIDES = (8, 4, 2)  # of the levels after the first, px
NUM_LEVELS = 1 + len(STRIDES)


class DecoderOutput(NamedTuple):
    """What the decoder says; the maps are those of its last level (stride 2)."""

    levels: tuple[Array, ...]  # each Float "b s s c", coarse to fine
    heatmap: Float[Array, "b s s"]
    hand_mask_logits: Float[Array, "b s s"]
    object_mask_logits: Float[Array, "b s s"]
    image: Float[Array, "b h w 3"] | None  # normalised; None if not asked for


class Level(nn.Module):
    """LayerNorm, Dense, GELU, Dense round a skip, cell by cell."""

    width: int
    hidden: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b s s d"]) -> Float[Array, "b s s c"]:
        if x.shape[-1] != self.width:
            x = dense(self.width, self.dtype, name="enter")(x)
        y = LayerNorm(name="norm")(x)
        y = dense(self.hidden, self.dtype, name="fc1")(y)
        return x + dense(self.width, self.dtype, name="fc2")(gelu(y, approximate=True))


class Decoder(nn.Module):
    """F -> multi-scale features, dense predictions and, if asked, the image."""

    image_size: int
    widths: tuple[int, ...] = (256, 256, 128, 64)
    hidden: tuple[int, ...] = (512, 512, 256, 128)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, features: Float[Array, "b gh gh d"], *, with_image: bool
    ) -> DecoderOutput:
        """Decodes the encoder's grid F.

        Raises:
          UserError: the sizes do not fit each other.
        """
        self._check()
        x = features.astype(between(self.dtype))
        levels = []
        for i, (width, hidden) in enumerate(zip(self.widths, self.hidden, strict=True)):
            if i == 1:
                x = self._resize(x, self.image_size // STRIDES[0])
            elif i > 1:
                expanded = dense(4 * width, self.dtype, name=f"expand_{i}")(x)
                x = pixel_shuffle(expanded)
            x = Level(width, hidden, self.dtype, name=f"level_{i}")(x)
            levels.append(x)
        maps = read_out(3, self.dtype, name="maps")(x)
        return DecoderOutput(
            levels=tuple(levels),
            heatmap=maps[..., 0],
            hand_mask_logits=maps[..., 1],
            object_mask_logits=maps[..., 2],
            image=self._image(x) if with_image or self.is_initializing() else None,
        )

    def _image(self, x: Float[Array, "b s s c"]) -> Float[Array, "b h w 3"]:
        return pixel_shuffle(read_out(4 * 3, self.dtype, name="image")(x))

    def _resize(self, x: Float[Array, "b s s c"], size: int) -> Float[Array, "b t t c"]:
        return jax.image.resize(x, (x.shape[0], size, size, x.shape[-1]), "bilinear")

    def _check(self) -> None:
        if self.image_size % STRIDES[0]:
            raise UserError(
                f"data.image_size={self.image_size}: the decoder needs a multiple of "
                f"{STRIDES[0]} px"
            )
        if len(self.widths) != NUM_LEVELS or len(self.hidden) != NUM_LEVELS:
            raise UserError(
                f"model.decoder.widths and model.decoder.hidden need {NUM_LEVELS} "
                f"values each, got {len(self.widths)} and {len(self.hidden)}"
            )


def pixel_shuffle(x: Float[Array, "b h w c4"]) -> Float[Array, "b h2 w2 c"]:
    """Unfolds channels (row, column, c) into 2x2 cells."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, 2, 2, channels // 4)
    x = jnp.swapaxes(x, 2, 3)
    return x.reshape(batch, 2 * height, 2 * width, channels // 4)
