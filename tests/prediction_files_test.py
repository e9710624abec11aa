"""What predict reads and writes, with a predictor that needs no network."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import trimesh
from PIL import Image
from scipy.spatial.transform import Rotation

from homae_jax import prediction_files
from homae_jax.data import photos
from homae_jax.errors import UserError
from homae_jax.predictor import (
    UNNAMED,
    Inspection,
    ObjectShape,
    Prediction,
    Predictor,
    mirrored_pose,
)
from homae_jax.viz import prediction_views

ROOT = Path(__file__).resolve().parents[1]
BALL = trimesh.creation.icosphere(subdivisions=3, radius=0.06)
HAND = np.resize(BALL.vertices, (778, 3))
FACES = np.array([f for f in BALL.faces if max(f) < 642])
CENTER = np.array([0.02, 0.0, 0.5])
SHAPE = ObjectShape("ball", 0.8 * BALL.vertices, np.asarray(BALL.faces))


class ToyPredictor(Predictor):
    """Says the same of every picture, and what it was given."""

    def __init__(self):
        self.calls = []

    def __call__(self, image, *, focal_35mm=None, **keywords):
        self.calls.append(keywords)
        height, width = image.shape[:2]
        taken = photos.choose_camera(
            width, height, intrinsics=keywords.get("intrinsics"), fov_deg=50.0
        )
        pose = np.eye(4)
        pose[:3, 3] = CENTER + np.array([0.05, 0.0, 0.0])
        points = np.zeros((4, 3)) + CENTER
        joints = np.linspace(-0.05, 0.05, 63).reshape(21, 3) + CENTER
        return Prediction(
            joints_cam=joints,
            vertices_cam=HAND + CENTER,
            hand_faces=FACES,
            hand_pose_aa=np.zeros((16, 3)),
            hand_betas=np.zeros(10),
            wrist_cam=joints[0],
            cam_T_obj=pose,
            object_shape=keywords.get("object_shape") or SHAPE,
            object_scores={"ball": 1.0},
            hand_points_cam=points,
            hand_points_sdf=np.zeros(4),
            object_points_cam=points,
            object_points_sdf=np.zeros(4),
            hand_box_px=np.array([1.0, 2.0, 30.0, 40.0]),
            object_box_px=np.array([1.0, 2.0, 30.0, 40.0]),
            picture_intrinsics=taken.intrinsics,
            crop_intrinsics=taken.intrinsics,
            crop_affine=np.eye(3),
            crop=np.zeros((64, 64, 3), np.uint8),
            is_left=keywords["is_left"],
            is_metric=taken.is_metric,
            camera_source=taken.source,
            predicted_inputs=("wrist",),
            hand_mask=np.zeros((32, 32)),
            object_mask=np.zeros((32, 32)),
            network_input=_Input,
        )

    def find_object(self, shape):
        return SHAPE._replace(name=shape)

    find_believed = find_object

    def inspect(self, result, *, seed=0):
        crop = np.zeros((64, 64, 3), np.uint8)
        slices = {part: np.ones((8, 8)) for part in ("hand", "object")}
        return Inspection(crop, crop, slices)


class _Input:
    """The one field of a Batch that is drawn."""

    image = np.zeros((1, 64, 64, 3), np.uint8)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    image = np.full((60, 80, 3), 120, np.uint8)
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(folder / name), image)
    truth = np.linspace(-0.05, 0.05, 63).reshape(21, 3)
    truth[1:] += [0.0, 0.003, 0.004]  # 5 mm off but for the wrist
    notes = {"K": [100, 100, 40, 30], "left": True, "joints_cam": truth.tolist()}
    (folder / "a.json").write_text(json.dumps(notes))
    return folder


SWITCHES = {"skeleton": True, "details": True}


def test_predict_folder_writes_every_file_and_the_page(pictures, tmp_path, capsys):
    (pictures / "broken.jpg").write_bytes(b"no picture")
    predict, out = ToyPredictor(), tmp_path / "out"
    prediction_files.predict_folder(predict, pictures, out, {}, **SWITCHES)
    assert sorted(p.name for p in (out / "a").iterdir()) == [
        "front.png", "meshes.glb", "meshes.obj", "overlay.png", "prediction.json",
        "reconstruction.png", "sdf.png", "sheet.png", "side.png",
    ]  # fmt: skip
    assert [call["is_left"] for call in predict.calls] == [True, False]
    np.testing.assert_array_equal(
        predict.calls[0]["intrinsics"], [[100, 0, 40], [0, 100, 30], [0, 0, 1]]
    )
    result = json.loads((out / "a" / "prediction.json").read_text())
    assert result["is_metric"] and result["object_name"] == "ball"
    np.testing.assert_allclose(result["measured"]["error_mm"], 5 * 20 / 21, rtol=1e-6)
    np.testing.assert_allclose(result["cam_T_obj"][0], [1, 0, 0, 0.07])
    assert len(result["vertices_cam"]) == 778 and "metres" in result["conventions"]
    page = (out / "index.html").read_text()
    assert "a.png" in page and "hand occlusion" in page
    printed = capsys.readouterr().out
    assert "left out" in printed and "broken.jpg" in printed and "2 of 3" in printed


def test_every_key_of_the_file_is_in_the_docs(pictures, tmp_path):
    prediction_files.predict_picture(
        ToyPredictor(), pictures / "b.png", tmp_path / "out", {}, **SWITCHES
    )
    result = json.loads((tmp_path / "out" / "prediction.json").read_text())
    text = (ROOT / "docs" / "predict.md").read_text(encoding="utf-8")
    for key in (*result, *result["measured"]):
        assert f"`{key}`" in text


def test_pictures_of_one_stem_get_folders_of_their_own(pictures, tmp_path):
    (pictures / "a.jpg").write_bytes((pictures / "a.png").read_bytes())
    prediction_files.predict_folder(
        ToyPredictor(), pictures, tmp_path / "out", {}, **SWITCHES
    )
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["a_jpg", "a_png", "b", "index.html"]


def test_no_two_pictures_share_a_folder_and_none_is_a_file(tmp_path):
    names = ["a.jpg", "a.png", "a_png.jpg", "A_JPG.png", "c"]
    (tmp_path / "c").touch()
    found = prediction_files.folder_names([Path("in") / n for n in names], tmp_path)
    assert {path.name: name for path, name in found.items()} == {
        "a.jpg": "a_jpg_2",
        "a.png": "a_png_2",
        "a_png.jpg": "a_png",
        "A_JPG.png": "A_JPG",
        "c": "c_2",
    }


def test_a_folder_may_be_answered_into_itself(pictures, capsys):
    (pictures / "a.jpg").write_bytes((pictures / "a.png").read_bytes())
    (pictures / "film.xyz").touch()
    prediction_files.check_free(pictures, pictures, {}, overwrite=False)
    prediction_files.predict_folder(ToyPredictor(), pictures, pictures, {}, **SWITCHES)
    assert "3 of 3 pictures" in (printed := capsys.readouterr().out)
    assert "no pictures by their names: 2 (film.xyz, index.html)" in printed


def test_what_is_wrong_with_a_note_names_its_picture(pictures, capsys, tmp_path):
    (pictures / "b.json").write_text('{"K": [1, 2]}')
    prediction_files.predict_folder(
        ToyPredictor(), pictures, tmp_path / "out", {}, **SWITCHES
    )
    assert "left out: b.png: K: wants fx, fy, cx, cy or 9" in capsys.readouterr().out


def test_a_field_of_view_that_is_given_comes_before_a_noted_K(pictures):
    predict = ToyPredictor()
    out = pictures / "out"
    prediction_files.predict_picture(
        predict, pictures / "a.png", out, {"fov": 40.0}, **SWITCHES
    )
    assert predict.calls[0]["fov_deg"] == 40.0
    assert "intrinsics" not in predict.calls[0]


def test_an_answer_leaves_nothing_of_the_one_before(pictures, tmp_path):
    out = tmp_path / "out"
    for details in (True, False):
        prediction_files.predict_picture(
            ToyPredictor(), pictures / "b.png", out, {}, skeleton=False, details=details
        )
        assert (out / "sdf.png").is_file() == details


def test_one_K_is_not_taken_for_pictures_of_two_sizes(pictures, tmp_path):
    Image.fromarray(np.zeros((120, 160, 3), np.uint8)).save(pictures / "c.png")
    (pictures / "d.png").touch()  # no picture: named later
    given = {"K": [100, 100, 40, 30]}
    with pytest.raises(UserError, match=r"a.png \(80 x 60\) and c.png \(160 x 120\)"):
        prediction_files.predict_folder(
            ToyPredictor(), pictures, tmp_path / "out", given, **SWITCHES
        )


def test_links_of_the_page_are_quoted(pictures, tmp_path):
    (pictures / "b.png").rename(pictures / "q?x #1.png")
    prediction_files.predict_folder(
        ToyPredictor(), pictures, tmp_path / "out", {}, **SWITCHES
    )
    assert '"q%3Fx%20%231/"' in (tmp_path / "out" / "index.html").read_text()


def test_an_interrupted_folder_leaves_the_page_of_what_is_done(pictures, tmp_path):
    class Interrupted(ToyPredictor):
        def __call__(self, image, **keywords):
            if self.calls:
                raise KeyboardInterrupt
            return super().__call__(image, **keywords)

    with pytest.raises(KeyboardInterrupt):
        prediction_files.predict_folder(
            Interrupted(), pictures, tmp_path / "out", {}, **SWITCHES
        )
    page = (tmp_path / "out" / "index.html").read_text()
    assert "a.png" in page and "b.png" not in page


TERMINATED = """
import os, signal
from homae_jax import config_flags, predict, predictor
from tests.prediction_files_test import ToyPredictor

