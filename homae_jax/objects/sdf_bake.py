"""Signed distance and nearest face of a mesh, exact at every point of a cubic lattice.

The lattice is an octree: a block of 2n x 2n x 2n points is cut into eight until single
points are left. A face goes on with a block only if it is no further from the block's
centre than the nearest face plus the block's diameter. Two neighbouring lattice points
lie on the same side of the surface if their distances add up to more than the pitch, so
the sign is asked for once per connected set of points (generalised winding number).
Metres, model frame, negative inside.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Array, Float, Int

from homae_jax.geometry.mesh_sdf import SdfGrid, signed_distance, squared_distance
from homae_jax.objects.simplify import is_closed

EIGHTHS = np.array(list(np.ndindex(2, 2, 2)))
PAIRS = 2**15  # pairs of block and face per call of the compiled function
CENTRES = 512  # faces' centres per call
FACES = 512  # meshes are filled up to a multiple, so that few sizes are compiled
FAR = 1e3  # metres: where nothing is nearest
SIGNS = 1024  # points per call for their sign
SLACK = 1e-6  # metres, against rounding in the choice of faces and sides


def bake_sdf(
    vertices: Float[np.ndarray, "v 3"],
    faces: Int[np.ndarray, "f 3"],
    size: int,
    margin: float,
) -> SdfGrid:
    """Samples the signed distance on size^3 points round a mesh; names nearest faces.

    Args:
      size: points along a side, a multiple of 4; a power of 2 is fastest.
      margin: metres left free on each side of the mesh's longest axis.
    """
    if size % 4:
        raise ValueError(f"size={size}: must be a multiple of 4")
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    pitch = float((high - low).max() + 2 * margin) / (size - 1)
    half = pitch * (size - 1) / 2
    middle = (low + high) / 2  # float32 is finest round 0
    triangles = (vertices - middle)[faces].astype(np.float32)
    distance, nearest = _unsigned(triangles, size, pitch, half)
    is_inside = _inside(distance, triangles, faces, pitch, half)
    values = np.where(is_inside, -distance, distance)
    return SdfGrid(values, (middle - half).astype(np.float32), pitch, nearest)


def nearby_faces(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], num: int
) -> Int[np.ndarray, "f n"]:
    """The faces nearest to each face's centre, without itself, nearest first.

    Of a mesh with `num` faces or fewer all are named, each face itself last.
    """
    middle = (vertices.min(axis=0) + vertices.max(axis=0)) / 2
    triangles = (vertices - middle)[faces].astype(np.float32)
    centres = triangles.mean(axis=1)
    triangles = _filled_up(triangles, np.full(3, FAR))
    num, found = min(num, len(faces)), []
    for start in range(0, len(faces), CENTRES):
        own = np.arange(start, start + CENTRES)
        points = np.take(centres, own, axis=0, mode="clip")
        found.append(np.asarray(_nearest_others(points, own, triangles, num)))
    return _numbered(np.concatenate(found)[: len(faces)], len(faces))


def _filled_up(
    triangles: Float[np.ndarray, "f 3 3"], point: Float[np.ndarray, " 3"]
) -> Float[np.ndarray, "g 3 3"]:
    """Adds faces of no area at a point, up to a multiple of `FACES`."""
    pad = -len(triangles) % FACES
    filling = np.broadcast_to(point, (pad, 3, 3)).astype(np.float32)
    return np.concatenate([triangles, filling])


def _numbered(face: np.ndarray, num_faces: int) -> Int[np.ndarray, "*n"]:
    """Numbers of faces, in two bytes each if that is enough."""
    return face.astype(np.int16 if num_faces <= 2**15 else np.int32)


def _unsigned(
    triangles: np.ndarray, size: int, pitch: float, half: float
) -> tuple[Float[np.ndarray, "g g g"], Int[np.ndarray, "g g g"]]:
    """Distances and nearest faces: of faces as near as each other the first."""
    side = size & -size  # the largest power of two that blocks can start from
    index = np.stack(np.unravel_index(range((size // side) ** 3), (size // side,) * 3))
    corner = side * index.T  # of each block, in lattice points
    # Pairs of a block and a face that may be nearest to one of its points, by block.
    block = np.repeat(np.arange(len(corner)), len(triangles))
    face = np.tile(np.arange(len(triangles), dtype=np.int32), len(corner))
    while True:
        centre = (pitch * (corner + (side - 1) / 2) - half).astype(np.float32)
        offset = (side * pitch / 2 * (EIGHTHS - 0.5)).astype(np.float32)
        side //= 2
        corner = (corner + side * EIGHTHS[:, None]).reshape(-1, 3)
        chunks = _distances_by_chunk(centre, offset, triangles, block, face)
        if side == 1:
            break
        diameter = pitch * (side - 1) * np.sqrt(3)
        kept = [_near_pairs(*chunk, diameter) for chunk in chunks]
        eighth, block, face = (np.concatenate(part) for part in zip(*kept, strict=True))
        block = eighth * len(centre) + block
        order = np.argsort(block, kind="stable")
        block, face = block[order], face[order]
    found = [_nearest(*chunk) for chunk in chunks]
    least, nearest = (np.concatenate(part, axis=1) for part in zip(*found, strict=True))
    order = np.argsort(np.ravel_multi_index(corner.T, (size,) * 3))
    distance, nearest = (
        x.ravel()[order].reshape((size,) * 3) for x in (least, nearest)
    )
    return np.sqrt(distance), _numbered(nearest, len(triangles))


def _distances_by_chunk(
    centre: Float[np.ndarray, "b 3"],
    offset: Float[np.ndarray, "8 3"],
    triangles: Float[np.ndarray, "f 3 3"],
    block: Int[np.ndarray, " n"],
    face: Int[np.ndarray, " n"],
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Squared distances [8, m] from the centres of blocks' eighths to faces.

    Yields them for some whole blocks at a time, with the pairs they are of.
    """
    first = np.flatnonzero(np.diff(block, prepend=-1))
    ends = np.append(first[1:], len(block))
    start = num_done = 0
    while start < len(block):
        num_fitting = np.searchsorted(ends, start + PAIRS, side="right")
        num_done = max(num_fitting, num_done + 1)
        stop = ends[num_done - 1]
        pad = -(stop - start) % PAIRS
        own, others = block[start:stop], face[start:stop]
        points = np.pad(centre[own], ((0, pad), (0, 0)))
        corners = np.pad(triangles[others], ((0, pad), (0, 0), (0, 0)))
        squared = np.asarray(_pair_distances(points, offset, corners))
        yield squared[:, : stop - start], own, others
        start = stop


