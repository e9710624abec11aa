"""The training step: descent, accumulation, randomness and the guard."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from chex import assert_trees_all_close, assert_trees_all_equal

from homae_jax.training.state import TrainState, create_state
from homae_jax.training.step import train_step
from tests.training import toy_step

RATE = 0.1


def make_state(tx: optax.GradientTransformation) -> TrainState:
    return create_state(toy_step.toy_params(), tx, seed=3)


def make_step(loss_fn=toy_step.toy_loss, tx=None, **options):
    tx = optax.sgd(RATE) if tx is None else tx
    step = functools.partial(
        train_step,
        loss_fn=loss_fn,
        tx=tx,
        rate=optax.constant_schedule(RATE),
        **options,
    )
    return jax.jit(step), make_state(tx)


def test_train_step_descends():
    step, state = make_step()
    batch = toy_step.toy_batch(32)
    losses = []
    for _ in range(20):
        state, terms = step(state, batch)
        losses.append(float(terms["loss"]))
    assert losses[-1] < 0.7 * losses[0]
    assert int(state.step) == 20


def test_train_step_reports_norms_of_what_it_did():
    step, state = make_step()
    new, terms = step(state, toy_step.toy_batch(8))
    difference = jax.tree.map(jnp.subtract, new.params, state.params)
    np.testing.assert_allclose(
        terms["update_norm"], optax.tree.norm(difference), rtol=1e-5
    )
    np.testing.assert_allclose(terms["grad_norm"] * RATE, terms["update_norm"], 1e-5)
    np.testing.assert_allclose(terms["param_norm"], optax.tree.norm(new.params))
    assert float(terms["mse"]) == float(terms["loss"])


@pytest.mark.parametrize("accumulate", [2, 4])
def test_train_step_accumulates_to_the_same_update(accumulate):
    batch = toy_step.toy_batch(8)
    whole, state = make_step()
    parts, _ = make_step(accumulate=accumulate)
    expected, expected_terms = whole(state, batch)
    found, terms = parts(state, batch)
    assert_trees_all_close(found.params, expected.params, atol=1e-6)
    assert_trees_all_close(terms["loss"], expected_terms["loss"], rtol=1e-5)


def test_train_step_draws_anew_each_step_and_the_same_again():
    step, state = make_step(toy_step.noisy_loss)
    batch = toy_step.toy_batch(8)
    first, terms = step(state, batch)
    again, _ = step(state, batch)
    assert_trees_all_equal(first, again)
    _, later = step(state._replace(step=state.step + 1), batch)
    assert float(later["loss"]) != float(terms["loss"])


def test_train_step_draws_anew_in_each_pass():
    rows = toy_step.toy_batch(4)
    twice = jax.tree.map(lambda x: np.repeat(x, 2, axis=0), rows)  # passes see the same
    step, state = make_step(toy_step.noisy_loss, accumulate=2)
    once, _ = make_step(toy_step.noisy_loss)
    _, terms = step(state, twice)
    _, one_pass = once(state, rows)
    assert float(terms["loss"]) != pytest.approx(float(one_pass["loss"]), rel=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_train_step_does_not_apply_a_step_that_is_not_finite(bad):
    step, state = make_step(tx=optax.adam(RATE))
    good = toy_step.toy_batch(8)
    poisoned = good._replace(features=np.where(np.eye(8, 6) > 0, bad, good.features))
    state, _ = step(state, good)
    kept = jax.tree.map(np.asarray, state)
    for count in (1, 2):
        state, terms = step(state, poisoned.__class__(*map(jnp.float32, poisoned)))
        assert_trees_all_equal(state.params, kept.params)
        assert_trees_all_equal(state.opt_state, kept.opt_state)
        assert int(terms["is_skipped"]) == 1
        assert int(terms["num_skipped"]) == count
        assert int(state.num_skipped_in_a_row) == count
    state, terms = step(state, good)
    assert int(state.step) == 4
    assert int(state.num_skipped) == 2
    assert int(terms["num_skipped_in_a_row"]) == 0
    assert np.isfinite(float(terms["loss"]))


def test_train_step_logs_the_rate_that_it_applies():
    rate = optax.linear_schedule(1.0, 0.0, 10)
    tx = optax.sgd(rate)
    step = functools.partial(train_step, loss_fn=toy_step.toy_loss, tx=tx, rate=rate)
    batch = toy_step.toy_batch(8)
    state, _ = step(make_state(tx), batch)
    nan = jax.tree.map(lambda x: x * np.nan, batch)
    state, _ = step(state, nan)
    _, terms = step(state, batch)
    ratio = float(terms["update_norm"] / terms["grad_norm"])
    assert ratio == pytest.approx(float(terms["lr"]), rel=1e-5)
    assert float(terms["lr"]) == pytest.approx(0.9)


def test_train_step_compiles_once():
    step, state = make_step(tx=optax.adam(RATE))
    for seed in range(3):
        state, _ = step(state, toy_step.toy_batch(8, seed))
    assert step._cache_size() == 1
