"""DexYCB from the official folders, by the official rules: splits, poses, both hands.

Files are in the OpenCV camera frame already, joints in simple order, hand poses as PCA
coefficients about MANO's mean; what leaves this module has MANO order and axis-angle
with a flat mean. The network knows a right hand: left ones are mirrored with their
pictures (x -> W - 1 - x; HOISDF "full"), kept as they are, or left out. Under the
mirror the object's pose is M R M while its model stays, which is exact for objects
symmetric about their own x = 0 only (HOISDF does so).
"""

import warnings
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int

from homae_jax.data import dexycb_files, dexycb_index
from homae_jax.data.dexycb_files import SERIALS
from homae_jax.data.pictures import read_picture
from homae_jax.data.source import Frame, FrameInfo, GroundTruth
from homae_jax.errors import UserError
from homae_jax.hand.joints import SIMPLE_TO_MANO
from homae_jax.objects.ycb import BOX_CENTRES, EXTENTS, YCB_NAMES
from homae_jax.schema import BACKGROUND, HAND, OBJECT

LEFT_HANDS = ("mirror", "keep", "drop")
MIRROR = np.array([-1.0, 1.0, 1.0])
SEG_HAND = 255
ROTATION_TOLERANCE = 1e-3


class Filter(NamedTuple):
    """Which annotated frames a protocol uses."""

    is_box_tested: bool = False  # HOISDF's test of the hand's box
    is_right_only: bool = False
    is_inside: bool = False  # joints and object wholly in the picture
    reach: float = np.inf  # metres from a joint to the object, at most
    has_nearest: bool = False  # whether that distance, or the picture, is asked for
    published: tuple[tuple[str, int], ...] = ()  # split and frames that others report


# By name (`data.filter`). Sizes are DexYCB's toolkit's users': HandOccNet's lists for
# "annotated", HFL-Net and HOISDF for "hoisdf_full"; "hoisdf_small" is the rule of Dense
# Mutual Attention (DMA), from which HOISDF's reader derives, not HOISDF's own list.
FILTERS = {
    "annotated": Filter(published=(("s0_train", 406_888), ("s0_test", 78_768))),
    "hoisdf_full": Filter(
        is_box_tested=True, published=(("s0_train", 401_507), ("s0_test", 78_005))
    ),
    "hoisdf_small": Filter(
        is_right_only=True,
        is_inside=True,
        reach=0.010,
        has_nearest=True,
        published=(("s0_test", 24_549),),
    ),
    "artiboost": Filter(
        is_right_only=True,
        reach=0.050,
        has_nearest=True,
        published=(("s0_train", 168_280), ("s0_test", 32_968)),
    ),
    "right": Filter(is_right_only=True),
}
PUBLISHED_FRAMES = {"s0_train": 465_504}  # before any filter


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
      filter_name: a key of FILTERS.
      left_hands: one of LEFT_HANDS.
      models: folder of the YCB models, for their boxes; None: the known sizes. The
        filters that ask how near hand and object are need it.
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
        self._index = dexycb_index.open_index(
            self._root, split, cache_dir=cache_dir, workers=workers
        )
        self._intrinsics = _read_cameras(self._root, self._index)
        wanted, contacts = FILTERS[filter_name], None
        if wanted.has_nearest:
            if models is None:
                raise UserError(f'data.filter="{filter_name}" needs data.models')
            contacts = find_contacts(
                self._root,
                split,
                self._index,
                models=models,
                cache_dir=cache_dir,
                workers=workers,
            )
        is_left = np.array([s.side == "left" for s in self._index.sequences])
        self._reason, self._reasons = apply_filter(
            self._index,
            is_left,
            wanted._replace(is_right_only=wanted.is_right_only or left_hands == "drop"),
            contacts,
        )
        rows = np.flatnonzero(self._reason == dexycb_index.USED)
        if not len(rows):
            raise UserError(f"{root}: no frame of {split} passes {filter_name}")
        if left is None and is_left[self._index.sequence[rows]].any():
            raise UserError(
                "data.mano: MANO_LEFT.pkl is not beside MANO_RIGHT.pkl, and there are "
                "left hands; copy it there, or set --config.data.left_hands=drop"
            )
        self._rows = rows
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
        meaning = np.full(256, BACKGROUND, np.uint8)
        meaning[SEG_HAND], meaning[ycb_id] = HAND, OBJECT
        masks = cv2.LUT(labels["seg"].astype(np.uint8, copy=False), meaning)
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

    def side(self, row: int) -> str:
        """The hand in the picture: "right" or "left"."""
        return self._place(row)[0].side

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
        published = self.published()
        beside = f" (published: {published})" if published else ""
        why = [f"{reason} {count}" for reason, count in self.excluded().items()]
        out = f"; left out: {', '.join(why)}" if why else ""
        return f"DexYCB {self._split}, {self._filter}: {len(self)} frames{beside}{out}"

    def published(self) -> int | None:
        """What others report for the split and filter; None: nothing."""
        return dict(FILTERS[self._filter].published).get(self._split)

    def excluded(self) -> dict[str, int]:
        """Frames of the split that are not used, by reason."""
        counts = np.bincount(self._reason, minlength=len(self._reasons)).tolist()
        found = list(zip(self._reasons, counts, strict=True))[1:]
        return {reason: count for reason, count in found if count}

    def _place(self, row: int):
        return self._located(int(self._rows[row]))

    def _located(self, place: int):
        """Sequence, camera, name, folder and number of a row of the index."""
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
            points = _read_points(path)
            low, high = points.min(axis=0), points.max(axis=0)
        else:
            half = np.array(EXTENTS[name]) / 2
            low, high = BOX_CENTRES[name] - half, BOX_CENTRES[name] + half
        return low + np.array(list(np.ndindex(2, 2, 2))) * (high - low)


