"""A whole training of a toy network on toy data, for tests of the loop around it.

As a program, `python -m tests.toy_training FLAGS` is `python -m homae_jax.train FLAGS`
with toys in place of data, network, loss and evaluation; everything else is real.
"""

import functools
import os
import time
import types
from pathlib import Path
from typing import NamedTuple

import grain
import jax
import numpy as np
import optax

from homae_jax import config_flags, train
from homae_jax.errors import UserError
from homae_jax.training.state import create_state
from homae_jax.training.step import train_step
from tests.training import toy_step

NUM_FRAMES = 64
NOISE = 0.1
QUIET = "TOY_QUIET"  # variable: the loss draws nothing, so that its rows may be swapped
CONFIG = Path(__file__).with_name("toy_config.py")


class Batch(NamedTuple):
    features: np.ndarray
    labels: np.ndarray
    sample_index: np.ndarray


class Source:
    """Rows of which some may be bad: "nan" poisons the loss, "gone" cannot be read."""

    def __init__(self, bad: dict[int, str]):
        self._rows, self._bad = toy_step.toy_batch(NUM_FRAMES), bad

    def frame_name(self, index: int) -> str:
        return f"toy/{index:04d}"

    def read(self, index: int, rng: np.random.Generator) -> Batch:
        features = self._rows.features[index] + NOISE * rng.normal(
            size=toy_step.NUM_FEATURES
        )
        if self._bad.get(index) == "nan":
            features = features * np.nan
        if self._bad.get(index) == "gone":
            raise UserError(f"frame {self.frame_name(index)}: no such file")
        return Batch(
            features.astype(np.float32), self._rows.labels[index], np.int32(index)
        )


def install(monkeypatch, *, bad: dict[int, str] | None = None, seconds=0.0) -> None:
    """Puts the toys in place; `seconds` is what a batch takes."""

    def open_run(config, workdir: Path) -> train.Run:
        source = Source(bad or {})
        rows = grain.MapDataset.source(range(NUM_FRAMES)).seed(config.seed)
        num, index = jax.process_count(), jax.process_index()
        rows = rows.shuffle().repeat().random_map(source.read)[index::num]
        read = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)
        batches = rows.to_iter_dataset(read).batch(config.train.batch_size // num)
        length = train.run_length(config, NUM_FRAMES)
        parts = types.SimpleNamespace(object_names=("cube", "ball"))
        return train.Run(config, workdir, parts, source, iter(batches), length, None)

    def build_state_and_step(run: train.Run):
        rate = optax.constant_schedule(0.05)
        tx = optax.adam(rate)
        loss_fn = toy_step.toy_loss if QUIET in os.environ else toy_step.noisy_loss
        step = functools.partial(train_step, loss_fn=loss_fn, tx=tx, rate=rate)
        return create_state(toy_step.toy_params(), tx, run.config.seed), step

    def evaluate(run: train.Run, params, step, *, is_unwanted=None) -> dict:
        on_the_way = " on the way" if is_unwanted else ""
        print(f"evaluated step {step}{on_the_way}", flush=True)
        return {"metrics": {"mje_mm": 1.0}}

    next_batch = train._next_batch

    def slow_batch(*arguments):
        time.sleep(seconds)
        return next_batch(*arguments)

    monkeypatch.setattr(train, "open_run", open_run)
    monkeypatch.setattr(train, "build_state_and_step", build_state_and_step)
    monkeypatch.setattr(train, "evaluate", evaluate)
    monkeypatch.setattr(train, "_next_batch", slow_batch)


def template(config) -> object:
    """The shape of a toy training's state."""
    tx = optax.adam(optax.constant_schedule(0.05))
    return jax.tree.map(
        np.asarray, create_state(toy_step.toy_params(), tx, config.seed)
    )


if __name__ == "__main__":
    import pytest

    with pytest.MonkeyPatch.context() as patch:
        install(patch, seconds=0.05)
        config_flags.run(train.main, train.FLAGS)
