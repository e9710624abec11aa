"""Frames kept decoded, in memory or in one file that is mapped into it.

Decoding is most of what a loader does. Of every frame in use are kept its labels, its
mask, and of the picture the window that an augmented crop can reach, in full
resolution: what is cropped from it is, bit for bit, what is cropped from the files.
Which frames these are, how large the windows, and the size and time of change of every
file of the data set, and of those elsewhere that labels depend on, name the file, so
that it is made anew when one of them changes.
"""

import concurrent.futures
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Int, UInt8

from homae_jax.data.index import Digest
from homae_jax.data.source import Frame, FrameInfo, GroundTruth, Source
from homae_jax.errors import UserError
from homae_jax.progress import progress_bar

KINDS = ("ram", "disk")
VERSION = 1
NUM_MEASURED = 32  # frames by which the size of all is told beforehand
FREE_SHARE = 0.9  # of the free memory or disk that may be taken
PIXELS, LABELS = "pixels.bin", "labels.npz"
# Labels in float64, and their shapes; None is kept as NaN.
SHAPES = {
    "intrinsics": (3, 3),
    "wrist": (3,),
    "joints": (21, 3),
    "hand_pose": (16, 3),
    "hand_betas": (10,),
    "gt_joints": (21, 3),
    "hand_box_px": (4,),
    "object_rotmat": (3, 3),
    "object_trans": (3,),
    "object_corners": (8, 3),
}

Window = tuple[slice, slice]  # rows and columns of a picture


class Kept(NamedTuple):
    """One frame as it is kept."""

    pixels: UInt8[np.ndarray, " n"]  # the window, then the mask
    window: tuple[int, int, int, int]  # first row and column, height, width
    shape: tuple[int, int]  # of the picture
    mask_shape: tuple[int, int]  # (0, 0): none
    labels: dict[str, np.ndarray]
    object_name: str


class CachedSource:
    """A source whose chosen rows are not read from files; the others still are."""

    def __init__(
        self,
        source: Source,
        rows: Int[np.ndarray, " n"],
        columns: dict[str, np.ndarray],
        pixels: Sequence[np.ndarray] | Path,
    ):
        self._source, self._columns = source, columns
        self._place = {int(row): place for place, row in enumerate(rows)}
        self._pixels = pixels

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Frame:
        place = self._place.get(int(index))
        if place is None or not self._columns["is_kept"][place]:
            return self._source[index]  # which says what is wrong with it
        return self._frame(int(index), place)

    def frame_name(self, index: int) -> str:
        """The source's."""
        return self._source.frame_name(index)

    def frame_info(self, index: int) -> FrameInfo:
        """The source's."""
        return self._source.frame_info(index)

    def ground_truth(self, index: int) -> GroundTruth | None:
        """The source's."""
        return self._source.ground_truth(index)

    def _frame(self, index: int, place: int) -> Frame:
        columns = self._columns
        top, left, height, width = columns["window"][place]
        pixels = self._read(place)
        num = 3 * height * width
        image = np.zeros((*columns["shape"][place], 3), np.uint8)
        window = pixels[:num].reshape(height, width, 3)
        image[top : top + height, left : left + width] = window
        mask_shape = columns["mask_shape"][place]
        labels = {key: np.array(columns[key][place]) for key in SHAPES}
        return Frame(
            index=index,
            image=image,
            segmentation=np.array(pixels[num:]).reshape(mask_shape)
            if mask_shape.any()
            else None,
            object_name=str(columns["object_name"][place]),
            **{k: None if np.isnan(v).all() else v for k, v in labels.items()},
        )

    def _read(self, place: int) -> np.ndarray:
        if not isinstance(self._pixels, Path):
            return self._pixels[place]
        start, end = self._columns["offset"][place : place + 2]
        with self._pixels.open("rb") as file:  # a page that was read stays in memory
            return np.fromfile(file, np.uint8, end - start, offset=start)


def open_cache(
    source: Source,
    rows: Int[np.ndarray, " n"],
    *,
    kind: str,
    window: Callable[[Frame], Window],
    settings: Any,
    root: Path,
    others: Sequence[Path] = (),
    folder: Path,
    threads: int,
) -> Source:
    """A source that has these rows decoded; says first what room that takes.

    Args:
      kind: "ram", or "disk": kept between runs.
      window: the part of a frame's picture that crops can reach.
      settings: what `window` depends on.
      root: the data set's folder, all of whose files count.
      others: files elsewhere that labels or the choice of frames depend on.
      folder: for what is kept on disk.
      threads: that decode.

    Raises:
      UserError: another kind, or no room for so many frames.
    """
    if kind not in KINDS:
        named = " | ".join(f'"{each}"' for each in KINDS)
        raise UserError(f'data.cache="{kind}": use {named}, or "" for none')
    if kind == "disk":
        digest = Digest("frames", VERSION, settings, len(source))
        digest.add_array(rows)
        _add_tree(digest, root)
        for path in others:
            digest.add(str(path))
            digest.add_files(path.parent, [path.name])
        place = folder / digest.hex()
        columns = _load(place)
        if columns is not None:
            print(f"data.cache=disk: {len(rows)} frames in {place}", flush=True)
            return CachedSource(source, rows, columns, place / PIXELS)
    _check_room(source, rows, kind, window, folder)
    kept = _keep_all(source, rows, window, threads)
    if kind == "ram":
        pixels: list[np.ndarray] = []
        columns = _columns(kept, len(rows), lambda frame: pixels.append(frame.pixels))
        return CachedSource(source, rows, columns, pixels)
    columns = _store(place, kept, len(rows))
    return CachedSource(source, rows, columns, place / PIXELS)


