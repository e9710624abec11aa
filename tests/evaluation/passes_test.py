"""The passes against the network's own outputs; no label leaks into an answer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homae_jax.evaluation import passes
from homae_jax.models.homae import Homae
from tests import toy

KEY = jax.random.key(0)
MODEL = Homae(**toy.toy_model_options())


@pytest.fixture(scope="module")
def setup():
    batch, mano = toy.toy_batch(), toy.toy_mano()
    targets = toy.toy_targets(batch)
    rngs = {"params": KEY, "mask": KEY}
    options = {"own_points": False, "mask_image": True, "reconstruct": True}
    init = jax.jit(
        lambda: MODEL.init(rngs, batch, mano, targets=targets, **options)["params"]
    )
    return init(), batch, mano, targets


def test_predict_is_the_networks_answer_and_ignores_labels(setup):
    params, batch, mano, _ = setup
    predict = passes.jitted(passes.predict, model=MODEL)
    blank = batch._replace(
        joints=jnp.full_like(batch.joints, jnp.nan),
        object_trans=jnp.full_like(batch.object_trans, jnp.nan),
    )
    answer = predict(params, batch, mano)
    for a, b in zip(answer, predict(params, blank, mano), strict=True):
        np.testing.assert_array_equal(a, b)
    out = jax.jit(MODEL.apply)({"params": params}, batch, mano)
    np.testing.assert_allclose(answer.joints, out.joints, atol=1e-6)
    np.testing.assert_allclose(answer.object_trans, out.object_trans, atol=1e-6)


def test_signed_distances_match_the_training_pass(setup):
    params, batch, mano, targets = setup
    ask = passes.jitted(passes.signed_distances, model=MODEL)
    scale = MODEL.points["scale"]
    asked = (targets.hand_sdf_points_norm, targets.object_sdf_points_norm)
    hand, obj = ask(params, batch, mano, *(points / scale for points in asked))
    call = jax.jit(
        lambda p: MODEL.apply(
            {"params": p}, batch, mano, targets=targets, own_points=False
        )
    )
    out = call(params)
    np.testing.assert_allclose(hand * scale, out.hand_sdf_norm, atol=1e-5)
    np.testing.assert_allclose(obj * scale, out.object_sdf_norm, atol=1e-5)


def test_reconstruct_masks_as_told_and_decodes_an_image(setup):
    params, batch, mano, _ = setup
    run = passes.jitted(passes.reconstruct, model=MODEL)
    one, two = run(params, batch, mano, KEY), run(params, batch, mano, KEY)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    assert one.patch_mask.sum(axis=(1, 2)).tolist() == [4, 4]
    pixels = np.repeat(np.repeat(one.patch_mask, 16, 1), 16, 2)
    change = np.abs(np.asarray(one.masked_image - one.clean_image)).max(-1)
    np.testing.assert_array_equal(change > 1e-4, pixels)
    assert one.image.shape == batch.image.shape
