"""Figures for eyes: contact sheets, reconstructions, qualitative rows, SDF slices.

Everything takes numpy arrays and returns uint8 RGB pictures; `write_png` puts one on
disk. Text is cv2's, drawn at twice its size and averaged; ASCII only.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from homae_jax.viz import overlay
from homae_jax.viz.overlay import Mesh
from homae_jax.whole_file import replacing

Picture = UInt8[np.ndarray, "_h _w 3"]
Number = float | int

INK = (38, 42, 48)
FAINT = (120, 126, 134)
_INSIDE = np.array([202.0, 92.0, 60.0])  # of SDF slices, negative
_OUTSIDE = np.array([52.0, 112.0, 168.0])
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_TEXT_HEIGHT = 21.0  # px of a capital at cv2's scale 1


def write_png(path: str | Path, image: Picture) -> None:
    """Writes a picture; a reader sees the old file or the whole new one."""
    _, data = cv2.imencode(".png", image[..., ::-1])
    with replacing(path) as part:
        part.write_bytes(data.tobytes())


def picture_from_normalised(
    image: Float[np.ndarray, "*b h w 3"], mean: Sequence[float], std: Sequence[float]
) -> UInt8[np.ndarray, "*b h w 3"]:
    """Undoes the network's normalisation of an image."""
    values = image * np.array(std) + np.array(mean)
    return np.clip(np.round(255.0 * values), 0, 255).astype(np.uint8)


# --- text and sheets ---


