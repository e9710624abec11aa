"""What the tables say, in every format, of a result with known numbers."""

import json
import re

import pytest

from homae_jax.errors import UserError
from homae_jax.evaluation import rendering, tables

METRICS = {
    "mje_mm": 21.84,
    "mje_root_mm": 21.84,
    "st_mje_mm": 20.0,
    "pa_mje_mm": 9.876,
    "j_auc": 0.5,
    "pa_j_auc": 0.8,
    "v_pe_mm": 22.0,
    "pa_v_pe_mm": 10.0,
    "v_auc": 0.5,
    "pa_v_auc": 0.79,
    "f_5": 0.4,
    "f_15": 0.9,
    "pa_f_5": 0.6,
    "pa_f_15": 0.95,
    "oce_mm": 17.0,
    "mce_mm": 25.0,
    "add_s_mm": 11.0,
    "ome_mm": 40.0,
    "object_rotation_deg": 30.0,
    "rec_masked_mse": 0.25,
    "sdf_sign_hand": 0.93,
    "new_value": 0.125,
}
BASELINES = {"mje_mm": 43.68, "oce_mm": 34.0, "rec_masked_mse": 0.5, "j_auc": 0.1}


def make_result(dataset="ho3d"):
    group = {"num_samples": 7, "metrics": METRICS, "baselines": BASELINES}
    bounds = {"visible_from": 0.4, "visible_below": 0.6}
    section = {
        "excluded": {"object_metrics_019_pitcher_base": 1234},
        "metrics": METRICS,
        "baselines": BASELINES,
        "per_object": {"006_mustard_bottle": group},
        "by_occlusion": {"hand": {"heavy": bounds | group}, "object": {}},
    }
    settings = {"dataset": dataset, "split": "evaluation", "root": "gt"}
    return {
        "protocol": {"name": "hoisdf", "hand": "standard", **settings},
        "num_samples": 11524,
        **section,
        "other_protocols": {"standard": {**section, "excluded": {}}},
        "probed": {"num_samples": 96},
    }


def with_objects(result, rows):
    """OME and ADD-S of each object are the first and the third of its row."""
    nums = (100, 500, 300, 200)
    groups = {
        name: {
            "num_samples": num,
            "metrics": METRICS | {"ome_mm": row[0], "add_s_mm": row[2]},
        }
        for num, (name, row) in zip(nums, rows.items(), strict=False)
    }
    return result | {"per_object": groups}


def row_of(text, label):
    (line,) = [x for x in text.splitlines() if x.strip().startswith(label)]
    return line.split()


def test_table_3_has_the_papers_columns_rows_and_our_counts():
    text = rendering.render(tables.table_3(make_result()))
    header = row_of(text, "method")
    assert header[:6] == ["method", "MJE", "ST-MJE", "PA-MJE", "OME", "ADD-S"]
    assert row_of(text, "HOISDF")[1:6] == ["23.6", "22.8", "9.6", "48.5", "17.8"]
    assert row_of(text, "HOMAE (paper)")[2:7] == ["21.8", "20.5", "9.8", "39.3", "14.2"]
    own = row_of(text, "ours")
    assert own == ["ours", "21.8", "20.0", "9.9", "40.0", "11.0", "11524/10290"]
    assert "protocol hoisdf" in text and "root=gt" in text
    assert "left out of object metrics: 1234 (019 pitcher base)" in text


def test_table_1_has_the_papers_columns_and_decimals():
    table = tables.table_1(make_result("dexycb"))
    assert tuple(table.header[1:6]) == ("MJE", "PA-MJE", "OCE", "MCE", "ADD-S")
    own = row_of(rendering.render(table), "ours")
    assert own[1:6] == ["21.8", "9.88", "17.0", "25.0", "11.0"]


def test_tables_of_dexycb_say_which_frames():
    result = make_result("dexycb")
    result["protocol"] |= {"filter": "hoisdf_small", "left_hands": "mirror"}
    text = rendering.render(tables.table_1(result))
    assert "frames: filter hoisdf_small, left hands: mirror" in text
    assert "published rows: " not in text
    text = rendering.render(tables.table_2(result))
    assert "published rows: frames of filter hoisdf_full, not hoisdf_small" in text
    result["protocol"]["filter"] = "right"
    text = rendering.render(tables.table_1(result))
    assert "published rows: frames of filter hoisdf_small, not right" in text


@pytest.mark.parametrize("table", [tables.table_3, tables.table_4])
def test_tables_of_ho3d_say_which_version(table):
    result = make_result()
    assert "published rows: " not in rendering.render(table(result))
    result["protocol"] |= {"version": "v3"}
    assert "frames of version v2, not v3" in rendering.render(table(result))


