"""MANO files: the official pickle (Python 2, chumpy) and this project's npz.

The official file is read through hand/safe_pickle.py, so neither chumpy nor scipy's
pickled classes are ever built. `write_mano_pkl` writes the same layout, for hands
made by this project.
"""

import io
import itertools
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from homae_jax.errors import UserError
from homae_jax.hand import safe_pickle
from homae_jax.hand.mano import ManoModel
from homae_jax.whole_file import replacing

# The vertices round the wrist's opening, in order.
WRIST_LOOP = (
    92, 38, 122, 118, 117, 119, 120, 108, 79, 78, 121, 214, 215, 279, 239, 234,
)  # fmt: skip
SHAPES = {
    "v_template": (778, 3),
    "f": (1538, 3),
    "shapedirs": (778, 3, 10),
    "posedirs": (778, 3, 135),
    "J_regressor": (16, 778),
    "weights": (778, 16),
    "hands_components": (45, 45),
    "hands_mean": (45,),
}
NPZ_SUFFIX = ".npz"
MAX_NPZ_BYTES = 64 * 2**20
NPZ_KEYS = {  # ours: the official file's
    "template_vertices": "v_template",
    "faces": "f",
    "shape_basis": "shapedirs",
    "pose_basis": "posedirs",
    "joint_regressor": "J_regressor",
    "skinning_weights": "weights",
    "hand_components": "hands_components",
    "hand_mean": "hands_mean",
}


def close_wrist(faces: Int[np.ndarray, "f 3"]) -> Int[np.ndarray, "g 3"]:
    """Adds the 14 faces that close the wrist: a fan over `WRIST_LOOP`.

    The fan faces the way the mesh does; a left hand's loop runs the other way round.

    Raises:
      UserError: the mesh is not open along `WRIST_LOOP`.
    """
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    directed = set(map(tuple, edges.tolist()))
    along = set(zip(WRIST_LOOP, WRIST_LOOP[1:] + WRIST_LOOP[:1], strict=True))
    against = {(b, a) for a, b in along}
    if along <= directed and not against & directed:
        loop = WRIST_LOOP[::-1]  # a closing face runs against its neighbour's edge
    elif against <= directed and not along & directed:
        loop = WRIST_LOOP
    else:
        raise UserError("the hand's faces do not leave MANO's wrist open")
    fan = [(loop[0], a, b) for a, b in itertools.pairwise(loop[1:])]
    return np.concatenate([faces, np.array(fan, faces.dtype)])


def left_beside(path: Path) -> Path | None:
    """The left hand's file beside a right one's; None where there is none.

    MANO_RIGHT.pkl has MANO_LEFT.pkl, mano_right.npz has mano_left.npz.
    """
    name = path.name.replace("RIGHT", "LEFT").replace("right", "left")
    left = path.with_name(name)
    return left if left != path and left.is_file() else None


def load_mano(path: str | Path, *, side: str = "right") -> ManoModel:
    """Reads a MANO hand: an official ``.pkl`` or an ``.npz`` of `save_mano_npz`.

    Args:
      side: "right" or "left"; the file must hold that hand.

    Raises:
      UserError: missing, damaged, incomplete, the other hand, or not only arrays.
    """
    path = Path(path)
    fields = _read_npz(path) if path.suffix == NPZ_SUFFIX else _read_pickle(path)
    model = _to_model(fields, str(path))
    _check_side(model, side, str(path))
    return model


