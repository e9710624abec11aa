"""Where a run's numbers go: metrics.jsonl, TensorBoard, the console; wandb if asked.

A disk that is full or gone costs lines, never the run: the first failure of a file is
reported, and a file of lines goes on when there is room again.
"""

import contextlib
import importlib.util
import json
import math
import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from homae_jax.errors import UserError
from homae_jax.progress import format_seconds
from homae_jax.whole_file import replacing

METRICS_FILE = "metrics.jsonl"
BOARD_FOLDER = "tensorboard"
FLUSH_SECONDS = 30  # between two times that TensorBoard's file is seen to the disk
SHOWN = ("loss", "mje_mm", "oce_mm", "sdf_hand", "sdf_object", "rec", "lr")


class MetricWriter:
    """Writes scalars by step; a line of metrics.jsonl is one JSON object."""

    def __init__(
        self,
        workdir: str | Path,
        *,
        first_step: int,
        num_steps: int,
        wandb: "WandbRun | None" = None,
    ):
        """Opens a run's files; what they hold beyond `first_step` is dropped.

        Args:
          first_step: that the run goes on from, 0 for a new one.
          num_steps: of the whole run.
          wandb: takes the same values and pictures; None: nobody does.
        """
        workdir = Path(workdir)
        self._path = workdir / METRICS_FILE
        try:
            _drop_later(self._path, first_step)
            self._file = self._path.open("a", encoding="utf-8")
            self._board = _Board(workdir / BOARD_FOLDER, first_step + 1)
        except OSError as error:
            raise UserError(
                f"{error.filename or workdir}: cannot be written ({error.strerror})"
            ) from error
        self._num_steps, self._wandb = num_steps, wandb
        self._is_complaining = False

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Records the values of an interval and prints the console's line."""
        self.record(step, values)
        with contextlib.suppress(OSError):  # where the console is a file
            print(self._line(step, values), flush=True)

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Records values; not finite ones, which JSON has no word for, as null."""
        row: dict[str, float | int | None] = {"step": step}
        for name, value in values.items():
            row[name] = float(value) if math.isfinite(value) else None
            self._board.add(step, summary.scalar(name, float(value)))
        if self._wandb:
            self._wandb.scalars(step, row)
        with self._complaining_once():
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()

    def has(self, step: int, prefix: str) -> bool:
        """Whether a value of a step is recorded whose name begins so."""
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except OSError:
            return False
        rows = (json.loads(line) for line in lines if _step_of(line) == step)
        return any(name.startswith(prefix) for row in rows for name in row)

    def images(
        self, step: int, pictures: Mapping[str, UInt8[np.ndarray, "_ _ 3"]]
    ) -> None:
        """Adds RGB pictures to TensorBoard."""
        for name, picture in pictures.items():
            self._board.add(step, summary.image(name, picture, dataformats="HWC"))
        if self._wandb:
            self._wandb.images(step, pictures)

    def close(self) -> None:
        """Sees everything on to the disk."""
        with self._complaining_once():
            self._file.close()
        self._board.close()
        if self._wandb:
            self._wandb.close()

    @contextlib.contextmanager
    def _complaining_once(self) -> Iterator[None]:
        """What cannot be written stays in the file's buffer and comes with the next."""
        try:
            yield
        except OSError as error:
            if not self._is_complaining:
                _warn(self._path, error)
            self._is_complaining = True
        else:
            self._is_complaining = False

    def _line(self, step: int, values: Mapping[str, float]) -> str:
        parts = [f"step {step}/{self._num_steps}"]
        parts += [f"{name} {values[name]:.4g}" for name in SHOWN if name in values]
        if "images_per_second" in values:
            parts.append(f"{values['images_per_second']:.0f} images/s")
            parts.append(f"data {100 * values['data_wait_share']:.0f} %")
        if values.get("num_skipped"):
            parts.append(f"skipped {values['num_skipped']:.0f}")
        if values.get("steps_per_second"):
            left = (self._num_steps - step) / values["steps_per_second"]
            parts.append(f"{format_seconds(left)} left")
        return "  ".join(parts)


