"""Pictures of one prediction: overlay, turned views, reconstruction, signed distance.

Camera frame, metres; pixels of the picture that was given, its top-left centre at
(0, 0). uint8 RGB in and out; no display and no OpenGL.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from homae_jax.geometry import rasterizer
from homae_jax.viz import figures, overlay
from homae_jax.viz.overlay import HAND_COLOUR, OBJECT_COLOUR, Mesh

Picture = UInt8[np.ndarray, "_h _w 3"]
Number = float | int

MAX_SIDE_PX = 1280  # of an overlay; larger pictures are drawn smaller
SHARE_SIDE_PX = 160  # of the pictures on which occlusion is measured
SLICE_LIMIT = 0.05  # metres, where the colours of a slice saturate
SHEET_CELL = 300


class Posed(NamedTuple):
    """A hand and, where its shape is known, an object; camera frame."""

    hand: Mesh
    object: Mesh | None
    joints: Float[np.ndarray, "21 3"]

    @property
    def meshes(self) -> list[Mesh]:
        """Those there are, the hand first."""
        return [self.hand] if self.object is None else [self.hand, self.object]


def posed(
    hand_vertices: Float[np.ndarray, "778 3"],
    hand_faces: Int[np.ndarray, "f 3"],
    joints: Float[np.ndarray, "21 3"],
    object_vertices: Float[np.ndarray, "v 3"] | None,
    object_faces: Int[np.ndarray, "g 3"] | None,
) -> Posed:
    """Meshes in the colours of this project's figures."""
    obj = None
    if object_vertices is not None:
        obj = Mesh(object_vertices, object_faces, OBJECT_COLOUR)
    return Posed(Mesh(hand_vertices, hand_faces, HAND_COLOUR), obj, joints)


def fit_picture(
    image: Picture, intrinsics: Float[np.ndarray, "3 3"], max_side: int = MAX_SIDE_PX
) -> tuple[Picture, Float[np.ndarray, "3 3"]]:
    """A picture no larger than `max_side`, and its intrinsics."""
    factor = max_side / max(image.shape[:2])
    if factor >= 1:
        return image, intrinsics
    height, width = (round(n * factor) for n in image.shape[:2])
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    sx, sy = width / image.shape[1], height / image.shape[0]
    scale = np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1.0]])
    return small, scale @ intrinsics


def draw_overlay(
    image: Picture,
    scene: Posed,
    intrinsics: Float[np.ndarray, "3 3"],
    *,
    skeleton: bool = False,
) -> Picture:
    """Meshes over the picture; joints and bones on top where asked for."""
    drawn = overlay.draw_meshes(image, scene.meshes, intrinsics, opacity=0.85)
    return overlay.draw_skeleton(drawn, scene.joints, intrinsics) if skeleton else drawn


def draw_view(scene: Posed, turn_deg: Number, size: int = 480) -> Picture:
    """The pair alone: 0 as the camera sees it, 90 from its right, 180 from behind."""
    sphere = overlay.bounding_sphere(scene.meshes)
    return overlay.draw_turned(scene.meshes, [], sphere, turn_deg=turn_deg, size=size)


def draw_sheet(views: Mapping[str, Picture], *, title: str, note: str) -> Picture:
    """Everything of one prediction on a page."""
    rows = [
        {name: views[name] for name in names if name in views}
        for names in (
            ("input", "close-up", "front", "side"),
            ("masked", "reconstruction", "SDF of the hand", "SDF of the object"),
        )
    ]
    strips = [
        draw_strip(row, title="" if i else title) for i, row in enumerate(rows) if row
    ]
    width = max(strip.shape[1] for strip in strips)
    foot = np.full((26, width, 3), 255, np.uint8)
    figures.draw_text(foot, note, (8, 12), size=8, colour=figures.FAINT)
    return np.concatenate([*(_as_wide(strip, width) for strip in strips), foot])


def draw_strip(pictures: Mapping[str, Picture], *, title: str = "") -> Picture:
    """Pictures side by side under their names."""
    return figures.contact_sheet(
        [list(pictures.values())],
        column_titles=tuple(pictures),
        title=title,
        cell=SHEET_CELL,
    )


def _as_wide(picture: Picture, width: int) -> Picture:
    """On white, as wide as the page."""
    page = np.full((picture.shape[0], width, 3), 255, np.uint8)
    page[:, : picture.shape[1]] = picture
    return page


def draw_slice(values: Float[np.ndarray, "n n"]) -> Picture:
    """A slice that faces the camera; inside warm, the surface black."""
    return figures.sdf_slice(values, limit=SLICE_LIMIT, side=SHEET_CELL)


class Shares(NamedTuple):
    """What can be told of a prediction without any truth; shares in [0, 1]."""

    hand_visible: float  # of the hand's outline, not behind the object
    object_visible: float | None
    disagreement: float  # 1 - overlap of the drawn meshes with the network's masks


def measure(
    scene: Posed,
    crop_intrinsics: Float[np.ndarray, "3 3"],
    crop_side: int,
    masks: Mapping[str, Float[np.ndarray, "_m _m"]],
) -> Shares:
    """How much of each is seen, and whether masks and meshes tell the same story."""
    fine = overlay.enlarge(
        np.zeros((crop_side, crop_side, 3), np.uint8), crop_intrinsics, SHARE_SIDE_PX
    )[1]
    alone = [_covered([mesh], fine)[0] for mesh in scene.meshes]
    owner = _covered(scene.meshes, fine)[1]
    visible = [
        float((owner == row).sum() / max(silhouette.sum(), 1))
        for row, silhouette in enumerate(alone)
    ]
    overlaps = []
    for row, name in enumerate(("hand", "object")[: len(alone)]):
        mask = cv2.resize(masks[name].astype(np.float32), (SHARE_SIDE_PX,) * 2) > 0.5
        drawn = owner == row
        overlaps.append((mask & drawn).sum() / max((mask | drawn).sum(), 1))
    return Shares(
        hand_visible=visible[0],
        object_visible=visible[1] if len(visible) > 1 else None,
        disagreement=float(1 - np.mean(overlaps)),
    )


def _covered(
    meshes: Sequence[Mesh], intrinsics: Float[np.ndarray, "3 3"]
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels covered by any mesh, and the row of the nearest one (-1: none)."""
    counts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    faces = [m.faces + start for m, start in zip(meshes, counts, strict=False)]
    owners = np.repeat(np.arange(len(meshes)), [len(f) for f in faces])
    face_id = rasterizer.rasterize(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate(faces),
        intrinsics,
        SHARE_SIDE_PX,
        SHARE_SIDE_PX,
    )[0]
    return face_id >= 0, np.where(face_id >= 0, owners[face_id], -1)
