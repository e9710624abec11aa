"""HO-3D's lists, label files and published truth, read safely.

Labels are pickles of either Python in the OpenGL camera frame (`_gl`); what leaves this
module is in OpenCV's: points by C = diag(1, -1, -1), rotations by C from the left.
"""

import contextlib
import json
import mmap
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from homae_jax.data.pictures import labels_from_colours, read_picture
from homae_jax.errors import UserError
from homae_jax.geometry import camera
from homae_jax.hand.safe_pickle import load_pickle
from homae_jax.objects.ycb import BOX_CENTRES, EXTENTS
from homae_jax.schema import NUM_JOINTS

EVALUATION = "evaluation"  # the split whose hands are not labelled
SPLITS = ("train", EVALUATION)
PICTURE_SUFFIXES = (".png", ".jpg")  # v2, v3
# Masks: in v2 JPEG of red hands and blue objects, in v3 PNG of blue and green ones.
MASK_CHANNELS = {".jpg": {"hand": 0, "obj": 2}, ".png": {"hand": 2, "obj": 1}}
_FRAME_NAME = re.compile(r"[\w-]+/\d+")


def read_meta(path: Path) -> dict[str, Any]:
    """A label file as it is."""
    meta = load_pickle(path)
    if not isinstance(meta, dict):
        raise UserError(f"{path}: holds no dictionary of labels")
    return meta


def is_blank(meta: Mapping[str, Any]) -> bool:
    """Whether a label file says that its frame is not annotated."""
    return all(meta.get(key) is None for key in ("handJoints3D", "objRot", "objTrans"))


def labels_of(meta: Mapping[str, Any], split: str, path: Path) -> dict[str, Any]:
    """The labels among Frame's fields; UserError where one is unusable."""
    return {
        "intrinsics": _intrinsics(meta, path),
        **_object_labels(meta, path),
        **hand_labels(meta, split, path),
    }


def hand_labels(meta: Mapping[str, Any], split: str, path: Path) -> dict[str, Any]:
    """Keys of Frame; MANO's rotation acts about the wrist, so C turns it alone."""
    if split == EVALUATION:
        return {
            "wrist": camera.points_gl_to_cv(_array(meta, "handJoints3D", (3,), path)),
            "joints": None,
            "hand_pose": None,
            "hand_betas": None,
            "hand_box_px": _array(meta, "handBoundingBox", (4,), path),
        }
    joints_gl = _array(meta, "handJoints3D", (NUM_JOINTS, 3), path)
    joints = camera.points_gl_to_cv(joints_gl)
    pose = _array(meta, "handPose", (16, 3), path)
    pose[0] = _rotmat_to_aa(camera.GL_TO_CV @ _aa_to_rotmat(pose[0]))
    return {
        "wrist": joints[0],
        "joints": joints,
        "hand_pose": pose,
        "hand_betas": _array(meta, "handBeta", (10,), path),
        "hand_box_px": None,
    }


class JsonRows:
    """One row at a time of a JSON list of tables, which may be half a gigabyte.

    Where rows end is looked up at the first read and kept.
    """

    def __init__(self, path: Path, num: int):
        self._path, self._num = path, num
        self._ends: np.ndarray | None = None

    def read(self, index: int, shape: tuple[int, int]) -> Float[np.ndarray, "n 3"]:
        """Row `index`; UserError where the file is not what it should be."""
        if self._ends is None:
            self._ends = self._find_ends()
        start = self._ends[index - 1] if index else 0
        with self._path.open("rb") as file:
            file.seek(int(start))
            text = file.read(int(self._ends[index] - start))
        try:
            # The first row follows the list's own bracket, the others a comma.
            text = text[1 + text.index(b"," if index else b"[") :]
            row = np.array(json.loads(text), np.float64)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise UserError(f"{self._path}: row {index} is no table") from error
        if row.shape != shape or not np.isfinite(row).all():
            raise UserError(
                f"{self._path}: row {index} has shape {row.shape} or gaps, "
                f"expected {shape}"
            )
        return row

    def _find_ends(self) -> np.ndarray:
        if not self._path.stat().st_size:
            raise UserError(f"{self._path}: is empty; copy it again")
        with (
            self._path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text,
        ):
            ends = [match.end() for match in re.finditer(rb"\]\s*\]", text)]
        if len(ends) != self._num:
            raise UserError(
                f"{self._path}: {len(ends)} rows, but {self._num} frames are listed "
                "beside it; both must come from the same version of the data set"
            )
        return np.array(ends)


def read_truth(
    rows: JsonRows | None, index: int, num_points: int
) -> Float[np.ndarray, "n 3"] | None:
    """A row of the published truth, OpenCV camera frame; None without the file."""
    if rows is None:
        return None
    return camera.points_gl_to_cv(rows.read(index, (num_points, 3)))


def read_list(root: Path, split: str) -> list[str]:
    """The frames of `<split>.txt`, "<sequence>/<number>", in their order."""
    path = root / f"{split}.txt"
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; set --config.data.root to HO-3D's")
    if not path.is_file():
        raise UserError(f"{path}: not found; HO-3D's own list of frames belongs there")
    if not (root / split).is_dir():
        raise UserError(f"{root / split}: not found; unpack the {split} split there")
    names = path.read_text(errors="replace").split()
    for row, name in enumerate(names, start=1):
        if not _FRAME_NAME.fullmatch(name):
            raise UserError(
                f"{path}: entry {row} is {name!r:.60}, expected <sequence>/<number>"
            )
    if not names:
        raise UserError(f"{path}: lists no frame")
    return names


