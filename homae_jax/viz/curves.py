"""Training curves as a picture, drawn by cv2: axes, ticks, legend, running means.

Values come as records of metrics.jsonl; pictures are uint8 RGB, drawn at twice their
size and averaged.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float

from homae_jax.errors import UserError
from homae_jax.viz.figures import FAINT, Number, Picture, draw_text

GRID = (226, 228, 231)
LEGEND_ROOM = 1.4  # of the highest value, where an axis begins at 0
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
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
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
    from_zero: bool = False,
) -> Picture:
    """Lines over axes with ticks and a legend: faint data, strong running mean.

    Args:
      from_zero: the axis begins at 0, with room for the legend above the lines; else
        it holds the values, by their logarithm where they span a factor of 30.
    """
    x_all = np.concatenate([curve.x for curve in curves])
    y_all = np.concatenate([curve.y for curve in curves])
    spans_much = bool(y_all.min() > 0 and y_all.max() > 30 * y_all.min())
    is_log = spans_much and not from_zero
    scale = np.log10 if is_log else np.asarray
    x_low, x_high = _padded(x_all, 0.0)
    y_low, y_high = _padded(scale(y_all), 0.06)
    if from_zero:
        y_low, y_high = 0.0, LEGEND_ROOM * max(float(y_all.max()), 1.0)
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
