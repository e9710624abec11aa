"""Overlays: what covers what, where outlines run, what turning does."""

import numpy as np
import trimesh

from homae_jax.hand.joints import BONES
from homae_jax.viz import overlay
from homae_jax.viz.overlay import Mesh

SIZE = 64
INTRINSICS = np.array([[80.0, 0, 31.5], [0, 80.0, 31.5], [0, 0, 1]])
GREY = np.full((SIZE, SIZE, 3), 90, np.uint8)
RED, BLUE = (255, 0, 0), (0, 0, 255)


def ball(center, radius=0.1, colour=RED) -> Mesh:
    mesh = trimesh.creation.icosphere(subdivisions=3, radius=radius)
    vertices = np.asarray(mesh.vertices) + np.array([center])
    return Mesh(vertices, np.asarray(mesh.faces), colour)


def is_hue(image, channel):
    rest = [c for c in range(3) if c != channel]
    return image[..., channel].astype(int) > image[..., rest].max(-1).astype(int) + 30


def test_draw_meshes_covers_the_projected_disc_and_nothing_else():
    image = overlay.draw_meshes(GREY, [ball((0, 0, 1.0))], INTRINSICS)
    changed = (image != GREY).any(-1)
    y, x = np.mgrid[:SIZE, :SIZE] - 31.5
    distance = np.hypot(x, y)
    edge = 80.0 * 0.1 / np.sqrt(1 - 0.1**2)
    assert changed[distance < edge - 1].all()
    assert not changed[distance > edge + 1].any()


def test_draw_meshes_nearer_mesh_hides_farther_whatever_the_order():
    near, far = ball((0, 0, 0.8), 0.05, BLUE), ball((0, 0, 1.2), 0.2, RED)
    one = overlay.draw_meshes(GREY, [near, far], INTRINSICS, opacity=1.0)
    two = overlay.draw_meshes(GREY, [far, near], INTRINSICS, opacity=1.0)
    np.testing.assert_array_equal(one, two)
    assert is_hue(one, 2)[31, 31] and is_hue(one, 0)[31, 42]


def test_draw_meshes_keeps_the_picture_at_zero_opacity():
    image = overlay.draw_meshes(GREY, [ball((0, 0, 1.0))], INTRINSICS, opacity=0.0)
    np.testing.assert_array_equal(image, GREY)


def test_draw_outlines_follows_the_silhouette():
    image = overlay.draw_outlines(GREY, [ball((0, 0, 1.0), 0.2)], INTRINSICS)
    y, x = np.nonzero(is_hue(image, 0))
    distance = np.hypot(x - 31.5, y - 31.5)
    edge = 80.0 * 0.2 / np.sqrt(1 - 0.2**2)
    assert len(x) > 60
    np.testing.assert_allclose(distance, edge, atol=2.0)


def test_draw_turned_shows_what_lies_behind():
    front, back = ball((0, 0, 0.9), 0.06, RED), ball((0, 0, 1.1), 0.06, BLUE)
    sphere = overlay.bounding_sphere([front, back])

    def middle(turn_deg):
        image = overlay.draw_turned(
            [front, back], [], sphere, turn_deg=turn_deg, size=SIZE
        )
        return image[30:34, 30:34].reshape(-1, 3)

    assert is_hue(middle(0.0), 0).all()
    assert is_hue(middle(180.0), 2).all()
    side = overlay.draw_turned([front, back], [], sphere, turn_deg=90.0, size=SIZE)
    # From the right, what is near the camera lies on the left.
    assert is_hue(side, 0)[:, :32].any() and not is_hue(side, 0)[:, 34:].any()


def test_bounding_sphere_holds_all_vertices():
    meshes = [ball((0.3, 0, 1.0)), ball((-0.2, 0.1, 0.7), 0.2)]
    sphere = overlay.bounding_sphere(meshes)
    points = np.concatenate([m.vertices for m in meshes])
    assert np.linalg.norm(points - sphere.center, axis=1).max() <= sphere.radius + 1e-9


def test_draw_skeleton_marks_every_bone():
    rng = np.random.default_rng(0)
    joints = rng.uniform(-0.3, 0.3, (21, 3)) + np.array([0, 0, 1.0])
    image = overlay.draw_skeleton(GREY, joints, INTRINSICS)
    changed = (image != GREY).any(-1)
    pixels = joints @ INTRINSICS.T
    pixels = pixels[:, :2] / pixels[:, 2:]
    for start, end in BONES:
        x, y = np.round((pixels[start] + pixels[end]) / 2).astype(int)
        assert changed[y, x], (start, end)


def test_enlarge_keeps_points_on_their_picture():
    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    picture[40, 20] = 255
    big, intrinsics = overlay.enlarge(picture, INTRINSICS, 4 * SIZE)
    ray = np.linalg.inv(INTRINSICS) @ [20, 40, 1]
    y, x = np.unravel_index(big[..., 0].argmax(), big.shape[:2])
    np.testing.assert_allclose((intrinsics @ ray)[:2], [x, y], atol=0.51)
