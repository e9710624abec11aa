"""Schedules and rates by part of the network."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from homae_jax.errors import UserError
from homae_jax.training import optimizer
from homae_jax.training.optimizer import (
    encoder_scales,
    learning_rate_schedule,
    make_optimizer,
)

PLAIN = {
    "b1": 0.9,
    "b2": 0.999,
    "weight_decay": 0.0,
    "clip_norm": 0.0,
    "encoder_lr_multiplier": 1.0,
    "encoder_layer_decay": 1.0,
    "freeze_encoder": False,
}


def toy_params() -> dict:
    kernel = jnp.full((2, 3), 0.5)
    block = {"kernel": kernel, "bias": jnp.ones(3)}
    vit = {"patch_embed": block, "blocks_0": block, "blocks_1": block, "norm": block}
    return {"vit": vit, "head": block}


def schedule(**changes):
    options = {
        "learning_rate": 1e-4,
        "schedule": "step",
        "decay": 0.7,
        "decay_epochs": 5,
        "warmup_steps": 0,
        "steps_per_epoch": 10,
        "num_steps": 600,
    }
    return learning_rate_schedule(**options | changes)


def one_update(**changes) -> tuple[dict, dict]:
    """Parameters before and after a step of Adam at rate 1 on gradients of 1."""
    params = toy_params()
    tx = make_optimizer(params, optax.constant_schedule(1.0), **PLAIN | changes)
    grads = jax.tree.map(jnp.ones_like, params)
    updates, _ = tx.update(grads, tx.init(params), params)
    return params, updates


@pytest.mark.parametrize(
    ("step", "epochs_done"), [(0, 0), (49, 4), (50, 5), (99, 9), (100, 10)]
)
def test_learning_rate_schedule_matches_the_paper(step, epochs_done):
    expected = 1e-4 * 0.7 ** (epochs_done // 5)
    assert float(schedule()(step)) == pytest.approx(expected)


def test_learning_rate_schedule_warms_up_from_the_first_step():
    rate = schedule(warmup_steps=4, schedule="constant")
    found = [float(rate(step)) for step in range(6)]
    assert found == pytest.approx([0.25e-4, 0.5e-4, 0.75e-4, 1e-4, 1e-4, 1e-4])


def test_learning_rate_schedule_falls_as_a_cosine_to_the_end():
    rate = schedule(schedule="cosine", warmup_steps=100)
    assert float(rate(99)) == pytest.approx(1e-4)
    assert float(rate(350)) == pytest.approx(0.5e-4)
    assert float(rate(600)) == pytest.approx(0.0, abs=1e-12)


def test_learning_rate_schedule_raises_on_an_unknown_name():
    with pytest.raises(UserError, match=r"\"step\", \"cosine\" or"):
        schedule(schedule="linear")


def test_make_optimizer_is_adam():
    params = toy_params()
    tx = make_optimizer(params, optax.constant_schedule(1e-3), **PLAIN)
    adam = optax.adam(1e-3)
    ours, theirs = tx.init(params), adam.init(params)
    rng = np.random.default_rng(0)
    for _ in range(3):
        grads = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), params)
        ours_update, ours = tx.update(grads, ours, params)
        theirs_update, theirs = adam.update(grads, theirs, params)
        for a, b in zip(
            *map(jax.tree.leaves, (ours_update, theirs_update)), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-6)


def test_make_optimizer_treats_arrays_of_all_sizes_as_optax_does():
    sizes = [(), (500, 3), (1,), (64, 64), (7,), (2, 3, 4), (30,), (900,)]
    sizes += [(11, number) for number in range(1, 12)]
    rng = np.random.default_rng(0)
    params = {
        f"p{n}": jnp.asarray(rng.normal(size=s), jnp.float32)
        for n, s in enumerate(sizes)
    }
    options = PLAIN | {"clip_norm": 0.5}
    ours = make_optimizer(params, optax.constant_schedule(1e-3), **options)
    theirs = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(1e-3))
    states = ours.init(params), theirs.init(params)
    assert len(jax.tree.leaves(states[0])) < len(sizes)
    for step in range(3):
        grads = jax.tree.map(lambda p, n=step: jnp.sin(p + n), params)
        found, state = ours.update(grads, states[0], params)
        expected, other = theirs.update(grads, states[1], params)
        states = state, other
        for name in params:
            np.testing.assert_allclose(found[name], expected[name], rtol=2e-5)


def test_make_optimizer_decays_matrices_only():
    _, plain = one_update()
    _, decayed = one_update(weight_decay=0.1)
    np.testing.assert_allclose(
        decayed["head"]["kernel"] - plain["head"]["kernel"], -0.05, rtol=1e-4
    )
    np.testing.assert_allclose(decayed["head"]["bias"], plain["head"]["bias"])


@pytest.mark.parametrize("freeze_encoder", [False, True])
def test_betas_fall_to_the_floor_and_rise_again(freeze_encoder):
    params = toy_params() | {"fusion_hand": {"beta": jnp.float32(0.1)}}
    options = PLAIN | {"freeze_encoder": freeze_encoder, "beta_floor": 2e-3}
    tx = make_optimizer(params, optax.constant_schedule(0.04), **options)
    state, seen = tx.init(params), []
    for step in range(60):
        slope = 1.0 if step < 30 else -1.0
        grads = jax.tree.map(lambda p, s=slope: jnp.full_like(p, s), params)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(float(params["fusion_hand"]["beta"]))
    assert seen[1] == pytest.approx(0.02, abs=1e-4)
    assert seen[5:30] == pytest.approx([2e-3] * 25)
    assert seen[-1] > 0.1  # from the floor, not from where it would have fallen to
    assert float(params["head"]["bias"][0]) < 1.0


def test_only_kernels_are_decayed():
    """Biases of attention have two axes, tokens and embeddings three."""
    params = {
        "query": {"kernel": jnp.zeros((4, 2, 2)), "bias": jnp.zeros((2, 2))},
        "vit": {"cls_token": jnp.zeros((1, 1, 4))},
    }
    assert optimizer._is_kernel(params) == {
        "query": {"kernel": True, "bias": False},
        "vit": {"cls_token": False},
    }


def test_make_optimizer_clips_the_global_norm():
    params = toy_params()
    tx = make_optimizer(
        params, optax.constant_schedule(1.0), **PLAIN | {"clip_norm": 1.0}
    )
    _, state = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    norm = optax.tree.norm(optax.tree_utils.tree_get(state, "mu")) / 0.1
    assert float(norm) == pytest.approx(1.0, rel=1e-5)


def test_encoder_scales_decay_towards_the_image():
    scales = encoder_scales(toy_params(), multiplier=0.5, layer_decay=0.1)
    found = {name: scales["vit"][name]["bias"] for name in scales["vit"]}
    assert found == pytest.approx(
        {"norm": 0.5, "blocks_1": 0.05, "blocks_0": 0.005, "patch_embed": 0.0005}
    )
    assert scales["head"]["kernel"] == 1.0


def test_make_optimizer_gives_the_encoder_its_own_rate():
    _, updates = one_update(encoder_lr_multiplier=0.25)
    np.testing.assert_allclose(updates["vit"]["norm"]["bias"], -0.25, rtol=1e-4)
    np.testing.assert_allclose(updates["head"]["bias"], -1.0, rtol=1e-4)


def test_make_optimizer_leaves_a_frozen_encoder_alone_and_keeps_no_moments_of_it():
    params, updates = one_update(freeze_encoder=True, weight_decay=0.1)
    assert not any(jnp.any(leaf) for leaf in jax.tree.leaves(updates["vit"]))
    assert all(jnp.all(leaf) for leaf in jax.tree.leaves(updates["head"]))
    tx = make_optimizer(
        params, optax.constant_schedule(1.0), **PLAIN | {"freeze_encoder": True}
    )
    num_moments = sum(leaf.size for leaf in jax.tree.leaves(tx.init(params)))
    num_head = sum(leaf.size for leaf in jax.tree.leaves(params["head"]))
    assert num_moments <= 2 * num_head + 2
