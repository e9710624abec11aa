"""Adam with the paper's schedule, and rates by part of the network (HOMAE IV-B)."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from homae_jax.errors import UserError

ENCODER = "vit"  # the encoder's name among the parameters
BETA = "beta"  # of models/fusion.py
VECTORS = 8  # that all parameters are joined into


def learning_rate_schedule(
    *,
    learning_rate: float,
    schedule: str,
    decay: float,
    decay_epochs: int | float,
    warmup_steps: int,
    steps_per_epoch: int,
    num_steps: int,
) -> optax.Schedule:
    """Step -> rate: "step" (x decay every so many epochs), "cosine" or "constant".

    The rate rises linearly over the first `warmup_steps`; epochs count from step 0.
    """
    if schedule == "step":
        every = max(round(decay_epochs * steps_per_epoch), 1)
        main = optax.exponential_decay(learning_rate, every, decay, staircase=True)
    elif schedule == "cosine":
        falling = optax.cosine_decay_schedule(
            learning_rate, max(num_steps - warmup_steps, 1)
        )

        def main(step):
            return falling(jnp.maximum(step - warmup_steps, 0))

    elif schedule == "constant":
        main = optax.constant_schedule(learning_rate)
    else:
        raise UserError(
            f'optimizer.schedule="{schedule}": use "step", "cosine" or "constant"'
        )
    if not warmup_steps:
        return main
    return lambda step: main(step) * jnp.minimum((step + 1) / warmup_steps, 1.0)


def make_optimizer(
    params: Mapping[str, Any],
    rate: optax.Schedule,
    *,
    b1: float,
    b2: float,
    weight_decay: float,
    clip_norm: float,
    encoder_lr_multiplier: float,
    encoder_layer_decay: float,
    freeze_encoder: bool,
    beta_floor: float = -math.inf,
) -> optax.GradientTransformation:
    """Adam (AdamW with a weight decay), the encoder at rates of its own.

    A frozen encoder has no moments and does not count for `clip_norm`.

    Args:
      beta_floor: no update takes the fusion's betas below it (HOISDF).
    """
    on_vectors = [optax.scale_by_adam(b1=b1, b2=b2)]
    if clip_norm > 0:
        on_vectors.insert(0, optax.clip_by_global_norm(clip_norm))
    scaled = optax.scale_by_learning_rate(rate)
    if weight_decay > 0:  # of kernels: by array
        decayed = optax.add_decayed_weights(weight_decay, mask=_is_kernel)
        parts = [_on_vectors(optax.chain(*on_vectors)), decayed, scaled]
    else:
        parts = [_on_vectors(optax.chain(*on_vectors, scaled))]
    if not freeze_encoder:
        scales = encoder_scales(
            params, multiplier=encoder_lr_multiplier, layer_decay=encoder_layer_decay
        )
        return _floored(optax.chain(*parts, _scale_by(scales)), beta_floor)
    labels = {name: "frozen" if name == ENCODER else "trained" for name in params}
    thawed = optax.multi_transform(
        {"trained": optax.chain(*parts), "frozen": optax.set_to_zero()}, labels
    )
    return _floored(thawed, beta_floor)


def _floored(
    inner: optax.GradientTransformation, floor: float
) -> optax.GradientTransformation:
    """`inner`, whose updates leave every parameter named "beta" at `floor` or above."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = inner.update(updates, state, params)
        return jax.tree.map_with_path(
            lambda path, u, p: jnp.maximum(u, floor - p) if path[-1].key == BETA else u,
            updates,
            params,
        ), state

    return optax.GradientTransformation(inner.init, update)


def _on_vectors(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner` on a few long vectors in place of hundreds of arrays.

    A compiled step is then a third smaller, and starts as much sooner. As
    `optax.flatten`, but of several vectors, so that CPU threads can share the work.
    """

    def init(params: Any) -> Any:
        return inner.init(joined(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        vectors, state = inner.update(joined(updates), state)
        return _parted(vectors, updates), state

    return optax.GradientTransformation(init, update)


def joined(tree: Any) -> list[jax.Array]:
    """All leaves in order, as at most about `VECTORS` vectors of similar lengths."""
    leaves = jax.tree.leaves(tree)
    share = sum(leaf.size for leaf in leaves) / VECTORS
    groups, length = [[]], 0
    for leaf in leaves:
        if length >= share:
            groups, length = [*groups, []], 0
        groups[-1].append(leaf.ravel())
        length += leaf.size
    return [jnp.concatenate(group) for group in groups]


def _parted(vectors: Sequence[jax.Array], like: Any) -> Any:
    """The leaves that `joined` joined."""
    leaves, structure = jax.tree.flatten(like)
    parts, rest = [], list(vectors)
    place = 0
    for leaf in leaves:
        if place == rest[0].size:
            rest, place = rest[1:], 0
        part = jax.lax.slice_in_dim(rest[0], place, place + leaf.size)
        parts.append(part.reshape(leaf.shape))
        place += leaf.size
    return jax.tree.unflatten(structure, parts)


def _is_kernel(params: Any) -> Any:
    """Not biases (those of attention have two axes), tokens and embeddings."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1].key == "kernel", params
    )


def encoder_scales(
    params: Mapping[str, Any], *, multiplier: float, layer_decay: float
) -> Any:
    """Factor on the learning rate of every parameter; 1 outside the encoder.

    In the encoder it is multiplier x layer_decay^d, where d is 0 for the final norm,
    1 for the last block, and greatest for what comes before the first block.
    """
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
        return jax.tree.map(lambda u, s: u if s == 1.0 else u * s, updates, scales)

    return optax.stateless(update)
