"""Grasps of given objects by given hands, made by trial and judged on meshes.

An attempt places the object in an open hand at random and closes it
(synthetic/closing.py); what is kept must hold the object between the thumb and at least
two fingers, and overlap neither the object nor the hand itself. Hand frame: MANO's own,
wrist rotation the identity; metres.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from homae_jax.geometry import mesh_sdf
from homae_jax.hand.mano import ManoModel
from homae_jax.progress import progress_bar
from homae_jax.schema import ObjectTemplates
from homae_jax.synthetic.closing import Attempt, Start, make_closing, make_rig
from homae_jax.synthetic.hand_model.bases import rodrigues

BATCH = 64  # attempts made at a time
JUDGED = 16  # attempts judged at a time
MAX_ROUNDS = 40
ROUNDS_ABOVE = 10  # then what cannot be held from above is held any way
UNDER_SKIN = 0.0005  # metres below its own skin at which a vertex is tested
NEAR_POINTS = 400  # object vertices that are tested, those nearest to the hand

# What a grasp must meet: contact, and how much meshes may overlap.
CONTACT = 0.003
MIN_FINGERS = 2  # besides the thumb
MAX_HAND_DEPTH = 0.002  # a hand vertex inside the object
MAX_OBJECT_DEPTH = 0.0015  # an object vertex inside the hand
MAX_OVERLAP = 0.01  # share of hand vertices inside another part of the hand

# How the object lies in the open hand, and where.
WOBBLE = np.array([0.15, 0.35, 0.25])  # radians of its turn, along the hand's axes
STEADY = 0.6  # of that wobble where it is held from above
PALM_POINT = np.array([0.030, 0.0, 0.002])
FINGER_POINT = np.array([-0.035, 0.0, 0.020])  # for what is held by the finger ends
PALM_SCATTER = np.array([0.022, 0.0, 0.025])
PART_RADIUS = 0.035  # metres round the grip in which a part's axes are measured
MIN_PART_VERTICES = 16
PART_SHARE = 0.25  # of attempts that grip a part of the object, not the whole
PINCH_SHARE = 0.25  # of attempts that hold the object off the palm
MAX_STANDOFF = 0.045
THUMB_OPPOSITION = np.array([-0.75, 0.25, 0.15])  # radians at its knuckle
FAN = np.array([1.0, 0.25, -1.0, -0.4])  # index, middle, little, ring


class GraspSet(NamedTuple):
    """Grasps and how good they are; one row each."""

    finger_pose: Float[np.ndarray, "g 15 3"]  # axis-angle, flat mean
    betas: Float[np.ndarray, "g 10"]
    object_rotmat: Float[np.ndarray, "g 3 3"]  # hand_T_obj
    object_trans: Float[np.ndarray, "g 3"]
    object_index: Int[np.ndarray, " g"]
    hand_vertices: Float[np.ndarray, "g 778 3"]
    joints: Float[np.ndarray, "g 16 3"]
    contact: Float[np.ndarray, "g 6"]  # distance: index middle little ring thumb palm
    hand_depth: Float[np.ndarray, " g"]  # deepest hand vertex inside the object
    object_depth: Float[np.ndarray, " g"]  # deepest object vertex inside the hand
    overlap: Float[np.ndarray, " g"]  # share of hand vertices inside other parts


class _Verdict(NamedTuple):
    object_depth: Array
    overlap: Array


class _Found(NamedTuple):
    """The best attempt of a row so far."""

    badness: float  # 0: meets every standard
    object_rotmat: np.ndarray
    attempt: Attempt
    verdict: _Verdict


def synthesize_grasps(
    seed: int,
    object_index: Int[np.ndarray, " g"],
    betas: Float[np.ndarray, "g 10"],
    *,
    templates: ObjectTemplates,
    mano: ManoModel,
    spread: float = 1.0,
    grips: str = "any",
) -> GraspSet:
    """One grasp for each row of objects and hand shapes; the same for a seed.

    Where objects are held varies by `spread`: 0, at their middle, in the palm; 1,
    anywhere along their long side, at any of their parts, off the palm too. Which way
    they lie in the hand, by `grips`: "any", along any of their axes; "above", as one
    lifts what stands on a table: the long side hangs from the palm, top up, the thin
    one between fingers and palm, hardly turned and never gripped by a part. What
    cannot be held so (thin scissors, often) is held any way.

    Attempts that fail the standards above are thrown away and made anew; a row that
    never meets them in `MAX_ROUNDS` keeps its least bad attempt.
    """
    close = jax.jit(jax.vmap(make_closing(mano, make_rig(mano), templates)))
    judge = jax.jit(_make_judge(mano, templates))
    draw = functools.partial(_draw, templates=templates, spread=spread)
    found: list[_Found | None] = [None] * len(object_index)
    for row in progress_bar(
        _settled(draw, grips, seed, object_index, betas, close, judge, found),
        total=len(found),
        desc="grasps",
    ):
        del row
    return _collect(found, object_index, betas)


def _settled(draw, grips, seed, object_index, betas, close, judge, found):
    """Fills `found` round by round; yields the rows as they are settled."""
    pending = list(range(len(found)))
    for number in range(MAX_ROUNDS):
        if not pending:
            return
        grips = grips if number < ROUNDS_ABOVE else "any"
        todo = np.resize(pending, -(-len(pending) // BATCH) * BATCH)
        for block, rows in enumerate(todo.reshape(-1, BATCH)):
            rng = np.random.default_rng((seed, number, block))
            start = draw(rng, object_index[rows], betas[rows], grips=grips)
            attempts = jax.tree.map(np.asarray, close(start))
            _keep_best(found, rows, start, attempts, judge)
            good = {row for row in pending if found[row] and not found[row].badness}
            yield from sorted(good)
            pending = [row for row in pending if row not in good]
    yield from pending


def _draw(
    rng: np.random.Generator,
    objects: Int[np.ndarray, " n"],
    betas: Float[np.ndarray, "n 10"],
    *,
    templates: ObjectTemplates,
    spread: float,
    grips: str,
) -> Start:
    """Open hands and where each object starts from."""
    rows = [
        _draw_one(rng, np.asarray(templates.vertices[obj], np.float64), spread, grips)
        for obj in objects
    ]
    fields = (np.stack(field).astype(np.float32) for field in zip(*rows, strict=True))
    return Start(objects, *fields, betas)


def _draw_one(
    rng: np.random.Generator, vertices: np.ndarray, spread: float, grips: str
) -> tuple:
    """Orientation, grip, place in the hand and open pose of one attempt."""
    if grips == "above":
        grip, axes, size = _whole(rng, vertices, spread)
        placed, wobble = _hung(axes, size), STEADY * WOBBLE
    elif rng.random() < PART_SHARE * spread:
        grip, axes, size = _part(rng, vertices)
        placed, wobble = _laid(rng, axes, size), WOBBLE
    else:
        grip, axes, size = _whole(rng, vertices, spread)
        placed, wobble = _laid(rng, axes, size), WOBBLE
    rotmat = rodrigues(rng.normal(size=3) * wobble) @ placed

    is_pinch = rng.random() < PINCH_SHARE * spread
    point = PALM_POINT
    if is_pinch:
        point = point + rng.uniform() * (FINGER_POINT - PALM_POINT)
    point = point + spread * PALM_SCATTER * rng.normal(size=3)
    standoff = rng.uniform(0, MAX_STANDOFF) if is_pinch else 0.0
    return rotmat, grip, point, standoff, _open_pose(rng)


def _hung(axes: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Rows for the hand's axes: the long side from the palm down, its top at it."""
    thin, middle, long = np.argsort(size)
    placed = axes[[thin, long, middle]]
    placed[0] *= np.sign(np.linalg.det(placed))
    return placed


