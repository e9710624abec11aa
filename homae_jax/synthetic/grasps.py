"""Grasps: a hand closed round an object until its links touch (as GraspIt does).

The object slides along the palm's normal to first contact, then all finger joints close
step by step; a link that touches stops every joint before it, the joints after it go
on. A link touches when its skin meets the object (distance lattice), when points of the
object meet the link (spheres along the bones), or when it meets another finger or the
palm. What is kept is judged exactly, on meshes. Hand frame: MANO's own, wrist rotation
the identity; metres.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from homae_jax.geometry import mesh_sdf, rotations
from homae_jax.hand import mano as mano_lib
from homae_jax.hand.joints import PARENTS
from homae_jax.progress import progress_bar
from homae_jax.schema import ObjectTemplates
from homae_jax.synthetic.hand_model.bases import rodrigues
from homae_jax.synthetic.hand_model.skeleton import flexion_axes

BATCH = 64  # attempts made at a time
MAX_ROUNDS = 12
TOUCH = 0.0008  # metres between skin and object at which a link stops
SPHERES = 4  # along each bone
SELF_SLACK = 0.0  # metres by which spheres of two fingers may overlap
OBJECT_SLACK = -0.001  # metres by which an object point may enter a sphere
NUM_OBJECT_POINTS = 330
UNDER_SKIN = 0.0005  # metres below its own skin at which a vertex is tested
JUDGED = 16  # grasps judged exactly at a time
PALM_NORMAL = (0.0, -1.0, 0.0)
PALM_POINT = (0.030, -0.010, 0.002)

# Radians per step and limits, by joint of index, middle, little, ring, thumb.
STEP = np.array([0.032, 0.034, 0.020] * 4 + [0.020, 0.022, 0.024], np.float32)
LIMIT = np.array([1.50, 1.75, 1.10] * 4 + [0.80, 0.90, 1.10], np.float32)
NUM_STEPS, NUM_FINE_STEPS, FINE = 52, 8, 0.25

# What a grasp must meet: contact, and how much meshes may overlap.
CONTACT = 0.003
MAX_HAND_DEPTH = 0.004  # a hand vertex inside the object
MAX_OBJECT_DEPTH = 0.002  # an object vertex inside the hand
MAX_OVERLAP = 0.01  # share of hand vertices inside another part of the hand


class GraspSet(NamedTuple):
    """Grasps and how good they are; one row each."""

    finger_pose: Float[np.ndarray, "g 15 3"]  # axis-angle, flat mean
    betas: Float[np.ndarray, "g 10"]
    object_rotmat: Float[np.ndarray, "g 3 3"]  # hand_T_obj
    object_trans: Float[np.ndarray, "g 3"]
    object_index: Int[np.ndarray, " g"]
    hand_vertices: Float[np.ndarray, "g 778 3"]
    joints: Float[np.ndarray, "g 16 3"]
    hand_depth: Float[np.ndarray, " g"]  # deepest hand vertex inside the object
    object_depth: Float[np.ndarray, " g"]  # deepest object vertex inside the hand
    overlap: Float[np.ndarray, " g"]  # share of hand vertices inside other parts


class _Rig(NamedTuple):
    """What closing needs of the hand: skin that may touch, bones, radii."""

    skin: Int[np.ndarray, " s"]  # vertices
    skin_link: Int[np.ndarray, " s"]  # the joint that moves each
    radius: Float[np.ndarray, " 20"]  # of 15 finger bones and 5 palm bones


class _Attempt(NamedTuple):
    pose: Array
    object_rotmat: Array
    object_trans: Array
    vertices: Array
    joints: Array
    num_fingers: Array  # fingers in contact, the thumb not counted
    has_thumb: Array  # the thumb is in contact
    hand_depth: Array


class _Verdict(NamedTuple):
    object_depth: Array
    overlap: Array


def synthesize_grasps(
    seed: int,
    object_index: Int[np.ndarray, " g"],
    betas: Float[np.ndarray, "g 10"],
    *,
    templates: ObjectTemplates,
    mano: mano_lib.ManoModel,
) -> GraspSet:
    """One grasp for each row of objects and hand shapes; the same for a seed.

    Attempts that fail the standards above are thrown away and made anew; a row that
    never meets them after `MAX_ROUNDS` keeps its least bad attempt.
    """
    rig = _make_rig(mano)
    attempt = jax.jit(jax.vmap(_make_attempt(mano, rig, templates)))
    num = len(object_index)
    judge = jax.jit(_make_judge(mano, templates))
    best: list[tuple[float, _Attempt, _Verdict] | None] = [None] * num
    pending = list(range(num))

    def rounds():
        for number in range(MAX_ROUNDS):
            if not pending:
                return
            yield number

    done = _Done(num)
    for number in rounds():
        todo, rows = _fill(pending, BATCH), []
        for start in range(0, len(todo), BATCH):
            rows.append(todo[start : start + BATCH])
        for block, chosen in enumerate(rows):
            rng = np.random.default_rng((seed, number, block))
            objects = object_index[chosen]
            rotmat, centre = _orient(rng, objects, templates)
            keys = jax.random.split(jax.random.key(int(rng.integers(2**31))), BATCH)
            result = attempt(
                keys,
                jnp.asarray(objects),
                jnp.asarray(rotmat, jnp.float32),
                jnp.asarray(centre, jnp.float32),
                jnp.asarray(betas[chosen], jnp.float32),
            )
            result = jax.tree.map(np.asarray, result)
            _keep_best(best, chosen, result, objects, judge)
        pending = [row for row in pending if best[row] is None or best[row][0] > 0]
        done.report(num - len(pending))
    done.report(num)
    return _collect(best, object_index, betas)


class _Done:
    """Feeds the progress bar with rows as they are settled."""

    def __init__(self, total: int):
        self._bar = progress_bar(range(total), total=total, desc="grasps")
        self._done = 0
        next(self._bar, None)

    def report(self, done: int) -> None:
        for _ in range(done - self._done):
            next(self._bar, None)
        self._done = max(done, self._done)


def _fill(pending: list[int], size: int) -> np.ndarray:
    """Pending rows, repeated to a whole number of batches."""
    total = -(-len(pending) // size) * size
    return np.resize(np.array(pending), total)


def _make_rig(mano: mano_lib.ManoModel) -> _Rig:
    vertices = np.asarray(mano.template_vertices, np.float64)
    faces, owner = np.asarray(mano.closed_faces), np.asarray(mano.skinning_weights)
    owner = owner.argmax(axis=1)
    normal = _vertex_normals(vertices, faces)
    is_palmar = (normal[:, 1] < 0.35) & (vertices[:, 0] < 0.10)
    skin = np.flatnonzero(is_palmar | np.isin(owner, [14, 15]))
    joints = np.asarray(mano.joint_regressor, np.float64) @ vertices
    starts, ends = _bones(joints, vertices[np.array(mano_lib.FINGERTIPS["smplx"])])
    radius = np.zeros(20)
    for bone in range(20):
        mine = vertices[owner == (bone + 1 if bone < 15 else 0)]
        along = ends[bone] - starts[bone]
        t = np.clip((mine - starts[bone]) @ along / (along @ along), 0, 1)
        away = np.linalg.norm(mine - starts[bone] - t[:, None] * along, axis=1)
        inner = away[(t > 0.1) & (t < 0.9)] if bone < 15 else away
        radius[bone] = np.percentile(inner, 40) if bone < 15 else 0.009
    return _Rig(skin, owner[skin], radius)


def _vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    normals = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], np.cross(b - a, c - a))
    return normals / np.linalg.norm(normals, axis=1, keepdims=True)


def _bones(joints, tips):
    """Starts and ends of 15 finger bones (MANO order) and 5 palm bones."""
    xp = jnp if isinstance(joints, jax.Array) else np
    order = np.array([1, 2, 4, 3, 0])  # tips of index, middle, little, ring, thumb
    last = [3, 6, 9, 12, 15]
    ends = [
        tips[order[last.index(j)]] if j in last else joints[j + 1] for j in range(1, 16)
    ]
    # The tip vertex lies on the skin: stop the bone inside the flesh.
    ends = [
        joints[j] + 0.75 * (end - joints[j]) if j in last else end
        for j, end in zip(range(1, 16), ends, strict=True)
    ]
    knuckles = [joints[j] for j in (1, 4, 7, 10, 13)]
    starts = [joints[j] for j in range(1, 16)] + [joints[0]] * 5
    return xp.stack(starts), xp.stack(ends + knuckles)


def _orient(
    rng: np.random.Generator, objects: np.ndarray, templates: ObjectTemplates
) -> tuple[np.ndarray, np.ndarray]:
    """Object axes to hand axes, the long one mostly across the palm; grip points."""
    corners = np.asarray(templates.corners)[objects]
    extent = corners.max(axis=1) - corners.min(axis=1)
    centre = (corners.max(axis=1) + corners.min(axis=1)) / 2
    rotmat = np.zeros((len(objects), 3, 3))
    for row, size in enumerate(extent):
        thin, middle, long = np.argsort(size)
        axes = (thin, middle, long) if rng.random() < 0.75 else (thin, long, middle)
        if size[thin] > 0.5 * size[long] and rng.random() < 0.3:
            axes = tuple(rng.permutation(3))
        placed = np.zeros((3, 3))
        placed[range(3), axes] = rng.choice([-1.0, 1.0], 3)
        placed[0] *= np.sign(np.linalg.det(placed))
        tilt = rng.normal(size=3) * [0.15, 0.35, 0.25]
        rotmat[row] = rodrigues(tilt) @ placed
        centre[row, long] += rng.uniform(-0.28, 0.28) * size[long]
    return rotmat, centre


def _make_attempt(mano: mano_lib.ManoModel, rig: _Rig, templates: ObjectTemplates):
    """The function of one attempt, to be vmapped."""
    axes = jnp.asarray(flexion_axes()[1:], jnp.float32)
    device = jax.tree.map(jnp.asarray, templates)
    every = templates.vertices.shape[1] // NUM_OBJECT_POINTS
    owner = np.asarray(mano.skinning_weights).argmax(axis=1)
    finger_of = jnp.asarray(np.where(owner > 0, (owner - 1) // 3, 5))
    # closes[j, k]: joint j carries link k of the same finger.
    closes = jnp.asarray(np.kron(np.eye(5), np.triu(np.ones((3, 3)))) > 0)

    def attempt(key, obj, rotmat, centre, betas) -> _Attempt:
        grid, origin = device.sdf_grid[obj], device.sdf_origin[obj]
        pitch, points = device.sdf_pitch[obj], device.vertices[obj]
        shaped = mano.template_vertices + mano.shape_basis @ betas
        joints = mano.joint_regressor @ shaped

        def skin(pose: Array, rows: np.ndarray | slice) -> tuple[Array, Array, Array]:
            return _skin(mano, shaped, joints, pose, rows)

        def distance(vertices: Array, trans: Array) -> Array:
            local = (vertices - trans[None]) @ rotmat + centre[None]
            return mesh_sdf.grid_signed_distance(local, grid, origin, pitch)

        rest, palm_point = _rest_pose(key)
        trans = _slide(palm_point, lambda t: distance(skin(rest, rig.skin)[0], t))
        object_points = (points[::every] - centre[None]) @ rotmat.T + trans[None]
        fixed = _self_overlap(rig, *skin(rest, slice(0, 1))[1:])

        def touches(flex: Array) -> Array:
            pose = rest + axes * flex[:, None]
            vertices, turned, placed = skin(pose, rig.skin)
            by_skin = jax.ops.segment_min(
                distance(vertices, trans), jnp.asarray(rig.skin_link), num_segments=16
            )
            spheres, radius = _spheres(rig, turned, placed)
            gap = jnp.linalg.norm(object_points[:, None, None] - spheres[None], axis=-1)
            by_point = jnp.min(gap, axis=(0, 2))[:15] < radius[:15, 0] - OBJECT_SLACK
            by_self = _self_overlap(rig, turned, placed) & ~fixed
            return (by_skin[1:] < TOUCH) | by_point | by_self

        flex = _close(touches, closes)
        pose = rest + axes * flex[:, None]
        vertices, _, placed = skin(pose, slice(None))
        gap = distance(vertices, trans)
        contact = jax.ops.segment_min(gap, finger_of, num_segments=6) < CONTACT
        return _Attempt(
            pose=pose,
            object_rotmat=rotmat,
            object_trans=trans - rotmat @ centre,
            vertices=vertices,
            joints=placed[:16],
            num_fingers=jnp.sum(contact[:4]),
            has_thumb=contact[4],
            hand_depth=jnp.maximum(-jnp.min(gap), 0.0),
        )

    return attempt


def _skin(mano, shaped, joints, pose, rows):
    """Skinned rows of vertices; bone rotations; joints and tips [21, 3]."""
    rotmat = rotations.aa_to_rotmat(pose)
    turned, placed = [jnp.eye(3)], [joints[0]]
    for j in range(1, 16):
        p = PARENTS[j]
        placed.append(turned[p] @ (joints[j] - joints[p]) + placed[p])
        turned.append(turned[p] @ rotmat[j - 1])
    turned, placed = jnp.stack(turned), jnp.stack(placed)
    shift = placed - jnp.einsum("jmn,jn->jm", turned, joints)
    feature = (rotmat - jnp.eye(3)[None]).reshape(-1)
    tips = np.array(mano_lib.FINGERTIPS["smplx"])

    def blend(rows) -> Array:
        weights = jnp.asarray(mano.skinning_weights)[rows]
        local = shaped[rows] + jnp.asarray(mano.pose_basis)[rows] @ feature
        blended = jnp.einsum("vj,jmn->vmn", weights, turned)
        return jnp.einsum("vmn,vn->vm", blended, local) + weights @ shift

    return blend(rows), turned, jnp.concatenate([placed, blend(tips)])


def _rest_pose(key: Array) -> tuple[Array, Array]:
    """Spread fingers and an opposed thumb; where on the palm the object is to lie."""
    keys = jax.random.split(key, 4)
    spread = 0.10 * jax.random.normal(keys[0], (4,))
    pose = jnp.zeros((15, 3)).at[jnp.array([0, 3, 6, 9]), 1].set(spread)
    opposition = jnp.array([-0.75, 0.25, 0.15]) * jax.random.uniform(
        keys[1], (), minval=0.1, maxval=1.2
    )
    pose = pose.at[12].set(opposition + 0.12 * jax.random.normal(keys[2], (3,)))
    scatter = jnp.array([0.022, 0.0, 0.025]) * jax.random.normal(keys[3], (3,))
    return pose, jnp.array(PALM_POINT) + scatter


def _slide(palm_point: Array, distances) -> Array:
    """Where the object's grip point first touches, moving towards the palm."""
    normal = jnp.array(PALM_NORMAL)
    steps = jnp.linspace(0.0, 0.16, 65)

    def clearance(step: Array) -> Array:
        return jnp.min(distances(palm_point + normal * step))

    is_blocked = jax.lax.map(clearance, steps) < 0.001
    last = jnp.max(jnp.where(is_blocked, jnp.arange(65), -1))
    high = steps[jnp.minimum(last + 1, 64)]
    low = high - steps[1]
    for _ in range(4):
        middle = (low + high) / 2
        is_free = clearance(middle) >= 0.001
        low, high = jnp.where(is_free, low, middle), jnp.where(is_free, middle, high)
    return palm_point + normal * high


