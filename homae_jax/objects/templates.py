"""Object templates: meshes of exactly 1,000 vertices and distance lattices, cached.

Made once from each model's `textured_simple.obj` and kept as one npz per object, named
by the hash of the file it came from. Model frame, metres; numpy arrays.
"""

import contextlib
import hashlib
import io
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import trimesh
from jaxtyping import Float, Int

from homae_jax.errors import UserError
from homae_jax.objects.sdf_bake import bake_sdf, nearby_faces
from homae_jax.objects.simplify import merge_vertices, simplify_exactly
from homae_jax.objects.ycb import BOX_CENTRES, EXTENTS
from homae_jax.progress import progress_bar
from homae_jax.schema import NUM_OBJECT_VERTICES, ObjectTemplates
from homae_jax.whole_file import replacing

MODEL_FILE = "textured_simple.obj"
CACHE_VERSION = 4  # of what is made from a file; part of the cache's name
GRID_MARGIN = 0.02  # metres of the lattice beyond the object's box
NUM_NEARBY = 12  # faces kept for each face
ODD_BOX = 0.01  # metres; sizes that are estimated in ycb.py are right to less
MIN_SIZE, MAX_SIZE = 0.01, 1.0  # metres, of what a hand holds
MAX_MODEL_BYTES = 256 * 2**20


def load_templates(
    models_dir: str | Path,
    names: Sequence[str],
    *,
    cache_dir: str | Path,
    num_vertices: int = NUM_OBJECT_VERTICES,
    sdf_grid_size: int = 64,
) -> tuple[ObjectTemplates, tuple[str, ...]]:
    """Templates of the named objects, in the order of `names`.

    Raises:
      UserError: a model is missing or is no mesh.
    """
    parts = [
        _cached_template(
            Path(models_dir) / name / MODEL_FILE,
            Path(cache_dir),
            num_vertices,
            sdf_grid_size,
        )
        for name in progress_bar(names, total=len(names), desc="object templates")
    ]
    num_faces = max(len(part["faces"]) for part in parts)
    for part in parts:
        for key in ("faces", "nearby_faces"):
            rows = num_faces - len(part[key])
            part[key] = np.pad(part[key], ((0, rows), (0, 0)))
    stacked = {key: np.stack([part[key] for part in parts]) for key in parts[0]}
    return ObjectTemplates(**stacked), tuple(names)


def box_corners(vertices: Float[np.ndarray, "v 3"]) -> Float[np.ndarray, "8 3"]:
    """Corners of the axis-aligned box; index = 4 bx + 2 by + bz (HO-3D)."""
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    is_high = np.array(list(np.ndindex(2, 2, 2)), bool)
    return np.where(is_high, high, low)


def _cached_template(
    path: Path, cache_dir: Path, num_vertices: int, grid_size: int
) -> dict[str, np.ndarray]:
    content = _read(path)
    digest = hashlib.sha256(content).hexdigest()[:16]
    settings = f"{num_vertices}-{grid_size}-v{CACHE_VERSION}"
    cached = cache_dir / f"{path.parent.name}-{digest}-{settings}.npz"
    found = _read_cache(cached)
    if found is not None:
        return found
    template = _make_template(path, content, num_vertices, grid_size)
    with contextlib.suppress(OSError):  # without a place to write, made every time
        _write_cache(cached, template)
    return template


def _read_cache(path: Path) -> dict[str, np.ndarray] | None:
    """None if it is not there, or damaged."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in ObjectTemplates._fields}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error):
        return None


def _write_cache(path: Path, template: dict[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **template)
    with replacing(path) as part:
        part.write_bytes(buffer.getvalue())


def odd_boxes(
    names: Sequence[str], corners: Float[np.ndarray, "o 8 3"]
) -> dict[str, float]:
    """How far boxes lie from YCB-Video's, metres, of those for which it is much.

    Other releases of the YCB models are turned or centred otherwise.
    """
    found = {}
    for name, box in zip(names, corners, strict=True):
        half = np.array(EXTENTS[name]) / 2
        known = np.array(BOX_CENTRES[name]) + np.stack([-half, half])
        offset = float(np.abs(box_corners(known) - box).max())
        if offset > ODD_BOX:
            found[name] = offset
    return found


def read_model(
    path: Path,
) -> tuple[Float[np.ndarray, "v 3"], Int[np.ndarray, "f 3"]]:
    """Vertices (metres) and faces of an .obj file, as they are.

    Raises:
      UserError: it is missing, damaged, or no YCB model in metres.
    """
    return _parse(path, _read(path))


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_MODEL_BYTES:
            raise UserError(f"{path}: too large for a YCB model")
        return path.read_bytes()
    except OSError as e:
        raise UserError(
            f"{path}: cannot be read ({e.strerror}); data.models must hold "
            f"<name>/{MODEL_FILE} for every object"
        ) from e


def _parse(path: Path, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    try:
        mesh = trimesh.load(
            io.BytesIO(content),
            file_type="obj",
            force="mesh",
            process=False,
            skip_materials=True,
        )
        vertices = np.asarray(mesh.vertices, np.float64)
        faces = np.asarray(mesh.faces, np.int64)
    except Exception as e:  # the reader fails in many ways on damaged text
        raise UserError(f"{path}: not a readable .obj mesh ({type(e).__name__})") from e
    if len(faces) < 4 or not np.isfinite(vertices).all():
        raise UserError(f"{path}: not a closed mesh ({len(faces)} faces)")
    size = np.ptp(vertices, axis=0).max()
    if not MIN_SIZE < size < MAX_SIZE:
        raise UserError(
            f"{path}: the model is {size:.3g} wide, expected metres, as YCB-Video's "
            "models have them (BOP's are millimetres)"
        )
    return vertices, faces


def _make_template(
    path: Path, content: bytes, num_vertices: int, grid_size: int
) -> dict[str, np.ndarray]:
    vertices, faces = _parse(path, content)
    vertices, faces = merge_vertices(vertices, faces)
    points, triangles = simplify_exactly(vertices, faces, num_vertices)
    lattice = bake_sdf(points, triangles, grid_size, GRID_MARGIN)
    return {
        "vertices": points.astype(np.float32),
        "faces": triangles.astype(np.int32),
        "corners": box_corners(vertices).astype(np.float32),
        "sdf_grid": np.asarray(lattice.values, np.float32),
        "sdf_origin": np.asarray(lattice.origin, np.float32),
        "sdf_pitch": np.float32(lattice.pitch),
        "sdf_nearest": lattice.nearest,
        "nearby_faces": nearby_faces(points, triangles, NUM_NEARBY),
    }
