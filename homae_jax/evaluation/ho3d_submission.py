"""HO-3D's submission file: written with checks, and scored as the organisers do.

`pred.zip` holds `pred.json` alone: [joints of all frames, vertices of all frames], in
metres, MANO order, the OpenGL camera frame (``_gl``: y up, z backward, so what a
camera sees has z < 0), frames in the order of `evaluation.txt`. The ground truth is
`evaluation_xyz.json` and `evaluation_verts.json`, one list of frames each.

Files to score may come from anybody: they are read as a stream, entry by entry, within
limits, and nothing of an archive is unpacked to disk.
"""

import collections
import contextlib
import io
import itertools
import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array, Float

from homae_jax import metrics
from homae_jax.errors import UserError
from homae_jax.schema import NUM_HAND_VERTICES, NUM_JOINTS
from homae_jax.whole_file import replacing

MEMBER = "pred.json"
_PLAIN_JSON = re.compile(r"[\w.-]+\.json")
GL_SIGNS = np.array([1.0, -1.0, -1.0])
MAX_BYTES = 4 * 2**30  # of JSON; a full submission at full precision is 0.6 GB
MAX_ENTRY = 2**20  # characters of one frame's list; 778 points take 50,000
CHUNK = 2**20
BLOCK = 64  # frames scored at once
FIXED_DATE = (2020, 1, 1, 0, 0, 0)  # same predictions, same bytes
LENGTHS = ("mje", "st_mje", "pa_mje", "v_pe", "pa_v_pe")  # in metres in metrics.py


def export_submission(
    path: str | Path,
    joints: Float[np.ndarray, "n 21 3"],
    vertices: Float[np.ndarray, "n 778 3"],
    *,
    frames: Sequence[str],
    order: Sequence[str],
) -> Path:
    """Writes pred.zip from predictions in the OpenCV camera frame.

    Args:
      frames: name of each row, such as "SM1/0000".
      order: the lines of evaluation.txt.

    Raises:
      UserError: frames miss, are unknown or repeated; values are not finite or behind
        the camera. Nothing is written then.
    """
    rows = _rows_in_order(frames, order)
    _check_points(joints[rows], vertices[rows], order)
    info = zipfile.ZipInfo(MEMBER, FIXED_DATE)
    info.compress_type = zipfile.ZIP_DEFLATED
    with (
        replacing(path) as part,
        zipfile.ZipFile(part, "w") as archive,
        archive.open(info, "w", force_zip64=True) as file,
    ):
        for before, points in ((b"[[", joints), (b"],[", vertices)):
            file.write(before)
            for i, row in enumerate(rows):
                points_gl = points[row].astype(np.float64) * GL_SIGNS
                entry = json.dumps(points_gl.tolist(), separators=(",", ":"))
                file.write((b"," if i else b"") + entry.encode())
        file.write(b"]]")
    return Path(path)


def score_submission(pred: str | Path, gt: str | Path) -> dict[str, float | int]:
    """Scores pred.zip (or its pred.json) against a folder with the two truth files.

    In float64, by the official definitions. A mesh of another size than MANO's has
    F-scores alone, and none after alignment: the organisers move it by what fits the
    joints, without dividing by the predicted joints' size, which shrinks the mesh.

    Returns:
      num_frames; lengths twice, as `<name>_cm` (the leaderboard's) and `<name>_mm`;
      areas and F-scores as fractions.

    Raises:
      UserError: a file is missing, broken, too large or does not fit the truth.
    """
    gt = Path(gt)
    with contextlib.ExitStack() as stack:
        pred_file = stack.enter_context(_open_prediction(Path(pred)))
        gt_joints_file = stack.enter_context(_open(gt / "evaluation_xyz.json"))
        gt_vertices_file = stack.enter_context(_open(gt / "evaluation_verts.json"))
        reader = _Reader(pred_file, str(pred))
        truth = _Reader(gt_joints_file, gt_joints_file.name)
        gt_meshes = _Reader(gt_vertices_file, gt_vertices_file.name)
        reader.expect("[")
        joints = list(reader.entries(NUM_JOINTS))
        gt_joints = list(truth.entries(NUM_JOINTS))
        _check_joints(pred, joints, gt_joints)
        reader.expect(",")
        meshes = reader.entries(None), gt_meshes.entries(NUM_HAND_VERTICES)
        sums = _score(joints, gt_joints, *meshes, names=(pred, gt_vertices_file.name))
        reader.expect("]")
    means = {key: total / len(joints) for key, total in sums.items()}
    return {"num_frames": len(joints), **_with_units(means)}


