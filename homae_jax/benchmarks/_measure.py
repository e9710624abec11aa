"""How a function is timed: a first call apart, then the median of the others.

Every call is waited for. Seconds are wall clock; processor time is that of all threads
of this process, which other programs do not add to. Memory is the peak since the
process began, the ceiling's included: of the device where it keeps count, else of the
process. A compiled function is also counted (`_counts`): its arithmetic, and XLA's plan
of its memory.
"""

import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from homae_jax.benchmarks import _counts
from homae_jax.models.products import einsum

DTYPES = ("float32", "bfloat16")  # of products
CEILING_SIDES = (2048, 4096, 8192, 16384)  # the first whose product takes CEILING_S
CEILING_S = 0.02
COPY_BYTES, CPU_COPY_BYTES = 2**30, 2**28


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
    bfloat16_flops: int = 0  # of which products of bfloat16
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
    counts, planned = _counts.Arithmetic(), 0
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
        bfloat16_flops=counts.bfloat16,
        planned_bytes=planned,
        note=note,
    )


def ceiling(*, repeats: int) -> Iterator[Measurement]:
    """What the device can do: a large product in either dtype, and a large copy."""
    for dtype in DTYPES:
        product = _measure_product(dtype, repeats)
        yield product._replace(note=f"{product.flops_per_s / 1e9:.0f} GFLOP/s")
    copy = _measure_copy(repeats)
    yield copy._replace(
        note=f"{copied_bytes_per_s(copy) / 1e9:.1f} GB/s read and written"
    )


def _measure_product(dtype: str, repeats: int) -> Measurement:
    """By the path of the models' products, large enough to hide a call's start."""
    program = jax.jit(lambda a, b: einsum("mk,kn->mn", a, b, dtype))
    for side in CEILING_SIDES:
        factors = jax.random.normal(jax.random.key(0), (2, side, side), dtype)
        product = measure(
            program,
            *factors,
            name="matrix product",
            shapes=f"{side} x {side}, {dtype}",
            count=1,
            repeats=repeats,
        )
        if product.fastest_s >= CEILING_S:
            break
    return product


def _measure_copy(repeats: int) -> Measurement:
    """In place, and larger than any cache."""
    size = copy_bytes()
    return measure(
        jax.jit(lambda a: (a + 1.0,), donate_argnums=0),
        jnp.zeros(size // 4, jnp.float32),
        name="copy",
        shapes=f"{size / 2**20:.6g} MiB, float32",
        count=1,
        repeats=repeats,
        is_carried=True,
    )


def copy_bytes() -> int:
    """Of the ceiling's copy, on this device."""
    return CPU_COPY_BYTES if jax.default_backend() == "cpu" else COPY_BYTES


def copied_bytes_per_s(copy: Measurement) -> float:
    """Of the ceiling's copy: each byte is read and written."""
    return 2 * copy_bytes() / copy.fastest_s


def share_of_ceiling(result: Measurement, products: Mapping[str, Measurement]) -> float:
    """The least time of a call's arithmetic, each part in its dtype, over its time.

    On a CPU by processor time.

    Args:
      products: those of the ceiling by dtype; other arithmetic counts as float32's.
    """
    seconds = "fastest_processor_s" if result.peak_of == "process" else "fastest_s"
    rounded = result.bfloat16_flops
    parts = {"bfloat16": rounded, "float32": result.flops - rounded}
    least_s = sum(
        flops * getattr(products[dtype], seconds) / products[dtype].flops
        for dtype, flops in parts.items()
    )
    return least_s / max(getattr(result, seconds), 1e-9)


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
