"""Edge collapse to an exact vertex count and an exact boundary loop.

Quadric error metric (Garland and Heckbert 1997) with the link condition and a test
against flipped faces; then edge flips and relaxation that keep the counts.
"""

import heapq
from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from homae_jax.synthetic.hand_model.skeleton import unit
from homae_jax.synthetic.hand_model.surface import Field, project

RELAX_STEPS, RELAX_RATE = 6, 0.35
MAX_TURN_COSINE = 0.3  # of a face's normal, before and after a collapse


def boundary_loop(faces: Int[np.ndarray, "f 3"]) -> list[int]:
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


def adjacency(faces: Int[np.ndarray, "f 3"], num: int) -> sp.csr_matrix:
    """Symmetric 0/1 matrix of vertices that share an edge."""
    i, j = faces.ravel(), faces[:, [1, 2, 0]].ravel()
    matrix = sp.coo_matrix((np.ones(len(i)), (i, j)), (num, num))
    return ((matrix + matrix.T) > 0).astype(float).tocsr()


def face_normals(corners: Float[np.ndarray, "f 3 3"]) -> Float[np.ndarray, "f 3"]:
    """Normals of triangles, twice the area long (np.cross, but quick)."""
    ax, ay, az = (corners[:, 1] - corners[:, 0]).T
    bx, by, bz = (corners[:, 2] - corners[:, 0]).T
    return np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], 1)


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

    def boundary_cost(self, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Length and middle of edges [n, 2]."""
        a, b = self.vertices[edges[:, 0]], self.vertices[edges[:, 1]]
        return np.linalg.norm(a - b, axis=1), (a + b) / 2

    def interior_cost(self, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Quadric error of collapsing edges [n, 2], and where to; the rim stays."""
        q = self.quadrics[edges].sum(1)
        a, b = self.vertices[edges[:, 0]], self.vertices[edges[:, 1]]
        middle = (a + b) / 2
        on_rim = self.on_boundary[edges]
        middle = np.where(on_rim[:, :1], a, np.where(on_rim[:, 1:], b, middle))
        matrix, offset = q[:, :3, :3], q[:, :3, 3]
        is_free = ~on_rim.any(1) & (np.abs(np.linalg.det(matrix)) > 1e-30)
        matrix = np.where(is_free[:, None, None], matrix, np.eye(3))
        best = np.linalg.solve(matrix, -offset[..., None])[..., 0]
        candidates = np.stack([np.where(is_free[:, None], best, middle), middle], 1)
        homogeneous = np.concatenate([candidates, np.ones((len(edges), 2, 1))], 2)
        costs = ((homogeneous @ q) * homogeneous).sum(2)
        chosen = np.arange(len(edges)), costs.argmin(1)
        return costs[chosen], candidates[chosen]

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
        if self._folds(keep, drop, shared, position):
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

    def _folds(self, a: int, b: int, shared: set[int], position: np.ndarray) -> bool:
        """Whether a face round edge ab would turn by more than some 70 degrees."""
        faces = sorted((self.around[a] | self.around[b]) - shared)
        triangles = np.array([self.triangles[f] for f in faces])
        old = self.vertices[triangles]
        new = np.where(((triangles == a) | (triangles == b))[..., None], position, old)
        n0, n1 = face_normals(old), face_normals(new)
        lengths = np.sqrt((n0 * n0).sum(1) * (n1 * n1).sum(1))
        return bool(((n0 * n1).sum(1) <= MAX_TURN_COSINE * lengths).any())

    def run(
        self,
        cost: Callable,
        is_candidate: Callable[[int, int], bool],
        is_done: Callable[[], bool],
    ) -> None:
        """Collapses the cheapest candidate edges until `is_done()`.

        Raises:
          ValueError: every collapse that is left would fold the mesh.
        """
        heap: list[tuple] = []

        def push(edges: list[tuple[int, int]]) -> None:
            edges = [edge for edge in edges if is_candidate(*edge)]
            if not edges:
                return
            costs, positions = cost(np.array(edges))
            stamps = self.stamp[np.array(edges)].tolist()
            for row in zip(costs.tolist(), edges, stamps, positions, strict=True):
                heapq.heappush(heap, (*row[:3], tuple(row[3])))

        triangles = self.triangles.values()
        pairs = ((t[i], t[(i + 1) % 3]) for t in triangles for i in range(3))
        push(sorted({(min(p), max(p)) for p in pairs}))
        while heap and not is_done():
            _, (a, b), stamps, position = heapq.heappop(heap)
            if not (self.is_alive[a] and self.is_alive[b]):
                continue
            if self.stamp[[a, b]].tolist() != stamps:
                continue
            keep, drop = (b, a) if self.on_boundary[b] else (a, b)
            if self.collapse(keep, drop, np.array(position)):
                push([(keep, x) for x in sorted(self.neighbours(keep))])
        if not is_done():
            raise ValueError("no edge is left that collapses without a fold")


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
    vertices: Float[np.ndarray, "n 3"],
    faces: Int[np.ndarray, "m 3"],
    *,
    num_vertices: int,
    num_boundary: int,
    density: Float[np.ndarray, " n"],
) -> tuple[Float[np.ndarray, "v 3"], Int[np.ndarray, "f 3"]]:
    """Exactly `num_vertices` in all and `num_boundary` on the open edge."""
    mesh = _Collapser(vertices, faces, density)
    mesh.run(
        mesh.boundary_cost,
        mesh.is_boundary_edge,
        lambda: bool((mesh.on_boundary & mesh.is_alive).sum() <= num_boundary),
    )
    mesh.run(
        mesh.interior_cost,
        mesh.is_interior_edge,
        lambda: bool(mesh.is_alive.sum() <= num_vertices),
    )
    number = np.cumsum(mesh.is_alive) - 1
    triangles = np.array([mesh.triangles[k] for k in sorted(mesh.triangles)])
    return mesh.vertices[mesh.is_alive], number[triangles]


def relax(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], field: Field
) -> tuple[Float[np.ndarray, "v 3"], Int[np.ndarray, "f 3"]]:
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


def flip_edges(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]
) -> Int[np.ndarray, "f 3"]:
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
    """Whether the angles at c and d exceed pi together, on two faces nearly flat."""
    to_a, to_b = (
        unit(vertices[a] - vertices[[c, d]]),
        unit(vertices[b] - vertices[[c, d]]),
    )
    if np.arccos(np.clip((to_a * to_b).sum(1), -1, 1)).sum() <= np.pi + 0.05:
        return False
    normals = unit(face_normals(vertices[pair]))
    return float(normals[0] @ normals[1]) >= 0.6
