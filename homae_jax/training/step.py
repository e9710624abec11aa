"""One optimisation step, pure."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from homae_jax.schema import Batch
from homae_jax.training.state import TrainState


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    loss_fn: Callable[[Any, Batch, Array, Array], tuple[Array, dict[str, Array]]],
    tx: optax.GradientTransformation,
    rate: optax.Schedule,
    accumulate: int = 1,
    axis_name: str | None = None,
) -> tuple[TrainState, dict[str, Array]]:
    """Gradient, update, bookkeeping; a step that is not finite is not applied.

    Args:
      accumulate: passes that the batch is cut into; their gradients are averaged.
      axis_name: of a pmap whose devices hold the shares of the batch.
    """
    key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
    if axis_name is not None:
        key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
    grads, terms = _gradients(state, batch, key, loss_fn, accumulate)
    if axis_name is not None:
        grads, terms = jax.lax.pmean((grads, terms), axis_name)
    norm = optax.global_norm(grads)
    is_finite = jnp.isfinite(norm) & jnp.isfinite(terms["loss"])
    updates, opt_state = tx.update(grads, state.opt_state, state.params)

    def choose(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda n, o: jnp.where(is_finite, n, o), new, old)

    params = choose(optax.apply_updates(state.params, updates), state.params)
    terms |= {
        "grad_norm": norm,
        "param_norm": optax.global_norm(params),
        "update_norm": jnp.where(is_finite, optax.global_norm(updates), 0.0),
        "lr": jnp.asarray(rate(state.step), jnp.float32),
        "is_skipped": 1.0 - is_finite,
    }
    skipped = 1 - is_finite.astype(jnp.int32)
    new_state = TrainState(
        params=params,
        opt_state=choose(opt_state, state.opt_state),
        step=state.step + 1,
        rng=state.rng,
        num_skipped=state.num_skipped + skipped,
        num_skipped_in_a_row=(state.num_skipped_in_a_row + 1) * skipped,
    )
    return new_state, terms


def _gradients(state, batch, key, loss_fn, accumulate) -> tuple[Any, dict[str, Array]]:
    """Mean gradient and terms over the passes of a batch."""
    gradient = jax.grad(loss_fn, has_aux=True)
    if accumulate == 1:
        return gradient(state.params, batch, key, state.step)
    parts = jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), batch)

    def one(carry: Any, part: tuple[Batch, Array]) -> tuple[Any, None]:
        found = gradient(state.params, part[0], part[1], state.step)
        return jax.tree.map(jnp.add, carry, found), None

    keys = jax.random.split(key, accumulate)
    first_part = jax.tree.map(lambda x: x[0], parts)
    first = jax.eval_shape(gradient, state.params, first_part, keys[0], state.step)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), first)
    total, _ = jax.lax.scan(one, zeros, (parts, keys))
    return jax.tree.map(lambda x: x / accumulate, total)
