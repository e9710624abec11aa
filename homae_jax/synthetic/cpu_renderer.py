"""The numpy renderer, for machines without EGL: the z-buffer, then shading by pixel.

The same camera, light, shadow and shading as the OpenGL renderer; textures are read at
the nearest texel.
"""

import numpy as np

from homae_jax.geometry.rasterizer import rasterize
from homae_jax.synthetic.render import (
    HAND,
    OBJECT,
    OUTLINE_PX,
    SHADOW_OFFSET,
    SHADOW_SIZE,
    SHININESS,
    Part,
    Rendering,
    Stage,
    outline_camera,
    shadow_camera,
    stage_bounds,
)


class CpuRenderer:
    """See `render.Renderer`."""

    name = "cpu"

    def __init__(self, height: int, width: int):
        self._height, self._width = height, width

    def render(self, stage: Stage) -> Rendering:
        """Draws everything."""
        points, faces, part_of_face = _merge(stage.parts)
        face_id, weights, depth = rasterize(
            points, faces, stage.intrinsics, self._height, self._width
        )
        rgb = stage.background.copy()
        segmentation = np.zeros((self._height, self._width), np.uint8)
        is_lit = _shadow_test(stage)
        first_face = np.cumsum([0] + [len(part.mesh.faces) for part in stage.parts])
        owner = np.where(face_id >= 0, part_of_face[face_id], -1)
        for index, part in enumerate(stage.parts):
            rows, columns = np.nonzero(owner == index)
            own_faces = part.mesh.faces[face_id[rows, columns] - first_face[index]]
            rgb[rows, columns] = _shade(
                part, own_faces, weights[rows, columns], stage.light, is_lit
            )
            segmentation[rows, columns] = part.label
        return Rendering(rgb, segmentation, depth)

    def outline_areas(self, stage: Stage) -> tuple[float, float]:
        """Areas in px of hand and object, each as if alone in a far wider picture."""
        camera = outline_camera(stage.intrinsics, self._height, self._width)
        areas = []
        for label in (HAND, OBJECT):
            parts = tuple(part for part in stage.parts if part.label == label)
            points, faces, _ = _merge(parts)
            size = self._height // 2, self._width // 2
            face_id, _, _ = rasterize(points, faces, camera, *size)
            areas.append(np.count_nonzero(face_id >= 0) * OUTLINE_PX**2)
        return areas[0], areas[1]


def _shadow_test(stage: Stage):
    """A function of points and normals (camera frame): share of the lamp seen."""
    points, faces, _ = _merge(tuple(p for p in stage.parts if p.casts_shadow))
    lamp_T_cam, intrinsics, _ = shadow_camera(stage.light, *stage_bounds(stage))
    rotation, shift = lamp_T_cam[:3, :3], lamp_T_cam[:3, 3]
    _, _, lamp_depth = rasterize(
        points @ rotation.T + shift, faces, intrinsics, SHADOW_SIZE, SHADOW_SIZE
    )
    lamp_depth[lamp_depth == 0] = np.inf

    def share_lit(at: np.ndarray, normals: np.ndarray) -> np.ndarray:
        seen = (at + SHADOW_OFFSET * normals) @ rotation.T + shift
        px = (seen / seen[:, 2:] @ intrinsics.T)[:, :2]
        px = np.clip(px, 0, SHADOW_SIZE - 1.001)
        low = px.astype(int)
        high_share = px - low
        total = np.zeros(len(at))
        for dx in (0, 1):
            for dy in (0, 1):
                share = np.abs(1 - dx - high_share[:, 0])
                share = share * np.abs(1 - dy - high_share[:, 1])
                nearest = lamp_depth[low[:, 1] + dy, low[:, 0] + dx]
                total += share * (seen[:, 2] - SHADOW_OFFSET <= nearest)
        return total

    return share_lit


def _merge(parts: tuple[Part, ...]):
    """All parts as one mesh in the camera frame, with the part of every face."""
    points, faces, owners, offset = [np.zeros((0, 3))], [np.zeros((0, 3), int)], [], 0
    for index, part in enumerate(parts):
        rotation, shift = part.cam_T_mesh[:3, :3], part.cam_T_mesh[:3, 3]
        points.append(part.mesh.positions @ rotation.T + shift)
        faces.append(part.mesh.faces + offset)
        owners.append(np.full(len(part.mesh.faces), index))
        offset += len(part.mesh.positions)
    owner = np.concatenate(owners) if owners else np.zeros(0, int)
    return np.concatenate(points), np.concatenate(faces), owner


def _shade(part: Part, faces, weights, light, is_lit) -> np.ndarray:
    """Colours of the points seen: the fragment program of gl_renderer in numpy."""
    rotation, shift = part.cam_T_mesh[:3, :3], part.cam_T_mesh[:3, 3]
    weights = weights[:, :, None]
    at = (part.mesh.positions[faces] * weights).sum(axis=1) @ rotation.T + shift
    normal = (part.mesh.normals[faces] * weights).sum(axis=1) @ rotation.T
    uv = (part.mesh.uvs[faces] * weights).sum(axis=1)
    view, normal = _unit(-at), _unit(normal)
    normal = np.where((normal * view).sum(axis=1, keepdims=True) < 0, -normal, normal)

    material = part.material
    height, width = material.texture.shape[:2]
    column = np.floor(uv[:, 0] * width).astype(int) % width
    row = np.floor((1 - uv[:, 1]) * height).astype(int) % height
    albedo = (material.texture[row, column] / 255.0) ** 2

    lit = is_lit(at, normal)
    facing = normal @ light.direction
    diffuse = np.clip((facing + material.wrap) / (1 + material.wrap), 0, 1) * lit
    sky = light.ambient * (0.8 - 0.3 * normal[:, 1])
    half = _unit(light.direction + view)
    shine = np.maximum((normal * half).sum(axis=1), 0) ** SHININESS * lit
    linear = albedo * (sky + light.strength * diffuse)[:, None]
    linear = (linear + material.gloss * shine[:, None]) * light.tint
    return np.round(np.sqrt(np.clip(linear, 0, 1)) * 255).astype(np.uint8)


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(length, 1e-12)
