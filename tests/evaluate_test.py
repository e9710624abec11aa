"""From parameters to table, JSON and pictures, on toys; and the command's mistakes."""

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from configs import common, synthetic
from homae_jax import assembly, scoring
from homae_jax.data.source import FrameInfo, GroundTruth
from homae_jax.errors import UserError
from homae_jax.geometry import rotations
from homae_jax.hand.mano import mano_forward
from homae_jax.models.homae import Homae
from homae_jax.synthetic import record
from tests import toy

INTRINSICS = np.array([[300.0, 0, 79.5], [0, 300.0, 59.5], [0, 0, 1]])
OBJECT_NAMES = ("box", "ball")


class ToySource:
    """Frames of the toy hand; the evaluation split hides poses, as HO-3D's does."""

    def __init__(self, split: str, num: int):
        self.is_eval = split == "evaluation"
        self._batch = jax.tree.map(np.asarray, toy.toy_batch(num))
        rotmat = rotations.aa_to_rotmat(jnp.asarray(self._batch.hand_pose))
        betas = jnp.asarray(self._batch.hand_betas)
        posed = mano_forward(toy.toy_mano(), rotmat, betas, fingertips="ho3d")
        rooted = np.asarray(posed.vertices - posed.joints[:, :1])
        self.vertices = rooted + self._batch.wrist[:, None]

    def __len__(self):
        return len(self._batch.wrist)

    def __getitem__(self, i):
        row = jax.tree.map(lambda x: np.float64(x[i]), self._batch)
        index = i % 2
        labels = {
            "joints": row.joints,
            "hand_pose": row.hand_pose,
            "hand_betas": row.hand_betas,
            "hand_box_px": None,
        }
        if self.is_eval:
            labels = dict.fromkeys(labels)
            labels["hand_box_px"] = np.array([50.0, 30.0, 110.0, 90.0])
        rng = np.random.default_rng(i)
        return {
            "index": i,
            "image": rng.integers(0, 256, (120, 160, 3), dtype=np.uint8),
            "segmentation": None,
            "intrinsics": INTRINSICS,
            "wrist": row.wrist,
            "gt_joints": row.joints if self.is_eval else None,
            "object_name": OBJECT_NAMES[index],
            "object_rotmat": row.object_rotmat,
            "object_trans": row.object_trans,
            "object_corners": np.float64(toy.toy_templates().corners[index]),
            **labels,
        }

    def frame_name(self, i):
        return f"T1/{i:04d}"

    def frame_info(self, i):
        return FrameInfo(
            hand_visibility=0.5,
            object_visibility=float("nan"),
            object_name=OBJECT_NAMES[i % 2],
            sequence="T1",
        )

    def ground_truth(self, i):
        vertices = self.vertices[i].astype(np.float64) if self.is_eval else None
        return GroundTruth(np.float64(self._batch.joints[i]), vertices)


def toy_config():
    c = common.get_config()
    options = toy.toy_model_options()
    c.data.dataset, c.data.root = "synthetic", "/nowhere"
    c.data.image_size, c.data.threads = options.pop("image_size"), 0
    options.pop("fingertips")
    for section, values in options.items():
        if isinstance(values, dict):
            c.model[section].update(values)
    c.model.dtype = "float32"
    for key in ("num_hand_sdf", "num_object_sdf"):
        c.targets[key] = toy.toy_target_options()[key]
    c.evaluate.batch_size, c.evaluate.num_figures = 2, 2
    return c


@pytest.fixture(scope="module")
def parts():
    return assembly.Parts(
        model=Homae(**toy.toy_model_options()),
        mano=toy.toy_mano(),
        templates=toy.toy_templates(),
        object_names=OBJECT_NAMES,
    )


@pytest.fixture(scope="module")
def scored(parts, tmp_path_factory):
    """The folder and the result of scoring a model as it was born."""
    workdir = tmp_path_factory.mktemp("run")
    config = toy_config()
    (workdir / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": i, "loss": 1.0 / i}) + "\n" for i in range(1, 9))
    )
    with pytest.MonkeyPatch.context() as patch:
        sizes = {"train": 3, "evaluation": 3}
        patch.setattr(
            assembly, "build_source", lambda _, split: ToySource(split, sizes[split])
        )
        params = assembly.initial_params(config, parts)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            scorer = scoring.Scorer(config, parts, split="evaluation")
            result = scorer.evaluate(params, workdir=workdir, step=7)
        (workdir / "printed.txt").write_text(printed.getvalue())
        previews = [scorer.preview(p) for p in (params, params, altered(params))]
    return workdir, result, previews


