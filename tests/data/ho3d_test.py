import json
import pickle
import shutil

import cv2
import numpy as np
import pytest

from homae_jax.data.ho3d import Ho3dSource
from homae_jax.errors import UserError
from homae_jax.geometry import camera
from homae_jax.hand import joints as joint_orders
from homae_jax.objects.ycb import HO3D_OBJECTS
from homae_jax.schema import HAND, OBJECT
from tests.data import ho3d_tree
from tests.data.ho3d_tree import EVALUATION, TRAIN, C

ABSENT = object()


def edit_meta(path, **changes):
    meta = pickle.loads(path.read_bytes()) | changes
    meta = {key: value for key, value in meta.items() if value is not ABSENT}
    path.write_bytes(pickle.dumps(meta, protocol=2))


@pytest.fixture(params=["train", "evaluation"])
def split(request):
    return request.param


def test_source_keeps_the_order_of_the_list(tree, split):
    source = Ho3dSource(tree, split)
    names = [source.frame_name(i) for i in range(len(source))]
    assert tuple(names) == (TRAIN if split == "train" else EVALUATION)
    assert [source[i]["index"] for i in range(len(source))] == list(range(len(names)))


def test_source_turns_train_labels_into_the_opencv_camera_frame(tree):
    source = Ho3dSource(tree, "train")
    for i, name in enumerate(TRAIN):
        frame, labels = source[i], ho3d_tree.frame_labels(name)
        np.testing.assert_allclose(frame["joints"], labels["handJoints3D"] @ C)
        np.testing.assert_array_equal(frame["wrist"], frame["joints"][0])
        pose = labels["handPose"].reshape(16, 3)
        expected = C @ ho3d_tree.rotmat(pose[0])
        turned = ho3d_tree.rotmat(frame["hand_pose"][0])
        np.testing.assert_allclose(turned, expected, atol=1e-9)
        np.testing.assert_allclose(frame["hand_pose"][1:], pose[1:])
        np.testing.assert_allclose(frame["hand_betas"], labels["handBeta"])
        np.testing.assert_allclose(frame["intrinsics"], ho3d_tree.INTRINSICS)
        assert frame["hand_box_px"] is None and frame["gt_joints"] is None


def test_source_poses_the_models_box_where_the_label_has_it(tree, split):
    """R_gl rest + t_gl = objCorners3D, in the OpenCV frame; the model is untouched."""
    source = Ho3dSource(tree, split)
    for i in range(len(source)):
        frame, meta = source[i], source.read_meta(i)
        posed = frame["object_corners"] @ frame["object_rotmat"].T
        posed = posed + frame["object_trans"]
        np.testing.assert_allclose(posed, meta["objCorners3D"] @ C, atol=1e-9)
        np.testing.assert_allclose(frame["object_corners"], meta["objCorners3DRest"])
        assert frame["object_name"] in HO3D_OBJECTS


def test_wrist_is_the_shapes_rest_wrist_plus_translation(tree):
    source = Ho3dSource(tree, "train")
    for i in range(len(source)):
        frame, meta = source[i], source.read_meta(i)
        wrist_gl = ho3d_tree.rest_wrist(frame["hand_betas"]) + meta["handTrans"]
        np.testing.assert_allclose(frame["wrist"] @ C, wrist_gl, atol=1e-4)


def test_joints_lie_before_the_camera_and_project_into_the_picture(tree):
    source = Ho3dSource(tree, "train")
    for i in range(len(source)):
        frame = source[i]
        assert (frame["joints"][:, 2] > 0).all()
        assert (source.read_meta(i)["handJoints3D"][:, 2] < 0).all()
        px = camera.project(frame["joints"], frame["intrinsics"])
        assert (px > -50).all() and (px < np.array([690, 530])).all()


def test_source_gives_evaluation_the_wrist_and_the_box_alone(tree):
    source = Ho3dSource(tree, "evaluation")
    for i, name in enumerate(EVALUATION):
        frame, labels = source[i], ho3d_tree.frame_labels(name)
        np.testing.assert_allclose(frame["wrist"], C @ labels["handJoints3D"][0])
        assert source.read_meta(i)["handJoints3D"].shape == (3,)
        meta = ho3d_tree.evaluation_meta(labels)
        np.testing.assert_allclose(frame["hand_box_px"], meta["handBoundingBox"])
        for key in ("joints", "hand_pose", "hand_betas", "segmentation"):
            assert frame[key] is None


def test_ground_truth_returns_to_the_published_files_exactly(tree):
    """What is scored is what was published: in their frame, error 0 to the last bit."""
    source = Ho3dSource(tree, "evaluation")
    for kind, field in (("xyz", "joints"), ("verts", "vertices")):
        published = json.loads((tree / f"evaluation_{kind}.json").read_text())
        for i, row in enumerate(published):
            ours = getattr(source.ground_truth(i), field)
            np.testing.assert_array_equal(camera.points_gl_to_cv(ours), row)
    np.testing.assert_array_equal(source[1]["gt_joints"], source.ground_truth(1).joints)
    np.testing.assert_allclose(source[1]["gt_joints"][0], source[1]["wrist"])


