"""Which of DexYCB's frames are used, and why the others are not; how hands touch.

Built from the label files alone. Two indexes a split: one of annotations, which every
filter needs; one of distances between hand and grasped object, which some need and
which wants the objects' models. Metres; boxes in pixels of 640x480. No JAX here: index
processes import this module.
"""

from collections.abc import Mapping
from collections.abc import Sequence as Several
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from homae_jax.data import dexycb_files, index
from homae_jax.data.dexycb_files import SERIALS, Sequence
from homae_jax.errors import UserError

WIDTH, HEIGHT = 640, 480
HOISDF_BOX_SCALE = 1.5
# What an index knows of a frame; the first that applies.
REASONS = (
    "",
    "label file missing or damaged",
    "no hand annotation",
    "no pose of the grasped object",
    "hand box beyond the picture",
)
USED, DAMAGED, NO_HAND, NO_OBJECT, BOX_OUTSIDE = range(5)
Task = tuple[Sequence, tuple[int, ...]]  # a sequence and its cameras


class Index(NamedTuple):
    """All frames of a split, in the official order, row by row."""

    sequences: tuple[Sequence, ...]
    sequence: Int[np.ndarray, " n"]  # row of `sequences`
    camera: Int[np.ndarray, " n"]  # row of SERIALS
    frame: Int[np.ndarray, " n"]
    reason: Int[np.ndarray, " n"]  # row of REASONS


class Contacts(NamedTuple):
    """Hand and grasped object of every frame of an index."""

    distance: Float[np.ndarray, " n"]  # nearest joint to vertex; infinite where unknown
    is_inside: Bool[np.ndarray, " n"]  # both wholly in the picture


def open_index(
    root: Path, split: str, *, cache_dir: Path, workers: int | None = None
) -> Index:
    """The index of a split: the kept one where it still fits, else a new one.

    Args:
      cache_dir: where indexes are kept.
      workers: processes; None: one per core, and none for small trees.
    """
    tasks = _tasks(root, split)
    digest = _digest(root, split, tasks)

    def build() -> index.Columns:
        jobs = [(str(root), *task) for task in tasks]
        parts = index.run(
            _scan,
            jobs,
            num_frames=_num_frames(tasks),
            workers=workers,
            desc="index of labels",
        )
        return {"reason": np.concatenate(parts)}

    columns = index.kept(cache_dir, f"dexycb_{split}", digest, build)
    return Index(*_places(tasks), reason=columns["reason"].astype(np.int32))


def open_contacts(
    root: Path,
    split: str,
    *,
    vertices: Mapping[int, Float[np.ndarray, "_v 3"]],
    intrinsics: Mapping[int, Float[np.ndarray, "3 3"]],
    cache_dir: Path,
    workers: int | None = None,
) -> Contacts:
    """Distances and visibility, row by row of the split's index.

    Args:
      vertices: of the objects by YCB id, model frame.
      intrinsics: of the cameras, by row of SERIALS.
    """
    tasks = _tasks(root, split)
    digest = _digest(root, split, tasks)
    for name, arrays in (("vertices", vertices), ("intrinsics", intrinsics)):
        for key in sorted(arrays):
            digest.add(name, key)
            digest.add_array(arrays[key])

    def build() -> index.Columns:
        jobs = [
            (str(root), *task, vertices[task[0].ycb_ids[task[0].grasped]], intrinsics)
            for task in tasks
        ]
        parts = index.run(
            _measure,
            jobs,
            num_frames=_num_frames(tasks),
            workers=workers,
            desc="hands and objects",
        )
        names = Contacts._fields
        return dict(
            zip(names, map(np.concatenate, zip(*parts, strict=True)), strict=True)
        )

    columns = index.kept(cache_dir, f"dexycb_{split}_contacts", digest, build)
    return Contacts(**columns)


def excluded(table: Index) -> dict[str, int]:
    """Frames by the reason that keeps them out of every filter; nothing else."""
    counts = np.bincount(table.reason, minlength=len(REASONS))
    return {REASONS[i]: int(counts[i]) for i in range(1, len(REASONS)) if counts[i]}


