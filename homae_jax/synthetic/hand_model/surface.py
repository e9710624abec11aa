"""The hand as an implicit surface, and meshes drawn from implicit surfaces."""

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
from jaxtyping import Float, Int

from homae_jax.synthetic.hand_model.skeleton import PALM, Cone

PALM_BLEND, FINGER_BLEND, JOIN_BLEND = 0.0032, 0.0012, 0.0022  # metres
Field = Callable[[np.ndarray], np.ndarray]


def round_cone_distance(
    points: Float[np.ndarray, "p 3"], cone: Cone
) -> Float[np.ndarray, " p"]:
    """Signed distance to the hull of two balls (Quilez' closed form)."""
    axis = cone.b - cone.a
    l2, rr = axis @ axis, cone.radius_a - cone.radius_b
    a2, il2 = l2 - rr * rr, 1 / (axis @ axis)
    pa = points - cone.a
    y = pa @ axis
    z = y - l2
    x2 = ((pa * l2 - y[:, None] * axis) ** 2).sum(1)
    y2, z2 = y * y * l2, z * z * l2
    k = np.sign(rr) * rr * rr * x2
    side = (np.sqrt(x2 * a2 * il2) + y * rr) * il2 - cone.radius_a
    near_a = np.sqrt(x2 + y2) * il2 - cone.radius_a
    near_b = np.sqrt(x2 + z2) * il2 - cone.radius_b
    out = np.where(np.sign(y) * a2 * y2 < k, near_a, side)
    return np.where(np.sign(z) * a2 * z2 > k, near_b, out)


def smooth_union(
    distances: Sequence[np.ndarray], blend: float
) -> Float[np.ndarray, " p"]:
    """Exponential smooth minimum; does not depend on the order."""
    stacked = np.stack(distances)
    low = stacked.min(0)
    return low - blend * np.log(np.exp(-(stacked - low) / blend).sum(0))


def hand_field(cones: list[Cone]) -> Field:
    """Signed distance of the whole hand; fingers blend with the palm only."""
    groups: dict[int, list[Cone]] = {}
    for cone in cones:
        groups.setdefault(cone.group, []).append(cone)

    def parts(points: np.ndarray) -> np.ndarray:
        palm = smooth_union(
            [round_cone_distance(points, c) for c in groups[PALM]], PALM_BLEND
        )
        joined = []
        for group in sorted(set(groups) - {PALM}):
            cones = [round_cone_distance(points, c) for c in groups[group]]
            finger = smooth_union(cones, FINGER_BLEND)
            joined.append(smooth_union([palm, finger], JOIN_BLEND))
        return np.minimum.reduce(joined)

    def field(points: np.ndarray) -> np.ndarray:
        chunks = np.array_split(points, max(1, len(points) // 60000))
        return np.concatenate([parts(chunk) for chunk in chunks])

    return field


def gradient(
    points: Float[np.ndarray, "p 3"], field: Field, step: float = 2e-4
) -> Float[np.ndarray, "p 3"]:
    """Central differences."""
    offsets = np.eye(3) * step
    differences = [field(points + d) - field(points - d) for d in offsets]
    return np.stack(differences, 1) / (2 * step)


def project(
    points: Float[np.ndarray, "p 3"], field: Field, iterations: int
) -> Float[np.ndarray, "p 3"]:
    """Newton steps onto the surface."""
    for _ in range(iterations):
        g = gradient(points, field)
        slope = np.maximum((g * g).sum(1, keepdims=True), 0.2)
        points = points - field(points)[:, None] * g / slope
    return points


def surface_nets(
    values: Float[np.ndarray, "nx ny nz"], origin: Float[np.ndarray, "3"], pitch: float
) -> tuple[Float[np.ndarray, "v 3"], Int[np.ndarray, "f 3"]]:
    """Naive surface nets (Gibson 1998): one vertex per cell the surface crosses.

    Open where the surface leaves the lattice. Returns vertices and outward triangles.
    """
    inside = values < 0
    corners = np.array(list(product((0, 1), repeat=3)))
    views = np.stack([_shifted(inside, c) for c in corners])
    crossed = views.any(0) & ~views.all(0)
    cells = np.argwhere(crossed)
    number = np.full(crossed.shape, -1)
    number[crossed] = np.arange(len(cells))
    vertices = origin + pitch * _crossing_means(values, cells, corners)
    quads = np.concatenate([_quads(inside, number, axis) for axis in range(3)])
    return vertices, np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])


def _shifted(grid: np.ndarray, corner: np.ndarray) -> np.ndarray:
    i, j, k = corner
    nx, ny, nz = grid.shape
    return grid[i : nx - 1 + i, j : ny - 1 + j, k : nz - 1 + k]


def _crossing_means(
    values: np.ndarray, cells: np.ndarray, corners: np.ndarray
) -> np.ndarray:
    """Mean of the surface's crossings of each cell's edges, in lattice units."""
    total, count = np.zeros((len(cells), 3)), np.zeros(len(cells))
    for corner, axis in product(corners, range(3)):
        if corner[axis]:
            continue
        pa = cells + corner
        pb = pa + np.eye(3, dtype=int)[axis]
        fa, fb = values[tuple(pa.T)], values[tuple(pb.T)]
        crosses = (fa < 0) != (fb < 0)
        t = np.where(crosses, fa / np.where(crosses, fa - fb, 1), 0)
        total[crosses] += (pa + t[:, None] * (pb - pa))[crosses]
        count[crosses] += 1
    return total / count[:, None]


def _quads(inside: np.ndarray, number: np.ndarray, axis: int) -> np.ndarray:
    """One quad round every lattice edge along `axis` that the surface crosses."""
    u, w = (axis + 1) % 3, (axis + 2) % 3
    low = tuple(slice(0, -1) if a == axis else slice(None) for a in range(3))
    high = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
    edge = np.argwhere(inside[low] != inside[high])
    fits = (edge[:, u] > 0) & (edge[:, w] > 0)
    fits &= (edge[:, u] < number.shape[u]) & (edge[:, w] < number.shape[w])
    edge = edge[fits]
    du, dw = np.eye(3, dtype=int)[u], np.eye(3, dtype=int)[w]
    around = (edge - du - dw, edge - dw, edge, edge - du)
    quads = np.stack([number[tuple(p.T)] for p in around], 1)
    is_flipped = ~inside[tuple(edge.T)]
    quads[is_flipped] = quads[is_flipped][:, ::-1]
    return quads
