"""DexYCB's folders and small files: who, which camera, which frames, read safely.

Names and rules are the official toolkit's. YAML is read by a safe loader that knows
one more tag, the tuple; arrays never by pickle. No JAX here: index processes import
this module.
"""

import functools
import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from jaxtyping import Float

from homae_jax.errors import UserError

SUBJECTS = (
    "20200709-subject-01",
    "20200813-subject-02",
    "20200820-subject-03",
    "20200903-subject-04",
    "20200908-subject-05",
    "20200918-subject-06",
    "20200928-subject-07",
    "20201002-subject-08",
    "20201015-subject-09",
    "20201022-subject-10",
)
SERIALS = (
    "836212060125",
    "839512060362",
    "840412060917",
    "841412060263",
    "932122060857",
    "932122060861",
    "932122061900",
    "932122062010",
)
SEQUENCES_PER_SUBJECT = 100
SPLITS = tuple(f"s{i}_{part}" for i in range(4) for part in ("train", "val", "test"))
MAX_YAML_BYTES, MAX_YAML_DEPTH, MAX_VALUES = 2**16, 20, 100_000
MAX_ARRAY_BYTES, MAX_MEMBERS = 2**24, 64
LABEL_SHAPES = {  # -1: any number
    "seg": (480, 640),
    "pose_y": (-1, 3, 4),
    "pose_m": (1, 51),
    "joint_3d": (1, 21, 3),
    "joint_2d": (1, 21, 2),
}
_SEQUENCE = re.compile(r"\d{8}_\d{6}")
_ZIP_END, _ZIP_ENTRY, _ZIP_MEMBER = b"PK\x05\x06", b"PK\x01\x02", b"PK\x03\x04"
_ZIP_TAIL = 22 + 2**16  # the end's own size and the longest comment
_ENTRY = struct.Struct("<HH4xIIIHHH8xI")  # from the flags on
_NPY_MAGIC = b"\x93NUMPY\x01\x00"


class Sequence(NamedTuple):
    """One recording: a person grasps an object with one hand."""

    subject: str
    name: str
    num_frames: int
    ycb_ids: tuple[int, ...]
    grasped: int  # row of ycb_ids
    side: str  # "right" | "left"
    calibration: str  # of the hand's shape

    @property
    def path(self) -> str:
        """Relative to the data set's folder."""
        return f"{self.subject}/{self.name}"


class Loader(yaml.SafeLoader):
    """YAML's safe loader, and tuples: DexYCB's calibration has them."""


Loader.add_constructor(
    "tag:yaml.org,2002:python/tuple",
    lambda loader, node: tuple(loader.construct_sequence(node)),
)


