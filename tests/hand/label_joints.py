"""From the hand parameters that data sets store to the joints that they store.

Joints leave in MANO order, in the camera frame that the parameters are in (DexYCB:
OpenCV; HO-3D: OpenGL, ``_gl``), metres. MANO's wrist rotation turns about the wrist
joint, so the wrist is J0(betas) + trans under every pose. Rules of the labels:

* DexYCB: 45 PCA coefficients about the file's mean (manopth with ``use_pca``,
  ``flat_hand_mean=False``), manopth's tips, and left hands by MANO_LEFT.pkl exactly as
  filed. `joints[..., MANO_TO_SIMPLE, :]` is the order of its files.
* HO-3D: axis-angle with a flat mean, right hands only, its own tips.

The left file's shape basis is no mirror image of the right one's: its x has the other
sign. Who mends that differs (`LEFT_SHAPE_SIGNS`); whoever compares with a data set must
follow that data set.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from homae_jax.geometry.camera import GL_TO_CV, points_gl_to_cv
from homae_jax.geometry.rotations import aa_to_rotmat
from homae_jax.hand.mano import ManoModel, mano_forward

Array = jax.Array | np.ndarray
Side = Literal["right", "left"]

# What x, y, z of MANO_LEFT's shape basis are multiplied with.
LEFT_SHAPE_SIGNS = {
    "as_filed": (1.0, 1.0, 1.0),  # DexYCB's labels
    "mirrored": (-1.0, 1.0, 1.0),  # smplx's advice: the mirror image of the right hand
    "negated": (-1.0, -1.0, -1.0),  # the scripts of HO-3D
}
DEXYCB_TIPS: dict[Side, str] = {"right": "manopth", "left": "manopth_left"}
HO3D_TIPS = "ho3d"


def with_left_shape(model: ManoModel, rule: str) -> ManoModel:
    """A left hand whose shape basis follows a rule, a key of `LEFT_SHAPE_SIGNS`."""
    if rule not in LEFT_SHAPE_SIGNS:
        raise ValueError(f'rule="{rule}": use one of {sorted(LEFT_SHAPE_SIGNS)}')
    basis = model.shape_basis
    signs = np.array(LEFT_SHAPE_SIGNS[rule], basis.dtype)
    return model._replace(shape_basis=basis * signs[None, :, None])


def dexycb_hand_pose(
    model: ManoModel, pose: Float[np.ndarray, "*b 48"]
) -> Float[np.ndarray, "*b 16 3"]:
    """Axis-angle with a flat mean, wrist first, of DexYCB's ``pose_m[:48]``; numpy.

    Args:
      pose: wrist rotation (3), then coefficients of all 45 components.
    """
    components, mean = np.asarray(model.hand_components), np.asarray(model.hand_mean)
    fingers = pose[..., 3:] @ components + mean
    flat = np.concatenate([pose[..., :3], fingers], axis=-1)
    return flat.reshape(*pose.shape[:-1], 16, 3)


def dexycb_label_joints(
    model: ManoModel,
    pose: Float[np.ndarray, "*b 48"],
    betas: Float[Array, "*b 10"],
    trans: Float[Array, "*b 3"],
    *,
    side: Side,
) -> Float[Array, "*b 21 3"]:
    """The joints of DexYCB's ``joint_3d``, in MANO order, OpenCV camera frame.

    Args:
      model: the hand of `side`; a left one as filed.
      pose: ``pose_m[:48]``; `trans` is ``pose_m[48:51]``.
    """
    pose_aa = jnp.asarray(dexycb_hand_pose(model, pose))
    return _placed_joints(model, pose_aa, betas, trans, DEXYCB_TIPS[side])


def ho3d_label_joints(
    model: ManoModel,
    pose_gl: Float[Array, "*b 48"],
    betas: Float[Array, "*b 10"],
    trans_gl: Float[Array, "*b 3"],
) -> Float[Array, "*b 21 3"]:
    """The joints of HO-3D's ``handJoints3D``: MANO order, OpenGL camera frame.

    Args:
      pose_gl: ``handPose``; `betas` and `trans_gl` are ``handBeta``, ``handTrans``.
    """
    pose_aa = jnp.asarray(pose_gl).reshape(*pose_gl.shape[:-1], 16, 3)
    return _placed_joints(model, pose_aa, betas, trans_gl, HO3D_TIPS)


def hand_gl_to_cv(
    model: ManoModel,
    pose_rotmat_gl: Float[Array, "*b 16 3 3"],
    betas: Float[Array, "*b 10"],
    trans_gl: Float[Array, "*b 3"],
) -> tuple[Float[Array, "*b 16 3 3"], Float[Array, "*b 3"]]:
    """MANO parameters of an OpenGL camera -> OpenCV; its own inverse.

    R0' = C R0 and t' = C (J0 + t) - J0, for the wrist rotation turns about J0(betas)
    and not about the origin; C t alone would be wrong by centimetres.
    """
    flip = jnp.asarray(GL_TO_CV, pose_rotmat_gl.dtype)
    wrist = jnp.matmul(flip, pose_rotmat_gl[..., :1, :, :], precision="highest")
    pose_rotmat = jnp.concatenate([wrist, pose_rotmat_gl[..., 1:, :, :]], axis=-3)
    rest = rest_wrist(model, betas)
    return pose_rotmat, points_gl_to_cv(rest + trans_gl) - rest


def rest_wrist(model: ManoModel, betas: Float[Array, "*b 10"]) -> Float[Array, "*b 3"]:
    """J0(betas): the wrist joint in MANO's own frame, whatever the pose."""
    regressor = jnp.asarray(model.joint_regressor)[0]
    template = _einsum("v,vc->c", regressor, model.template_vertices)
    basis = _einsum("v,vcs->cs", regressor, model.shape_basis)
    moved = _einsum("cs,...s->...c", basis, betas)
    return jnp.broadcast_to(template, moved.shape) + moved


def _placed_joints(
    model: ManoModel, pose_aa: Array, betas: Array, trans: Array, fingertips: str
) -> jax.Array:
    rotmat = aa_to_rotmat(pose_aa)
    hand = mano_forward(model, rotmat, jnp.asarray(betas), fingertips=fingertips)
    return hand.joints + jnp.asarray(trans)[..., None, :]


def _einsum(equation: str, *operands: Array) -> jax.Array:
    return jnp.einsum(equation, *operands, precision="highest")
