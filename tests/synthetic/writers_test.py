import json
import pickle
import pickletools

import cv2
import numpy as np
import pytest

from homae_jax.errors import UserError
from homae_jax.hand.mano import FINGERTIPS
from homae_jax.hand.safe_pickle import load_pickle
from homae_jax.objects.ycb import HO3D_OBJECTS, YCB_NAMES
from homae_jax.synthetic import writers
from homae_jax.synthetic.png import encode_flat, encode_photo
from homae_jax.synthetic.render import HAND, OBJECT, Rendering, Visibility
from tests.synthetic import toy_world

ALL = tuple(YCB_NAMES.values())
GL_TO_CV = np.diag([1.0, -1.0, -1.0])


def names_of(clips, split):
    return {clip.name for clip in clips if clip.split == split}


def objects_of(clips, split):
    return {clip.object_name for clip in clips if clip.split == split}


@pytest.fixture
def frame(tmp_path):
    """A frame's labels and a picture of two discs."""
    labels = toy_world.make_world(tmp_path / "world").compose(toy_world.clip(), 1)[1]
    segmentation = np.zeros((480, 640), np.uint8)
    cv2.circle(segmentation, (300, 200), 60, HAND, -1)
    cv2.circle(segmentation, (360, 240), 50, OBJECT, -1)
    depth = np.where(segmentation > 0, 0.5 + 0.1 * segmentation, 0).astype(np.float32)
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 255, (480, 640, 3)).astype(np.uint8)
    return labels, Rendering(rgb, segmentation, depth)


def written(tmp_path, frame, split, **options):
    clip = toy_world.clip(split=split)
    writer = writers.Ho3dWriter(tmp_path / "out", **options)
    writer.make_folders([clip])
    writer.write_frame(clip, 1, *frame)
    folder = tmp_path / "out" / split / clip.name
    return folder, load_pickle(folder / "meta" / "0002.pkl")


def test_plan_has_the_official_sequences():
    clips = writers.plan_ho3d(700, 200, object_names=ALL, objects="ho3d")
    train, evaluation = names_of(clips, "train"), names_of(clips, "evaluation")
    assert (len(train), len(evaluation)) == (55, 13)
    assert {"ABF10", "MC6", "ND2", "SB14", "ShSu13", "SMu42", "SS3"} <= train
    assert evaluation == {
        "SM1",
        *(f"MPM1{i}" for i in range(5)),
        "SB11",
        "SB13",
        *(f"AP1{i}" for i in range(5)),
    }
    assert objects_of(clips, "evaluation") == {
        "006_mustard_bottle",
        "010_potted_meat_can",
        "021_bleach_cleanser",
        "019_pitcher_base",
    }
    assert objects_of(clips, "train") == set(HO3D_OBJECTS) - {"019_pitcher_base"}


def test_plan_keeps_the_pitcher_and_a_hand_for_the_evaluation():
    clips = writers.plan_ho3d(1000, 100, object_names=ALL)
    assert objects_of(clips, "train") == set(ALL) - {"019_pitcher_base"}
    train_people = {clip.subject for clip in clips if clip.split == "train"}
    assert next(c.subject for c in clips if c.name == "MPM10") not in train_people


def test_plan_unseen_shares_neither_objects_nor_people():
    clips = writers.plan_ho3d(1000, 100, object_names=ALL, unseen=True)
    assert not objects_of(clips, "train") & objects_of(clips, "evaluation")
    people = [
        {clip.subject for clip in clips if clip.split == split}
        for split in ("train", "evaluation")
    ]
    assert not people[0] & people[1]


@pytest.mark.parametrize("num", [0, 1, 7, 500])
def test_plan_counts_frames_and_names_grasps_without_gaps(num):
    clips = writers.plan_ho3d(num, 13, object_names=ALL)
    total = sum(len(c.numbers) for c in clips if c.split == "train")
    assert total == num
    used = {grasp for clip in clips for grasp in clip.grasps}
    assert used == set(range(len(used)))
    for clip in clips:
        assert len(set(clip.numbers)) == len(clip.numbers) == len(clip.grasps)
        assert not set(clip.blanks) & set(clip.numbers)


def test_plan_holds_each_grasp_in_one_recording():
    clips = writers.plan_ho3d(1000, 130, object_names=ALL)
    holders = {}
    for clip in clips:
        for grasp in clip.grasps:
            key = clip.split, clip.object_name, clip.subject
            assert holders.setdefault(grasp, key) == key


@pytest.mark.parametrize("wanted", [1, 5, 8])
def test_plan_takes_so_many_views_of_a_grasp(wanted):
    clips = writers.plan_ho3d(3000, 0, object_names=ALL, views_per_grasp=wanted)
    views = np.bincount([g for clip in clips for g in clip.grasps])
    assert views.min() >= 1 and views.max() <= wanted
    assert 0.75 * wanted <= views.mean()


