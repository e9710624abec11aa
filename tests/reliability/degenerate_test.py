"""Samples that nothing can be learned from, through targets, network, loss, gradient.

A batch holds one of them beside a good one: nothing that comes out may be NaN.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from homae_jax.models.homae import Homae
from homae_jax.schema import Batch
from homae_jax.training.objective import make_loss_fn
from tests import toy

SWITCH_STEP = 5
QUICKLY = {"xla_backend_optimization_level": 0}  # to compile; to run, slowly
NOWHERE_PX = np.array([-900.0, -900.0, -890.0, -890.0], np.float32)
NUM_MIXTURES = 12


def move(batch: Batch, name: str, *, to: float) -> Batch:
    """Shifts the hand or the object along the optical axis, to a depth."""
    if name == "hand":
        shift = np.array([0, 0, to], np.float32) - np.asarray(batch.wrist[0])
        joints = batch.joints[0] + shift[None]
        return put(batch, wrist=batch.wrist[0] + shift, joints=joints)
    trans = np.array([0, 0, to], np.float32)
    return put(batch, object_trans=trans, object_center=trans)


def put(batch: Batch, **values) -> Batch:
    """Replaces fields of the first row."""
    changed = {
        name: getattr(batch, name).at[0].set(jnp.asarray(value))
        for name, value in values.items()
    }
    return batch._replace(**changed)


CASES = {
    "empty object box": lambda b: put(b, object_box_px=np.full(4, 30.0)),
    "turned object box": lambda b: put(b, object_box_px=np.array([40, 40, 20, 20.0])),
    "empty hand box": lambda b: put(b, hand_box_px=np.full(4, 30.0)),
    "boxes outside the picture": lambda b: put(
        b, object_box_px=NOWHERE_PX, hand_box_px=NOWHERE_PX
    ),
    "object behind the camera": lambda b: move(b, "object", to=-0.5),
    "object in the camera": lambda b: move(b, "object", to=0.0),
    "hand behind the camera": lambda b: move(b, "hand", to=-0.4),
    "hand in the camera": lambda b: move(b, "hand", to=0.0),
    "object a kilometre away": lambda b: move(b, "object", to=1000.0),
    "no hand": lambda b: put(
        b,
        has_hand=False,
        joints=np.full((21, 3), np.nan),
        hand_pose=np.full((16, 3), np.nan),
        hand_betas=np.full(10, np.nan),
    ),
    "no object": lambda b: put(
        b,
        has_object=False,
        object_rotmat=np.full((3, 3), np.nan),
        object_trans=np.full(3, np.nan),
    ),
    "no labels": lambda b: put(
        b, has_hand=False, has_object=False, has_segmentation=False
    ),
    "nothing visible": lambda b: put(b, segmentation=np.zeros((32, 32), np.uint8)),
    "padding": lambda b: put(b, is_real=False),
    "black": lambda b: put(b, image=np.zeros((64, 64, 3), np.uint8)),
    "white": lambda b: put(b, image=np.full((64, 64, 3), 255, np.uint8)),
    "no rotation": lambda b: put(
        b, hand_pose=np.zeros((16, 3)), object_rotmat=np.eye(3)
    ),
    "half a turn": lambda b: put(
        b,
        hand_pose=np.tile([np.pi, 0, 0], (16, 1)),
        object_rotmat=np.diag([1.0, -1.0, -1.0]),
    ),
    "joints in one point": lambda b: put(b, joints=np.tile([0, 0, 0.5], (21, 1))),
    "object of no area": lambda b: put(b, object_index=0),
}


def templates():
    """The first object has lost every face: all its triangles are one point."""
    both = toy.toy_templates()
    return both._replace(faces=both.faces.at[0].set(0))


def hand():
    """Half of the faces have no area."""
    mano = toy.toy_mano()
    return mano._replace(closed_faces=mano.closed_faces.at[::2].set(3))


@functools.cache
def compiled(object_sdf: str):
    """(batch, key, step) -> (loss, terms), gradients."""
    model, mano = Homae(**toy.toy_model_options()), hand()
    options = toy.toy_target_options() | {"object_sdf": object_sdf}
    loss_fn = make_loss_fn(
        model,
        mano=mano,
        templates=templates(),
        target_options=options,
        loss_options={
            "weights": common.get_config().losses.weights.to_dict(),
            "rotation": "matrix",
            "sdf_clamp": 0.15,
            "scale": 3.1,
        },
        jitter=(0.03, 0.05, 0.07),
        steps_per_epoch=10,
        switch_step=SWITCH_STEP,
        own_points_probability=1.0,
    )
    batch = toy.toy_batch(2)
    params = toy.toy_parameters(
        model,
        batch,
        mano,
        targets=toy.blank_targets(batch),
        own_points=False,
        mask_image=True,
        reconstruct=True,
    )["params"]
    gradient = jax.value_and_grad(loss_fn, has_aux=True)
    return jax.jit(functools.partial(gradient, params), compiler_options=QUICKLY)


def check(batch: Batch, object_sdf: str, *, own_points: bool, seed: int = 0) -> None:
    step = jnp.int32(SWITCH_STEP if own_points else 0)
    value, gradients = compiled(object_sdf)(batch, jax.random.key(seed), step)
    assert float(value[1]["own_points"]) == own_points
    chex.assert_tree_all_finite((value, gradients))
    size = sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(gradients))
    assert size > 0


@pytest.mark.parametrize("own_points", [False, True], ids=["given", "own"])
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_finite(case, own_points):
    check(CASES[case](toy.toy_batch(2)), "grid", own_points=own_points)


@pytest.mark.parametrize("seed", range(NUM_MIXTURES))
def test_loss_and_gradients_are_finite_when_all_comes_together(seed):
    rng = np.random.default_rng(seed)
    batch = toy.toy_batch(2, seed)
    for case in rng.choice(list(CASES), 5, replace=False):
        batch = CASES[case](batch)
    check(batch, "grid", own_points=bool(seed % 2), seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_finite_with_exact_distances(case):
    check(CASES[case](toy.toy_batch(2)), "exact", own_points=False)
