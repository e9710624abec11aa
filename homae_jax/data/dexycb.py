"""DexYCB from the official folders, by the official rules: splits, poses, both hands.

Files are in the OpenCV camera frame already, joints in simple order, hand poses as PCA
coefficients about MANO's mean; what leaves this module has MANO order and axis-angle
with a flat mean. The network knows a right hand: left ones are mirrored with their
pictures (x -> W - 1 - x; HOISDF "full"), kept as they are, or left out. Under the
mirror the object's pose is M R M while its model stays, which is exact for objects
symmetric about their own x = 0 only (HOISDF does so).
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from homae_jax.data import dexycb_files, index
from homae_jax.data.dexycb_files import SERIALS
from homae_jax.data.pictures import read_picture
from homae_jax.data.source import Frame, FrameInfo, GroundTruth
from homae_jax.errors import UserError
from homae_jax.hand.joints import SIMPLE_TO_MANO
from homae_jax.objects.ycb import BOX_CENTRES, EXTENTS, YCB_NAMES
from homae_jax.schema import BACKGROUND, HAND, OBJECT

FILTERS = ("annotated", "hoisdf_full", "right")
LEFT_HANDS = ("mirror", "keep", "drop")
MIRROR = np.array([-1.0, 1.0, 1.0])
SEG_HAND = 255
ROTATION_TOLERANCE = 1e-3
# Sizes that others report (DexYCB; HandOccNet's lists; HFL-Net, HOISDF).
PUBLISHED_SIZES = {
    ("s0_train", "all"): 465_504,
    ("s0_train", "annotated"): 406_888,
    ("s0_test", "annotated"): 78_768,
    ("s0_train", "hoisdf_full"): 401_507,
    ("s0_test", "hoisdf_full"): 78_005,
}


class HandBasis(NamedTuple):
    """What turns PCA coefficients into axis-angle, of one side's MANO file."""

    components: Float[np.ndarray, "45 45"]
    mean: Float[np.ndarray, " 45"]


