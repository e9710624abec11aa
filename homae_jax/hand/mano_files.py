"""MANO files: the official pickle (Python 2, chumpy) and this project's npz.

The official file is read through hand/safe_pickle.py, so neither chumpy nor scipy's
pickled classes are ever built. `write_mano_pkl` writes the same layout, for hands
made by this project.
"""

import io
import itertools
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from homae_jax.errors import UserError
from homae_jax.hand import safe_pickle
from homae_jax.hand.mano import ManoModel

# The wrist's open edge, in the order in which a fan over it faces outward.
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
LEFT_THUMB_HINT = "this looks like the {found} hand, expected the {wanted} one"


def close_wrist(faces: Int[np.ndarray, "f 3"]) -> Int[np.ndarray, "g 3"]:
    """Adds the 14 faces that close the wrist: a fan over `WRIST_LOOP`.

    The fan is turned so that it faces the way the mesh does (a left hand's loop runs
    the other way round).
    """
    first, rest = WRIST_LOOP[0], WRIST_LOOP[1:]
    fan = np.array([(first, a, b) for b, a in itertools.pairwise(rest)])
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    directed = set(map(tuple, edges.tolist()))
    # Two neighbouring faces must run along their common edge in opposite directions.
    if (fan[0][1], fan[0][2]) in directed:
        fan = fan[:, ::-1]
    return np.concatenate([faces, fan.astype(faces.dtype)])


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
    _write_atomically(path, buffer.getvalue())


def write_mano_pkl(fields: dict[str, Any], path: str | Path) -> None:
    """Writes a hand of official keys in the official form: protocol 2, chumpy."""
    buffer = io.BytesIO()
    _OfficialPickler(buffer, protocol=2).dump(
        {**fields, "shapedirs": _as_chumpy(np.asarray(fields["shapedirs"]))}
    )
    _write_atomically(Path(path), buffer.getvalue())


def _write_atomically(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.part")
    partial.write_bytes(content)
    os.replace(partial, path)


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


class _OfficialPickler(pickle._Pickler):  # the Python one: its class names can be set
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
        if isinstance(value, safe_pickle.SparseMatrix):
            return _dense(value.state)
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


def _dense(state: dict[str, Any]) -> np.ndarray:
    """A compressed-column matrix written out."""
    shape = tuple(state["_shape"])
    if shape != SHAPES["J_regressor"]:
        raise ValueError("unexpected shape")
    dense = np.zeros(shape)
    columns = np.repeat(np.arange(shape[1]), np.diff(state["indptr"]))
    dense[state["indices"], columns] = state["data"]
    return dense


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_NPZ_BYTES:
            raise UserError(f"{path}: too large for a MANO model")
        with zipfile.ZipFile(path) as archive:
            if sum(info.file_size for info in archive.infolist()) > MAX_NPZ_BYTES:
                raise UserError(f"{path}: unpacks to more than a MANO model holds")
        with np.load(path, allow_pickle=False) as archive:
            fields = {name: archive[name] for name in archive.files}
    except UserError:
        raise
    except FileNotFoundError as e:
        raise UserError(f"{path}: no such file") from e
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as e:
        raise UserError(f"{path}: damaged or not a MANO .npz ({e})") from e
    renamed = {
        "template_vertices": "v_template",
        "faces": "f",
        "shape_basis": "shapedirs",
        "pose_basis": "posedirs",
        "joint_regressor": "J_regressor",
        "skinning_weights": "weights",
        "hand_components": "hands_components",
        "hand_mean": "hands_mean",
    }
    missing = sorted(set(renamed) - set(fields))
    if missing:
        raise UserError(f"{path}: not a MANO .npz, it lacks {', '.join(missing)}")
    return {official: fields[ours] for ours, official in renamed.items()}


def _to_model(fields: dict[str, np.ndarray], where: str) -> ManoModel:
    for name, shape in SHAPES.items():
        array = fields[name]
        if array.shape != shape:
            raise UserError(
                f'{where}: "{name}" has shape {array.shape}, a MANO hand has {shape}'
            )
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise UserError(f'{where}: "{name}" holds values that are not numbers')
    faces = fields["f"].astype(np.int32)
    if faces.min() < 0 or faces.max() >= 778:
        raise UserError(f'{where}: "f" names vertices that do not exist')
    numbers = {k: fields[k].astype(np.float32) for k in SHAPES if k != "f"}
    return ManoModel(
        template_vertices=numbers["v_template"],
        faces=faces,
        closed_faces=close_wrist(faces),
        shape_basis=numbers["shapedirs"],
        pose_basis=numbers["posedirs"],
        joint_regressor=numbers["J_regressor"],
        skinning_weights=numbers["weights"],
        hand_components=numbers["hands_components"],
        hand_mean=numbers["hands_mean"],
    )


def _check_side(model: ManoModel, side: str, where: str) -> None:
    """By handedness: fingers point along -x from a right wrist, +x from a left one."""
    joints = model.joint_regressor @ model.template_vertices
    found = "right" if joints[4, 0] < joints[0, 0] else "left"
    if found != side:
        raise UserError(f"{where}: {LEFT_THUMB_HINT.format(found=found, wanted=side)}")
