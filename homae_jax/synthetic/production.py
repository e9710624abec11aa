"""Makes a planned data set: a world on disk, chunks of work, processes that do them.

The world folder holds what every process needs and what is already done, so that an
interrupted run goes on where it stopped:

  world.json       layout, options, names, image format, renderer
  clips.json       the plan
  hand.npz         HandShape
  grasps_*.npy     the fields of Grasps, memory-mapped
  backgrounds/     <split>_<index>.png
  chunks/          <chunk>.npz: what the writer records of the chunk's frames

Render processes import no JAX; they are started as fresh interpreters
(`python -m homae_jax.synthetic.worker`), whatever program asked for the frames.
"""

import concurrent.futures
import contextlib
import json
import os
import queue
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from homae_jax.synthetic.appearance import through_lens
from homae_jax.synthetic.backgrounds import draw_background
from homae_jax.synthetic.layouts import WORLDS, WRITERS
from homae_jax.synthetic.png import encode_photo
from homae_jax.synthetic.render import make_renderer, measure_visibility
from homae_jax.synthetic.scenes import (
    IMAGE_HEIGHT,
    IMAGE_WIDTH,
    Clip,
    Grasps,
    HandShape,
    SceneOptions,
    random_stream,
)
from homae_jax.synthetic.writers import write_bytes, write_text

CHUNK_FRAMES = 16
PACKAGE_ROOT = Path(__file__).resolve().parents[2]


class Chunk(NamedTuple):
    """Work for one process: frames of a clip, or backgrounds of a split."""

    kind: str  # "frames" | "backgrounds"
    owner: int | str  # row of the clip | split
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Names the chunk's result."""
        return f"{self.kind}_{self.owner}_{self.start:05d}"


