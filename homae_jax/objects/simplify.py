"""Triangle meshes brought to an exact number of vertices; numpy, deterministic.

Faces are turned outwards, counter-clockwise. A closed mesh stays closed: its edges are
only collapsed (quadric error, Garland and Heckbert 1997) or split in the middle.
"""

import fast_simplification
import numpy as np
from jaxtyping import Float, Int

# Quadrics leave flat sides nearly empty; this share of the vertices goes to splitting
# the longest edges, so that the vertices also sample the surface.
SPLIT_SHARE = 0.25
MAX_ROUNDS = 12  # per threshold
GREEDS = (5, 7)  # aggressiveness of the decimation's threshold


def merge_vertices(
    vertices: Float[np.ndarray, "v 3"],
    faces: Int[np.ndarray, "f 3"],
    tolerance: float = 1e-7,
) -> tuple[Float[np.ndarray, "n 3"], Int[np.ndarray, "g 3"]]:
    """One vertex per position (texture seams closed); collapsed faces are dropped."""
    cells = np.round(vertices / tolerance).astype(np.int64)
    _, first, index = np.unique(cells, axis=0, return_index=True, return_inverse=True)
    faces = first[index.reshape(-1)][faces]
    is_proper = (faces != np.roll(faces, 1, axis=1)).all(axis=1)
    used, faces = np.unique(faces[is_proper], return_inverse=True)
    return vertices[used], faces.reshape(-1, 3).astype(np.int32)


def is_closed(faces: Int[np.ndarray, "f 3"]) -> bool:
    """Whether every edge is met as often in one direction as in the other.

    The winding number is then a whole number everywhere off the surface.
    """
    start, end = _directed_edges(faces)
    low, high = np.minimum(start, end), np.maximum(start, end)
    edge = low.astype(np.int64) * (faces.max(initial=0) + 1) + high
    _, index = np.unique(edge, return_inverse=True)
    return not np.bincount(index, np.sign(end - start)).any()


def simplify_exactly(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], num: int
) -> tuple[Float[np.ndarray, "{num} 3"], Int[np.ndarray, "g 3"]]:
    """The mesh with exactly `num` vertices: edges collapsed, then the longest split.

    A mesh that has too few vertices is only split; one on which collapsing is stuck
    (a soup of loose faces) is snapped to a lattice instead.
    """
    points, triangles = _collapsed(vertices, faces, round((1 - SPLIT_SHARE) * num))
    if len(points) > num:
        points, triangles = _snapped(vertices, faces, num)
    return _split_longest_edges(points, triangles, num)


def _collapsed(
    vertices: np.ndarray, faces: np.ndarray, num: int
) -> tuple[np.ndarray, np.ndarray]:
    """At most `num` vertices, unless no round of collapses gets there.

    The decimation is steered by its number of faces, so the target is felt for; a
    gentle threshold keeps the shape better, a greedy one goes further.
    """
    middle = vertices.mean(axis=0)
    size = np.ptp(vertices, axis=0).max() / 1000  # thresholds are not free of scale
    small = ((vertices - middle) / size).astype(np.float32)
    points, triangles = vertices.astype(np.float64), faces.astype(np.int32)
    for greed in GREEDS:
        target = len(faces) - 2 * (len(vertices) - num)
        for _ in range(MAX_ROUNDS):
            if len(points) <= num or target < 4:
                break
            points, triangles = fast_simplification.simplify(
                small, faces.astype(np.int32), target_count=target, agg=greed
            )
            points = points.astype(np.float64) * size + middle
            points, triangles = merge_vertices(points, triangles)
            target -= max(2 * (len(points) - num), 2)
    return points, triangles


def _snapped(
    vertices: np.ndarray, faces: np.ndarray, num: int
) -> tuple[np.ndarray, np.ndarray]:
    """At most `num` vertices, on the finest cubic lattice that allows it."""
    low, high = 0.0, float(np.ptp(vertices, axis=0).max())
    for _ in range(24):
        pitch = (low + high) / 2
        points, _ = merge_vertices(np.round(vertices / pitch) * pitch, faces)
        low, high = (pitch, high) if len(points) > num else (low, pitch)
    return merge_vertices(np.round(vertices / high) * high, faces)


def _split_longest_edges(
    vertices: np.ndarray, faces: np.ndarray, num: int
) -> tuple[np.ndarray, np.ndarray]:
    """Adds middles of the longest edge until there are `num` vertices.

    Each time the faces at the edge become two each. Of edges as long as each other the
    first is split.
    """
    points = np.concatenate([vertices, np.empty((num - len(vertices), 3))])
    squared = _squared_sides(points, faces)
    for middle in range(len(vertices), num):
        a_face, a_corner = divmod(int(squared.argmax()), 3)
        a, b = faces[a_face, a_corner], faces[a_face, (a_corner + 1) % 3]
        points[middle] = (points[a] + points[b]) / 2
        is_a, is_b = faces == a, faces == b
        has_edge = is_a.any(axis=1) & is_b.any(axis=1)
        split = faces[has_edge]
        halves = np.concatenate(
            [np.where(split == end, middle, split) for end in (a, b)]
        )
        faces = np.concatenate([faces[~has_edge], halves])
        squared = np.concatenate([squared[~has_edge], _squared_sides(points, halves)])
    return points, faces.astype(np.int32)


def _squared_sides(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Squared lengths of each face's sides, rounded: the same from both faces."""
    corners = vertices[faces]
    sides = corners - np.roll(corners, -1, axis=1)
    return np.round((sides**2).sum(axis=2), 12)


def _directed_edges(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return faces.ravel(), np.roll(faces, -1, axis=1).ravel()
