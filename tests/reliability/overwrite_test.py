"""Entry points keep what is there unless they are told to overwrite."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from configs import synthetic
from homae_jax import assembly, weights
from homae_jax.errors import UserError
from homae_jax.synthesize import synthesize
from homae_jax.training.checkpoint import Checkpointer
from tests.hand.built_hand import built_hand
from tests.training.checkpoint_test import make_state

ROOT = Path(__file__).resolve().parents[2]
KEPT = "of great value"


def run(entry: str, *arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", f"homae_jax.{entry}", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )


def assert_refused(done: subprocess.CompletedProcess, kept: Path) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "--overwrite" in done.stderr and str(kept) in done.stderr
    assert kept.read_text() == KEPT


@pytest.fixture
def workdir(tmp_path) -> Path:
    saver = Checkpointer(tmp_path / "run", keep=1)
    config = synthetic.get_config()
    config.data.root = str(tmp_path / "gone")  # this clone's own may be there
    saver.save(3, make_state(), data={}, config=config.to_dict())
    saver.wait()
    return tmp_path / "run"


def test_evaluate_keeps_earlier_scores(workdir):
    kept = workdir / "eval" / "synthetic_evaluation.json"
    kept.parent.mkdir()
    kept.write_text(KEPT)
    assert_refused(run("evaluate", f"--workdir={workdir}"), kept)


def test_evaluate_keeps_an_earlier_submission_and_wants_a_zip(workdir, tmp_path):
    kept = tmp_path / "pred.zip"
    kept.write_text(KEPT)
    assert_refused(
        run("evaluate", f"--workdir={workdir}", f"--submission={kept}"), kept
    )
    done = run("evaluate", f"--workdir={workdir}", f"--submission={tmp_path}/pred.txt")
    assert done.returncode == 2 and "must end in .zip" in done.stderr


def test_score_ho3d_keeps_earlier_scores(tmp_path):
    kept = tmp_path / "scores.json"
    kept.write_text(KEPT)
    arguments = (f"--pred={tmp_path}/pred.zip", f"--gt={tmp_path}", f"--out={kept}")
    assert_refused(run("score_ho3d", *arguments), kept)


def test_export_keeps_what_is_there(workdir, tmp_path):
    out = tmp_path / "out"
    done = run("export", f"--workdir={workdir}", f"--out={out}")
    assert done.returncode == 0, done.stderr
    (out / "config.json").write_text(KEPT)
    done = run("export", f"--workdir={workdir}", f"--out={out}")
    assert done.returncode == 2 and "add --overwrite" in done.stderr
    assert (out / "config.json").read_text() == KEPT
    options = {"config_json": "{}", "step": 3}
    weights.write_export(out, make_state().params, **options, overwrite=True)
    assert weights.load_export(out).config_json == "{}"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "run"]


def test_export_refuses_a_file_or_a_folder_of_something_else(tmp_path):
    (tmp_path / "file").write_text(KEPT)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text(KEPT)
    for name in ("file", "home"):
        with pytest.raises(UserError, match="choose another --out"):
            weights.write_export(
                tmp_path / name, {}, config_json="", step=0, overwrite=True
            )
    assert (tmp_path / "file").read_text() == KEPT
    assert (tmp_path / "home" / "thesis.tex").read_text() == KEPT


@pytest.mark.parametrize("name", ["../../outside", "/etc/passwd", "checkpoint/../../x"])
def test_load_export_reads_nothing_outside(tmp_path, name):
    out = tmp_path / "a" / "out"
    params = {"kernel": np.ones(3, np.float32)}
    weights.write_export(out, params, config_json="{}", step=1)
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["files"][name] = {"sha256": "0", "bytes": 1}
    (out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="outside of it"):
        weights.load_export(out)


def test_convert_keeps_what_is_there(tmp_path):
    from homae_jax.hand.mano_files import write_mano_pkl

    write_mano_pkl(built_hand(), tmp_path / "hand.pkl")
    kept = tmp_path / "hand.npz"
    kept.write_text(KEPT)
    done = run("convert", "mano", f"--src={tmp_path / 'hand.pkl'}", f"--out={kept}")
    assert_refused(done, kept)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"settings": 3, "is_complete": true}', "{"]
)
def test_synthesize_refuses_a_folder_with_a_damaged_record(tmp_path, text):
    (tmp_path / "synthetic.json").write_text(text)
    with pytest.raises(UserError, match=r"synthetic\.json: (damaged|no record)"):
        synthesize(tmp_path, 4, 2)
    assert (tmp_path / "synthetic.json").read_text() == text


STORED = {
    "model": "small",
    "train": {"batch_size": "24"},
    "data": {"image_size": [224]},
    "losses": {"weights": {"rec": "1.0"}},
}


@pytest.mark.parametrize("key", STORED)
def test_a_stored_configuration_of_other_types_is_refused_by_key(key):
    values = {"model": {}} | {key: STORED[key]}
    with pytest.raises(UserError, match=rf"run: {key}.* expected"):
        assembly.config_from_json(json.dumps(values), "run")


def test_an_older_configuration_gets_the_keys_that_came_since():
    config = synthetic.get_config().to_dict()
    del config["train"]["on_failed_save"]
    found = assembly.config_from_json(json.dumps(config), "run")
    assert found.train.on_failed_save == "go_on"
