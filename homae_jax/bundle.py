"""What an export carries beside the parameters, so that a picture is all one needs.

* ``objects.npz``: the known objects (schema.ObjectTemplates) in the order of the rows
  that the network was trained with, and their names;
* ``hand.npz``: the hand, only where it is the synthetic world's own: MANO's licence
  does not allow handing it on.

Arrays only, nothing that runs when it is read.
"""

import io
import zipfile
from pathlib import Path

import numpy as np

from homae_jax.errors import UserError
from homae_jax.hand.mano import ManoModel
from homae_jax.schema import ObjectTemplates

HAND, OBJECTS = "hand.npz", "objects.npz"
MAX_OBJECTS_BYTES = 256 * 2**20  # 21 objects of 1,000 vertices have 1 MB
_NAMES, _KEPT = "names", ("vertices", "faces", "corners")


def pack_objects(templates: ObjectTemplates, names: tuple[str, ...]) -> bytes:
    """The content of ``objects.npz``; the distance lattices are large and stay out."""
    kept = {key: np.asarray(getattr(templates, key)) for key in _KEPT}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **kept, **{_NAMES: np.array(names)})
    return buffer.getvalue()


def read_objects(path: str | Path) -> tuple[ObjectTemplates, tuple[str, ...]]:
    """Known objects and their names; the distance lattices are empty.

    Raises:
      UserError: damaged, or no such file.
    """
    try:
        arrays = _read_arrays(Path(path))
        names = tuple(str(name) for name in arrays[_NAMES])
        _check(arrays, len(names))
    except Exception as error:  # zip and npy readers fail in many ways
        raise UserError(
            f"{path}: cannot be read as known objects "
            f"({type(error).__name__}); export again"
        ) from error
    vertices, faces, corners = (arrays[key] for key in _KEPT)
    num = len(names)
    templates = ObjectTemplates(
        vertices=vertices,
        faces=faces,
        corners=corners,
        sdf_grid=np.zeros((num, 0, 0, 0), np.float32),
        sdf_origin=np.zeros((num, 3), np.float32),
        sdf_pitch=np.zeros(num, np.float32),
    )
    return templates, names


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        size = sum(info.file_size for info in archive.infolist())
    if size > MAX_OBJECTS_BYTES:
        raise ValueError("unpacks to too much")
    with np.load(path, allow_pickle=False) as archive:
        return {key: archive[key] for key in (_NAMES, *_KEPT)}


def _check(arrays: dict[str, np.ndarray], num: int) -> None:
    """Shapes and values that meshes can have; ValueError otherwise."""
    vertices, faces, corners = (arrays[key] for key in _KEPT)
    is_shaped = (
        num > 0
        and vertices.ndim == faces.ndim == 3
        and vertices.shape[::2] == faces.shape[::2] == (num, 3)
        and corners.shape == (num, 8, 3)
    )
    is_numeric = (
        vertices.dtype == corners.dtype == np.float32 and faces.dtype.kind in "iu"
    )
    if not is_shaped or not is_numeric or arrays[_NAMES].dtype.kind != "U":
        raise ValueError("other shapes or types")
    if not (np.isfinite(vertices).all() and np.isfinite(corners).all()):
        raise ValueError("not finite")
    if faces.size and not 0 <= faces.min() <= faces.max() < vertices.shape[1]:
        raise ValueError("faces of vertices that are not there")


def may_hand_on(dataset: str, mano_path: str) -> bool:
    """Whether the hand of a run is free of MANO's licence.

    Args:
      dataset, mano_path: `data.dataset` and `data.mano`; a path may lead to anything.
    """
    return dataset == "synthetic" and not mano_path


def pack_hand(mano: ManoModel) -> bytes:
    """The content of ``hand.npz``, as hand.mano_files.load_mano reads it."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{k: np.asarray(v) for k, v in mano._asdict().items()})
    return buffer.getvalue()
