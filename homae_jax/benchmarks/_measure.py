"""How a function is timed: a first call apart, then the median of the others.

Every call is waited for. Seconds are wall clock; processor time is that of all threads
of this process, which other programs do not add to. Memory is the peak since the
process began: of the device where it keeps count, else of the process. A compiled
function is also counted (`_counts`): its arithmetic, and XLA's plan of its memory.
"""

import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from homae_jax.benchmarks import _counts

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
    processor_s: float  # per call after the first
    fastest_processor_s: float  # of one call
    peak_bytes: int
    peak_of: str  # "device" | "process"
    flops: int = 0  # arithmetic of one call, loops included; 0: not counted
    matrix_flops: int = 0  # of which matrix products
    planned_bytes: int = 0  # XLA's plan: arguments, outputs, temporaries
    figures: dict[str, float] | None = None  # what else was found, by name with unit
    note: str = ""

    @property
    def per_second(self) -> float:
        """Examples per second, by the median."""
        return self.count / self.median_s

    @property
    def flops_per_s(self) -> float:
        """Of the fastest call: a busy machine slows a call, nothing speeds it up."""
        return self.flops / self.fastest_s


def measure(
    function: Callable[..., Any],
    *arguments: Any,
    name: str,
    shapes: str,
    count: int,
    repeats: int,
    note: str = "",
    is_carried: bool = False,
) -> Measurement:
    """Calls a function once, then `repeats` times; one of `jax.jit` is counted too.

    Args:
      count: examples in a call.
      is_carried: the first argument is taken from the first result of the call before,
        as a training step that consumes its state needs it.
    """
    start = time.perf_counter()
    counts, planned = _counts.Arithmetic(0, 0), 0
    if hasattr(function, "lower"):
        counts = _counts.count_arithmetic(function, *arguments)
        function = function.lower(*arguments).compile()
        planned = _counts.analyse(function).peak_bytes
    compiling_s = time.perf_counter() - start
    calls = []
    for _ in range(1 + repeats):
        *used, result = _time_call(function, arguments)
        if is_carried:
            arguments = (result[0], *arguments[1:])
        del result
        calls.append(used)
    seconds, processor_s = zip(*calls[1:], strict=True)
    peak_bytes, peak_of = peak_memory()
    return Measurement(
        name=name,
        shapes=shapes,
        count=count,
        repeats=repeats,
        first_s=compiling_s + calls[0][0],
        median_s=statistics.median(seconds),
        fastest_s=min(seconds),
        slowest_s=max(seconds),
        processor_s=statistics.fmean(processor_s),
        fastest_processor_s=min(processor_s),
        peak_bytes=peak_bytes,
        peak_of=peak_of,
        flops=counts.total,
        matrix_flops=counts.matrix,
        planned_bytes=planned,
        note=note,
    )


def ceiling(*, repeats: int) -> Iterator[Measurement]:
    """What the device can do: a large product and a large copy, float32."""
    side = CEILING_SIDE
    matrix = jnp.ones((side, side), jnp.float32)
    product = measure(
        jax.jit(lambda a: a @ a),
        matrix,
        name="matrix product",
        shapes=f"{side} x {side}, float32",
        count=1,
        repeats=repeats,
    )
    yield product._replace(note=f"{product.flops_per_s / 1e9:.0f} GFLOP/s")
    copy = measure(
        jax.jit(lambda a: a + 1.0),
        matrix,
        name="copy",
        shapes=f"{side} x {side}, float32",
        count=1,
        repeats=repeats,
    )
    rate = copied_bytes_per_s(copy) / 1e9
    yield copy._replace(note=f"{rate:.1f} GB/s read and written")


def copied_bytes_per_s(copy: Measurement) -> float:
    """Of the ceiling's copy: each float32 is read and written."""
    return 2 * 4 * CEILING_SIDE**2 / copy.fastest_s


def peak_memory() -> tuple[int, str]:
    """Bytes, and whose: "device" or "process"."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"], "device"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024), "process"


def _time_call(
    function: Callable[..., Any], arguments: tuple
) -> tuple[float, float, Any]:
    """Seconds by the wall and of the processors, and the result."""
    start, used = time.perf_counter(), time.process_time()
    result = jax.block_until_ready(function(*arguments))
    return time.perf_counter() - start, time.process_time() - used, result
