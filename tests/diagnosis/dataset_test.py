"""`doctor data`: counts, every missing file, reasons, pictures; on both layouts."""

import csv
import shutil

import cv2
import numpy as np
import pytest

from homae_jax import doctor
from homae_jax.data.dexycb_files import SERIALS
from homae_jax.data.ho3d import Ho3dSource
from homae_jax.diagnosis import agreement, dataset, sheet
from homae_jax.diagnosis.survey import Count, Survey
from homae_jax.errors import UserError
from tests.data import dexycb_tree, ho3d_tree


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def ho3d(tmp_path):
    return ho3d_tree.write_tree(tmp_path / "ho3d")


@pytest.fixture(scope="module")
def whole_dexycb(tmp_path_factory):
    return dexycb_tree.write_tree(tmp_path_factory.mktemp("data") / "dexycb")


@pytest.fixture
def dexycb(whole_dexycb, tmp_path):
    return shutil.copytree(whole_dexycb, tmp_path / "dexycb")


def run(root, out, *options):
    arguments = [f"--root={root}", f"--out={out}", "--frames=2", *options]
    return doctor.check_dataset(arguments)


def test_ho3d_is_counted_drawn_and_whole(ho3d, tmp_path, capsys):
    assert run(ho3d, tmp_path / "out") == 0
    text = capsys.readouterr().out
    assert "HO-3D v2" in text and "missing files: 0" in text
    (line,) = [x for x in text.splitlines() if x.startswith("train: frames listed")]
    assert line.split()[-3:] == ["3", "66,034", "differs"]
    (line,) = [x for x in text.splitlines() if "without the pitcher" in x]
    assert line.split()[-1] == "1"
    assert "left out of train: 1 (not annotated)" in text
    rows = list(csv.reader((tmp_path / "out" / "left_out.csv").open()))
    assert rows == [
        ["split", "frame", "reason"],
        ["train", "MC1/0011", "not annotated"],
    ]
    for split in ("train", "evaluation"):
        picture = cv2.imread(str(tmp_path / "out" / f"frames_{split}.png"))
        assert picture.shape[0] > sheet.CELL_HEIGHT and picture.std() > 10


def test_ho3d_names_every_missing_file(ho3d, tmp_path, capsys):
    gone = [
        "train/SM2/rgb/0001.png",
        "train/SM2/meta/0003.pkl",
        "train/MC1/seg/0010.jpg",
    ]
    for name in gone:
        (ho3d / name).unlink()
    assert run(ho3d, tmp_path / "out") == 1
    text = capsys.readouterr().out
    assert "missing files: 3" in text
    named = (tmp_path / "out" / "missing.txt").read_text().splitlines()
    assert [name.partition(" or ")[0] for name in named] == gone
    assert all(name in text for name in named)
    assert "listed, but label file missing" in text
    assert "not drawn: " in text or (tmp_path / "out" / "frames_train.png").is_file()


def test_ho3d_v3_is_known_by_its_pictures(tmp_path, capsys):
    root = ho3d_tree.write_tree(tmp_path / "v3", suffix=".jpg")
    assert run(root, tmp_path / "out") == 0
    text = capsys.readouterr().out
    assert "HO-3D v3" in text and "83,325" in text and "20,137" in text
    assert "--config.evaluate.fingertips=h2o3d" in text


def test_masks_that_were_not_downloaded_are_a_note(ho3d, tmp_path, capsys):
    assert run(ho3d, tmp_path / "all") == 0
    text = capsys.readouterr().out
    assert "sequences; they are" not in text and "evaluate.fingertips" not in text
    for folder in (ho3d / "train").glob("*/seg"):
        shutil.rmtree(folder)
    assert run(ho3d, tmp_path / "out") == 0
    assert "note: train has masks of 0 of 2 sequences" in capsys.readouterr().out