def altered(params):
    return jax.tree.map(lambda x: x * 1.5, params)


def test_scorer_writes_what_it_returns(scored):
    workdir, result, _ = scored
    path = workdir / "eval" / "synthetic_evaluation.json"
    assert json.loads(path.read_text()) == json.loads(json.dumps(result))
    assert result["num_samples"] == 3 and result["excluded"] == {}
    assert result["protocol"]["step"] == 7 and result["protocol"]["root"] == "gt"
    keys = {"mje_mm", "oce_mm", "v_pe_mm", "rec_masked_mse", "sdf_sign_hand"}
    assert keys <= set(result["metrics"]) and keys <= set(result["baselines"])
    assert set(result["per_object"]) == {"box", "ball"}
    lines = (workdir / "printed.txt").read_text().splitlines()
    assert lines[0].startswith("scoring 3 frames of evaluation")
    assert lines[-1].startswith(f"-> {path}, ")


def test_scorer_draws_every_figure(scored):
    workdir, *_ = scored
    names = {path.name for path in (workdir / "figures").iterdir()}
    kinds = ("predictions", "reconstructions", "sdf", "best", "worst")
    assert names == {"curves.png"} | {f"synthetic_evaluation_{k}.png" for k in kinds}


def test_scorer_previews_the_parameters_it_is_given(scored):
    first, same, other = scored[2]
    assert set(first) == {"predictions", "reconstructions", "sdf"}
    for kind, picture in first.items():
        np.testing.assert_array_equal(picture, same[kind])
        assert (picture != other[kind]).any()


def test_scorer_trivial_predictor_is_the_training_mean(scored):
    """Training and evaluation frames are the same here, hence the mean is known."""
    _, result, _ = scored
    batch = jax.tree.map(np.asarray, toy.toy_batch(3))
    rooted = batch.joints - batch.wrist[:, None]
    error = np.linalg.norm(rooted - rooted.mean(0), axis=-1).mean()
    assert result["baselines"]["mje_root_mm"] == pytest.approx(1e3 * error, rel=1e-3)


def test_hand_truth_is_published_or_mano(parts):
    fingertips = "ho3d"
    for split in ("evaluation", "train"):
        source = ToySource(split, 2)
        truth = scoring.HandTruth(source, parts, fingertips=fingertips)
        rows = np.arange(2)
        batches = assembly.build_eval_batches(
            toy_config(), source, rows, parts.object_names
        )
        batch = next(batches)
        assert batch.has_hand.all() == (split == "train")
        assert truth.mark(batch).has_hand.all()
        hand = truth.hand(batch)
        np.testing.assert_allclose(hand.vertices, source.vertices, atol=1e-5)
        assert (hand.joints is None) == (split == "evaluation")


class JointsAlone(ToySource):
    """evaluation_xyz.json is there, evaluation_verts.json is not."""

    def ground_truth(self, i):
        return super().ground_truth(i)._replace(vertices=None)


class Unpublished(ToySource):
    """HO-3D's evaluation split as its archive brings it."""

    def __getitem__(self, i):
        return super().__getitem__(i) | {"gt_joints": None}

    def ground_truth(self, i):
        return None


class OtherTips(ToySource):
    """As HO-3D v3 has them."""

    def ground_truth(self, i):
        truth = super().ground_truth(i)
        vertices = np.array(truth.vertices)
        joints = np.array(truth.joints)
        joints[16:] = vertices[[744, 333, 444, 555, 672]]
        return truth._replace(joints=joints)


def test_scorer_names_the_finger_tips_that_the_truth_has(parts, monkeypatch):
    monkeypatch.setattr(assembly, "build_source", lambda _, split: OtherTips(split, 2))
    config = toy_config()
    with pytest.raises(
        UserError, match=r'named "h2o3d", not .*="ho3d"; set --config\.'
    ):
        scoring.Scorer(config, parts, split="evaluation").open()
    config.evaluate.fingertips = "h2o3d"
    scoring.Scorer(config, parts, split="evaluation").open()


