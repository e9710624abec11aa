"""Pictures of labels over frames, for the eye: do they lie where the picture is?

White: the optical axis and K. Colours: the joints' bones. Yellow: the hand's box; cyan:
the object's box and the outline of its model. Tints: the masks.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import UInt8

from homae_jax.data.source import Frame
from homae_jax.diagnosis.agreement import Model, posed
from homae_jax.geometry import camera
from homae_jax.schema import HAND, OBJECT
from homae_jax.viz import figures, overlay

Picture = UInt8[np.ndarray, "_h _w 3"]

CELL_WIDTH, CELL_HEIGHT, CAPTION = 560, 420, 44
COLUMNS, GAP, TITLE = 3, 8, 40
HAND_BOX, OBJECT_LINE, AXIS = (250, 214, 60), (70, 220, 235), (255, 255, 255)
TINTS = {HAND: (235, 80, 70), OBJECT: (70, 110, 240)}
BOX_EDGES = (
    *((0, 1), (1, 3), (3, 2), (2, 0), (4, 5), (5, 7), (7, 6), (6, 4)),
    *((0, 4), (1, 5), (2, 6), (3, 7)),
)


def draw_frame(frame: Frame, model: Model | None) -> Picture:
    """A frame with all its labels; without a model, the object's box of corners."""
    image = _tinted(frame)
    intrinsics = frame["intrinsics"]
    if model is not None:
        mesh = overlay.Mesh(posed(model, frame), model.faces, OBJECT_LINE)
        image = overlay.draw_outlines(image, [mesh], intrinsics)
    corners = frame["object_corners"] @ frame["object_rotmat"].T + frame["object_trans"]
    corners_px = camera.project(corners, intrinsics)
    if model is None:
        for edge in BOX_EDGES:
            _line(image, *corners_px[list(edge)], OBJECT_LINE)
    joints = frame["joints"] if frame["joints"] is not None else frame["gt_joints"]
    hand_box = frame["hand_box_px"]
    if joints is not None:
        image = overlay.draw_skeleton(image, joints, intrinsics)
    if hand_box is None and joints is not None:
        px = camera.project(joints, intrinsics)
        hand_box = np.concatenate([px.min(axis=0), px.max(axis=0)])
    if hand_box is not None:
        _rectangle(image, hand_box, HAND_BOX)
    box = np.concatenate([corners_px.min(axis=0), corners_px.max(axis=0)])
    _rectangle(image, box, OBJECT_LINE)
    _draw_axis(image, intrinsics)
    return image


def draw_sheet(
    pictures: Sequence[Picture], captions: Sequence[Sequence[str]], *, title: str
) -> Picture:
    """Pictures in rows, two lines of text under each."""
    rows = -(-len(pictures) // COLUMNS)
    step_x, step_y = CELL_WIDTH + GAP, CELL_HEIGHT + CAPTION + GAP
    sheet = np.full((TITLE + rows * step_y, COLUMNS * step_x + GAP, 3), 250, np.uint8)
    figures.draw_text(sheet, title, (GAP, TITLE / 2), size=11)
    for i, (picture, lines) in enumerate(zip(pictures, captions, strict=True)):
        x, y = GAP + i % COLUMNS * step_x, TITLE + i // COLUMNS * step_y
        small = cv2.resize(
            picture, (CELL_WIDTH, CELL_HEIGHT), interpolation=cv2.INTER_AREA
        )
        sheet[y : y + CELL_HEIGHT, x : x + CELL_WIDTH] = small
        for row, line in enumerate(lines):
            at = x, y + CELL_HEIGHT + 12 + 19 * row
            figures.draw_text(sheet, line, at, size=7.5)
    return sheet


def _tinted(frame: Frame) -> Picture:
    image = frame["image"].copy()
    if frame["segmentation"] is None:
        return image
    size = image.shape[1::-1]
    masks = cv2.resize(frame["segmentation"], size, interpolation=cv2.INTER_NEAREST)
    for label, colour in TINTS.items():
        mask = masks == label
        image[mask] = (0.6 * image[mask] + 0.4 * np.array(colour)).astype(np.uint8)
    return image


def _draw_axis(image: Picture, intrinsics: np.ndarray) -> None:
    """A cross where the optical axis meets the picture, and K beside it."""
    x, y = intrinsics[:2, 2]
    for shift in (np.array([12.0, 0.0]), np.array([0.0, 12.0])):
        middle = np.array([x, y])
        _line(image, middle - shift, middle + shift, AXIS)
    focal = f"fx {intrinsics[0, 0]:.1f}  fy {intrinsics[1, 1]:.1f}"
    text = f"{focal}  cx {x:.1f}  cy {y:.1f}"
    image[:22] = image[:22] // 3
    figures.draw_text(image, text, (8, 11), size=8, colour=AXIS)


def _rectangle(image: Picture, box: np.ndarray, colour: tuple[int, int, int]) -> None:
    x0, y0, x1, y1 = box
    points = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    for start, end in zip(points, np.roll(points, -1, axis=0), strict=True):
        _line(image, start, end, colour)


def _line(image: Picture, start, end, colour: tuple[int, int, int]) -> None:
    ends = np.clip(np.round([start, end]), -(2**14), 2**14).astype(int)
    cv2.line(image, *map(tuple, ends.tolist()), (20, 20, 20), 3, cv2.LINE_AA)
    cv2.line(image, *map(tuple, ends.tolist()), colour, 1, cv2.LINE_AA)