def _laid(rng: np.random.Generator, axes: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Rows for the hand's axes: the long side mostly across the palm, any end up."""
    thin, middle, long = np.argsort(size)
    order = [thin, middle, long] if rng.random() < 0.75 else [thin, long, middle]
    if size[thin] > 0.5 * size[long] and rng.random() < 0.3:
        order = list(rng.permutation(3))
    placed = axes[order] * rng.choice([-1.0, 1.0], 3)[:, None]
    placed[0] *= np.sign(np.linalg.det(placed))
    return placed


def _whole(rng: np.random.Generator, vertices: np.ndarray, spread: float) -> tuple:
    """Grips the box of the object, somewhere along its long side."""
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    size, grip = high - low, (low + high) / 2
    grip[size.argmax()] += spread * rng.uniform(-0.28, 0.28) * size.max()
    return grip, np.eye(3), size


def _part(rng: np.random.Generator, vertices: np.ndarray) -> tuple:
    """Grips what lies round a point of the surface, along its own axes."""
    point = vertices[rng.integers(len(vertices))]
    away = np.linalg.norm(vertices - point, axis=1)
    num = max((away < PART_RADIUS).sum(), MIN_PART_VERTICES)
    near = vertices[np.argsort(away, kind="stable")[:num]]
    grip = near.mean(axis=0)
    _, scale, axes = np.linalg.svd(near - grip, full_matrices=False)
    return grip, axes, scale


def _open_pose(rng: np.random.Generator) -> np.ndarray:
    """Spread fingers and an opposed thumb."""
    pose = np.zeros((15, 3))
    spread = rng.uniform(-0.02, 0.18) * FAN + 0.03 * rng.normal(size=4)
    pose[[0, 3, 6, 9], 1] = spread
    pose[12] = THUMB_OPPOSITION * rng.uniform(0.1, 1.2) + 0.12 * rng.normal(size=3)
    return pose


def _make_judge(mano: ManoModel, templates: ObjectTemplates) -> Callable[..., _Verdict]:
    """The exact overlaps of a block of grasps, one after the other."""
    faces = jnp.asarray(mano.closed_faces)
    object_vertices = jnp.asarray(templates.vertices)
    # An inside-out box round everything lowers all winding numbers by one.
    box, box_faces = _inside_out_box(half=1.0)
    boxed_faces = jnp.concatenate([faces, box_faces + mano.template_vertices.shape[0]])

    def one(row: tuple) -> _Verdict:
        vertices, which, rotmat, trans = row
        points = object_vertices[which] @ rotmat.T + trans[None]
        away = jnp.sum((points[:, None] - vertices[None, ::4]) ** 2, axis=-1)
        _, near = jax.lax.top_k(-jnp.min(away, axis=1), NEAR_POINTS)
        inside = mesh_sdf.signed_distance(points[near], vertices, faces, sign="ray")
        # Just under its own skin a vertex is wound round once; in another part, twice.
        under = vertices - UNDER_SKIN * _normals(vertices, faces)
        twice = mesh_sdf.signed_distance(
            under, jnp.concatenate([vertices, box]), boxed_faces, sign="ray"
        )
        return _Verdict(
            object_depth=jnp.maximum(-jnp.min(inside), 0.0),
            overlap=jnp.mean((twice < 0).astype(jnp.float32)),
        )

    return lambda *rows: jax.lax.map(one, rows)


def _inside_out_box(half: float) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces of a cube whose faces look inwards."""
    corners = np.array(list(np.ndindex(2, 2, 2)), np.float32)
    quads = [[0, 2, 3, 1], [4, 5, 7, 6], [0, 1, 5, 4],
             [2, 6, 7, 3], [0, 4, 6, 2], [1, 3, 7, 5]]  # fmt: skip
    faces = [half for a, b, c, d in quads for half in ((a, b, c), (a, c, d))]
    return half * (2 * corners - 1), np.array(faces, np.int32)


def _normals(vertices: Array, faces: Array) -> Array:
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    face_normal = jnp.cross(b - a, c - a)
    normal = jnp.zeros_like(vertices)
    for corner in range(3):
        normal = normal.at[faces[:, corner]].add(face_normal)
    return normal / jnp.linalg.norm(normal, axis=1, keepdims=True)


def _keep_best(found, rows, start: Start, attempts: Attempt, judge) -> None:
    """Judges the attempts that hold their object and keeps the better ones."""
    lack = _lack_of_hold(attempts)
    wanted = [
        i
        for i, row in enumerate(rows)
        if found[row] is None or lack[i] < found[row].badness
    ]
    for first in range(0, len(wanted), JUDGED):
        block = np.resize(wanted[first : first + JUDGED], JUDGED)
        verdicts = judge(
            attempts.hand_vertices[block],
            start.object_index[block],
            start.object_rotmat[block],
            attempts.object_trans[block],
        )
        verdicts = jax.tree.map(np.asarray, verdicts)
        for j, i in enumerate(block):
            verdict = _Verdict(*(field[j] for field in verdicts))
            badness = lack[i] + _excess(verdict)
            if found[rows[i]] is None or badness < found[rows[i]].badness:
                attempt = Attempt(*(field[i] for field in attempts))
                found[rows[i]] = _Found(
                    badness, start.object_rotmat[i], attempt, verdict
                )


def _lack_of_hold(attempts: Attempt) -> Float[np.ndarray, " n"]:
    """0 where thumb and fingers hold the object without entering it."""
    touches = attempts.contact < CONTACT
    missing = np.maximum(MIN_FINGERS - touches[:, :4].sum(axis=1), 0) + ~touches[:, 4]
    depth = np.maximum(attempts.hand_depth / MAX_HAND_DEPTH - 1, 0)
    return 100.0 * missing + depth


def _excess(verdict: _Verdict) -> float:
    """By how much the meshes overlap more than they may, in shares of that."""
    excess = verdict.object_depth / MAX_OBJECT_DEPTH, verdict.overlap / MAX_OVERLAP
    return float(sum(max(e - 1, 0) for e in excess))


def _collect(found: list[_Found], object_index, betas) -> GraspSet:
    attempts = Attempt(*map(np.stack, zip(*(f.attempt for f in found), strict=True)))
    return GraspSet(
        finger_pose=attempts.finger_pose,
        betas=np.asarray(betas, np.float32),
        object_rotmat=np.stack([f.object_rotmat for f in found]),
        object_trans=attempts.object_trans,
        object_index=np.asarray(object_index),
        hand_vertices=attempts.hand_vertices,
        joints=attempts.joints,
        contact=attempts.contact,
        hand_depth=attempts.hand_depth,
        object_depth=np.array([f.verdict.object_depth for f in found]),
        overlap=np.array([f.verdict.overlap for f in found]),
    )
