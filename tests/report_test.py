"""The page about runs: what it finds, what it compares, what it says of mistakes."""

import json
import subprocess
import sys

import numpy as np
import pytest

from homae_jax import run_report
from homae_jax.errors import UserError
from homae_jax.viz import figures, run_page
from tests.sweep_test import RESULT


@pytest.fixture
def folders(tmp_path):
    """Two runs with curves, results, frames and a picture; one of them better."""
    made = []
    for name, mje in (("a", 30.0), ("b", 20.0)):
        folder = tmp_path / name
        (folder / "eval").mkdir(parents=True)
        steps = [{"step": s, "loss": mje / s, "mje_mm": mje} for s in range(1, 40)]
        text = "".join(json.dumps(record) + "\n" for record in steps)
        (folder / "metrics.jsonl").write_text(text)
        metrics = {"metrics": {"mje_mm": mje, "add_s_mm": 9.0}}
        banana = {"metrics": {"mje_mm": mje + 1, "add_s_mm": 9.0}, "num_samples": 3}
        severe = banana | {"visible_from": 0.0, "visible_below": 0.4}
        groups = {
            "per_object": {"011_banana": banana},
            "by_occlusion": {"hand": {"severe": severe}, "object": {}},
            "other_protocols": {},
        }
        result = RESULT | metrics | groups | {"excluded": {}}
        (folder / "eval" / "ho3d_evaluation.json").write_text(json.dumps(result))
        frames = [
            {"row": i, "name": f"S/{i:04d}", "mje_root_mm": float(i), "oce_mm": None}
            for i in range(12)
        ]
        path = folder / "eval" / "ho3d_evaluation_frames.json"
        path.write_text(json.dumps({"frames": frames}))
        picture = np.full((40, 60, 3), 99, np.uint8)
        figures.write_png(folder / "figures" / "ho3d_evaluation_worst.png", picture)
        made.append(folder)
    return made


def blocks_of(section):
    return {block.title: block for block in section.blocks}


def test_run_section_has_curves_tables_frames_and_pictures(folders):
    blocks = blocks_of(run_report.run_section(run_report.read_run(folders[0])))
    assert blocks["Curves"].picture is not None
    assert blocks["Worst frames"].picture.shape == (40, 60, 3)
    worst = blocks["Worst frames, by hand and object error"]
    assert worst.rows[0][0] == "S/0011" and worst.rows[0][1] == "11.00"
    assert worst.rows[0][2] == "–" and len(worst.rows) == run_report.NUM_LISTED
    table = next(b for t, b in blocks.items() if t.startswith("Table III"))
    assert any("21.8" in cell for row in table.rows for cell in row)  # the paper's


def test_comparison_puts_runs_side_by_side(folders):
    runs = [run_report.read_run(folder) for folder in folders]
    runs = [
        run._replace(config={"seed": 0, "model.mask.num_patches": n})
        for run, n in zip(runs, (4, 12), strict=True)
    ]
    (section,) = run_report.comparison(runs)
    blocks = blocks_of(section)
    assert blocks["Set differently"].rows == [["model.mask.num_patches", "4", "12"]]
    block = blocks["Results on ho3d_evaluation, mm"]
    assert [row[:2] for row in block.rows] == [["a", "30.0"], ["b", "20.0"]]
    assert block.marked == [(1, 1)]  # the better hand; ADD-S are alike
    assert "protocol hoisdf" in block.notes[0]
    block = blocks["MJE on ho3d_evaluation by object, mm"]
    assert block.header == ("hand", "a", "b", "n")
    assert block.rows == [["011_banana", "31.00", "21.00", "3"]]
    assert block.marked == [(0, 2)]
    block = blocks["MJE on ho3d_evaluation by what is visible, mm"]
    assert block.rows == [["severe (0-40 %)", "31.00", "21.00", "3"]]
    assert blocks["Curves"].picture is not None
    assert run_report.comparison(runs[:1]) == []


def test_run_section_says_what_prediction_costs(folders):
    """A second evaluation of the split, with predicted inputs."""
    path = folders[0] / "eval" / "ho3d_evaluation.json"
    result = json.loads(path.read_text())
    result["protocol"] |= {"root": "predicted"}
    result["metrics"]["mje_mm"] = 70.0
    path.with_name("ho3d_evaluation_predicted_root.json").write_text(json.dumps(result))
    blocks = blocks_of(run_report.run_section(run_report.read_run(folders[0])))
    rows = blocks["What prediction costs, ho3d, mm"].rows
    assert [row[:2] for row in rows] == [
        ["all given", "30.0"],
        ["predicted: root", "70.0"],
    ]
    assert "Worst frames, ho3d_evaluation" in blocks
    result["protocol"] |= {"step": 500}  # another step's: nothing to compare with
    path.with_name("ho3d_evaluation_predicted_root.json").write_text(json.dumps(result))
    blocks = blocks_of(run_report.run_section(run_report.read_run(folders[0])))
    assert "What prediction costs, ho3d, mm" not in blocks


def test_comparison_says_the_steps_where_they_differ(folders):
    for folder, step in zip(folders, (100, 200), strict=True):
        path = folder / "eval" / "ho3d_evaluation.json"
        result = json.loads(path.read_text())
        result["protocol"] |= {"step": step}
        path.write_text(json.dumps(result))
    runs = [run_report.read_run(folder) for folder in folders]
    (section,) = run_report.comparison(runs)
    *notes, averaged = blocks_of(section)["Results on ho3d_evaluation, mm"].notes
    assert averaged.startswith("OME and ADD-S: the mean of")
    assert [note.rsplit(", ", 1)[1] for note in notes] == ["step 100", "step 200"]


def test_page_sets_the_best_in_bold(tmp_path):
    block = run_page.Block(
        "T", ("run", "MJE"), [["a", "3"], ["b", "2"]], marked=[(1, 1)]
    )
    path = run_page.write_page(tmp_path, [run_page.Section("S", [block])], title="R")
    assert "<td><strong>2</strong></td>" in path.read_text()
    assert "| b | **2** |" in (tmp_path / "report.md").read_text()


def test_runs_of_one_name_are_told_apart(folders, tmp_path):
    twin = tmp_path / "other" / "a"
    twin.parent.mkdir()
    folders[1].rename(twin)
    runs = run_report.named([run_report.read_run(f) for f in (folders[0], twin)])
    assert [run.name for run in runs] == [f"{tmp_path.name}/a", "other/a"]


def test_page_of_a_run_is_written(folders):
    run = run_report.read_run(folders[0])
    path = run_page.write_page(folders[0], [run_report.run_section(run)], title="a")
    assert "Table III" in path.read_text()
    assert "Table III" in (folders[0] / "report.md").read_text()


def test_read_run_says_where_there_is_no_run(tmp_path):
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UserError, match=str(folder)):
            run_report.read_run(folder)


def test_command_without_a_workdir_says_so():
    command = [sys.executable, "-m", "homae_jax.report"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: --workdir=DIR")
