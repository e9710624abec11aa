"""The step: determinism, accumulation, skipping, engines; on a linear model."""

import functools
import os
import subprocess
import sys
import textwrap

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from homae_jax.errors import UserError
from homae_jax.training import optimizer, parallel
from homae_jax.training.state import create_state
from homae_jax.training.step import train_step

RATE = optax.constant_schedule(0.1)


def loss_fn(params, batch, key, step):
    del key, step
    error = batch["x"] @ params["w"] - batch["y"]
    loss = jnp.mean(error**2)
    return loss, {"loss": loss}


def make(num=8, seed=0):
    rng = np.random.default_rng(seed)
    batch = {
        "x": jnp.asarray(rng.normal(size=(num, 3)), jnp.float32),
        "y": jnp.asarray(rng.normal(size=(num,)), jnp.float32),
    }
    tx = optax.sgd(0.1)
    state = create_state({"w": jnp.ones(3)}, tx, seed=0)
    return (
        state,
        batch,
        functools.partial(train_step, loss_fn=loss_fn, tx=tx, rate=RATE),
    )


def test_train_step_follows_the_gradient():
    state, batch, step = make()
    new, terms = step(state, batch)
    x, y = np.asarray(batch["x"]), np.asarray(batch["y"])
    gradient = 2 * x.T @ (x @ np.ones(3) - y) / len(y)
    np.testing.assert_allclose(new.params["w"], 1 - 0.1 * gradient, rtol=1e-5)
    np.testing.assert_allclose(terms["grad_norm"], np.linalg.norm(gradient), rtol=1e-5)
    assert int(new.step) == 1


def test_train_step_accumulation_keeps_the_global_batch():
    state, batch, step = make()
    whole, _ = step(state, batch)
    parts, _ = step(state, batch, accumulate=4)
    chex.assert_trees_all_close(whole.params, parts.params, rtol=1e-5)


def test_train_step_does_not_apply_a_step_that_is_not_finite():
    state, batch, step = make()
    bad = {**batch, "y": batch["y"].at[0].set(jnp.nan)}
    new, terms = step(state, bad)
    chex.assert_trees_all_equal(new.params, state.params)
    assert (int(new.num_skipped), int(new.num_skipped_in_a_row)) == (1, 1)
    assert float(terms["is_skipped"]) == 1.0
    after, _ = step(new, batch)
    assert (int(after.num_skipped), int(after.num_skipped_in_a_row)) == (1, 0)


def test_train_step_compiles_once():
    state, batch, step = make()
    step = jax.jit(chex.assert_max_traces(step, n=1))
    for _ in range(3):
        state, _ = step(state, batch)
    assert int(state.step) == 3


def test_schedule_decays_every_five_epochs():
    rate = optimizer.learning_rate_schedule(
        learning_rate=1e-4,
        schedule="step",
        decay=0.7,
        decay_epochs=5,
        warmup_steps=0,
        steps_per_epoch=10,
        num_steps=600,
    )
    found = [float(rate(s)) for s in (0, 49, 50, 100)]
    np.testing.assert_allclose(found, [1e-4, 1e-4, 7e-5, 4.9e-5], rtol=1e-5)


def test_make_optimizer_freezes_and_slows_the_encoder():
    params = {"vit": {"blocks_0": {"w": jnp.ones(2)}}, "head": {"w": jnp.ones(2)}}
    options = {
        "b1": 0.9, "b2": 0.999, "weight_decay": 0.0, "clip_norm": 0.0,
        "encoder_layer_decay": 1.0,
    }  # fmt: skip
    grads = jax.tree.map(jnp.ones_like, params)
    for frozen, multiplier, moved in ((True, 1.0, 0.0), (False, 0.5, 0.05)):
        tx = optimizer.make_optimizer(
            params,
            RATE,
            encoder_lr_multiplier=multiplier,
            freeze_encoder=frozen,
            **options,
        )
        updates, _ = tx.update(grads, tx.init(params), params)
        np.testing.assert_allclose(updates["vit"]["blocks_0"]["w"], -moved, atol=1e-6)
        np.testing.assert_allclose(updates["head"]["w"], -0.1, rtol=1e-4)


def test_encoder_scales_decay_towards_the_input():
    params = {
        "vit": {
            "patch_embed": {"w": jnp.ones(1)},
            "blocks_0": {"w": jnp.ones(1)},
            "blocks_1": {"w": jnp.ones(1)},
            "norm": {"w": jnp.ones(1)},
        }
    }
    scales = optimizer.encoder_scales(params, multiplier=1.0, layer_decay=0.5)["vit"]
    found = [scales[k]["w"] for k in ("norm", "blocks_1", "blocks_0", "patch_embed")]
    assert found == [1.0, 0.5, 0.25, 0.125]


def test_check_batch_size_names_what_does_not_divide():
    parallel.check_batch_size(24, 2, 4)
    with pytest.raises(UserError, match=r"batch_size=24 .*accumulate=1 .* 5 devices"):
        parallel.check_batch_size(24, 1, 5)


def test_make_engine_names_the_choices():
    with pytest.raises(UserError, match='"mesh" or "pmap"'):
        parallel.make_engine("shard", lambda s, b: (s, b))


ENGINES = """
    import jax, jax.numpy as jnp, numpy as np, functools, optax
    from tests.training import step_test as t
    from homae_jax.training import parallel
    assert jax.device_count() == 4
    found = {}
    for name in ("mesh", "pmap"):
        state, batch, step = t.make(num=8)
        engine = parallel.make_engine(name, step)
        on_device = engine.put_state(state)
        for _ in range(5):
            on_device, _ = engine.step(on_device, engine.put_batch(batch))
        found[name] = np.asarray(engine.get_state(on_device).params["w"])
    state, batch, step = t.make(num=8)
    for _ in range(5):
        state, _ = step(state, batch)
    for w in found.values():
        np.testing.assert_allclose(w, state.params["w"], rtol=1e-5)
    print("engines agree")
"""


def test_engines_on_four_devices_compute_what_one_does():
    env = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ENGINES)],
        env=env | {"PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "engines agree" in done.stdout, done.stderr[-2000:]
