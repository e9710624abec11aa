"""The predictor that looks at no picture: means over training frames.

Every result is printed beside it. It is given what the network is given (the wrist and
the object centre) and says the mean root-relative hand, the mean offset of the object
and the chordal mean of its rotations. Camera frame, metres, numpy.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from homae_jax.errors import UserError
from homae_jax.schema import Batch


class TrivialPose(NamedTuple):
    """The same answer for every frame; None where no training frame is labelled."""

    joints_root: Float[np.ndarray, "21 3"] | None
    vertices_root: Float[np.ndarray, "778 3"] | None
    object_rotmat: Float[np.ndarray, "3 3"] | None
    object_offset: Float[np.ndarray, " 3"] | None  # from object_center
    num_frames: int


def fit_trivial(
    labelled: Iterable[tuple[Batch, Float[np.ndarray, "b 778 3"]]],
) -> TrivialPose:
    """Means over batches and their posed hand vertices relative to the wrist.

    Raises:
      UserError: there is no frame to learn from.
    """
    joints, vertices, rotmats, offsets, num_frames = [], [], [], [], 0
    for batch, vertices_root in labelled:
        is_real = np.asarray(batch.is_real)
        num_frames += int(is_real.sum())
        has_hand = is_real & np.asarray(batch.has_hand)
        has_object = is_real & np.asarray(batch.has_object)
        rooted = np.asarray(batch.joints) - np.asarray(batch.wrist)[:, None]
        joints.append(rooted[has_hand])
        vertices.append(np.asarray(vertices_root)[has_hand])
        rotmats.append(np.asarray(batch.object_rotmat)[has_object])
        offset = np.asarray(batch.object_trans) - np.asarray(batch.object_center)
        offsets.append(offset[has_object])
    if not num_frames:
        raise UserError("the training split has no frames to take the mean of")
    rotmat = _mean(rotmats)
    return TrivialPose(
        joints_root=_mean(joints),
        vertices_root=_mean(vertices),
        object_rotmat=None if rotmat is None else nearest_rotmat(rotmat),
        object_offset=_mean(offsets),
        num_frames=num_frames,
    )


def nearest_rotmat(matrix: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
    """The rotation nearest to a matrix: of a mean, the chordal mean."""
    left, _, right = np.linalg.svd(matrix.astype(np.float64))
    left[:, 2] *= np.sign(np.linalg.det(left @ right))
    return (left @ right).astype(np.float32)


def _mean(parts: list[np.ndarray]) -> np.ndarray | None:
    values = np.concatenate(parts)
    if not len(values):
        return None
    return values.mean(axis=0, dtype=np.float64).astype(np.float32)
