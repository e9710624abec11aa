"""DexYCB's reader on a tiny official tree: rules, poses, mirrors, damage."""

import itertools
import os
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from homae_jax.data import dexycb, dexycb_files, dexycb_index, index
from homae_jax.data.dexycb import DexYcbSource, HandBasis, mirrored
from homae_jax.data.dexycb_files import SERIALS, in_split
from homae_jax.data.source import Source
from homae_jax.errors import UserError
from homae_jax.geometry import camera
from homae_jax.geometry.rotations import aa_to_rotmat
from homae_jax.hand.joints import MANO_TO_SIMPLE
from homae_jax.hand.mano import mano_forward
from homae_jax.objects.ycb import YCB_NAMES
from homae_jax.schema import HAND, OBJECT
from tests.data import dexycb_tree


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return dexycb_tree.write_tree(tmp_path_factory.mktemp("data") / "dexycb")


@pytest.fixture
def own_tree(tree, tmp_path):
    return shutil.copytree(tree, tmp_path / "dexycb")


def bases():
    models = dexycb_tree.load_hands()
    return {
        side: HandBasis(np.float64(m.hand_components), np.float64(m.hand_mean))
        for side, m in models.items()
    }


def open_source(root, split="s0_train", **options):
    options = {"cache_dir": root.parent / "cache", "workers": 0} | options
    return DexYcbSource(root, split, **bases(), **options)


@pytest.mark.parametrize(
    ("setup", "sizes"),
    [
        ("s0", (800, 40, 160)),
        ("s1", (700, 100, 200)),
        ("s2", (6000, 1000, 1000)),
        ("s3", (750, 100, 150)),
    ],
)
def test_in_split_has_the_official_counts(setup, sizes):
    places = list(itertools.product(range(10), range(100), range(8)))
    for part, size in zip(("train", "val", "test"), sizes, strict=True):
        num = sum(in_split(f"{setup}_{part}", *place) for place in places)
        assert num == (size if setup == "s2" else 8 * size)


def test_source_lists_annotated_frames_in_the_official_order(tree):
    source = open_source(tree)
    assert isinstance(source, Source)
    assert len(source) == 2 * 4 * 8
    assert source.excluded() == {"no hand annotation": 64}
    first, last = source.frame_name(0), source.frame_name(63)
    assert first == f"20200709-subject-01/20200709_140042/{SERIALS[0]}/000001"
    assert last == f"20200820-subject-03/20200709_140342/{SERIALS[7]}/000001"
    assert len(open_source(tree, "s0_val")) == len(open_source(tree, "s0_test")) == 8


def test_mano_of_the_parameters_is_the_label_joints(tree):
    """Right hands, and left ones by their own model."""
    source = open_source(tree, left_hands="keep")
    models = dexycb_tree.load_hands()
    for row, side in ((0, "right"), (8, "left")):
        frame = source[row]
        posed = mano_forward(
            models[side],
            aa_to_rotmat(jnp.asarray(frame["hand_pose"], jnp.float32)),
            jnp.asarray(frame["hand_betas"], jnp.float32),
            fingertips={"right": "manopth", "left": "manopth_left"}[side],
        )
        posed_joints = np.asarray(posed.joints)
        joints = posed_joints - posed_joints[0] + frame["wrist"]
        assert np.abs(joints - frame["joints"]).max() < 1e-5


def test_labels_project_to_the_file_s_pixels(tree):
    frame = open_source(tree)[0]
    path = tree / "20200709-subject-01" / "20200709_140042" / SERIALS[0]
    labels = dexycb_files.read_labels(path / "labels_000001.npz", ("joint_2d",))
    px = camera.project(frame["joints"], frame["intrinsics"])
    assert np.abs(px[MANO_TO_SIMPLE] - labels["joint_2d"][0]).max() < 1e-2
    assert frame["object_name"] == "006_mustard_bottle"
    assert (frame["segmentation"] == HAND).sum() == 2400
    assert (frame["segmentation"] == OBJECT).sum() == 800


def test_mirrored_left_hand_is_the_picture_in_a_mirror(tree):
    kept = open_source(tree, left_hands="keep")[8]
    frame = open_source(tree)[8]
    np.testing.assert_array_equal(frame["image"], kept["image"][:, ::-1])
    px, kept_px = (camera.project(f["joints"], f["intrinsics"]) for f in (frame, kept))
    np.testing.assert_allclose(px[:, 0], 639 - kept_px[:, 0], atol=1e-6)
    np.testing.assert_allclose(px[:, 1], kept_px[:, 1], atol=1e-6)
    assert np.linalg.det(frame["object_rotmat"]) == pytest.approx(1, abs=1e-5)
    again = mirrored(mirrored(kept))
    for key in ("joints", "hand_pose", "object_rotmat", "intrinsics", "image"):
        np.testing.assert_allclose(again[key], kept[key], atol=1e-12)
    gt = open_source(tree).ground_truth(8)
    np.testing.assert_allclose(gt.joints, frame["joints"])


