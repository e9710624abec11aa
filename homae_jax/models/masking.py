"""Target-focused masking (HOMAE eq. 1-7): what the encoder does not get to see.

Masks are boolean over the grid of P x P px patches, rows first: entry (i, j) covers
image rows iP..(i+1)P-1 and columns jP..(j+1)P-1 (eq. 7). Functions are per sample with
static shapes; callers vmap with a key per sample.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from homae_jax.errors import UserError

TARGETS = ("object", "hand_object", "uniform")
FILLS = ("gaussian", "zero", "mean")


def target_box(
    target: str, hand_box_px: Float[Array, " 4"], object_box_px: Float[Array, " 4"]
) -> Float[Array, " 4"]:
    """The box B of eq. 1 (x0, y0, x1, y1); an empty one for "uniform".

    Raises:
      UserError: unknown `target`.
    """
    if target == "object":
        return object_box_px
    if target == "hand_object":
        low = jnp.minimum(hand_box_px[:2], object_box_px[:2])
        return jnp.concatenate([low, jnp.maximum(hand_box_px[2:], object_box_px[2:])])
    if target == "uniform":
        return jnp.array([0.0, 0.0, -1.0, -1.0])
    raise UserError(
        f"model.mask.target={target!r}: expected one of {', '.join(TARGETS)}"
    )


def covered_patches(
    box_px: Float[Array, " 4"], *, grid: int, patch: int
) -> Bool[Array, "gh gw"]:
    """Patches that a box covers (eq. 2); none for an empty, NaN or outside box."""
    low, high = jnp.floor(box_px[:2] / patch), jnp.floor(box_px[2:] / patch)
    cell = jnp.arange(grid, dtype=box_px.dtype)
    inside = (cell[:, None] >= low[None]) & (cell[:, None] <= high[None])
    # A box that is inside out may still fall within one patch.
    inside &= (box_px[:2] <= box_px[2:])[None]
    columns, rows = inside.T
    return rows[:, None] & columns[None, :]


def target_focused_mask(
    key: PRNGKeyArray,
    box_px: Float[Array, " 4"],
    *,
    grid: int,
    patch: int,
    num_patches: int,
    object_share: float,
) -> Bool[Array, "gh gw"]:
    """Draws exactly `num_patches` patches, a share of them in the box (eq. 1-6).

    round(mu rho) patches are drawn without replacement from those the box covers (all
    of them when it covers fewer), the rest from all patches not yet chosen, covered
    ones included (eq. 5).

    Args:
      key: one key per sample.
      box_px: B of eq. 1, x0, y0, x1, y1 in crop pixels; may leave the crop.
      grid: patches along one side of the image.
      patch: P.
      num_patches: rho.
      object_share: mu.

    Raises:
      UserError: more patches to mask than there are, or mu outside [0, 1].
    """
    if not 0 <= num_patches <= grid**2:
        raise UserError(
            f"model.mask.num_patches={num_patches}: the image has {grid**2} patches of "
            f"{patch} px (see model.mask.patch)"
        )
    if not 0 <= object_share <= 1:
        raise UserError(f"model.mask.object_share={object_share}: expected 0 to 1")
    key_target, key_rest = jax.random.split(key)
    covered = covered_patches(box_px, grid=grid, patch=patch).reshape(-1)
    order = jnp.where(covered, jax.random.uniform(key_target, covered.shape), jnp.inf)
    num_target = int(object_share * num_patches + 0.5)
    chosen = covered & (_rank(order) < num_target)
    order = jnp.where(chosen, -jnp.inf, jax.random.uniform(key_rest, covered.shape))
    return (_rank(order) < num_patches).reshape(grid, grid)


def apply_mask(
    key: PRNGKeyArray,
    image: Float[Array, "h w 3"],
    mask: Bool[Array, "gh gw"],
    *,
    patch: int,
    fill: str,
) -> Float[Array, "h w 3"]:
    """Replaces masked patches (eq. 7) of a normalised image.

    `fill` is "gaussian" (N(0, 1) per value), "zero", or "mean" (the image's mean
    colour).

    Raises:
      UserError: unknown `fill`, or patches that do not tile the image.
    """
    if (mask.shape[0] * patch, mask.shape[1] * patch) != image.shape[:2]:
        raise UserError(
            f"model.mask.patch={patch} does not tile an image of "
            f"{image.shape[0]}x{image.shape[1]} px: choose a divisor of data.image_size"
        )
    if fill == "gaussian":
        filling = jax.random.normal(key, image.shape, image.dtype)
    elif fill == "zero":
        filling = jnp.zeros_like(image)
    elif fill == "mean":
        filling = jnp.broadcast_to(jnp.mean(image, (0, 1), keepdims=True), image.shape)
    else:
        raise UserError(f"model.mask.fill={fill!r}: expected one of {', '.join(FILLS)}")
    return jnp.where(mask_pixels(mask, patch=patch)[..., None], filling, image)


def mask_pixels(mask: Bool[Array, "gh gw"], *, patch: int) -> Bool[Array, "h w"]:
    """The mask at pixel resolution."""
    return jnp.repeat(jnp.repeat(mask, patch, axis=0), patch, axis=1)


def _rank(score: Float[Array, " n"]) -> Array:
    """Position of each entry in ascending order; ties by index."""
    return jnp.argsort(jnp.argsort(score))