def test_ground_truth_reads_rows_in_any_order_and_layout(own_tree):
    path = own_tree / "evaluation_xyz.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps(rows, indent=1))
    source = Ho3dSource(own_tree, "evaluation")
    for i in (1, 0, 1):
        truth = source.ground_truth(i).joints
        np.testing.assert_array_equal(camera.points_gl_to_cv(truth), rows[i])


def test_ground_truth_of_train_is_its_label(tree):
    truth = Ho3dSource(tree, "train").ground_truth(2)
    assert truth.vertices is None
    labels = ho3d_tree.frame_labels(TRAIN[2])
    np.testing.assert_allclose(truth.joints, labels["handJoints3D"] @ C)


def test_ground_truth_is_none_where_it_is_kept_back(own_tree):
    (own_tree / "evaluation_xyz.json").unlink()
    source = Ho3dSource(own_tree, "evaluation")
    assert source.ground_truth(0) is None and source[0]["gt_joints"] is None


def test_joint_orders_are_inverse_to_each_other():
    order = joint_orders.MANO_TO_SIMPLE[joint_orders.SIMPLE_TO_MANO]
    np.testing.assert_array_equal(order, np.arange(21))


@pytest.mark.parametrize("dump", [ho3d_tree.python2_pickle, ho3d_tree.python3_pickle])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_source_reads_either_pickle_and_either_picture(tmp_path, dump, suffix):
    tree = ho3d_tree.write_tree(tmp_path / "ho3d", suffix=suffix, dump=dump)
    frame = Ho3dSource(tree, "train")[0]
    labels = ho3d_tree.frame_labels(TRAIN[0])
    np.testing.assert_allclose(frame["joints"], labels["handJoints3D"] @ C, rtol=1e-6)
    assert frame["joints"].dtype == np.float64
    assert frame["object_name"] == "006_mustard_bottle"
    difference = frame["image"].astype(int) - ho3d_tree.picture(TRAIN[0])
    assert np.abs(difference).max() <= (0 if suffix == ".png" else 12)


@pytest.mark.parametrize("suffix, shape", [(".png", (120, 160)), (".jpg", (480, 640))])
def test_source_reads_segmentations_to_a_few_percent_of_their_area(
    tmp_path, suffix, shape
):
    """v2's are red and blue, v3's blue and green: a hand must not become an object."""
    tree = ho3d_tree.write_tree(tmp_path / "ho3d", suffix=suffix)
    segmentation = Ho3dSource(tree, "train")[0]["segmentation"]
    assert segmentation.shape == shape
    for mask, label in zip(ho3d_tree.masks(TRAIN[0]), (HAND, OBJECT), strict=True):
        share = (segmentation == label).mean() / mask.mean()
        assert 0.97 < share < 1.03, (label, share)


def test_source_does_without_segmentations_that_were_never_unpacked(own_tree):
    shutil.rmtree(own_tree / "train" / "MC1" / "seg")
    source = Ho3dSource(own_tree, "train")
    assert source[2]["segmentation"] is None and source[0]["segmentation"] is not None
    assert source.describe().endswith("; masks of 1 of 2 sequences")
    assert "masks" not in Ho3dSource(own_tree, "evaluation").describe()


def test_describe_counts_by_the_version_that_is_there(tree, tmp_path):
    assert Ho3dSource(tree, "train").describe() == "HO-3D train: 3 frames (v2: 66034)"
    v3 = ho3d_tree.write_tree(tmp_path / "v3", suffix=".jpg")
    text = Ho3dSource(v3, "evaluation").describe()
    assert text == "HO-3D evaluation: 2 frames (v3: 20137)"


@pytest.mark.parametrize("absent", [["objCorners3DRest"], ["objCorners3D"]])
def test_source_finds_the_models_box_where_a_key_is_absent(own_tree, absent):
    path = own_tree / "train" / "SM2" / "meta" / "0001.pkl"
    edit_meta(path, **dict.fromkeys(absent, ABSENT))
    box = Ho3dSource(own_tree, "train")[0]["object_corners"]
    np.testing.assert_allclose(box, ho3d_tree.corners(), atol=1e-9)


def test_source_falls_back_on_the_known_box(own_tree):
    path = own_tree / "train" / "SM2" / "meta" / "0001.pkl"
    edit_meta(path, objCorners3DRest=ABSENT, objCorners3D=ABSENT)
    box = Ho3dSource(own_tree, "train")[0]["object_corners"]
    np.testing.assert_allclose(np.ptp(box, axis=0), [0.0972, 0.0666, 0.1914])


def test_source_ignores_unlisted_frames_without_annotation(tree):
    assert (tree / "train" / "MC1" / "meta" / "0011.pkl").is_file()
    assert len(Ho3dSource(tree, "train")) == len(TRAIN)


