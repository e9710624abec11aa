"""The official DexYCB layout: which sequences there are and what each file holds.

Labels arrive in the OpenCV camera frame, and stay in it: metres, radians, joints in
simple order with manopth's tips, hand poses as coefficients of the components in the
MANO files beside. A left hand is the right one's mirror image, u -> 2 cx - u, so that a
camera keeps its calibration; left hands hold objects that look alike in a mirror.

The eight cameras of a sequence are one rig (rig.py): world is the first camera's frame,
of `extrinsics.yml` and `pose.npz`; a sequence of left hands, mirrored picture by
picture, was seen by the mirrored rig, which has an `extrinsics.yml` of its own. All 100
sequences of all subjects have a folder, for the splits go by their number; those
without frames have `num_frames: 0`. Frame 0 of each camera has no hand annotation.
"""

import functools
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from jaxtyping import Float, UInt8

from homae_jax.errors import UserError
from homae_jax.hand.joints import MANO_TO_SIMPLE
from homae_jax.hand.safe_pickle import load_pickle
from homae_jax.objects.ycb import YCB_NAMES
from homae_jax.synthetic import rig
from homae_jax.synthetic.render import HAND, OBJECT, Rendering, Visibility
from homae_jax.synthetic.scenes import Clip, Labels
from homae_jax.synthetic.writers import encode_jpeg, write_bytes, write_text

SUBJECTS = (
    *("20200709-subject-01", "20200813-subject-02", "20200820-subject-03"),
    *("20200903-subject-04", "20200908-subject-05", "20200918-subject-06"),
    *("20200928-subject-07", "20201002-subject-08", "20201015-subject-09"),
    "20201022-subject-10",
)
SERIALS = (
    *("836212060125", "839512060362", "840412060917", "841412060263"),
    *("932122060857", "932122060861", "932122061900", "932122062010"),
)
SEQUENCES = 100  # of a subject
GRASPED = tuple(i for i in YCB_NAMES if i != 19)  # five sequences each, in this order
MIRRORABLE = (1, 2, 3, 4, 6, 7, 8, 9, 13, 16, 21)  # boxes, cans, the bowl
FRAMES = (1, 72)  # of a sequence with annotation
SPREAD = 40  # sequences that a split is spread over, if it has so many frames
SEG_HAND = 255
FINGERTIPS = {  # manopth: thumb, index, middle, ring, little
    "right": (745, 317, 444, 556, 673),
    "left": (745, 317, 445, 556, 673),
}
MIRROR = np.array([-1.0, 1.0, 1.0])
EXTRINSICS = {"right": "20200702_151821", "left": "20200703_101500"}
CALIBRATED = "20200709_140042"  # when hands were measured
NO_POSE = np.array([0, 0, 0, 1, 0, 0, 0], np.float32)  # of pose.npz
HEIGHT, WIDTH = 480, 640


