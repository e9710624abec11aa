"""One training step and what it is made of, stage by stage.

Stages stand on each other: targets; encoder and decoder with their gradient; the loss
with jittered true points, then with the network's own, both with their gradient; the
whole step, optimiser included. The difference of the two losses is what sampling costs.
Beside HOISDF's step, where `--peer` names a Python that has torch.
"""

import argparse
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from homae_jax import assembly, losses
from homae_jax.benchmarks import _peer, _setup
from homae_jax.benchmarks import targets as targets_section
from homae_jax.benchmarks._measure import Measurement, measure
from homae_jax.training import objective, prng
from homae_jax.training.optimizer import make_optimizer
from homae_jax.training.state import TrainState, create_state
from homae_jax.training.step import train_step

# HOISDF in PyTorch, float32, batch 4: measured elsewhere, on two CPU cores.
PEER_S_PER_PICTURE = {False: 5.3 / 4, True: 11.1 / 4}
STEPS_PER_EPOCH = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this section."""
    _setup.add_arguments(parser)
    _peer.add_arguments(parser, rounds=True)
    parser.add_argument("--whole", action="store_true", help="without the stages")


def run(options: argparse.Namespace) -> Iterator[Measurement]:
    """Stage after stage, then both kinds of step."""
    setup = _setup.build(options)
    key = prng.make_key(0)
    num = setup.batch.image.shape[0]
    shapes = _setup.describe(setup, num)
    parts = {} if options.whole else _stages(setup, key)
    for name, (function, arguments) in parts.items():
        yield measure(
            function,
            *arguments,
            name=name,
            shapes=shapes,
            count=num,
            repeats=options.repeats,
        )
    ours = {}
    for own_points in (False, True):
        kind = f"{'own' if own_points else 'true'} points"
        step, state = make_step(setup, own_points=own_points)
        result = measure(
            step,
            state,
            setup.batch,
            name=f"whole step, {kind}",
            shapes=shapes,
            count=num,
            repeats=options.repeats,
            is_carried=True,
        )
        if _peer.is_as_measured_elsewhere(setup.config, options):
            faster = PEER_S_PER_PICTURE[own_points] / (result.fastest_s / num)
            figures = {"times_faster_than_hoisdf_elsewhere": faster}
            result = result._replace(figures=figures)
        ours[kind] = result
        yield result
    request = _peer.hoisdf_request("training", setup.batch, options)
    yield from _peer.run("HOISDF", request, options, ours)


def _stages(setup: _setup.Setup, key: jax.Array) -> dict[str, tuple]:
    kind, step = setup.config.targets.object_sdf, jnp.int32(0)
    targets = targets_section.make_function(setup, object_sdf=kind)
    inputs = (setup.params, setup.batch, key, step)

    def gradient(own_points: bool) -> Callable[..., Any]:
        loss = make_loss(setup.config, setup.parts, own_points=own_points)
        return jax.jit(jax.grad(loss, has_aux=True))

    return {
        "targets": (targets, (setup.batch, key)),
        "encoder and decoder, gradient": (_dense(setup), (setup.params, setup.batch)),
        "loss, true points, gradient": (gradient(False), inputs),
        "loss, own points, gradient": (gradient(True), inputs),
    }


def make_step(
    setup: _setup.Setup, *, own_points: bool
) -> tuple[Callable[..., Any], TrainState]:
    """A step as training compiles it, its state donated, and a state to start from."""
    step, tx = build_step(
        setup.config, setup.parts, setup.params, own_points=own_points
    )
    state = create_state(setup.params, tx, setup.config.seed)
    return jax.jit(step, donate_argnums=0), jax.tree.map(jnp.copy, state)


def build_step(
    config: Any,
    parts: assembly.Parts,
    params: Any,
    *,
    own_points: bool,
    accumulate: int | None = None,
) -> tuple[Callable[..., Any], optax.GradientTransformation]:
    """A step, not compiled, and its optimiser; `params` may be shapes.

    Args:
      accumulate: passes; None: the configuration's.
    """
    options = config.optimizer.to_dict()
    for key in ("schedule", "decay", "decay_epochs", "warmup_steps"):
        options.pop(key)
    rate = optax.constant_schedule(options.pop("learning_rate"))
    tx = make_optimizer(
        params,
        rate,
        freeze_encoder=config.model.encoder.freeze,
        beta_floor=config.model.fusion.beta_floor,
        **options,
    )
    step = functools.partial(
        train_step,
        loss_fn=make_loss(config, parts, own_points=own_points),
        tx=tx,
        rate=rate,
        accumulate=accumulate or config.train.accumulate,
        count_rows=losses.count_rows,
    )
    return step, tx


def _dense(setup: _setup.Setup) -> Callable[..., Any]:
    """Gradient of what the pictures alone give: features, maps, image."""
    model = setup.parts.model

    def total(params: Any, batch: Any) -> jax.Array:
        decoded = model.apply({"params": params}, batch.image, method="decode_image")
        return sum(jnp.mean(leaf**2) for leaf in jax.tree.leaves(decoded))

    return jax.jit(jax.grad(total))


def make_loss(
    config: Any, parts: assembly.Parts, *, own_points: bool
) -> Callable[..., Any]:
    """The loss with true points, or with the network's own alone."""
    return objective.make_loss_fn(
        parts.model,
        mano=parts.mano,
        templates=parts.templates,
        target_options=assembly.target_options(config),
        loss_options=assembly.loss_options(config),
        jitter=config.targets.point_jitter,
        steps_per_epoch=STEPS_PER_EPOCH,
        switch_step=0,
        own_points_probability=float(own_points),
        recolour=assembly.colours_on_device(config),
    )
