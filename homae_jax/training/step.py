"""One optimisation step, pure."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from homae_jax.training import prng
from homae_jax.training.optimizer import joined
from homae_jax.training.state import TrainState

# (params, batch, key, step) -> (loss, terms), and for a part of a batch with
# `count_rows` also by keyword `mean_rows`; losses are means over the rows.
LossFn = Callable[..., tuple[Array, dict[str, Array]]]


def train_step(
    state: TrainState,
    batch: Any,
    *,
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    rate: optax.Schedule,
    accumulate: int = 1,
    count_rows: Callable[[Any], dict[str, Array]] | None = None,
    axis_name: str | None = None,
) -> tuple[TrainState, dict[str, Array]]:
    """Gradient, update, bookkeeping; a step that is not finite is not applied.

    Args:
      batch: a tree of arrays, rows first.
      rate: the schedule inside `tx`, for the log.
      accumulate: passes that the batch is cut into; their gradients are averaged.
      count_rows: how many rows of a batch the loss's terms are means of. Where the
        batch is cut, passes or devices, the loss gets the parts' mean of it, to weigh
        a part by its rows; None: every part weighs the same.
      axis_name: of a pmap whose devices hold the shares of the batch.

    Returns:
      The next state, and the terms of the loss with "loss", "grad_norm",
      "param_norm", "update_norm", "lr", "is_skipped", "num_skipped" and
      "num_skipped_in_a_row".
    """
    key = jax.random.fold_in(prng.wrap_key(state.rng), state.step)
    if axis_name is not None:
        key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
    if count_rows is not None and (accumulate > 1 or axis_name is not None):
        mean_rows = jax.tree.map(lambda num: num / accumulate, count_rows(batch))
        if axis_name is not None:
            mean_rows = jax.lax.pmean(mean_rows, axis_name)
        loss_fn = functools.partial(loss_fn, mean_rows=mean_rows)
    grads, terms = _gradients(state, batch, key, loss_fn=loss_fn, accumulate=accumulate)
    if axis_name is not None:
        grads, terms = jax.lax.pmean((grads, terms), axis_name)
    grad_norm = _norm(grads)
    is_finite = jnp.isfinite(grad_norm) & jnp.isfinite(terms["loss"])
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    applied = jax.tree.map(lambda u: jnp.where(is_finite, u, 0.0), updates)
    is_skipped = 1 - is_finite.astype(jnp.int32)
    new_state = state._replace(
        params=optax.apply_updates(state.params, applied),
        opt_state=jax.tree.map(
            lambda new, old: jnp.where(is_finite, new, old), opt_state, state.opt_state
        ),
        step=state.step + 1,
        num_skipped=state.num_skipped + is_skipped,
        num_skipped_in_a_row=(state.num_skipped_in_a_row + 1) * is_skipped,
    )
    bookkeeping = {
        "grad_norm": grad_norm,
        "param_norm": _norm(new_state.params),
        "update_norm": jnp.where(is_finite, _norm(updates), 0.0),
        # The optimiser counts the steps that it applied.
        "lr": jnp.asarray(rate(state.step - state.num_skipped), jnp.float32),
        "is_skipped": is_skipped,
        "num_skipped": new_state.num_skipped,
        "num_skipped_in_a_row": new_state.num_skipped_in_a_row,
    }
    return new_state, terms | bookkeeping


def _norm(tree: Any) -> Array:
    """Euclidean length of all leaves: a sum for each of the optimiser's vectors."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(vector)) for vector in joined(tree)))


def _gradients(
    state: TrainState, batch: Any, key: Array, *, loss_fn: LossFn, accumulate: int
) -> tuple[Any, dict[str, Array]]:
    """Mean gradient and terms over the passes of a batch."""

    def gradient(part: Any, key: Array) -> tuple[Any, dict[str, Array]]:
        value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, terms), grads = value_and_grad(state.params, part, key, state.step)
        return grads, terms | {"loss": loss}

    if accumulate == 1:
        return gradient(batch, key)
    keys = jax.random.split(key, accumulate)
    parts = jax.tree.map(lambda rows: _split_rows(rows, accumulate), batch)
    shapes = jax.eval_shape(gradient, jax.tree.map(lambda rows: rows[0], parts), key)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def one(total: Any, pass_inputs: tuple[Any, Array]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradient(*pass_inputs)), None

    total, _ = jax.lax.scan(one, zeros, (parts, keys))
    return jax.tree.map(lambda leaf: leaf / accumulate, total)


def _split_rows(rows: Array, num_parts: int) -> Array:
    """Row i goes to part i mod num_parts: each device keeps the rows that it has."""
    split = rows.reshape(-1, num_parts, *rows.shape[1:])
    return jnp.swapaxes(split, 0, 1)
