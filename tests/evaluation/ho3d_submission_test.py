"""Labels exported and scored; the official numbers by hand; files meant to harm."""

import io
import json
import zipfile
import zlib

import numpy as np
import pytest
from scipy.spatial import KDTree

from homae_jax.errors import UserError
from homae_jax.evaluation import ho3d_submission
from homae_jax.evaluation.ho3d_submission import export_submission, score_submission

NUM = 70  # more than one block
AHEAD = np.array([0.0, 0.0, 0.6])
FRAMES = [f"SM1/{i:04d}" for i in range(NUM)]


def make_hands(seed=0, num=NUM):
    rng = np.random.default_rng(seed)
    wrist = rng.normal(size=(num, 1, 3), scale=0.1) + AHEAD
    points = wrist + rng.normal(size=(num, 21 + 778, 3), scale=0.03)
    return points[:, :21], points[:, 21:]


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """A folder with the truth files, and its hands in the OpenCV frame."""
    folder = tmp_path_factory.mktemp("ho3d")
    joints, vertices = make_hands()
    for name, points in (("xyz", joints), ("verts", vertices)):
        points_gl = points * [1, -1, -1]
        (folder / f"evaluation_{name}.json").write_text(json.dumps(points_gl.tolist()))
    return folder, joints, vertices


def export(path, joints, vertices, frames=FRAMES, order=FRAMES):
    return export_submission(path, joints, vertices, frames=frames, order=order)


def test_labels_exported_score_zero_and_one(truth, tmp_path):
    folder, joints, vertices = truth
    scores = score_submission(export(tmp_path / "pred.zip", joints, vertices), folder)
    assert scores["num_frames"] == NUM
    for name in ("mje", "v_pe"):
        assert scores[f"{name}_cm"] == scores[f"{name}_mm"] == 0.0
    for name in ("st_mje", "pa_mje", "pa_v_pe"):
        assert scores[f"{name}_mm"] < 1e-5  # the official 1e-8 in PA is not nothing
    for name in ("f_5", "f_15", "pa_f_5", "pa_f_15"):
        assert scores[name] == 1.0
    for name in ("j_auc", "v_auc"):
        assert scores[name] == pytest.approx(1.0, abs=1e-12)


def test_float32_labels_exported_score_zero_against_their_own_values(tmp_path):
    joints, vertices = (x.astype(np.float32) for x in make_hands(num=3))
    for name, points in (("xyz", joints), ("verts", vertices)):
        text = json.dumps((points * np.float32([1, -1, -1])).tolist())
        (tmp_path / f"evaluation_{name}.json").write_text(text)
    path = export(tmp_path / "pred.zip", joints, vertices, FRAMES[:3], FRAMES[:3])
    assert score_submission(path, tmp_path)["mje_mm"] == 0.0


def test_score_matches_a_known_offset_in_cm_and_mm(truth, tmp_path):
    folder, joints, vertices = truth
    shifts = np.array([0.01, 0, 0]), np.array([0, 0.012, 0])
    moved = export(tmp_path / "p.zip", joints + shifts[0], vertices + shifts[1])
    scores = score_submission(moved, folder)
    assert scores["mje_cm"] == pytest.approx(1.0)
    assert scores["mje_mm"] == pytest.approx(10)
    assert scores["v_pe_mm"] == pytest.approx(12)
    assert scores["st_mje_mm"] == pytest.approx(0, abs=1e-9)
    assert scores["j_auc"] == pytest.approx(1 - 0.01 / 0.05, abs=0.006)
    assert scores["st_j_auc"] == pytest.approx(1, abs=0.006)
    assert scores["f_15"] == 1.0 > scores["f_5"]


def test_score_of_an_all_zero_prediction_is_finite(truth, tmp_path):
    folder, joints, _ = truth
    zeros = [np.zeros((NUM, 21, 3)).tolist(), np.zeros((NUM, 778, 3)).tolist()]
    (tmp_path / "pred.json").write_text(json.dumps(zeros))
    scores = score_submission(tmp_path / "pred.json", folder)
    distance = np.linalg.norm(joints, axis=-1).mean()
    assert scores["mje_mm"] == pytest.approx(1e3 * distance)
    to_wrist = np.linalg.norm(joints - joints[:, :1], axis=-1).mean()
    assert scores["st_mje_mm"] == pytest.approx(1e3 * to_wrist)
    assert scores["f_15"] == 0.0 and np.isfinite(list(scores.values())).all()