def draw_text(
    image: Picture,
    text: str,
    at: tuple[Number, Number],
    *,
    size: Number = 9.0,
    colour: tuple[int, int, int] = INK,
    anchor: str = "left",
) -> None:
    """Writes a line of text into `image`, in place.

    Args:
      at: where the middle of the line's left end, centre or right end goes, px.
      size: height of a capital, px.
      anchor: "left" | "middle" | "right".
    """
    scale = 2 * size / _TEXT_HEIGHT
    thickness = max(1, round(size / 5))
    (width, _), _ = cv2.getTextSize(text, _FONT, scale, thickness)
    pad = 6
    tile = np.zeros((int(4 * size) + 2 * pad, width + 2 * pad + width % 2), np.uint8)
    tile = tile[: tile.shape[0] // 2 * 2]
    base = int(tile.shape[0] / 2 + size)
    cv2.putText(tile, text, (pad, base), _FONT, scale, 255, thickness, cv2.LINE_AA)
    tile = cv2.resize(
        tile, (tile.shape[1] // 2, tile.shape[0] // 2), interpolation=cv2.INTER_AREA
    )
    share = {"left": 0.0, "middle": 0.5, "right": 1.0}[anchor]
    left = round(at[0] - pad / 2 - share * width / 2)
    _blend(image, tile, left, round(at[1] - tile.shape[0] / 2), colour)


def _blend(image, tile, left: int, top: int, colour) -> None:
    """Paints `colour` where `tile` is set, as far as it lies in the picture."""
    x0, y0 = max(left, 0), max(top, 0)
    x1 = min(left + tile.shape[1], image.shape[1])
    y1 = min(top + tile.shape[0], image.shape[0])
    if x1 <= x0 or y1 <= y0:
        return
    alpha = tile[y0 - top : y1 - top, x0 - left : x1 - left, None] / 255.0
    under = image[y0:y1, x0:x1]
    image[y0:y1, x0:x1] = np.round(under * (1 - alpha) + np.array(colour) * alpha)


def contact_sheet(
    rows: Sequence[Sequence[Picture | None]],
    *,
    column_titles: Sequence[str] = (),
    row_titles: Sequence[Sequence[str]] = (),
    title: str = "",
    cell: int = 192,
    gap: int = 6,
    group: int = 0,
) -> Picture:
    """Square pictures in rows and columns, with titles.

    Args:
      rows: one list of pictures a row; None leaves a cell empty.
      row_titles: for every row one text for each group of its columns.
      cell: side of a cell, px; pictures are fitted into it.
      group: after so many columns a wider gap follows; 0 = never.
    """
    num_columns = max(len(row) for row in rows)
    title_height = 30 if title else 0
    head = title_height + (22 if column_titles else 0)
    line = 18 if row_titles else 0
    wide = 2 * gap + 6

    def left(column: int) -> int:
        breaks = column // group if group else 0
        return gap + column * (cell + gap) + breaks * (wide - gap)

    height = head + gap + len(rows) * (cell + gap + line)
    width = left(num_columns - 1) + cell + gap
    sheet = np.full((height, width, 3), 255, np.uint8)
    if title:
        draw_text(sheet, title, (gap, title_height / 2 + 2), size=11)
    for column, text in enumerate(column_titles):
        at = (left(column) + cell / 2, head - 8)
        draw_text(sheet, text, at, colour=FAINT, anchor="middle")
    for index, row in enumerate(rows):
        top = head + gap + index * (cell + gap + line)
        for number, text in enumerate(row_titles[index] if row_titles else ()):
            at = (left(number * group), top + line / 2 - 2)
            draw_text(sheet, text, at, size=8)
        for column, picture in enumerate(row):
            if picture is not None:
                x, y = left(column), top + line
                sheet[y : y + cell, x : x + cell] = _fitted(picture, cell)
    return sheet


def _fitted(picture: np.ndarray, side: int) -> np.ndarray:
    """A picture scaled to fit a square, centred on white."""
    height, width = picture.shape[:2]
    factor = side / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    scaled = cv2.resize(picture, size, interpolation=method)
    tile = np.full((side, side, 3), 255, np.uint8)
    top, left = (side - size[1]) // 2, (side - size[0]) // 2
    tile[top : top + size[1], left : left + size[0]] = scaled
    return tile


def reconstruction_sheet(
    images: Sequence[Picture],
    masked: Sequence[Picture],
    reconstructed: Sequence[Picture],
    *,
    names: Sequence[str] = (),
    title: str = "",
    groups_per_row: int = 2,
    cell: int = 160,
) -> Picture:
    """Triples of image, masked image and reconstruction (HOMAE Fig. 3)."""
    triples = list(zip(images, masked, reconstructed, strict=True))
    rows, row_titles = [], []
    for start in range(0, len(triples), groups_per_row):
        chosen = triples[start : start + groups_per_row]
        rows.append([picture for triple in chosen for picture in triple])
        row_titles.append(names[start : start + groups_per_row])
    groups = min(groups_per_row, len(triples))
    return contact_sheet(
        rows,
        column_titles=("image", "masked", "reconstruction") * groups,
        row_titles=row_titles if names else (),
        title=title,
        cell=cell,
        group=3,
    )


# --- qualitative rows ---


class PosedPair(NamedTuple):
    """Hand and object in the camera frame, metres; None where unknown."""

    hand_vertices: Float[np.ndarray, "778 3"] | None
    object_vertices: Float[np.ndarray, "v 3"] | None


class QualitativeRow(NamedTuple):
    """One frame: its crop, the truth and what the network says."""

    image: Picture
    intrinsics: Float[np.ndarray, "3 3"]
    gt: PosedPair
    pred: PosedPair
    object_faces: np.ndarray
    caption: str


QUALITATIVE_COLUMNS = (
    "input",
    "ground truth",
    "prediction",
    "prediction, truth in outline",
    "side view",
    "rear view",
)


def qualitative_figure(
    frames: Sequence[QualitativeRow],
    hand_faces: np.ndarray,
    *,
    title: str = "",
    cell: int = 224,
) -> Picture:
    """Input, truth, prediction and views from the side (HOMAE Fig. 4 and 5)."""
    return contact_sheet(
        [qualitative_row(frame, hand_faces, cell=cell) for frame in frames],
        column_titles=QUALITATIVE_COLUMNS,
        row_titles=[(frame.caption,) for frame in frames],
        title=title,
        cell=cell,
    )


def qualitative_row(
    frame: QualitativeRow, hand_faces: np.ndarray, *, cell: int = 224
) -> list[Picture]:
    """The pictures of one row, under `QUALITATIVE_COLUMNS`."""
    picture, intrinsics = overlay.enlarge(frame.image, frame.intrinsics, cell)
    colours = overlay.HAND_COLOUR, overlay.OBJECT_COLOUR
    pred = pair_meshes(frame.pred, hand_faces, frame.object_faces, colours)
    gt = pair_meshes(frame.gt, hand_faces, frame.object_faces, colours)
    colours = overlay.TRUE_HAND_COLOUR, overlay.TRUE_OBJECT_COLOUR
    lines = pair_meshes(frame.gt, hand_faces, frame.object_faces, colours)
    front = overlay.draw_meshes(picture, pred, intrinsics)
    sphere = overlay.bounding_sphere(gt + pred)

    def turned(angle: float) -> Picture:
        return overlay.draw_turned(pred, lines, sphere, turn_deg=angle, size=cell)

    return [
        picture,
        overlay.draw_meshes(picture, gt, intrinsics),
        front,
        overlay.draw_outlines(front, lines, intrinsics),
        turned(90.0),
        turned(180.0),
    ]


def pair_meshes(
    pair: PosedPair,
    hand_faces: np.ndarray,
    object_faces: np.ndarray,
    colours: tuple[tuple[int, int, int], tuple[int, int, int]],
) -> list[Mesh]:
    """The known ones of hand and object, as meshes to draw."""
    meshes = []
    if pair.hand_vertices is not None:
        meshes.append(Mesh(pair.hand_vertices, hand_faces, colours[0]))
    if pair.object_vertices is not None:
        meshes.append(Mesh(pair.object_vertices, object_faces, colours[1]))
    return meshes


# --- slices of the signed distance ---


def sdf_slice(
    values: Float[np.ndarray, "n n"],
    *,
    gt_values: Float[np.ndarray, "n n"] | None = None,
    limit: Number,
    side: int = 224,
) -> Picture:
    """A slice in two hues with its zero contour; the true contour beside it.

    Args:
      values: signed distance, negative inside, rows from the top.
      gt_values: the true one; its zero contour is drawn in the colour of truth.
      limit: distance at which the colours saturate; isolines every quarter of it.
      side: of the picture, px.
    """
    fine = 2 * side
    field = cv2.resize(
        values.astype(np.float32), (fine, fine), interpolation=cv2.INTER_CUBIC
    )
    share = np.clip(np.abs(field) / limit, 0, 1)[..., None]
    tone = np.where(field[..., None] < 0, _INSIDE, _OUTSIDE)
    picture = 250.0 * (1 - share**0.7) + tone * share**0.7
    step = limit / 4
    slope = np.hypot(*np.gradient(field)) + 1e-9
    off_line = np.abs((field / step + 0.5) % 1.0 - 0.5) * step / slope
    picture *= np.where(off_line < 0.6, 0.9, 1.0)[..., None]
    image = np.clip(picture, 0, 255).astype(np.uint8)
    _draw_zero(image, field, INK, 4)
    if gt_values is not None:
        true_field = cv2.resize(
            gt_values.astype(np.float32), (fine, fine), interpolation=cv2.INTER_CUBIC
        )
        _draw_zero(image, true_field, (20, 20, 20), 6)
        _draw_zero(image, true_field, overlay.TRUE_OBJECT_COLOUR, 3)
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)


def _draw_zero(image, field, colour, thickness: int) -> None:
    contours, _ = cv2.findContours(
        (field < 0).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    )
    cv2.drawContours(image, contours, -1, colour, thickness, cv2.LINE_AA)
