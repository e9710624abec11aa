"""Pictures of cluttered tables, drawn once and reused behind many frames.

OpenCV camera frame, metres. A background holds no hand; what lies about are models of
the same split, so that an object kept for evaluation never shows in training.
"""

import numpy as np
from jaxtyping import Float, UInt8

from homae_jax.synthetic.appearance import sample_light, surface_texture, through_lens
from homae_jax.synthetic.meshes import DrawMesh, Material
from homae_jax.synthetic.render import BACKGROUND, Part, Renderer, Stage
from homae_jax.synthetic.scenes import IMAGE_HEIGHT, IMAGE_WIDTH, World, random_stream

_FOCAL = 560.0  # px


def draw_background(
    world: World, renderer: Renderer, split: str, index: int
) -> UInt8[np.ndarray, "480 640 3"]:
    """Draws a table, a wall and between five and eleven things on the table."""
    rng = random_stream(world.options.seed, "background", split, index)
    pitch = np.radians(rng.uniform(22, 55))
    height = rng.uniform(0.45, 0.8)
    cam_T_table = _table_pose(pitch, height, yaw=rng.uniform(0, 2 * np.pi))
    reach = height / np.sin(pitch)
    wall = _plane_mesh(half=3.0, tiles=rng.uniform(1, 4))
    table = _plane_mesh(half=min(0.8, 0.9 * height / np.cos(pitch)), tiles=2.0)
    parts = [
        Part(wall, _matt(surface_texture(rng)), _far_wall(rng), BACKGROUND, False),
        Part(table, _matt(surface_texture(rng)), cam_T_table, BACKGROUND, False),
    ]
    names = world.clutter(split)
    for _ in range(rng.integers(5, 12)):
        model = world.model(names[rng.integers(len(names))])
        place = rng.uniform(-0.42, 0.42, 2) * reach
        parts.append(
            Part(
                model.mesh,
                model.material,
                cam_T_table @ _standing(rng, model.bounds, place),
                BACKGROUND,
            )
        )
    intrinsics = np.array([[_FOCAL, 0, 319.5], [0, _FOCAL, 239.5], [0, 0, 1.0]])
    empty = np.full((IMAGE_HEIGHT, IMAGE_WIDTH, 3), 90, np.uint8)
    stage = Stage(tuple(parts), intrinsics, sample_light(rng), empty)
    return through_lens(renderer.render(stage).rgb, rng)


def _matt(texture: UInt8[np.ndarray, "h w 3"]) -> Material:
    return Material(texture, gloss=0.03)


def _table_pose(pitch: float, height: float, yaw: float) -> Float[np.ndarray, "4 4"]:
    """cam_T_table: z of the table is up, its origin where the camera looks."""
    up = np.array([0.0, -np.cos(pitch), -np.sin(pitch)])
    right = np.array([1.0, 0.0, 0.0])
    base = np.stack([right, np.cross(up, right), up], axis=1)
    cos, sin = np.cos(yaw), np.sin(yaw)
    pose = np.eye(4)
    pose[:3, :3] = base @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    pose[:3, 3] = [0, 0, height / np.sin(pitch)]
    return pose


def _far_wall(rng: np.random.Generator) -> Float[np.ndarray, "4 4"]:
    """cam_T_wall: upright behind the table, its front towards the camera."""
    pose = np.eye(4)
    pose[:3, :3] = np.diag([1.0, -1.0, -1.0])
    pose[:3, 3] = [0, 0, rng.uniform(1.9, 2.6)]
    return pose


def _plane_mesh(half: float, tiles: float) -> DrawMesh:
    """A square in z = 0, cut into strips so that no face reaches behind the camera."""
    steps = np.linspace(-half, half, 13)
    x, y = np.meshgrid(steps, steps)
    positions = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=1)
    corner = (np.arange(12)[:, None] * 13 + np.arange(12)).ravel()
    faces = np.concatenate(
        [
            np.stack([corner, corner + 1, corner + 14], axis=1),
            np.stack([corner, corner + 14, corner + 13], axis=1),
        ]
    )
    return DrawMesh(
        positions=positions.astype(np.float32),
        normals=np.tile(np.array([0, 0, 1], np.float32), (x.size, 1)),
        uvs=(positions[:, :2] / half * tiles / 2).astype(np.float32),
        faces=faces.astype(np.int32),
        is_static=False,
    )


def _standing(
    rng: np.random.Generator,
    bounds: Float[np.ndarray, "2 3"],
    place: Float[np.ndarray, "2"],
) -> Float[np.ndarray, "4 4"]:
    """table_T_obj: the model upright or on its side, its lowest point on the table."""
    turn = [np.eye(3), np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])][rng.integers(2)]
    yaw = rng.uniform(0, 2 * np.pi)
    cos, sin = np.cos(yaw), np.sin(yaw)
    rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ turn
    box = np.stack(np.meshgrid(*bounds.T), axis=-1).reshape(-1, 3) @ rotation.T
    pose = np.eye(4)
    pose[:3, :3] = rotation
    pose[:3, 3] = [*(place - box[:, :2].mean(axis=0)), -box[:, 2].min()]
    return pose
