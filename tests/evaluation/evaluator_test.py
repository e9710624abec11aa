"""Labels scored as predictions, known offsets, groups, padding; the file on disk."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from homae_jax.errors import UserError
from homae_jax.evaluation import evaluator, report
from homae_jax.schema import Batch, ObjectTemplates

NAMES = ("006_mustard_bottle", "019_pitcher_base")
NUM = 7  # samples
SIZE = 4  # of a batch


class Source:
    """Visible shares that walk through the bins; the last is not known."""

    def frame_name(self, i):
        return f"SM1/{i:04d}"

    def frame_info(self, i):
        shares = [0.1, 0.45, 0.5, 0.7, 0.9, 1.0, np.nan]
        return {"hand_visibility": shares[i], "object_visibility": shares[-1 - i]}


def make_templates():
    rng = np.random.default_rng(0)
    vertices = rng.normal(size=(2, 1000, 3)).astype(np.float32) * 0.04
    low, high = vertices.min(1), vertices.max(1)
    ends = np.stack([low, high])
    corners = np.stack(
        [ends[[i, j, k], :, range(3)].T for i, j, k in np.ndindex(2, 2, 2)], axis=1
    )
    return ObjectTemplates(
        vertices=vertices,
        faces=np.zeros((2, 1, 3), np.int32),
        corners=corners,
        sdf_grid=np.zeros((2, 2, 2, 2), np.float32),
        sdf_origin=np.zeros((2, 3), np.float32),
        sdf_pitch=np.ones(2, np.float32),
    )


def make_samples(seed=0):
    """A batch of all samples, and their true vertices."""
    rng = np.random.default_rng(seed)

    def normal(*shape, scale=0.03):
        return rng.normal(size=(NUM, *shape), scale=scale).astype(np.float32)

    wrist = normal(3, scale=0.1) + np.float32([0, 0, 0.6])
    joints = wrist[:, None] + normal(21, 3)
    joints[:, 0] = wrist
    rotmat = Rotation.random(NUM, random_state=1).as_matrix().astype(np.float32)
    batch = Batch(
        image=np.zeros((NUM, 8, 8, 3), np.uint8),
        segmentation=np.zeros((NUM, 4, 4), np.uint8),
        intrinsics=np.tile(np.eye(3, dtype=np.float32), (NUM, 1, 1)),
        hand_box_px=np.zeros((NUM, 4), np.float32),
        object_box_px=np.zeros((NUM, 4), np.float32),
        wrist=wrist,
        object_center=wrist + normal(3),
        joints=joints,
        hand_pose=np.zeros((NUM, 16, 3), np.float32),
        hand_betas=np.zeros((NUM, 10), np.float32),
        object_rotmat=rotmat,
        object_trans=wrist + normal(3),
        object_index=np.array([0, 1, 0, 0, 1, 0, 0], np.int32),
        has_hand=np.ones(NUM, bool),
        has_object=np.ones(NUM, bool),
        has_segmentation=np.ones(NUM, bool),
        sample_index=np.arange(NUM, dtype=np.int32),
        is_real=np.ones(NUM, bool),
    )
    return batch, wrist[:, None] + normal(778, 3)


SAMPLES, VERTICES = make_samples()


def batches(samples=SAMPLES):
    """Batches of SIZE rows; the last padded with rows of rubbish."""
    for start in range(0, NUM, SIZE):
        part = jax.tree.map(lambda x, start=start: x[start : start + SIZE], samples)
        pad = SIZE - len(part.is_real)
        part = jax.tree.map(
            lambda x, pad=pad: np.concatenate([x, np.full_like(x[:1], 1)[[0] * pad]]),
            part,
        )
        is_real = np.arange(SIZE) < SIZE - pad
        index = np.where(is_real, part.sample_index, 99)
        yield part._replace(is_real=is_real, sample_index=index)


def labels(batch):
    vertices = VERTICES[batch.sample_index % NUM]
    return evaluator.Prediction(
        joints=jnp.asarray(batch.joints),
        vertices=vertices,
        object_rotmat=batch.object_rotmat,
        object_trans=batch.object_trans,
        true_hand=evaluator.TrueHand(None, vertices),
    )


def shifted(batch):
    """The hand 10 mm off as a whole, the object by 5 mm for each row of the source."""
    prediction = labels(batch)
    offset = 0.005 * batch.sample_index[:, None] * np.float32([[1, 0, 0]])
    return prediction._replace(
        joints=prediction.joints + np.float32([0.01, 0, 0])[None, None],
        vertices=prediction.vertices + np.float32([0.01, 0, 0]),
        object_trans=prediction.object_trans + offset,
    )


def trivial():
    rng = np.random.default_rng(3)
    return evaluator.fit_trivial(
        joints_root=rng.normal(size=(5, 21, 3), scale=0.03),
        vertices_root=rng.normal(size=(2, 778, 3), scale=0.03),
        object_rotmat=np.tile(np.eye(3), (5, 1, 1)),
        object_trans_root=np.full((5, 3), 0.01),
    )


def run(predict_fn, samples=SAMPLES, **options):
    return evaluator.evaluate(
        predict_fn,
        batches(samples),
        source=Source(),
        templates=make_templates(),
        object_names=NAMES,
        **options,
    )


@pytest.fixture(scope="module")
def shifted_result():
    return run(shifted, trivial=trivial(), settings={"root": "gt"})


def test_evaluate_gives_labels_a_perfect_score():
    result = run(labels)
    assert result["num_samples"] == NUM
    assert result["baselines"] == {}
    for key, value in result["metrics"].items():
        is_share = key.startswith(("f_", "pa_f_")) or key.endswith("auc")
        tolerance = 0.006 if key.endswith("auc") else 1e-3
        assert abs(value - is_share) <= tolerance, key


def test_evaluate_reports_known_offsets(shifted_result):
    found = shifted_result["metrics"]
    assert found["mje_mm"] == pytest.approx(10, abs=1e-3)  # HO-3D: camera frame
    assert found["mje_root_mm"] == pytest.approx(0, abs=1e-3)
    assert found["v_pe_mm"] == pytest.approx(10, abs=1e-3)
    counted = [0, 2, 3, 5, 6]  # the pitcher's rows 1 and 4 are left out
    assert found["oce_mm"] == pytest.approx(5 * np.mean(counted), abs=1e-3)
    standard = shifted_result["other_protocols"]["standard"]["metrics"]
    assert standard["oce_mm"] == pytest.approx(5 * np.mean(range(NUM)), abs=1e-3)


def test_evaluate_has_the_promised_keys(shifted_result):
    promised = {"protocol", "num_samples", "excluded", "metrics", "baselines"}
    assert promised | {"per_object", "by_occlusion"} <= shifted_result.keys()
    keys = {"mje_mm", "pa_mje_mm", "st_mje_mm", "oce_mm", "mce_mm", "add_s_mm"}
    assert keys | {"ome_mm"} <= shifted_result["metrics"].keys()
    assert shifted_result["baselines"].keys() == shifted_result["metrics"].keys()
    assert shifted_result["protocol"]["name"] == "hoisdf"
    assert shifted_result["protocol"]["root"] == "gt"


def test_evaluate_leaves_out_the_pitcher_under_hoisdf_and_says_so(shifted_result):
    assert shifted_result["excluded"] == {"object_metrics_019_pitcher_base": 2}
    assert shifted_result["other_protocols"]["standard"]["excluded"] == {}
    pitcher = shifted_result["per_object"]["019_pitcher_base"]
    assert pitcher["num_samples"] == 2
    assert pitcher["metrics"]["oce_mm"] == pytest.approx(5 * 2.5, abs=1e-3)


def test_evaluate_on_other_data_leaves_nothing_out():
    assert run(labels, dataset="synthetic")["excluded"] == {}


def test_evaluate_scores_dexycb_hands_relative_to_the_wrist():
    result = run(shifted, dataset="dexycb")
    assert result["metrics"]["mje_mm"] == pytest.approx(0, abs=1e-3)
    standard = result["other_protocols"]["standard"]["metrics"]
    assert standard["mje_mm"] == pytest.approx(10, abs=1e-3)


def test_evaluate_groups_by_visible_share(shifted_result):
    hand = shifted_result["by_occlusion"]["hand"]
    counts = {name: group["num_samples"] for name, group in hand.items()}
    assert counts == {"severe": 1, "heavy": 2, "partial": 1, "light": 2}
    assert "oce_mm" not in hand["heavy"]["metrics"]
    obj = shifted_result["by_occlusion"]["object"]  # rows 6 (0.1) to 1 (1.0)
    assert obj["severe"]["metrics"]["oce_mm"] == pytest.approx(30, abs=1e-3)
    assert obj["heavy"]["num_samples"] == 1  # rows 5 and 4, less the pitcher
    assert "mje_mm" not in obj["severe"]["metrics"]


def test_evaluate_scores_the_trivial_predictor(shifted_result):
    means = trivial()
    pred = means.joints_root[None] + SAMPLES.wrist[:, None]
    expected = np.linalg.norm(pred - SAMPLES.joints, axis=-1).mean() * 1e3
    assert shifted_result["baselines"]["mje_mm"] == pytest.approx(expected, abs=1e-2)
    trans = SAMPLES.wrist + np.float32(0.01)
    errors = np.linalg.norm(trans - SAMPLES.object_trans, axis=-1)
    expected = errors[SAMPLES.object_index == 0].mean() * 1e3
    assert shifted_result["baselines"]["oce_mm"] == pytest.approx(expected, abs=1e-2)


def test_evaluate_leaves_out_unlabelled_samples_and_counts_them():
    samples = SAMPLES._replace(
        has_hand=np.arange(NUM) > 0,
        has_object=np.arange(NUM) < NUM - 1,
        joints=np.where(np.arange(NUM)[:, None, None] > 0, SAMPLES.joints, np.nan),
        object_trans=np.where(
            np.arange(NUM)[:, None] < NUM - 1, SAMPLES.object_trans, 0
        ),
    )

    def predict(batch):
        return shifted(batch)._replace(
            joints=SAMPLES.joints[batch.sample_index % NUM] + 0.01
        )

    result = run(predict, samples, dataset="synthetic")
    assert result["excluded"] == {
        "hand_metrics_no_label": 1,
        "object_metrics_no_label": 1,
    }
    assert result["metrics"]["mje_mm"] == pytest.approx(10 * 3**0.5, abs=1e-3)
    assert result["metrics"]["oce_mm"] == pytest.approx(5 * 2.5, abs=1e-3)


def test_evaluate_counts_a_repeated_sample_once():
    twice = evaluator.evaluate(
        shifted,
        [*batches(), *batches()],
        source=Source(),
        templates=make_templates(),
        object_names=NAMES,
    )
    assert twice == run(shifted)


def test_evaluate_carries_extra_values_and_their_baselines():
    def predict(batch):
        share = np.where(batch.sample_index == 2, np.nan, batch.sample_index / 10)
        return labels(batch)._replace(
            extra={"sdf_sign_accuracy": share, "masked_rec_mse": share * 0 + 0.25},
            extra_baselines={"masked_rec_mse": jnp.full(SIZE, 0.5)},
        )

    result = run(predict, trivial=trivial())
    assert result["metrics"]["masked_rec_mse"] == 0.25
    assert result["baselines"]["masked_rec_mse"] == 0.5
    expected = np.mean([0, 1, 3, 4, 5, 6]) / 10
    assert result["metrics"]["sdf_sign_accuracy"] == pytest.approx(expected, rel=1e-4)
    assert "sdf_sign_accuracy" not in result["baselines"]


def test_evaluate_without_true_meshes_leaves_their_metrics_out():
    nothing = evaluator.TrueHand(None, None)
    result = run(lambda batch: labels(batch)._replace(true_hand=nothing))
    assert "mje_mm" in result["metrics"] and "v_pe_mm" not in result["metrics"]


@pytest.mark.parametrize(
    ("dataset", "wanted"),
    [
        ("dexycb", {"hoisdf": 20 / 21 * 3.0, "standard": 0.0}),
        ("ho3d", {"hoisdf": 0.0, "standard": 0.0}),
    ],
)
def test_hoisdf_scores_hands_against_mano_on_the_labels_pose(dataset, wanted):
    """Its truth on DexYCB; the labels' joints are all others'."""

    def predict(batch):
        joints = np.array(batch.joints)
        joints[:, 1:] += np.float32([0.003, 0, 0])[None, None]  # all but the wrist
        vertices = VERTICES[batch.sample_index % NUM]
        return labels(batch)._replace(true_hand=evaluator.TrueHand(joints, vertices))

    result = run(predict, dataset=dataset)
    sections = {"hoisdf": result, **result["other_protocols"]}
    found = {name: section["metrics"]["mje_mm"] for name, section in sections.items()}
    assert found == pytest.approx(wanted, abs=1e-3)


def test_evaluate_raises_on_a_prediction_that_is_not_finite():
    def predict(batch):
        joints = np.array(batch.joints)
        joints[batch.sample_index == 5, 3, 1] = np.nan
        return labels(batch)._replace(joints=joints)

    with pytest.raises(UserError, match="frame SM1/0005: predicted joints"):
        run(predict)


def test_evaluate_raises_on_an_empty_split_or_unknown_data_set():
    options = {"source": Source(), "templates": make_templates()}
    with pytest.raises(UserError, match="split is empty"):
        evaluator.evaluate(labels, [], object_names=NAMES, **options)
    with pytest.raises(UserError, match='"nothing": use one of ho3d'):
        run(labels, dataset="nothing")


def test_fit_trivial_is_the_mean():
    turns = Rotation.from_rotvec([[0.2, 0, 0], [-0.2, 0, 0.0]]).as_matrix()
    fitted = evaluator.fit_trivial(
        joints_root=np.stack([np.zeros((21, 3)), np.ones((21, 3))]),
        vertices_root=np.zeros((1, 778, 3)),
        object_rotmat=turns,
        object_trans_root=np.array([[0.0, 0, 2], [0, 0, 4]]),
    )
    np.testing.assert_allclose(fitted.joints_root, 0.5)
    np.testing.assert_allclose(fitted.object_rotmat, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(fitted.object_trans_root, [0, 0, 3])


def test_write_result_round_trips_and_leaves_no_part_behind(tmp_path, shifted_result):
    path = tmp_path / "eval" / "ho3d_evaluation.json"
    report.write_result(shifted_result, path)
    report.write_result(shifted_result, path)
    assert report.read_result(path) == json.loads(path.read_text()) == shifted_result
    assert [x.name for x in path.parent.iterdir()] == [path.name]


def test_read_result_names_a_missing_or_broken_file(tmp_path):
    with pytest.raises(UserError, match="no such result"):
        report.read_result(tmp_path / "a.json")
    (tmp_path / "b.json").write_text('{"metrics": ')
    with pytest.raises(UserError, match=r"b\.json: not a result"):
        report.read_result(tmp_path / "b.json")