def _near_pairs(
    squared: np.ndarray, block: np.ndarray, face: np.ndarray, diameter: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eighths, blocks and faces of pairs that may hold a nearest face."""
    count, least = _least(squared, block)
    reach = np.sqrt(least) + (diameter + SLACK)
    is_near = squared <= np.repeat(reach**2, count, axis=1)
    eighth, pair = np.nonzero(is_near)
    return eighth, block[pair], face[pair]


def _nearest(
    squared: np.ndarray, block: np.ndarray, face: np.ndarray
) -> tuple[Float[np.ndarray, "8 b"], Int[np.ndarray, "8 b"]]:
    """Squared distance and face nearest to each eighth, of each block."""
    count, least = _least(squared, block)
    is_least = squared == np.repeat(least, count, axis=1)
    first = np.cumsum(count) - count
    candidates = np.where(is_least, face, np.iinfo(np.int32).max)
    return least, np.minimum.reduceat(candidates, first, axis=1)


def _least(
    squared: np.ndarray, block: np.ndarray
) -> tuple[Int[np.ndarray, " b"], Float[np.ndarray, "8 b"]]:
    """How many pairs each block has, and the least distance per eighth and block."""
    first = np.flatnonzero(np.diff(block, prepend=-1))
    count = np.diff(first, append=len(block))
    return count, np.minimum.reduceat(squared, first, axis=1)


def _inside(
    distance: np.ndarray,
    triangles: np.ndarray,
    faces: np.ndarray,
    pitch: float,
    half: float,
) -> np.ndarray:
    size = len(distance)
    points = _product(pitch * np.arange(size) - half).astype(np.float32)
    if is_closed(faces):
        label = _sides(distance, pitch)
        # The point farthest from the surface speaks for its set, the first of equals.
        farthest = np.zeros(label.max() + 1, np.float32)
        np.maximum.at(farthest, label, distance.ravel())
        number = np.flatnonzero(distance.ravel() == farthest[label])
        asked = number[np.unique(label[number], return_index=True)[1]]
    else:  # inside and outside meet in the hole: ask everywhere
        label = asked = np.arange(points.shape[0])
    # Filled up with a corner, not from afar: float32 is finest round the mesh's middle.
    answers, triangles = [], _filled_up(triangles, triangles[0, 0])
    for start in range(0, len(asked), SIGNS):
        part = points[asked[start : start + SIGNS]]
        pad = SIGNS - len(part)
        answer = _is_inside(np.pad(part, ((0, pad), (0, 0))), triangles)
        answers.append(np.asarray(answer)[: len(part)])
    return np.concatenate(answers)[label].reshape(distance.shape)


def _sides(distance: np.ndarray, pitch: float) -> Int[np.ndarray, " n"]:
    """Numbers the sets of lattice points that no surface parts."""
    number = np.arange(distance.size).reshape(distance.shape)
    links = []
    for axis in range(3):
        near = [slice(None)] * 3
        far = [slice(None)] * 3
        near[axis], far[axis] = slice(None, -1), slice(1, None)
        near, far = tuple(near), tuple(far)
        is_free = distance[near] + distance[far] > pitch + SLACK
        links.append((number[near][is_free], number[far][is_free]))
    start, end = (np.concatenate(part) for part in zip(*links, strict=True))
    graph = scipy.sparse.coo_array(
        (np.ones(len(start), bool), (start, end)), shape=(distance.size,) * 2
    )
    return scipy.sparse.csgraph.connected_components(graph, directed=False)[1]


def _product(axis: np.ndarray) -> np.ndarray:
    """All points of the cubic lattice with these coordinates along each axis."""
    grid = np.meshgrid(axis, axis, axis, indexing="ij")
    return np.stack(grid, axis=-1).reshape(-1, 3)


@jax.jit
def _pair_distances(
    centres: Float[Array, "n 3"],
    offset: Float[Array, "8 3"],
    triangles: Float[Array, "n 3 3"],
) -> Float[Array, "8 n"]:
    return squared_distance(centres[None] + offset[:, None], triangles[None])


@functools.partial(jax.jit, static_argnums=3)
def _nearest_others(
    points: Float[Array, "p 3"],
    own: Int[Array, " p"],
    triangles: Float[Array, "f 3 3"],
    num: int,
) -> Int[Array, "p n"]:
    """The faces nearest to each point, its own one last; of equals the first."""
    squared = squared_distance(points[:, None], triangles[None])
    is_own = jnp.arange(len(triangles))[None] == own[:, None]
    return jax.lax.top_k(-jnp.where(is_own, FAR, squared), num)[1]


@jax.jit
def _is_inside(points: Float[Array, "p 3"], triangles: Float[Array, "f 3 3"]) -> Array:
    corners = jnp.arange(3 * triangles.shape[0]).reshape(-1, 3)
    return signed_distance(points, triangles.reshape(-1, 3), corners) < 0
