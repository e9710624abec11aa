"""The whole network on toy inputs: shapes, switches, and what may influence what."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homae_jax import losses
from homae_jax.geometry import rotations
from homae_jax.models import points
from homae_jax.models.homae import (
    Homae,
    aggregate_rotation,
    normalise_image,
    round_params,
)
from tests import toy

KEY = jax.random.key(0)


def options(**changes):
    base = toy.toy_model_options()
    for section, values in changes.items():
        base[section] = {**base[section], **values}
    return base


@functools.cache
def toy_targets():
    return toy.toy_targets(toy.toy_batch(), jitter=0.03)


@functools.cache
def run_plain(own_points):
    return run(toy.toy_model_options(), own_points=own_points)


def run(model_options, *, train=True, own_points=False, **keywords):
    batch, mano = toy.toy_batch(), toy.toy_mano()
    model = Homae(**model_options)
    rngs = {"params": KEY, "mask": KEY, "dropout": KEY}
    call = {
        "targets": toy_targets(),
        "own_points": own_points,
        "train": train,
        "mask_image": train,
        "reconstruct": train,
        **keywords,
    }
    variables = toy.toy_parameters(model, batch, mano, **call)
    # Not compiled as a whole: the operations of one switch serve the others.
    out = model.apply(variables, batch, mano, **call, rngs=rngs)
    return out, variables, model


def test_homae_training_outputs_have_the_schemas_shapes():
    out, _, _ = run_plain(False)
    assert out.image.shape == (2, 64, 64, 3)
    assert out.patch_mask.sum(axis=(1, 2)).tolist() == [4, 4]
    assert out.hand_sdf_norm.shape == (2, 10)
    assert out.hand_rotmat.shape == (2, 2, 16, 3, 3)
    assert out.vote_logits.shape == (2, 2, 12, 20)
    assert out.object_trans_root.shape == (1, 2, 8, 3)
    chex.assert_tree_all_finite(out)


def test_homae_inference_needs_no_label_of_pose():
    batch, mano = toy.toy_batch(), toy.toy_mano()
    _, variables, model = run_plain(False)
    blank = batch._replace(
        joints=jnp.full_like(batch.joints, jnp.nan),
        hand_pose=jnp.full_like(batch.hand_pose, jnp.nan),
        object_rotmat=jnp.full_like(batch.object_rotmat, jnp.nan),
        object_trans=jnp.full_like(batch.object_trans, jnp.nan),
        object_index=jnp.zeros_like(batch.object_index),
    )
    full, bare = (
        jax.jit(lambda v, b: model.apply(v, b, mano))(variables, b)
        for b in (batch, blank)
    )
    chex.assert_trees_all_equal(full, bare)
    assert full.image is None and full.hand_sdf_norm is None


def test_homae_traced_own_points_choose_between_both_kinds():
    batch, mano = toy.toy_batch(), toy.toy_mano()
    _, variables, model = run_plain(False)
    targets = toy_targets()

    @jax.jit
    def points(own):
        out = model.apply(variables, batch, mano, targets=targets, own_points=own)
        return out.hand_points_norm

    np.testing.assert_array_equal(points(jnp.array(False)), targets.hand_points_norm)
    own = model.apply(variables, batch, mano).hand_points_norm
    np.testing.assert_allclose(points(jnp.array(True)), own, atol=1e-5)


def test_inference_reads_the_pose_from_the_samplers_points_and_distances():
    """Handed over as points of the pose, they give the same, distances asked anew."""
    batch, mano = toy.toy_batch(), toy.toy_mano()
    _, variables, _ = run_plain(False)
    model = Homae(**options(points={"sampler": "coarse_to_fine"}))
    own = jax.jit(lambda v: model.apply(v, batch, mano))(variables)
    targets = toy_targets()._replace(
        hand_points_norm=own.hand_points_norm,
        object_points_norm=own.object_points_norm,
    )
    given = jax.jit(
        lambda v: model.apply(v, batch, mano, targets=targets, own_points=False)
    )(variables)
    for key in ("hand_points_sdf_norm", "object_points_sdf_norm", "joints"):
        np.testing.assert_allclose(
            getattr(own, key), getattr(given, key), atol=1e-5, err_msg=key
        )


def test_training_does_not_differentiate_the_search(monkeypatch):
    @jax.custom_jvp
    def constant(values):
        return values

    @constant.defjvp
    def refuse(values, tangents):
        raise AssertionError("the search is differentiated")

    def sample(sdf, *arguments, **keywords):
        calls.append(sdf)
        return search(lambda points: constant(sdf(points)), *arguments, **keywords)

    calls, search = [], points.sample_dense
    monkeypatch.setattr(points, "sample_dense", sample)
    batch, mano = toy.toy_batch(), toy.toy_mano()
    _, variables, _ = run_plain(False)
    model = Homae(**options(points={"sampler": "dense"}))

    def total(variables, own):
        out = model.apply(
            variables,
            batch,
            mano,
            targets=toy_targets(),
            own_points=own,
            train=True,
            rngs={"dropout": KEY},
        )
        return jnp.sum(out.joints) + jnp.sum(out.object_trans)

    jax.eval_shape(jax.grad(total), variables, jnp.array(True))
    assert len(calls) == 2  # hand and object


def test_rounded_factors_change_no_bit_of_the_answer():
    batch, mano = toy.toy_batch(), toy.toy_mano()
    _, variables, _ = run_plain(False)
    model = Homae(**toy.toy_model_options() | {"dtype": "bfloat16"})
    params = variables["params"]
    rounded = round_params(params, "bfloat16")
    dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves(rounded)}
    assert dtypes == {"float32", "bfloat16"}
    apply = jax.jit(lambda params: model.apply({"params": params}, batch, mano))
    chex.assert_trees_all_equal(apply(rounded), apply(params))
    chex.assert_trees_all_equal(round_params(params, "float32"), params)


def test_rounded_factors_change_no_bit_of_what_a_picture_does_not_come_with():
    """The auxiliary head's last products run in float32."""
    batch = toy.toy_batch()
    changes = {"dtype": "bfloat16", "auxiliary": True}
    model = Homae(**toy.toy_model_options() | changes)
    locate = functools.partial(model.apply, method="locate")
    arguments = batch.image, batch.intrinsics
    params = model.init(KEY, *arguments, method="locate")["params"]
    rounded = round_params(params, "bfloat16")
    assert rounded["locator"]["token"]["kernel"].dtype == jnp.bfloat16
    found, expected = (
        jax.jit(locate)({"params": each}, *arguments) for each in (rounded, params)
    )
    chex.assert_trees_all_equal(found, expected)