def test_export_is_the_official_file_in_the_official_order(tmp_path):
    joints, vertices = make_hands(num=3)
    frames = ["B/0", "A/0", "C/0"]
    export(tmp_path / "pred.zip", joints, vertices, frames, ["A/0", "B/0", "C/0"])
    with zipfile.ZipFile(tmp_path / "pred.zip") as archive:
        assert archive.namelist() == ["pred.json"]
        xyz, verts = json.loads(archive.read("pred.json"))
    signs = np.array([1, -1, -1])
    np.testing.assert_array_equal(np.array(xyz), joints[[1, 0, 2]] * signs)
    np.testing.assert_array_equal(np.array(verts), vertices[[1, 0, 2]] * signs)
    first = (tmp_path / "pred.zip").read_bytes()
    export(tmp_path / "pred.zip", joints, vertices, frames, ["A/0", "B/0", "C/0"])
    assert (tmp_path / "pred.zip").read_bytes() == first


def broken_exports():
    joints, vertices = make_hands(num=3)
    names = ["a", "b", "c"]
    holed = joints.copy()
    holed[1, 5, 0] = np.nan
    inf = vertices.copy()
    inf[2, 7, 1] = np.inf
    gl = [1, -1, -1]
    return {
        "1 of 4 frames have no prediction, first d": (
            joints,
            vertices,
            names,
            [*names, "d"],
        ),
        "1 predicted frames are not listed, first c": (
            joints,
            vertices,
            names,
            names[:2],
        ),
        "frame a is predicted 2 times": (joints, vertices, ["a", "a", "c"], names),
        "frame b is listed 2 times": (joints, vertices, names, ["a", "b", "b"]),
        "frame b: predicted joints are not finite": (holed, vertices, names, names),
        "frame c: predicted vertices are not finite": (joints, inf, names, names),
        "frame a: all joints lie behind the camera": (
            joints * gl,
            vertices,
            names,
            names,
        ),
    }


@pytest.mark.parametrize("message", list(broken_exports()))
def test_export_refuses_and_writes_nothing(message, tmp_path):
    with pytest.raises(UserError, match=message):
        export(tmp_path / "pred.zip", *broken_exports()[message])
    assert list(tmp_path.iterdir()) == []


# --- files to score that are broken, or meant to harm ---


def zipped(path, members, **options):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"pred.json": "[]", "more.txt": ""},
        {"pred.json": "[]", "pred_mano.json": "[]"},
        {"pred.txt": "[]"},
        {"../pred.json": "[]"},
        {"/etc/pred.json": "[]"},
        {"folder/pred.json": "[]"},
    ],
)
def test_score_refuses_archives_that_hold_anything_else(members, truth, tmp_path):
    path = zipped(tmp_path / "pred.zip", members)
    with pytest.raises(UserError, match=r"must hold one \.json file alone"):
        score_submission(path, truth[0])
    assert [x.name for x in tmp_path.iterdir()] == ["pred.zip"]


def test_score_refuses_an_archive_that_unpacks_to_too_much(
    truth, tmp_path, monkeypatch
):
    monkeypatch.setattr(ho3d_submission, "MAX_BYTES", 10_000)
    path = zipped(tmp_path / "pred.zip", {"pred.json": " " * 20_000})
    with pytest.raises(UserError, match="unpacks to"):
        score_submission(path, truth[0])