class DexYcbSource:
    """The frames of one split that pass a filter, in the official order.

    Args:
      root: DexYCB's folder, which holds the subjects' and `calibration`.
      split: "s0_train" to "s3_test".
      right, left: of MANO_RIGHT.pkl and MANO_LEFT.pkl; left may be None where there is
        no left hand to read.
      filter_name: one of FILTERS: hand and object annotated; also HOISDF's box test;
        annotated right hands.
      left_hands: one of LEFT_HANDS.
      models: folder of the YCB models, for their boxes; None: the known sizes.
      cache_dir: where the index is kept.
      workers: processes that build it; None: one per core.

    Raises:
      UserError: the folder, split or filter is not there, or no frame passes.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        right: HandBasis,
        left: HandBasis | None,
        filter_name: str = "annotated",
        left_hands: str = "mirror",
        models: Path | None = None,
        cache_dir: Path,
        workers: int | None = None,
    ):
        for key, value, choices in (
            ("data.filter", filter_name, FILTERS),
            ("data.left_hands", left_hands, LEFT_HANDS),
        ):
            if value not in choices:
                raise UserError(f'{key}="{value}": use one of {", ".join(choices)}')
        self._root, self._models = Path(root), models
        self._split, self._filter = split, filter_name
        self._right, self._left, self._left_hands = right, left, left_hands
        self._index = index.open_dexycb(
            self._root, split, cache_dir=cache_dir, workers=workers
        )
        is_left = np.array([s.side == "left" for s in self._index.sequences])
        drops_left = filter_name == "right" or left_hands == "drop"
        rows, self._excluded = select(
            self._index, is_left, filter_name, drops_left=drops_left
        )
        if not len(rows):
            raise UserError(f"{root}: no frame of {split} passes {filter_name}")
        if left is None and is_left[self._index.sequence[rows]].any():
            raise UserError(
                "data.mano: MANO_LEFT.pkl is not beside MANO_RIGHT.pkl, and there are "
                "left hands; copy it there, or set --config.data.left_hands=drop"
            )
        self._rows = rows
        self._intrinsics = {
            camera: dexycb_files.read_intrinsics(self._root, SERIALS[camera])
            for camera in np.unique(self._index.camera).tolist()
        }
        used = [self._index.sequences[i] for i in np.unique(self._index.sequence[rows])]
        people = {s.calibration for s in used}
        self._betas = {who: dexycb_files.read_betas(self._root, who) for who in people}
        grasped = {s.ycb_ids[s.grasped] for s in used}
        self._corners = {number: self._box_corners(number) for number in grasped}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> Frame:
        sequence, camera, _, folder, number = self._place(row)
        path = folder / f"labels_{number:06d}.npz"
        labels = dexycb_files.read_labels(path, ("seg", "pose_y", "pose_m", "joint_3d"))
        ycb_id = sequence.ycb_ids[sequence.grasped]
        pose = labels["pose_y"][sequence.grasped].astype(np.float64)
        deviation = np.abs(pose[:, :3] @ pose[:, :3].T - np.eye(3)).max()
        if deviation > ROTATION_TOLERANCE:
            raise UserError(
                f"{path}: pose_y holds no rotation (off by {deviation:.1e})"
            )
        seg = labels["seg"]
        masks = np.full(seg.shape, BACKGROUND, np.uint8)
        masks[seg == SEG_HAND], masks[seg == ycb_id] = HAND, OBJECT
        joints = labels["joint_3d"][0].astype(np.float64)[SIMPLE_TO_MANO]
        frame = Frame(
            index=int(row),
            image=self._read_image(folder / f"color_{number:06d}.jpg"),
            segmentation=masks,
            intrinsics=self._intrinsics[camera].copy(),
            wrist=joints[0],
            joints=joints,
            hand_pose=self._hand_pose(labels["pose_m"][0], sequence.side),
            hand_betas=self._betas[sequence.calibration].copy(),
            gt_joints=None,
            hand_box_px=None,
            object_name=YCB_NAMES[ycb_id],
            object_rotmat=pose[:, :3],
            object_trans=pose[:, 3],
            object_corners=self._corners[ycb_id],
        )
        is_mirrored = sequence.side == "left" and self._left_hands == "mirror"
        return mirrored(frame) if is_mirrored else frame

    def frame_name(self, row: int) -> str:
        """`<subject>/<sequence>/<serial>/<number>`."""
        _, _, name, _, number = self._place(row)
        return f"{name}/{number:06d}"

    def frame_info(self, row: int) -> FrameInfo:
        """Object and sequence; visible shares are not known here."""
        sequence, *_ = self._place(row)
        return FrameInfo(
            hand_visibility=np.nan,
            object_visibility=np.nan,
            object_name=YCB_NAMES[sequence.ycb_ids[sequence.grasped]],
            sequence=sequence.path,
        )

    def ground_truth(self, row: int) -> GroundTruth | None:
        """The label's joints, mirrored where the frame is."""
        sequence, _, _, folder, number = self._place(row)
        labels = dexycb_files.read_labels(
            folder / f"labels_{number:06d}.npz", ("joint_3d",)
        )
        joints = labels["joint_3d"][0].astype(np.float64)[SIMPLE_TO_MANO]
        if sequence.side == "left" and self._left_hands == "mirror":
            joints = joints * MIRROR
        return GroundTruth(joints, None)

    def describe(self) -> str:
        """One line: frames in use, what others report, and why the rest is out."""
        published = PUBLISHED_SIZES.get((self._split, self._filter))
        beside = f" (published: {published})" if published else ""
        why = [f"{reason} {count}" for reason, count in self._excluded.items()]
        out = f"; left out: {', '.join(why)}" if why else ""
        return f"DexYCB {self._split}, {self._filter}: {len(self)} frames{beside}{out}"

    def excluded(self) -> dict[str, int]:
        """Frames of the split that are not used, by reason."""
        return dict(self._excluded)

    def _place(self, row: int):
        place = self._rows[row]
        sequence = self._index.sequences[self._index.sequence[place]]
        camera = int(self._index.camera[place])
        name = f"{sequence.path}/{SERIALS[camera]}"
        return sequence, camera, name, self._root / name, int(self._index.frame[place])

    def _read_image(self, path: Path) -> np.ndarray:
        try:
            return read_picture(path)
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such picture, yet its labels exist") from error

    def _hand_pose(self, pose: np.ndarray, side: str) -> Float[np.ndarray, "16 3"]:
        """Axis-angle, flat mean, in the file's own side.

        Where left hands are mirrored, the left mean is taken as the mirror image of
        the right one (HOISDF), so that `mirrored` gives the right hand's.
        """
        basis = self._right if side == "right" else self._left
        mean = basis.mean
        if side == "left" and self._left_hands == "mirror":
            mean = (self._right.mean.reshape(15, 3) * -MIRROR).ravel()
        fingers = pose[3:48].astype(np.float64) @ basis.components + mean
        return np.concatenate([pose[:3].astype(np.float64), fingers]).reshape(16, 3)

    def _box_corners(self, ycb_id: int) -> Float[np.ndarray, "8 3"]:
        """Of the model's points; corner 4 bx + 2 by + bz."""
        if ycb_id not in YCB_NAMES:
            raise UserError(
                f"{self._root}: ycb_ids names object {ycb_id}; 1 to 21 exist"
            )
        name = YCB_NAMES[ycb_id]
        path = self._models / name / "points.xyz" if self._models else None
        if path is not None and path.is_file():
            points = np.loadtxt(path, usecols=(0, 1, 2), ndmin=2)
            low, high = points.min(axis=0), points.max(axis=0)
        else:
            half = np.array(EXTENTS[name]) / 2
            low, high = BOX_CENTRES[name] - half, BOX_CENTRES[name] + half
        return low + np.array(list(np.ndindex(2, 2, 2))) * (high - low)


