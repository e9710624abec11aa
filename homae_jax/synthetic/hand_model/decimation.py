"""Edge collapse to an exact vertex count and an exact boundary loop.

Quadric error metric (Garland and Heckbert 1997) with the link condition and a test
against flipped faces; then edge flips and relaxation that keep the counts.
"""

import heapq

import numpy as np
import scipy.sparse as sp

from homae_jax.synthetic.hand_model.skeleton import unit
from homae_jax.synthetic.hand_model.surface import Field, project

RELAX_STEPS, RELAX_RATE = 6, 0.35


def boundary_loop(faces: np.ndarray) -> list[int]:
    """The one boundary of a mesh, along its half-edges, from its lowest vertex."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    directed = set(map(tuple, edges.tolist()))
    following = {a: b for a, b in directed if (b, a) not in directed}
    loop = [min(following)]
    while following[loop[-1]] != loop[0]:
        loop.append(following[loop[-1]])
    if len(loop) != len(following):
        raise ValueError("the mesh has more than one boundary")
    return loop


def adjacency(faces: np.ndarray, num: int) -> sp.csr_matrix:
    """Symmetric 0/1 matrix of vertices that share an edge."""
    i, j = faces.ravel(), faces[:, [1, 2, 0]].ravel()
    matrix = sp.coo_matrix((np.ones(len(i)), (i, j)), (num, num))
    return ((matrix + matrix.T) > 0).astype(float).tocsr()


class _Collapser:
    """A triangle mesh under edge collapse."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray, density: np.ndarray):
        self.vertices = vertices.copy()
        self.triangles = {i: [int(v) for v in face] for i, face in enumerate(faces)}
        self.around: list[set[int]] = [set() for _ in vertices]
        for i, triangle in self.triangles.items():
            for v in triangle:
                self.around[v].add(i)
        self.quadrics = _quadrics(vertices, faces) * density[:, None, None]
        self.on_boundary = np.zeros(len(vertices), bool)
        self.on_boundary[boundary_loop(faces)] = True
        self.is_alive = np.ones(len(vertices), bool)
        self.stamp = np.zeros(len(vertices), int)

    def neighbours(self, v: int) -> set[int]:
        return {x for f in self.around[v] for x in self.triangles[f]} - {v}

    def boundary_cost(self, a: int, b: int) -> tuple[float, np.ndarray]:
        va, vb = self.vertices[a], self.vertices[b]
        return float(np.linalg.norm(va - vb)), (va + vb) / 2

    def interior_cost(self, a: int, b: int) -> tuple[float, np.ndarray]:
        q = self.quadrics[a] + self.quadrics[b]
        if self.on_boundary[a] or self.on_boundary[b]:
            candidates = [self.vertices[a if self.on_boundary[a] else b]]
        else:
            candidates = [(self.vertices[a] + self.vertices[b]) / 2]
            if abs(np.linalg.det(q[:3, :3])) > 1e-30:
                candidates.insert(0, np.linalg.solve(q[:3, :3], -q[:3, 3]))
        costs = [
            float(c @ q[:3, :3] @ c + 2 * c @ q[:3, 3] + q[3, 3]) for c in candidates
        ]
        best = int(np.argmin(costs))
        return costs[best], candidates[best]

    def is_boundary_edge(self, a: int, b: int) -> bool:
        both = self.on_boundary[a] and self.on_boundary[b]
        return bool(both and len(self.around[a] & self.around[b]) == 1)

    def is_interior_edge(self, a: int, b: int) -> bool:
        return not (self.on_boundary[a] and self.on_boundary[b])

    def collapse(self, keep: int, drop: int, position: np.ndarray) -> bool:
        """Merges `drop` into `keep`; False if the mesh would break or fold."""
        shared = self.around[keep] & self.around[drop]
        if len(self.neighbours(keep) & self.neighbours(drop)) != len(shared):
            return False
        if any(self._folds(v, shared, (keep, drop), position) for v in (keep, drop)):
            return False
        for f in shared:
            for v in self.triangles.pop(f):
                self.around[v].discard(f)
        for f in self.around[drop]:
            self.triangles[f] = [keep if v == drop else v for v in self.triangles[f]]
        self.around[keep] |= self.around[drop]
        self.around[drop] = set()
        self.is_alive[drop] = False
        self.vertices[keep] = position
        self.quadrics[keep] += self.quadrics[drop]
        self.stamp[[keep, drop]] += 1
        return True

    def _folds(self, v: int, shared: set, edge: tuple, position: np.ndarray) -> bool:
        for f in self.around[v] - shared:
            triangle = self.triangles[f]
            old = self.vertices[triangle]
            new = np.array(
                [position if x in edge else self.vertices[x] for x in triangle]
            )
            n0 = np.cross(old[1] - old[0], old[2] - old[0])
            n1 = np.cross(new[1] - new[0], new[2] - new[0])
            if n0 @ n1 <= 0.3 * np.linalg.norm(n0) * np.linalg.norm(n1):
                return True
        return False

    def run(self, cost, is_candidate, is_done) -> None:
        """Collapses the cheapest candidate edges until `is_done()`."""
        heap: list[tuple] = []

        def push(a: int, b: int) -> None:
            value, position = cost(a, b)
            stamps = (self.stamp[a], self.stamp[b])
            heapq.heappush(heap, (value, a, b, *stamps, tuple(position)))

        triangles = self.triangles.values()
        pairs = ((t[i], t[(i + 1) % 3]) for t in triangles for i in range(3))
        for a, b in sorted({(min(p), max(p)) for p in pairs}):
            if is_candidate(a, b):
                push(a, b)
        while heap and not is_done():
            _, a, b, stamp_a, stamp_b, position = heapq.heappop(heap)
            if not (self.is_alive[a] and self.is_alive[b]):
                continue
            if (self.stamp[a], self.stamp[b]) != (stamp_a, stamp_b):
                continue
            keep, drop = (b, a) if self.on_boundary[b] else (a, b)
            if self.collapse(keep, drop, np.array(position)):
                for x in sorted(self.neighbours(keep)):
                    if is_candidate(keep, x):
                        push(keep, x)