class WandbRun:
    """A run on Weights & Biases; what fails there is said once and left alone.

    The package is no requirement of this project. Its own variables decide where and
    whether anything is sent, such as WANDB_MODE=offline.
    """

    def __init__(
        self, project: str, *, name: str, workdir: str | Path, config: Mapping[str, Any]
    ):
        """Opens the run, or goes on with the one that `workdir` has begun."""
        self._run, self._module = None, None
        if importlib.util.find_spec("wandb") is None:
            text = "train.wandb is set, but the package is missing: pip install wandb"
            print(f"warning: {text}; the run goes on", file=sys.stderr, flush=True)
            return
        import wandb

        self._module = wandb
        with self._giving_up():
            self._run = wandb.init(
                project=project,
                name=name,
                dir=str(workdir),
                id=_own_id(Path(workdir)),
                resume="allow",
                config=dict(config),
            )

    def scalars(self, step: int, values: Mapping[str, float | int | None]) -> None:
        """Records the values that there are."""
        self._log(step, {k: v for k, v in values.items() if v is not None})

    def images(
        self, step: int, pictures: Mapping[str, UInt8[np.ndarray, "_ _ 3"]]
    ) -> None:
        """Adds RGB pictures."""
        if self._run is not None:
            self._log(step, {k: self._module.Image(v) for k, v in pictures.items()})

    def close(self) -> None:
        """Sees everything off."""
        with self._giving_up():
            if self._run is not None:
                self._run.finish()

    def _log(self, step: int, values: Mapping[str, Any]) -> None:
        with self._giving_up():
            if self._run is not None:
                self._run.log(values, step=step)

    @contextlib.contextmanager
    def _giving_up(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of a network, an account, a version: all foreign
            self._run = None
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            text = f"warning: wandb: {reason}; the run goes on without it"
            print(text, file=sys.stderr, flush=True)


def _own_id(workdir: Path) -> str:
    """What wandb calls this folder's run, the same after every start."""
    path = workdir / "wandb_id.txt"
    if not path.is_file():
        path.write_text(secrets.token_hex(6), encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()


class _Board:
    """TensorBoard's file, written by whoever adds; after a failure, no more.

    TensorBoardX's own writer has a thread, which dies with a full disk, and a queue,
    in which the program then waits for ever.
    """

    def __init__(self, folder: Path, first_step: int):
        folder.mkdir(parents=True, exist_ok=True)
        self._path, self._flushed = folder, time.monotonic()
        self._writer: EventsWriter | None = EventsWriter(str(folder / "events"))
        start = SessionLog(status=SessionLog.START)  # drops what came later
        self._write(Event(step=first_step, session_log=start))

    def add(self, step: int, content: Any) -> None:
        self._write(Event(step=step, summary=content))

    def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with contextlib.suppress(OSError):
                writer.close()

    def _write(self, event: Event) -> None:
        if self._writer is None:
            return
        event.wall_time = time.time()
        try:
            self._writer.write_event(event)
            if time.monotonic() - self._flushed > FLUSH_SECONDS:
                self._writer.flush()
                self._flushed = time.monotonic()
        except OSError as error:  # half a record may be there: nothing can follow
            _warn(self._path, error)
            self.close()


def _warn(path: Path, error: OSError) -> None:
    with contextlib.suppress(OSError):
        print(
            f"warning: {path}: cannot be written ({error.strerror}); the run goes on",
            file=sys.stderr,
            flush=True,
        )


def _drop_later(path: Path, first_step: int) -> None:
    """Removes lines after a step, which will come again, and a half-written one."""
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    kept = [line for line in text.splitlines() if _step_of(line) <= first_step]
    with replacing(path) as part:
        part.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
