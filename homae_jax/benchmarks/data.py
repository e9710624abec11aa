"""From the files of a data set to batches: reading, cropping, augmenting."""

import argparse
from collections.abc import Iterator

from homae_jax import assembly
from homae_jax.benchmarks import _setup
from homae_jax.benchmarks._measure import Measurement, measure

NUM_BATCHES = 10  # per call: the loader reads ahead


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this section."""
    _setup.add_arguments(parser)


def run(options: argparse.Namespace) -> Iterator[Measurement]:
    """The training pipeline with the configuration's threads and workers."""
    config = _setup.load_config(options)
    if options.batch:
        config.train.batch_size = options.batch
    source = assembly.build_source(config, config.data.train_split)
    _, object_names = assembly.build_templates(config)
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
