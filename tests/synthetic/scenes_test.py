import numpy as np
import pytest

from homae_jax.geometry.rasterizer import rasterize
from homae_jax.synthetic import scenes
from homae_jax.synthetic.render import (
    HAND,
    OBJECT,
    make_renderer,
    measure_visibility,
)
from tests.synthetic import toy_world

CLIP = toy_world.clip(num=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("world")


@pytest.fixture(scope="module")
def renderer():
    return make_renderer(480, 640)


def hand_axis(labels):
    """Where the camera stands, seen from the hand: unit, hand frame."""
    centre = labels.hand_vertices.mean(axis=0)
    direction = labels.hand_rotmat.T @ -centre
    return direction / np.linalg.norm(direction)


def test_compose_repeats_itself_in_any_order(folder):
    first = toy_world.make_world(folder)
    second = toy_world.make_world(folder)
    forward = [first.compose(CLIP, i)[1] for i in range(3)]
    backward = [second.compose(CLIP, i)[1] for i in (2, 1, 0)][::-1]
    for one, other in zip(forward, backward, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_compose_differs_between_frames_seeds_and_clips(folder):
    world = toy_world.make_world(folder)
    reference = world.compose(CLIP, 0)[1].hand_rotmat
    others = (
        world.compose(CLIP, 1)[1],
        toy_world.make_world(folder, seed=1).compose(CLIP, 0)[1],
        world.compose(CLIP._replace(name="ABF11"), 0)[1],
        world.compose(CLIP._replace(split="evaluation"), 0)[1],
    )
    for other in others:
        assert np.abs(other.hand_rotmat - reference).max() > 1e-3


def test_labels_move_hand_and_object_by_one_rigid_motion(folder):
    world = toy_world.make_world(folder)
    labels = world.compose(CLIP, 2)[1]
    grasp = scenes.Grasps(*(field[CLIP.grasps[2]] for field in world.grasps))
    rotation = labels.hand_rotmat
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) > 0
    shift = labels.joints[0] - rotation @ grasp.joints[0]
    for moved, rest in (
        (labels.hand_vertices, grasp.hand_vertices),
        (labels.joints, grasp.joints),
        (labels.object_trans, grasp.object_trans),
    ):
        np.testing.assert_allclose(moved, rest @ rotation.T + shift, atol=1e-9)
    relative = rotation.T @ labels.object_rotmat
    np.testing.assert_allclose(relative, grasp.object_rotmat, atol=1e-12)


def test_labels_agree_with_the_picture(folder, renderer):
    world = toy_world.make_world(folder, heavy_share=0.0)
    faces = toy_world.hand_shape().closed_faces
    for index in range(4):
        stage, labels = world.compose(CLIP, index)
        drawn = renderer.render(stage)
        model = world.model(labels.object_name)
        posed = model.vertices @ labels.object_rotmat.T + labels.object_trans
        _, _, hand_depth = rasterize(
            labels.hand_vertices, faces, labels.intrinsics, 480, 640
        )
        _, _, object_depth = rasterize(posed, model.faces, labels.intrinsics, 480, 640)
        # Whatever is drawn as hand or object lies just where the labels put it ...
        for label, depth in ((HAND, hand_depth), (OBJECT, object_depth)):
            mask = drawn.segmentation == label
            error = np.abs(drawn.depth[mask] - depth[mask])
            assert np.quantile(error, 0.99) < 1e-4
        # ... and where nothing stands before it, all of it is drawn.
        is_object = (object_depth > 0) & (
            (hand_depth == 0) | (object_depth < hand_depth)
        )
        is_free = np.abs(drawn.depth - object_depth) < 1e-3
        hidden_by_clutter = is_object & ~is_free & (drawn.segmentation != OBJECT)
        expected = is_object & ~hidden_by_clutter
        mask = drawn.segmentation == OBJECT
        iou = (expected & mask).sum() / max((expected | mask).sum(), 1)
        assert iou > 0.95


@pytest.mark.parametrize("cone", [0.0, 30.0])
def test_views_stay_within_the_cone(folder, cone):
    world = toy_world.make_world(folder, view_cone_deg=cone, roll_deg=0.0)
    mean = scenes.look_from(np.array(scenes.MEAN_VIEW_FROM))
    angles = []
    for index in range(6):
        relative = world.compose(CLIP, index)[1].hand_rotmat @ mean.T
        angles.append(
            np.degrees(np.arccos(np.clip((np.trace(relative) - 1) / 2, -1, 1)))
        )
    assert max(angles) <= cone + 1e-4
    assert max(angles) >= 0.5 * cone


def test_views_cover_the_sphere(folder):
    world = toy_world.make_world(folder)
    clip = toy_world.clip(num=16)._replace(grasps=(0,) * 60)
    stands = np.array([hand_axis(world.compose(clip, i)[1]) for i in range(60)])
    octants = {tuple(row) for row in (stands > 0).astype(int)}
    assert len(octants) >= 7


def test_hand_and_object_are_in_the_picture_at_arms_length(folder):
    world = toy_world.make_world(folder)
    for index in range(6):
        labels = world.compose(CLIP, index)[1]
        points = np.concatenate([labels.hand_vertices, labels.object_trans[None]])
        assert points[:, 2].min() > 0.25
        assert points[:, 2].max() < 1.0
        px = (points / points[:, 2:] @ labels.intrinsics.T)[:, :2]
        inside = ((px >= 0) & (px <= [639, 479])).all(axis=1)
        assert inside.mean() > 0.8


def test_heavy_share_sets_the_share_of_occluded_frames(folder, renderer):
    clip = CLIP._replace(grasps=(0, 1, 2, 3) * 6)

    def measured(share):
        world = toy_world.make_world(folder, heavy_share=share)
        visible = []
        for index in range(24):
            stage, _ = world.compose(clip, index)
            visible.append(measure_visibility(renderer, stage, renderer.render(stage)))
        return np.mean(np.min(visible, axis=1) < scenes.HEAVY_BELOW)

    assert measured(0.0) <= 0.15
    assert measured(1.0) >= 0.8


def test_clutter_comes_from_the_own_split(folder):
    world = toy_world.make_world(folder, heavy_share=1.0)
    forbidden = world.model("019_pitcher_base").mesh
    shown = set()
    for index in range(6):
        stage, _ = world.compose(CLIP, index)
        shown |= {part.mesh for part in stage.parts}
    assert forbidden not in shown


def test_sample_betas_belong_to_the_person():
    np.testing.assert_array_equal(
        scenes.sample_betas(0, "A"), scenes.sample_betas(0, "A")
    )
    assert np.abs(scenes.sample_betas(0, "A") - scenes.sample_betas(0, "B")).max() > 0.1
    assert np.abs(scenes.sample_betas(0, "A")).max() <= 2.0