class Terminated(ToyPredictor):
    def __call__(self, image, **keywords):
        if self.calls:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().__call__(image, **keywords)

predictor.Predictor = lambda *_, **__: Terminated()
config_flags.run(predict.main, predict.FLAGS, predict.GROUPS)
"""


def test_a_terminated_predict_leaves_the_page_too(pictures, tmp_path):
    """A job's SIGTERM lost the page, and all that it would have held."""
    arguments = [f"--input={pictures}", f"--out={tmp_path / 'out'}", "--nodetails"]
    command = [sys.executable, "-c", TERMINATED, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 130, done.stderr
    assert done.stderr.splitlines()[-1] == "interrupted"
    page = (tmp_path / "out" / "index.html").read_text()
    assert "a.png" in page and "b.png" not in page


def test_predict_picture_says_when_depth_is_not_metric(pictures, tmp_path, capsys):
    prediction_files.predict_picture(
        ToyPredictor(), pictures / "b.png", tmp_path / "out", {}, **SWITCHES
    )
    printed = capsys.readouterr().out
    assert "distances are not metric (give --K)" in printed
    assert "found by the network: wrist" in printed


def test_check_free_keeps_earlier_results(pictures, tmp_path):
    out = tmp_path / "out"
    photo = pictures / "a.png"

    def check(out, overwrite, source=photo, given=None):
        prediction_files.check_free(source, out, given or {}, overwrite=overwrite)

    check(out, False)
    assert out.is_dir()
    (out / "meshes.obj").touch()
    with pytest.raises(UserError, match=r"meshes.obj: exists; add --overwrite"):
        check(out, False)
    check(out, True)
    with pytest.raises(UserError, match="is a file"):
        check(out / "meshes.obj", True)
    with pytest.raises(UserError, match="cannot be made"):
        check(out / "meshes.obj" / "x", True)
    (out / "b").mkdir()
    (out / "b" / "prediction.json").touch()
    with pytest.raises(UserError, match=r"b/prediction.json: exists"):
        check(out, False, source=pictures)


@pytest.mark.parametrize(
    ("name", "given"), [("overlay.png", {}), ("overlay.mp4", {}), ("meshes.obj", None)]
)
def test_no_input_is_written_over(pictures, name, given):
    path = pictures / name
    path.touch()
    source = pictures / "a.png" if given is None else path
    given = {"object": str(path)} if given is None else given
    with pytest.raises(UserError, match=f"{name}: is what is asked about"):
        prediction_files.check_free(source, pictures, given, overwrite=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "wants an object"),
        ('{"k": 1}', "no such key 'k'"),
    ],
)
def test_read_notes_names_what_is_wrong(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        prediction_files.read_notes(path)
    assert prediction_files.read_notes(tmp_path / "none.json") == {}


@pytest.mark.parametrize(
    "notes", [{"left": "false"}, {"left": 1}, {"object": 10}, {"object": ["mug"]}]
)
def test_to_keywords_guesses_nothing(notes):
    with pytest.raises(UserError, match="wants"):
        prediction_files.to_keywords(notes)


@pytest.mark.parametrize("face", ["3 0 1 9", "3 0 1 -1"])
def test_to_keywords_refuses_faces_of_vertices_that_are_not_there(tmp_path, face):
    path = tmp_path / "oob.ply"
    path.write_text(
        "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\n"
        "property float z\nelement face 1\nproperty list uchar int vertex_indices\n"
        f"end_header\n0 0 0\n0.1 0 0\n0 0.1 0\n{face}\n"
    )
    with pytest.raises(UserError, match=r"oob\.ply"):
        prediction_files.to_keywords({"object": str(path)})


@pytest.mark.parametrize(
    "notes",
    [
        {"hand_box": [1, 2, 3]},
        {"root": ["a", 1, 2]},
        {"K": [1, 2]},
        {"K": None, "fov": "wide"},
        {"root": [0, 0, float("nan")]},
    ],
)
def test_to_keywords_refuses_wrong_numbers(notes):
    with pytest.raises(UserError, match="finite number"):
        prediction_files.to_keywords(notes)


def test_to_keywords_reads_a_mesh_of_ones_own(tmp_path):
    path = tmp_path / "cup.obj"
    BALL.export(path)
    shape = prediction_files.to_keywords({"object": str(path)})["object_shape"]
    assert shape.name == "cup" and len(shape.faces) == len(BALL.faces)
    big = BALL.copy()
    big.apply_scale(1000.0)
    big.export(path)
    with pytest.raises(UserError, match="scale it to metres"):
        prediction_files.to_keywords({"object": str(path)})
    path.write_text("no mesh")
    with pytest.raises(UserError, match=r"cup\.obj"):
        prediction_files.to_keywords({"object": str(path)})
    picture = tmp_path / "cup.jpg"
    picture.touch()
    with pytest.raises(UserError, match=r"cup\.jpg: not a mesh; known: \.obj"):
        prediction_files.to_keywords({"object": str(picture)})


def test_predict_video_writes_a_clip_and_a_line_for_each_frame(tmp_path):
    path, out = tmp_path / "clip.mp4", tmp_path / "out"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (80, 60))
    for level in (0, 100, 200):
        writer.write(np.full((60, 80, 3), level, np.uint8))
    writer.release()
    prediction_files.predict_video(
        ToyPredictor(), path, out, {}, smooth=True, **SWITCHES
    )
    lines = (out / "predictions.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["frame"] for record in records] == [0, 1, 2]
    np.testing.assert_allclose(records[2]["seconds"], 0.2)
    assert "vertices_cam" not in records[0]
    clip = cv2.VideoCapture(str(out / "overlay.mp4"))
    assert sum(clip.read()[0] for _ in range(5)) == 3
    assert sorted(p.name for p in out.iterdir()) == [
        "overlay.mp4",
        "predictions.jsonl",
    ]


def test_a_cut_video_says_how_many_frames_it_promised(tmp_path, capsys):
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (80, 60))
    rng = np.random.default_rng(0)
    for _ in range(8):
        writer.write(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8))
    writer.release()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    path.with_suffix(".json").write_text('{"left": true}')
    predict = ToyPredictor()
    prediction_files.predict_video(
        predict, path, tmp_path / "out", {}, smooth=False, **SWITCHES
    )
    assert 0 < len(predict.calls) < 8
    assert all(call["is_left"] for call in predict.calls)
    assert "says that it has 8 frames" in capsys.readouterr().out


