"""The official HO-3D v2 layout: which sequences there are and what each file holds.

Files are in HO-3D's conventions: OpenGL camera frame (`_gl`: x right, y up, z towards
the viewer), metres, radians, joints in MANO order with HO-3D's finger tips. Labels
arrive in the OpenCV camera frame and are turned here and nowhere else: points by
C = diag(1, -1, -1), rotations by C from the left.
"""

import io
import json
import pickle
import struct
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from homae_jax.errors import UserError
from homae_jax.objects.ycb import HO3D_OBJECTS, YCB_NAMES
from homae_jax.synthetic.png import encode_flat, encode_photo
from homae_jax.synthetic.render import HAND, OBJECT, Rendering, Visibility
from homae_jax.synthetic.scenes import Clip, Labels
from homae_jax.whole_file import replacing

GL_SIGNS = np.array([1.0, -1.0, -1.0])
FINGERTIPS = (728, 353, 442, 576, 694)  # HO-3D: thumb, index, middle, ring, little
DEPTH_SCALE = 0.00012498664727900177  # metres per step of the 16-bit depth
JPEG_QUALITY = 95
IMAGE_FORMATS = ("png", "jpg")


class Recording(NamedTuple):
    """Sequences that show one recording: `<name><camera>`, or `<name>` alone."""

    name: str
    cameras: tuple[int, ...]  # () = one camera, and no digit in the name
    object_name: str
    subject: str


def _row(name: str, cameras: str, object_id: int, subject: str) -> Recording:
    digits = tuple(int(digit) for digit in cameras)
    return Recording(name, digits, YCB_NAMES[object_id], subject)


# HO-3D v2's 55 training and 13 evaluation sequences with their objects.
TRAIN_RECORDINGS = (
    _row("ABF1", "01234", 12, "A"),
    _row("BB1", "01234", 10, "B"),
    _row("GPMF1", "01234", 9, "G"),
    _row("GSF1", "01234", 17, "G"),
    *(_row(f"MC{i}", "", 2, "M") for i in (1, 2, 4, 5, 6)),
    _row("MDF1", "01234", 15, "M"),
    _row("ND2", "", 15, "N"),
    _row("SB1", "024", 12, "S"),
    _row("ShSu1", "0234", 3, "Sh"),
    _row("SiBF1", "01234", 10, "Si"),
    _row("SiS1", "", 3, "Si"),
    *(_row(f"SM{i}", "", 5, "S") for i in (2, 3, 4, 5)),
    _row("SMu1", "", 14, "S"),
    _row("SMu4", "012", 14, "S"),
    *(_row(f"SS{i}", "", 3, "S") for i in (1, 2, 3)),
)
EVAL_RECORDINGS = (
    _row("SM1", "", 5, "S"),
    _row("MPM1", "01234", 9, "MP"),
    _row("SB1", "13", 12, "S"),
    _row("AP1", "01234", 11, "A"),
)


def plan_ho3d(
    num_train: int,
    num_eval: int,
    *,
    object_names: Sequence[str],
    objects: str = "all",
    unseen: bool = False,
    views_per_grasp: int = 8,
) -> list[Clip]:
    """Spreads frames over the sequences of HO-3D v2.

    The evaluation's pitcher never shows in training, nor does the hand of MPM10-14, as
    in HO-3D. Objects beyond HO-3D's ten get sequences of invented names (Y<id>1<cam>).

    Args:
      num_train: number of training frames.
      num_eval: number of evaluation frames.
      object_names: the models at hand.
      objects: "all" (up to 20 in training) or "ho3d" (HO-3D's nine).
      unseen: no object and no person of the evaluation shows in training.
      views_per_grasp: pictures taken of each grasp.

    Raises:
      UserError: no model fits a split that is to hold frames.
    """
    at_hand = set(object_names)
    held_out = {r.object_name for r in EVAL_RECORDINGS}
    train = [*TRAIN_RECORDINGS]
    if objects == "all":
        train += [
            _row(f"Y{number:02d}1", "01234", number, f"Y{number % 4}")
            for number, name in YCB_NAMES.items()
            if name not in HO3D_OBJECTS
        ]
    evaluation = [*EVAL_RECORDINGS]
    if unseen:
        train = [r for r in train if r.object_name not in held_out]
        evaluation = [r._replace(subject=f"unseen {r.subject}") for r in evaluation]
    clips, first_grasp = [], 0
    for split, recordings, number in (
        ("train", train, num_train),
        ("evaluation", evaluation, num_eval),
    ):
        recordings = [r for r in recordings if r.object_name in at_hand]
        if number and not recordings:
            raise UserError(f"models: none of the {split} split's objects is there")
        planned = _plan_split(split, recordings, number, first_grasp, views_per_grasp)
        first_grasp = 1 + max(
            (max(c.grasps) for c in planned), default=-1 + first_grasp
        )
        clips += planned
    return clips


