"""Best-fit alignments of point sets, as the pose benchmarks define them.

Rows are points in metres, any common frame; ``*b`` are independent sets. Values are
those of the official definitions to rounding in the precision of the input.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from homae_jax.geometry.numerics import safe_norm

NORM_FLOOR = 1e-8  # added to the size of each set (HO-3D's scorer)


def procrustes_similarity(
    source: Float[Array, "*b p 3"],
    target: Float[Array, "*b p 3"],
    *,
    allow_reflection: bool,
) -> Float[Array, "*b p 3"]:
    """Moves, turns and scales `source` onto `target` by least squares.

    With reflections: orthogonal Procrustes as HO-3D's scorer uses it. Without:
    Umeyama (1991), as HOISDF on DexYCB. They differ only where a mirror image fits
    better. A set of coinciding points has no size and lands on the target's mean.
    """
    target_mean = jnp.mean(target, axis=-2, keepdims=True)
    source = source - jnp.mean(source, axis=-2, keepdims=True)
    target = target - target_mean
    source_size, target_size = (
        (safe_norm(x.reshape(*x.shape[:-2], -1)) + NORM_FLOOR)[..., None, None]
        for x in (source, target)
    )
    source, target = source / source_size, target / target_size
    covariance = jnp.einsum("...pi,...pj->...ij", target, source, precision="highest")
    u, s, vt = jnp.linalg.svd(covariance)
    if not allow_reflection:
        sign = jnp.sign(jnp.linalg.det(jnp.matmul(u, vt, precision="highest")))
        last = jnp.stack([jnp.ones_like(sign), jnp.ones_like(sign), sign], axis=-1)
        u, s = u * last[..., None, :], s * last
    rotmat = jnp.matmul(u, vt, precision="highest")
    turned = jnp.einsum("...ij,...pj->...pi", rotmat, source, precision="highest")
    scale = jnp.sum(s, axis=-1)[..., None, None] * target_size
    return scale * turned + target_mean


def scale_translation_align(
    source: Float[Array, "*b j 3"],
    target: Float[Array, "*b j 3"],
    *,
    root: int = 0,
    reference: int = 4,
) -> Float[Array, "*b j 3"]:
    """Moves the root joint onto its target and scales one bone to its length (HO-3D).

    Args:
      reference: the bone's other end; 4 is the middle finger's MCP in MANO order. A
        bone of no length in `source` is not divided by (HO-3D's scorer).
    """
    source_bone, target_bone = (
        safe_norm(x[..., reference, :] - x[..., root, :])[..., None, None]
        for x in (source, target)
    )
    scale = target_bone / jnp.where(source_bone == 0, 1.0, source_bone)
    source_root, target_root = (x[..., root, None, :] for x in (source, target))
    return scale * (source - source_root) + target_root
