"""What all indexes share: built by processes with a progress bar, kept, made anew.

An index is a few bytes per frame; no picture and no mask is in it. It is kept in one
file whose name is a digest of what it depends on: the version below, the lists and the
small files by content, every label file by its size and time of change. So a label that
is edited in place, comes, goes or is replaced has the index made anew; one whose size
and time are both put back is not noticed.
"""

import concurrent.futures
import hashlib
import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from homae_jax.progress import progress_bar

VERSION = 2
SMALL = 10_000  # frames that are not worth starting processes for
MISSING = (-1, -1)

Columns = dict[str, np.ndarray]


def kept(
    cache_dir: Path, name: str, digest: "Digest", build: Callable[[], Columns]
) -> Columns:
    """The columns of an index: from its file where that still fits, else built."""
    path = cache_dir / f"{name}_{digest.hex()}.npz"
    columns = _load(path)
    if columns is None:
        columns = build()
        _save(path, columns, name)
    return columns


class Digest:
    """Of everything that an index depends on."""

    def __init__(self, *words: Any):
        self._hash = hashlib.sha256()
        self.add(VERSION, *words)

    def add(self, *words: Any) -> None:
        """Takes in words by their text."""
        self._hash.update(repr(words).encode())

    def add_array(self, values: np.ndarray) -> None:
        """Takes in numbers."""
        self._hash.update(repr((values.shape, values.dtype.str)).encode())
        self._hash.update(np.ascontiguousarray(values).tobytes())

    def add_files(self, folder: Path, names: Iterable[str]) -> None:
        """Takes in the sizes and times of change of a folder's files."""
        self._hash.update(_stamps(folder, names).tobytes())

    def hex(self) -> str:
        """Sixteen letters that name the index."""
        return self._hash.hexdigest()[:16]


def run(
    function: Callable[..., Any],
    jobs: Sequence[tuple],
    *,
    num_frames: int,
    workers: int | None,
    desc: str,
) -> list[Any]:
    """Results in the jobs' order.

    Args:
      num_frames: in all jobs.
      workers: processes; None: one per core, and none for few frames.
    """
    if workers is None:
        workers = (os.cpu_count() or 1) if num_frames > SMALL else 0
    if workers == 0:
        results = (function(*job) for job in jobs)
        if num_frames < SMALL:  # done before a bar could be read
            return list(results)
        return list(progress_bar(results, total=len(jobs), desc=desc))
    context = multiprocessing.get_context("spawn")  # forking under JAX's threads hangs
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        results = pool.map(function, *zip(*jobs, strict=True), chunksize=2)
        return list(progress_bar(results, total=len(jobs), desc=desc))


def _stamps(folder: Path, names: Iterable[str]) -> np.ndarray:
    """Size and time of change per file; a folder that is not there has none."""
    try:
        here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return np.array([MISSING], np.int64)
    try:
        return np.array([_stamp(name, here) for name in names], np.int64)
    finally:
        os.close(here)


def _stamp(name: str, folder: int) -> tuple[int, int]:
    try:
        found = os.stat(name, dir_fd=folder)
    except OSError:
        return MISSING
    return found.st_size, found.st_mtime_ns


def _load(path: Path) -> Columns | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (OSError, ValueError, KeyError, EOFError):
        return None


def _save(path: Path, columns: Columns, name: str) -> None:
    """Keeps an index, the latest alone of its name.

    Where the disk does not let us, the next start builds again.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            np.savez_compressed(file, **columns)
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
