"""One training step and what it is made of, stage by stage.

Stages stand on each other: targets; encoder and decoder with their gradient; the loss
with jittered true points, then with the network's own, both with their gradient. The
difference of the last two is what sampling costs.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from homae_jax import assembly
from homae_jax.benchmarks import _setup
from homae_jax.benchmarks._measure import Measurement, ceiling, measure
from homae_jax.targets import compute_targets
from homae_jax.training import objective


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this section."""
    _setup.add_arguments(parser)


def run(options: argparse.Namespace) -> Iterator[Measurement]:
    """The machine's ceiling, then the stages."""
    setup = _setup.build(options)
    yield from ceiling(repeats=options.repeats)
    key, step = jax.random.key(0), jnp.int32(0)
    num, size = setup.batch.image.shape[:2]
    for name, function, arguments in (
        ("targets", _targets(setup), (setup.batch, key)),
        ("encoder and decoder, gradient", _dense(setup), (setup.params, setup.batch)),
        (
            "loss, true points, gradient",
            _loss(setup, own_points=False),
            (setup.params, setup.batch, key, step),
        ),
        (
            "loss, own points, gradient",
            _loss(setup, own_points=True),
            (setup.params, setup.batch, key, step),
        ),
    ):
        yield measure(
            function,
            *arguments,
            name=name,
            shapes=f"{num} pictures of {size} px, {setup.config.model.encoder.variant}",
            count=num,
            repeats=options.repeats,
        )


def _targets(setup: _setup.Setup) -> Callable[..., Any]:
    options = assembly.target_options(setup.config)

    def targets(batch: Any, key: jax.Array) -> Any:
        return compute_targets(
            key,
            batch,
            mano=setup.parts.mano,
            templates=setup.parts.templates,
            point_jitter=jnp.float32(0.0),
            **options,
        )

    return jax.jit(targets)


def _dense(setup: _setup.Setup) -> Callable[..., Any]:
    """Gradient of what the pictures alone give: features, maps, image."""
    model = setup.parts.model

    def total(params: Any, batch: Any) -> jax.Array:
        decoded = model.apply({"params": params}, batch.image, method="decode_image")
        return sum(jnp.mean(leaf**2) for leaf in jax.tree.leaves(decoded))

    return jax.jit(jax.grad(total))


def _loss(setup: _setup.Setup, *, own_points: bool) -> Callable[..., Any]:
    config = setup.config
    loss = objective.make_loss_fn(
        setup.parts.model,
        mano=setup.parts.mano,
        templates=setup.parts.templates,
        target_options=assembly.target_options(config),
        loss_options=assembly.loss_options(config),
        jitter=config.targets.point_jitter,
        steps_per_epoch=1000,
        switch_step=0,
        own_points_probability=float(own_points),
    )
    return jax.jit(jax.grad(loss, has_aux=True))
