"""Whether a frame's labels agree with each other and with its pictures.

The object's model at its labelled pose should cover its mask and lie as deep as the
depth picture says; MANO of the labelled parameters should be the labelled joints. One
frame at a time, camera frame, metres; pixel centres have integer coordinates.
"""

from pathlib import Path
from typing import NamedTuple

import cv2
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from homae_jax.data.source import Frame
from homae_jax.errors import UserError
from homae_jax.geometry.rasterizer import rasterize
from homae_jax.hand.mano import ManoModel, mano_forward
from homae_jax.objects.templates import MODEL_FILE, read_model
from homae_jax.schema import HAND, OBJECT

DEPTH_SCALE = 0.00012498664727900177  # HO-3D: metres per step
NEARER = 0.01  # metres by which something must be nearer to hide the object


class Model(NamedTuple):
    """An object's surface, model frame."""

    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]


class Fit(NamedTuple):
    """How well the posed object fits its frame; NaN where nothing tells."""

    iou: float  # visible outline and mask
    depth: float  # metres, median difference to the depth picture


def load_model(folder: Path) -> Model | None:
    """The model of a folder; None where it is not there."""
    path = folder / MODEL_FILE
    if not path.is_file():
        return None
    return Model(*read_model(path))


def posed(model: Model, frame: Frame) -> Float[np.ndarray, "v 3"]:
    """The model's vertices at the frame's pose."""
    return model.vertices @ frame["object_rotmat"].T + frame["object_trans"]


def object_fit(
    frame: Frame, model: Model, depth: Float[np.ndarray, "h w"] | None = None
) -> Fit:
    """Compares the posed model with the mask and, where there is one, the depth.

    Left out of the outline: what the mask gives to the hand and, by the depth picture,
    what lies behind something else.
    """
    height, width = frame["image"].shape[:2]
    surface = rasterize(
        posed(model, frame), model.faces, frame["intrinsics"], height, width
    )[2]
    is_visible = surface > 0
    if depth is not None:
        is_visible &= (depth == 0) | (depth > surface - NEARER)
    masks = frame["segmentation"]
    if masks is None:
        return Fit(np.nan, np.nan)
    share = cv2.resize(
        is_visible.astype(np.float32), masks.shape[::-1], interpolation=cv2.INTER_AREA
    )
    outline, mask = (share > 0.5) & (masks != HAND), masks == OBJECT
    union = np.count_nonzero(outline | mask)
    iou = np.count_nonzero(outline & mask) / union if union else np.nan
    return Fit(iou, _depth_difference(surface, is_visible, masks, depth))


def _depth_difference(surface, is_visible, masks, depth) -> float:
    if depth is None:
        return np.nan
    size = surface.shape[::-1]
    is_object = cv2.resize(masks, size, interpolation=cv2.INTER_NEAREST) == OBJECT
    compared = is_object & is_visible & (depth > 0)
    if not compared.any():
        return np.nan
    return float(np.median(np.abs(depth - surface)[compared]))


def hand_difference(frame: Frame, mano: ManoModel, *, fingertips: str) -> float:
    """The farthest that a joint of MANO's is from the label's, metres.

    NaN where the frame has no hand labels. `fingertips` as in hand.mano.FINGERTIPS.
    """
    if frame["hand_pose"] is None or frame["joints"] is None:
        return np.nan
    rotmats = np.stack([cv2.Rodrigues(turn)[0] for turn in frame["hand_pose"]])
    hand = mano_forward(
        mano,
        jnp.asarray(rotmats, jnp.float32),
        jnp.asarray(frame["hand_betas"], jnp.float32),
        fingertips=fingertips,
    )
    joints = np.asarray(hand.joints, np.float64)
    offset = joints - joints[:1] + frame["wrist"] - frame["joints"]
    return float(np.linalg.norm(offset, axis=-1).max())


def read_ho3d_depth(path: Path) -> Float[np.ndarray, "h w"] | None:
    """Metres, 0: no measurement; None without the file."""
    picture = _decoded(path)
    if picture is None:
        return None
    low, high = picture[..., 2].astype(np.float64), picture[..., 1]  # OpenCV's BGR
    return (low + 256.0 * high) * DEPTH_SCALE


def read_dexycb_depth(path: Path) -> Float[np.ndarray, "h w"] | None:
    """Metres, 0: no measurement; None without the file."""
    picture = _decoded(path)
    return None if picture is None else picture / 1000.0


def _decoded(path: Path) -> np.ndarray | None:
    if not path.is_file():
        return None
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise UserError(f"{path}: no readable depth picture; copy it again")
    return picture


def caption(
    frame: Frame,
    model: Model | None,
    depth: Float[np.ndarray, "h w"] | None,
    mano: ManoModel | None,
    *,
    fingertips: str,
) -> str:
    """What of a frame could be compared, in one line."""
    words = [frame["object_name"]]
    fit = Fit(np.nan, np.nan) if model is None else object_fit(frame, model, depth)
    if np.isfinite(fit.iou):
        words.append(f"outline and mask IoU {fit.iou:.2f}")
    if np.isfinite(fit.depth):
        words.append(f"depth {1e3 * fit.depth:.1f} mm")
    hand = np.nan
    if mano is not None:
        hand = hand_difference(frame, mano, fingertips=fingertips)
    if np.isfinite(hand):
        words.append(f"MANO {1e3 * hand:.3f} mm")
    return "   ".join(words)
