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
    while len(points) < num:
        points, triangles = _split_longest_edge(points, triangles)
    return points, triangles


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


def _split_longest_edge(
    vertices: np.ndarray, faces: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Adds the middle of the longest edge; its faces become two each."""
    start, end = _directed_edges(faces)
    squared = ((vertices[start] - vertices[end]) ** 2).sum(axis=1)
    longest = int(np.argmax(np.round(squared, 12)))  # the first among equals
    a, b = start[longest], end[longest]
    has_edge = (faces == a).any(axis=1) & (faces == b).any(axis=1)
    halves = [
        np.where(faces[has_edge] == old, len(vertices), faces[has_edge])
        for old in (a, b)
    ]
    middle = (vertices[[a]] + vertices[[b]]) / 2
    return (
        np.concatenate([vertices, middle]),
        np.concatenate([faces[~has_edge], *halves]).astype(np.int32),
    )


def _directed_edges(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return faces.ravel(), np.roll(faces, -1, axis=1).ravel()
