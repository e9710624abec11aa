"""How a function is timed: a first call apart, then the median of the others.

Every call is waited for. Seconds are wall clock. Memory is the peak since the process
began: of the device where it keeps count, else of the process.
"""

import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Measurement(NamedTuple):
    """What one thing took."""

    name: str
    shapes: str  # what went in
    count: int  # examples per call
    repeats: int  # calls after the first
    first_s: float  # the first call: compilation included
    median_s: float
    fastest_s: float
    slowest_s: float
    processor_s: float  # per call, all threads; other programs do not add to it
    peak_bytes: int
    peak_of: str  # "device" | "process"
    note: str = ""

    @property
    def per_second(self) -> float:
        """Examples per second, by the median."""
        return self.count / self.median_s


def measure(
    function: Callable[..., Any],
    *arguments: Any,
    name: str,
    shapes: str,
    count: int,
    repeats: int,
    note: str = "",
) -> Measurement:
    """Calls a function once, then `repeats` times."""
    first = _seconds(function, arguments)
    start = time.process_time()
    others = [_seconds(function, arguments) for _ in range(repeats)]
    processor_s = (time.process_time() - start) / repeats
    peak_bytes, peak_of = peak_memory()
    return Measurement(
        name=name,
        shapes=shapes,
        count=count,
        repeats=repeats,
        first_s=first,
        median_s=statistics.median(others),
        fastest_s=min(others),
        slowest_s=max(others),
        processor_s=processor_s,
        peak_bytes=peak_bytes,
        peak_of=peak_of,
        note=note,
    )


def peak_memory() -> tuple[int, str]:
    """Bytes, and whose: "device" or "process"."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"], "device"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024), "process"


def _seconds(function: Callable[..., Any], arguments: tuple) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - start
