"""The loss of a batch as a function of the parameters: targets, network, terms."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from homae_jax.losses import total_loss
from homae_jax.schema import Batch, ObjectTemplates
from homae_jax.targets import compute_targets, point_jitter
from homae_jax.training.step import LossFn

_COLOURS = 4  # folded into a step's key: other draws stay what they are without


def make_loss_fn(
    model: Any,
    *,
    mano: Any,
    templates: ObjectTemplates,
    target_options: Mapping[str, Any],
    loss_options: Mapping[str, Any],
    jitter: Sequence[float],
    steps_per_epoch: int,
    switch_step: int,
    own_points_probability: float,
    frozen: Sequence[str] = (),
    recolour: Callable[[Array, Batch], Batch] | None = None,
) -> LossFn:
    """(params, batch, key, step, mean_rows) -> (loss, terms).

    Pose points are the jittered true surface; from `switch_step` on, the network's own
    with a probability, drawn once per step (HOISDF), or per pass of an accumulated one.

    Args:
      jitter: half-widths of the noise on pose points, normalised, up to 30 % of an
        epoch, up to 70 % and beyond.
      own_points_probability: 0 leaves the sampler out of the compiled step.
      frozen: parts of the network that get no gradient, which saves its computation.
      recolour: (key, batch) -> the batch in other colours; None where the loader has
        seen to them.
    """

    def loss_fn(
        params: Any,
        batch: Batch,
        key: Array,
        step: Array,
        mean_rows: Mapping[str, Array] | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        target_key, mask_key, dropout_key, choice_key = jax.random.split(key, 4)
        if recolour is not None:
            batch = recolour(jax.random.fold_in(key, _COLOURS), batch)
        targets = compute_targets(
            target_key,
            batch,
            mano=mano,
            templates=templates,
            point_jitter=point_jitter(
                step, steps_per_epoch=steps_per_epoch, jitter=jitter
            ),
            **target_options,
        )
        # Where there is no choice, only one of the two paths is compiled.
        own_points: bool | Array = own_points_probability >= 1 and switch_step <= 0
        if not own_points and own_points_probability > 0:
            draw = jax.random.uniform(choice_key)
            own_points = (step >= switch_step) & (draw < own_points_probability)
        still = {name: jax.lax.stop_gradient(params[name]) for name in frozen}
        outputs = model.apply(
            {"params": params | still},
            batch,
            mano,
            targets=targets,
            own_points=own_points,
            train=True,
            mask_image=True,
            reconstruct=True,
            rngs={"mask": mask_key, "dropout": dropout_key},
        )
        loss, terms = total_loss(
            outputs, targets, batch, **loss_options, mean_rows=mean_rows
        )
        return loss, {**terms, "own_points": jnp.asarray(own_points, jnp.float32)}

    return loss_fn