def select(
    table: index.Index, is_left: np.ndarray, filter_name: str, *, drops_left: bool
) -> tuple[np.ndarray, dict[str, int]]:
    """Rows of an index that pass a filter, in order; the others by reason."""
    counts = index.excluded(table)
    passing = [index.USED]
    if filter_name != "hoisdf_full":
        passing.append(index.BOX_OUTSIDE)
        counts.pop(index.REASONS[index.BOX_OUTSIDE], None)
    is_used = np.isin(table.reason, passing)
    if drops_left:
        is_dropped = is_used & is_left[table.sequence]
        is_used &= ~is_dropped
        counts |= {"left hand": int(is_dropped.sum())} if is_dropped.any() else {}
    return np.flatnonzero(is_used), counts


def mirrored(frame: Frame) -> Frame:
    """A frame seen in a mirror: the left hand becomes a right one; its own inverse."""
    width = frame["image"].shape[1]
    intrinsics = frame["intrinsics"].copy()
    intrinsics[0, 2] = width - 1 - intrinsics[0, 2]
    rotmat = MIRROR[:, None] * frame["object_rotmat"] * MIRROR
    changes = {
        "image": np.ascontiguousarray(frame["image"][:, ::-1]),
        "segmentation": np.ascontiguousarray(frame["segmentation"][:, ::-1]),
        "intrinsics": intrinsics,
        "wrist": frame["wrist"] * MIRROR,
        "joints": frame["joints"] * MIRROR,
        "hand_pose": frame["hand_pose"] * -MIRROR,  # axis-angle: (x, -y, -z)
        "object_rotmat": rotmat,
        "object_trans": frame["object_trans"] * MIRROR,
    }
    return Frame(**(frame | changes))
