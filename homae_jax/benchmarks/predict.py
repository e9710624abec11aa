"""From a batch of crops to hands and objects, in one compiled call, and its stages.

Each stage stands alone but for what it needs from the stages before: the sampling of
hand or object points is timed together with encoder and decoder, which its name says.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from homae_jax import assembly
from homae_jax.benchmarks import _setup
from homae_jax.benchmarks._measure import Measurement, measure
from homae_jax.geometry import rotations
from homae_jax.hand.mano import mano_forward
from homae_jax.models import homae
from homae_jax.models.points import count_evaluations
from homae_jax.schema import Batch

BATCHES = (1, 8)
TARGETS = ("hand", "object")
# HOISDF in PyTorch, float32: measured elsewhere, on two CPU cores.
PEER_S = (0.97, 1.16)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this section."""
    _setup.add_arguments(parser)
    parser.add_argument("--whole", action="store_true", help="without the stages")


def run(options: argparse.Namespace) -> Iterator[Measurement]:
    """Reading and cropping; then stage after stage and the whole, by batch size."""
    setup = _setup.build(options)
    sizes = (options.batch,) if options.batch else BATCHES
    if not options.whole:
        yield _reading(setup, options.repeats)
    for num in sizes:
        batch = jax.tree.map(lambda rows, num=num: rows[:num], setup.batch)
        stages = {} if options.whole else _stages(setup)
        for name, function in (stages | {"whole": _whole(setup)}).items():
            result = measure(
                function,
                setup.params,
                batch,
                name=name,
                shapes=_shapes(setup.config, num),
                count=num,
                repeats=options.repeats,
            )
            if name == "whole":
                result = result._replace(figures=_figures(setup.config, result))
            yield result


def _stages(setup: _setup.Setup) -> dict[str, Callable[..., Any]]:
    model, mano = setup.parts.model, setup.parts.mano

    def encoder(network: homae.Homae, batch: Batch) -> jax.Array:
        return network.vit(homae.normalise_image(batch.image)).patch_tokens

    def decoder(network: homae.Homae, batch: Batch) -> Any:
        features = network._encode(homae.normalise_image(batch.image), False)
        return network.pyramid(features, with_image=False)

    def sampling(target: str) -> Callable[..., Any]:
        def sample(network: homae.Homae, batch: Batch) -> Any:
            levels = decoder(network, batch).levels
            field = homae._Field(network, levels, batch, False)
            return field.sampler(target, **network.points)()

        return sample

    def hand(params: Any, batch: Batch) -> Any:
        del params
        rotmat = rotations.aa_to_rotmat(batch.hand_pose)
        return mano_forward(mano, rotmat, batch.hand_betas, fingertips="ho3d")

    methods = {"encoder": encoder, "encoder and decoder": decoder}
    for target in TARGETS:
        methods[f"encoder, decoder, sampling of {target}"] = sampling(target)
    applied = {
        name: jax.jit(
            lambda params, batch, method=method: model.apply(
                {"params": params}, batch, method=method
            )
        )
        for name, method in methods.items()
    }
    return applied | {"MANO": jax.jit(hand)}


def _whole(setup: _setup.Setup) -> Callable[..., Any]:
    model, mano = setup.parts.model, setup.parts.mano
    return jax.jit(lambda params, batch: model.apply({"params": params}, batch, mano))


def _reading(setup: _setup.Setup, repeats: int) -> Measurement:
    """Files to a batch: decoding and cropping, without augmentation."""
    config, source = setup.config, setup.source
    num = config.evaluate.batch_size
    rows = np.arange(num) % len(source)
    names = setup.parts.object_names
    return measure(
        lambda: next(assembly.build_eval_batches(config, source, rows, names)),
        name="decode and crop",
        shapes=_shapes(config, num),
        count=num,
        repeats=repeats,
    )


def _shapes(config: Any, num: int) -> str:
    points, encoder = config.model.points, config.model.encoder
    return (
        f"{num} pictures of {config.data.image_size} px, {encoder.variant}, "
        f"{config.model.dtype}, {points.sampler} in {points.grid_size}^3"
    )


def _figures(config: Any, result: Measurement) -> dict[str, float]:
    """Evaluations of signed distances, and how the peer compares."""
    points = config.model.points
    spent = [
        count_evaluations(
            sampler=points.sampler,
            grid_size=points.grid_size,
            factor=points.coarse_factor,
            share=points.refine_share,
            num=points[f"num_{target}"],
        )
        for target in TARGETS
    ]
    fastest = result.fastest_s / result.count
    return {
        "sdf_evaluations_per_picture": float(sum(spent)),
        "flop_per_picture": result.flops / result.count,
        "times_faster_than_hoisdf_elsewhere_low": PEER_S[0] / fastest,
        "times_faster_than_hoisdf_elsewhere_high": PEER_S[1] / fastest,
    }