def plan_dexycb(
    num_train: int,
    num_eval: int,
    *,
    object_names: Sequence[str],
    objects: str = "all",
    unseen: bool = False,
    views_per_grasp: int = 8,
) -> list[Clip]:
    """Spreads frames over sequences of S0's training and test splits.

    Raises:
      UserError: no model fits, too many frames, or an option that S0 has not.
    """
    if unseen or objects != "all":
        raise UserError(
            "--layout=dexycb follows S0, whose test shows the same objects: leave "
            "--unseen and --objects out"
        )
    clips: list[Clip] = []
    for split, number in (("train", num_train), ("evaluation", num_eval)):
        places = [
            (subject, sequence)
            for sequence in range(SEQUENCES)
            for subject in range(len(SUBJECTS))
            if _is_of(split, subject, sequence)
            and YCB_NAMES[GRASPED[sequence // 5]] in object_names
        ]
        if number and not places:
            raise UserError("models: none of DexYCB's grasped objects is there")
        if number > len(places) * len(SERIALS) * FRAMES[1]:
            raise UserError(f"--layout=dexycb holds fewer than {number} {split} frames")
        rng = np.random.default_rng(len(split))  # the same places for every seed
        order = [places[i] for i in rng.permutation(len(places))]
        clips += _fill(split, order, number, views_per_grasp, clips)
    return clips


def _is_of(split: str, subject: int, sequence: int) -> bool:
    """S0: every fifth sequence is held out; the first two subjects' validate."""
    if sequence % 5 != 4:
        return split == "train"
    return split == "evaluation" and subject >= 2


def _fill(
    split: str,
    places: list[tuple[int, int]],
    number: int,
    views_per_grasp: int,
    before: list[Clip],
) -> list[Clip]:
    """Gives sequence after sequence, camera after camera, its frames."""
    cameras = len(SERIALS)
    spread = min(SPREAD, len(places)) * cameras
    per_camera = int(np.clip(-(-number // max(spread, 1)), *FRAMES))
    per_camera = max(per_camera, -(-number // max(len(places) * cameras, 1)))
    first_grasp = 1 + max((max(clip.grasps) for clip in before), default=-1)
    clips: list[Clip] = []
    for subject, sequence in places:
        num_grasps = -(-per_camera // views_per_grasp)
        for camera in range(cameras):
            count = min(per_camera, number)
            number -= count
            if not count:
                return clips
            clips.append(
                Clip(
                    split=split,
                    name=f"{sequence_path(subject, sequence)}/{SERIALS[camera]}",
                    object_name=YCB_NAMES[GRASPED[sequence // 5]],
                    subject=SUBJECTS[subject],
                    camera=camera,
                    rig=tuple(range(cameras)),
                    numbers=tuple(range(1, count + 1)),
                    grasps=tuple(
                        first_grasp + i // views_per_grasp for i in range(count)
                    ),
                    blanks=(0,),
                )
            )
        first_grasp += num_grasps
    return clips


def sequence_path(subject: int, sequence: int) -> str:
    """`<subject>/<YYYYMMDD_HHMMSS>`, in the order of the sequences' numbers."""
    day = SUBJECTS[subject][:8]
    return f"{SUBJECTS[subject]}/{day}_{10 + sequence // 60:02d}{sequence % 60:02d}00"


def side_of(clip: Clip) -> str:
    """Every second sequence's hand is a left one, where its object allows."""
    subject, name, _ = clip.name.split("/")
    sequence = int(name[-6:-4]) * 60 + int(name[-4:-2])
    is_odd = (sequence + SUBJECTS.index(subject)) % 2
    return "left" if is_odd and _ycb_id(clip.object_name) in MIRRORABLE else "right"


class DexYcbWriter:
    """Writes frames as DexYCB has them.

    Args:
      root: the data set's folder; `mano/MANO_RIGHT.pkl` and `MANO_LEFT.pkl` are there.
      image_format: not used: pictures are JPEG.
    """

    def __init__(self, root: Path, *, image_format: str = "jpg"):
        del image_format
        self._root = root
        self._basis = functools.cache(self._read_basis)

    def make_folders(self, clips: Iterable[Clip]) -> None:
        """Makes every folder that frames go to."""
        for clip in clips:
            (self._root / clip.name).mkdir(parents=True, exist_ok=True)

    def write_frame(
        self, clip: Clip, index: int, labels: Labels, rendering: Rendering
    ) -> None:
        """Writes the files of frame `index`; the label file comes last."""
        side = side_of(clip)
        if side == "left":
            rendering = _mirror_pictures(rendering, float(labels.intrinsics[0, 2]))
        seg = np.zeros(rendering.segmentation.shape, np.uint8)
        seg[rendering.segmentation == HAND] = SEG_HAND
        seg[rendering.segmentation == OBJECT] = _ycb_id(clip.object_name)
        arrays = {"seg": seg, **self._arrays(clip, labels, side)}
        self._write(clip, clip.numbers[index], rendering.rgb, rendering.depth, arrays)

    def write_blank(
        self, clip: Clip, number: int, rgb: UInt8[np.ndarray, "h w 3"]
    ) -> None:
        """Writes a frame without a hand's or an object's annotation."""
        self._write(clip, number, rgb, np.zeros(rgb.shape[:2]), _blank_arrays())

    def record(
        self, clip: Clip, labels: Labels, visibility: Visibility
    ) -> dict[str, np.ndarray]:
        """What `write_lists` will need of a frame."""
        arrays = self._arrays(clip, labels, side_of(clip))
        quat = _rotmat_to_quat(arrays["pose_y"][0, :, :3].astype(np.float64))
        pose_y = np.concatenate([quat, arrays["pose_y"][0, :, 3]])
        return {
            "visibility": np.array(visibility, np.float32),
            "betas": labels.betas.astype(np.float32),
            "intrinsics": labels.intrinsics,
            "pose_m": arrays["pose_m"],
            "pose_y": np.stack([pose_y, NO_POSE]).astype(np.float32),
        }

    def write_lists(
        self, clips: Sequence[Clip], records: Sequence[dict[str, np.ndarray]]
    ) -> None:
        """Writes calibration and what belongs to whole sequences."""
        self._write_cameras(clips, records)
        sequences: dict[str, list[tuple[Clip, dict[str, np.ndarray]]]] = {}
        for clip, kept in zip(clips, records, strict=True):
            sequences.setdefault(clip.name.rpartition("/")[0], []).append((clip, kept))
        for path, parts in sequences.items():
            self._write_sequence(path, parts)
        for row, subject in enumerate(SUBJECTS):
            if subject not in {clip.subject for clip in clips}:
                self._write_betas(subject, np.zeros(10))
            for number in range(SEQUENCES):
                path = sequence_path(row, number)
                if path not in sequences:
                    side = ("right", "left")[(row + number) % 2]
                    self._write_empty(path, subject, GRASPED[number // 5], side)

    def _write_sequence(
        self, path: str, parts: list[tuple[Clip, dict[str, np.ndarray]]]
    ) -> None:
        clip, kept = parts[0]
        num = 1 + max(number for each, _ in parts for number in each.numbers)
        black = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        for serial in SERIALS:  # cameras for which no frame was left
            folder = self._root / path / serial
            folder.mkdir(exist_ok=True)
            for number in range(num):
                if not (folder / f"labels_{number:06d}.npz").is_file():
                    other = clip._replace(name=f"{path}/{serial}")
                    self.write_blank(other, number, black)
        pose_m = np.zeros((num, 1, 51), np.float32)
        pose_y = np.tile(NO_POSE, (num, 2, 1))
        numbers = list(clip.numbers)
        pose_m[numbers], pose_y[numbers] = kept["pose_m"], kept["pose_y"]
        buffer = io.BytesIO()
        np.savez_compressed(buffer, pose_y=pose_y, pose_m=pose_m)
        write_bytes(self._root / path / "pose.npz", buffer.getvalue())
        calibration = f"{CALIBRATED}_{clip.subject[9:]}_{side_of(clip)}"
        self._write_betas(clip.subject, kept["betas"][0])
        ids = _scene_ids(_ycb_id(clip.object_name))
        meta = _meta(num, ids, side_of(clip), calibration)
        self._write_yaml(f"{path}/meta.yml", meta)

    def _write_betas(self, subject: str, betas: Float[np.ndarray, "10"]) -> None:
        """A person's shape, the same for both hands."""
        for side in FINGERTIPS:
            folder = f"calibration/mano_{CALIBRATED}_{subject[9:]}_{side}"
            self._write_yaml(f"{folder}/mano.yml", {"betas": [float(b) for b in betas]})

    def _write_empty(self, path: str, subject: str, ycb_id: int, side: str) -> None:
        calibration = f"{CALIBRATED}_{subject[9:]}_{side}"
        meta = _meta(0, _scene_ids(ycb_id), side, calibration)
        self._write_yaml(f"{path}/meta.yml", meta)

    def _write_cameras(
        self, clips: Sequence[Clip], records: Sequence[dict[str, np.ndarray]]
    ) -> None:
        default = np.array([[614.6, 0, 320], [0, 614.6, 240], [0, 0, 1.0]])
        known = {
            clip.camera: kept["intrinsics"][0]
            for clip, kept in zip(clips, records, strict=True)
        }
        eye = tuple(float(x) for x in np.eye(3, 4).ravel())
        for camera, serial in enumerate(SERIALS):
            k = known.get(camera, default)
            values = (k[0, 0], k[1, 1], k[0, 2], k[1, 2])
            names = ("fx", "fy", "ppx", "ppy")
            color = dict(zip(names, map(float, values), strict=True))
            depth = color | {key: 0.968 * color[key] for key in ("fx", "fy")}
            calibration = {"color": color, "depth": depth, "extrinsics": eye}
            self._write_yaml(
                f"calibration/intrinsics/{serial}_640x480.yml", calibration
            )
        for side, name in EXTRINSICS.items():
            poses = {
                serial: rig.world_T_cam(row, is_mirrored=side == "left")
                for row, serial in enumerate(SERIALS)
            } | {"apriltag": np.eye(3, 4)}
            rows = {key: tuple(map(float, p.ravel())) for key, p in poses.items()}
            self._write_yaml(
                f"calibration/extrinsics_{name}/extrinsics.yml",
                {"extrinsics": rows, "master": SERIALS[0]},
            )

    def _arrays(self, clip: Clip, labels: Labels, side: str) -> dict[str, np.ndarray]:
        """pose_y, pose_m, joint_3d and joint_2d of a frame."""
        signs = MIRROR if side == "left" else np.ones(3)
        tips = labels.hand_vertices[list(FINGERTIPS[side])]
        joints = np.concatenate([labels.joints, tips])[MANO_TO_SIMPLE] * signs
        px = joints @ labels.intrinsics.T
        hand_rotmat = signs[:, None] * labels.hand_rotmat * signs
        # Under a mirror an axis turns with it, and its angle the other way round.
        fingers = labels.finger_pose * (-MIRROR if side == "left" else 1.0)
        components, mean = self._basis(side)
        coefficients = np.linalg.solve(components.T, fingers.ravel() - mean)
        trans = joints[0] - signs * labels.rest_wrist
        pose = (cv2.Rodrigues(hand_rotmat)[0].ravel(), coefficients, trans)
        poses = np.zeros((2, 3, 4))
        rotmat = signs[:, None] * labels.object_rotmat * signs
        # The object is alike in a mirror through its box's middle, not its origin.
        middle = labels.object_bounds.mean(axis=0)
        seen = signs * (labels.object_rotmat @ middle + labels.object_trans)
        poses[0, :, :3], poses[0, :, 3] = rotmat, seen - rotmat @ middle
        return {
            "pose_y": poses.astype(np.float32),
            "pose_m": np.concatenate(pose)[None].astype(np.float32),
            "joint_3d": joints[None].astype(np.float32),
            "joint_2d": (px[:, :2] / px[:, 2:])[None].astype(np.float32),
        }

    def _read_basis(self, side: str) -> tuple[np.ndarray, np.ndarray]:
        fields = load_pickle(self._root / "mano" / f"MANO_{side.upper()}.pkl")
        names = ("hands_components", "hands_mean")
        components, mean = (np.asarray(fields[name], np.float64) for name in names)
        return components, mean

    def _write(
        self,
        clip: Clip,
        number: int,
        rgb: UInt8[np.ndarray, "h w 3"],
        depth: Float[np.ndarray, "h w"],
        arrays: dict[str, np.ndarray],
    ) -> None:
        folder = self._root / clip.name
        write_bytes(folder / f"color_{number:06d}.jpg", encode_jpeg(rgb))
        millimetres = np.round(1000 * depth).astype(np.uint16)
        png = cv2.imencode(".png", millimetres)[1].tobytes()
        write_bytes(folder / f"aligned_depth_to_color_{number:06d}.png", png)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_bytes(folder / f"labels_{number:06d}.npz", buffer.getvalue())

    def _write_yaml(self, name: str, values: dict[str, Any]) -> None:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, yaml.dump(values))  # tuples get the official tag


def _ycb_id(name: str) -> int:
    return next(number for number, each in YCB_NAMES.items() if each == name)


def _scene_ids(ycb_id: int) -> list[int]:
    """The grasped object first, and one more that has no pose."""
    return [ycb_id, 1 + ycb_id % 18]


def _meta(num: int, ids: list[int], side: str, calibration: str) -> dict[str, Any]:
    return {
        "serials": list(SERIALS),
        "num_frames": num,
        "extrinsics": EXTRINSICS[side],
        "ycb_ids": ids,
        "ycb_grasp_ind": 0,
        "mano_sides": [side],
        "mano_calib": [calibration],
    }


def _blank_arrays() -> dict[str, np.ndarray]:
    return {
        "seg": np.zeros((HEIGHT, WIDTH), np.uint8),
        "pose_y": np.zeros((2, 3, 4), np.float32),
        "pose_m": np.zeros((1, 51), np.float32),
        "joint_3d": np.full((1, 21, 3), -1, np.float32),
        "joint_2d": np.full((1, 21, 2), -1, np.float32),
    }


def _mirror_pictures(rendering: Rendering, cx: float) -> Rendering:
    """u -> 2 cx - u: about the principal point, so that K stays."""
    affine = np.array([[-1.0, 0, 2 * cx], [0, 1, 0]])  # its own inverse

    def turn(picture: np.ndarray, how: int) -> np.ndarray:
        height, width = picture.shape[:2]
        return cv2.warpAffine(
            picture,
            affine,
            (width, height),
            flags=how | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )

    return Rendering(
        turn(rendering.rgb, cv2.INTER_LINEAR),
        turn(rendering.segmentation, cv2.INTER_NEAREST),
        turn(rendering.depth, cv2.INTER_NEAREST),
    )


def _rotmat_to_quat(rotmat: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, " 4"]:
    """x, y, z, w."""
    axis = cv2.Rodrigues(rotmat)[0].ravel()
    angle = np.linalg.norm(axis)
    unit = axis / max(angle, 1e-12)
    return np.array([*(np.sin(angle / 2) * unit), np.cos(angle / 2)])
