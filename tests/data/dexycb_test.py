"""DexYCB's reader on a tiny official tree: rules, poses, mirrors, damage."""

import itertools
import os
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from homae_jax.data import dexycb_files, index
from homae_jax.data.dexycb import DexYcbSource, HandBasis, mirrored
from homae_jax.data.dexycb_files import SERIALS, in_split
from homae_jax.data.source import Source
from homae_jax.errors import UserError
from homae_jax.geometry import camera
from homae_jax.geometry.rotations import aa_to_rotmat
from homae_jax.hand.joints import MANO_TO_SIMPLE
from homae_jax.hand.mano import mano_forward
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
    assert not index.is_box_outside(box)
    assert not index.is_box_outside(
        box - np.array([900, 0])
    )  # wholly left: passes there too
    assert index.is_box_outside(box + np.array([900, 0]))
    assert index.is_box_outside(box[:1])


def test_index_is_kept_and_built_anew_when_files_change(own_tree, monkeypatch):
    open_source(own_tree)
    with monkeypatch.context() as patch:
        patch.setattr(index, "_build", lambda *_: pytest.fail("built again"))
        open_source(own_tree)
    folder = own_tree / "20200709-subject-01" / "20200709_140042" / SERIALS[0]
    (folder / "labels_000001.npz").unlink()
    source = open_source(own_tree)
    assert len(source) == 63
    assert source.excluded()["label file missing or damaged"] == 1


def test_index_by_processes_is_the_same(tree, tmp_path):
    alone = index.open_dexycb(tree, "s0_test", cache_dir=tmp_path / "a", workers=0)
    shared = index.open_dexycb(tree, "s0_test", cache_dir=tmp_path / "b", workers=2)
    for own, other in zip(alone[1:], shared[1:], strict=True):
        np.testing.assert_array_equal(own, other)


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
