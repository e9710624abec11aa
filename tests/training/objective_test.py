"""The loss of a batch: what it is made of, and what its options leave out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from homae_jax.models.homae import Homae
from homae_jax.training.objective import make_loss_fn
from tests import toy

SWITCH_STEP = 5
QUICKLY = {"xla_backend_optimization_level": 0}  # to compile; to run, slowly


@functools.cache
def toy_model() -> Homae:
    return Homae(**toy.toy_model_options())


@functools.cache
def toy_inputs():
    """Parameters and a batch."""
    batch, mano = toy.toy_batch(2), toy.toy_mano()
    variables = toy.toy_parameters(
        toy_model(),
        batch,
        mano,
        targets=toy.blank_targets(batch),
        own_points=False,
        mask_image=True,
        reconstruct=True,
    )
    return variables["params"], batch


def loss_fn(**changes):
    weights = common.get_config().losses.weights.to_dict()
    options = {
        "mano": toy.toy_mano(),
        "templates": toy.toy_templates(),
        "target_options": toy.toy_target_options() | {"object_sdf": "grid"},
        "loss_options": {
            "weights": weights,
            "rotation": "matrix",
            "sdf_clamp": 0.15,
            "scale": 3.1,
        },
        "jitter": (0.03, 0.05, 0.07),
        "steps_per_epoch": 10,
        "switch_step": SWITCH_STEP,
        "own_points_probability": 0.5,
    }
    return make_loss_fn(toy_model(), **options | changes)


@functools.cache
def compiled_loss():
    return jax.jit(loss_fn(), compiler_options=QUICKLY)


def terms_at(step: int, seed: int) -> dict:
    params, batch = toy_inputs()
    loss, terms = compiled_loss()(params, batch, jax.random.key(seed), jnp.int32(step))
    assert float(loss) == float(terms["loss"])
    return {name: float(value) for name, value in terms.items()}


def test_loss_is_finite_and_names_its_terms():
    terms = terms_at(0, seed=0)
    assert all(np.isfinite(value) for value in terms.values())
    wanted = {"rec", "mano_pose", "obj_rotation", "sdf_hand", "vertices", "mje_mm"}
    assert wanted <= terms.keys()


def test_loss_depends_on_the_key_alone():
    assert terms_at(0, seed=1) == terms_at(0, seed=1)
    assert terms_at(0, seed=1)["rec"] != terms_at(0, seed=2)["rec"]  # masks
    assert terms_at(0, seed=1)["sdf_hand"] != terms_at(0, seed=2)["sdf_hand"]  # points


def test_own_points_are_used_from_the_switch_on_with_the_probability_given():
    before = [terms_at(SWITCH_STEP - 1, seed)["own_points"] for seed in range(4)]
    after = [terms_at(SWITCH_STEP, seed)["own_points"] for seed in range(24)]
    assert before == [0.0] * 4
    assert 4 <= sum(after) <= 20


def test_the_batch_is_recoloured_before_anything_sees_it():
    params, batch = toy_inputs()

    def darken(key, batch):
        del key
        return batch._replace(image=batch.image // 2)

    inputs = jax.random.key(0), jnp.int32(0)
    darkening = jax.jit(loss_fn(recolour=darken), compiler_options=QUICKLY)
    loss, _ = darkening(params, batch, *inputs)
    wanted, _ = compiled_loss()(params, darken(None, batch), *inputs)
    plain, _ = compiled_loss()(params, batch, *inputs)
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    assert abs(float(loss) - float(plain)) > 1e-3


@pytest.mark.slow
def test_frozen_parts_get_no_gradient():
    params, batch = toy_inputs()
    loss = loss_fn(frozen=("vit",), own_points_probability=0.0)
    gradient = jax.jit(jax.grad(loss, has_aux=True), compiler_options=QUICKLY)
    grads, _ = gradient(params, batch, jax.random.key(0), jnp.int32(0))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads["vit"]))
    for name in params.keys() - {"vit"}:
        leaves = jax.tree.leaves(grads[name])
        assert any(np.any(leaf) for leaf in leaves), name
        assert all(np.all(np.isfinite(leaf)) for leaf in leaves), name
