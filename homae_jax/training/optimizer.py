"""Adam with the paper's schedule, and rates by part of the network (HOMAE IV-B)."""

import re
from typing import Any

import jax
import optax

from homae_jax.errors import UserError

ENCODER = "vit"  # the encoder's name among the parameters


def learning_rate_schedule(
    *,
    learning_rate: float,
    schedule: str,
    decay: float,
    decay_epochs: float,
    warmup_steps: int,
    steps_per_epoch: int,
    num_steps: int,
) -> optax.Schedule:
    """Step -> rate: "step" (x decay every so many epochs), "cosine" or "constant"."""
    if schedule == "step":
        every = max(round(decay_epochs * steps_per_epoch), 1)
        main = optax.exponential_decay(learning_rate, every, decay, staircase=True)
    elif schedule == "cosine":
        main = optax.cosine_decay_schedule(
            learning_rate, max(num_steps - warmup_steps, 1)
        )
    elif schedule == "constant":
        main = optax.constant_schedule(learning_rate)
    else:
        raise UserError(
            f'optimizer.schedule="{schedule}": use "step", "cosine" or "constant"'
        )
    if not warmup_steps:
        return main
    warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
    return optax.join_schedules([warmup, main], [warmup_steps])


def make_optimizer(
    params: Any,
    rate: optax.Schedule,
    *,
    b1: float,
    b2: float,
    weight_decay: float,
    clip_norm: float,
    encoder_lr_multiplier: float,
    encoder_layer_decay: float,
    freeze_encoder: bool,
) -> optax.GradientTransformation:
    """Adam (AdamW with a weight decay), the encoder at rates of its own.

    Block i of n encoder blocks learns at encoder_lr_multiplier x
    encoder_layer_decay^(n - i) of the rate; its embeddings as block -1.
    """
    scales = encoder_scales(
        params, multiplier=encoder_lr_multiplier, layer_decay=encoder_layer_decay
    )
    parts = [optax.clip_by_global_norm(clip_norm)] if clip_norm > 0 else []
    parts.append(optax.scale_by_adam(b1=b1, b2=b2))
    if weight_decay > 0:
        is_matrix = jax.tree.map(lambda p: p.ndim > 1, params)
        parts.append(optax.add_decayed_weights(weight_decay, mask=is_matrix))
    parts.append(optax.scale_by_learning_rate(rate))
    if encoder_lr_multiplier != 1 or encoder_layer_decay != 1:
        parts.append(_scale_by(scales))
    tx = optax.chain(*parts)
    if not freeze_encoder:
        return tx
    labels = jax.tree.map_with_path(
        lambda path, _: "frozen" if path[0].key == ENCODER else "trained", params
    )
    return optax.multi_transform({"trained": tx, "frozen": optax.set_to_zero()}, labels)


def encoder_scales(params: Any, *, multiplier: float, layer_decay: float) -> Any:
    """Factor on the learning rate of every parameter; 1 outside the encoder."""
    names = params.get(ENCODER, {})
    num_blocks = sum(bool(re.fullmatch(r"blocks_\d+", name)) for name in names)

    def scale(path: tuple, _: jax.Array) -> float:
        if path[0].key != ENCODER:
            return 1.0
        block = re.fullmatch(r"blocks_(\d+)", path[1].key)
        depth = int(block[1]) if block else num_blocks if path[1].key == "norm" else -1
        return multiplier * layer_decay ** (num_blocks - depth)

    return jax.tree.map_with_path(scale, params)


def _scale_by(scales: Any) -> optax.GradientTransformation:
    def update(updates: Any, params: Any = None) -> Any:
        del params
        return jax.tree.map(lambda u, s: u * s, updates, scales)

    return optax.stateless(update)