def _rows_in_order(frames: Sequence[str], order: Sequence[str]) -> np.ndarray:
    for what, names in (("predicted", frames), ("listed", order)):
        name, count = collections.Counter(names).most_common(1)[0]
        if count > 1:
            raise UserError(f"frame {name} is {what} {count} times; once is right")
    row_of = {name: row for row, name in enumerate(frames)}
    known = set(order)
    missing = [name for name in order if name not in row_of]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(order)} frames have no prediction, first "
            f"{missing[0]}; a submission needs every frame of evaluation.txt"
        )
    unknown = [name for name in frames if name not in known]
    if unknown:
        raise UserError(
            f"{len(unknown)} predicted frames are not listed, first {unknown[0]}; "
            "take the frames of evaluation.txt"
        )
    return np.array([row_of[name] for name in order], int)


def _check_points(
    joints: np.ndarray, vertices: np.ndarray, order: Sequence[str]
) -> None:
    for what, points in (("joints", joints), ("vertices", vertices)):
        is_broken = ~np.isfinite(points).all(axis=(1, 2))
        if is_broken.any():
            name = order[int(np.argmax(is_broken))]
            raise UserError(f"frame {name}: predicted {what} are not finite")
        is_behind = (points[..., 2] < 0).all(axis=1)
        if is_behind.any():
            name = order[int(np.argmax(is_behind))]
            raise UserError(
                f"frame {name}: all {what} lie behind the camera (z < 0); give them "
                "in the OpenCV frame, the OpenGL one is made here"
            )


def _open(path: Path) -> io.BufferedIOBase:
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


@contextlib.contextmanager
def _open_prediction(path: Path) -> Iterator[io.BufferedIOBase]:
    """The stream of the JSON file, from an archive or plain."""
    if path.suffix.lower() != ".zip":
        with _open(path) as file:
            yield file
        return
    try:
        with (
            _open(path) as file,
            zipfile.ZipFile(file) as archive,
            archive.open(_only_member(path, archive)) as member,
        ):
            yield member
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise UserError(f"{path}: not a sound zip archive ({error})") from None