def read_yaml(path: Path) -> dict[str, Any]:
    """A small YAML file's mapping; UserError where it is none."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) > MAX_YAML_BYTES:
        raise UserError(f"{path}: {len(data)} bytes are too many for calibration")
    if _bracket_depth(data) > MAX_YAML_DEPTH:  # over which PyYAML broods
        raise UserError(f"{path}: no YAML of DexYCB (nested too deeply)")
    try:
        values = yaml.load(data, Loader)
        _check_size(values)
    except Exception as error:  # a strange value may fail anywhere in its maker
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: no YAML of DexYCB ({reason:.100})") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no mapping")
    return values


def _bracket_depth(data: bytes) -> int:
    """How many brackets are open at once, those in strings included."""
    codes = np.frombuffer(data, np.uint8)
    opened, closed = (np.isin(codes, list(pair)) for pair in (b"[{", b"]}"))
    return int(np.cumsum(opened.astype(int) - closed).max(initial=0))


def _check_size(values: Any) -> None:
    """Raises ValueError where references multiply a few lines into too many values."""
    count, left = 0, [values]
    while left:
        value = left.pop()
        count += 1
        if count > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES} values")
        if isinstance(value, dict):
            left += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set):
            left += value


def in_split(split: str, subject: int, sequence: int, camera: int) -> bool:
    """Whether a (subject, sequence, camera) is in one of `SPLITS` (official rule)."""
    setup, part = split.split("_")
    if setup == "s0":
        if sequence % 5 != 4:
            return part == "train"
        return part == ("val" if subject in (0, 1) else "test")
    if setup == "s1":
        held = {6: "val", 7: "test", 8: "test"}.get(subject, "train")
    elif setup == "s2":
        held = {6: "val", 7: "test"}.get(camera, "train")
    else:
        grasp = sequence // 5
        held = {3: "val", 19: "val", 7: "test", 11: "test", 15: "test"}.get(
            grasp, "train"
        )
    return part == held


def check_split(split: str) -> None:
    """Raises UserError if DexYCB has no such split."""
    if split not in SPLITS:
        raise UserError(
            f'DexYCB has no split "{split}"; use one of {", ".join(SPLITS)}'
        )


def find_sequences(
    root: Path, split: str
) -> Iterator[tuple[Sequence, tuple[int, ...]]]:
    """Sequences of a split with their cameras, in the official order.

    A sequence's number is its place among all of its subject's folders.

    Raises:
      UserError: no such split, no subject's folder, or an unusable meta.yml.
    """
    check_split(split)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; set --config.data.root to DexYCB's")
    if not any((root / subject).is_dir() for subject in SUBJECTS):
        raise UserError(
            f"{root}: holds none of DexYCB's subjects, such as {SUBJECTS[0]}"
        )
    for row, subject in enumerate(SUBJECTS):
        for number, name in enumerate(sequence_names(root, subject)):
            cameras = tuple(
                camera
                for camera in range(len(SERIALS))
                if in_split(split, row, number, camera)
            )
            if cameras:
                yield read_sequence(root, subject, name), cameras


def split_note(root: Path) -> str | None:
    """One line where the splits cannot be the official ones; None where they are."""
    counts = {subject: len(sequence_names(root, subject)) for subject in SUBJECTS}
    other = {s: n for s, n in counts.items() if n not in (0, SEQUENCES_PER_SUBJECT)}
    if not other:
        return None
    subject, num = next(iter(other.items()))
    return (
        f"note: {subject} has {num} of {SEQUENCES_PER_SUBJECT} sequences"
        + (f", so have {len(other) - 1} more subjects" if len(other) > 1 else "")
        + ": splits go by their number, so they are not the official ones"
    )


def sequence_names(root: Path, subject: str) -> list[str]:
    """A subject's sequences, sorted; none where the folder is not there."""
    folder = root / subject
    if not folder.is_dir():
        return []
    names = (entry.name for entry in folder.iterdir())
    return sorted(name for name in names if _SEQUENCE.fullmatch(name))


def read_sequence(root: Path, subject: str, name: str) -> Sequence:
    """What meta.yml says of a sequence."""
    path = root / subject / name / "meta.yml"
    meta = read_yaml(path)
    try:
        sequence = Sequence(
            subject,
            name,
            num_frames=int(meta["num_frames"]),
            ycb_ids=tuple(int(i) for i in meta["ycb_ids"]),
            grasped=int(meta["ycb_grasp_ind"]),
            side=str(meta["mano_sides"][0]),
            calibration=str(meta["mano_calib"][0]),
        )
    except KeyError as error:
        raise UserError(f"{path}: the key {error} is missing") from error
    except (TypeError, ValueError, IndexError, OverflowError) as error:
        raise UserError(f"{path}: unusable values ({error!s:.80})") from error
    if sequence.side not in ("right", "left"):
        raise UserError(f"{path}: mano_sides is {sequence.side!r:.20}")
    if not re.fullmatch(r"[\w-]+", sequence.calibration):
        raise UserError(f"{path}: mano_calib is {sequence.calibration!r:.60}")
    if not 0 <= sequence.grasped < len(sequence.ycb_ids):
        raise UserError(
            f"{path}: ycb_grasp_ind {sequence.grasped} is no row of ycb_ids"
        )
    if not 0 <= sequence.num_frames < 10**6:
        raise UserError(f"{path}: num_frames is {sequence.num_frames}")
    return sequence


def read_intrinsics(root: Path, serial: str) -> Float[np.ndarray, "3 3"]:
    """The colour camera's K: depth pictures are aligned to it."""
    path = root / "calibration" / "intrinsics" / f"{serial}_640x480.yml"
    color = read_yaml(path).get("color")
    try:
        fx, fy, cx, cy = (float(color[key]) for key in ("fx", "fy", "ppx", "ppy"))
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: no color: fx, fy, ppx, ppy") from error
    intrinsics = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    if not np.isfinite(intrinsics).all() or min(fx, fy) <= 0:
        raise UserError(f"{path}: color has a focal length that is not positive")
    return intrinsics