def save_mano_npz(
    model: ManoModel, path: str | Path, *, overwrite: bool = False
) -> None:
    """Writes a hand as npz, atomically.

    Raises:
      UserError: the file exists and `overwrite` is off.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists: choose another name or pass --overwrite")
    buffer = io.BytesIO()
    fields = {k: np.asarray(v) for k, v in model._asdict().items()}
    np.savez_compressed(buffer, **fields)
    with replacing(path) as part:
        part.write_bytes(buffer.getvalue())


def write_mano_pkl(fields: dict[str, Any], path: str | Path) -> None:
    """Writes a hand of official keys in the official form: protocol 2, chumpy."""
    buffer = io.BytesIO()
    _OfficialPickler(buffer, protocol=2).dump(
        {**fields, "shapedirs": _as_chumpy(np.asarray(fields["shapedirs"]))}
    )
    with replacing(path) as part:
        part.write_bytes(buffer.getvalue())


def _as_chumpy(values: np.ndarray) -> safe_pickle.ChumpySelect:
    """The official form: a selection of the first 10 of 20 shape directions."""
    full = np.concatenate([values, np.zeros_like(values)], axis=-1)
    inner = safe_pickle.ChumpyArray()
    inner.state = {"x": full}
    index = np.arange(full.size).reshape(full.shape)[..., : values.shape[-1]]
    selected = safe_pickle.ChumpySelect()
    selected.state = {
        "a": inner,
        "idxs": index.ravel(),
        "preferred_shape": values.shape,
    }
    return selected


class _OfficialPickler(pickle._Pickler):  # in Python: it can be told class names
    """Writes the stand-ins of safe_pickle under the names they stand for."""

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, safe_pickle.ChumpyArray):
            self._save_instance("chumpy.ch", "Ch", obj.state)
        elif isinstance(obj, safe_pickle.ChumpySelect):
            self._save_instance("chumpy.reordering", "Select", obj.state)
        elif type(obj).__name__ == "csc_matrix":
            state = {
                "_shape": obj.shape,
                "data": obj.data,
                "indices": obj.indices,
                "indptr": obj.indptr,
            }
            self._save_instance("scipy.sparse.csc", "csc_matrix", state)
        else:
            super().save(obj, save_persistent_id)

    def save_global(self, obj: Any, name: str | None = None) -> None:
        if getattr(obj, "__module__", None) == "numpy._core.multiarray":
            # numpy 1's name, which numpy 2 still reads.
            self.write(pickle.GLOBAL + f"numpy.core.multiarray\n{name}\n".encode())
            self.memoize(obj)
        else:
            super().save_global(obj, name)

    def _save_instance(self, module: str, name: str, state: dict) -> None:
        self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())
        self.write(pickle.EMPTY_TUPLE + pickle.NEWOBJ)
        super().save(state)
        self.write(pickle.BUILD)


def _read_pickle(path: Path) -> dict[str, Any]:
    loaded = safe_pickle.load_pickle(path)
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: not a MANO model (a {type(loaded).__name__})")
    fields = {k.decode() if isinstance(k, bytes) else k: v for k, v in loaded.items()}
    return {name: _to_array(fields.get(name), name, path) for name in SHAPES}


def _to_array(value: Any, name: str, path: Path) -> np.ndarray:
    try:
        if isinstance(value, safe_pickle.SparseRows):
            return _dense(value.state, SHAPES["J_regressor"][::-1]).T
        if isinstance(value, safe_pickle.SparseMatrix):
            return _dense(value.state, SHAPES["J_regressor"])
        if isinstance(value, safe_pickle.ChumpySelect):
            chosen, source = value.state["idxs"], value.state["a"].state["x"]
            return source.ravel()[chosen].reshape(value.state["preferred_shape"])
        if isinstance(value, safe_pickle.ChumpyArray):
            return value.state["x"]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as e:
        raise UserError(f'{path}: "{name}" is damaged ({type(e).__name__})') from e
    if not isinstance(value, np.ndarray):
        raise UserError(f'{path}: not a MANO model, it has no array "{name}"')
    return value


def _dense(state: dict[str, Any], shape: tuple[int, int]) -> np.ndarray:
    """A compressed-column matrix written out; by rows, its transpose's columns."""
    counts = np.diff(state["indptr"])
    # Checked before the counts are trusted with an allocation.
    if sorted(state["_shape"]) != sorted(shape) or counts.shape != shape[1:]:
        raise ValueError("unexpected shape")
    if counts.min() < 0 or counts.max() > shape[0]:
        raise ValueError("unexpected column")
    dense = np.zeros(shape)
    columns = np.repeat(np.arange(shape[1]), counts)
    np.add.at(dense, (state["indices"], columns), state["data"])
    return dense


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(info.file_size for info in archive.infolist())
        if size > MAX_NPZ_BYTES:
            raise UserError(f"{path}: unpacks to {size} bytes, too large for a hand")
        with np.load(path, allow_pickle=False) as archive:
            missing = sorted(set(NPZ_KEYS) - set(archive.files))
            if missing:
                raise UserError(f"{path}: not a hand, it lacks {', '.join(missing)}")
            return {official: archive[ours] for ours, official in NPZ_KEYS.items()}
    except UserError:
        raise
    except FileNotFoundError as e:
        raise UserError(f"{path}: no such file") from e
    except Exception as e:  # a damaged archive may fail anywhere in the reader
        raise UserError(
            f"{path}: damaged or not an .npz of a hand ({type(e).__name__}); "
            "make it again from MANO_RIGHT.pkl"
        ) from e


def _to_model(fields: dict[str, np.ndarray], where: str) -> ManoModel:
    for name, shape in SHAPES.items():
        array = fields[name]
        if array.shape != shape:
            raise UserError(
                f'{where}: "{name}" has shape {array.shape}, a MANO hand has {shape}'
            )
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise UserError(f'{where}: "{name}" holds values that are not numbers')
    faces = fields["f"]
    if faces.dtype.kind == "f" or faces.min() < 0 or faces.max() >= 778:
        raise UserError(f'{where}: "f" names vertices that do not exist')
    faces = faces.astype(np.int32)
    try:
        closed_faces = close_wrist(faces)
    except UserError as e:
        raise UserError(f"{where}: {e}") from e
    numbers = {
        ours: fields[official].astype(np.float32)
        for ours, official in NPZ_KEYS.items()
        if official != "f"
    }
    return ManoModel(faces=faces, closed_faces=closed_faces, **numbers)


def _check_side(model: ManoModel, side: str, where: str) -> None:
    """Knuckles lie towards -x of a right wrist, towards +x of a left one."""
    joints = model.joint_regressor @ model.template_vertices
    found = "right" if joints[4, 0] < joints[0, 0] else "left"
    if found != side:
        raise UserError(
            f"{where}: holds a {found} hand where a {side} one is needed; "
            f"give MANO_{side.upper()}.pkl"
        )
