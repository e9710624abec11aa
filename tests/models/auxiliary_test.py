"""The auxiliary head: off by default, learns, and knows cameras from pictures."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import common
from homae_jax import losses, scoring
from homae_jax.errors import UserError
from homae_jax.evaluation import passes
from homae_jax.geometry import camera
from homae_jax.models.auxiliary import NUM_OBJECTS, AuxiliaryHead, focal_in_sides
from homae_jax.models.homae import Homae
from homae_jax.schema import Located, Scene, Targets
from tests import toy

KEY = jax.random.key(0)


def batch_with_scene():
    batch = toy.toy_batch()
    scene = Scene(batch.image, batch.intrinsics, batch.hand_box_px, batch.object_box_px)
    return batch._replace(scene=scene)


def perfect(batch, view):
    wrist_px = camera.project(batch.wrist[:, None], view.intrinsics)[:, 0]
    focal = focal_in_sides(view.intrinsics, view.image.shape[-2])
    return Located(
        hand_box_px=view.hand_box_px,
        object_box_px=view.object_box_px,
        wrist_px=wrist_px,
        wrist_log_depth=jnp.log(batch.wrist[:, 2] / focal),
        wrist=batch.wrist,
        object_logits=100.0 * jax.nn.one_hot(batch.object_index, NUM_OBJECTS),
    )


class Found:
    """The part of Outputs that the auxiliary losses read."""

    def __init__(self, located, scene_located=None):
        self.located, self.scene_located = located, scene_located


def auxiliary_losses(*located, batch):
    # Outputs has thirty fields and the function reads two of them.
    return losses.auxiliary_losses.__wrapped__(Found(*located), batch)


def points_only(num=2):
    """Targets with nothing but points: they spare the search of the surface."""
    points = jnp.zeros((num, 12, 3)), jnp.zeros((num, 8, 3))
    return Targets(*[None] * len(Targets._fields))._replace(
        hand_points_norm=points[0],
        object_points_norm=points[1],
        hand_sdf_points_norm=points[0],
        object_sdf_points_norm=points[1],
    )


def test_homae_answers_the_same_with_the_auxiliary_head():
    batch, mano = batch_with_scene(), toy.toy_mano()
    call = {"targets": points_only(), "own_points": False}
    model = Homae(**toy.toy_model_options(), auxiliary=True)
    variables = toy.toy_parameters(model, batch, mano, reconstruct=True, **call)
    full = jax.jit(lambda v: model.apply(v, batch, mano, **call))(variables)
    params = {k: v for k, v in variables["params"].items() if k != "locator"}
    plain = Homae(**toy.toy_model_options())
    bare = jax.jit(lambda v: plain.apply(v, batch, mano, **call))({"params": params})
    np.testing.assert_allclose(full.joints, bare.joints, atol=1e-6)
    assert bare.located is None and full.scene_located is not None
    assert full.located.object_logits.shape == (2, NUM_OBJECTS)
    located = model.apply(variables, batch.image, batch.intrinsics, method="locate")
    np.testing.assert_allclose(located.wrist, full.located.wrist, atol=1e-5)


def test_auxiliary_losses_are_zero_for_the_truth():
    batch = batch_with_scene()
    truth = perfect(batch, batch), perfect(batch, batch.scene)
    terms = auxiliary_losses(*truth, batch=batch)
    assert set(terms) == set(losses.GROUPS["auxiliary"])
    np.testing.assert_allclose(list(terms.values()), 0.0, atol=1e-5)


def test_auxiliary_losses_match_a_worked_example():
    """A box 8 px off of 64, depth 10 % off: means over crop (off) and scene (true)."""
    batch = batch_with_scene()
    truth = perfect(batch, batch.scene)
    wrong = truth._replace(
        hand_box_px=truth.hand_box_px + 8.0,
        wrist_log_depth=truth.wrist_log_depth + np.float32(np.log(1.1)),
    )
    terms = auxiliary_losses(wrong, truth, batch=batch)
    np.testing.assert_allclose(terms["aux_hand_box"], 0.5 * 8 / 64, rtol=1e-4)
    np.testing.assert_allclose(terms["aux_wrist_depth"], 0.5 * np.log(1.1), rtol=1e-4)
    np.testing.assert_allclose(terms["aux_object_box"], 0.0, atol=1e-6)


def test_auxiliary_losses_are_absent_without_the_head():
    assert auxiliary_losses(None, None, batch=toy.toy_batch()) == {}


def test_auxiliary_head_depth_scales_with_the_focal_length():
    """The same features under twice the focal length lie twice as far away."""
    head = AuxiliaryHead(image_size=64, width=16)
    features = jax.random.normal(KEY, (1, 4, 4, 8))
    near = jnp.array([[[100.0, 0, 31.5], [0, 100.0, 31.5], [0, 0, 1.0]]])
    far = near.at[:, :2, :2].multiply(2.0)
    variables = head.init(KEY, features, near)
    a, b = (head.apply(variables, features, k) for k in (near, far))
    np.testing.assert_allclose(2 * a.wrist[:, 2], b.wrist[:, 2], rtol=1e-5)
    np.testing.assert_allclose(a.wrist_px, b.wrist_px)
    back = camera.project(b.wrist[:, None], far)[:, 0]
    np.testing.assert_allclose(back, b.wrist_px, atol=1e-3)


def test_auxiliary_head_attends_no_more_roughly_where_products_are_rough():
    head, features = AuxiliaryHead(64), jnp.ones((2, 4, 4, 8))
    cameras = jnp.broadcast_to(jnp.eye(3), (2, 3, 3))
    params = head.init(KEY, features, cameras)
    program = str(jax.make_jaxpr(head.apply)(params, features, cameras))
    (place,) = re.findall(r":f32\[2,3,2\] = dot_general\[(.*?)preferred", program, re.S)
    assert "Precision.HIGHEST" in place


@pytest.mark.parametrize("turn", [0.0, 0.7])
def test_focal_in_sides_does_not_change_with_a_turn(turn):
    k = np.array([[120.0, 0, 30], [0, 110.0, 30], [0, 0, 1]])
    affine = camera.crop_affine(np.array([30.0, 30.0]), 64.0, 64, turn)
    turned = jnp.asarray(camera.crop_intrinsics(affine, k, turn), jnp.float32)
    expected = np.sqrt(120.0 * 110.0) / 64
    np.testing.assert_allclose(focal_in_sides(turned, 64), expected, rtol=1e-5)


def test_auxiliary_head_learns_where_a_bright_square_lies():
    """Boxes follow the place of the only cells that differ, to half a cell."""
    grid, size = 8, 64
    head = AuxiliaryHead(image_size=size, width=32)
    corner = jax.random.randint(KEY, (64, 2), 0, grid - 1)
    cells = jnp.arange(grid)
    inside = (cells[None, None] >= corner[..., None]) & (
        cells[None, None] < corner[..., None] + 2
    )
    features = (inside[:, 1, :, None] & inside[:, 0, None, :]).astype(jnp.float32)
    features = jnp.repeat(features[..., None], 4, axis=-1)
    box = jnp.concatenate([corner, corner + 2], axis=-1) * (size / grid)
    k = jnp.broadcast_to(
        jnp.array([[64.0, 0, 32], [0, 64.0, 32], [0, 0, 1]]), (64, 3, 3)
    )
    params, tx = head.init(KEY, features, k), optax.adam(1e-2)

    def loss(params):
        return jnp.mean(jnp.abs(head.apply(params, features, k).hand_box_px - box))

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    train = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), length=300)[0][0])
    assert float(loss(params)) > 8.0
    assert float(loss(train(params))) < 4.0


class Finder:
    """Finds what it was told to, in place of a network."""

    def __init__(self, located):
        self._located = located

    def apply(self, variables, image, intrinsics, method):
        assert method == "locate"
        return self._located


@pytest.mark.parametrize("depth", [None, 0.7])
def test_with_found_puts_the_found_in_the_labels_place(depth):
    batch = toy.toy_batch()
    truth = perfect(batch, batch)
    box = jnp.array([[10.0, 20.0, 31.0, 40.0], [0.0, 0.0, 8.0, 8.0]])
    located = truth._replace(wrist=batch.wrist + 0.1, object_box_px=box)
    found = passes.with_found(
        {},
        batch,
        model=Finder(located),
        found=("root", "boxes", "object_center"),
        center_depth=depth,
    )
    np.testing.assert_array_equal(found.wrist, located.wrist)
    np.testing.assert_array_equal(found.object_box_px, box)
    np.testing.assert_array_equal(found.hand_box_px, batch.hand_box_px)
    expected = located.wrist[:, 2] if depth is None else depth
    np.testing.assert_allclose(found.object_center[:, 2], expected, rtol=1e-6)
    pixels = camera.project(found.object_center[:, None], batch.intrinsics)[:, 0]
    np.testing.assert_allclose(pixels, [[20.0, 30.0], [4.0, 4.0]], atol=1e-3)
    only = passes.with_found(
        {}, batch, model=Finder(located), found=("root",), center_depth=depth
    )
    np.testing.assert_array_equal(only.object_box_px, batch.object_box_px)


def test_found_options_refuse_a_model_without_the_head():
    config = common.get_config()
    assert scoring.found_options(config)["found"] == ()
    config.protocol.root = "predicted"
    with pytest.raises(UserError, match="trained without auxiliary heads"):
        scoring.found_options(config)
    config.model.auxiliary = True
    assert scoring.found_options(config)["found"] == ("root",)