def read_betas(root: Path, calibration: str) -> Float[np.ndarray, " 10"]:
    """A person's hand shape."""
    path = root / "calibration" / f"mano_{calibration}" / "mano.yml"
    values = read_yaml(path).get("betas")
    try:
        betas = np.array(values, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: betas are no numbers") from error
    if betas.shape != (10,) or not np.isfinite(betas).all():
        raise UserError(f"{path}: betas are not 10 numbers")
    return betas


def read_labels(path: Path, keys: tuple[str, ...]) -> Mapping[str, np.ndarray]:
    """Arrays of a label file, of the right shapes; nothing else is unpacked.

    Raises:
      UserError: missing, damaged, another shape, or NaN.
    """
    try:
        data = path.read_bytes()
        members = _zip_members(data)
        return {key: _read_array(data, members[f"{key}.npy"], key) for key in keys}
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such label file") from error
    except KeyError as error:
        raise UserError(f"{path}: lacks an array ({error!s:.60})") from error
    except (OSError, ValueError, TypeError, struct.error, zlib.error) as error:
        raise UserError(f"{path}: damaged ({error!s:.80}); copy it again") from error


class _Member(NamedTuple):
    """One file of a zip archive, as its list of contents says."""

    method: int
    crc: int
    packed: int  # bytes
    unpacked: int
    start: int  # of its own header


def _zip_members(data: bytes) -> dict[str, _Member]:
    """The contents of a small archive; half a million files are read to index a split.

    Python's zipfile takes ten times as long, mostly in classes of its own.
    """
    end = data.rfind(_ZIP_END, max(0, len(data) - _ZIP_TAIL))
    if end < 0:
        raise ValueError("no end of a zip archive")
    num, _, place = struct.unpack_from("<HII", data, end + 10)
    members = {}
    for _ in range(min(num, MAX_MEMBERS)):
        if data[place : place + 4] != _ZIP_ENTRY:
            raise ValueError("a broken list of contents")
        flags, method, crc, packed, unpacked, name, extra, note, start = _ENTRY.unpack(
            data[place + 8 : place + 46]
        )
        if flags & 1:
            raise ValueError("an encrypted archive")
        text = data[place + 46 : place + 46 + name].decode("ascii", "replace")
        members[text] = _Member(method, crc, packed, unpacked, start)
        place += 46 + name + extra + note
    return members


def _unpack(data: bytes, member: _Member) -> bytes:
    """A member's bytes, never more than it may have."""
    if member.unpacked > MAX_ARRAY_BYTES:
        raise ValueError(f"an array of {member.unpacked} bytes")
    if data[member.start : member.start + 4] != _ZIP_MEMBER:
        raise ValueError("a broken member")
    name, extra = struct.unpack_from("<HH", data, member.start + 26)
    start = member.start + 30 + name + extra
    packed = memoryview(data)[start : start + member.packed]
    if member.method == zipfile.ZIP_DEFLATED:
        unpacked = zlib.decompressobj(-zlib.MAX_WBITS).decompress(
            packed, member.unpacked + 1
        )
    elif member.method == zipfile.ZIP_STORED:
        unpacked = bytes(packed)
    else:
        raise ValueError(f"packed by method {member.method}")
    if len(unpacked) != member.unpacked or zlib.crc32(unpacked) != member.crc:
        raise ValueError("contents and checksum differ")
    return unpacked


def _read_array(data: bytes, member: _Member, key: str) -> np.ndarray:
    content = _unpack(data, member)
    if content[:8] != _NPY_MAGIC:
        raise ValueError(f"{key} is no array of format 1.0")
    (length,) = struct.unpack_from("<H", content, 8)
    shape, dtype, order = _read_header(content[: 10 + length])
    wanted = LABEL_SHAPES[key]
    is_right = len(shape) == len(wanted) and all(
        w in (-1, s) for w, s in zip(wanted, shape, strict=True)
    )
    if not is_right or dtype.kind not in "fiu":
        raise ValueError(f"{key} has shape {shape}, type {dtype}")
    count = math.prod(shape)
    values = np.frombuffer(content, dtype, count, 10 + length)
    if dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError(f"{key} holds NaN or infinity")
    return values.reshape(shape, order=order).copy()


@functools.lru_cache(maxsize=64)
def _read_header(header: bytes) -> tuple[tuple[int, ...], np.dtype, str]:
    """Shape, type and order; the same few headers in every file."""
    stream = io.BytesIO(header[8:])
    try:
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    except Exception as error:  # numpy parses it as Python, in several attempts
        raise ValueError("an array's header that cannot be read") from error
    return shape, dtype, "F" if is_fortran else "C"
