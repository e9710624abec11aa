"""What the metrics of pose do not see: reconstruction and the sign of the SDF.

One value per example, on the device; the arithmetic is the caller's to jit. Images are
normalised; ``_norm`` distances and points as in schema.py.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from homae_jax.geometry import mesh_sdf


def masked_errors(
    image: Float[Array, "b h w 3"],
    clean_image: Float[Array, "b h w 3"],
    patch_mask: Bool[Array, "b gh gw"],
) -> dict[str, Float[Array, " b"]]:
    """Mean squared error per value over the masked pixels, and of a trivial fill.

    The trivial fill is the mean colour of the image's visible pixels.

    Returns:
      rec_masked, rec_masked_fill (normalised units, squared).
    """
    factor = clean_image.shape[1] // patch_mask.shape[1]
    is_masked = jnp.repeat(jnp.repeat(patch_mask, factor, 1), factor, 2)[..., None]
    visible = jnp.where(is_masked, 0.0, clean_image)
    num_visible = jnp.maximum(jnp.sum(~is_masked, axis=(1, 2)), 1)
    mean = jnp.sum(visible, axis=(1, 2)) / num_visible

    def error(guess: Array) -> Array:
        squared = jnp.where(is_masked, (guess - clean_image) ** 2, 0.0)
        num_masked = jnp.maximum(jnp.sum(is_masked, axis=(1, 2, 3)), 1)
        return jnp.sum(squared, axis=(1, 2, 3)) / (3 * num_masked)

    return {
        "rec_masked": error(image),
        "rec_masked_fill": error(mean[:, None, None]),
    }


def near_surface(
    key: Array,
    vertices: Float[Array, "b v 3"],
    faces: Int[Array, "b f 3"],
    *,
    num: int,
    sigma: float,
) -> Float[Array, "b p 3"]:
    """Points scattered about closed surfaces.

    Args:
      sigma: standard deviation of the scatter per axis, metres.
    """
    surface_key, noise_key = jax.random.split(key)
    keys = jax.random.split(surface_key, vertices.shape[0])
    on_surface = jax.vmap(mesh_sdf.sample_surface, in_axes=(0, 0, 0, None))(
        keys, vertices, faces, num
    )
    return on_surface + sigma * jax.random.normal(noise_key, on_surface.shape)


def sign_shares(
    pred_sdf: Float[Array, "b p"], gt_sdf: Float[Array, "b p"]
) -> dict[str, Float[Array, " b"]]:
    """How often the predicted sign is right.

    Returns:
      sign (share of right signs), sign_balanced (mean of the shares inside and
      outside), sign_majority (what the better of "all inside" and "all outside" gets).
    """
    is_inside = gt_sdf < 0
    is_right = (pred_sdf < 0) == is_inside

    def share(of: Array) -> Array:
        counted = jnp.sum(jnp.where(of, is_right, False), axis=-1)
        return counted / jnp.maximum(jnp.sum(of, axis=-1), 1)

    inside = jnp.mean(is_inside, axis=-1)
    return {
        "sign": jnp.mean(is_right, axis=-1),
        "sign_balanced": (share(is_inside) + share(~is_inside)) / 2,
        "sign_majority": jnp.maximum(inside, 1 - inside),
    }
