"""Signed distance and nearest face of a mesh, exact at every point of a cubic lattice.

The lattice is cut into blocks of 4 x 4 x 4 points. A face matters to a block only if it
is no further from the block's centre than the nearest face plus the block's diameter;
distances are taken to those faces alone. Two neighbouring lattice points lie on the
same side of the surface if their distances add up to more than the pitch, so the sign
is asked for once per connected set of points (generalised winding number). Metres,
model frame, negative inside.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Array, Float, Int

from homae_jax.geometry.mesh_sdf import SdfGrid, signed_distance
from homae_jax.objects.simplify import is_closed

SIDE = 4  # lattice points along a block
POINTS = SIDE**3
PAIRS = 8192  # pairs of block and face per call of the compiled function
CENTRES = 512  # block centres per step
SIGNS = 1024  # points per call for their sign
FACE_BITS = np.uint64(32)  # of a rank: its lower half is the face
SLACK = 1e-6  # metres, against rounding in the choice of faces and sides


def bake_sdf(
    vertices: Float[np.ndarray, "v 3"],
    faces: Int[np.ndarray, "f 3"],
    size: int,
    margin: float,
) -> SdfGrid:
    """Samples the signed distance on size^3 points round a mesh; names nearest faces.

    Args:
      size: points along a side, a multiple of 4.
      margin: metres left free on each side of the mesh's longest axis.
    """
    if size % SIDE:
        raise ValueError(f"size={size}: must be a multiple of {SIDE}")
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
    """The faces nearest to each face's centre, without itself, nearest first."""
    middle = (vertices.min(axis=0) + vertices.max(axis=0)) / 2
    triangles = (vertices - middle)[faces].astype(np.float32)
    centres, found = triangles.mean(axis=1), []
    for start in range(0, len(faces), CENTRES):
        own = np.arange(start, min(start + CENTRES, len(faces)))
        points = np.pad(centres[own], ((0, CENTRES - len(own)), (0, 0)))
        squared = np.array(_all_distances(points, triangles))[: len(own)]
        squared[np.arange(len(own)), own] = np.inf
        found.append(np.argsort(squared, axis=1, kind="stable")[:, :num])
    return _numbered(np.concatenate(found), len(faces))


def _numbered(face: np.ndarray, num_faces: int) -> Int[np.ndarray, "*n"]:
    """Numbers of faces, in two bytes each if that is enough."""
    return face.astype(np.int16 if num_faces <= 2**15 else np.int32)


def _unsigned(
    triangles: np.ndarray, size: int, pitch: float, half: float
) -> tuple[Float[np.ndarray, "g g g"], Int[np.ndarray, "g g g"]]:
    """Distances and nearest faces: of faces as near as each other the first."""
    blocks = size // SIDE
    axis = pitch * (np.arange(blocks) * SIDE + (SIDE - 1) / 2) - half
    centres = _product(axis).astype(np.float32)
    inner = _product(pitch * (np.arange(SIDE) - (SIDE - 1) / 2)).astype(np.float32)
    block, face = _near_pairs(centres, triangles, pitch)

    least = np.full((len(centres), POINTS), np.iinfo(np.uint64).max)
    pad = -len(block) % PAIRS
    block = np.pad(block, (0, pad), constant_values=len(centres) - 1)
    face = np.pad(face, (0, pad), mode="edge")  # a distance too many does no harm
    for start in range(0, len(block), PAIRS):
        own, others = block[start : start + PAIRS], face[start : start + PAIRS]
        found = _pair_distances(centres[own], inner, triangles[others])
        ranks = _rank(np.asarray(found), others)
        first = np.flatnonzero(np.r_[True, own[1:] != own[:-1]])
        ranks = np.minimum.reduceat(ranks, first, axis=0)
        least[own[first]] = np.minimum(least[own[first]], ranks)
    cells = least.reshape((blocks,) * 3 + (SIDE,) * 3)
    cells = cells.transpose(0, 3, 1, 4, 2, 5).reshape(size, size, size)
    squared = (cells >> FACE_BITS).astype(np.uint32).view(np.float32)
    nearest = cells & np.uint64(2**32 - 1)
    return np.sqrt(squared), _numbered(nearest, len(triangles))


