"""Where a run's numbers go: metrics.jsonl, TensorBoard and the console."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from tensorboardX import SummaryWriter

from homae_jax.progress import format_seconds

METRICS_FILE = "metrics.jsonl"
BOARD_FOLDER = "tensorboard"
SHOWN = ("loss", "mje_mm", "oce_mm", "sdf_hand", "sdf_object", "rec", "lr")


class MetricWriter:
    """Writes scalars by step; a line of metrics.jsonl is one JSON object."""

    def __init__(self, workdir: str | Path, *, first_step: int, num_steps: int):
        """Opens a run's files; what they hold beyond `first_step` is dropped.

        Args:
          first_step: that the run goes on from, 0 for a new one.
          num_steps: of the whole run.
        """
        workdir = Path(workdir)
        _drop_later(workdir / METRICS_FILE, first_step)
        self._file = (workdir / METRICS_FILE).open("a", encoding="utf-8")
        self._board = SummaryWriter(
            str(workdir / BOARD_FOLDER), purge_step=first_step + 1, flush_secs=30
        )
        self._num_steps = num_steps

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Records the values of an interval and prints the console's line."""
        self.record(step, values)
        print(self._line(step, values), flush=True)

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Records values; not finite ones, which JSON has no word for, as null."""
        row: dict[str, float | int | None] = {"step": step}
        for name, value in values.items():
            row[name] = float(value) if math.isfinite(value) else None
            self._board.add_scalar(name, float(value), step)
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def images(
        self, step: int, pictures: Mapping[str, UInt8[np.ndarray, "_ _ 3"]]
    ) -> None:
        """Adds RGB pictures to TensorBoard."""
        for name, picture in pictures.items():
            self._board.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        """Sees everything on to the disk."""
        self._file.close()
        self._board.close()

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


def _drop_later(path: Path, first_step: int) -> None:
    """Removes lines after a step, which will come again, and a half-written one."""
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8")
    kept = [line for line in text.splitlines() if _step_of(line) <= first_step]
    part = path.with_suffix(".part")
    part.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    os.replace(part, path)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