def version_of(root: Path, split: str, names: Sequence[str]) -> str:
    """ "v2" or "v3", whose pictures are JPEG; by the first that is there."""
    for name in names:
        sequence, number = name.split("/")
        stem = root / split / sequence / "rgb" / number
        for suffix, version in zip(PICTURE_SUFFIXES, ("v2", "v3"), strict=True):
            if stem.with_suffix(suffix).is_file():
                return version
    return "v2"


def read_mask(folder: Path, number: str) -> UInt8[np.ndarray, "sh sw"] | None:
    """Schema labels of a frame; None where there is no such folder, a download apart.

    Raises:
      UserError: the folder is there, the frame's mask is not, or is no picture.
    """
    for suffix, channels in MASK_CHANNELS.items():
        with contextlib.suppress(FileNotFoundError):
            picture = read_picture(folder / f"{number}{suffix}")
            return labels_from_colours(picture, **channels)
    if not folder.is_dir():
        return None
    raise UserError(
        f"{folder / number}{{.jpg,.png}}: no such mask, though its folder exists; "
        "unpack the masks again, or move the folder away to do without"
    )


def count_masked(root: Path, split: str, names: Sequence[str]) -> tuple[int, int]:
    """Sequences with a folder of masks, and all that a list names."""
    sequences = {name.split("/")[0] for name in names}
    return sum((root / split / x / "seg").is_dir() for x in sequences), len(sequences)


def read_visibility(path: Path) -> dict[str, list[float]]:
    """Visible shares of hand and object by frame, null as NaN; empty without a file."""
    if not path.is_file():
        return {}
    try:
        shares = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: no JSON ({error}); make it again") from error
    rows = list(shares.values()) if isinstance(shares, dict) else [None]
    try:
        values = np.array(rows, np.float64)
    except (TypeError, ValueError, OverflowError):
        values = np.empty(0)
    if rows and values.shape != (len(rows), 2):
        raise UserError(f"{path}: holds no two numbers per frame; make it again")
    return dict(zip(shares, values.tolist(), strict=True)) if rows else {}


def _array(
    meta: Mapping[str, Any], key: str, shape: tuple[int, ...], path: Path
) -> np.ndarray:
    """A label as float64; objRot comes as (3, 1) or (3,), so sizes are compared."""
    if key not in meta:
        raise UserError(f"{path}: the key {key} is missing; is it of another split?")
    if meta[key] is None:
        raise UserError(
            f"{path}: {key} is None, so the frame is not annotated, yet the split's "
            "list names it; take the line out"
        )
    try:
        value = np.array(meta[key], np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: {key} holds no numbers") from error
    if value.size != np.prod(shape):
        raise UserError(f"{path}: {key} has shape {value.shape}, expected {shape}")
    if not np.isfinite(value).all():
        raise UserError(f"{path}: {key} holds NaN or infinity")
    return value.reshape(shape)


def _intrinsics(meta: Mapping[str, Any], path: Path) -> Float[np.ndarray, "3 3"]:
    intrinsics = _array(meta, "camMat", (3, 3), path)
    if min(intrinsics[0, 0], intrinsics[1, 1]) <= 0:
        raise UserError(f"{path}: camMat has a focal length that is not positive")
    return intrinsics


def object_name(meta: Mapping[str, Any], path: Path) -> str:
    """`objName`, a str or bytes."""
    name = meta.get("objName")
    name = name.decode("latin1") if isinstance(name, bytes) else name
    if not isinstance(name, str):
        raise UserError(f"{path}: objName is {name!r:.40}, expected a YCB name")
    return name


def _object_labels(meta: Mapping[str, Any], path: Path) -> dict[str, Any]:
    name = object_name(meta, path)
    rotmat_gl = _aa_to_rotmat(_array(meta, "objRot", (3,), path))
    trans_gl = _array(meta, "objTrans", (3,), path)
    rotmat, trans = camera.pose_gl_to_cv(rotmat_gl, trans_gl)
    return {
        "object_name": name,
        "object_rotmat": rotmat,
        "object_trans": trans,
        "object_corners": _box_corners(meta, name, rotmat_gl, trans_gl, path),
    }


def _box_corners(
    meta: Mapping[str, Any],
    name: str,
    rotmat_gl: Float[np.ndarray, "3 3"],
    trans_gl: Float[np.ndarray, " 3"],
    path: Path,
) -> Float[np.ndarray, "8 3"]:
    """The model's box; some versions lack one key of it, or both."""
    if meta.get("objCorners3DRest") is not None:
        return _array(meta, "objCorners3DRest", (8, 3), path)
    if meta.get("objCorners3D") is not None:
        return (_array(meta, "objCorners3D", (8, 3), path) - trans_gl) @ rotmat_gl
    if name not in BOX_CENTRES:
        raise UserError(f"{path}: no objCorners3DRest, and no known box of {name}")
    signs = np.array(list(np.ndindex(2, 2, 2))) - 0.5
    return np.array(BOX_CENTRES[name]) + signs * np.array(EXTENTS[name])


def _aa_to_rotmat(rotation_aa: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "3 3"]:
    return cv2.Rodrigues(rotation_aa)[0]


def _rotmat_to_aa(rotmat: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, " 3"]:
    return cv2.Rodrigues(rotmat)[0].ravel()
