"""From a batch of crops to hands and objects, in one compiled call."""

import argparse
from collections.abc import Iterator

import jax

from homae_jax.benchmarks import _setup
from homae_jax.benchmarks._measure import Measurement, ceiling, measure

BATCHES = (1, 8)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this section."""
    _setup.add_arguments(parser)


def run(options: argparse.Namespace) -> Iterator[Measurement]:
    """The machine's ceiling; encoder and decoder alone; the whole; by batch size."""
    setup = _setup.build(options)
    yield from ceiling(repeats=options.repeats)
    model, mano = setup.parts.model, setup.parts.mano
    dense = jax.jit(
        lambda params, batch: model.apply(
            {"params": params}, batch.image, method="decode_image"
        )
    )
    whole = jax.jit(lambda params, batch: model.apply({"params": params}, batch, mano))
    sizes = (options.batch,) if options.batch else BATCHES
    config = setup.config
    for num in sizes:
        batch = jax.tree.map(lambda rows, num=num: rows[:num], setup.batch)
        for name, function in (("encoder and decoder", dense), ("whole", whole)):
            yield measure(
                function,
                setup.params,
                batch,
                name=name,
                shapes=(
                    f"{num} pictures of {config.data.image_size} px, "
                    f"{config.model.encoder.variant}, {config.model.points.sampler}"
                ),
                count=num,
                repeats=options.repeats,
            )
