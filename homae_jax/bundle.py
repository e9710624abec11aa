"""What an export carries beside the parameters, so that a picture is all one needs.

* ``objects.npz``: the known objects (schema.ObjectTemplates) in the order of the rows
  that the network was trained with, and their names;
* ``hand.npz``: the hand, only where it is the synthetic world's own: MANO's licence
  does not allow handing it on.

Arrays only, nothing that runs when it is read.
"""

import io
from pathlib import Path

import numpy as np

from homae_jax.errors import UserError
from homae_jax.hand.mano import ManoModel
from homae_jax.schema import ObjectTemplates

HAND, OBJECTS = "hand.npz", "objects.npz"
_NAMES = "names"


def pack_objects(templates: ObjectTemplates, names: tuple[str, ...]) -> bytes:
    """The content of ``objects.npz``; the distance lattices are large and stay out."""
    kept = {
        key: np.asarray(getattr(templates, key))
        for key in ("vertices", "faces", "corners")
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **kept, **{_NAMES: np.array(names)})
    return buffer.getvalue()


def read_objects(path: str | Path) -> tuple[ObjectTemplates, tuple[str, ...]]:
    """Known objects and their names; the distance lattices are empty.

    Raises:
      UserError: damaged, or no such file.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = tuple(str(name) for name in archive[_NAMES])
            vertices, faces, corners = (
                archive[key] for key in ("vertices", "faces", "corners")
            )
    except Exception as error:  # zip and npy readers fail in many ways
        raise UserError(
            f"{path}: cannot be read ({type(error).__name__}); export again"
        ) from error
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


def pack_hand(mano: ManoModel) -> bytes:
    """The content of ``hand.npz``, as hand.mano_files.load_mano reads it."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{k: np.asarray(v) for k, v in mano._asdict().items()})
    return buffer.getvalue()
