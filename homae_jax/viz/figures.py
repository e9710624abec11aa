"""Figures for eyes: contact sheets, qualitative rows, SDF slices, training curves.

Everything takes numpy arrays and returns uint8 RGB pictures; `write_png` puts one on
disk. Text is cv2's, drawn at twice its size and averaged; ASCII only.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from homae_jax.errors import UserError
from homae_jax.viz import overlay
from homae_jax.viz.overlay import Mesh

Picture = UInt8[np.ndarray, "_h _w 3"]
Number = float | int

INK = (38, 42, 48)
FAINT = (120, 126, 134)
GRID = (226, 228, 231)
WHITE = (255, 255, 255)
LINE_COLOURS = (
    (31, 119, 180),
    (230, 126, 34),
    (44, 150, 70),
    (192, 57, 43),
    (128, 90, 170),
    (120, 80, 60),
    (205, 90, 160),
    (90, 100, 110),
)
_INSIDE = np.array([202.0, 92.0, 60.0])  # of SDF slices, negative
_OUTSIDE = np.array([52.0, 112.0, 168.0])
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_TEXT_HEIGHT = 21.0  # px of a capital at cv2's scale 1


def write_png(path: str | Path, image: Picture) -> None:
    """Writes a picture; a reader sees the old file or the whole new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _, data = cv2.imencode(".png", image[..., ::-1])
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_bytes(data.tobytes())
    os.replace(part, path)


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


# --- curves ---


class Curve(NamedTuple):
    label: str
    x: Float[np.ndarray, " n"]
    y: Float[np.ndarray, " n"]


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Records of a metrics.jsonl; a half-written last line is left out.

    Raises:
      UserError: no such file, or a broken line before the last.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no metrics here; is this a training workdir?")
    lines = path.read_text().splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise UserError(f"{path}:{number}: not a JSON object") from error
    return records