def _quadrics(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Plane quadrics by area, and a weak pull to the vertex itself."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    normal = np.cross(b - a, c - a)
    area = np.linalg.norm(normal, axis=1) / 2
    normal = normal / (2 * area[:, None])
    plane = np.concatenate([normal, -(normal * a).sum(1, keepdims=True)], 1)
    face_quadric = plane[:, :, None] * plane[:, None] * area[:, None, None] / 3
    quadric, share = np.zeros((len(vertices), 4, 4)), np.zeros(len(vertices))
    for corner in range(3):
        np.add.at(quadric, faces[:, corner], face_quadric)
        np.add.at(share, faces[:, corner], area / 3)
    pull = np.zeros_like(quadric)
    pull[:, :3, :3] = np.eye(3)
    pull[:, :3, 3] = pull[:, 3, :3] = -vertices
    pull[:, 3, 3] = (vertices**2).sum(1)
    return quadric + 0.02 * pull * share[:, None, None]


def decimate(
    vertices: np.ndarray,
    faces: np.ndarray,
    *,
    num_vertices: int,
    num_boundary: int,
    density: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Exactly `num_vertices` in all and `num_boundary` on the open edge."""
    mesh = _Collapser(vertices, faces, density)
    mesh.run(
        mesh.boundary_cost,
        mesh.is_boundary_edge,
        lambda: (mesh.on_boundary & mesh.is_alive).sum() <= num_boundary,
    )
    mesh.run(
        mesh.interior_cost,
        mesh.is_interior_edge,
        lambda: mesh.is_alive.sum() <= num_vertices,
    )
    number = np.cumsum(mesh.is_alive) - 1
    triangles = np.array([mesh.triangles[k] for k in sorted(mesh.triangles)])
    return mesh.vertices[mesh.is_alive], number[triangles]


def relax(
    vertices: np.ndarray, faces: np.ndarray, field: Field
) -> tuple[np.ndarray, np.ndarray]:
    """Evens out the triangles on the surface; boundary and counts stay."""
    for _ in range(RELAX_STEPS):
        for _ in range(2):
            faces = flip_edges(vertices, faces)
        matrix = adjacency(faces, len(vertices))
        mean = (matrix @ vertices) / np.asarray(matrix.sum(1)).reshape(-1, 1)
        inner = np.setdiff1d(np.arange(len(vertices)), boundary_loop(faces))
        moved = vertices + RELAX_RATE * (mean - vertices)
        vertices = vertices.copy()
        vertices[inner] = project(moved[inner], field, 2)
    return vertices, faces


def flip_edges(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Flips interior edges whose opposite angles sum to more than pi."""
    faces = faces.copy()
    sides: dict[tuple[int, int], list[int]] = {}
    for i, face in enumerate(faces.tolist()):
        for a, b in zip(face, face[1:] + face[:1], strict=True):
            sides.setdefault((min(a, b), max(a, b)), []).append(i)
    existing, locked = set(sides), set()
    for (a, b), pair in sorted(sides.items()):
        if len(pair) != 2 or locked & set(pair):
            continue
        c, d = (next(v for v in faces[f].tolist() if v not in (a, b)) for f in pair)
        edge = (min(c, d), max(c, d))
        if edge in existing or not _should_flip(vertices, faces[pair], a, b, c, d):
            continue
        face = faces[pair[0]].tolist()
        start, end = (a, b) if face[(face.index(a) + 1) % 3] == b else (b, a)
        faces[pair[0]], faces[pair[1]] = [start, d, c], [d, end, c]
        locked |= set(pair)
        existing.add(edge)
        existing.discard((a, b))
    return faces


def _should_flip(
    vertices: np.ndarray, pair: np.ndarray, a: int, b: int, c: int, d: int
) -> bool:
    def angle(apex: int) -> float:
        to_a, to_b = (unit(vertices[v] - vertices[apex]) for v in (a, b))
        return float(np.arccos(np.clip(to_a @ to_b, -1, 1)))

    if angle(c) + angle(d) <= np.pi + 0.05:
        return False
    corners = vertices[pair]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return float(unit(normals[0]) @ unit(normals[1])) >= 0.6
