"""How a function is timed: a first call apart, then the median of the others.

Every call is waited for. Seconds are wall clock. Memory is the peak since the process
began: of the device where it keeps count, else of the process.
"""

import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

CEILING_SIDE = 2048


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


def ceiling(*, repeats: int) -> Iterator[Measurement]:
    """What the device can do: a large product and a large copy, float32."""
    side = CEILING_SIDE
    matrix = jnp.ones((side, side), jnp.float32)
    product = measure(
        jax.jit(lambda a: a @ a),
        matrix,
        name="ceiling: matrix product",
        shapes=f"{side} x {side}, float32",
        count=1,
        repeats=repeats,
    )
    rate = 2 * side**3 / product.median_s / 1e9
    yield product._replace(note=f"{rate:.0f} GFLOP/s")
    copy = measure(
        jax.jit(lambda a: a + 1.0),
        matrix,
        name="ceiling: copy",
        shapes=f"{side} x {side}, float32",
        count=1,
        repeats=repeats,
    )
    rate = 2 * matrix.nbytes / copy.median_s / 1e9
    yield copy._replace(note=f"{rate:.1f} GB/s read and written")


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
