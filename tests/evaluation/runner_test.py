"""The runner on toys: what reaches the result, what is probed, what is kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homae_jax.evaluation import evaluator, passes
from homae_jax.evaluation.runner import (
    PROBES,
    SLICE_SIDE,
    ModelRunner,
    spread,
)
from homae_jax.geometry import rotations
from homae_jax.hand.mano import mano_forward
from homae_jax.models.homae import Homae
from tests import toy

KEY = jax.random.key(0)
MODEL = Homae(**toy.toy_model_options())


class Source:
    """Names for three frames."""

    def frame_name(self, i):
        return f"toy/{i}"

    def frame_info(self, i):
        return {"hand_visibility": 0.5, "object_visibility": np.nan}


def batches():
    """Three frames in two batches, the last row padding."""
    whole = jax.tree.map(np.asarray, toy.toy_batch(4))
    for rows in ([0, 1], [2, 3]):
        part = jax.tree.map(lambda x, rows=rows: x[rows], whole)
        yield part._replace(is_real=part.sample_index < 3)


def true_hand(batch):
    rotmat = rotations.aa_to_rotmat(jnp.asarray(batch.hand_pose))
    posed = mano_forward(
        toy.toy_mano(), rotmat, jnp.asarray(batch.hand_betas), fingertips="ho3d"
    )
    rooted = np.asarray(posed.vertices - posed.joints[:, :1])
    return evaluator.TrueHand(None, rooted + batch.wrist[:, None])


@pytest.fixture(scope="module")
def run():
    batch, mano, templates = toy.toy_batch(), toy.toy_mano(), toy.toy_templates()
    targets = toy.toy_targets(batch)
    rngs = {"params": KEY, "mask": KEY}
    options = {"own_points": False, "mask_image": True, "reconstruct": True}
    params = jax.jit(
        lambda: MODEL.init(rngs, batch, mano, targets=targets, **options)["params"]
    )()
    runner = ModelRunner(
        params,
        model=MODEL,
        mano=mano,
        templates=templates,
        true_hand=true_hand,
        near_sigma=0.01,
        has_masking=True,
    )
    runner.plan(probed_batches=[1], shown_samples=[1, 2, 3])
    trivial = evaluator.fit_trivial(
        np.zeros((1, 21, 3)),
        np.zeros((1, 778, 3)),
        np.eye(3)[None],
        np.zeros((1, 3)),
    )
    result = evaluator.evaluate(
        runner,
        batches(),
        source=Source(),
        templates=templates,
        object_names=("box", "ball"),
        trivial=trivial,
        dataset="synthetic",
    )
    return runner, result


def test_runner_scores_every_real_frame_once(run):
    _, result = run
    assert result["num_samples"] == 3
    for key in ("mje_mm", "oce_mm", "v_pe_mm", "add_s_mm"):
        assert result["metrics"][key] > 0 and result["baselines"][key] > 0


def test_runner_probes_reach_the_result_beside_the_trivial_values(run):
    runner, result = run
    assert runner.num_probed == 1
    for key in PROBES:
        assert np.isfinite(result["metrics"][key])
        assert np.isfinite(result["baselines"][key])
    assert result["baselines"]["sdf_sign_hand"] >= 0.5
    assert result["baselines"]["sdf_sign_hand_balanced"] == 0.5


def test_runner_keeps_the_rows_told_to_and_no_padding(run):
    runner, _ = run
    assert [int(s.batch.sample_index) for s in runner.shown] == [1, 2]
    first, last = runner.shown
    assert first.reconstruction is None
    assert last.reconstruction.image.shape == (64, 64, 3)
    assert first.answer.joints.shape == (21, 3)
    assert first.gt_vertices.shape == (778, 3)
    assert last.slices["object"].shape == (2, SLICE_SIDE, SLICE_SIDE)


def test_runner_slices_hold_the_true_distance(run):
    shown = run[0].shown[0]
    assert int(shown.batch.object_index) == 1  # a ball
    points = passes.slice_points("object", SLICE_SIDE)  # round the true centre
    radius = np.linalg.norm(points, axis=-1)
    np.testing.assert_allclose(
        shown.slices["object"][1].ravel(), radius - 0.05, atol=5e-4
    )


def test_slice_points_run_right_then_down():
    points = passes.slice_points("object", 5).reshape(5, 5, 3)
    np.testing.assert_allclose(points[0, 0], [-0.16, -0.16, 0], atol=1e-6)
    np.testing.assert_allclose(points[0, -1], [0.16, -0.16, 0], atol=1e-6)
    np.testing.assert_allclose(points[-1, 0], [-0.16, 0.16, 0], atol=1e-6)


def test_spread_reaches_both_ends_without_repeats():
    assert spread(3, 11).tolist() == [0, 5, 10]
    assert spread(9, 4).tolist() == [0, 1, 2, 3]
