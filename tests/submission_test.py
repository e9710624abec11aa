"""A model's predictions into pred.zip; the local scorer as a program."""

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from homae_jax import assembly, submission
from homae_jax.errors import UserError
from homae_jax.evaluation.ho3d_submission import export_submission
from homae_jax.models.homae import Homae
from tests import toy
from tests.evaluate_test import OBJECT_NAMES, ToySource, toy_config


def test_write_submission_holds_every_frame_in_front_of_a_gl_camera(
    tmp_path, monkeypatch
):
    source = ToySource("evaluation", 3)
    monkeypatch.setattr(assembly, "build_source", lambda _, split: source)
    config = toy_config()
    parts = assembly.Parts(
        model=Homae(**toy.toy_model_options()),
        mano=toy.toy_mano(),
        templates=toy.toy_templates(),
        object_names=OBJECT_NAMES,
    )
    params = assembly.initial_params(config, parts)
    path = submission.write_submission(
        config, params, parts=parts, path=tmp_path / "pred.zip"
    )
    with zipfile.ZipFile(path) as archive:
        joints, vertices = map(np.array, json.loads(archive.read("pred.json")))
    assert joints.shape == (3, 21, 3) and vertices.shape == (3, 778, 3)
    wrists = np.array([source[i]["wrist"] for i in range(3)]) * [1, -1, -1]
    np.testing.assert_allclose(joints[:, 0], wrists, atol=1e-5)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("dataset", "dexycb", "not HO-3D"), ("max_eval_frames", 5, "every frame")],
)
def test_check_submittable_refuses_half_a_submission(key, value, message):
    config = toy_config()
    config.data[key] = value
    with pytest.raises(UserError, match=message):
        submission.check_submittable(config)


def score_ho3d(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "homae_jax.score_ho3d", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_score_ho3d_gives_labels_no_error(tmp_path):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(2, 799, 3), scale=0.03) + np.array([0, 0, 0.6])
    for name, part in (("xyz", points[:, :21]), ("verts", points[:, 21:])):
        text = json.dumps((part * [1, -1, -1]).tolist())
        (tmp_path / f"evaluation_{name}.json").write_text(text)
    names = ["SM1/0000", "SM1/0001"]
    pred = export_submission(
        tmp_path / "pred.zip", points[:, :21], points[:, 21:], frames=names, order=names
    )
    out = tmp_path / "scores.json"
    done = score_ho3d(f"--pred={pred}", f"--gt={tmp_path}", f"--out={out}")
    assert done.returncode == 0, done.stderr
    assert "official scores" in done.stdout
    scores = json.loads(out.read_text())
    assert scores["mje_cm"] == scores["v_pe_cm"] == 0 and scores["f_5"] == 1
    out.write_text("of an earlier call")
    arguments = (f"--pred={pred}", f"--gt={tmp_path}", f"--out={out}")
    assert score_ho3d(*arguments).returncode == 2
    assert out.read_text() == "of an earlier call"
    assert score_ho3d(*arguments, "--overwrite").returncode == 0
    assert json.loads(out.read_text()) == scores


def test_score_ho3d_mistakes_are_one_line(tmp_path):
    for arguments in ((), (f"--pred={tmp_path}/no.zip", f"--gt={tmp_path}")):
        done = score_ho3d(*arguments)
        assert done.returncode == 2 and done.stderr.startswith("error:")
        assert len(done.stderr.strip().splitlines()) == 1
