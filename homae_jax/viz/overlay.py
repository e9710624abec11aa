"""Hand and object meshes drawn over a picture or from the side, by numpy alone.

Camera frame: x right, y down, z forward, metres. Pixel centres have integer
coordinates. Pictures are uint8 RGB; functions return new ones. Everything is drawn at
twice the size and averaged. Filled and shaded: what is shown; outlines: what it is
compared with (HOMAE Fig. 4 and 5).
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from homae_jax.geometry import camera
from homae_jax.geometry.rasterizer import rasterize
from homae_jax.hand.joints import BONES

Number = float | int

HAND_COLOUR = (242, 166, 110)
OBJECT_COLOUR = (74, 163, 186)
TRUE_HAND_COLOUR = (255, 232, 64)
TRUE_OBJECT_COLOUR = (122, 240, 92)
FINGER_COLOURS = (  # thumb, index, middle, ring, little
    (232, 93, 84),
    (246, 173, 60),
    (120, 200, 80),
    (70, 160, 235),
    (176, 110, 220),
)
PAPER = (247, 247, 245)  # background of turned views

_SUPERSAMPLING = 2
_OUTLINE_SAMPLING = 4
_CREASE_COSINE = np.cos(np.radians(35.0))
_KEY_LIGHT = np.array([-0.45, -0.75, -0.6])  # towards the light, camera frame
_FILL_LIGHT = np.array([0.85, -0.1, -0.4])
_EDGE_STEP = 0.008  # metres; a larger jump of depth is inked
_SHORTEST_PX = 12  # contours below are specks
_SUBPIXEL_BITS = 4  # of cv2's fixed-point coordinates
_FINGERS = (  # rows of the joints, thumb to little
    (13, 14, 15, 16),
    (1, 2, 3, 17),
    (4, 5, 6, 18),
    (10, 11, 12, 19),
    (7, 8, 9, 20),
)


class Mesh(NamedTuple):
    """A surface in the camera frame and its colour."""

    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    colour: tuple[int, int, int]


class Sphere(NamedTuple):
    """What a turned view looks at: panels that share it share their scale."""

    center: Float[np.ndarray, " 3"]
    radius: float


def draw_meshes(
    image: UInt8[np.ndarray, "h w 3"],
    meshes: Sequence[Mesh],
    intrinsics: Float[np.ndarray, "3 3"],
    *,
    opacity: Number = 0.9,
) -> UInt8[np.ndarray, "h w 3"]:
    """Shaded surfaces over a picture, each hiding what lies behind it."""
    height, width = image.shape[:2]
    colour, coverage = _shade(meshes, intrinsics, height, width)
    alpha = opacity * coverage[..., None]
    return _to_uint8(image * (1 - alpha) + opacity * colour)


def draw_outlines(
    image: UInt8[np.ndarray, "h w 3"],
    meshes: Sequence[Mesh],
    intrinsics: Float[np.ndarray, "3 3"],
    *,
    thickness: int = 1,
) -> UInt8[np.ndarray, "h w 3"]:
    """Outlines of the visible part of every mesh, light lines on a dark halo."""
    height, width = image.shape[:2]
    fine = _magnified(intrinsics, _OUTLINE_SAMPLING)
    size = height * _OUTLINE_SAMPLING, width * _OUTLINE_SAMPLING
    owner = _rasterize_scene(meshes, fine, *size).owner
    contours = [_smooth_contours(owner == index) for index in range(len(meshes))]
    big = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    for halo in (True, False):
        for mesh, lines in zip(meshes, contours, strict=True):
            colour = tuple(c // 6 for c in mesh.colour) if halo else mesh.colour
            for line in lines:
                points = (line + 0.5) * (2 / _OUTLINE_SAMPLING) - 0.5
                fixed = np.round(points * (1 << _SUBPIXEL_BITS)).astype(np.int32)
                cv2.polylines(
                    big,
                    [fixed],
                    isClosed=True,
                    color=colour,
                    thickness=2 * thickness + (2 if halo else 0),
                    lineType=cv2.LINE_AA,
                    shift=_SUBPIXEL_BITS,
                )
    return cv2.resize(big, (width, height), interpolation=cv2.INTER_AREA)


def bounding_sphere(meshes: Sequence[Mesh]) -> Sphere:
    """The middle of the meshes' common box, and the reach of their vertices from it."""
    points = np.concatenate([mesh.vertices for mesh in meshes])
    center = (points.min(axis=0) + points.max(axis=0)) / 2
    radius = float(np.linalg.norm(points - center[None], axis=1).max())
    return Sphere(center, radius)