def test_table_2_prints_shares_as_percent():
    own = row_of(rendering.render(tables.table_2(make_result("dexycb"))), "ours")
    assert own[1:6] == ["80.0", "10.0", "79.0", "60.0", "95.0"]


def test_table_4_puts_single_objects_beside_the_published_ones():
    text = rendering.render(tables.table_4(make_result()))
    assert row_of(text, "006_mustard_bottle") == [
        *("006_mustard_bottle", "52.1", "42.3", "40.0", "13.1", "11.2", "11.0", "7"),
    ]
    assert row_of(text, "010_potted_meat_can")[3] == "-"
    assert row_of(text, "mean")[-1] == "7"  # of the objects it is the mean of


def test_objects_weigh_the_same_in_the_means_beside_the_published_ones():
    """(52.1 + 51.8 + 41.6) / 3 = 48.5: HOISDF's mean is one of objects, not frames."""
    published = {
        name: row for name, row in tables.PUBLISHED_4.items() if name != "mean"
    }
    for column in range(4):
        mean = sum(row[column] for row in published.values()) / 3
        assert mean == pytest.approx(tables.PUBLISHED_4["mean"][column], abs=0.051)
    result = with_objects(make_result(), published)
    mean = row_of(rendering.render(tables.table_4(result)), "mean")
    assert mean[1] == mean[3] == "48.5" and mean[4] == mean[6] == "17.8"
    assert mean[-1] == "900"
    text = rendering.render(tables.table_3(result))
    assert row_of(text, "ours")[4:6] == ["48.5", "17.8"]
    assert "3 objects' means, as published" in text
    assert "over frames: OME 40.0, ADD-S 11.0" in text
    runs = rendering.render(tables.runs_table({"full": result, "again": result}))
    assert row_of(runs, "full")[4:6] == row_of(text, "ours")[4:6]
    assert runs.count("3 objects' means, as published") == 1


def test_other_objects_than_the_published_count_and_are_named():
    rows = dict(tables.PUBLISHED_4) | {"025_mug": (9.0, 0.0, 1.0, 0.0)}
    del rows["mean"]
    four = with_objects(make_result(), rows)
    four["per_object"]["019_pitcher_base"] = {
        "num_samples": 5,
        "metrics": {"mje_mm": 1.0},  # the protocol leaves the object's out
    }
    text = rendering.render(tables.table_3(four))
    assert row_of(text, "ours")[4] == f"{(52.1 + 51.8 + 41.6 + 9.0) / 4:.1f}"
    assert "the mean of 4 objects' means, published: of Table IV's three" in text
    text = rendering.render(tables.table_4(four))
    assert row_of(text, "mean")[3] == "48.5"
    assert "not in this table, nor its mean: 025_mug\n" in text + "\n"
    three = with_objects(make_result(), {k: rows[k] for k in [*rows][:3]})
    runs = rendering.render(tables.runs_table({"a": three, "b": four}))
    assert "a: OME and ADD-S: the mean of 3" in runs
    assert "b: OME and ADD-S: the mean of 4" in runs


def test_only_on_ho3d_are_runs_averaged_over_objects():
    result = with_objects(make_result("synthetic"), {"025_mug": (9.0, 0, 1.0, 0)})
    text = rendering.render(tables.runs_table({"full": result}))
    assert row_of(text, "full")[4:6] == ["40.0", "11.0"] and "objects" not in text


def test_tables_say_which_step_and_when_frames_are_left_out():
    result = make_result()
    result["protocol"] |= {"step": 1000, "data.max_eval_frames": 50}
    text = rendering.render(tables.table_3(result))
    assert "root=gt, step 1000" in text and "data.max_eval_frames=50" in text


def test_overview_gives_the_ratio_to_the_trivial_predictor():
    text = rendering.render(tables.overview_table(make_result()))
    assert row_of(text, "hand  MJE, mm")[-4:] == ["21.8", "43.7", "0.50", "11524"]
    assert row_of(text, "object  OCE, mm")[-4:] == ["17.0", "34.0", "0.50", "10290"]
    assert row_of(text, "hand  J-AUC, %")[-4:] == ["50.0", "10.0", "-", "11524"]
    assert row_of(text, "image")[-4:] == ["0.2500", "0.5000", "0.50", "96"]
    assert row_of(text, "SDF")[-4:] == ["93.0", "-", "-", "96"]
    assert row_of(text, "new_value")[-4:] == ["0.1250", "-", "-", "96"]
    assert "wrist on wrist" not in text  # says the same as the line before