@pytest.mark.parametrize("kind", [JointsAlone, Unpublished])
def test_scorer_scores_and_draws_whatever_truth_there_is(
    parts, tmp_path, monkeypatch, kind
):
    def build_source(_, split):
        return kind(split, 3) if split == "evaluation" else ToySource(split, 3)

    monkeypatch.setattr(assembly, "build_source", build_source)
    config = toy_config()
    scorer = scoring.Scorer(config, parts, split="evaluation")
    params = assembly.initial_params(config, parts)
    assert "sdf" in scorer.preview(params)
    result = scorer.evaluate(params, workdir=tmp_path, step=1)
    assert ("mje_mm" in result["metrics"]) == (kind is JointsAlone)
    assert "v_pe_mm" not in result["metrics"] and "oce_mm" in result["metrics"]
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert any(name.endswith("sdf.png") for name in names)


def test_scores_on_the_way_are_not_the_runs_results(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(assembly, "build_source", lambda _, split: ToySource(split, 2))
    config = toy_config()
    params = assembly.initial_params(config, parts)
    scorer = scoring.Scorer(config, parts, split="evaluation")
    on_the_way = {"workdir": tmp_path, "step": 1, "is_on_the_way": True}
    with pytest.raises(scoring.Unwanted):
        scorer.evaluate(params, is_unwanted=lambda: True, **on_the_way)
    assert not list(tmp_path.iterdir())
    scorer.evaluate(params, is_unwanted=lambda: False, **on_the_way)
    assert not list((tmp_path / "eval").glob("*.json"))
    found = sorted((tmp_path / "eval" / "step_1").glob("*.json"))
    assert len(found) == 2
    protocol = json.loads(found[0].read_text())["protocol"]
    assert protocol["step"] == 1 and protocol["ends_training"] is False
    assert protocol["data.object_center"] == config.data.object_center


def test_a_published_hand_without_its_mesh_is_scored_by_its_joints_alone(parts):
    """The rest pose of absent labels is nobody's truth."""
    source = JointsAlone("evaluation", 2)
    batches = assembly.build_eval_batches(
        toy_config(), source, np.arange(2), parts.object_names
    )
    truth = scoring.HandTruth(source, parts, fingertips="ho3d")
    batch = truth.mark(next(batches))
    assert batch.has_hand.all() and truth.hand(batch) == (None, None)


def test_shown_rows_are_in_probed_batches_and_exist():
    frames = np.arange(100, 125)
    shown = scoring.shown_rows(frames, np.array([0, 2]), 10, 4)
    assert set(shown) <= {*range(100, 110), *range(120, 125)}
    assert len(shown) == 4 and shown[0] == 100 and shown[-1] == 124


def evaluate(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "homae_jax.evaluate", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--workdir=DIR is missing"),
        (("--workdir=/nowhere/run",), "/nowhere/run: no such folder"),
        (("--wrkdir=a",), "wrkdir"),
    ],
)
def test_evaluate_mistakes_are_one_line(arguments, message):
    done = evaluate(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error:") and message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_result_file_names_what_was_predicted():
    config = toy_config()
    names = []
    for keys in ((), ("root",), ("boxes", "object_center", "root")):
        for key in keys:
            config.protocol[key] = "predicted"
        names.append(scoring.result_file(config, "w", "val").name)
    dataset = config.data.dataset
    assert names == [
        f"{dataset}_val.json",
        f"{dataset}_val_predicted_root.json",
        f"{dataset}_val_predicted.json",
    ]


def test_result_of_a_step_on_the_way_is_not_among_the_runs_own():
    path = scoring.result_file(toy_config(), "w", "val", on_the_way_at=7)
    assert path.parent == Path("w/eval/step_7")


def world_of(root: Path, *, is_complete: bool) -> ml_collections.ConfigDict:
    config = synthetic.get_config()
    config.data.root = str(root)
    root.mkdir()
    settings = config.synthetic.to_dict() | {"num_train": 5}
    record.write_record(root, settings, is_complete=is_complete)
    return config


def test_a_world_made_with_other_settings_is_refused_in_the_configurations_words(
    tmp_path,
):
    config = world_of(tmp_path / "world", is_complete=True)
    said = (
        r"holds a world with synthetic\.num_train=5, not 2800: .*--config\.data\.root"
    )
    with pytest.raises(UserError, match=said):
        assembly.prepare_data(config)


@pytest.mark.parametrize("is_begun", [False, True])
def test_an_evaluation_makes_no_world(tmp_path, is_begun):
    root = tmp_path / "world"
    if is_begun:
        config = world_of(root, is_complete=False)
    else:
        config = synthetic.get_config()
        config.data.root = str(root)
    said = "no whole synthetic world is there: .*homae_jax.synthesize --out=.*num_train"
    with pytest.raises(UserError, match=said):
        assembly.prepare_data(config, may_make=False)
    assert not (root / "train.txt").exists()