def test_dexycb_is_counted_by_every_filter(dexycb, tmp_path, capsys):
    assert run(dexycb, tmp_path / "out") == 1  # eight subjects are not there
    text = capsys.readouterr().out
    for words in (
        ["s0_train:", "frames", "128", "465,504", "differs"],
        ["s0_train:", "filter", '"annotated"', "64", "406,888", "differs"],
        ["s0_test:", "filter", '"hoisdf_full"', "8", "78,005", "differs"],
        ["s0_train:", "filter", '"right"', "32"],
    ):
        assert words in [line.split() for line in text.splitlines()]
    assert "left out of s0_train: 64 (no hand annotation)" in text
    assert "missing files: 8" in text and "20200813-subject-02/" in text
    assert "has 5 of 100 sequences" in text
    for split in ("s0_train", "s0_test"):
        assert (tmp_path / "out" / f"frames_{split}.png").is_file()


def test_dexycb_names_every_missing_file(dexycb, tmp_path, capsys):
    sequence = "20200709-subject-01/20200709_140042"
    gone = [
        f"{sequence}/{SERIALS[0]}/color_000001.jpg",
        f"{sequence}/{SERIALS[3]}/labels_000000.npz",
        f"calibration/intrinsics/{SERIALS[0]}_640x480.yml",
    ]
    shutil.rmtree(dexycb / sequence / SERIALS[5])
    for name in gone[:2]:
        (dexycb / name).unlink()
    assert run(dexycb, tmp_path / "out") == 1
    named = (tmp_path / "out" / "missing.txt").read_text().splitlines()
    assert set(named) >= {*gone[:2], f"{sequence}/{SERIALS[5]}/"}
    (dexycb / gone[2]).unlink()
    run(dexycb, tmp_path / "again")
    assert gone[2] in (tmp_path / "again" / "missing.txt").read_text().splitlines()
    capsys.readouterr()


def test_long_lists_are_cut_on_the_console():
    survey = Survey("a", (Count("b", 1),), tuple("x" * 50), {}, (), {})
    assert "... and 30 more, in missing.txt" in dataset.format_survey(survey)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--root=/nowhere"], "no such folder"),
        ([], "--root=... is missing"),
        (["--bogus=1"], "unrecognized arguments: --bogus=1"),
        (["--root=/tmp", "--frames=x"], "--frames: 'x': wants a whole number"),
        (["--root=/tmp", "--dataset=coco"], "invalid choice"),
        (["--root=/", "--out=x"], "neither HO-3D"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    assert doctor.check_dataset(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1


def test_help_says_where_the_report_goes(capsys):
    with pytest.raises(SystemExit):
        doctor.check_dataset(["--help"])
    assert "default: ./doctor_data" in capsys.readouterr().out


def test_object_fit_sees_a_shift_and_a_wrong_depth(ho3d):
    """A mask and a depth made of the model itself agree; moved ones do not."""
    frame = Ho3dSource(ho3d, "train")[0]
    corners = frame["object_corners"]
    faces = np.array(
        [
            *([0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1]),
            *([2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]),
        ],
        np.int32,
    )
    model = agreement.Model(corners, faces)
    surface = agreement.rasterize(
        agreement.posed(model, frame), faces, frame["intrinsics"], 480, 640
    )[2]
    masks = np.where(surface > 0, agreement.OBJECT, 0).astype(np.uint8)
    frame["segmentation"] = masks
    fit = agreement.object_fit(frame, model, surface)
    assert fit.iou == pytest.approx(1, abs=1e-3) and fit.depth < 1e-6
    behind = agreement.object_fit(frame, model, np.where(surface > 0, 0.2, 0))
    assert behind.iou == 0  # something stands before all of it
    deeper = agreement.object_fit(
        frame, model, np.where(surface > 0, surface + 0.02, 0)
    )
    assert deeper.depth == pytest.approx(0.02, abs=1e-3)
    frame["object_trans"] = frame["object_trans"] + [0.02, 0, 0]
    assert agreement.object_fit(frame, model, surface).iou < 0.9


def test_detect_refuses_a_folder_of_neither(tmp_path):
    with pytest.raises(UserError, match="neither HO-3D"):
        dataset.detect(tmp_path)