def is_box_outside(joints_px: Float[np.ndarray, "j 2"]) -> bool:
    """HOISDF's test of the hand's box, grown by half: ends before it begins."""
    low, high = joints_px.min(axis=0), joints_px.max(axis=0)
    middle, size = (low + high) / 2, HOISDF_BOX_SCALE * (high - low)
    start = np.maximum(middle - size / 2, 0)
    stop = np.minimum([WIDTH - 1, HEIGHT - 1], start + np.maximum(size - 1, 0))
    return bool(size.prod() <= 0 or (stop < start).any())


def contact(
    joints: Float[np.ndarray, "j 3"],
    vertices: Float[np.ndarray, "v 3"],
    intrinsics: Float[np.ndarray, "3 3"],
) -> tuple[float, bool]:
    """Nearest distance of a joint to a vertex; whether all lie in the picture.

    The test of Dense Mutual Attention (DMA): 0 <= u <= 640 and 0 <= v <= 480.
    """
    squares = (joints**2).sum(axis=1)[:, None] + (vertices**2).sum(axis=1)
    distance = np.sqrt(max((squares - 2 * joints @ vertices.T).min(), 0.0))
    points = np.concatenate([joints, vertices])
    if points[:, 2].min() <= 0:
        return float(distance), False
    px = (points / points[:, 2:] @ intrinsics.T)[:, :2]
    return float(distance), bool(((px >= 0) & (px <= [WIDTH, HEIGHT])).all())


def _tasks(root: Path, split: str) -> list[Task]:
    tasks = list(dexycb_files.find_sequences(root, split))
    if not tasks:
        raise UserError(f"{root}: no sequence of {split} is there")
    return tasks


def _num_frames(tasks: Several[Task]) -> int:
    return sum(sequence.num_frames * len(cameras) for sequence, cameras in tasks)


def _places(tasks: Several[Task]) -> tuple:
    """Sequences, and row, camera and number of every frame."""
    columns = [
        np.stack(
            np.meshgrid(row, cameras, np.arange(sequence.num_frames), indexing="ij")
        ).reshape(3, -1)
        for row, (sequence, cameras) in enumerate(tasks)
    ]
    places = np.concatenate(columns, axis=1).astype(np.int32)
    return tuple(sequence for sequence, _ in tasks), *places


def _digest(root: Path, split: str, tasks: Several[Task]) -> index.Digest:
    digest = index.Digest("dexycb", split)
    for sequence, cameras in tasks:
        digest.add(sequence, cameras)
        names = [_name(number) for number in range(sequence.num_frames)]
        for row in cameras:
            digest.add_files(root / sequence.path / SERIALS[row], names)
    return digest


def _name(number: int) -> str:
    return f"labels_{number:06d}.npz"


def _scan(root: str, sequence: Sequence, cameras: tuple[int, ...]) -> np.ndarray:
    """The reason of each frame of a sequence, camera by camera."""
    folder = Path(root) / sequence.path
    reasons = [
        _reason(folder / SERIALS[row] / _name(number), sequence)
        for row in cameras
        for number in range(sequence.num_frames)
    ]
    return np.array(reasons, np.int8)


def _reason(path: Path, sequence: Sequence) -> int:
    try:
        labels = dexycb_files.read_labels(path, ("joint_3d", "joint_2d", "pose_y"))
    except UserError:
        return DAMAGED
    if (labels["joint_3d"] == -1).all():
        return NO_HAND
    poses = labels["pose_y"]
    if sequence.grasped >= len(poses):
        return DAMAGED
    if (poses[sequence.grasped] == 0).all():
        return NO_OBJECT
    return BOX_OUTSIDE if is_box_outside(labels["joint_2d"][0]) else USED


def _measure(
    root: str,
    sequence: Sequence,
    cameras: tuple[int, ...],
    vertices: np.ndarray,
    intrinsics: Mapping[int, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Contacts of a sequence, camera by camera."""
    folder = Path(root) / sequence.path
    distances, inside = [], []
    for row in cameras:
        for number in range(sequence.num_frames):
            path = folder / SERIALS[row] / _name(number)
            found = np.inf, False
            if _reason(path, sequence) in (USED, BOX_OUTSIDE):
                labels = dexycb_files.read_labels(path, ("joint_3d", "pose_y"))
                pose = labels["pose_y"][sequence.grasped].astype(np.float64)
                posed = vertices @ pose[:, :3].T + pose[:, 3]
                joints = labels["joint_3d"][0].astype(np.float64)
                found = contact(joints, posed, intrinsics[row])
            distances.append(found[0])
            inside.append(found[1])
    return np.array(distances, np.float32), np.array(inside, bool)
