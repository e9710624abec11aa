"""What a program must say to run well on a CPU, and whether it is to.

XLA compiles for a CPU with other choices than for an accelerator: it puts the whole
chain of operations that make an array into each of the array's readers, and takes an
array's transposition for a matter of reading it in another order. Both can cost more
than they save; here is what holds it back.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array

_AS_ELSEWHERE = contextvars.ContextVar("as_on_accelerators", default=False)


@contextlib.contextmanager
def as_on_accelerators() -> Iterator[None]:
    """What is traced inside takes the accelerators' form, whatever this device is.

    For programs that are made here and run, or are meant to stand for what runs,
    elsewhere.
    """
    token = _AS_ELSEWHERE.set(True)
    try:
        yield
    finally:
        _AS_ELSEWHERE.reset(token)


def is_for_cpu() -> bool:
    """Whether what is traced now is to run well on a CPU."""
    return jax.default_backend() == "cpu" and not _AS_ELSEWHERE.get()


def is_for_gpu_here() -> bool:
    """Whether what is traced now is to run on this machine's GPU, and nowhere else."""
    return jax.default_backend() == "gpu" and not _AS_ELSEWHERE.get()


def written_out(x: Array) -> jax.Array:
    """x, which whatever reads it finds in memory, on a CPU.

    XLA's CPU compiler would put the whole chain of operations that make x into each of
    its readers. Elsewhere, and among several devices, where a layout would have it
    gathered, x as it is.
    """
    return x if not is_for_cpu() or jax.device_count() > 1 else in_memory(x)


def transposed(x: Array) -> jax.Array:
    """x with its last two axes swapped, `written_out`, as is x itself before.

    Else XLA would read in strides what lies in memory that no cache holds, the stack of
    a scan for one: 0.9 ms for 2,056 x 384 numbers, 0.4 by way of a copy.
    """
    return written_out(jnp.swapaxes(written_out(x), -1, -2))


def in_memory(x: Array) -> jax.Array:
    """x, its elements laid out in the order of its axes."""
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))
