"""From a batch of crops to hands and objects, in one compiled call, and its stages.

Each stage is a program of its own that is given what the stages before it made; the
whole is one program. Reading is timed twice: decoding alone, and with cropping. Beside
HOISDF's work for the same boxes, where `--peer` names a Python that has torch.
"""

import argparse
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from homae_jax import assembly
from homae_jax.benchmarks import _counts, _peer, _setup
from homae_jax.benchmarks._measure import Measurement, measure
from homae_jax.geometry import rotations
from homae_jax.hand.mano import mano_forward
from homae_jax.models import homae
from homae_jax.predictor import answer_batch
from homae_jax.schema import Batch

BATCHES = (1, 8)
TARGETS = ("hand", "object")
# HOISDF in PyTorch, float32: measured elsewhere, on two CPU cores.
PEER_S = (0.97, 1.16)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this section."""
    _setup.add_arguments(parser)
    _peer.add_arguments(parser, rounds=True)
    parser.add_argument("--whole", action="store_true", help="without the stages")


def run(options: argparse.Namespace) -> Iterator[Measurement]:
    """Reading and cropping; then stage after stage and the whole, by batch size."""
    setup = _setup.build(options)
    params = homae.round_params(setup.params, setup.parts.model.dtype)  # as Predictor
    setup = setup._replace(params=params)
    sizes = (options.batch,) if options.batch else BATCHES
    if not options.whole:
        yield from _reading(setup, options.repeats)
    for num in sizes:
        batch = jax.tree.map(lambda rows, num=num: rows[:num], setup.batch)
        stages = {} if options.whole else make_stages(setup, batch)
        stages["whole"] = whole(setup, batch)
        for name, (function, arguments) in stages.items():
            result = measure(
                function,
                *arguments,
                name=name,
                shapes=_setup.describe(setup, num),
                count=num,
                repeats=options.repeats,
            )
            if name == "whole":
                is_comparable = _peer.is_as_measured_elsewhere(setup.config, options)
                figures = _figures(setup.config, result, is_comparable)
                result = result._replace(figures=figures)
            yield result
        request = _peer.hoisdf_request("inference", batch, options)
        yield from _peer.run("HOISDF", request, options, {"whole": result})


def make_stages(setup: _setup.Setup, batch: Batch) -> dict[str, tuple]:
    """Compiled functions by name, each with its arguments: what came before."""
    model, mano, params = setup.parts.model, setup.parts.mano, setup.params

    def program(method: Callable[..., Any]) -> Callable[..., Any]:
        return jax.jit(
            lambda params, *inputs: model.apply(
                {"params": params}, *inputs, method=method
            )
        )

    stages = {}

    def add(name: str, method: Callable[..., Any], *inputs: Any) -> Any:
        stages[name] = program(method), (params, *inputs)
        return stages[name][0](params, *inputs)

    features = add("encoder", _encode, batch.image)
    levels = add("decoder", _decode, features).levels
    points = {
        target: add(f"sampling of {target}", _sampling(target), levels, batch)
        for target in TARGETS
    }
    for target, other in (TARGETS, TARGETS[::-1]):
        given = levels, batch, points[target], points[other]
        add(f"head of {target}", _head(target), *given)
    hand = jax.jit(
        lambda pose, betas: mano_forward(
            mano, rotations.aa_to_rotmat(pose), betas, fingertips="ho3d"
        )
    )
    return stages | {"MANO": (hand, (batch.hand_pose, batch.hand_betas))}


def _encode(network: homae.Homae, image: jax.Array) -> jax.Array:
    return network._encode(homae.normalise_image(image), False)


def _decode(network: homae.Homae, features: jax.Array) -> Any:
    return network.pyramid(features, with_image=False)


def _sampling(target: str) -> Callable[..., Any]:
    def sample(network: homae.Homae, levels: Any, batch: Batch) -> Any:
        field = homae._Field(network, levels, batch, False)
        return field.sampler(target, **network.points)()

    return sample


def _head(target: str) -> Callable[..., Any]:
    """Features and distances at the points, their fusion, and the transformer."""

    def read(network: homae.Homae, levels: Any, batch: Batch, own: Any, other: Any):
        field = homae._Field(network, levels, batch, False)
        tokens, _ = network._tokens(field, target, own, other)
        num_own = network.points[f"num_{target}"]
        return getattr(network, f"head_{target}")(tokens, num_own=num_own, train=False)

    return read


def whole(setup: _setup.Setup, batch: Batch) -> tuple[Callable[..., Any], tuple]:
    """What `Predictor` runs for a batch of crops, compiled, and its arguments."""
    answer = jax.jit(functools.partial(answer_batch, model=setup.parts.model))
    return answer, (setup.params, batch, setup.parts.mano)


def _reading(setup: _setup.Setup, repeats: int) -> Iterator[Measurement]:
    """Files to pictures, then to a batch of crops, without augmentation."""
    config, source = setup.config, setup.source
    num = config.evaluate.batch_size
    rows = np.arange(num) % len(source)
    names = setup.parts.object_names
    for name, function in (
        ("decode", lambda: [source[row] for row in rows.tolist()]),
        (
            "decode and crop",
            lambda: next(assembly.build_eval_batches(config, source, rows, names)),
        ),
    ):
        yield measure(
            function,
            name=name,
            shapes=_setup.describe(setup, num),
            count=num,
            repeats=repeats,
        )


def _figures(config: Any, result: Measurement, is_comparable: bool) -> dict[str, float]:
    """Evaluations of signed distances, and how a peer compares that is elsewhere."""
    spent = _counts.evaluations(config.model.points)
    figures = {
        "sdf_evaluations_per_picture": float(sum(spent.values())),
        "flop_per_picture": result.flops / result.count,
    }
    if is_comparable:
        fastest = result.fastest_s / result.count
        for bound, seconds in zip(("low", "high"), PEER_S, strict=True):
            figures[f"times_faster_than_hoisdf_elsewhere_{bound}"] = seconds / fastest
    return figures
