"""Which frames of a split are used, and why the others are not: made once, then kept.

An index is a few bytes per frame; no picture and no mask is in it. It is built from the
label files by processes, and valid as long as the list of sequences, their meta.yml and
the label folders' times and the version below stay the same. Times of folders change
when files come, go or are replaced; a label edited in place is not noticed.
"""

import concurrent.futures
import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from homae_jax.data import dexycb_files
from homae_jax.data.dexycb_files import SERIALS, Sequence
from homae_jax.errors import UserError
from homae_jax.progress import progress_bar

VERSION = 1
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


class Index(NamedTuple):
    """All frames of a split, in the official order, row by row."""

    sequences: tuple[Sequence, ...]
    sequence: Int[np.ndarray, " n"]  # row of `sequences`
    camera: Int[np.ndarray, " n"]  # row of SERIALS
    frame: Int[np.ndarray, " n"]
    reason: Int[np.ndarray, " n"]  # row of REASONS


def open_dexycb(
    root: Path, split: str, *, cache_dir: Path, workers: int | None = None
) -> Index:
    """The index of a split: the kept one where it still fits, else a new one.

    Args:
      cache_dir: where indexes are kept.
      workers: processes; None: one per core, and none for small trees.
    """
    tasks = list(dexycb_files.find_sequences(root, split))
    if not tasks:
        raise UserError(f"{root}: no sequence of {split} is there")
    path = cache_dir / f"dexycb_{split}_{_fingerprint(root, split, tasks)}.npz"
    kept = _load(path)
    if kept is None:
        kept = _build(root, tasks, workers)
        _save(path, kept)
    return Index(tuple(sequence for sequence, _ in tasks), *kept.T)


def excluded(index: Index) -> dict[str, int]:
    """Frames by the reason that keeps them out of every filter; nothing else."""
    counts = np.bincount(index.reason, minlength=len(REASONS))
    return {REASONS[i]: int(counts[i]) for i in range(1, len(REASONS)) if counts[i]}


def scan_frames(root: str, sequence: Sequence, camera: int) -> np.ndarray:
    """The reason of each frame of one sequence and camera."""
    folder = Path(root) / sequence.path / SERIALS[camera]
    rows = [
        _reason(folder / f"labels_{number:06d}.npz", sequence)
        for number in range(sequence.num_frames)
    ]
    return np.array(rows, np.int32)


def is_box_outside(joints_px: np.ndarray) -> bool:
    """HOISDF's test of the hand's box, grown by half: ends before it begins."""
    low, high = joints_px.min(axis=0), joints_px.max(axis=0)
    middle, size = (low + high) / 2, HOISDF_BOX_SCALE * (high - low)
    start = np.maximum(middle - size / 2, 0)
    stop = np.minimum([WIDTH - 1, HEIGHT - 1], start + np.maximum(size - 1, 0))
    return bool(size.prod() <= 0 or (stop < start).any())


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


def _build(
    root: Path, tasks: list[tuple[Sequence, tuple[int, ...]]], workers: int | None
) -> np.ndarray:
    jobs = [
        (str(root), sequence, camera)
        for sequence, cameras in tasks
        for camera in cameras
    ]
    rows = [row for row, (_, cameras) in enumerate(tasks) for _ in cameras]
    if workers is None:
        workers = (os.cpu_count() or 1) if len(jobs) > 64 else 0
    parts = []
    done = progress_bar(_run(jobs, workers), total=len(jobs), desc="index of labels")
    for row, (_, _, camera), reasons in zip(rows, jobs, done, strict=True):
        part = np.zeros((len(reasons), 4), np.int32)
        part[:, 0], part[:, 1] = row, camera
        part[:, 2], part[:, 3] = np.arange(len(reasons)), reasons
        parts.append(part)
    return np.concatenate(parts)


def _run(jobs: list[tuple[str, Sequence, int]], workers: int) -> Iterator[np.ndarray]:
    """Results in the jobs' order."""
    if workers == 0:
        yield from (scan_frames(*job) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")  # forking under JAX's threads hangs
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(scan_frames, *zip(*jobs, strict=True), chunksize=8)


def _fingerprint(root: Path, split: str, tasks: Iterable[Any]) -> str:
    digest = hashlib.sha256(f"{VERSION} {split}".encode())
    for sequence, cameras in tasks:
        digest.update(json.dumps(sequence).encode())
        for camera in cameras:
            folder = root / sequence.path / SERIALS[camera]
            try:
                digest.update(f" {camera} {folder.stat().st_mtime_ns}".encode())
            except OSError:
                digest.update(f" {camera} missing".encode())
    return digest.hexdigest()[:16]


def _load(path: Path) -> np.ndarray | None:
    try:
        rows = np.load(path, allow_pickle=False)["rows"]
    except (OSError, ValueError, KeyError, EOFError):
        return None
    return rows if rows.ndim == 2 and rows.shape[1] == 4 else None


def _save(path: Path, rows: np.ndarray) -> None:
    """Keeps an index; where the disk does not let us, the next start builds again."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            np.savez_compressed(file, rows=rows)
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