def test_mirrored_pose_moves_the_mirrored_hand(tree):
    """The finger rotations of a left hand, conjugated by the mirror, hold exactly."""
    kept = open_source(tree, left_hands="keep")[8]
    turned = mirrored(kept)
    flip = np.diag([-1.0, 1.0, 1.0])
    left, right = (
        np.asarray(aa_to_rotmat(jnp.asarray(f["hand_pose"], jnp.float32)))
        for f in (kept, turned)
    )
    np.testing.assert_allclose(right, flip @ left @ flip, atol=1e-6)


def test_filters_leave_out_left_hands(tree):
    source = open_source(tree, filter_name="right")
    assert len(source) == 32
    assert source.excluded()["left hand"] == 32
    assert len(open_source(tree, left_hands="drop")) == 32
    assert "right: 32 frames" in source.describe()


def test_box_outside_follows_hoisdf():
    box = np.array([[100.0, 100], [200, 220]])
    assert not dexycb_index.is_box_outside(box)
    assert not dexycb_index.is_box_outside(
        box - np.array([900, 0])
    )  # wholly left: passes there too
    assert dexycb_index.is_box_outside(box + np.array([900, 0]))
    assert dexycb_index.is_box_outside(box[:1])


def test_index_is_kept_and_built_anew_when_files_change(own_tree, monkeypatch):
    open_source(own_tree)
    with monkeypatch.context() as patch:
        patch.setattr(index, "run", lambda *_, **__: pytest.fail("built again"))
        open_source(own_tree)
    folder = own_tree / "20200709-subject-01" / "20200709_140042" / SERIALS[0]
    (folder / "labels_000001.npz").unlink()
    source = open_source(own_tree)
    assert len(source) == 63
    assert source.excluded()["label file missing or damaged"] == 1


def test_index_by_processes_is_the_same(tree, tmp_path):
    alone = dexycb_index.open_index(
        tree, "s0_test", cache_dir=tmp_path / "a", workers=0
    )
    shared = dexycb_index.open_index(
        tree, "s0_test", cache_dir=tmp_path / "b", workers=2
    )
    for own, other in zip(alone[1:], shared[1:], strict=True):
        np.testing.assert_array_equal(own, other)


def test_index_is_built_anew_when_a_label_is_edited_in_place(own_tree):
    """Its folder's time stays; size or time of the file itself tells."""
    reason = "label file missing or damaged"
    num_before = open_source(own_tree).excluded().get(reason, 0)
    folder = own_tree / "20200709-subject-01" / "20200709_140042" / SERIALS[0]
    path = folder / "labels_000001.npz"
    before = folder.stat().st_mtime_ns
    path.write_bytes(path.read_bytes()[:100])
    assert folder.stat().st_mtime_ns == before
    assert open_source(own_tree).excluded()[reason] == num_before + 1


def test_index_has_no_picture_and_few_bytes_a_frame(tree, tmp_path):
    dexycb_index.open_index(tree, "s0_train", cache_dir=tmp_path, workers=0)
    (path,) = tmp_path.iterdir()
    with np.load(path) as columns:
        assert sum(column.nbytes for column in columns.values()) == 128


def contacts_of(*rows):
    distance, is_inside = zip(*rows, strict=True)
    return dexycb_index.Contacts(np.float32(distance), np.array(is_inside))


def test_filters_follow_their_rules():
    """Frames: near, far, beyond the picture, a left hand, box outside, no hand."""
    reason = np.array([0, 0, 0, 0, dexycb_index.BOX_OUTSIDE, dexycb_index.NO_HAND])
    sequence = np.array([0, 0, 0, 1, 0, 0])
    zero = np.zeros(6, int)
    table = dexycb_index.Index((), sequence, zero, zero, reason)
    contacts = contacts_of(
        *((0.0099, True), (0.0101, True), (0.0, False)),
        *((0.0, True), (0.04, True), (np.inf, False)),
    )
    is_left = np.array([False, True])
    used = {
        name: np.flatnonzero(
            dexycb.apply_filter(table, is_left, wanted, contacts)[0] == 0
        ).tolist()
        for name, wanted in dexycb.FILTERS.items()
    }
    assert used == {
        "annotated": [0, 1, 2, 3, 4],
        "hoisdf_full": [0, 1, 2, 3],
        "hoisdf_small": [0],
        "artiboost": [0, 1, 2, 4],
        "right": [0, 1, 2, 4],
    }


