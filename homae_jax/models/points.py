"""Where the point branches look: encodings, the sampling volume, surface sampling.

A point lives in the ``_norm`` frame of its target (schema.py): the cube [-1, 1]^3
round the wrist or the object centre. Samplers take whole batches: the network runs as
one product over all points of all samples. The sampling grid is HOISDF's, except that
its integer divisions are integer here (there, a true division shears the grid by up to
one voxel).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from homae_jax.geometry import camera

CHUNK = 2**18  # points evaluated at once, over the whole batch
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


def grid_points(size: int) -> Float[Array, "g 3"]:
    """A size^3 lattice over [-1, 1]^3, z running fastest."""
    return 2.0 * _lattice(size) / (size - 1) - 1.0


def project_points(
    points_norm: Float[Array, "b p 3"],
    origin: Float[Array, "b 3"],
    intrinsics: Float[Array, "b 3 3"],
    *,
    scale: float,
) -> Float[Array, "b p 2"]:
    """Pixels of the crop at which ``_norm`` points appear (HOMAE eq. 12)."""
    return camera.project(points_norm / scale + origin[:, None], intrinsics)


def distance_outside_box(
    points_px: Float[Array, "b p 2"], box_px: Float[Array, "b 4"]
) -> Float[Array, "b p"]:
    """Pixels by which points miss a box (x0, y0, x1, y1); 0 inside."""
    below = jnp.maximum(box_px[:, None, :2] - points_px, 0.0)
    above = jnp.maximum(points_px - box_px[:, None, 2:], 0.0)
    return jnp.sqrt(jnp.sum(below**2 + above**2, axis=-1))


def select_nearest(
    points_norm: Float[Array, "b g 3"],
    sdf_norm: Float[Array, "b g"],
    outside_px: Float[Array, "b g"],
    num: int,
) -> SurfacePoints:
    """The `num` points with the smallest |SDF| in the box, then nearest outside it."""
    score = jnp.where(outside_px <= 0, jnp.abs(sdf_norm), OUTSIDE + outside_px)
    _, chosen = jax.lax.top_k(-score, num)
    points = jnp.take_along_axis(points_norm, chosen[..., None], axis=1)
    return SurfacePoints(points, jnp.take_along_axis(outside_px, chosen, 1) <= 0)


# Values at points of every sample: signed distances, or pixels outside the box.
PointValues = Callable[[Float[Array, "b g 3"]], Float[Array, "b g"]]


def sample_dense(
    sdf: PointValues,
    outside_px: PointValues,
    *,
    num: int,
    batch_size: int,
    grid_size: int,
    chunk: int = CHUNK,
) -> SurfacePoints:
    """Evaluates the whole lattice, about `chunk` points at a time (HOISDF)."""
    points = _for_all(grid_points(grid_size), batch_size)
    values = _in_chunks(sdf, points, chunk)
    return select_nearest(points, values, outside_px(points), num)


def sample_coarse_to_fine(
    sdf: PointValues,
    outside_px: PointValues,
    *,
    num: int,
    batch_size: int,
    grid_size: int,
    factor: int,
    share: float,
    chunk: int = CHUNK,
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
    steps = _lattice(cells)
    centres = -1.0 + pitch * (steps * factor + (factor - 1) / 2)
    # A cell counts as inside when its centre or one of its corners is.
    reach = pitch * (factor - 1) / 2 * jnp.array([(0.0, 0.0, 0.0), *_CUBE])
    spread = (centres[:, None] + reach[None]).reshape(-1, 3)
    missed = outside_px(_for_all(spread, batch_size))
    near_box = jnp.min(missed.reshape(batch_size, len(centres), -1), axis=-1)
    values = _in_chunks(sdf, _for_all(centres, batch_size), chunk)
    score = jnp.where(near_box <= 0, jnp.abs(values), OUTSIDE + near_box)
    _, chosen = jax.lax.top_k(-score, num_refined)
    inner = steps[chosen][:, :, None] * factor + _lattice(factor)[None, None]
    points = (2.0 * inner / (grid_size - 1) - 1.0).reshape(batch_size, -1, 3)
    values = _in_chunks(sdf, points, chunk)
    return select_nearest(points, values, outside_px(points), num)


def _lattice(size: int) -> Int[Array, "g 3"]:
    """Integer coordinates of a size^3 lattice, z running fastest."""
    index = jnp.arange(size**3)
    return jnp.stack([index // size**2, index // size % size, index % size], axis=-1)


def _for_all(points: Float[Array, "g 3"], batch_size: int) -> Float[Array, "b g 3"]:
    return jnp.broadcast_to(points[None], (batch_size, *points.shape))


def _in_chunks(
    sdf: PointValues, points: Float[Array, "b p 3"], chunk: int
) -> Float[Array, "b p"]:
    """Bounds memory; a single chunk runs without a loop, twice as fast on a CPU."""
    batch, num = points.shape[:2]
    chunk = -(-chunk // batch)
    if num <= chunk:
        return sdf(points)
    padded = jnp.pad(points, ((0, 0), (0, -num % chunk), (0, 0)), mode="edge")
    parts = jnp.swapaxes(padded.reshape(batch, -1, chunk, 3), 0, 1)
    values = jnp.swapaxes(jax.lax.map(sdf, parts), 0, 1)
    return values.reshape(batch, -1)[:, :num]


_CUBE = tuple((x, y, z) for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0))