@pytest.mark.parametrize("dataset", ["ho3d", "dexycb", "synthetic"])
def test_format_result_fits_a_terminal(dataset):
    text = tables.format_result(make_result(dataset))
    assert max(map(len, text.splitlines())) <= 100
    assert text.isascii()
    assert ("Table III" in text) == (dataset == "ho3d")
    assert ("Table II." in text) == (dataset == "dexycb")


def test_format_result_without_hand_labels_or_occlusion_still_prints():
    result = make_result()
    kept = {key: METRICS[key] for key in ("oce_mm", "add_s_mm", "ome_mm", "mce_mm")}
    result |= {"metrics": kept, "baselines": {}, "by_occlusion": {"hand": {}}}
    result["per_object"]["006_mustard_bottle"]["metrics"] = kept
    text = tables.format_result(result)
    assert row_of(text, "ours")[1:4] == ["-", "-", "-"]
    assert "visible" not in text and "trivial:" not in text


def test_occlusion_table_shows_both_parts():
    own = row_of(rendering.render(tables.occlusion_table(make_result())), "heavy")
    assert own == [
        *("heavy", "(40-60", "%)", "21.8", "9.9", "43.7", "7", "-", "-", "-", "0"),
    ]


def test_protocols_table_counts_each_protocols_samples():
    text = rendering.render(tables.protocols_table(make_result()))
    assert row_of(text, "hoisdf")[-1] == "10290"
    assert row_of(text, "standard")[-1] == "11524"


def test_runs_table_lists_runs():
    text = rendering.render(tables.runs_table({"full": make_result()}, title="Table V"))
    assert text.startswith("Table V\n") and row_of(text, "full")[1] == "21.8"
    assert row_of(text, "full")[-1] == "11524/10290"


def test_submission_table_prints_cm_as_the_leaderboard():
    scores = {
        "num_frames": 3,
        "mje_cm": 2.184,
        "mje_mm": 21.84,
        "j_auc": 0.5,
        "f_5": 0.4,
    }
    text = rendering.render(tables.submission_table(scores))
    assert row_of(text, "joints: error")[-2:] == ["2.18", "21.8"]
    assert row_of(text, "f_5, %")[-2:] == ["40.0", "-"]


def test_render_markdown_has_a_row_per_row():
    text = rendering.render(tables.table_3(make_result()), "markdown")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 5 and {row.count("|") for row in rows} == {8}


def test_render_latex_escapes_and_closes():
    text = rendering.render(tables.table_4(make_result()), "latex")
    assert r"006\_mustard\_bottle & 52.1 &" in text
    assert text.count(r"\\") == 5 and text.endswith(r"\end{table}")
    assert r"\begin{tabular}{lrrrrrrr}" in text


@pytest.mark.parametrize("dataset", ["ho3d", "dexycb", "synthetic"])
def test_write_tables_writes_latex_that_tex_can_read(dataset, tmp_path):
    """Groups and environments close, every row has its columns, nothing is raw."""
    paths = tables.write_tables(make_result(dataset), tmp_path, "scores")
    assert sorted(p.suffix for p in paths) == [".json", ".md", ".tex", ".txt"]
    text = (tmp_path / "scores.tex").read_text()
    assert text.startswith("% \\usepackage{booktabs}\n")
    body = text.partition("\n")[2]
    bare = re.sub(r"\\[&%$#_{}]", "", body)
    assert not re.search(r"[%$#_^~]", bare) and bare.isascii()
    assert bare.count("{") == bare.count("}")
    opened, num_columns = [], 0
    for line in bare.splitlines():
        if begin := re.match(r"\s*\\begin{(\w+)}(?:{(\w+)})?", line):
            opened.append(begin[1])
            num_columns = len(begin[2] or "")
        elif end := re.match(r"\s*\\end{(\w+)}", line):
            assert opened.pop() == end[1]
        elif line.endswith(r"\\"):
            assert opened[-1] == "tabular" and line.count("&") + 1 == num_columns
        else:
            assert "&" not in line
    assert not opened
    titles = [t["title"] for t in json.loads((tmp_path / "scores.json").read_text())]
    assert body.count(r"\begin{table}") == len(titles)
    assert all(t in (tmp_path / "scores.md").read_text() for t in titles)


def test_render_json_keeps_full_numbers():
    table = json.loads(rendering.render(tables.table_3(make_result()), "json"))
    own = table["rows"][-1]
    assert own["method"] == "ours" and own["PA-MJE"] == 9.876
    whole = json.loads(tables.format_result(make_result(), "json"))
    assert [x["title"].split(".")[0] for x in whole][:2] == ["Table III", "Table IV"]


def test_render_raises_on_an_unknown_format():
    with pytest.raises(UserError, match='"html": use one of console'):
        rendering.render(tables.table_3(make_result()), "html")