def draw_turned(
    meshes: Sequence[Mesh],
    outlines: Sequence[Mesh],
    sphere: Sphere,
    *,
    turn_deg: Number,
    size: int,
    background: tuple[int, int, int] = PAPER,
) -> UInt8[np.ndarray, "s s 3"]:
    """Surfaces and outlines seen after turning the scene about the upright axis.

    Args:
      sphere: fills the picture; its centre stays in the middle.
      turn_deg: 0 the camera's own direction, 90 from the camera's right side, 180 from
        behind.
      size: side of the picture, px.
    """
    distance = 4.0 * sphere.radius
    focal = 0.46 * size * distance / sphere.radius
    middle = (size - 1) / 2
    intrinsics = np.array([[focal, 0, middle], [0, focal, middle], [0, 0, 1.0]])
    angle = np.radians(turn_deg)
    c, s = np.cos(angle), np.sin(angle)
    rotmat = np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])

    def turned(mesh: Mesh) -> Mesh:
        points = (mesh.vertices - sphere.center[None]) @ rotmat.T
        return mesh._replace(vertices=points + np.array([[0.0, 0.0, distance]]))

    image = np.empty((size, size, 3), np.uint8)
    image[:] = background
    image = draw_meshes(image, [turned(m) for m in meshes], intrinsics, opacity=1.0)
    if outlines:
        image = draw_outlines(image, [turned(m) for m in outlines], intrinsics)
    return image


def draw_skeleton(
    image: UInt8[np.ndarray, "h w 3"],
    joints: Float[np.ndarray, "21 3"],
    intrinsics: Float[np.ndarray, "3 3"],
) -> UInt8[np.ndarray, "h w 3"]:
    """Bones of the hand, a colour a finger, the farther ones first (MANO order)."""
    pixels = camera.project(np.asarray(joints, np.float64), intrinsics)
    scale = 4
    fixed = np.round(((pixels + 0.5) * scale - 0.5) * (1 << _SUBPIXEL_BITS))
    limit = 2**20  # cv2 wants small integers
    fixed = np.clip(fixed, -limit, limit).astype(np.int32)
    height, width = image.shape[:2]
    big = cv2.resize(image, (width * scale, height * scale))
    unit = max(1.0, min(height, width) / 160)
    colours = {j: c for f, c in zip(_FINGERS, FINGER_COLOURS, strict=True) for j in f}
    depth = joints[:, 2]
    bones = sorted(BONES, key=lambda bone: -max(depth[list(bone)]))
    for start, end in bones:
        for colour, px in (((20, 20, 20), 2.6), (colours[end], 1.6)):
            cv2.line(
                big,
                tuple(fixed[start].tolist()),
                tuple(fixed[end].tolist()),
                colour,
                round(px * unit * scale),
                cv2.LINE_AA,
                _SUBPIXEL_BITS,
            )
    for joint in np.argsort(-depth):
        colour = colours.get(int(joint), (240, 240, 240))
        for tone, px in (((20, 20, 20), 2.0), (colour, 1.5)):
            radius = round(px * unit * scale) << _SUBPIXEL_BITS
            at = tuple(fixed[joint].tolist())
            cv2.circle(big, at, radius, tone, -1, cv2.LINE_AA, _SUBPIXEL_BITS)
    return cv2.resize(big, (width, height), interpolation=cv2.INTER_AREA)


def enlarge(
    image: UInt8[np.ndarray, "h w 3"],
    intrinsics: Float[np.ndarray, "3 3"],
    side: int,
) -> tuple[UInt8[np.ndarray, "{side} {side} 3"], Float[np.ndarray, "3 3"]]:
    """A square picture at another size, with the intrinsics that go with it."""
    interpolation = cv2.INTER_CUBIC if side > image.shape[0] else cv2.INTER_AREA
    resized = cv2.resize(image, (side, side), interpolation=interpolation)
    return resized, _magnified(intrinsics, side / image.shape[0])


class _Scene(NamedTuple):
    """Per pixel: row of the mesh (-1: none), face within it, weights, depth."""

    owner: Int[np.ndarray, "h w"]
    face: Int[np.ndarray, "h w"]
    barycentric: Float[np.ndarray, "h w 3"]
    depth: Float[np.ndarray, "h w"]


def _magnified(intrinsics: np.ndarray, factor: Number) -> np.ndarray:
    """Intrinsics of the picture enlarged about its top-left corner (not centre)."""
    shift = (factor - 1) / 2
    return np.array([[factor, 0, shift], [0, factor, shift], [0, 0, 1]]) @ intrinsics


def _rasterize_scene(
    meshes: Sequence[Mesh], intrinsics: np.ndarray, height: int, width: int
) -> _Scene:
    counts = [len(mesh.vertices) for mesh in meshes]
    starts = np.cumsum([0, *counts[:-1]])
    faces = [m.faces + start for m, start in zip(meshes, starts, strict=True)]
    owners = np.repeat(np.arange(len(meshes)), [len(f) for f in faces])
    first = np.cumsum([0, *(len(f) for f in faces)])[:-1]
    face_id, barycentric, depth = rasterize(
        np.concatenate([m.vertices for m in meshes]),
        np.concatenate(faces),
        intrinsics,
        height,
        width,
    )
    owner = np.where(face_id >= 0, owners[face_id], -1)
    return _Scene(owner, face_id - first[owner], barycentric, depth)


