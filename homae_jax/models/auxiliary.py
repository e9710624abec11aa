"""What a person's own picture does not come with: boxes, wrist, the object's name.

Off the paper's path (`model.auxiliary`): HOMAE and HOISDF are given both boxes, the
wrist and the object's centre by the data set. One small head reads them off the
encoder's features of any square view of a picture, in two passes of the same weights:

1. the whole picture, padded to a square, gives the boxes and hence the crop;
2. the crop gives the boxes again, closer, the wrist and the object's name.

Quantities on the image are shares of the view's side, (0, 0) at the middle of its
top-left pixel and 1 a side further. Depth is regressed as log(z / f) with f the focal
length in sides, so that the same picture gives the same number whatever its camera:
metres follow from K. The object's centre is no output of its own: as in training, it is
the middle of the object's box at the wrist's depth or at a constant one.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from homae_jax.geometry import camera
from homae_jax.models.norms import LayerNorm
from homae_jax.models.products import between, dense, read_out
from homae_jax.schema import Located

NUM_OBJECTS = 21  # rows of ObjectTemplates that can be named: all of YCB-Video
FLOAT32_LAYERS = ("values", "names")  # whose products run in it everywhere
_PARTS = 3  # attention maps: hand, object, wrist
TYPICAL_SIZE = 0.4  # of a box, in sides: where its regression starts
TYPICAL_LOG_DEPTH = -0.7  # a hand filling a crop, z / f


class AuxiliaryHead(nn.Module):
    """Reads boxes, wrist and object off the features of a square view.

    Each part attends to the cells where it lies (a soft arg-max); what it gathers there
    moves the answer from the attended place to the sides of the box.
    """

    image_size: int
    width: int = 128
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, features: Float[Array, "b g g d"], intrinsics: Float[Array, "b 3 3"]
    ) -> Located:
        batch, grid = features.shape[0], features.shape[1]
        cells = _cell_centers(grid)
        tokens = features.reshape(batch, grid * grid, -1)
        places = jnp.broadcast_to(cells[None], (batch, *cells.shape))
        tokens = jnp.concatenate([tokens, places.astype(tokens.dtype)], axis=-1)
        tokens = LayerNorm(between(self.dtype), name="norm")(tokens)
        tokens = nn.gelu(dense(self.width, self.dtype, name="token")(tokens))
        logits = read_out(_PARTS, self.dtype, name="attend")(tokens)
        attention = jax.nn.softmax(logits, axis=1)
        place = jnp.einsum("bnk,nc->bkc", attention, cells, precision="highest")
        gathered = jnp.einsum("bnk,bnd->bkd", attention.astype(tokens.dtype), tokens)
        flat = jnp.concatenate(
            [gathered.reshape(batch, -1), place.reshape(batch, -1)], axis=-1
        )
        hidden = nn.gelu(dense(self.width, self.dtype, name="hidden")(flat))
        values, names = (
            dense(size, jnp.float32, name=name)(hidden)
            for name, size in zip(FLOAT32_LAYERS, (11, NUM_OBJECTS), strict=True)
        )
        return self._located(place, values, names, intrinsics)

    def _located(
        self, place: Array, values: Array, names: Array, intrinsics: Array
    ) -> Located:
        """Offsets from the attended places to pixels and metres."""
        hand, obj, wrist = place[:, 0], place[:, 1], place[:, 2]
        wrist_px = shares_to_px(wrist + values[:, 8:10], self.image_size)
        log_depth = TYPICAL_LOG_DEPTH + values[:, 10]
        depth = jnp.exp(log_depth) * focal_in_sides(intrinsics, self.image_size)
        return Located(
            hand_box_px=shares_to_px(_box(hand, values[:, 0:4]), self.image_size),
            object_box_px=shares_to_px(_box(obj, values[:, 4:8]), self.image_size),
            wrist_px=wrist_px,
            wrist_log_depth=log_depth,
            wrist=camera.unproject(wrist_px[:, None], depth[:, None], intrinsics)[:, 0],
            object_logits=names,
        )


def focal_in_sides(
    intrinsics: Float[Array, "*b 3 3"], image_size: int
) -> Float[Array, "*b"]:
    """Focal length over the view's side; the same for every turn of the view."""
    area = jnp.linalg.det(intrinsics[..., :2, :2])
    return jnp.sqrt(jnp.abs(area)) / image_size


def shares_to_px(shares: Float[Array, "*b n"], image_size: int) -> Float[Array, "*b n"]:
    """Shares of the side -> pixels of the view."""
    return shares * image_size


def _box(center: Array, values: Array) -> Array:
    """Centre, offset and log size -> x0, y0, x1, y1, in shares of the side."""
    middle = center + values[:, :2]
    half = 0.5 * TYPICAL_SIZE * jnp.exp(jnp.clip(values[:, 2:], -4.0, 2.0))
    return jnp.concatenate([middle - half, middle + half], axis=-1)


def _cell_centers(grid: int) -> Float[Array, "n 2"]:
    """x, y of the cells' middles, rows first."""
    axis = (jnp.arange(grid) + 0.5) / grid
    y, x = jnp.meshgrid(axis, axis, indexing="ij")
    return jnp.stack([x.ravel(), y.ravel()], axis=-1)
