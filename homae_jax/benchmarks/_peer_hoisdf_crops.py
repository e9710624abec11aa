"""HOISDF's augmented crops of pictures, to be timed; imported by `_peer_program.py`.

Written anew from its steps (amathislab/HOISDF @73b575c: data/ho3d.py,
data/dataset_util.py), with Pillow as there; hues turn as torchvision has it. Of labels
there are 2D points, camera and the two masks. Signed distances, which it reads from a
file, and the turning of joints and poses are left out, in its favour.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter

SIDE, MASK_SIDE = 256, 64  # px
CENTER_JITTER, SCALE_JITTER = 0.1, 0.2
BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.5, 0.5, 0.5, 0.15
BLUR_PX = 0.5
BOX_FACTOR = 1.5


def crop(
    frame: Mapping[str, Any], masks: Sequence[np.ndarray], rng: np.random.Generator
) -> dict[str, torch.Tensor]:
    """One file to a network's input.

    Args:
      frame: "path"; "hand_px" and "object_px", "n 2"; "intrinsics", "3 3".
      masks: bits of hand and of object over the whole picture, packed.
    """
    with Image.open(frame["path"]) as file:
        image = file.convert("RGB")
    width, height = image.size
    unpacked = [np.unpackbits(mask).reshape(height, width) for mask in masks]
    points = {key: np.array(frame[f"{key}_px"]) for key in ("hand", "object")}
    center, side = _window(points.values(), image.size)
    center = center + CENTER_JITTER * side * rng.uniform(-1, 1, 2)
    side *= np.clip(rng.normal(1, SCALE_JITTER), 1 - SCALE_JITTER, 1 + SCALE_JITTER)
    to_crop = _to_crop(center, side, rng.uniform(-np.pi, np.pi))
    blur = ImageFilter.GaussianBlur(rng.uniform(0, BLUR_PX))
    image = _jitter_colours(_warp(image, to_crop).filter(blur), rng)
    scene = {"intrinsics": to_crop @ np.array(frame["intrinsics"])}
    for (key, at), mask in zip(points.items(), unpacked, strict=True):
        scene[f"{key}_px"] = at @ to_crop[:2, :2].T + to_crop[:2, 2]
        small = _warp(Image.fromarray(mask), to_crop).resize((MASK_SIDE, MASK_SIDE), 0)
        scene[f"{key}_mask"] = np.asarray(small).astype(np.float32)
    pixels = np.asarray(image).astype(np.float32).transpose(2, 0, 1) / 255.0
    scene["image"] = np.ascontiguousarray(pixels)
    return {key: torch.from_numpy(array) for key, array in scene.items()}


def _window(points: Any, size: tuple[int, int]) -> tuple[np.ndarray, float]:
    """Centre and side of the square round the widened boxes of hand and object."""
    ends = []
    for each in points:
        low, high = each.min(0), each.max(0)
        half = (high - low) * BOX_FACTOR / 2
        ends += [(low + high) / 2 - half, (low + high) / 2 + half]
    low = np.maximum(np.min(ends, axis=0), 0)
    high = np.minimum(np.max(ends, axis=0), size)
    return (low + high) / 2, float((high - low).max())


def _to_crop(center: np.ndarray, side: float, angle: float) -> np.ndarray:
    """Pixels of the picture to those of the crop, "3 3": turned, then scaled."""
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    middle = turn[:2, :2] @ center
    zoom = SIDE / side
    scale = np.array([[zoom, 0, 0], [0, zoom, 0], [0, 0, 1.0]])
    scale[:2, 2] = SIDE / 2 - zoom * middle
    return scale @ turn


def _warp(image: Image.Image, to_crop: np.ndarray) -> Image.Image:
    back = np.linalg.inv(to_crop)[:2].flatten().tolist()
    return image.transform((SIDE, SIDE), Image.Transform.AFFINE, back)


def _jitter_colours(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Four changes, in any order."""

    def enhance(kind: Any, width: float) -> Callable[[Image.Image], Image.Image]:
        factor = rng.uniform(1 - width, 1 + width)
        return lambda image: kind(image).enhance(factor)

    changes = [
        enhance(ImageEnhance.Brightness, BRIGHTNESS),
        enhance(ImageEnhance.Color, SATURATION),
        enhance(ImageEnhance.Contrast, CONTRAST),
        lambda image: _turn_hue(image, rng.uniform(-HUE, HUE)),
    ]
    for row in rng.permutation(len(changes)):
        image = changes[row](image)
    return image


def _turn_hue(image: Image.Image, turns: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    moved = np.array(hue, np.uint8) + np.int32(round(255 * turns)).astype(np.uint8)
    merged = Image.merge("HSV", (Image.fromarray(moved, "L"), saturation, value))
    return merged.convert("RGB")