def _shade(
    meshes: Sequence[Mesh], intrinsics: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Colour (times coverage, 0-255) and coverage (0-1) of every pixel."""
    factor = _SUPERSAMPLING
    fine = _magnified(intrinsics, factor)
    scene = _rasterize_scene(meshes, fine, height * factor, width * factor)
    colour = np.zeros((*scene.owner.shape, 3))
    rays = _pixel_rays(fine, *scene.owner.shape)
    for index, mesh in enumerate(meshes):
        seen = scene.owner == index
        corners = _corner_normals(mesh)[scene.face[seen]]
        normals = np.einsum("pk,pki->pi", scene.barycentric[seen], corners)
        colour[seen] = _light(_unit(normals), rays[seen], np.array(mesh.colour))
    colour *= np.where(_inked(scene), 0.45, 1.0)[..., None]
    covered = (scene.owner >= 0).astype(np.float64)
    return _averaged(colour, factor), _averaged(covered[..., None], factor)[..., 0]


def _corner_normals(mesh: Mesh) -> Float[np.ndarray, "f 3 3"]:
    """Smooth normals at the corners of each face, the face's own across a crease."""
    a, b, c = (mesh.vertices[mesh.faces[:, corner]] for corner in range(3))
    weighted = np.cross(b - a, c - a)
    total = np.zeros((len(mesh.vertices), 3))
    for corner in range(3):
        np.add.at(total, mesh.faces[:, corner], weighted)
    smooth, flat = _unit(total)[mesh.faces], _unit(weighted)[:, None]
    is_smooth = (smooth * flat).sum(axis=-1, keepdims=True) > _CREASE_COSINE
    return np.where(is_smooth, smooth, flat)


def _light(normals: np.ndarray, rays: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Sky light, two lamps, a soft highlight, darker towards the rim."""
    facing = -(normals * rays).sum(axis=-1, keepdims=True)
    normals = np.where(facing < 0, -normals, normals)
    key = np.maximum(normals @ _unit(_KEY_LIGHT), 0.0)[:, None]
    fill = np.maximum(normals @ _unit(_FILL_LIGHT), 0.0)[:, None]
    sky = 0.5 - 0.5 * normals[:, 1:2]
    halfway = _unit(_unit(_KEY_LIGHT)[None] - rays)
    shine = np.maximum((normals * halfway).sum(axis=-1, keepdims=True), 0.0) ** 24
    rim = 1.0 - 0.35 * (1.0 - np.abs(facing)) ** 3
    diffuse = 0.40 + 0.24 * sky + 0.52 * key + 0.16 * fill
    return np.clip(colour[None] * diffuse * rim + 36.0 * shine, 0.0, 255.0)


def _inked(scene: _Scene) -> Bool[np.ndarray, "h w"]:
    """Pixels just behind another mesh's edge or a jump of depth."""
    far = np.where(scene.owner >= 0, scene.depth, 1e3)
    ink = np.zeros(scene.owner.shape, bool)
    for axis in (0, 1):
        for shift in (-1, 1):
            near = np.roll(far, shift, axis=axis)
            is_edge = far - near > _EDGE_STEP
            other = np.roll(scene.owner, shift, axis=axis) != scene.owner
            ink |= is_edge | (other & (near < far))
    return ink & (scene.owner >= 0)


def _smooth_contours(mask: np.ndarray) -> list[Float[np.ndarray, "p 2"]]:
    """Contours of a mask, without the stairs of its pixels."""
    found, _ = cv2.findContours(
        mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    )
    contours = []
    for line in found:
        points = line[:, 0].astype(np.float64)
        if len(points) < _SHORTEST_PX * _OUTLINE_SAMPLING:
            continue
        for _ in range(_OUTLINE_SAMPLING):
            points = (np.roll(points, 1, 0) + 2 * points + np.roll(points, -1, 0)) / 4
        contours.append(points)
    return contours


def _pixel_rays(intrinsics: np.ndarray, height: int, width: int) -> np.ndarray:
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    homogeneous = np.stack([x, y, np.ones_like(x)], axis=-1)
    return _unit(homogeneous @ np.linalg.inv(intrinsics).T)


def _averaged(values: np.ndarray, factor: int) -> np.ndarray:
    height, width, channels = values.shape
    blocks = values.reshape(height // factor, factor, width // factor, factor, channels)
    return blocks.mean(axis=(1, 3))


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(length, 1e-12)


def _to_uint8(values: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)