def test_contact_is_the_nearest_joint_and_the_picture_s_border():
    camera_matrix = np.array([[600.0, 0, 320], [0, 600, 240], [0, 0, 1]])
    joints = np.array([[0.0, 0.0, 0.6], [0.05, 0.0, 0.6]])
    vertices = np.array([[0.0, 0.03, 0.6], [0.05, 0.004, 0.603]])
    distance, is_inside = dexycb_index.contact(joints, vertices, camera_matrix)
    assert distance == pytest.approx(0.005) and is_inside
    for x, is_in in ((0.32, True), (0.3201, False), (-0.3201, False)):  # u = 640 is in
        border = np.array([[x, 0.0, 0.6]])
        assert dexycb_index.contact(joints, border, camera_matrix)[1] == is_in


def test_contacts_are_of_the_posed_grasped_object(tree, tmp_path):
    vertices = np.random.default_rng(0).normal(size=(50, 3)) * 0.05
    contacts = dexycb_index.open_contacts(
        tree,
        "s0_train",
        vertices={dexycb_tree.YCB_IDS[dexycb_tree.GRASPED]: vertices},
        intrinsics=dict.fromkeys(range(8), dexycb_tree.K),
        cache_dir=tmp_path,
        workers=0,
    )
    assert len(contacts.distance) == 128
    assert np.isinf(contacts.distance[0]) and not contacts.is_inside[0]  # no hand
    labels = dexycb_tree.frame_labels("right", 0)
    pose = labels["pose_y"][dexycb_tree.GRASPED]
    posed = vertices @ pose[:, :3].T + pose[:, 3]
    gaps = np.linalg.norm(posed[:, None] - labels["joint_3d"][0], axis=-1)
    assert contacts.distance[1] == pytest.approx(gaps.min(), rel=1e-4)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("meta.yml", "a: !!python/object/apply:os.system ['x']", "no YAML"),
        ("meta.yml", "num_frames: 2", "is missing"),
        ("meta.yml", "[1, 2]", "no mapping"),
    ],
)
def test_bad_yaml_is_one_line(own_tree, file, content, message):
    path = own_tree / "20200709-subject-01" / "20200709_140042" / file
    path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        open_source(own_tree)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_damaged_labels_name_their_file(own_tree):
    source = open_source(own_tree)
    folder = own_tree / "20200709-subject-01" / "20200709_140042" / SERIALS[0]
    path = folder / "labels_000001.npz"
    labels = dict(np.load(path))
    for bad in (
        labels | {"joint_3d": np.full((1, 21, 3), np.nan)},
        labels | {"seg": np.array([{}], object)},
        {k: v for k, v in labels.items() if k != "seg"},
    ):
        np.savez(path, **bad)
        with pytest.raises(UserError, match=r"labels_000001\.npz"):
            source[0]
    os.truncate(path, 100)
    with pytest.raises(UserError, match="damaged"):
        source[0]


def test_a_file_of_brackets_is_refused_before_it_is_parsed(tmp_path):
    """PyYAML takes seconds over 20 kB of them, the more the deeper."""
    path = tmp_path / "meta.yml"
    path.write_text("[" * 20_000)
    with pytest.raises(UserError, match=r"meta\.yml: .*nested too deeply"):
        dexycb_files.read_yaml(path)
    path.write_text("".join(f"a{i}: [[1], {{b: [2]}}]\n" for i in range(30)))
    assert dexycb_files.read_yaml(path)["a29"] == [[1], {"b": [2]}]


@pytest.mark.parametrize("text", ["", "0.1 0.2\n", "<html>\n", "nan 0 0\n1 1 1\n"])
def test_a_damaged_list_of_points_is_named(own_tree, text):
    for name in YCB_NAMES.values():
        (own_tree / "models" / name).mkdir(parents=True)
        (own_tree / "models" / name / "points.xyz").write_text(text)
    with pytest.raises(UserError, match=r"points\.xyz: .*copy it again"):
        open_source(own_tree, models=own_tree / "models")


def test_missing_left_model_says_what_to_do(tree):
    with pytest.raises(UserError, match="left_hands=drop"):
        DexYcbSource(
            tree,
            "s0_train",
            right=bases()["right"],
            left=None,
            cache_dir=tree.parent / "cache",
            workers=0,
        )


def test_a_missing_sequence_is_told_for_it_moves_the_splits(tmp_path):
    subjects = dexycb_files.SUBJECTS[:2]
    for subject in subjects:
        for number in range(100):
            (tmp_path / subject / f"20200101_{number:06d}").mkdir(parents=True)
    assert dexycb_files.split_note(tmp_path) is None
    (tmp_path / subjects[1] / "20200101_000000").rmdir()
    note = dexycb_files.split_note(tmp_path)
    assert f"{subjects[1]} has 99 of 100" in note and "not the official ones" in note
