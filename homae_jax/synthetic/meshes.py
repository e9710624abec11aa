"""Meshes ready to draw, and the reader of textured models.

A drawn mesh repeats a vertex wherever its normal or texture coordinate jumps, so that
one index serves all three. Texture coordinates follow Wavefront OBJ: (0, 0) is the
bottom-left corner of the picture. Metres; model frame unless said otherwise.
"""

import dataclasses
import functools
from pathlib import Path

import cv2
import numpy as np
import scipy.sparse
from jaxtyping import Float, Int, UInt8

from homae_jax.errors import UserError

CREASE_DEG = 40.0  # faces meeting at a sharper angle do not share a normal
PLAIN_COLOUR = (170, 165, 160)  # of models that come without a picture


@dataclasses.dataclass(frozen=True, eq=False)
class DrawMesh:
    """Geometry for a renderer; compared by identity, which keys renderers' caches."""

    positions: Float[np.ndarray, "n 3"]
    normals: Float[np.ndarray, "n 3"]
    uvs: Float[np.ndarray, "n 2"]
    faces: Int[np.ndarray, "f 3"]
    is_static: bool  # the same in many pictures: worth keeping on the device

    @functools.cached_property
    def bounds(self) -> Float[np.ndarray, "2 3"]:
        """Lower and upper corner of the axis-aligned box."""
        return np.stack([self.positions.min(axis=0), self.positions.max(axis=0)])


@dataclasses.dataclass(frozen=True, eq=False)
class Material:
    """A picture to wrap round a mesh and how it answers light."""

    texture: UInt8[np.ndarray, "h w 3"]
    gloss: float = 0.10  # strength of the highlight
    wrap: float = 0.0  # how far light creeps round the edge (skin, cloth)
    is_tiled: bool = True  # wraps at its borders and is shrunk smoothly when far


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """An object as its folder describes it."""

    name: str
    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    mesh: DrawMesh
    material: Material
    surface_points: Float[np.ndarray, "p 3"]  # evenly spread, for quick visibility

    @functools.cached_property
    def bounds(self) -> Float[np.ndarray, "2 3"]:
        """Lower and upper corner of the axis-aligned box."""
        return np.stack([self.vertices.min(axis=0), self.vertices.max(axis=0)])


def face_normals(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]
) -> Float[np.ndarray, "f 3"]:
    """Normals of length twice the face's area."""
    first, second, third = (vertices[faces[:, c]] for c in range(3))
    return np.cross(second - first, third - first)


def vertex_normals(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]
) -> Float[np.ndarray, "v 3"]:
    """Area-weighted unit normals."""
    normals = face_normals(vertices, faces)
    corner = faces.ravel()
    total = np.stack(
        [
            np.bincount(corner, np.repeat(normals[:, a], 3), minlength=len(vertices))
            for a in range(3)
        ],
        axis=1,
    )
    return _unit(total)


def crease_normals(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]
) -> Float[np.ndarray, "f 3 3"]:
    """Unit normals per corner, smooth over faces within `CREASE_DEG` of its own."""
    normals = face_normals(vertices, faces)
    unit = _unit(normals)
    num_faces, shape = len(faces), (len(faces), len(vertices))
    ones, rows = np.ones(num_faces), np.arange(num_faces)
    touches = scipy.sparse.csr_matrix(
        (np.ones(faces.size), (np.repeat(rows, 3), faces.ravel())), shape
    )
    result = np.empty((num_faces, 3, 3))
    for c in range(3):
        at_corner = scipy.sparse.csr_matrix((ones, (rows, faces[:, c])), shape)
        pairs = (at_corner @ touches.T).tocoo()
        cosine = (unit[pairs.row] * unit[pairs.col]).sum(axis=1)
        smooth = cosine > np.cos(np.radians(CREASE_DEG))
        own, other = pairs.row[smooth], pairs.col[smooth]
        total = [np.bincount(own, normals[other, a], num_faces) for a in range(3)]
        result[:, c] = _unit(np.stack(total, axis=1))
    return result


