"""DexYCB written and read back through the real reader, left hands among them."""

import cv2
import numpy as np
import pytest
import yaml

from homae_jax.data import dexycb_files
from homae_jax.data.dexycb import DexYcbSource, HandBasis
from homae_jax.errors import UserError
from homae_jax.geometry import camera
from homae_jax.hand.mano_files import load_mano
from homae_jax.objects.ycb import YCB_NAMES
from homae_jax.synthetic import dexycb_layout
from homae_jax.synthetic.dexycb_layout import DexYcbWriter, plan_dexycb, side_of
from homae_jax.synthetic.render import HAND, OBJECT, Rendering, Visibility
from homae_jax.synthetic.rig import RigWorld
from tests.hand.toy_files import unpack_hand
from tests.synthetic import toy_world

ALL = tuple(YCB_NAMES.values())
NUM = 2  # frames per camera


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A tree of one right and one left hand's sequence, and the labels of both."""
    folder = tmp_path_factory.mktemp("written")
    root = folder / "out"
    (root / "mano").mkdir(parents=True)
    for side in ("right", "left"):
        unpack_hand(side, root / "mano")
    labels = toy_world.make_world(folder / "world").compose(toy_world.clip(), 1)[1]
    labels = labels._replace(rest_wrist=np.array([0.09, 0.0, 0.01]))
    segmentation = np.zeros((480, 640), np.uint8)
    cv2.circle(segmentation, (200, 200), 60, HAND, -1)
    cv2.circle(segmentation, (360, 240), 50, OBJECT, -1)
    depth = np.where(segmentation > 0, 0.5123, 0).astype(np.float32)
    rgb = np.zeros((480, 640, 3), np.uint8)
    drawn = Rendering(rgb, segmentation, depth)
    clips = plan_dexycb(4000, 0, object_names=ALL)
    chosen = []
    for side in ("right", "left"):
        first = next(clip for clip in clips if side_of(clip) == side)
        numbers = {"numbers": (1, 2), "grasps": (0, 0)}
        chosen.append(first._replace(**numbers))
    writer = DexYcbWriter(root)
    writer.make_folders(chosen)
    records = []
    for clip in chosen:
        for index in range(NUM):
            writer.write_frame(clip, index, labels, drawn)
        kept = writer.record(clip, labels, Visibility(1.0, 1.0))
        records.append({key: np.stack([value] * NUM) for key, value in kept.items()})
        writer.write_blank(clip, 0, rgb)
    writer.write_lists(chosen, records)
    return root, chosen, labels


@pytest.fixture(scope="module")
def rigged(tmp_path_factory):
    """A right and a left hand's sequence, one frame by all eight cameras."""
    folder = tmp_path_factory.mktemp("rigged")
    root = folder / "out"
    (root / "mano").mkdir(parents=True)
    for side in ("right", "left"):
        unpack_hand(side, root / "mano")
    world = toy_world.make_world(folder / "world", kind=RigWorld)
    blank = np.zeros((480, 640), np.uint8)
    drawn = Rendering(np.zeros((480, 640, 3), np.uint8), blank, np.zeros((480, 640)))
    # The bleach cleanser has right hands alone; sequence 5 of the cracker box, a left.
    paths = (dexycb_layout.sequence_path(0, 55), dexycb_layout.sequence_path(0, 5))
    names = ("021_bleach_cleanser", "003_cracker_box")
    writer, clips, records = DexYcbWriter(root), [], []
    for path, name in zip(paths, names, strict=True):
        for camera_row, serial in enumerate(dexycb_files.SERIALS):
            clip = toy_world.clip(f"{path}/{serial}", num=1, object_name=name)
            subject = dexycb_files.SUBJECTS[0]
            clips.append(clip._replace(camera=camera_row, subject=subject))
    writer.make_folders(clips)
    for clip in clips:
        labels = world.compose(clip, 0)[1]
        writer.write_frame(clip, 0, labels, drawn)
        kept = writer.record(clip, labels, Visibility(1.0, 1.0))
        records.append({key: value[None] for key, value in kept.items()})
    writer.write_lists(clips, records)
    return root, paths, [side_of(clip) for clip in clips[::8]]