def training_curves(
    records: Sequence[Mapping[str, Any]],
    panels: Mapping[str, Sequence[str]],
    *,
    title: str = "",
    columns: int = 2,
    width: int = 460,
    height: int = 280,
) -> Picture:
    """One panel of curves for each entry of `panels` that has data.

    Args:
      records: of metrics.jsonl, with "step".
      panels: title -> names of the records' values; positive data spanning more than
        a factor of 30 gets a logarithmic axis.
    """
    drawn = []
    for name, keys in panels.items():
        curves = [_curve(records, key) for key in keys]
        curves = [curve for curve in curves if len(curve.x)]
        if curves:
            drawn.append(plot(curves, title=name, width=width, height=height))
    if not drawn:
        raise UserError("metrics.jsonl holds none of the values to plot")
    columns = min(columns, len(drawn))
    num_rows = -(-len(drawn) // columns)
    top = 34 if title else 0
    sheet = np.full((top + num_rows * height, columns * width, 3), 255, np.uint8)
    if title:
        draw_text(sheet, title, (14, 20), size=11)
    for index, picture in enumerate(drawn):
        y, x = top + index // columns * height, index % columns * width
        sheet[y : y + height, x : x + width] = picture
    return sheet


def _curve(records, key: str) -> Curve:
    pairs = [(r["step"], r[key]) for r in records if key in r and "step" in r]
    points = np.array(
        [(x, y) for x, y in pairs if y is not None and np.isfinite(y)], np.float64
    ).reshape(-1, 2)
    return Curve(key, points[:, 0], points[:, 1])


def plot(
    curves: Sequence[Curve],
    *,
    title: str,
    x_label: str = "step",
    width: int = 460,
    height: int = 280,
) -> Picture:
    """Lines over axes with ticks and a legend: faint data, strong running mean."""
    x_all = np.concatenate([curve.x for curve in curves])
    y_all = np.concatenate([curve.y for curve in curves])
    is_log = bool(y_all.min() > 0 and y_all.max() > 30 * y_all.min())
    scale = np.log10 if is_log else np.asarray
    x_low, x_high = _padded(x_all, 0.0)
    y_low, y_high = _padded(scale(y_all), 0.06)
    box = _Axes(64, 40, width - 16, height - 38, x_low, x_high, y_low, y_high)

    big = np.full((2 * height, 2 * width, 3), 255, np.uint8)
    x_ticks = _nice_ticks(x_low, x_high, 6)
    y_ticks = _log_ticks(y_low, y_high) if is_log else _nice_ticks(y_low, y_high, 5)
    for tick in y_ticks:
        _draw_line(big, box.to_px([x_low, x_high], [scale(tick)] * 2), GRID, 2)
    for tick in x_ticks:
        _draw_line(big, box.to_px([tick] * 2, [y_low, y_high]), GRID, 2)
    frame = box.to_px(
        [x_low, x_low, x_high], [y_high, y_low, y_low]
    )  # left and bottom axes
    _draw_line(big, frame, FAINT, 2)
    for index, curve in enumerate(curves):
        colour = np.array(LINE_COLOURS[index % len(LINE_COLOURS)])
        faint = tuple(int(c) for c in 255 - (255 - colour) * 0.3)
        values = scale(curve.y)
        window = max(1, len(values) // 40)
        if window > 1:
            _draw_line(big, box.to_px(curve.x, values), faint, 2)
        _draw_line(
            big, box.to_px(curve.x, _running_mean(values, window)), colour.tolist(), 4
        )
    image = cv2.resize(big, (width, height), interpolation=cv2.INTER_AREA)
    draw_text(image, title, (box.left, 16), size=9.5)
    draw_text(
        image, x_label, (box.right, height - 10), size=7.5, colour=FAINT, anchor="right"
    )
    for tick in y_ticks:
        at = box.to_px([x_low], [scale(tick)])[0]
        text = _tick_text(tick)
        draw_text(
            image, text, (box.left - 6, at[1]), size=7, colour=FAINT, anchor="right"
        )
    for tick in x_ticks:
        at = box.to_px([tick], [y_low])[0]
        text = _tick_text(tick)
        draw_text(
            image, text, (at[0], at[1] + 12), size=7, colour=FAINT, anchor="middle"
        )
    _draw_legend(image, curves, box)
    return image


class _Axes(NamedTuple):
    """A rectangle of pixels and the values at its sides."""

    left: int
    top: int
    right: int
    bottom: int
    x_low: Number
    x_high: Number
    y_low: Number
    y_high: Number

    def to_px(self, x, y) -> np.ndarray:
        """Values -> pixels, one row a point."""
        x_share = (np.asarray(x) - self.x_low) / (self.x_high - self.x_low)
        y_share = (np.asarray(y) - self.y_low) / (self.y_high - self.y_low)
        return np.stack(
            [
                self.left + x_share * (self.right - self.left),
                self.bottom - y_share * (self.bottom - self.top),
            ],
            axis=-1,
        )


def _draw_line(big: np.ndarray, points: np.ndarray, colour, thickness: int) -> None:
    """A line on the canvas of twice the size."""
    fixed = np.round((2 * points + 0.5) * 16).astype(np.int32)
    cv2.polylines(big, [fixed], False, colour, thickness, cv2.LINE_AA, 4)


def _draw_legend(image: np.ndarray, curves: Sequence[Curve], box: _Axes) -> None:
    """Labels at the top right, each behind a dash of its colour."""
    widest = max(len(curve.label) for curve in curves)
    left = box.right - 6.2 * widest - 26
    height = 14 * len(curves) + 6
    area = image[box.top : box.top + height, int(left) - 6 : box.right + 1]
    area[:] = np.round(0.2 * area + 0.8 * 255)
    for index, curve in enumerate(curves):
        y = box.top + 10 + 14 * index
        colour = LINE_COLOURS[index % len(LINE_COLOURS)]
        cv2.line(image, (int(left), y), (int(left) + 14, y), colour, 2, cv2.LINE_AA)
        draw_text(image, curve.label, (left + 20, y), size=7)


def _padded(values: np.ndarray, share: float) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    pad = share * (high - low) if high > low else max(abs(high), 1.0) * 0.5
    return low - pad, high + pad


def _nice_ticks(low: float, high: float, num: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / num
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    first, last = np.ceil(low / step), np.floor(high / step)
    return [float(step * i) + 0.0 for i in np.arange(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten; with their doubles and fives where few fit."""
    powers = np.arange(np.floor(low), np.ceil(high) + 1)
    factors = (1,) if high - low > 3 else (1, 2, 5)
    ticks = [float(f * 10.0**p) for p in powers for f in factors]
    return [tick for tick in ticks if low <= np.log10(tick) <= high]


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Centred mean over a window that shrinks at the ends."""
    total = np.cumsum(np.concatenate([[0.0], values]))
    index = np.arange(len(values))
    start = np.maximum(index - window // 2, 0)
    stop = np.minimum(index + window // 2 + 1, len(values))
    return (total[stop] - total[start]) / (stop - start)


def _tick_text(value: float) -> str:
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.4g}"