def make_draw_mesh(
    vertices: Float[np.ndarray, "v 3"],
    faces: Int[np.ndarray, "f 3"],
    corner_uvs: Float[np.ndarray, "f 3 2"],
) -> DrawMesh:
    """Splits vertices where normals or texture coordinates jump."""
    normals = crease_normals(vertices, faces).reshape(-1, 3)
    key = np.concatenate(
        [
            faces.reshape(-1, 1).astype(np.int64),
            np.round(normals * 200).astype(np.int64),
            np.round(corner_uvs.reshape(-1, 2) * 16384).astype(np.int64),
        ],
        axis=1,
    )
    _, first, index = np.unique(key, axis=0, return_index=True, return_inverse=True)
    return DrawMesh(
        positions=vertices[faces.ravel()[first]].astype(np.float32),
        normals=normals[first].astype(np.float32),
        uvs=corner_uvs.reshape(-1, 2)[first].astype(np.float32),
        faces=index.reshape(-1, 3).astype(np.int32),
        is_static=True,
    )


def sample_surface(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], num: int
) -> Float[np.ndarray, "{num} 3"]:
    """Spreads points evenly by area; the same mesh always gives the same points."""
    rng = np.random.default_rng(0)
    area = np.linalg.norm(face_normals(vertices, faces), axis=1)
    edges = np.cumsum(area) / area.sum()
    rows = np.searchsorted(edges, (np.arange(num) + 0.5) / num)
    weights = rng.dirichlet(np.ones(3), size=num)
    return np.einsum("pc,pcd->pd", weights, vertices[faces[rows]]).astype(np.float32)


def load_model(folder: Path) -> Model:
    """Reads `textured_simple.obj` and its picture from a YCB model's folder.

    Raises:
      UserError: the file is missing or holds no triangles.
    """
    path = folder / "textured_simple.obj"
    if not path.is_file():
        raise UserError(f"{path}: missing; a models folder holds <name>/{path.name}")
    vertices, faces, corner_uvs, material_file = _read_obj(path)
    if not len(faces):
        raise UserError(f"{path}: holds no faces; is it a complete YCB model?")
    texture = _read_texture(folder, material_file)
    return Model(
        name=folder.name,
        vertices=vertices,
        faces=faces,
        mesh=make_draw_mesh(vertices, faces, corner_uvs),
        material=Material(texture=texture),
        surface_points=sample_surface(vertices, faces, 1500),
    )


def _read_obj(path: Path):
    """Vertices, faces, texture coordinates per corner, and the material library."""
    lines = {"v": [], "vt": [], "f": [], "mtllib": []}
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            kind, _, rest = line.partition(" ")
            if kind in lines:
                lines[kind].append(rest.split())
    vertices = np.array([v[:3] for v in lines["v"]], np.float64).reshape(-1, 3)
    texture_uvs = np.array([t[:2] for t in lines["vt"]], np.float64).reshape(-1, 2)
    corners = [
        [(polygon[0], polygon[i], polygon[i + 1])]
        for polygon in lines["f"]
        for i in range(1, len(polygon) - 1)
    ]
    fields = [c.split("/") for fan in corners for face in fan for c in face]
    ids = np.array([int(field[0]) for field in fields], np.int64).reshape(-1, 3)
    uv_ids = np.array(
        [int(f[1]) if len(f) > 1 and f[1] else 0 for f in fields], np.int64
    ).reshape(-1, 3)
    # OBJ counts from 1, and from the end when negative; 0 stands for "none" here.
    faces = np.where(ids < 0, ids + len(vertices), ids - 1)
    uv_ids = np.where(uv_ids < 0, uv_ids + len(texture_uvs) + 1, uv_ids)
    padded = np.concatenate([np.zeros((1, 2)), texture_uvs])
    library = lines["mtllib"][0][0] if lines["mtllib"] and lines["mtllib"][0] else ""
    return vertices, faces.astype(np.int32), padded[uv_ids], library


def _read_texture(folder: Path, material_file: str) -> UInt8[np.ndarray, "h w 3"]:
    """The picture the material names, else texture_map.png, else a plain colour."""
    names = ["texture_map.png"]
    if material_file and (folder / material_file).is_file():
        text = (folder / material_file).read_text(encoding="utf-8", errors="replace")
        maps = [row.split() for row in text.splitlines() if "map_Kd" in row]
        names = [row[-1] for row in maps if len(row) > 1] + names
    for name in names:
        picture = cv2.imread(str(folder / name)) if (folder / name).is_file() else None
        if picture is not None:
            return np.ascontiguousarray(_limit_size(picture)[..., ::-1])
    return np.full((8, 8, 3), PLAIN_COLOUR, np.uint8)


def _limit_size(picture: np.ndarray, side: int = 1024) -> np.ndarray:
    """Shrinks scans' 4096-pixel pictures: more than a 640-pixel frame can show."""
    scale = side / max(picture.shape[:2])
    if scale >= 1:
        return picture
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(length, 1e-15)
