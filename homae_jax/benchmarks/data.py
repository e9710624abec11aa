"""From the files of a data set to batches: reading, cropping, augmenting."""

import argparse
from collections.abc import Iterator

import cv2
import numpy as np

from homae_jax import assembly
from homae_jax.benchmarks import _setup
from homae_jax.benchmarks._measure import Measurement, measure
from homae_jax.data.crops import Augmentation, make_example

NUM_BATCHES = 10  # per call: the loader reads ahead
NUM_CROPS = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this section."""
    _setup.add_arguments(parser)


def run(options: argparse.Namespace) -> Iterator[Measurement]:
    """One core alone, then the pipeline with its threads and workers."""
    config = options.config
    if options.batch:
        config.train.batch_size = options.batch
    source = assembly.build_source(config, config.data.train_split)
    _, object_names = assembly.build_templates(config)
    yield _one_core(config, source, object_names, options.repeats)
    batches = assembly.build_train_iterator(config, source, object_names)
    try:
        yield measure(
            lambda: [next(batches) for _ in range(NUM_BATCHES)],
            name="training pipeline",
            shapes=(
                f"{NUM_BATCHES} batches of {config.train.batch_size} crops of "
                f"{config.data.image_size} px, {config.data.threads} threads, "
                f"{config.data.workers} workers"
            ),
            count=NUM_BATCHES * config.train.batch_size,
            repeats=options.repeats,
        )
    finally:
        batches.close()


def _one_core(config, source, object_names, repeats: int) -> Measurement:
    """Reading, cropping and augmenting without threads: what a core can do."""
    example_options = assembly.example_options(config, object_names)
    augmentation = Augmentation(**config.data.augment.to_dict())
    rows = np.linspace(0, len(source) - 1, NUM_CROPS).round().astype(int).tolist()

    def crop_all() -> None:
        for row in rows:
            rng = np.random.default_rng(row)
            make_example(source[row], rng, augmentation=augmentation, **example_options)

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        return measure(
            crop_all,
            name="one core",
            shapes=f"{NUM_CROPS} augmented crops of {config.data.image_size} px",
            count=NUM_CROPS,
            repeats=repeats,
        )
    finally:
        cv2.setNumThreads(threads)
