"""Where the point branches look: encodings, the sampling volume, surface sampling.

A point lives in the ``_norm`` frame of its target (schema.py): the cube [-1, 1]^3
round the wrist or the object centre. Functions here are per sample; callers vmap.
The sampling grid is HOISDF's, except that its integer divisions are integer here
(there, a true division shears the grid by up to one voxel).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from homae_jax.geometry import camera

OUTSIDE = 1e3  # score of a point whose projection leaves the box; |sdf| is below 1


class SurfacePoints(NamedTuple):
    """The grid points nearest to a predicted surface (HOISDF, inference sampling)."""

    points_norm: Float[Array, "*b p 3"]
    in_box: Bool[Array, "*b p"]  # False: filled in from outside the box


def encode_points(
    points_norm: Float[Array, "*b p 3"], *, octaves: int
) -> Float[Array, "*b p e"]:
    """Fourier encoding gamma(p) (HOMAE eq. 13, HOISDF): e = 6 x octaves, no pi."""
    angles = jnp.concatenate([points_norm * 2.0**k for k in range(octaves)], axis=-1)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def grid_points(index: Int[Array, " g"], size: int) -> Float[Array, "g 3"]:
    """Points number `index` of a size^3 lattice over [-1, 1]^3, z running fastest."""
    steps = jnp.stack([index // size**2, index // size % size, index % size], axis=-1)
    return 2.0 * steps / (size - 1) - 1.0


def project_points(
    points_norm: Float[Array, "p 3"],
    origin: Float[Array, " 3"],
    intrinsics: Float[Array, "3 3"],
    *,
    scale: float,
) -> Float[Array, "p 2"]:
    """Pixels of the crop at which ``_norm`` points appear (HOMAE eq. 12)."""
    return camera.project(points_norm / scale + origin[None], intrinsics)


def distance_outside_box(
    points_px: Float[Array, "p 2"], box_px: Float[Array, " 4"]
) -> Float[Array, " p"]:
    """Pixels by which points miss a box (x0, y0, x1, y1); 0 inside."""
    below = jnp.maximum(box_px[None, :2] - points_px, 0.0)
    above = jnp.maximum(points_px - box_px[None, 2:], 0.0)
    return jnp.sqrt(jnp.sum(below**2 + above**2, axis=-1))


def select_nearest(
    points_norm: Float[Array, "g 3"],
    sdf_norm: Float[Array, " g"],
    outside_px: Float[Array, " g"],
    num: int,
) -> SurfacePoints:
    """The `num` points with the smallest |SDF| in the box, then nearest outside it."""
    score = jnp.where(outside_px <= 0, jnp.abs(sdf_norm), OUTSIDE + outside_px)
    _, chosen = jax.lax.top_k(-score, num)
    return SurfacePoints(points_norm[chosen], outside_px[chosen] <= 0)


def sample_dense(
    sdf: Callable[[Float[Array, "g 3"]], Float[Array, " g"]],
    outside_px: Callable[[Float[Array, "g 3"]], Float[Array, " g"]],
    *,
    num: int,
    grid_size: int,
    chunk: int = 16384,
) -> SurfacePoints:
    """Evaluates the whole lattice, `chunk` points at a time (HOISDF)."""
    total = grid_size**3
    points = grid_points(jnp.arange(total), grid_size)
    values = _in_chunks(sdf, points, chunk)
    return select_nearest(points, values, outside_px(points), num)


def sample_coarse_to_fine(
    sdf: Callable[[Float[Array, "g 3"]], Float[Array, " g"]],
    outside_px: Callable[[Float[Array, "g 3"]], Float[Array, " g"]],
    *,
    num: int,
    grid_size: int,
    factor: int,
    share: float,
    chunk: int = 16384,
) -> SurfacePoints:
    """Evaluates cells of factor^3 lattice points at their centre, then the best ones.

    The cells with the smallest |SDF| whose centre projects into the box or near it are
    refined: `share` of all cells, so that about share + factor^-3 of the dense
    evaluations are spent. The lattice is that of `sample_dense`.
    """
    if grid_size % factor:
        raise ValueError(
            f"points.grid_size={grid_size} must be a multiple of "
            f"points.coarse_factor={factor}"
        )
    cells = grid_size // factor
    num_refined = max(int(cells**3 * share), -(-num // factor**3))
    pitch = 2.0 / (grid_size - 1)
    cell = jnp.arange(cells**3)
    cell_steps = jnp.stack([cell // cells**2, cell // cells % cells, cell % cells], -1)
    centres = -1.0 + pitch * (cell_steps * factor + (factor - 1) / 2)
    # A cell counts as inside when one of its corners is.
    reach = pitch * (factor - 1) / 2
    corners = [centres + reach * jnp.array(d)[None] for d in _CUBE]
    near_box = jnp.min(jnp.stack([outside_px(c) for c in corners]), axis=0)
    near_box = jnp.minimum(near_box, outside_px(centres))
    score = jnp.where(near_box <= 0, jnp.abs(sdf(centres)), OUTSIDE + near_box)
    _, chosen = jax.lax.top_k(-score, num_refined)
    inner = jnp.arange(factor**3)
    offsets = jnp.stack(
        [inner // factor**2, inner // factor % factor, inner % factor], -1
    )
    steps = cell_steps[chosen][:, None] * factor + offsets[None]
    points = (2.0 * steps / (grid_size - 1) - 1.0).reshape(-1, 3)
    values = _in_chunks(sdf, points, chunk)
    return select_nearest(points, values, outside_px(points), num)


def _in_chunks(
    sdf: Callable[[Float[Array, "g 3"]], Float[Array, " g"]],
    points: Float[Array, "p 3"],
    chunk: int,
) -> Float[Array, " p"]:
    """Bounds memory; a single chunk runs without a loop, twice as fast on a CPU."""
    num = points.shape[0]
    if num <= chunk:
        return sdf(points)
    padded = jnp.pad(points, ((0, -num % chunk), (0, 0)), mode="edge")
    return jax.lax.map(sdf, padded.reshape(-1, chunk, 3)).reshape(-1)[:num]


_CUBE = tuple((x, y, z) for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0))
