"""Batches of crops by grain: endless and shuffled to train, in order to evaluate.

Threads do the work (decoding and warping leave Python's lock); processes on top are an
option. Order and augmentation depend on the seed alone, not on the number of threads,
nor on how many processes share the stream. Arrays are numpy: they become jax arrays
where the step is called.
"""

import contextlib
import functools
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import cv2
import grain
import numpy as np
from absl import flags
from jaxtyping import Int

from homae_jax import lifeline
from homae_jax.data.crops import Augmentation, make_example
from homae_jax.data.source import Source
from homae_jax.errors import UserError
from homae_jax.schema import Batch

ON_BAD_SAMPLE = ("raise", "skip")
MAX_SKIPPED_SHARE = 0.01  # of the rows in use
LEAST_SKIPPED = 4  # allowed however few rows there are, if another is left
BATCHES_AHEAD = 4  # of crops that the threads keep ready


def train_iterator(
    source: Source,
    *,
    rows: Int[np.ndarray, " n"],
    batch_size: int,
    seed: int,
    example_options: Mapping[str, Any],
    augment_options: Mapping[str, Any],
    threads: int,
    workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    on_bad_sample: str = "raise",
) -> grain.DatasetIterator[Batch]:
    """Batches without end: the rows in a new order each epoch, augmented.

    The iterator has get_state() and set_state(state), exact to the sample and portable
    between numbers of threads (not of workers), and close(), which wants to be called.
    Process i of n takes every n-th crop of one common stream, so together they see what
    one process would.

    Args:
      rows: of the source, those in use.
      batch_size: of this process.
      example_options: keyword arguments of make_example.
      augment_options: fields of Augmentation.
      threads: that read and crop, per process or worker.
      workers: processes that do so instead of this one; 0 = none.
      on_bad_sample: "raise", or "skip": another row takes an unusable one's place, the
        same at every run; refused when more than `MAX_SKIPPED_SHARE` of them are so.
    """
    if on_bad_sample not in ON_BAD_SAMPLE:
        raise UserError(
            f'data.on_bad_sample="{on_bad_sample}": use {" or ".join(ON_BAD_SAMPLE)}'
        )
    options = dict(example_options, augmentation=Augmentation(**augment_options))
    frames = grain.MapDataset.source(_checked(rows)).seed(seed).shuffle().repeat()
    stand_ins = rows if on_bad_sample == "skip" else None
    crops = frames.random_map(_ExampleMaker(source, options, stand_ins, set()))
    if process_count > 1:
        crops = crops[process_index::process_count]
    batches = _batches(crops, batch_size, threads)
    if workers:
        if not flags.FLAGS.is_parsed():  # grain reads a flag; notebooks parse none
            flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers),
            worker_init_fn=functools.partial(_begin_worker, os.getpid()),
        )
    return iter(batches)


def eval_batches(
    source: Source,
    *,
    rows: Int[np.ndarray, " n"],
    batch_size: int,
    example_options: Mapping[str, Any],
    threads: int,
) -> Iterator[Batch]:
    """The rows once, in their order, as they are.

    The last batch is filled up with its last row, marked by is_real = False.
    """
    num_real = len(_checked(rows))
    padded = np.pad(rows, (0, -num_real % batch_size), mode="edge")
    is_real = np.arange(len(padded)) < num_real
    make = _ExampleMaker(source, example_options)
    crops = grain.MapDataset.source(range(len(padded))).map(
        lambda i: make(padded[i])._replace(is_real=is_real[i])
    )
    with contextlib.closing(iter(_batches(crops, batch_size, threads))) as batches:
        yield from batches


def num_batches(num_rows: int, batch_size: int) -> int:
    """How many batches eval_batches makes of so many rows."""
    return -(-num_rows // batch_size)


class _ExampleMaker(NamedTuple):
    """Row of the source -> Batch without its axis; travels to worker processes."""

    source: Source
    options: Mapping[str, Any]
    stand_ins: Int[np.ndarray, " n"] | None = None  # None: a bad row is an error
    skipped: set[int] | None = None  # rows that this process found bad

    def __call__(
        self, row: int | np.integer, rng: np.random.Generator | None = None
    ) -> Batch:
        row = int(row)
        if self.stand_ins is None:
            return self._read(row, rng)
        # Which row stands in depends on the row alone, and augmentation starts afresh,
        # so neither threads nor earlier rows change what comes.
        seed = rng.integers(2**63) if rng is not None else 0
        others = np.random.default_rng(row)
        while True:
            try:
                return self._read(row, np.random.default_rng(seed))
            except UserError as error:
                self._skip(row, error)
                row = int(others.choice(self.stand_ins))

    def _skip(self, row: int, error: UserError) -> None:
        """Counts and reports a bad row, once."""
        if row in self.skipped:
            return
        self.skipped.add(row)
        num, limit = len(self.skipped), MAX_SKIPPED_SHARE * len(self.stand_ins)
        if num > max(limit, LEAST_SKIPPED) or num == len(self.stand_ins):
            raise UserError(
                f"{error} (and {num - 1} more bad frames: over the cap of "
                f"{MAX_SKIPPED_SHARE:.0%}; look at the data)"
            ) from error
        print(f"skipped ({num} so far): {error}", file=sys.stderr, flush=True)

    def _read(self, row: int, rng: np.random.Generator | None) -> Batch:
        try:
            return Batch(**make_example(self.source[row], rng, **self.options))
        except (ValueError, OSError, cv2.error) as error:
            name = self.source.frame_name(row)
            raise UserError(f"frame {name}: {error}") from error


def _begin_worker(parent: int, index: int, count: int) -> None:
    """What a loader process does first: a killed training leaves none behind."""
    del index, count
    lifeline.end_with(parent)


def _batches(
    crops: grain.MapDataset[Batch], batch_size: int, threads: int
) -> grain.IterDataset[Batch]:
    """Batches after the threads: their buffer then counts crops, not batches."""
    ahead = BATCHES_AHEAD * batch_size if threads else 0
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    return crops.to_iter_dataset(options).batch(batch_size, drop_remainder=True)


def _checked(rows: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    if not len(rows):
        raise UserError("no frame is left to read; look at data.max_*_frames")
    return rows
