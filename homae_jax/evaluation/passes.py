"""The three ways evaluation runs the network: answer, signed distances, reconstruction.

Pure functions of parameters and a batch, for the caller to jit; `model` is a Homae.
Dropout is off. Frames and units as in schema.py.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from homae_jax.geometry import camera
from homae_jax.schema import Batch, Targets

SLICE_HALF_SIZE = {"hand": 0.13, "object": 0.16}  # metres


class Answer(NamedTuple):
    """The answer for a batch, camera frame, metres."""

    joints: Float[Array, "b 21 3"]
    vertices: Float[Array, "b 778 3"]
    object_rotmat: Float[Array, "b 3 3"]
    object_trans: Float[Array, "b 3"]
    hand_in_box: Float[Array, " b"]  # share of pose points found inside the box
    object_in_box: Float[Array, " b"]


class Reconstruction(NamedTuple):
    """A masked pass, normalised images."""

    clean_image: Float[Array, "b h w 3"]
    masked_image: Float[Array, "b h w 3"]
    image: Float[Array, "b h w 3"]
    patch_mask: Bool[Array, "b gh gw"]


def predict(
    params: Any,
    batch: Batch,
    mano: Any,
    *,
    model: Any,
    found: tuple[str, ...] = (),
    center_depth: float | None = None,
) -> Answer:
    """Inference as a user's: clean image, points of the network's own.

    Args:
      found: what the auxiliary head is to find instead of the labels: of "root",
        "boxes", "object_center". The crop stays the labels'.
      center_depth: of the object's centre; None: the wrist's.
    """
    if found:
        batch = with_found(
            params, batch, model=model, found=found, center_depth=center_depth
        )
    out = model.apply({"params": params}, batch, mano)
    return Answer(
        joints=out.joints,
        vertices=out.vertices,
        object_rotmat=out.object_rotmat,
        object_trans=out.object_trans,
        hand_in_box=jnp.mean(out.hand_points_in_box, axis=-1),
        object_in_box=jnp.mean(out.object_points_in_box, axis=-1),
    )


def with_found(
    params: Any,
    batch: Batch,
    *,
    model: Any,
    found: tuple[str, ...],
    center_depth: float | None,
) -> Batch:
    """The batch with what the auxiliary head finds in the crop in the labels' place."""
    located = model.apply(
        {"params": params}, batch.image, batch.intrinsics, method="locate"
    )
    if "root" in found:
        batch = batch._replace(wrist=located.wrist)
    if "boxes" in found:
        batch = batch._replace(
            hand_box_px=located.hand_box_px, object_box_px=located.object_box_px
        )
    if "object_center" in found:
        box, depth = batch.object_box_px, batch.wrist[:, 2:]
        if center_depth is not None:
            depth = jnp.full_like(depth, center_depth)
        middle = jnp.trunc((box[:, None, :2] + box[:, None, 2:]) / 2)
        center = camera.unproject(middle, depth, batch.intrinsics)[:, 0]
        batch = batch._replace(object_center=center)
    return batch


def signed_distances(
    params: Any,
    batch: Batch,
    mano: Any,
    hand_points: Float[Array, "b p 3"],
    object_points: Float[Array, "b q 3"],
    *,
    model: Any,
) -> tuple[Float[Array, "b p"], Float[Array, "b q"]]:
    """The predicted SDF at given root-relative points of the clean image, metres."""
    scale = model.points["scale"]
    targets = _points_to_ask(model, scale * hand_points, scale * object_points)
    out = model.apply(
        {"params": params}, batch, mano, targets=targets, own_points=False
    )
    return out.hand_sdf_norm / scale, out.object_sdf_norm / scale


def slice_points(target: str, side: int) -> Float[np.ndarray, "n 3"]:
    """side^2 points of a square that faces the camera, rows from the top, metres."""
    half = SLICE_HALF_SIZE[target]
    axis = np.linspace(-half, half, side)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    plane = np.stack([x, y, np.zeros_like(x)], axis=-1)
    return plane.reshape(-1, 3).astype(np.float32)


def reconstruct(
    params: Any, batch: Batch, mano: Any, key: Array, *, model: Any
) -> Reconstruction:
    """A pass over the image masked as in training (HOMAE eq. 1-10)."""
    nowhere = jnp.zeros((batch.image.shape[0], 1, 3))
    out = model.apply(
        {"params": params},
        batch,
        mano,
        targets=_points_to_ask(model, nowhere, nowhere),
        own_points=False,
        mask_image=True,
        reconstruct=True,
        rngs={"mask": key},
    )
    return Reconstruction(out.clean_image, out.masked_image, out.image, out.patch_mask)


def _points_to_ask(model: Any, hand: Array, obj: Array) -> Targets:
    """Targets with nothing but points: the true pose stays out of reach.

    The pose points are dummies: they spare the search of the predicted surface.
    """
    num = hand.shape[0]
    blank = Targets(*[None] * len(Targets._fields))
    return blank._replace(
        hand_sdf_points_norm=hand,
        object_sdf_points_norm=obj,
        hand_points_norm=jnp.zeros((num, model.points["num_hand"], 3)),
        object_points_norm=jnp.zeros((num, model.points["num_object"], 3)),
    )


def jitted(function: Any, *, model: Any, **options: Any) -> Any:
    """`function` of this module, compiled for `model`."""
    return jax.jit(lambda *args: function(*args, model=model, **options))