def _rank(squared: np.ndarray, face: np.ndarray) -> np.ndarray:
    """Orders pairs by distance, then face: floats of one sign order like their bits."""
    bits = squared.view(np.uint32).astype(np.uint64)
    return (bits << FACE_BITS) | face[:, None].astype(np.uint64)


def _near_pairs(
    centres: np.ndarray, triangles: np.ndarray, pitch: float
) -> tuple[np.ndarray, np.ndarray]:
    """Blocks and the faces that may be nearest to one of their points."""
    diameter = pitch * (SIDE - 1) * np.sqrt(3)
    pairs = []
    for start in range(0, len(centres), CENTRES):
        part = centres[start : start + CENTRES]
        pad = CENTRES - len(part)
        squared = _all_distances(np.pad(part, ((0, pad), (0, 0))), triangles)
        distance = np.sqrt(np.asarray(squared)[: len(part)])
        reach = distance.min(axis=1, keepdims=True) + diameter + SLACK
        block, face = np.nonzero(distance <= reach)
        pairs.append((block + start, face))
    return tuple(np.concatenate(part) for part in zip(*pairs, strict=True))


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
        # The point farthest from the surface speaks for its set.
        order = np.argsort(-distance.ravel(), kind="stable")
        _, first = np.unique(label[order], return_index=True)
        asked = order[first]
    else:  # inside and outside meet in the hole: ask everywhere
        label = asked = np.arange(points.shape[0])
    answers = []
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
    inner: Float[Array, "p 3"],
    triangles: Float[Array, "n 3 3"],
) -> Float[Array, "n p"]:
    """Squared distances of a block's points to one face, per pair."""
    points = centres[:, None] + inner[None]
    return _squared_distance(points, triangles[:, None])


@jax.jit
def _all_distances(
    points: Float[Array, "p 3"], triangles: Float[Array, "f 3 3"]
) -> Float[Array, "p f"]:
    return _squared_distance(points[:, None], triangles[None])


@jax.jit
def _is_inside(points: Float[Array, "p 3"], triangles: Float[Array, "f 3 3"]) -> Array:
    corners = jnp.arange(3 * triangles.shape[0]).reshape(-1, 3)
    return signed_distance(points, triangles.reshape(-1, 3), corners) < 0


def _squared_distance(
    points: Float[Array, "*b 3"], triangles: Float[Array, "*c 3 3"]
) -> Array:
    """Of points to faces: within the face's prism to its plane, else to an edge."""
    p = [points[..., i] for i in range(3)]
    a, b, c = ([triangles[..., k, i] for i in range(3)] for k in range(3))
    normal = _cross(_minus(b, a), _minus(c, a))
    area = _dot(normal, normal)
    is_over = area > 1e-24  # a face of no area has no prism
    to_edge = jnp.inf
    for start, end in ((a, b), (b, c), (c, a)):
        side, q = _minus(end, start), _minus(p, start)
        length = jnp.maximum(_dot(side, side), 1e-24)
        share = jnp.clip(_dot(side, q) / length, 0.0, 1.0)
        rest = [q_i - share * s_i for q_i, s_i in zip(q, side, strict=True)]
        to_edge = jnp.minimum(to_edge, _dot(rest, rest))
        is_over &= _dot(_cross(normal, side), q) >= 0
    height = _dot(normal, _minus(p, a))
    return jnp.where(is_over, height**2 / jnp.maximum(area, 1e-24), to_edge)


def _dot(a: list, b: list) -> Array:
    return functools.reduce(jnp.add, (x * y for x, y in zip(a, b, strict=True)))


def _cross(a: list, b: list) -> list:
    return [
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    ]


def _minus(a: list, b: list) -> list:
    return [x - y for x, y in zip(a, b, strict=True)]