def test_plan_raises_on_models_that_fit_no_split():
    with pytest.raises(UserError, match="evaluation"):
        writers.plan_ho3d(10, 10, object_names=("011_banana",))


def test_train_meta_has_the_official_keys_and_shapes(tmp_path, frame):
    _, meta = written(tmp_path, frame, "train")
    shapes = {key: np.shape(value) for key, value in meta.items()}
    assert shapes == {
        "camMat": (3, 3),
        "camIDList": (2,),
        "handJoints3D": (21, 3),
        "handPose": (48,),
        "handBeta": (10,),
        "handTrans": (3,),
        "objRot": (3, 1),
        "objTrans": (3,),
        "objName": (),
        "objLabel": (),
        "objCorners3D": (8, 3),
        "objCorners3DRest": (8, 3),
    }
    assert meta["objName"] == "021_bleach_cleanser"
    assert meta["objLabel"] == 12


def test_evaluation_meta_gives_the_wrist_alone(tmp_path, frame):
    folder, meta = written(tmp_path, frame, "evaluation")
    labels, _ = frame
    assert meta["handJoints3D"].shape == (3,)
    np.testing.assert_allclose(
        meta["handJoints3D"] @ GL_TO_CV, labels.joints[0], atol=1e-6
    )
    for key in ("handPose", "handBeta", "handTrans"):
        assert key not in meta
    x0, y0, x1, y1 = meta["handBoundingBox"]
    px = labels.joints / labels.joints[:, 2:] @ labels.intrinsics.T
    inside = (px[:, 0] > x0) & (px[:, 0] < x1) & (px[:, 1] > y0) & (px[:, 1] < y1)
    assert inside.all()
    assert not (folder / "seg").exists()


def test_labels_in_the_file_are_opengl(tmp_path, frame):
    _, meta = written(tmp_path, frame, "train")
    labels, _ = frame
    assert (meta["handJoints3D"][:, 2] < 0).all()
    joints = meta["handJoints3D"] @ GL_TO_CV
    np.testing.assert_allclose(joints[:16], labels.joints, atol=1e-6)
    tips = labels.hand_vertices[list(FINGERTIPS["ho3d"])]
    np.testing.assert_allclose(joints[16:], tips, atol=1e-6)
    rotation = cv2.Rodrigues(meta["objRot"])[0]
    np.testing.assert_allclose(GL_TO_CV @ rotation, labels.object_rotmat, atol=1e-9)
    np.testing.assert_allclose(GL_TO_CV @ meta["objTrans"], labels.object_trans)
    corners = meta["objCorners3DRest"] @ rotation.T + meta["objTrans"]
    np.testing.assert_allclose(corners, meta["objCorners3D"], atol=1e-9)
    wrist_rotation = cv2.Rodrigues(meta["handPose"][:3].astype(float))[0]
    np.testing.assert_allclose(GL_TO_CV @ wrist_rotation, labels.hand_rotmat, atol=1e-5)
    wrist = labels.rest_wrist + meta["handTrans"]
    np.testing.assert_allclose(wrist, meta["handJoints3D"][0], atol=1e-6)


def test_box_corners_count_x_slowest():
    corners = writers.box_corners(np.array([[-1.0, -2.0, -3.0], [1.0, 2.0, 3.0]]))
    np.testing.assert_array_equal(corners[1], [-1, -2, 3])
    np.testing.assert_array_equal(corners[2], [-1, 2, -3])
    np.testing.assert_array_equal(corners[4], [1, -2, -3])


def test_dump_meta_is_protocol_2_for_every_numpy(tmp_path):
    data = writers.dump_meta({"camMat": np.eye(3)})
    opcodes = [(op.name, arg) for op, arg, _ in pickletools.genops(data)]
    assert opcodes[0] == ("PROTO", 2)
    names = [arg for name, arg in opcodes if name == "GLOBAL"]
    assert "numpy.core.multiarray _reconstruct" in names
    path = tmp_path / "0000.pkl"
    path.write_bytes(data)
    np.testing.assert_array_equal(load_pickle(path)["camMat"], np.eye(3))


