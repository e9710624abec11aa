"""A hand closed round an object until its links touch (as GraspIt does), in JAX.

The object slides along the palm's normal to first contact and is held there or a little
way off; then all finger joints close step by step. A link that touches stops every
joint before it, the joints after it go on. A link touches when its skin meets the
object (distance lattice), when points of the object meet the link (spheres along the
bones), or when it meets another finger, the palm or its own root. Hand frame: MANO's
own, wrist rotation the identity; metres, radians.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from homae_jax.geometry import mesh_sdf, rotations
from homae_jax.hand.mano import FINGERTIPS, ManoModel, kinematic_chain
from homae_jax.schema import ObjectTemplates
from homae_jax.synthetic.hand_model.skeleton import flexion_axes

TOUCH = 0.0008  # metres between skin and object at which a link stops
PALM_TOUCH = 0.0018  # the same for the palm: its vertices are further apart
SPHERES = 4  # along each bone
SELF_SLACK = -0.001  # metres by which a sphere may enter skin or another sphere
OBJECT_SLACK = -0.001  # metres by which an object point may enter a sphere
NUM_OBJECT_POINTS = 334
PALM_NORMAL = np.array([0.0, -1.0, 0.0], np.float32)
NUM_SLIDES, LONGEST_SLIDE = 28, 0.012  # steps towards the palm, metres each
SLIDE_FROM = 0.16

# Radians per step and limits, by joint of index, middle, little, ring, thumb.
STEP = np.array([0.064, 0.068, 0.040] * 4 + [0.040, 0.044, 0.048], np.float32)
LIMIT = np.array([1.45, 1.70, 1.05] * 4 + [0.80, 0.90, 1.10], np.float32)
# Share of a step, step by step; all joints are let go again where the share falls.
PACE = np.repeat([1.0, 0.3, 0.1], [26, 6, 4]).astype(np.float32)

# closes[j, k]: joint j carries link k of the same finger.
CLOSES = np.kron(np.eye(5), np.triu(np.ones((3, 3)))) > 0


class Start(NamedTuple):
    """One attempt before the hand closes."""

    object_index: Int[Array, ""]
    object_rotmat: Float[Array, "3 3"]  # rotation of hand_T_obj
    grip: Float[Array, " 3"]  # object frame: the point to close round
    palm_point: Float[Array, " 3"]  # the line along the palm's normal it slides on
    standoff: Float[Array, ""]  # held this far off first contact
    rest_pose: Float[Array, "15 3"]  # axis-angle of the open hand
    betas: Float[Array, " 10"]


class Attempt(NamedTuple):
    """A closed hand."""

    finger_pose: Float[Array, "15 3"]
    object_trans: Float[Array, " 3"]  # translation of hand_T_obj
    hand_vertices: Float[Array, "778 3"]
    joints: Float[Array, "16 3"]
    contact: Float[Array, " 6"]  # distance of index, middle, little, ring, thumb, palm
    hand_depth: Float[Array, ""]  # deepest hand vertex inside the object


class Rig(NamedTuple):
    """What closing needs of the hand: skin that may touch, bones, radii."""

    skin: Int[np.ndarray, " s"]  # vertices
    skin_link: Int[np.ndarray, " s"]  # the joint that moves each
    radius: Float[np.ndarray, " 20"]  # of 15 finger bones and 5 palm bones
    finger: Int[np.ndarray, " 778"]  # 0..4 as above, 5 the palm


def make_rig(mano: ManoModel) -> Rig:
    """Chooses the palmar skin and measures the flesh round the bones."""
    vertices = np.asarray(mano.template_vertices, np.float64)
    owner = np.asarray(mano.skinning_weights).argmax(axis=1)
    normal = _vertex_normals(vertices, np.asarray(mano.closed_faces))
    is_palmar = (normal[:, 1] < 0.35) & (vertices[:, 0] < 0.10)
    skin = np.flatnonzero(is_palmar | np.isin(owner, [14, 15]))
    joints = np.asarray(mano.joint_regressor, np.float64) @ vertices
    starts, ends = _bones(joints, vertices[np.array(FINGERTIPS["smplx"])], np)
    radius = np.full(20, 0.009)
    for bone in range(15):
        mine = vertices[owner == bone + 1]
        along = ends[bone] - starts[bone]
        t = (mine - starts[bone]) @ along / (along @ along)
        away = np.linalg.norm(mine - starts[bone] - t[:, None] * along, axis=1)
        radius[bone] = np.percentile(away[(t > 0.1) & (t < 0.9)], 40)
    return Rig(skin, owner[skin], radius, np.where(owner > 0, (owner - 1) // 3, 5))


def make_closing(
    mano: ManoModel, rig: Rig, templates: ObjectTemplates
) -> Callable[[Start], Attempt]:
    """The function of one attempt, to be vmapped and compiled."""
    device = jax.tree.map(jnp.asarray, templates)
    every = -(-templates.vertices.shape[1] // NUM_OBJECT_POINTS)
    axes = jnp.asarray(flexion_axes()[1:], jnp.float32)

    def close(start: Start) -> Attempt:
        which, rotmat = start.object_index, start.object_rotmat
        frame = device.sdf_origin[which], device.sdf_pitch[which]
        shaped = mano.template_vertices + mano.shape_basis @ start.betas
        joints = mano.joint_regressor @ shaped

        def pose_hand(pose: Array, rows: np.ndarray | slice) -> tuple[Array, Array]:
            return _skin(mano, shaped, joints, pose, rows)

        def distance(points: Array, at: Array) -> Array:
            local = (points - at[None]) @ rotmat + start.grip[None]
            return mesh_sdf.grid_signed_distance(local, device.sdf_grid, which, *frame)

        skin, placed = pose_hand(start.rest_pose, rig.skin)
        at = _slide(start.palm_point, lambda at: jnp.min(distance(skin, at)))
        at = at + PALM_NORMAL * start.standoff
        object_points = device.vertices[which][::every] - start.grip[None]
        object_points = object_points @ rotmat.T + at[None]
        meets_at_rest = _self_contact(rig, skin, placed)

        def touches(flex: Array) -> Array:
            skin, placed = pose_hand(start.rest_pose + axes * flex[:, None], rig.skin)
            by_skin = jax.ops.segment_min(
                distance(skin, at), jnp.asarray(rig.skin_link), num_segments=16
            )
            by_point = _object_contact(rig, object_points, placed)
            meets = _self_contact(rig, skin, placed)
            for now, at_rest in zip(meets, meets_at_rest, strict=True):
                is_new = jnp.any(now & ~at_rest, axis=1).reshape(15, SPHERES)
                by_point |= jnp.any(is_new, axis=1)
            return (by_skin[1:] < TOUCH) | by_point

        pose = start.rest_pose + axes * _close(touches)[:, None]
        vertices, placed = pose_hand(pose, slice(None))
        gap = distance(vertices, at)
        return Attempt(
            finger_pose=pose,
            object_trans=at - rotmat @ start.grip,
            hand_vertices=vertices,
            joints=placed[:16],
            contact=jax.ops.segment_min(gap, jnp.asarray(rig.finger), num_segments=6),
            hand_depth=jnp.maximum(-jnp.min(gap), 0.0),
        )

    return close


def _vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    normals = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], np.cross(b - a, c - a))
    return normals / np.linalg.norm(normals, axis=1, keepdims=True)


def _bones(joints, tips, xp):
    """Starts and ends of 15 finger bones (MANO order) and 5 palm bones."""
    starts, ends = [], []
    for finger, tip in enumerate((1, 2, 4, 3, 0)):  # of the tips' own order
        first = 1 + 3 * finger
        starts += [joints[first], joints[first + 1], joints[first + 2]]
        # The tip vertex lies on the skin: the bone ends inside the flesh.
        last = joints[first + 2] + 0.75 * (tips[tip] - joints[first + 2])
        ends += [joints[first + 1], joints[first + 2], last]
    starts += [joints[0]] * 5
    ends += [joints[1 + 3 * finger] for finger in range(5)]
    return xp.stack(starts), xp.stack(ends)


def _skin(
    mano: ManoModel,
    shaped: Array,
    joints: Array,
    pose: Array,
    rows: np.ndarray | slice,
) -> tuple[Array, Array]:
    """Skinned rows of vertices; joints and tips [21, 3]."""
    rotmat = rotations.aa_to_rotmat(pose)
    every = jnp.concatenate([jnp.eye(3)[None], rotmat])
    turned, placed = (x[0] for x in kinematic_chain(every[None], joints[None]))
    shift = placed - jnp.einsum("jmn,jn->jm", turned, joints)
    feature = (rotmat - jnp.eye(3)[None]).reshape(-1)

    num = len(mano.template_vertices)
    chosen = np.concatenate([np.arange(num)[rows], np.array(FINGERTIPS["smplx"])])
    weights = jnp.asarray(mano.skinning_weights)[chosen]
    local = shaped[chosen] + jnp.asarray(mano.pose_basis)[chosen] @ feature
    blended = jnp.einsum("vj,jmn->vmn", weights, turned)
    vertices = jnp.einsum("vmn,vn->vm", blended, local) + weights @ shift
    return vertices[:-5], jnp.concatenate([placed, vertices[-5:]])


def _slide(palm_point: Array, clearance: Callable[[Array], Array]) -> Array:
    """Where the object first touches, moving towards the palm.

    It never moves further than it is away from the hand, so it cannot pass through.
    """

    def step(_: Array, far: Array) -> Array:
        free = clearance(palm_point + PALM_NORMAL * far) - PALM_TOUCH
        return far - jnp.clip(0.8 * free, 0.0, LONGEST_SLIDE)

    far = jax.lax.fori_loop(0, NUM_SLIDES, step, jnp.float32(SLIDE_FROM))
    return palm_point + PALM_NORMAL * far


def _spheres(placed: Array) -> Array:
    """Sphere centres [20, SPHERES, 3] along the bones."""
    starts, ends = _bones(placed[:16], placed[16:], jnp)
    share = jnp.linspace(0.15, 1.0, SPHERES)[None, :, None]
    return starts[:, None] + share * (ends - starts)[:, None]


def _squared_gaps(points: Array, others: Array) -> Array:
    return sum((points[:, None, i] - others[None, :, i]) ** 2 for i in range(3))


def _object_contact(rig: Rig, object_points: Array, placed: Array) -> Array:
    """Which of the 15 finger links points of the object meet."""
    centres = _spheres(placed)[:15].reshape(-1, 3)
    nearest = jnp.min(_squared_gaps(centres, object_points), axis=1)
    reach = jnp.asarray(rig.radius[:15] - OBJECT_SLACK, jnp.float32)
    return jnp.min(nearest.reshape(15, SPHERES), axis=1) < reach**2


def _self_contact(rig: Rig, skin: Array, placed: Array) -> tuple[Array, Array]:
    """What spheres of the 15 finger links meet: [60, 80] spheres and [60, r] skin."""
    centres = _spheres(placed).reshape(-1, 3)
    radius = rig.radius.repeat(SPHERES)
    own = slice(0, 15 * SPHERES)
    reach = jnp.asarray(radius[own, None] + radius[None] - SELF_SLACK, jnp.float32)
    by_sphere = _squared_gaps(centres[own], centres) < reach**2
    by_sphere &= jnp.asarray(_may_meet())
    is_root = (rig.skin_link == 0) | (rig.skin_link % 3 == 1)
    roots = np.flatnonzero(is_root)
    link = np.arange(15).repeat(SPHERES)[:, None]
    root_of = rig.skin_link[roots][None]
    may_meet = (link % 3 == 2) & ((root_of == 0) | ((root_of - 1) // 3 == link // 3))
    may_meet |= (link % 3 == 1) & (root_of == 0)
    reach = jnp.asarray(radius[own, None] - SELF_SLACK, jnp.float32)
    by_skin = _squared_gaps(centres[own], skin[roots]) < reach**2
    by_skin &= jnp.asarray(may_meet)
    return by_sphere, by_skin


def _may_meet() -> np.ndarray:
    """Pairs of spheres that lie apart in a hand; neighbours at the palm do not."""
    bone = np.arange(20).repeat(SPHERES)
    finger = np.where(bone < 15, bone // 3, 5)
    is_near_root = (bone >= 15) | (bone % 3 == 0)
    is_apart = finger[:, None] != finger[None]
    is_apart &= ~(is_near_root[:, None] & is_near_root[None])
    return is_apart[: 15 * SPHERES]


def _close(touches: Callable[[Array], Array]) -> Array:
    """Closes all joints until every one is stopped or at its limit; their angles."""
    is_released = jnp.asarray(np.diff(PACE, prepend=PACE[0]) < 0)

    def step(carry: tuple, pace: tuple) -> tuple:
        flex, is_stopped = carry
        share, is_released = pace
        is_stopped = is_stopped & ~is_released
        moved = jnp.where(is_stopped, flex, jnp.minimum(flex + share * STEP, LIMIT))
        blocked = jnp.any(CLOSES & touches(moved)[None, :], axis=1)
        return (jnp.where(blocked, flex, moved), is_stopped | blocked), None

    start = (jnp.zeros(15), jnp.zeros(15, bool))
    return jax.lax.scan(step, start, (jnp.asarray(PACE), is_released))[0][0]