def _read_points(path: Path) -> Float[np.ndarray, "n 3"]:
    try:
        with warnings.catch_warnings(action="ignore"):  # that it is empty
            points = np.loadtxt(path, usecols=(0, 1, 2), ndmin=2)
    except (OSError, ValueError, IndexError) as error:
        raise UserError(f"{path}: no list of points; copy it again") from error
    if not len(points) or not np.isfinite(points).all():
        raise UserError(f"{path}: lists no points, or broken ones; copy it again")
    return points


def find_contacts(
    root: Path,
    split: str,
    table: dexycb_index.Index,
    *,
    models: Path,
    cache_dir: Path,
    workers: int | None = None,
) -> dexycb_index.Contacts:
    """How near hand and object are, by the templates that metrics use too.

    Args:
      table: the split's index.
      cache_dir: of indexes; templates are kept beside it.
    """
    from homae_jax.objects.templates import load_templates  # JAX, for the first time

    grasped = {s.ycb_ids[s.grasped] for s in table.sequences}
    ids = sorted(grasped & YCB_NAMES.keys())
    templates, _ = load_templates(
        models,
        [YCB_NAMES[number] for number in ids],
        cache_dir=cache_dir.parent / "templates",
    )
    vertices = np.asarray(templates.vertices, np.float64)
    return dexycb_index.open_contacts(
        root,
        split,
        vertices=dict(zip(ids, vertices, strict=True)),
        intrinsics=_read_cameras(root, table),
        cache_dir=cache_dir,
        workers=workers,
    )


def _read_cameras(root: Path, table: dexycb_index.Index) -> dict[int, np.ndarray]:
    """Intrinsics by row of SERIALS."""
    return {
        row: dexycb_files.read_intrinsics(root, SERIALS[row])
        for row in np.unique(table.camera).tolist()
    }


def apply_filter(
    table: dexycb_index.Index,
    is_left: np.ndarray,
    wanted: Filter,
    contacts: dexycb_index.Contacts | None,
) -> tuple[Int[np.ndarray, " n"], tuple[str, ...]]:
    """Why each row of an index is left out: rows of the reasons; 0 where it is used.

    Args:
      is_left: by sequence.
      contacts: of the same rows; wanted by filters that ask for them.
    """
    reason, texts = table.reason.copy(), list(dexycb_index.REASONS)
    if not wanted.is_box_tested:
        reason[reason == dexycb_index.BOX_OUTSIDE] = dexycb_index.USED

    def leave_out(rows: np.ndarray, why: str) -> None:
        reason[rows & (reason == dexycb_index.USED)] = len(texts)
        texts.append(why)

    if wanted.is_right_only:
        leave_out(is_left[table.sequence], "left hand")
    if wanted.is_inside:
        leave_out(~contacts.is_inside, "hand or object beyond the picture")
    if np.isfinite(wanted.reach):
        why = f"hand and object more than {1000 * wanted.reach:.0f} mm apart"
        leave_out(contacts.distance > wanted.reach, why)
    return reason, tuple(texts)


def mirrored(frame: Frame) -> Frame:
    """A frame seen in a mirror: the left hand becomes a right one; its own inverse."""
    width = frame["image"].shape[1]
    intrinsics = frame["intrinsics"].copy()
    intrinsics[0, 2] = width - 1 - intrinsics[0, 2]
    rotmat = MIRROR[:, None] * frame["object_rotmat"] * MIRROR
    changes = {
        "image": cv2.flip(frame["image"], 1),
        "segmentation": cv2.flip(frame["segmentation"], 1),
        "intrinsics": intrinsics,
        "wrist": frame["wrist"] * MIRROR,
        "joints": frame["joints"] * MIRROR,
        "hand_pose": frame["hand_pose"] * -MIRROR,  # axis-angle: (x, -y, -z)
        "object_rotmat": rotmat,
        "object_trans": frame["object_trans"] * MIRROR,
    }
    return Frame(**(frame | changes))
