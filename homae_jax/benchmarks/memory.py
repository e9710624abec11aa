"""Memory of a training step by XLA's plan: compiled for this device, not run.

By the number of passes that a batch is cut into (train.accumulate). The plan holds the
parameters, the optimiser's state (donated), the batch and every temporary. The step has
the form that accelerators run; a CPU plans its products of bfloat16 in float32, and
XLA's attention in place of cuDNN's. With `--run` each step also runs, in the form of
this device and in a process of its own, whose peak nothing else has raised.
"""

import argparse
import contextlib
import multiprocessing
import sys
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp

from homae_jax import assembly, runtime
from homae_jax.benchmarks import _counts, _setup
from homae_jax.benchmarks._measure import Measurement, peak_memory
from homae_jax.benchmarks.train import build_step
from homae_jax.models.xla_cpu import as_on_accelerators
from homae_jax.training.state import create_state

STARTS_PROCESSES = True  # which want the device
NUM_STEPS = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this section."""
    _setup.add_arguments(parser)
    parser.add_argument("--accumulate", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument(
        "--run",
        action="store_true",
        help="two steps as well, for the device's own peak. JAX takes three quarters "
        "of a GPU unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise: no peak "
        "passes that",
    )


def run(options: argparse.Namespace) -> Iterator[Measurement]:
    """One plan per number of passes; with `--run`, one peak too."""
    config = options.config
    num = options.batch or config.train.batch_size
    parts = assembly.build_parts(config)
    params = assembly.param_shapes(config, parts)
    batch = jax.eval_shape(
        lambda: jax.tree.map(jnp.asarray, assembly.blank_batch(config, num))
    )
    for accumulate in options.accumulate:
        start, used = time.perf_counter(), time.process_time()
        plan = _plan(config, parts, params, batch, accumulate=accumulate)
        seconds = time.perf_counter() - start
        processor_s = time.process_time() - used
        figures = {"planned_gib": plan.peak_bytes / 2**30}
        note = "seconds are those of compiling"
        peak_bytes, peak_of = peak_memory()
        if options.run and (peak := _peak_apart(options, accumulate)):
            peak_bytes, peak_of = peak
            figures["peak_gib"] = peak_bytes / 2**30
            note += f"; the peak is that of {NUM_STEPS} steps in a process of their own"
        yield Measurement(
            name=f"plan of a step in {accumulate} passes",
            shapes=(
                f"{num} pictures of {config.data.image_size} px, "
                f"{config.model.encoder.variant}, {parts.model.dtype}, "
                f"remat {config.model.encoder.remat}"
            ),
            count=num,
            repeats=0,
            first_s=seconds,
            median_s=seconds,
            fastest_s=seconds,
            slowest_s=seconds,
            processor_s=processor_s,
            fastest_processor_s=processor_s,
            peak_bytes=peak_bytes,
            peak_of=peak_of,
            planned_bytes=plan.peak_bytes,
            figures=figures,
            note=note,
        )


def _peak_apart(options: argparse.Namespace, accumulate: int) -> tuple[int, str] | None:
    """Of steps in a process of its own; None, and why on the console, if it failed."""
    context = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(_run_steps, options, accumulate).result()
        except (MemoryError, futures.process.BrokenProcessPool) as error:
            reason = str(error).partition("\n")[0]
    print(f"a step in {accumulate} passes does not run: {reason}", file=sys.stderr)
    return None


def _run_steps(options: argparse.Namespace, accumulate: int) -> tuple[int, str]:
    """Peak of a process that runs steps as a training does; parameters are zeros.

    Raises:
      MemoryError: the device has too little.
    """
    runtime.keep_memory()
    config = options.config
    with contextlib.redirect_stdout(sys.stderr):
        parts = assembly.build_parts(config)
    params = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
        assembly.param_shapes(config, parts),
    )
    num = options.batch or config.train.batch_size
    batch = jax.tree.map(jnp.asarray, assembly.blank_batch(config, num))
    step, tx = build_step(config, parts, params, own_points=True, accumulate=accumulate)
    try:
        state = create_state(params, tx, config.seed)
        step = jax.jit(step, donate_argnums=0)
        for _ in range(NUM_STEPS):
            state, _ = jax.block_until_ready(step(state, batch))
    except jax.errors.JaxRuntimeError as error:
        raise MemoryError(str(error)) from error
    return peak_memory()


def _plan(
    config: Any, parts: assembly.Parts, params: Any, batch: Any, *, accumulate: int
) -> _counts.Analysis:
    step, tx = build_step(config, parts, params, own_points=True, accumulate=accumulate)
    state = jax.eval_shape(lambda p: create_state(p, tx, config.seed), params)
    is_stand_in = jax.default_backend() == "cpu"
    with as_on_accelerators() if is_stand_in else contextlib.nullcontext():
        lowered = jax.jit(step, donate_argnums=0).lower(state, batch)
    compiled = lowered.compile()
    return _counts.analyse(compiled)