def _keep_all(
    source: Source,
    rows: np.ndarray,
    window: Callable[[Frame], Window],
    threads: int,
) -> Iterator[Kept | None]:
    """In order; None for a frame that cannot be read."""

    def keep(row: int) -> Kept | None:
        try:
            frame = source[row]
            return _kept(frame, window(frame))
        except (ValueError, OSError, cv2.error):
            return None

    with concurrent.futures.ThreadPoolExecutor(max(threads, 1)) as pool:
        found = pool.map(keep, rows.tolist())
        yield from progress_bar(found, total=len(rows), desc="frames decoded")


def _kept(frame: Frame, window: Window) -> Kept:
    part, mask = frame["image"][window], frame["segmentation"]
    pixels = [part.ravel()] if mask is None else [part.ravel(), mask.ravel()]
    labels = {
        key: np.full(shape, np.nan) if frame[key] is None else frame[key]
        for key, shape in SHAPES.items()
    }
    return Kept(
        pixels=np.concatenate(pixels),
        window=(window[0].start, window[1].start, *part.shape[:2]),
        shape=frame["image"].shape[:2],
        mask_shape=(0, 0) if mask is None else mask.shape,
        labels=labels,
        object_name=frame["object_name"],
    )


NOTHING = Kept(
    pixels=np.zeros(0, np.uint8),
    window=(0, 0, 0, 0),
    shape=(0, 0),
    mask_shape=(0, 0),
    labels={key: np.full(shape, np.nan) for key, shape in SHAPES.items()},
    object_name="",
)


def _columns(
    frames: Iterable[Kept | None], num: int, take: Callable[[Kept], Any]
) -> dict[str, np.ndarray]:
    """All but the pixels, which `take` gets one frame after the other."""
    columns: dict[str, Any] = {
        "is_kept": np.zeros(num, bool),
        "offset": np.zeros(num + 1, np.int64),
        **{key: np.zeros((num, *shape)) for key, shape in SHAPES.items()},
    }
    for key, width in (("window", 4), ("shape", 2), ("mask_shape", 2)):
        columns[key] = np.zeros((num, width), np.int32)
    names = []
    for place, found in enumerate(frames):
        frame = found or NOTHING
        take(frame)
        names.append(frame.object_name)
        columns["is_kept"][place] = found is not None
        columns["offset"][place + 1] = columns["offset"][place] + len(frame.pixels)
        for key in ("window", "shape", "mask_shape"):
            columns[key][place] = getattr(frame, key)
        for key in SHAPES:
            columns[key][place] = frame.labels[key]
    return columns | {"object_name": np.array(names)}


def _store(
    place: Path, frames: Iterable[Kept | None], num: int
) -> dict[str, np.ndarray]:
    """Whole or not at all."""
    partial = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        with (partial / PIXELS).open("wb") as file:
            columns = _columns(frames, num, lambda frame: file.write(frame.pixels))
        np.savez(partial / LABELS, **columns)
        shutil.rmtree(place, ignore_errors=True)  # damaged
        os.replace(partial, place)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(
            f"{place}: the cache of frames cannot be written "
            f'({error.strerror or error}); set data.cache=""'
        ) from error
    return columns


def _load(place: Path) -> dict[str, np.ndarray] | None:
    """None if it is not there, or damaged."""
    try:
        with np.load(place / LABELS, allow_pickle=False) as file:
            columns = {key: file[key] for key in file.files}
        size = (place / PIXELS).stat().st_size
    except (OSError, ValueError, KeyError, EOFError):
        return None
    return columns if size == columns["offset"][-1] else None


def _check_room(
    source: Source,
    rows: np.ndarray,
    kind: str,
    window: Callable[[Frame], Window],
    folder: Path,
) -> None:
    """Tells the size by some frames; refuses what does not fit."""
    chosen = np.linspace(0, len(rows) - 1, min(NUM_MEASURED, len(rows)))
    some = rows[np.unique(chosen.round().astype(int))]
    found = [each for each in _keep_all(source, some, window, 1) if each is not None]
    sizes = [len(each.pixels) for each in found] or [0]
    labels = 8 * sum(int(np.prod(shape)) for shape in SHAPES.values())
    wanted = (np.mean(sizes) + labels) * len(rows)
    free = _free_memory() if kind == "ram" else _free_disk(folder)
    room = "" if free is None else f"; {free / 1e9:.1f} GB are free"
    what = "memory" if kind == "ram" else f"disk, in {folder}"
    text = f"data.cache={kind}: {len(rows)} frames take {wanted / 1e9:.2f} GB of {what}"
    if free is not None and wanted > FREE_SHARE * free:
        raise UserError(
            f'{text}{room}: use data.max_train_frames or data.cache=""'
            + (" or disk" if kind == "ram" else "")
        )
    print(text + room, flush=True)


def _free_memory() -> int | None:
    """Bytes, where the system says."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return 1024 * int(fields["MemAvailable"].split()[0])


def _free_disk(folder: Path) -> int | None:
    there = next((each for each in (folder, *folder.parents) if each.exists()), None)
    return None if there is None else shutil.disk_usage(there).free


def _add_tree(digest: Digest, root: Path) -> None:
    """The size and time of change of every file below a folder."""
    for folder, folders, names in os.walk(root):
        folders.sort()
        digest.add(folder)
        digest.add_files(Path(folder), sorted(names))