def test_calmer_holds_a_left_hands_object_whatever_single_frames_call_it():
    """The plane that it is mirrored in is that of the object which is believed in."""
    right = ToyPredictor()(np.zeros((60, 80, 3), np.uint8), is_left=False)
    turned = Rotation.from_rotvec([0.3, -0.5, 0.8]).as_matrix()
    right.cam_T_obj[:3, :3] = turned
    slab = SHAPE._replace(name="slab", vertices=SHAPE.vertices * [1.0, 0.2, 0.6] + 0.01)
    slab.vertices[slab.vertices[:, 2] > 0.02, 2] += 0.03  # no symmetry along z
    wedge = SHAPE._replace(name="wedge", vertices=SHAPE.vertices * [0.2, 1.0, 1.0])
    wedge.vertices[wedge.vertices[:, 0] > 0, 0] *= 3.0  # none along x
    shapes = {"slab": slab, "wedge": wedge}
    calm = prediction_files.Calmer(1 / 30, shapes.get)
    poses = []
    for frame in range(12):
        name = "wedge" if frame % 4 == 2 else "slab"
        scores = (
            {"slab": 0.9, "wedge": 0.1}
            if name == "slab"
            else {
                "slab": 0.1,
                "wedge": 0.9,
            }
        )
        left = right._replace(
            cam_T_obj=mirrored_pose(right.cam_T_obj, shapes[name]),
            **{"object_shape": shapes[name], "object_scores": scores, "is_left": True},
        )
        answer = calm(left)
        assert answer.object_shape.name == "slab"
        poses.append(answer.cam_T_obj)
    expected = mirrored_pose(right.cam_T_obj, slab)
    np.testing.assert_allclose(poses, np.stack([expected] * 12), atol=1e-9)


