"""The MANO hand as pure functions (Romero et al. 2017).

Vertices and joints leave in MANO's own frame, metres: the wrist joint lies at
J0(betas), not at the origin, and the wrist rotation turns about it; callers subtract
the wrist or add a translation. Joints: 21 in MANO order (hand/joints.py). Poses enter
as rotation matrices; `pca_to_aa` turns PCA coefficients into axis-angle.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from homae_jax.hand.joints import PARENTS

Array = jax.Array | np.ndarray

# Vertices taken as fingertips: thumb, index, middle, ring, little.
FINGERTIPS = {
    "manopth": (745, 317, 444, 556, 673),  # DexYCB labels (right), HOISDF
    "manopth_left": (745, 317, 445, 556, 673),
    "ho3d": (728, 353, 442, 576, 694),  # HO-3D annotations
    "h2o3d": (744, 333, 444, 555, 672),
    "smplx": (744, 320, 443, 554, 671),
    "ho3d_2020": (745, 320, 444, 555, 657),
}

SAME_TIP = 1e-4  # metres
SKINNED_AT_ONCE = 512  # hands on a CPU: what is blended for more leaves its cache
MOST_PARTS = 4  # of a batch; each is written out in the program


class ManoModel(NamedTuple):
    """The parameters of one hand; `hand/mano_files.py` reads them."""

    template_vertices: Float[Array, "778 3"]
    faces: Int[Array, "1538 3"]  # open at the wrist
    closed_faces: Int[Array, "1552 3"]  # with 14 faces over the wrist
    shape_basis: Float[Array, "778 3 10"]
    pose_basis: Float[Array, "778 3 135"]
    joint_regressor: Float[Array, "16 778"]
    skinning_weights: Float[Array, "778 16"]
    hand_components: Float[Array, "45 45"]  # rows are PCA directions
    hand_mean: Float[Array, " 45"]


def fingertips_of(
    joints: Float[np.ndarray, "21 3"], vertices: Float[np.ndarray, "778 3"]
) -> str | None:
    """Which of `FINGERTIPS` the last five joints are, to a tenth of a millimetre."""
    tips = joints[16:]
    for name, numbers in FINGERTIPS.items():
        if np.abs(vertices[list(numbers)] - tips).max() < SAME_TIP:
            return name
    return None


class ManoOutput(NamedTuple):
    vertices: Float[Array, "*b 778 3"]
    joints: Float[Array, "*b 21 3"]


def mano_forward(
    model: ManoModel,
    pose_rotmat: Float[Array, "*b 16 3 3"],
    betas: Float[Array, "*b 10"],
    *,
    fingertips: str,
) -> ManoOutput:
    """Linear blend skinning with shape and pose correctives.

    Args:
      pose_rotmat: of each joint relative to its parent; the first is the wrist's.
      fingertips: which vertices are the tips, a key of `FINGERTIPS`.
    """
    if fingertips not in FINGERTIPS:
        raise ValueError(f'fingertips="{fingertips}": use one of {sorted(FINGERTIPS)}')
    lead = pose_rotmat.shape[:-3]
    if len(lead) > 1:  # a merged axis could not stay cut among devices
        return jax.vmap(
            lambda rotmat, betas: mano_forward(
                model, rotmat, betas, fingertips=fingertips
            )
        )(pose_rotmat, betas)
    rotmat, betas = pose_rotmat.reshape(-1, 16, 3, 3), betas.reshape(-1, 10)
    rest_joints = _einsum("jv,vc->jc", model.joint_regressor, model.template_vertices)
    by_shape = _einsum("jv,vcs->sjc", model.joint_regressor, model.shape_basis)
    rest_joints = rest_joints[None] + _einsum("bs,sjc->bjc", betas, by_shape)

    correctives = (rotmat[:, 1:] - jnp.eye(3)[None, None]).reshape(-1, 135)
    coefficients = jnp.concatenate([betas, correctives], axis=-1)
    joint_rotmat, joints = kinematic_chain(rotmat, rest_joints)
    # x -> R x + (joint - R rest), blended per vertex.
    shift = joints - _einsum("bjmn,bjn->bjm", joint_rotmat, rest_joints)
    moves = jnp.concatenate([joint_rotmat, shift[..., None]], axis=-1)
    vertices = _skin(model, coefficients, moves)
    tips = vertices[:, np.array(FINGERTIPS[fingertips])]
    joints = jnp.concatenate([joints, tips], axis=1)
    return ManoOutput(
        vertices.reshape(*lead, *vertices.shape[1:]), joints.reshape(*lead, 21, 3)
    )


def _skin(
    model: ManoModel,
    coefficients: Float[Array, "b 145"],
    moves: Float[Array, "b 16 3 4"],
) -> Float[Array, "b 778 3"]:
    """Vertices of shape and pose correctives, moved with the joints."""
    template = jnp.asarray(model.template_vertices)[..., None]
    bases = [model.shape_basis, model.pose_basis, template]
    basis = jnp.concatenate(bases, axis=-1).transpose(2, 1, 0).reshape(146, -1)
    ones = jnp.ones((len(moves), 1), coefficients.dtype)  # of the template
    coefficients = jnp.concatenate([coefficients, ones], axis=-1)
    weights = jnp.asarray(model.skinning_weights).T

    def skin(
        coefficients: Float[Array, " 146"], moves: Float[Array, "16 3 4"]
    ) -> Float[Array, "778 3"]:
        # Coordinates before vertices: no large array is turned but the last.
        posed = _einsum("p,pn->n", coefficients, basis).reshape(3, -1)
        blended = _einsum("nj,jv->nv", moves.reshape(16, 12).T, weights)
        blended = blended.reshape(3, 4, -1)
        turned = sum(blended[:, axis] * posed[None, axis] for axis in range(3))
        return (turned + blended[:, 3]).T

    # Not a loop: it would copy every part, and keep them all for the way back.
    num_parts = 1
    if jax.default_backend() == "cpu":
        num_parts = min(-(-len(moves) // SKINNED_AT_ONCE), MOST_PARTS)
    parts = [
        jax.vmap(skin)(*part)
        for part in zip(
            jnp.array_split(coefficients, num_parts),
            jnp.array_split(moves, num_parts),
            strict=True,
        )
    ]
    return parts[0] if num_parts == 1 else jnp.concatenate(parts)


def pca_to_aa(
    model: ManoModel, coefficients: Float[Array, "*b n"], *, flat_mean: bool = False
) -> Float[Array, "*b 15 3"]:
    """Finger pose of PCA coefficients as axis-angle, the mean included.

    Args:
      flat_mean: take the flat hand for the mean, not the file's.
    """
    num = coefficients.shape[-1]
    components = jnp.asarray(model.hand_components)[:num]
    pose = jnp.matmul(coefficients, components, precision="highest")
    if not flat_mean:
        pose = pose + jnp.broadcast_to(jnp.asarray(model.hand_mean), pose.shape)
    return pose.reshape(*coefficients.shape[:-1], 15, 3)


def _einsum(equation: str, *operands: Array) -> jax.Array:
    return jnp.einsum(equation, *operands, precision="highest")


def kinematic_chain(
    rotmat: Float[Array, "b 16 3 3"], rest_joints: Float[Array, "b 16 3"]
) -> tuple[Float[Array, "b 16 3 3"], Float[Array, "b 16 3"]]:
    """Rotation and position of every joint in the hand's frame, from its parent's.

    The five fingers are chains of three (`PARENTS`): all take a step at once.
    """
    bones = rest_joints[:, 1:] - rest_joints[:, np.array(PARENTS[1:])]
    bones, local = bones.reshape(-1, 5, 3, 3), rotmat[:, 1:].reshape(-1, 5, 3, 3, 3)
    parent_rotmat = jnp.repeat(rotmat[:, :1], 5, axis=1)
    parent = jnp.repeat(rest_joints[:, :1], 5, axis=1)
    turned, placed = [], []
    for step in range(3):
        parent = parent + _einsum("bfmn,bfn->bfm", parent_rotmat, bones[:, :, step])
        parent_rotmat = _einsum("bfmn,bfno->bfmo", parent_rotmat, local[:, :, step])
        placed.append(parent)
        turned.append(parent_rotmat)
    fingers = jnp.stack(turned, axis=2).reshape(-1, 15, 3, 3)
    joints = jnp.stack(placed, axis=2).reshape(-1, 15, 3)
    return (
        jnp.concatenate([rotmat[:, :1], fingers], axis=1),
        jnp.concatenate([rest_joints[:, :1], joints], axis=1),
    )
