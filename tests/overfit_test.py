"""Eight frames, learnt by heart through the whole of it.

Pictures on disk -> reader -> crops -> masking -> network -> its own points -> heads ->
losses -> metrics: an error of frame, unit, order or sign anywhere keeps the last
millimetres from going. It takes minutes: `bash launch/test.sh --slow`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import synthetic
from homae_jax import assembly
from homae_jax.geometry import rotations
from homae_jax.synthesize import synthesize
from homae_jax.training import objective, optimizer
from homae_jax.training.state import create_state
from homae_jax.training.step import train_step

NUM_FRAMES = 8
NUM_STEPS = 300
TOLERANCE_MM = 5.0
TOLERANCE_DEG = 20.0


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    synthesize(root, NUM_FRAMES, 1, views_per_grasp=2, view_cone_deg=30.0)
    c = synthetic.get_config()
    c.model.dtype = "float32"
    c.data.root = str(root)
    c.train.batch_size = NUM_FRAMES
    c.evaluate.batch_size = NUM_FRAMES
    return c


def learnt_state(config, parts, batch):
    """The state after `NUM_STEPS` steps on one batch, masked anew at each."""
    rate = optimizer.learning_rate_schedule(
        learning_rate=1e-3,
        schedule="cosine",
        decay=1.0,
        decay_epochs=1,
        warmup_steps=20,
        steps_per_epoch=1,
        num_steps=NUM_STEPS,
    )
    options = config.optimizer.to_dict()
    names = ("b1", "b2", "weight_decay", "clip_norm")
    params = assembly.initial_params(config, parts)
    tx = optimizer.make_optimizer(
        params,
        rate,
        encoder_lr_multiplier=1.0,
        encoder_layer_decay=1.0,
        freeze_encoder=False,
        **{name: options[name] for name in names},
    )
    loss_fn = objective.make_loss_fn(
        parts.model,
        mano=parts.mano,
        templates=parts.templates,
        target_options=assembly.target_options(config),
        loss_options=assembly.loss_options(config),
        jitter=config.targets.point_jitter,
        steps_per_epoch=1,
        switch_step=0,
        own_points_probability=1.0,
    )
    step = functools.partial(train_step, loss_fn=loss_fn, tx=tx, rate=rate)
    step = jax.jit(step, donate_argnums=0)
    state = create_state(params, tx, config.seed)
    for _ in range(NUM_STEPS):
        state, _ = step(state, batch)
    return state


@pytest.mark.slow
def test_eight_frames_are_learnt_by_heart(config):
    parts = assembly.build_parts(config)
    source = assembly.build_source(config, "train")
    rows = np.arange(NUM_FRAMES)
    batches = assembly.build_eval_batches(config, source, rows, parts.object_names)
    batch = jax.tree.map(jnp.asarray, next(batches))
    state = learnt_state(config, parts, batch)

    answer = jax.jit(lambda p, b: parts.model.apply({"params": p}, b, parts.mano))
    outputs = answer(state.params, batch)
    joints = outputs.joints - outputs.joints[:, :1]
    gt_joints = batch.joints - batch.joints[:, :1]
    mje_mm = 1e3 * jnp.mean(jnp.linalg.norm(joints - gt_joints, axis=-1))
    away = outputs.object_trans - batch.object_trans
    oce_mm = 1e3 * jnp.mean(jnp.linalg.norm(away, axis=-1))
    rotmat = jnp.swapaxes(batch.object_rotmat, -1, -2) @ outputs.object_rotmat
    turned = jnp.linalg.norm(rotations.rotmat_to_aa(rotmat), axis=-1)
    turned_deg = jnp.degrees(jnp.mean(turned))
    print(
        f"MJE {mje_mm:.2f} mm, OCE {oce_mm:.2f} mm, object rotation "
        f"{turned_deg:.1f} deg after {NUM_STEPS} steps"
    )
    assert float(mje_mm) < TOLERANCE_MM
    assert float(oce_mm) < TOLERANCE_MM
    assert float(turned_deg) < TOLERANCE_DEG