def test_an_interrupted_video_leaves_the_frames_that_are_done(tmp_path):
    path, out = tmp_path / "clip.mp4", tmp_path / "out"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (80, 60))
    for _ in range(3):
        writer.write(np.zeros((60, 80, 3), np.uint8))
    writer.release()

    class Interrupted(ToyPredictor):
        def __call__(self, image, **keywords):
            if len(self.calls) == 2:
                raise KeyboardInterrupt
            return super().__call__(image, **keywords)

    with pytest.raises(KeyboardInterrupt):
        prediction_files.predict_video(
            Interrupted(), path, out, {}, smooth=False, **SWITCHES
        )
    assert len((out / "predictions.jsonl").read_text().splitlines()) == 2
    clip = cv2.VideoCapture(str(out / "overlay.mp4"))
    assert sum(clip.read()[0] for _ in range(5)) == 2


def test_calmer_calms_a_noisy_clip_and_keeps_to_one_object():
    """A still hand with noise of 5 mm and 3 degrees; one frame in four sees a ball."""
    rng = np.random.default_rng(0)
    first = ToyPredictor()(np.zeros((60, 80, 3), np.uint8), is_left=False)
    calm = prediction_files.Calmer(1 / 30, ToyPredictor().find_object)
    raw, calmed = [], []
    for frame in range(90):
        noise = 0.005 * rng.normal(size=3)
        pose = first.cam_T_obj.copy()
        pose[:3, :3] = Rotation.from_rotvec(0.05 * rng.normal(size=3)).as_matrix()
        pose[:3, 3] += noise
        belief = 0.9 if frame % 4 == 3 else 0.2
        result = first._replace(
            joints_cam=first.joints_cam + noise,
            vertices_cam=first.vertices_cam + noise,
            wrist_cam=first.wrist_cam + noise,
            cam_T_obj=pose,
            object_scores={"ball": belief, "cup": 1 - belief},
        )
        raw.append(result)
        calmed.append(calm(result))

    def tremor(results, read):
        return np.linalg.norm(np.diff([read(r) for r in results[30:]], axis=0)).mean()

    for read in (
        lambda r: r.joints_cam[8],
        lambda r: r.vertices_cam[100],
        lambda r: r.cam_T_obj[:3, 3],
        lambda r: Rotation.from_matrix(r.cam_T_obj[:3, :3]).as_rotvec(),
    ):
        assert tremor(calmed, read) < 0.5 * tremor(raw, read)
    assert {r.object_shape.name for r in calmed} == {"cup"}
    np.testing.assert_allclose(sum(calmed[-1].object_scores.values()), 1.0)


def test_describe_says_that_an_object_is_not_recognised():
    result = ToyPredictor()(np.zeros((60, 80, 3), np.uint8), is_left=False)
    shares = prediction_views.Shares(1.0, 1.0, 0.0)

    def said(scores, shape):
        result_ = result._replace(object_scores=scores, object_shape=shape)
        answered = prediction_files.Answered("a.png", result_, shares, None, {})
        name = prediction_files.to_json(result_)["object_name"]
        return prediction_files.describe(answered), name

    text, name = said({"ball": 0.4, "cup": 0.3}, SHAPE._replace(name=UNNAMED))
    assert "not recognised (perhaps ball 40 %, cup 30 %)" in text and name is None
    text, name = said({"ball": 0.8, "cup": 0.2}, SHAPE._replace(name=UNNAMED))
    assert "(belief 80 %)\nits mesh is not here" in text and name == "ball"
    text, name = said({"ball": 0.9, "cup": 0.1}, SHAPE)
    assert "ball at" in text and "(belief 90 %)" in text and name == "ball"
