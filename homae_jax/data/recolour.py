"""Random colours on the device, in place of the loader's (config.data.augment).

What crops.jitter_colours does to one crop in a loader's thread, for a batch inside the
compiled step: less work for the loader where that is what a GPU waits for. The
distributions are the same, the random numbers are not. No loader imports this.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from homae_jax.data.crops import SMALLEST_BLUR_PX, ColourChange, colour_map
from homae_jax.schema import Batch


def recolour_batch(
    key: Array,
    batch: Batch,
    *,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
    blur_px: float,
) -> Batch:
    """A batch whose crops, and scenes if it has them, have colours drawn anew.

    Args:
      brightness: half-width of the factor round 1, as `contrast` and `saturation`.
      hue: half-width in full turns.
      blur_px: largest sigma.
    """
    widths = jnp.array([brightness, contrast, saturation], jnp.float32)

    def draw(key: Array) -> tuple[ColourChange, Array]:
        factor_key, hue_key, blur_key, order_key = jax.random.split(key, 4)
        low = jnp.maximum(1 - widths, 0.0)
        factors = jax.random.uniform(factor_key, (3,), minval=low, maxval=1 + widths)
        turn = jax.random.uniform(hue_key, minval=-hue, maxval=hue)
        order = jax.random.permutation(order_key, 4)
        change = ColourChange(*factors, hue=2 * jnp.pi * turn, order=order)
        return change, jax.random.uniform(blur_key, maxval=blur_px)

    def recolour_all(key: Array, images: Array) -> Array:
        changes, sigmas = jax.vmap(draw)(jax.random.split(key, len(images)))
        one = functools.partial(recolour, largest_blur_px=blur_px)
        return jax.vmap(one)(images, changes, sigmas)

    crop_key, scene_key = jax.random.split(key)
    batch = batch._replace(image=recolour_all(crop_key, batch.image))
    if batch.scene is None:
        return batch
    scene = batch.scene._replace(image=recolour_all(scene_key, batch.scene.image))
    return batch._replace(scene=scene)


def recolour(
    image: UInt8[Array, "h w 3"],
    change: ColourChange,
    blur_px: Float[Array, ""],
    *,
    largest_blur_px: float,
) -> UInt8[Array, "h w 3"]:
    """Brightness, contrast, saturation and hue in the order given, then a blur.

    `largest_blur_px` bounds the taps that are compiled. Black stays black: it is what
    lies outside of the picture.
    """
    x = image.astype(jnp.float32)
    matrix, offset = colour_map(jnp.mean(x, axis=(0, 1)), change, jnp)
    columns = matrix.T[:, None, None]
    parts = [x[..., i, None] * columns[i] for i in range(3)]
    x = _as_levels(parts[0] + parts[1] + parts[2] + offset[None, None])
    radius = int(np.ceil(3 * largest_blur_px))
    if radius:
        x = _as_levels(_blur(x, blur_px, radius))
    is_outside = jnp.all(image == 0, axis=-1, keepdims=True)
    return jnp.where(is_outside, 0, x).astype(jnp.uint8)


def _blur(
    x: Float[Array, "h w 3"], sigma: Float[Array, ""], radius: int
) -> Float[Array, "h w 3"]:
    """Gaussian of 2 ceil(3 sigma) + 1 taps, the borders mirrored."""
    is_blurred = sigma >= SMALLEST_BLUR_PX
    width = jnp.where(is_blurred, sigma, 1.0)
    taps = np.arange(-radius, radius + 1, dtype=np.float32)
    weights = jnp.exp(-(taps**2) / (2 * width**2))
    reach = jnp.where(is_blurred, jnp.ceil(3 * width), 0)
    weights = jnp.where(np.abs(taps) <= reach, weights, 0.0)
    weights = weights / jnp.sum(weights)
    for axis in (0, 1):
        size = x.shape[axis]
        around = [(radius, radius) if a == axis else (0, 0) for a in range(3)]
        padded = jnp.pad(x, around, mode="reflect")
        parts = [
            weights[k] * jax.lax.slice_in_dim(padded, k, k + size, axis=axis)
            for k in range(2 * radius + 1)
        ]
        x = sum(parts[1:], parts[0])
    return x


def _as_levels(x: Float[Array, "h w 3"]) -> Float[Array, "h w 3"]:
    return jnp.clip(jnp.round(x), 0, 255)
