"""Memory of a training step by XLA's plan: compiled for this device, never run.

By the number of passes that a batch is cut into (train.accumulate). The plan holds the
parameters, the optimiser's state (donated), the batch and every temporary. The step has
the form that accelerators run; a CPU plans its products of bfloat16 in float32.
"""

import argparse
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from homae_jax import assembly
from homae_jax.benchmarks import _counts, _setup
from homae_jax.benchmarks._measure import Measurement, peak_memory
from homae_jax.benchmarks.train import build_step
from homae_jax.models.xla_cpu import as_on_accelerators
from homae_jax.training.state import create_state


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this section."""
    _setup.add_arguments(parser)
    parser.add_argument("--accumulate", type=int, nargs="+", default=[1, 2, 4])


def run(options: argparse.Namespace) -> Iterator[Measurement]:
    """One plan per number of passes."""
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
        peak_bytes, peak_of = peak_memory()
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
            processor_s=time.process_time() - used,
            fastest_processor_s=time.process_time() - used,
            peak_bytes=peak_bytes,
            peak_of=peak_of,
            planned_bytes=plan.peak_bytes,
            figures={"planned_gib": plan.peak_bytes / 2**30},
            note="seconds are those of compiling",
        )


def _plan(
    config: Any, parts: assembly.Parts, params: Any, batch: Any, *, accumulate: int
) -> _counts.Analysis:
    step, tx = build_step(config, parts, params, own_points=True, accumulate=accumulate)
    state = jax.eval_shape(lambda p: create_state(p, tx, config.seed), params)
    with as_on_accelerators():
        lowered = jax.jit(step, donate_argnums=0).lower(state, batch)
    compiled = lowered.compile()
    return _counts.analyse(compiled)
