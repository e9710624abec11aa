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

from homae_jax.errors import UserError
from homae_jax.geometry import camera

LEVEL_POWER = 4 / 3  # evaluations of a level of coarse_to_fine: its width to minus this
CHUNK = 2**18  # points evaluated at once, over the whole batch
OUTSIDE = 1e3  # score of a point whose projection leaves the box; |sdf| is below 1


class SurfacePoints(NamedTuple):
    """The grid points nearest to a predicted surface (HOISDF, inference sampling)."""

    points_norm: Float[Array, "*b p 3"]
    in_box: Bool[Array, "*b p"]  # False: filled in from outside the box
    sdf_norm: Float[Array, "*b p"] | None = None  # None: nothing was predicted


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
    x, y = jnp.moveaxis(below + above, -1, 0)  # of each pair one is zero
    return jnp.sqrt(x**2 + y**2)


def select_nearest(
    points_norm: Float[Array, "b g 3"],
    sdf_norm: Float[Array, "b g"],
    outside_px: Float[Array, "b g"],
    num: int,
) -> SurfacePoints:
    """The `num` points with the smallest |SDF| in the box, then nearest outside it."""
    chosen = _smallest(_score(sdf_norm, outside_px), num)
    return SurfacePoints(
        jnp.take_along_axis(points_norm, chosen[..., None], axis=1),
        jnp.take_along_axis(outside_px, chosen, axis=1) <= 0,
        jnp.take_along_axis(sdf_norm, chosen, axis=1),
    )


def _smallest(score: Float[Array, "b g"], num: int) -> Int[Array, "b n"]:
    """Columns of each row's smallest values, in their order; the first among equals.

    Rows that are cut among devices stay where they are when they are sorted, while
    `top_k` has XLA bring them all to each: 200 MB of a 64^3 grid for 192 pictures.
    """
    if jax.device_count() > 1:
        return jnp.argsort(score, axis=1, stable=True)[:, :num]
    return jax.lax.top_k(-score, num)[1]


def _score(
    sdf_norm: Float[Array, "b g"], outside_px: Float[Array, "b g"]
) -> Float[Array, "b g"]:
    """Small where wanted: |SDF| in the box, behind them by distance to the box."""
    return jnp.where(outside_px <= 0, jnp.abs(sdf_norm), OUTSIDE + outside_px)


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
    """The points of `sample_dense`, from few of its evaluations.

    Cells of factor^3 lattice points are evaluated at their centres. Then cells half as
    wide, down to the points: each gets the value interpolated from the level above, and
    those whose value says that the surface is near, and that touch the box, are
    evaluated. In all, factor^-3 + share of the dense evaluations are spent, most of
    `share` on the last levels.
    """
    if grid_size % factor:
        raise UserError(
            f"model.points.grid_size={grid_size} must be a multiple of "
            f"model.points.coarse_factor={factor}"
        )
    outside = outside_px(_for_all(grid_points(grid_size), batch_size))
    every = jnp.arange((grid_size // factor) ** 3)
    chosen = jnp.broadcast_to(every[None], (batch_size, len(every)))
    points = _cell_centres(chosen, factor, grid_size)
    values = evaluated = _in_chunks(sdf, points, chunk)
    width, widths = factor, _refined_widths(factor)
    parts = sum(each**-LEVEL_POWER for each in widths)
    per_width = share * grid_size**3 / max(parts, 1.0)
    for finer in widths:
        values = _interpolate(values, grid_size // width, grid_size // finer)
        score = _score(values, _least_in_cells(outside, finer, grid_size))
        floor = num if finer == 1 else 1
        spent = int(per_width * finer**-LEVEL_POWER)
        spent = min(max(spent, floor), values.shape[1])
        chosen = _smallest(score, spent)
        points = _cell_centres(chosen, finer, grid_size)
        evaluated = _in_chunks(sdf, points, chunk)
        values = jax.vmap(
            lambda row, at, new: row.at[at].set(new, unique_indices=True)
        )(values, chosen, evaluated)
        width = finer
    outside = jnp.take_along_axis(outside, chosen, axis=1)
    return select_nearest(points, evaluated, outside, num)


def count_evaluations(
    *, sampler: str, grid_size: int, factor: int, share: float, num: int
) -> int:
    """Evaluations of one signed distance that a sampler spends on one sample."""
    if sampler == "dense":
        return grid_size**3
    shapes: list[int] = []

    def sdf(points: Array) -> Array:
        shapes.append(points.shape[1])
        return points[..., 0]

    jax.eval_shape(
        lambda: sample_coarse_to_fine(
            sdf,
            lambda points: points[..., 0],
            num=num,
            batch_size=1,
            grid_size=grid_size,
            factor=factor,
            share=share,
        )
    )
    return sum(shapes)


def _refined_widths(factor: int) -> list[int]:
    """Widths of the cells after the first level: halves, at the end single points."""
    widths = []
    while factor > 1:
        factor = factor // 2 if factor % 2 == 0 else 1
        widths.append(factor)
    return widths


def _cell_centres(
    chosen: Int[Array, "b g"], width: int, grid_size: int
) -> Float[Array, "b g 3"]:
    """Centres of cells of width^3 lattice points, given by number, z fastest."""
    cells = grid_size // width
    steps = [chosen // cells**2, chosen // cells % cells, chosen % cells]
    lattice = jnp.stack(steps, axis=-1) * width + (width - 1) / 2
    return 2.0 * lattice / (grid_size - 1) - 1.0


def _interpolate(
    values: Float[Array, "b g"], cells: int, finer: int
) -> Float[Array, "b f"]:
    """Values at cells' centres -> at those of the cells that they are cut into.

    Cubic: a distance bends, and what a line misses costs evaluations, a third more for
    the same points on trained weights.
    """
    batch = values.shape[0]
    cube = values.reshape(batch, cells, cells, cells)
    return jax.image.resize(cube, (batch, finer, finer, finer), "cubic").reshape(
        batch, -1
    )


def _least_in_cells(
    values: Float[Array, "b g"], width: int, grid_size: int
) -> Float[Array, "b c"]:
    """The least value of each cell's lattice points."""
    cells = grid_size // width
    cube = values.reshape(-1, *(cells, width) * 3)
    return jnp.min(cube, axis=(2, 4, 6)).reshape(values.shape[0], -1)


def _lattice(size: int) -> Int[Array, "g 3"]:
    """Integer coordinates of a size^3 lattice, z running fastest."""
    steps = jnp.arange(size)
    axes = jnp.meshgrid(steps, steps, steps, indexing="ij")
    return jnp.stack(axes, axis=-1).reshape(-1, 3)


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