def test_eight_cameras_see_one_scene_by_the_extrinsics(rigged):
    """Labels of every camera, moved to the world, are the same hand and object."""
    root, paths, sides = rigged
    assert sides == ["right", "left"]
    for path in paths:
        meta = dexycb_files.read_yaml(root / path / "meta.yml")
        name = f"calibration/extrinsics_{meta['extrinsics']}/extrinsics.yml"
        table = dexycb_files.read_yaml(root / name)
        assert table["master"] in dexycb_files.SERIALS
        hands, objects, views = [], [], []
        for serial in dexycb_files.SERIALS:
            pose = np.reshape(table["extrinsics"][serial], (3, 4))
            labels = np.load(root / path / serial / "labels_000001.npz")
            hands.append(labels["joint_3d"][0] @ pose[:, :3].T + pose[:, 3])
            rotmat, trans = labels["pose_y"][0, :, :3], labels["pose_y"][0, :, 3]
            turned, moved = pose[:, :3] @ rotmat, pose[:, :3] @ trans + pose[:, 3]
            objects.append(np.column_stack([turned, moved]))
            views.append(pose)
        assert np.abs(np.array(hands) - hands[0]).max() < 1e-5
        assert np.abs(np.array(objects) - objects[0]).max() < 1e-5
        centres = np.array(views)[:, :, 3]
        gaps = np.linalg.norm(centres[:, None] - centres, axis=-1)
        assert gaps[~np.eye(8, dtype=bool)].min() > 0.1  # eight places
        with np.load(root / path / "pose.npz") as poses:
            master = np.load(root / path / table["master"] / "labels_000001.npz")
            np.testing.assert_allclose(poses["pose_m"][1], master["pose_m"], atol=1e-6)


def test_rig_s_calibration_is_in_the_official_form(rigged):
    root, _, _ = rigged
    for folder in (root / "calibration").glob("extrinsics_*"):
        text = (folder / "extrinsics.yml").read_text()
        assert text.count("!!python/tuple") == 9  # eight cameras and the tag
        values = dexycb_files.read_yaml(folder / "extrinsics.yml")["extrinsics"]
        assert set(values) == {*dexycb_files.SERIALS, "apriltag"}
        for row in values.values():
            rotmat = np.reshape(row, (3, 4))[:, :3]
            np.testing.assert_allclose(rotmat @ rotmat.T, np.eye(3), atol=1e-9)
            assert np.linalg.det(rotmat) == pytest.approx(1)
    for subject in dexycb_files.SUBJECTS:
        assert len(dexycb_files.sequence_names(root, subject)) == 100


def test_some_scenes_are_beyond_some_cameras(tmp_path):
    world = toy_world.make_world(tmp_path, kind=RigWorld)
    path = dexycb_layout.sequence_path(0, 55)
    num_outside = []
    for number in range(60):
        outside = 0
        for row in range(8):
            clip = toy_world.clip(f"{path}/{dexycb_files.SERIALS[row]}", num=1)
            clip = clip._replace(camera=row, numbers=(number,))
            labels = world.compose(clip, 0)[1]
            px = camera.project(labels.joints, labels.intrinsics)
            outside += bool(((px < 0) | (px >= [640, 480])).any(axis=1).all())
        num_outside.append(outside)
    assert num_outside.count(0) > 45  # mostly all see it
    assert any(0 < num < 8 for num in num_outside)


def open_source(root, **options):
    bases = {}
    for side in ("right", "left"):
        model = load_mano(root / "mano" / f"MANO_{side.upper()}.pkl", side=side)
        basis = np.float64(model.hand_components), np.float64(model.hand_mean)
        bases[side] = HandBasis(*basis)
    return DexYcbSource(
        root,
        "s0_train",
        **bases,
        cache_dir=root.parent / "cache",
        workers=0,
        **options,
    )