def _plan_split(
    split, recordings, num_frames, first_grasp, views_per_grasp
) -> list[Clip]:
    """Gives every sequence its frames; cameras of a recording share its grasps."""
    places = sorted(
        ((rank, row) for row, r in enumerate(recordings) for rank in range(_rig(r))),
    )
    counts = [num_frames // len(places)] * len(places) if places else []
    for extra in range(num_frames - sum(counts)):
        counts[extra] += 1
    count_of = dict(zip(places, counts, strict=True))
    clips = []
    for row, recording in enumerate(recordings):
        num_grasps = 0
        for rank in range(_rig(recording)):
            count = count_of[rank, row]
            if not count:
                continue
            shots = [i * _rig(recording) + rank for i in range(count)]
            local = [shot // views_per_grasp for shot in shots]
            num_grasps = max(num_grasps, local[-1] + 1)
            camera = recording.cameras[rank] if recording.cameras else 0
            suffix = str(camera) if recording.cameras else ""
            clips.append(
                Clip(
                    split=split,
                    name=recording.name + suffix,
                    object_name=recording.object_name,
                    subject=recording.subject,
                    camera=camera,
                    rig=recording.cameras or (0,),
                    numbers=tuple(_frame_number(i) for i in range(count)),
                    grasps=tuple(first_grasp + g for g in local),
                    blanks=(0,) if rank == 0 and row % 4 == 0 else (),
                )
            )
        first_grasp += num_grasps
    return sorted(clips, key=lambda clip: clip.name)


def _rig(recording: Recording) -> int:
    return max(len(recording.cameras), 1)


def _frame_number(index: int) -> int:
    """Numbers start at 1 and leave gaps, as the official ones do."""
    return 1 + index + index // 12


@runtime_checkable
class Writer(Protocol):
    """What a layout has to know; one per data set, named by `--layout`."""

    def make_folders(self, clips: Iterable[Clip]) -> None:
        """Makes every folder that frames go to."""

    def write_frame(
        self, clip: Clip, index: int, labels: Labels, rendering: Rendering
    ) -> None:
        """Writes the files of frame `index`; the label file comes last."""

    def write_blank(
        self, clip: Clip, number: int, rgb: UInt8[np.ndarray, "h w 3"]
    ) -> None:
        """Writes a frame without annotation."""

    def record(
        self, clip: Clip, labels: Labels, visibility: Visibility
    ) -> dict[str, np.ndarray]:
        """What `write_lists` will need of a frame; "visibility" among it."""

    def write_lists(
        self, clips: Sequence[Clip], records: Sequence[dict[str, np.ndarray]]
    ) -> None:
        """Writes what can only be written when all frames are there."""


class Ho3dWriter:
    """Writes frames as HO-3D v2 has them.

    Args:
      root: the data set's folder.
      image_format: "png" as in v2, or "jpg" as in v3 (smaller and faster).
    """

    def __init__(self, root: Path, *, image_format: str = "png"):
        self._root, self._image_format = root, image_format

    def make_folders(self, clips: Iterable[Clip]) -> None:
        """Makes every folder that frames go to."""
        for clip in clips:
            kinds = ("rgb", "depth", "meta", "seg")[: 4 if clip.split == "train" else 3]
            for kind in kinds:
                folder = self._root / clip.split / clip.name / kind
                folder.mkdir(parents=True, exist_ok=True)

    def write_frame(
        self, clip: Clip, index: int, labels: Labels, rendering: Rendering
    ) -> None:
        """Writes the files of frame `index`; the label file comes last."""
        stem = self._stem(clip, clip.numbers[index])
        self._write_pictures(stem, rendering.rgb, rendering.depth)
        if clip.split == "train":
            write_bytes(stem("seg", "jpg"), _encode_segmentation(rendering))
            meta = _train_meta(clip, labels)
        else:
            meta = _evaluation_meta(clip, labels)
        write_bytes(stem("meta", "pkl"), dump_meta(meta, _python_of(clip)))

    def write_blank(
        self, clip: Clip, number: int, rgb: UInt8[np.ndarray, "h w 3"]
    ) -> None:
        """Writes a frame without annotation: in the folders, but in no list."""
        stem = self._stem(clip, number)
        self._write_pictures(stem, rgb, np.zeros(rgb.shape[:2], np.float32))
        keys = _TRAIN_KEYS if clip.split == "train" else _EVALUATION_KEYS
        meta = dict.fromkeys(keys) | {"camIDList": _camera_ids(clip)}
        write_bytes(stem("meta", "pkl"), dump_meta(meta, _python_of(clip)))

    def record(
        self, clip: Clip, labels: Labels, visibility: Visibility
    ) -> dict[str, np.ndarray]:
        """What `write_lists` will need of a frame."""
        kept = {"visibility": np.array(visibility, np.float32)}
        if clip.split == "evaluation":
            joints = joints_with_tips(labels) * GL_SIGNS
            vertices = labels.hand_vertices * GL_SIGNS
            kept |= {"xyz": joints, "verts": vertices}
        return kept

    def write_lists(
        self, clips: Sequence[Clip], records: Sequence[dict[str, np.ndarray]]
    ) -> None:
        """Writes the lists of frames, visible shares and the evaluation's truth.

        Args:
          clips: all clips.
          records: per clip, what `record` kept, its frames stacked.
        """
        for split in ("train", "evaluation"):
            names, shares = [], [np.zeros((0, 2))]
            for clip, kept in zip(clips, records, strict=True):
                if clip.split == split:
                    names += [f"{clip.name}/{number:04d}" for number in clip.numbers]
                    shares.append(kept["visibility"])
            write_text(self._root / f"{split}.txt", "".join(f"{n}\n" for n in names))
            rows = np.concatenate(shares).astype(float).round(4).tolist()
            table = json.dumps(dict(zip(names, rows, strict=True)))
            write_text(self._root / f"visibility_{split}.json", table)
        for kind in ("xyz", "verts"):
            frames = (frame for kept in records for frame in kept.get(kind, ()))
            lines = ",\n".join(json.dumps(_rounded(frame)) for frame in frames)
            write_text(self._root / f"evaluation_{kind}.json", f"[{lines}]\n")

    def _stem(self, clip: Clip, number: int):
        folder = self._root / clip.split / clip.name
        return lambda kind, suffix: folder / kind / f"{number:04d}.{suffix}"

    def _write_pictures(self, stem, rgb, depth) -> None:
        if self._image_format == "png":
            write_bytes(stem("rgb", "png"), encode_photo(rgb))
        else:
            write_bytes(stem("rgb", "jpg"), encode_jpeg(rgb))
        write_bytes(stem("depth", "png"), encode_flat(encode_depth(depth)))


_TRAIN_KEYS = (
    "camMat",
    "camIDList",
    "handJoints3D",
    "handPose",
    "handBeta",
    "handTrans",
    "objRot",
    "objTrans",
    "objName",
    "objLabel",
    "objCorners3D",
    "objCorners3DRest",
)
_EVALUATION_KEYS = (
    "camMat",
    "camIDList",
    "handJoints3D",
    "handBoundingBox",
    "objRot",
    "objTrans",
    "objName",
    "objLabel",
    "objCorners3D",
    "objCorners3DRest",
)


def joints_with_tips(labels: Labels) -> Float[np.ndarray, "21 3"]:
    """All 21 joints in MANO order, OpenCV camera frame."""
    return np.concatenate([labels.joints, labels.hand_vertices[list(FINGERTIPS)]])


def _train_meta(clip: Clip, labels: Labels) -> dict[str, Any]:
    rotation_gl = GL_SIGNS[:, None] * labels.hand_rotmat
    pose = np.concatenate([_rotmat_to_aa(rotation_gl), labels.finger_pose.ravel()])
    meta = _object_meta(clip, labels)
    meta |= {
        "handJoints3D": (joints_with_tips(labels) * GL_SIGNS).astype(np.float32),
        "handPose": pose.astype(np.float32),
        "handBeta": labels.betas.astype(np.float32),
        # MANO turns about its rest wrist J0, so wrist = J0 + handTrans.
        "handTrans": (labels.joints[0] * GL_SIGNS - labels.rest_wrist).astype(
            np.float32
        ),
    }
    return {key: meta[key] for key in _TRAIN_KEYS}


def _evaluation_meta(clip: Clip, labels: Labels) -> dict[str, Any]:
    meta = _object_meta(clip, labels)
    meta |= {
        "handJoints3D": (labels.joints[0] * GL_SIGNS).astype(np.float32),
        "handBoundingBox": _hand_box(labels),
    }
    return {key: meta[key] for key in _EVALUATION_KEYS}


def _object_meta(clip: Clip, labels: Labels) -> dict[str, Any]:
    rotation_gl = GL_SIGNS[:, None] * labels.object_rotmat
    trans_gl = GL_SIGNS * labels.object_trans
    rest = box_corners(labels.object_bounds)
    number = next(i for i, name in YCB_NAMES.items() if name == labels.object_name)
    return {
        "camMat": labels.intrinsics.astype(np.float64),
        "camIDList": _camera_ids(clip),
        "objRot": _rotmat_to_aa(rotation_gl).reshape(3, 1),
        "objTrans": trans_gl,
        "objName": labels.object_name,
        "objLabel": number,
        "objCorners3D": rest @ rotation_gl.T + trans_gl,
        "objCorners3DRest": rest,
    }


def _camera_ids(clip: Clip) -> list[str]:
    return [str(camera) for camera in clip.rig]


def box_corners(bounds: Float[np.ndarray, "2 3"]) -> Float[np.ndarray, "8 3"]:
    """Corner 4 bx + 2 by + bz takes the upper bound where its bit is 1 (HO-3D)."""
    bits = np.array([[i >> 2 & 1, i >> 1 & 1, i & 1] for i in range(8)])
    return bounds[bits, [0, 1, 2]]


def _hand_box(labels: Labels) -> Float[np.ndarray, "4"]:
    """The hand's outline, a tenth wider and taller, inside the picture; x0 y0 x1 y1."""
    points = labels.hand_vertices
    px = (points / points[:, 2:] @ labels.intrinsics.T)[:, :2]
    low, high = px.min(axis=0), px.max(axis=0)
    low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)
    return np.clip([*low, *high], 0, [639, 479, 639, 479])


def _rotmat_to_aa(rotmat: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3"]:
    return cv2.Rodrigues(rotmat)[0].ravel()


def encode_depth(depth: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Metres -> red (low byte) and green (high byte); 0 stays "no measurement"."""
    steps = np.round(depth / DEPTH_SCALE).astype(np.uint16)
    result = np.zeros((*depth.shape, 3), np.uint8)
    result[..., 0], result[..., 1] = steps & 0xFF, steps >> 8
    return result


def _encode_segmentation(rendering: Rendering) -> bytes:
    """160x120 JPEG: the hand pure red, the object pure blue."""
    height, width = rendering.segmentation.shape
    picture = np.zeros((height // 4, width // 4, 3), np.uint8)
    for label, channel in ((HAND, 0), (OBJECT, 2)):
        mask = (rendering.segmentation == label).astype(np.float32)
        share = cv2.resize(
            mask, (width // 4, height // 4), interpolation=cv2.INTER_AREA
        )
        picture[..., channel] = np.where(share > 0.5, 255, 0)
    return encode_jpeg(picture)


def encode_jpeg(rgb: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """JPEG without subsampled colours."""
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    options += [
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    return cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)[
        1
    ].tobytes()


def dump_meta(meta: dict[str, Any], python: int = 3) -> bytes:
    """Pickles at protocol 2 under the names that every numpy version can read.

    Args:
      python: 2: as Python 2 wrote it, texts and arrays' contents as byte strings.
    """
    file = io.BytesIO()
    (_Python2Pickler if python == 2 else pickle.Pickler)(file, protocol=2).dump(meta)
    return file.getvalue().replace(
        b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
    )


class _Python2Pickler(pickle._Pickler):  # in Python: it can be told opcodes
    """Knows one kind of string, that of bytes."""

    dispatch = pickle._Pickler.dispatch.copy()

    def _save_string(self, value: str | bytes) -> None:
        data = value if isinstance(value, bytes) else value.encode("latin1")
        if len(data) < 256:
            self.write(pickle.SHORT_BINSTRING + struct.pack("<B", len(data)) + data)
        else:
            self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = _save_string


def _python_of(clip: Clip) -> int:
    """Some sequences are of Python 2, some of 3, as both are met."""
    return 2 + zlib.crc32(clip.name.encode()) % 2


def _rounded(array: np.ndarray) -> list:
    return np.asarray(array, np.float64).round(7).tolist()


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file that others see whole or not at all."""
    with replacing(path) as part:
        part.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Writes a text that others see whole or not at all."""
    write_bytes(path, text.encode())