def _spheres(rig: _Rig, turned: Array, placed: Array) -> tuple[Array, Array]:
    """Sphere centres [20, SPHERES, 3] along the bones, and their radii."""
    del turned
    starts, ends = _bones(placed[:16], placed[16:])
    t = jnp.linspace(0.15, 1.0, SPHERES)[None, :, None]
    centres = starts[:, None] + t * (ends - starts)[:, None]
    radius = jnp.asarray(rig.radius, jnp.float32)[:, None]
    return centres, jnp.broadcast_to(radius, (20, SPHERES))


def _self_overlap(rig: _Rig, turned: Array, placed: Array) -> Array:
    """Which of the 15 finger links meet another finger or the palm."""
    centres, radius = _spheres(rig, turned, placed)
    flat, reach = centres.reshape(-1, 3), radius.reshape(-1)
    gap = jnp.linalg.norm(flat[:, None] - flat[None], axis=-1)
    gap = gap - reach[:, None] - reach[None]
    bone = np.arange(20).repeat(SPHERES)
    finger = np.where(bone < 15, bone // 3, 5)
    is_first = (bone < 15) & (bone % 3 == 0)
    # Neighbouring knuckles and the palm's own bones always touch.
    is_apart = finger[:, None] != finger[None]
    near_root = is_first | (bone >= 15)
    is_apart &= ~(near_root[:, None] & near_root[None])
    meets = (gap < -SELF_SLACK) & jnp.asarray(is_apart)
    return jnp.any(meets.reshape(20, SPHERES, -1), axis=(1, 2))[:15]


def _close(touches, closes: Array) -> Array:
    """Closes all joints until every one is stopped or at its limit."""

    def phase(flex: Array, scale: float, num: int) -> Array:
        def step(carry: tuple, _: None) -> tuple:
            flex, is_stopped = carry
            moved = jnp.minimum(flex + scale * STEP, LIMIT)
            moved = jnp.where(is_stopped, flex, moved)
            blocked = jnp.any(closes & touches(moved)[None, :], axis=1)
            return (jnp.where(blocked, flex, moved), is_stopped | blocked), None

        start = (flex, jnp.zeros(15, bool))
        return jax.lax.scan(step, start, None, length=num)[0][0]

    return phase(phase(jnp.zeros(15), 1.0, NUM_STEPS), FINE, NUM_FINE_STEPS)


def _make_judge(mano: mano_lib.ManoModel, templates: ObjectTemplates):
    """The exact overlaps of a block of grasps, one after the other."""
    faces = jnp.asarray(mano.closed_faces)
    object_vertices = jnp.asarray(templates.vertices)

    def one(row: tuple) -> _Verdict:
        vertices, obj, rotmat, trans = row
        points = object_vertices[obj] @ rotmat.T + trans[None]
        inside = mesh_sdf.signed_distance(points, vertices, faces)
        a, b, c = (vertices[faces[:, i]] for i in range(3))
        face_normal = jnp.cross(b - a, c - a)
        normal = jnp.zeros_like(vertices)
        for corner in range(3):
            normal = normal.at[faces[:, corner]].add(face_normal)
        normal = normal / jnp.linalg.norm(normal, axis=1, keepdims=True)
        # Just under its own skin a vertex is wound about once; in another part, twice.
        under = vertices - UNDER_SKIN * normal
        winding = mesh_sdf.winding_number(under, vertices, faces)
        return _Verdict(
            object_depth=jnp.maximum(-jnp.min(inside), 0.0),
            overlap=jnp.mean((winding > 1.5).astype(jnp.float32)),
        )

    return lambda *rows: jax.lax.map(one, rows)


def _badness(result: _Attempt, i: int, verdict: _Verdict) -> float:
    """0 for a grasp that meets every standard, else by how much it fails."""
    excess = (
        result.hand_depth[i] / MAX_HAND_DEPTH,
        verdict.object_depth / MAX_OBJECT_DEPTH,
        verdict.overlap / MAX_OVERLAP,
    )
    return float(sum(max(e - 1, 0) for e in excess))


def _keep_best(best, rows, result: _Attempt, objects: np.ndarray, judge) -> None:
    """Judges the attempts that hold their object and are still wanted."""
    is_held = result.has_thumb & (result.num_fingers >= 2)
    is_held &= result.hand_depth < 2 * MAX_HAND_DEPTH
    wanted = [i for i in np.flatnonzero(is_held) if (best[rows[i]] or (1,))[0] > 0]
    for start in range(0, len(wanted), JUDGED):
        block = np.resize(np.array(wanted[start : start + JUDGED]), JUDGED)
        verdicts = judge(
            result.vertices[block],
            objects[block],
            result.object_rotmat[block],
            result.object_trans[block],
        )
        verdicts = jax.tree.map(np.asarray, verdicts)
        for j, i in enumerate(block):
            verdict = _Verdict(*(field[j] for field in verdicts))
            badness, row = _badness(result, i, verdict), rows[i]
            if best[row] is None or badness < best[row][0]:
                mine = _Attempt(*(field[i] for field in result))
                best[row] = (badness, mine, verdict)


def _collect(best, object_index, betas) -> GraspSet:
    attempts, verdicts = [e[1] for e in best], [e[2] for e in best]
    return GraspSet(
        finger_pose=np.stack([a.pose for a in attempts]),
        betas=np.asarray(betas, np.float32),
        object_rotmat=np.stack([a.object_rotmat for a in attempts]),
        object_trans=np.stack([a.object_trans for a in attempts]),
        object_index=np.asarray(object_index),
        hand_vertices=np.stack([a.vertices for a in attempts]),
        joints=np.stack([a.joints for a in attempts]),
        hand_depth=np.array([a.hand_depth for a in attempts]),
        object_depth=np.array([v.object_depth for v in verdicts]),
        overlap=np.array([v.overlap for v in verdicts]),
    )