def test_dump_meta_of_python_2_has_byte_strings_alone(tmp_path):
    """As its pickles are: no unicode, arrays' contents in a BINSTRING."""
    meta = {
        "camMat": np.eye(9),  # more than 255 bytes
        "objTrans": np.float32([1, 2, 3]),
        "objName": "019_pitcher_base",
        "camIDList": ["0", "1"],
        "objLabel": 11,
        "handPose": None,
    }
    data = writers.dump_meta(meta, python=2)
    names = {op.name for op, _, _ in pickletools.genops(data)}
    assert {"PROTO", "SHORT_BINSTRING", "BINSTRING"} <= names
    assert not {n for n in names if "UNICODE" in n or "BINBYTES" in n}
    path = tmp_path / "0000.pkl"
    path.write_bytes(data)
    plain = pickle.loads(data, encoding="latin1")  # as the official reader does
    for found in (load_pickle(path), plain):
        assert found["objName"] == meta["objName"] and found["handPose"] is None
        assert found["camIDList"] == meta["camIDList"]
        np.testing.assert_array_equal(found["camMat"], meta["camMat"])
        assert found["objTrans"].dtype == np.float32


def test_sequences_come_from_either_python():
    clips = writers.plan_ho3d(600, 60, object_names=ALL)
    found = [writers._python_of(clip) for clip in clips]
    assert set(found) == {2, 3} and 0.2 < np.mean(np.equal(found, 2)) < 0.8


def test_depth_round_trips_through_the_official_formula(tmp_path, frame):
    folder, _ = written(tmp_path, frame, "train")
    picture = cv2.imread(str(folder / "depth" / "0002.png"))
    red, green = picture[..., 2].astype(np.uint16), picture[..., 1].astype(np.uint16)
    depth = (red + 256 * green) * 0.00012498664727900177
    np.testing.assert_allclose(depth, frame[1].depth, atol=7e-5)
    assert ((depth == 0) == (frame[1].depth == 0)).all()


def test_segmentation_is_a_quarter_size_jpeg_of_pure_colours(tmp_path, frame):
    folder, _ = written(tmp_path, frame, "train")
    small = cv2.imread(str(folder / "seg" / "0002.jpg"))
    assert small.shape == (120, 160, 3)
    large = cv2.resize(small, (640, 480), interpolation=cv2.INTER_NEAREST)
    for channel, label in ((2, HAND), (0, OBJECT)):
        mask, truth = large[..., channel] > 200, frame[1].segmentation == label
        assert (mask & truth).sum() / (mask | truth).sum() > 0.93


def test_pictures_come_in_both_formats(tmp_path, frame):
    folder, _ = written(tmp_path, frame, "train")
    png = cv2.imread(str(folder / "rgb" / "0002.png"))[..., ::-1]
    np.testing.assert_array_equal(png, frame[1].rgb)
    folder, _ = written(tmp_path / "jpg", frame, "train", image_format="jpg")
    assert cv2.imread(str(folder / "rgb" / "0002.jpg")).shape == (480, 640, 3)
    assert not (folder / "rgb" / "0002.png").exists()


def test_write_blank_has_no_annotation(tmp_path, frame):
    clip = toy_world.clip()
    writer = writers.Ho3dWriter(tmp_path)
    writer.make_folders([clip])
    writer.write_blank(clip, 0, frame[1].rgb)
    meta = load_pickle(tmp_path / "train" / clip.name / "meta" / "0000.pkl")
    assert meta["handJoints3D"] is None and meta["objName"] is None
    assert set(meta) == set(writers._TRAIN_KEYS)


def test_write_lists_keeps_one_order_everywhere(tmp_path, frame):
    labels, _ = frame
    clips = [toy_world.clip("SM1", "evaluation", 2), toy_world.clip("SB11", "train", 3)]
    writer = writers.Ho3dWriter(tmp_path)
    records = []
    for clip in clips:
        half_seen = Visibility(0.5, float(clip.split == "train"))
        kept = writer.record(clip, labels, half_seen)
        records.append({k: np.stack([v] * len(clip.numbers)) for k, v in kept.items()})
    writer.write_lists(clips, records)
    assert (tmp_path / "evaluation.txt").read_text() == "SM1/0001\nSM1/0002\n"
    assert (tmp_path / "train.txt").read_text().split()[-1] == "SB11/0003"
    joints = np.array(json.loads((tmp_path / "evaluation_xyz.json").read_text()))
    expected = writers.joints_with_tips(labels) @ GL_TO_CV
    np.testing.assert_allclose(joints, [expected, expected], atol=1e-6)
    vertices = json.loads((tmp_path / "evaluation_verts.json").read_text())
    assert np.shape(vertices) == (2, 778, 3)
    shares = json.loads((tmp_path / "visibility_evaluation.json").read_text())
    assert shares == {"SM1/0001": [0.5, 0.0], "SM1/0002": [0.5, 0.0]}


@pytest.mark.parametrize("encode", [encode_photo, encode_flat])
def test_png_encoders_lose_nothing(encode):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (31, 17, 3)).astype(np.uint8)
    picture[10:20] = 0
    decoded = cv2.imdecode(np.frombuffer(encode(picture), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decoded[..., ::-1], picture)