def _only_member(path: Path, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    """Whatever its name: the organisers' scorer takes a lone JSON file for the one."""
    members = archive.infolist()
    file_names = [member.filename for member in members]
    if len(members) != 1 or not _PLAIN_JSON.fullmatch(file_names[0]):
        names = ", ".join(map(repr, file_names[:3])) or "nothing"
        raise UserError(f"{path}: holds {names}; it must hold one .json file alone")
    (member,) = members
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(f"{path}: unusual compression; use plain zip (deflate)")
    if member.flag_bits & 1:
        raise UserError(f"{path}: is encrypted; zip it without a password")
    if member.file_size > MAX_BYTES:
        raise UserError(
            f"{path}: its JSON unpacks to {member.file_size / 2**30:.1f} GiB; "
            f"the limit is {MAX_BYTES / 2**30:.0f} GiB"
        )
    return member


class _Reader:
    """Lists of point sets out of a JSON stream, one at a time, in bounded memory."""

    def __init__(self, file: io.BufferedIOBase, name: str):
        self._file, self._name = file, name
        self._text, self._at, self._num_read = "", 0, 0
        self._decoder = json.JSONDecoder()

    def expect(self, character: str) -> None:
        """Takes one character, after blanks."""
        found = self._next()
        if found != character:
            raise self._error(f'"{character}" expected, found "{found}"')
        self._at += 1

    def entries(self, num_points: int | None) -> Iterator[Float[np.ndarray, "p 3"]]:
        """The members of a list of [num_points, 3] arrays (None: any, all alike)."""
        self.expect("[")
        for number in itertools.count():
            if self._next() == "]":
                break
            if number:
                self.expect(",")
            points = self._array(number)
            num_points = num_points or len(points)
            if points.shape != (num_points, 3):
                raise self._error(
                    f"frame {number} has shape {points.shape}, not ({num_points}, 3)"
                )
            if not np.isfinite(points).all():
                raise self._error(f"frame {number} has values that are not finite")
            yield points
        self._at += 1

    def _array(self, number: int) -> np.ndarray:
        try:
            array = np.asarray(self._value())
        except UserError:
            raise
        except (ValueError, RecursionError):
            raise self._error(f"frame {number} is not a list of points") from None
        if array.dtype.kind not in "if":
            raise self._error(f"frame {number} holds something else than numbers")
        return array.astype(np.float64)

    def _value(self) -> list:
        self._next()
        while True:
            try:
                value, self._at = self._decoder.raw_decode(self._text, self._at)
                return value
            except json.JSONDecodeError:
                if len(self._text) - self._at > MAX_ENTRY:
                    raise
                if not self._grow():
                    raise self._error("ends too early") from None

    def _next(self) -> str:
        """The next character that is not blank."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._grow():
                raise self._error("ends too early")

    def _grow(self) -> bool:
        chunk = self._file.read(CHUNK)
        self._num_read += len(chunk)
        if self._num_read > MAX_BYTES:
            raise self._error(f"is larger than {MAX_BYTES / 2**30:.0f} GiB")
        self._text = self._text[self._at :] + chunk.decode("ascii", "replace")
        self._at = 0
        return bool(chunk)

    def _error(self, what: str) -> UserError:
        return UserError(f"{self._name}: {what}; not a submission as HO-3D defines it")


def _check_joints(
    pred: str | Path, joints: Sequence[np.ndarray], gt_joints: Sequence[np.ndarray]
) -> None:
    if len(joints) != len(gt_joints) or not joints:
        raise UserError(
            f"{pred}: {len(joints)} frames, but the truth has {len(gt_joints)}; "
            "predict every frame of evaluation.txt, in its order"
        )
    if all((points[:, 2] > 0).all() for points in joints):
        raise UserError(
            f"{pred}: all joints have z > 0; HO-3D wants the OpenGL camera frame "
            "(multiply y and z by -1)"
        )


def _score(
    joints: Sequence[np.ndarray],
    gt_joints: Sequence[np.ndarray],
    *meshes: Iterator[np.ndarray],
    names: Sequence[str | Path],
) -> dict[str, float]:
    """Sums over frames of the official values; `meshes` are predicted and true ones."""
    sums: dict[str, float] = {}
    for start in range(0, len(joints), BLOCK):
        stop = min(start + BLOCK, len(joints))
        blocks = [list(itertools.islice(mesh, stop - start)) for mesh in meshes]
        for name, block in zip(names, blocks, strict=True):
            if len(block) < stop - start:
                raise UserError(
                    f"{name}: meshes of {start + len(block)} frames for joints of "
                    f"{len(joints)}; give one per frame"
                )
        values = _score_block(joints[start:stop], gt_joints[start:stop], *blocks)
        for key, value in values.items():
            sums[key] = sums.get(key, 0.0) + float(value.sum())
    for name, mesh in zip(names, meshes, strict=True):
        if next(mesh, None) is not None:
            raise UserError(f"{name}: more meshes than frames; give one per frame")
    return sums


def _score_block(*blocks: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    num = len(blocks[0])
    arrays = []
    for block in blocks:
        stacked = np.stack(block)
        arrays.append(np.concatenate([stacked, stacked[[0] * (BLOCK - num)]]))
    with jax.enable_x64(True):
        values = _official_metrics(*arrays)
        return {key: np.asarray(value)[:num] for key, value in values.items()}


@jax.jit
def _official_metrics(
    joints: Float[Array, "b 21 3"],
    gt_joints: Float[Array, "b 21 3"],
    vertices: Float[Array, "b p 3"],
    gt_vertices: Float[Array, "b 778 3"],
) -> dict[str, Float[Array, " b"]]:
    if vertices.shape == gt_vertices.shape:
        return metrics.hand_metrics(
            joints, gt_joints, vertices, gt_vertices, protocol="standard"
        )
    values = metrics.joint_metrics(joints, gt_joints, protocol="standard")
    values["f_5"], values["f_15"] = metrics.f_scores(vertices, gt_vertices)
    return values


def _with_units(means: dict[str, float]) -> dict[str, float]:
    scores = {}
    for key, value in means.items():
        if key in LENGTHS:
            scores[f"{key}_cm"], scores[f"{key}_mm"] = 100 * value, 1000 * value
        elif key != "mje_root":  # not one of the organisers' numbers
            scores[key] = value
    return scores