SWITCHES = [
    {"mask": {"enabled": False}},
    {"mask": {"target": "hand_object", "fill": "zero"}},
    {"mask": {"target": "uniform", "fill": "mean", "num_patches": 8}},
    {"decoder": {"multiscale": False}},
    {"fusion": {"explicit": False}},
    {"fusion": {"sdf_sign": -1}},
    {"heads": {"object_rotation": "axis_angle"}},
    {"heads": {"cross_points": True}},
]


def answers_of(changes, *, own_points):
    """What a switch makes of the poses, and what they are without it."""
    changed, _, _ = run(options(**changes), own_points=own_points)
    plain, _, _ = run_plain(own_points)
    chex.assert_tree_all_finite(changed)
    pairs = [(x.object_trans, x.object_rotmat, x.joints) for x in (changed, plain)]
    return zip(*pairs, strict=True)


@pytest.mark.parametrize("switch", SWITCHES, ids=str)
def test_homae_switches_work_and_change_the_answer(switch):
    answers = answers_of(switch, own_points=False)
    assert any(not np.allclose(a, b, atol=1e-7) for a, b in answers)


def test_coarse_to_fine_answers_as_dense_while_enough_is_refined():
    sampler = {"sampler": "coarse_to_fine", "refine_share": 0.5}
    for fine, dense in answers_of({"points": sampler}, own_points=True):
        np.testing.assert_allclose(fine, dense, atol=1e-6)
    sampler["refine_share"] = 0.01
    answers = answers_of({"points": sampler}, own_points=True)
    assert any(not np.allclose(a, b, atol=1e-7) for a, b in answers)


@functools.cache
def gradients_in(dtype):
    """Of all losses together, by parameters that do not depend on the dtype."""
    batch, mano, targets = toy.toy_batch(), toy.toy_mano(), toy_targets()
    _, variables, _ = run_plain(False)
    model = Homae(**toy.toy_model_options() | {"dtype": dtype})
    weights = dict.fromkeys(
        [*losses.GROUPS, *(n for g in losses.GROUPS.values() for n in g)], 1.0
    )

    def loss(params):
        out = model.apply(
            {"params": params},
            batch,
            mano,
            targets=targets,
            own_points=False,
            train=True,
            mask_image=True,
            reconstruct=True,
            rngs={"mask": KEY, "dropout": KEY},
        )
        return losses.total_loss(
            out, targets, batch, weights=weights, rotation="matrix", sdf_clamp=0.15,
            scale=3.1,
        )[0]  # fmt: skip

    return jax.jit(jax.grad(loss))(variables["params"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_homae_gradients_are_finite_and_reach_every_parameter(dtype):
    gradients = gradients_in(dtype)
    chex.assert_tree_all_finite(gradients)
    chex.assert_trees_all_equal_dtypes(gradients, gradients_in("float32"))
    flat, _ = jax.tree_util.tree_flatten_with_path(gradients)
    dead = [jax.tree_util.keystr(path) for path, g in flat if not jnp.any(g != 0)]
    # A softmax ignores what is added to all keys; the queries' content starts at zero.
    untouched = ("['key']['bias']", "['decoder_0']['self']")
    assert not [d for d in dead if not any(u in d for u in untouched)]


def test_homae_gradients_in_bfloat16_point_the_same_way():
    low, high = (
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(gradients_in(dtype))])
        for dtype in ("bfloat16", "float32")
    )
    cosine = low @ high / (np.linalg.norm(low) * np.linalg.norm(high))
    assert 0.99 < cosine < 1.0 - 1e-7


def test_normalise_image_matches_imagenet_statistics():
    image = jnp.full((1, 1, 1, 3), 255, jnp.uint8)
    expected = (1 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(normalise_image(image)[0, 0, 0], expected, rtol=1e-5)


def test_aggregate_rotation_is_the_common_vote():
    rotmat = rotations.random_rotmat(KEY, (3,))
    votes = jnp.repeat(rotations.rotmat_to_rot6d(rotmat)[:, None], 5, axis=1)
    np.testing.assert_allclose(aggregate_rotation(votes), rotmat, atol=1e-5)
    aa = jnp.repeat(rotations.rotmat_to_aa(rotmat)[:, None], 5, axis=1)
    np.testing.assert_allclose(aggregate_rotation(aa), rotmat, atol=1e-5)
