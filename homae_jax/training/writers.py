"""Where a run's numbers go: metrics.jsonl, TensorBoard, and the console."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from tensorboardX import SummaryWriter

from homae_jax.progress import format_seconds

METRICS_FILE = "metrics.jsonl"
SHOWN = ("loss", "mje_mm", "oce_mm", "sdf_hand", "sdf_object", "rec", "lr")


class MetricWriter:
    """Writes scalars by step; a line of metrics.jsonl is one JSON object."""

    def __init__(self, workdir: Path, *, first_step: int, num_steps: int):
        self._file = (workdir / METRICS_FILE).open("a", encoding="utf-8")
        self._board = SummaryWriter(str(workdir / "tensorboard"), flush_secs=30)
        self._start = time.monotonic()
        self._first_step, self._num_steps = first_step, num_steps

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Records the values of one step and prints the console line."""
        row = {name: float(value) for name, value in values.items()}
        # JSON has no NaN or infinity; null says the number was not finite.
        safe = {k: v if math.isfinite(v) else None for k, v in row.items()}
        self._file.write(json.dumps({"step": step, **safe}) + "\n")
        self._file.flush()
        for name, value in row.items():
            self._board.add_scalar(name, value, step)
        print(self._line(step, row), flush=True)

    def images(self, step: int, pictures: Mapping[str, UInt8[np.ndarray, "h w 3"]]):
        """Adds RGB pictures to TensorBoard."""
        for name, picture in pictures.items():
            self._board.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        self._file.close()
        self._board.close()

    def _line(self, step: int, row: Mapping[str, float]) -> str:
        spent = time.monotonic() - self._start
        done = max(step - self._first_step, 1)
        left = format_seconds(spent / done * (self._num_steps - step))
        shown = "  ".join(f"{name} {row[name]:.4g}" for name in SHOWN if name in row)
        rate = f"{row.get('images_per_second', 0):.0f} img/s"
        wait = f"data wait {100 * row.get('data_wait_share', 0):.0f} %"
        return f"step {step}/{self._num_steps}  {shown}  {rate}  {wait}  {left} left"
