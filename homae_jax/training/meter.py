"""Terms and speed, averaged over an interval of steps, asked for one interval late.

A number on a device is only there when its step is done. Whoever asks for it at once
makes the host wait for the device, and then the device for the host; an interval later
it has long been there. Nor may the host run far ahead: steps that are dispatched, not
done, would count as done, and each keeps its batch on the device.
"""

import collections
import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

LAST, MOST = ("lr", "num_skipped"), ("num_skipped_in_a_row",)  # not averaged
IS_SKIPPED = "is_skipped"
RUN_AHEAD = 2  # steps that may be dispatched and not done


class SkippedStep(NamedTuple):
    """A step that was not applied, and the rows of the source in its batch."""

    step: int
    rows: np.ndarray


class Interval(NamedTuple):
    """The steps between two lines of the log."""

    step: int  # the last
    values: dict[str, float]
    skipped: list[SkippedStep]


class _Step(NamedTuple):
    step: int
    terms: Mapping[str, Any]  # on the device
    rows: np.ndarray


class IntervalMeter:
    """Collects steps; `end` closes an interval and hands over the one before."""

    def __init__(self, *, batch_size: int):
        self._batch_size = batch_size
        self._steps: list[_Step] = []
        self._dispatched: collections.deque[Mapping[str, Any]] = collections.deque()
        self._pending: tuple[list[_Step], dict[str, float]] | None = None
        self._is_first = True
        self.compile_seconds = 0.0  # what the first step took the host
        self._restart()

    def _restart(self) -> None:
        self._start, self._waited, self._num_timed = time.monotonic(), 0.0, 0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time within as waiting for data."""
        start = time.monotonic()
        yield
        self._waited += time.monotonic() - start

    @contextlib.contextmanager
    def pausing(self) -> Iterator[None]:
        """Leaves the time within out: it is no training."""
        start = time.monotonic()
        yield
        self._start += time.monotonic() - start

    def add(self, step: int, terms: Mapping[str, Any], rows: np.ndarray) -> None:
        """Notes a step that was dispatched, and waits until few are under way.

        The first, which compiles, is not timed.
        """
        self._steps.append(_Step(step, terms, np.asarray(rows)))
        self._num_timed += 1
        self._dispatched.append(terms)
        if len(self._dispatched) > RUN_AHEAD:
            jax.block_until_ready(self._dispatched.popleft())
        if self._is_first:
            self._is_first = False
            self.compile_seconds = time.monotonic() - self._start
            self._restart()

    def end(self) -> Interval | None:
        """Ends an interval; returns the one before, if there was one."""
        finished = self.flush()
        spent = max(time.monotonic() - self._start, 1e-9)
        speed = {}
        if self._num_timed:
            speed = {
                "steps_per_second": self._num_timed / spent,
                "images_per_second": self._num_timed * self._batch_size / spent,
                "data_wait_share": self._waited / spent,
            }
        if self._steps:
            self._pending = (self._steps, speed)
        self._steps = []
        self._restart()
        return finished

    def flush(self) -> Interval | None:
        """The interval that was ended last, if it was not handed over yet."""
        if self._pending is None:
            return None
        (steps, speed), self._pending = self._pending, None
        terms = jax.device_get([step.terms for step in steps])
        is_skipped = np.array([bool(t.get(IS_SKIPPED, False)) for t in terms])
        values = {
            name: _summed_up(terms, name, is_skipped)
            for name in terms[-1]
            if name != IS_SKIPPED
        }
        skipped = [
            SkippedStep(step.step, step.rows)
            for step, is_bad in zip(steps, is_skipped, strict=True)
            if is_bad
        ]
        return Interval(steps[-1].step, values | speed, skipped)


def _summed_up(
    terms: list[Mapping[str, Any]], name: str, is_skipped: np.ndarray
) -> float:
    """Last, most, or mean over the steps that were applied; NaN if none was."""
    values = np.array([float(t[name]) for t in terms])
    if name in LAST:
        return float(values[-1])
    if name in MOST:
        return float(values.max())
    return float(values[~is_skipped].mean()) if not is_skipped.all() else float("nan")