def save_world(
    folder: Path,
    *,
    root: Path,
    models_dir: Path,
    hand: HandShape,
    grasps: Grasps,
    clips: Sequence[Clip],
    clutter_names: dict[str, tuple[str, ...]],
    options: SceneOptions,
    layout: str,
    image_format: str,
    renderer: str,
) -> None:
    """Writes everything a process needs; world.json last, as the sign of success."""
    for name in ("backgrounds", "chunks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    np.savez(folder / "hand.npz", **hand._asdict())
    for name, values in grasps._asdict().items():
        np.save(folder / f"grasps_{name}.npy", values)
    write_text(folder / "clips.json", json.dumps([clip._asdict() for clip in clips]))
    settings = {
        "root": os.path.relpath(root, folder),
        "models_dir": os.path.relpath(models_dir, folder),
        "clutter_names": clutter_names,
        "options": options._asdict(),
        "layout": layout,
        "image_format": image_format,
        "renderer": renderer,
    }
    write_text(folder / "world.json", json.dumps(settings))


class Workshop:
    """A world read back, with a renderer and a writer: makes chunks."""

    def __init__(self, folder: Path):
        settings = json.loads((folder / "world.json").read_text())
        self._folder = folder
        self._clips = load_clips(folder)
        with np.load(folder / "hand.npz") as file:
            hand = HandShape(**{name: file[name] for name in HandShape._fields})
        grasps = Grasps(
            *(
                np.load(folder / f"grasps_{name}.npy", mmap_mode="r")
                for name in Grasps._fields
            )
        )
        self._world = WORLDS[settings["layout"]](
            hand,
            grasps,
            models_dir=folder / settings["models_dir"],
            clutter_names={k: tuple(v) for k, v in settings["clutter_names"].items()},
            backgrounds_dir=folder / "backgrounds",
            options=SceneOptions(**settings["options"]),
        )
        self._writer = WRITERS[settings["layout"]](
            (folder / settings["root"]).resolve(), image_format=settings["image_format"]
        )
        self._renderer = make_renderer(
            IMAGE_HEIGHT, IMAGE_WIDTH, backend=settings["renderer"]
        )

    def make(self, chunk: Chunk) -> None:
        """Makes a chunk's files; its result last, as the sign of success."""
        if chunk.kind == "backgrounds":
            self._make_backgrounds(chunk)
        else:
            self._make_frames(chunk)

    def _make_backgrounds(self, chunk: Chunk) -> None:
        for index in range(chunk.start, chunk.stop):
            split = str(chunk.owner)
            picture = draw_background(self._world, self._renderer, split, index)
            path = self._folder / "backgrounds" / f"{split}_{index:03d}.png"
            write_bytes(path, encode_photo(picture))

    def _make_frames(self, chunk: Chunk) -> None:
        clip = self._clips[int(chunk.owner)]
        seed = self._world.options.seed
        records = []
        for index in range(chunk.start, chunk.stop):
            stage, labels = self._world.compose(clip, index)
            drawn = self._renderer.render(stage)
            visibility = measure_visibility(self._renderer, stage, drawn)
            lens = random_stream(seed, "lens", clip.split, clip.name, index)
            drawn = drawn._replace(rgb=through_lens(drawn.rgb, lens))
            self._writer.write_frame(clip, index, labels, drawn)
            records.append(self._writer.record(clip, labels, visibility))
        if chunk.start == 0:
            for number in clip.blanks:
                empty = random_stream(seed, "blank", clip.split, clip.name, number)
                picture = self._world.background(empty, clip.split)
                self._writer.write_blank(clip, number, picture)
        stacked = {key: np.stack([r[key] for r in records]) for key in records[0]}
        path = self._folder / "chunks" / f"{chunk.name}.npz"
        partial = path.with_name(f".{path.name}")
        with partial.open("wb") as file:
            np.savez(file, **stacked)
        os.replace(partial, path)


def load_clips(folder: Path) -> list[Clip]:
    """The plan of a world."""
    rows = json.loads((folder / "clips.json").read_text())
    tuples = ("rig", "numbers", "grasps", "blanks")
    return [Clip(**row | {name: tuple(row[name]) for name in tuples}) for row in rows]


def missing_backgrounds(folder: Path, counts: dict[str, int]) -> list[Chunk]:
    """Backgrounds that are still to be made, of so many per split."""
    chunks = [
        Chunk("backgrounds", split, index, index + 1)
        for split, count in counts.items()
        for index in range(count)
    ]

    def path(chunk: Chunk) -> Path:
        return folder / "backgrounds" / f"{chunk.owner}_{chunk.start:03d}.png"

    return [chunk for chunk in chunks if not path(chunk).is_file()]


def missing_frames(folder: Path, clips: Sequence[Clip]) -> list[Chunk]:
    """Frames that are still to be made."""
    chunks = [
        Chunk("frames", row, start, min(start + CHUNK_FRAMES, len(clip.numbers)))
        for row, clip in enumerate(clips)
        for start in range(0, len(clip.numbers), CHUNK_FRAMES)
    ]

    def path(chunk: Chunk) -> Path:
        return folder / "chunks" / f"{chunk.name}.npz"

    return [chunk for chunk in chunks if not path(chunk).is_file()]


def read_records(folder: Path, clips: Sequence[Clip]) -> list[dict[str, np.ndarray]]:
    """What the writer recorded, per clip, its frames stacked."""
    records = []
    for row, clip in enumerate(clips):
        parts = []
        for start in range(0, len(clip.numbers), CHUNK_FRAMES):
            name = Chunk("frames", row, start, start).name
            with np.load(folder / "chunks" / f"{name}.npz") as file:
                parts.append({key: file[key] for key in file.files})
        records.append({k: np.concatenate([p[k] for p in parts]) for k in parts[0]})
    return records


class Crew:
    """Makes chunks with processes, or in this one; a context manager.

    Args:
      folder: the world folder.
      workers: number of processes; 0 = none but this one.
    """

    def __init__(self, folder: Path, workers: int):
        self._folder, self._workers = folder, workers
        self._stack = contextlib.ExitStack()
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self._num_started = 0

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_) -> None:
        self._stack.close()

    def run(self, chunks: Sequence[Chunk]) -> Iterator[Chunk]:
        """Makes chunks and yields each when it is done, in any order."""
        if self._workers == 0:
            yield from self._run_here(chunks)
            return
        for _ in range(min(self._workers, len(chunks)) - self._num_started):
            self._idle.put(self._stack.enter_context(_Process(self._folder)))
            self._num_started += 1
        with concurrent.futures.ThreadPoolExecutor(self._workers) as pool:
            futures = [pool.submit(self._make, chunk) for chunk in chunks]
            try:
                for future in concurrent.futures.as_completed(futures):
                    yield future.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _run_here(self, chunks: Sequence[Chunk]) -> Iterator[Chunk]:
        workshop = Workshop(self._folder) if chunks else None
        for chunk in chunks:
            workshop.make(chunk)
            yield chunk

    def _make(self, chunk: Chunk) -> Chunk:
        process = self._idle.get()
        try:
            process.make(chunk)
        finally:
            self._idle.put(process)
        return chunk


class _Process:
    """A render process: takes a chunk per line, answers a line when it is done."""

    def __init__(self, folder: Path):
        path = os.pathsep.join([str(PACKAGE_ROOT), os.environ.get("PYTHONPATH", "")])
        single = {
            "LP_NUM_THREADS": "0",  # Mesa's software driver: no threads of its own
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "homae_jax.synthetic.worker", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | single | {"PYTHONPATH": path},
        )

    def make(self, chunk: Chunk) -> None:
        try:
            self._process.stdin.write(json.dumps(chunk) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if answer.strip() != chunk.name:
            status = self._process.wait()
            raise RuntimeError(
                f"a render process ended with status {status} at {chunk.name}; "
                "its message is above"
            )

    def __enter__(self) -> "_Process":
        return self

    def __exit__(self, *_) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            self._process.wait()
        self._process.stdout.close()


def use_one_thread() -> None:
    """Keeps OpenCV from starting threads: there is a process per core already."""
    cv2.setNumThreads(1)