def test_source_raises_on_a_listed_frame_without_annotation(own_tree):
    with (own_tree / "train.txt").open("a") as file:
        file.write("MC1/0011\n")
    shutil.copy(
        own_tree / "train/MC1/rgb/0010.png", own_tree / "train/MC1/rgb/0011.png"
    )
    shutil.copy(
        own_tree / "train/MC1/seg/0010.jpg", own_tree / "train/MC1/seg/0011.jpg"
    )
    with pytest.raises(UserError, match=r"MC1/meta/0011\.pkl: .*not annotated"):
        Ho3dSource(own_tree, "train")[3]


def test_frame_info_tells_visibility_object_and_sequence(own_tree):
    info = Ho3dSource(own_tree, "train").frame_info(1)
    assert info["hand_visibility"] == 0.25 and info["object_visibility"] == 1.0
    assert info["object_name"] == "006_mustard_bottle" and info["sequence"] == "SM2"
    file = own_tree / "visibility_train.json"
    shares = json.loads(file.read_text())
    name = Ho3dSource(own_tree, "train").frame_name(1)
    file.write_text(json.dumps(shares | {name: [0.25, None]}))
    info = Ho3dSource(own_tree, "train").frame_info(1)
    assert info["hand_visibility"] == 0.25 and np.isnan(info["object_visibility"])
    file.unlink()
    info = Ho3dSource(own_tree, "train").frame_info(1)
    assert np.isnan([info["hand_visibility"], info["object_visibility"]]).all()


def test_source_reads_names_that_are_bytes(own_tree):
    path = own_tree / "train" / "SM2" / "meta" / "0001.pkl"
    edit_meta(path, objName=b"006_mustard_bottle")
    assert Ho3dSource(own_tree, "train")[0]["object_name"] == "006_mustard_bottle"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"handPose": ABSENT}, "handPose is missing"),
        ({"handPose": np.zeros(51)}, r"handPose has shape \(51,\)"),
        ({"handBeta": np.full(10, np.nan)}, "handBeta holds NaN"),
        ({"objTrans": "x"}, "objTrans holds no numbers"),
        ({"objName": 5}, "objName is 5"),
        ({"camMat": -ho3d_tree.INTRINSICS}, "focal length"),
    ],
)
def test_source_raises_on_an_unusable_label(own_tree, changes, message):
    edit_meta(own_tree / "train" / "SM2" / "meta" / "0001.pkl", **changes)
    with pytest.raises(UserError, match=r"SM2/meta/0001\.pkl: .*" + message):
        Ho3dSource(own_tree, "train")[0]


def test_source_raises_on_evaluation_labels_of_another_split(own_tree):
    shutil.copy(
        own_tree / "train/SM2/meta/0001.pkl", own_tree / "evaluation/SM1/meta/0002.pkl"
    )
    with pytest.raises(UserError, match=r"handJoints3D has shape \(21, 3\)"):
        Ho3dSource(own_tree, "evaluation")[0]


@pytest.mark.parametrize(
    "name, message",
    [
        ("rgb/0001.png", r"0001\{\.png,\.jpg\}: no such picture"),
        ("seg/0001.jpg", "no such mask"),
        ("meta/0001.pkl", "cannot be read"),
    ],
)
def test_source_raises_on_a_missing_file(own_tree, name, message):
    (own_tree / "train" / "SM2" / name).unlink()
    with pytest.raises(UserError, match=message):
        Ho3dSource(own_tree, "train")[0]


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_source_raises_on_a_truncated_picture(own_tree, suffix, share):
    folder = own_tree / "train" / "SM2" / "rgb"
    (folder / "0001.png").unlink()
    data = ho3d_tree.encode(suffix, ho3d_tree.picture(TRAIN[0]))
    (folder / f"0001{suffix}").write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError, match=f"0001{suffix}: (truncated|no readable)"):
        Ho3dSource(own_tree, "train")[0]


def test_source_raises_on_a_missing_tree(own_tree):
    with pytest.raises(UserError, match="no such folder"):
        Ho3dSource(own_tree / "elsewhere", "train")
    with pytest.raises(UserError, match=r"test\.txt: not found"):
        Ho3dSource(own_tree, "test")
    shutil.rmtree(own_tree / "evaluation")
    with pytest.raises(UserError, match="unpack the evaluation split"):
        Ho3dSource(own_tree, "evaluation")


@pytest.mark.parametrize(
    "text, message",
    [("", "lists no frame"), ("SM2/0001\n../../x/1\n", "entry 2"), ("SM2\n", "SM2")],
)
def test_source_raises_on_a_broken_list(own_tree, text, message):
    (own_tree / "train.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        Ho3dSource(own_tree, "train")


def test_ground_truth_raises_on_files_of_another_version(own_tree):
    path = own_tree / "evaluation_xyz.json"
    path.write_text(json.dumps(json.loads(path.read_text())[:1]))
    with pytest.raises(UserError, match="1 rows, but 2 frames"):
        Ho3dSource(own_tree, "evaluation").ground_truth(0)


def test_source_travels_to_other_processes(tree):
    source = Ho3dSource(tree, "evaluation")
    before = source[1]
    after = pickle.loads(pickle.dumps(source))[1]
    np.testing.assert_array_equal(after["gt_joints"], before["gt_joints"])


def test_loading_leaves_threads_to_the_loader():
    assert cv2.getNumThreads() == 1
