"""What every data set looks like to the rest: frames by row, all in one convention.

To add a data set, write a class with the methods of `Source`. Everything it hands
over is in the OpenCV camera frame, metres and radians, joints in MANO order, poses with
a flat mean, pixels of the full picture with the top-left centre at (0, 0): conversions
end inside the source.
"""

from typing import NamedTuple, Protocol, TypedDict, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import ArrayLike

from homae_jax.errors import UserError


class Frame(TypedDict):
    """One full picture and its labels; numpy, labels in float64."""

    index: int  # row of the source
    image: UInt8[np.ndarray, "h w 3"]  # RGB
    # BACKGROUND | HAND | OBJECT over the same field of view, often at a lower
    # resolution; None where the data set has no mask
    segmentation: UInt8[np.ndarray, "sh sw"] | None
    intrinsics: Float[np.ndarray, "3 3"]
    wrist: Float[np.ndarray, " 3"]
    joints: Float[np.ndarray, "21 3"] | None  # None where only the wrist is given
    hand_pose: Float[np.ndarray, "16 3"] | None
    hand_betas: Float[np.ndarray, " 10"] | None
    gt_joints: Float[np.ndarray, "21 3"] | None  # for scores only, never to train on
    hand_box_px: Float[np.ndarray, " 4"] | None  # given; None: the joints' box
    object_name: str
    object_rotmat: Float[np.ndarray, "3 3"]
    object_trans: Float[np.ndarray, " 3"]
    object_corners: Float[np.ndarray, "8 3"]  # of the model's box, model frame


def make_frame(
    index: int,
    image: UInt8[np.ndarray, "h w 3"],
    *,
    intrinsics: ArrayLike,
    joints: ArrayLike,
    hand_pose: ArrayLike,
    hand_betas: ArrayLike,
    object_name: str,
    object_rotmat: ArrayLike,
    object_trans: ArrayLike,
    object_corners: ArrayLike,
    segmentation: UInt8[np.ndarray, "sh sw"] | None = None,
) -> Frame:
    """A frame whose hand is labelled, from arrays or lists of numbers.

    Raises:
      UserError: labels of another shape, or not finite.
    """
    labels = {}
    for key, value, shape in (
        ("intrinsics", intrinsics, (3, 3)),
        ("joints", joints, (21, 3)),
        ("hand_pose", hand_pose, (16, 3)),
        ("hand_betas", hand_betas, (10,)),
        ("object_rotmat", object_rotmat, (3, 3)),
        ("object_trans", object_trans, (3,)),
        ("object_corners", object_corners, (8, 3)),
    ):
        array = np.array(value, np.float64)
        if array.shape != shape or not np.isfinite(array).all():
            raise UserError(
                f"{key} has shape {array.shape} or gaps, expected {shape}, finite"
            )
        labels[key] = array
    return Frame(
        index=index,
        image=image,
        segmentation=segmentation,
        wrist=labels["joints"][0],
        gt_joints=None,
        hand_box_px=None,
        object_name=object_name,
        **labels,
    )


class FrameInfo(TypedDict):
    """What reports group frames by."""

    hand_visibility: float  # visible share of the hand's outline in [0, 1], or NaN
    object_visibility: float
    object_name: str
    sequence: str


class GroundTruth(NamedTuple):
    """What a prediction is scored against; in no way an input."""

    joints: Float[np.ndarray, "21 3"]
    vertices: Float[np.ndarray, "778 3"] | None  # None: MANO of the labels has them


@runtime_checkable
class Source(Protocol):
    """Random access to the frames of one split, from any thread."""

    def __len__(self) -> int:
        """Number of frames."""

    def __getitem__(self, index: int) -> Frame:
        """Reads a frame; UserError where a file or a label is unusable."""

    def frame_name(self, index: int) -> str:
        """Names a frame to a person, e.g. ``SM1/0123``."""

    def frame_info(self, index: int) -> FrameInfo:
        """Reads no picture."""

    def ground_truth(self, index: int) -> GroundTruth | None:
        """None where the data set keeps it back."""