def test_plan_follows_s0_and_gives_every_frame():
    clips = plan_dexycb(900, 170, object_names=ALL)
    for split, num, part in (
        ("train", 900, "s0_train"),
        ("evaluation", 170, "s0_test"),
    ):
        of_split = [clip for clip in clips if clip.split == split]
        assert sum(len(clip.numbers) for clip in of_split) == num
        for clip in of_split:
            subject = dexycb_files.SUBJECTS.index(clip.subject)
            time = clip.name.split("/")[1][9:]
            sequence = (int(time[:2]) - 10) * 60 + int(time[2:4])
            assert dexycb_files.in_split(part, subject, sequence, clip.camera)
            number = dexycb_layout.GRASPED[sequence // 5]
            assert clip.object_name == YCB_NAMES[number]
    grasps = sorted({row for clip in clips for row in clip.grasps})
    assert grasps == list(range(len(grasps)))
    assert {side_of(clip) for clip in clips} == {"right", "left"}


def test_plan_holds_a_whole_data_set_and_no_more():
    with pytest.raises(UserError, match="holds fewer"):
        plan_dexycb(10**6, 0, object_names=ALL)
    with pytest.raises(UserError, match="--unseen"):
        plan_dexycb(10, 0, object_names=ALL, unseen=True)


def test_tree_is_the_official_one(written):
    root, chosen, _ = written
    for clip in chosen:
        assert len(dexycb_files.sequence_names(root, clip.subject)) == 100
        for serial in dexycb_files.SERIALS:
            folder = (root / clip.name).parent / serial
            names = {path.name for path in folder.iterdir()}
            assert {"color_000002.jpg", "labels_000002.npz"} <= names
            assert len(names) == 9
    name = f"calibration/intrinsics/{dexycb_files.SERIALS[0]}_640x480.yml"
    text = (root / name).read_text()
    assert "!!python/tuple" in text
    with pytest.raises(yaml.YAMLError):
        yaml.safe_load(text)
    folder = (root / chosen[0].name).parent
    with np.load(folder / "pose.npz", allow_pickle=False) as poses:
        assert poses["pose_y"].shape == (3, 2, 7) and poses["pose_m"].shape == (
            3,
            1,
            51,
        )
        assert not poses["pose_m"][0].any() and poses["pose_m"][1].any()
        np.testing.assert_array_equal(poses["pose_y"][0, 0], [0, 0, 0, 1, 0, 0, 0])
    depth = cv2.imread(
        str(root / chosen[0].name / "aligned_depth_to_color_000001.png"), -1
    )
    assert depth.dtype == np.uint16 and depth.max() == 512


def test_read_back_right_and_mirrored_left_are_the_labels(written):
    """A left hand was mirrored on writing; mirrored on reading it is the same again."""
    root, chosen, labels = written
    source = open_source(root)
    assert len(source) == 2 * NUM
    frames = {source.frame_name(i).rpartition("/")[0]: source[i] for i in range(4)}
    for clip in chosen:
        frame = frames[clip.name]
        np.testing.assert_allclose(frame["joints"][:16], labels.joints, atol=1e-6)
        pose = np.concatenate([[labels.hand_rotmat], np.zeros((0, 3, 3))])
        rotmat = cv2.Rodrigues(frame["hand_pose"][0])[0]
        np.testing.assert_allclose(rotmat, pose[0], atol=1e-5)
        fingers = frame["hand_pose"][1:]
        np.testing.assert_allclose(fingers, labels.finger_pose, atol=1e-4)
        np.testing.assert_allclose(frame["hand_betas"], labels.betas, atol=1e-6)
        np.testing.assert_allclose(
            frame["object_rotmat"], labels.object_rotmat, atol=1e-5
        )
        px = camera.project(frame["joints"], frame["intrinsics"])
        assert np.isfinite(px).all()


def test_left_hand_s_mask_is_mirrored_about_the_principal_point(written):
    root, chosen, labels = written
    source = open_source(root, left_hands="keep")
    cx = labels.intrinsics[0, 2]
    for i in range(len(source)):
        frame = source[i]
        clip = next(c for c in chosen if c.name in source.frame_name(i))
        middle = np.argwhere(frame["segmentation"] == HAND).mean(axis=0)[1]
        wanted = 2 * cx - 200 if side_of(clip) == "left" else 200
        assert middle == pytest.approx(wanted, abs=0.6)
