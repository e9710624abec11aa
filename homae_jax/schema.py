"""What crosses the borders between the rooms of this project.

Conventions of every field, unless its comment says otherwise:

* metres, radians, the OpenCV camera frame (x right, y down, z forward);
* ``_root``: relative to the wrist (hand) or the object centre (object), axes of
  the camera; ``_norm``: a ``_root`` quantity times ``points.scale``, so that the
  cube [-1, 1]^3 is the sampling volume; ``_px``: pixels of the crop, where the
  centre of the top-left pixel is (0, 0);
* joints are in MANO order: 16 kinematic joints (wrist; index, middle, little,
  ring, thumb, proximal to distal), then the tips thumb, index, middle, ring,
  little;
* poses are axis-angle with a flat mean, the wrist rotation first;
* a leading ``b`` is the batch; ``l`` counts supervised transformer layers.

Everything here is a NamedTuple, hence a pytree.
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

Array = jax.Array | np.ndarray

NUM_JOINTS = 21
NUM_HAND_VERTICES = 778
NUM_OBJECT_VERTICES = 1000

BACKGROUND, HAND, OBJECT = 0, 1, 2  # values of Batch.segmentation


class Scene(NamedTuple):
    """A wider square view of the picture than the crop; labels in its own pixels.

    What the auxiliary head learns to find boxes on (models/auxiliary.py).
    """

    image: UInt8[Array, "*b h w 3"]
    intrinsics: Float[Array, "*b 3 3"]
    hand_box_px: Float[Array, "*b 4"]  # enlarged as Batch.hand_box_px is
    object_box_px: Float[Array, "*b 4"]


class Batch(NamedTuple):
    """What the loader hands over: one crop and its labels per row."""

    image: UInt8[Array, "*b h w 3"]  # RGB crop after augmentation
    segmentation: UInt8[Array, "*b s s"]  # BACKGROUND | HAND | OBJECT, s = h / 2
    intrinsics: Float[Array, "*b 3 3"]  # pinhole matrix of the crop
    hand_box_px: Float[Array, "*b 4"]  # x0, y0, x1, y1: where hand points may project
    object_box_px: Float[Array, "*b 4"]  # the same for the object; also the mask's B
    wrist: Float[Array, "*b 3"]  # origin of the hand's ``_root`` frame
    object_center: Float[Array, "*b 3"]  # origin of the object's ``_root`` frame
    joints: Float[Array, "*b 21 3"]
    hand_pose: Float[Array, "*b 16 3"]  # MANO theta
    hand_betas: Float[Array, "*b 10"]  # MANO shape
    object_rotmat: Float[Array, "*b 3 3"]  # rotation of cam_T_obj
    object_trans: Float[Array, "*b 3"]  # translation of cam_T_obj (model origin)
    object_index: Int[Array, "*b"]  # row of ObjectTemplates
    has_hand: Bool[Array, "*b"]  # joints, pose and betas are labelled
    has_object: Bool[Array, "*b"]  # cam_T_obj is labelled
    has_segmentation: Bool[Array, "*b"]
    sample_index: Int[Array, "*b"]  # row of the source; names the frame in reports
    is_real: Bool[Array, "*b"]  # False for the padding of the last batch
    scene: Scene | None = None  # only where the auxiliary head is trained


class ObjectTemplates(NamedTuple):
    """The known objects in their model frames, one row each, stacked for the device.

    Faces are padded to a common count by repeating vertex 0 (zero area). ``sdf_grid``
    samples the signed distance (negative inside) on a cubic lattice with
    ``sdf_origin`` at index (0, 0, 0) and pitch ``sdf_pitch``; ``sdf_nearest`` names
    the nearest face at each of its points, ``nearby_faces`` those round each face.
    """

    vertices: Float[Array, "o 1000 3"]
    faces: Int[Array, "o f 3"]
    corners: Float[Array, "o 8 3"]  # axis-aligned box; index = 4 bx + 2 by + bz
    sdf_grid: Float[Array, "o g g g"]
    sdf_origin: Float[Array, "o 3"]
    sdf_pitch: Float[Array, "o"]
    sdf_nearest: Int[Array, "o g g g"] | None = None  # None: no lattice is looked up
    nearby_faces: Int[Array, "o f n"] | None = None


class Targets(NamedTuple):
    """What a batch supervises, computed on the device (targets.py)."""

    hand_vertices_root: Float[Array, "b 778 3"]
    hand_joints_root: Float[Array, "b 21 3"]
    hand_rotmat: Float[Array, "b 16 3 3"]
    hand_betas: Float[Array, "b 10"]
    object_rotmat: Float[Array, "b 3 3"]
    object_trans_root: Float[Array, "b 3"]  # cam_T_obj translation - object_center
    hand_sdf_points_norm: Float[Array, "b ph 3"]
    hand_sdf_norm: Float[Array, "b ph"]  # clamped
    object_sdf_points_norm: Float[Array, "b po 3"]
    object_sdf_norm: Float[Array, "b po"]
    hand_points_norm: Float[Array, "b nh 3"]  # surface points with jitter
    object_points_norm: Float[Array, "b no 3"]
    heatmap: Float[Array, "b s s"]  # sum of 21 Gaussians, peak 255


class Located(NamedTuple):
    """What the auxiliary head finds in a square view; px of that view."""

    hand_box_px: Float[Array, "b 4"]  # enlarged as Batch.hand_box_px is
    object_box_px: Float[Array, "b 4"]
    wrist_px: Float[Array, "b 2"]
    wrist_log_depth: Float[Array, " b"]  # log(z / focal length in sides of the view)
    wrist: Float[Array, "b 3"]  # camera frame, metres: as metric as the view's K
    object_logits: Float[Array, "b o"]  # over rows of ObjectTemplates


class Outputs(NamedTuple):
    """What the network says of a batch; of layer-wise fields the last is the answer."""

    clean_image: Float[Array, "b h w 3"]  # the input, normalised
    image: (
        Float[Array, "b h w 3"] | None
    )  # reconstruction, normalised; None if not asked
    masked_image: Float[Array, "b h w 3"] | None  # what the encoder saw, normalised
    patch_mask: Bool[Array, "b gh gw"] | None  # True: masked; None: nothing was
    heatmap: Float[Array, "b s s"]
    hand_mask_logits: Float[Array, "b s s"]
    object_mask_logits: Float[Array, "b s s"]
    hand_sdf_norm: Float[Array, "b ph"] | None  # at Targets.hand_sdf_points_norm
    object_sdf_norm: Float[Array, "b po"] | None
    hand_points_norm: Float[Array, "b nh 3"]  # the points the pose was read from
    object_points_norm: Float[Array, "b no 3"]
    hand_points_sdf_norm: Float[Array, "b nh"]
    object_points_sdf_norm: Float[Array, "b no"]
    hand_points_in_box: Bool[Array, "b nh"]  # False: filled in from outside the box
    object_points_in_box: Bool[Array, "b no"]
    hand_rotmat: Float[Array, "l b 16 3 3"]
    hand_betas: Float[Array, "l b 10"]
    hand_vertices_root: Float[Array, "l b 778 3"]
    hand_joints_root: Float[Array, "l b 21 3"]
    vote_offsets_root: Float[Array, "lv b nh 20 3"]  # point -> joint (wrist left out)
    vote_logits: Float[Array, "lv b nh 20"]  # point is close to joint
    object_rotation: Float[Array, "lo b no r"]  # per point: r = 6 (rot6d) or 3
    object_trans_root: Float[Array, "lo b no 3"]  # per point
    object_rotmat: Float[Array, "b 3 3"]  # aggregated, last layer
    object_trans: Float[Array, "b 3"]  # aggregated, camera frame
    joints: Float[Array, "b 21 3"]  # camera frame, from MANO
    vertices: Float[Array, "b 778 3"]
    located: Located | None = None  # of the crop, by the auxiliary head
    scene_located: Located | None = None  # of Batch.scene