def test_score_stops_at_an_archive_that_lies_about_its_size(truth, tmp_path):
    data = zlib.compress(b"[[" + b" " * 50_000_000, 9)
    assert len(data) < 100_000
    path = zipped(tmp_path / "pred.zip", {"pred.json": "[[" + " " * 10_000_000})
    raw = bytearray(path.read_bytes())
    size = (10_000_002).to_bytes(4, "little")
    while size in raw:  # in the local header and the directory
        at = raw.index(size)
        raw[at : at + 4] = (100).to_bytes(4, "little")
    path.write_bytes(raw)
    with pytest.raises(UserError, match=r"not a sound zip|ends too early"):
        score_submission(path, truth[0])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "{}",
        "[[",
        "[" * 100_000,
        '["joints", "vertices"]',
        "[[[1, 2, 3]], []]",
        "[[" + json.dumps([["1", "2", "3"]] * 21) + "], []]",
        "[[" + json.dumps([[float("nan")] * 3] * 21) + "], []]",
        "[[" + json.dumps([[10**400, 0, 0]] * 21) + "], []]",
        "[[" + json.dumps([[0.0, 0.0]] * 21) + "], []]",
        "[[" + "1" * 3_000_000,
    ],
)
def test_score_names_a_file_that_is_no_submission(text, truth, tmp_path):
    (tmp_path / "pred.json").write_text(text)
    with pytest.raises(UserError, match=r"pred\.json: .*not a submission"):
        score_submission(tmp_path / "pred.json", truth[0])


def test_score_refuses_another_number_of_frames(truth, tmp_path):
    joints, vertices = make_hands(num=3)
    path = export(tmp_path / "pred.zip", joints, vertices, FRAMES[:3], FRAMES[:3])
    with pytest.raises(UserError, match=f"3 frames, but the truth has {NUM}"):
        score_submission(path, truth[0])


@pytest.mark.parametrize(
    ("keep", "message"), [(NUM - 5, "meshes of 65"), (NUM, "more")]
)
def test_score_refuses_another_number_of_meshes(keep, message, truth, tmp_path):
    folder, joints, vertices = truth
    meshes = [
        *vertices[:keep].tolist(),
        *([] if keep < NUM else [vertices[0].tolist()]),
    ]
    (tmp_path / "pred.json").write_text(json.dumps([(-joints).tolist(), meshes]))
    with pytest.raises(UserError, match=message):
        score_submission(tmp_path / "pred.json", folder)


def test_score_refuses_the_opencv_frame(truth, tmp_path):
    folder, joints, vertices = truth
    text = json.dumps([joints.tolist(), vertices.tolist()])
    (tmp_path / "pred.json").write_text(text)
    with pytest.raises(UserError, match="OpenGL camera frame"):
        score_submission(tmp_path / "pred.json", folder)


def test_a_mesh_of_another_size_has_f_scores_alone(truth, tmp_path):
    folder, joints, vertices = truth
    signs = np.array([1, -1, -1])
    hands = [(joints * signs).tolist(), (vertices[:, :100] * signs).tolist()]
    (tmp_path / "pred.json").write_text(json.dumps(hands))
    scores = score_submission(tmp_path / "pred.json", folder)
    assert scores["mje_mm"] == 0 and "v_pe_mm" not in scores
    assert "pa_f_5" not in scores
    for key, threshold in (("f_5", 0.005), ("f_15", 0.015)):
        expected = []
        for mesh in vertices:  # each of the hundred is a vertex: precision 1
            recall = (KDTree(mesh[:100]).query(mesh)[0] < threshold).mean()
            expected.append(2 * recall / (1 + recall))
        assert scores[key] == pytest.approx(np.mean(expected), abs=1e-12)


def test_score_names_missing_files(truth, tmp_path):
    with pytest.raises(UserError, match=r"pred\.zip: cannot be read"):
        score_submission(tmp_path / "pred.zip", truth[0])
    (tmp_path / "pred.zip").write_bytes(b"PK not a zip")
    with pytest.raises(UserError, match="not a sound zip"):
        score_submission(tmp_path / "pred.zip", truth[0])
    with pytest.raises(UserError, match=r"evaluation_xyz\.json: cannot be read"):
        score_submission(zipped(tmp_path / "p.zip", {"pred.json": "[]"}), tmp_path)


def test_reader_takes_blanks_and_entries_across_chunks(monkeypatch):
    monkeypatch.setattr(ho3d_submission, "CHUNK", 7)
    text = b" [\n [[1.5, 2, -3e-1], [4, 5, 6]] ,\t[[0, 0, 0], [1, 1, 1]] ]  "
    reader = ho3d_submission._Reader(io.BytesIO(text), "x")
    first, second = reader.entries(2)
    np.testing.assert_array_equal(first, [[1.5, 2, -0.3], [4, 5, 6]])
    np.testing.assert_array_equal(second, [[0, 0, 0], [1, 1, 1]])
