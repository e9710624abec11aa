"""Puts the hand together under MANO's keys, counts and hard-coded vertex numbers."""

from typing import Any

import numpy as np
import scipy.sparse as sp

from homae_jax.hand.joints import PARENTS
from homae_jax.hand.mano import FINGERTIPS
from homae_jax.hand.mano_files import WRIST_LOOP
from homae_jax.synthetic.hand_model import bases
from homae_jax.synthetic.hand_model.decimation import (
    boundary_loop,
    decimate,
    relax,
)
from homae_jax.synthetic.hand_model.skeleton import (
    DIGITS,
    PALM,
    WRIST_CUT_X,
    Cone,
    first_joint,
    flesh,
    rest_joints,
    unit,
)
from homae_jax.synthetic.hand_model.surface import (
    Field,
    hand_field,
    project,
    surface_nets,
)

GRID_PITCH = 0.003  # metres
NUM_VERTICES, NUM_LOOP = 778, 16
LATTICE_LOW, LATTICE_HIGH = (-0.105, -0.055, -0.075), (WRIST_CUT_X, 0.035, 0.115)
TIP_ORDER = ("thumb", "index", "middle", "ring", "little")  # of FINGERTIPS
# Every public list of tip vertices lands on the fingertip, the first ones closest.
TIP_LISTS = ("smplx", "manopth", "ho3d", "h2o3d", "ho3d_2020", "manopth_left")


def build_hand(pitch: float = GRID_PITCH) -> dict[str, Any]:
    """The right hand as the official file's dictionary (float64, metres)."""
    joints, tips = rest_joints()
    cones = flesh(joints, tips)
    field = hand_field(cones)
    vertices, faces = _mesh(field, cones, joints, tips, pitch)
    vertices, faces = _renumber(vertices, faces, joints, tips)
    weights = bases.skinning_weights(vertices, faces, cones)
    vertex_basis, joint_basis = bases.ShapeSpace(
        vertices, weights, joints, tips
    ).bases()
    regressor = bases.joint_regressor(vertices, joints, vertex_basis, joint_basis)
    regressed = regressor @ vertices
    parents = np.where(np.array(PARENTS) < 0, 4294967295, PARENTS)
    return {
        "v_template": vertices,
        "f": faces.astype(np.uint32),
        "weights": weights,
        "shapedirs": vertex_basis,
        "posedirs": bases.pose_basis(vertices, weights, regressed, cones),
        "J_regressor": sp.csc_matrix(regressor),
        "J": regressed,
        "kintree_table": np.stack([parents, np.arange(16)]).astype(np.int64),
        **bases.pose_statistics(np.random.default_rng(0)),
        "bs_style": "lbs",
        "bs_type": "lrotmin",
    }


def mirror_hand(right: dict[str, Any]) -> dict[str, Any]:
    """The left hand: mirrored in x, faces reversed; a true mirror in every basis."""
    flip = np.array([-1.0, 1.0, 1.0])
    left = dict(right)
    left["v_template"] = right["v_template"] * flip
    left["J"] = right["J"] * flip
    left["f"] = right["f"][:, ::-1].copy()
    left["shapedirs"] = right["shapedirs"] * flip[None, :, None]
    # R' = M R M under the mirror M: entry (r, c) changes sign where one index is x.
    sign = np.outer(flip, flip).ravel()
    posedirs = right["posedirs"] * flip[None, :, None]
    left["posedirs"] = posedirs * np.tile(sign, 15)[None, None, :]
    # Axis-angle under the mirror: (x, -y, -z).
    axis = np.tile([1.0, -1.0, -1.0], 15)
    left["hands_mean"] = right["hands_mean"] * axis
    left["hands_components"] = right["hands_components"] * axis[None]
    return left


def _mesh(
    field: Field,
    cones: list[Cone],
    joints: np.ndarray,
    tips: dict[str, np.ndarray],
    pitch: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The surface with MANO's counts, in no order yet."""
    low, high = np.array(LATTICE_LOW), np.array(LATTICE_HIGH)
    # The lattice ends on the wrist plane, where the mesh is left open.
    low[0] = WRIST_CUT_X - pitch * np.ceil((WRIST_CUT_X - low[0]) / pitch)
    axes = [np.arange(a, b + pitch / 2, pitch) for a, b in zip(low, high, strict=True)]
    lattice = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    values = field(lattice.reshape(-1, 3)).reshape(lattice.shape[:3])
    vertices, faces = surface_nets(values, low, pitch)
    edge = boundary_loop(faces)
    vertices = project(vertices, field, 2)
    vertices[edge, 0] = WRIST_CUT_X
    vertices, faces = decimate(
        vertices,
        faces,
        num_vertices=NUM_VERTICES,
        num_boundary=NUM_LOOP,
        density=_density(vertices, cones, joints, tips),
    )
    vertices, faces = relax(vertices, faces, field)
    return _even_wrist(vertices, faces, field), faces


def _density(
    vertices: np.ndarray,
    cones: list[Cone],
    joints: np.ndarray,
    tips: dict[str, np.ndarray],
) -> np.ndarray:
    """More vertices on fingers and near joints."""
    centres = [*joints[1:], *tips.values()]
    to_joint = np.min([np.linalg.norm(vertices - c, axis=1) for c in centres], 0)
    depths = [
        bases.segment_distance(vertices, c.a, c.b)[0] - min(c.radius_a, c.radius_b)
        for c in cones
        if c.group != PALM
    ]
    to_finger = np.maximum(np.min(depths, 0), 0)
    on_finger = 5 * np.exp(-((to_finger / 0.006) ** 2))
    return 1 + on_finger + 2 * np.exp(-((to_joint / 0.012) ** 2))


def _even_wrist(vertices: np.ndarray, faces: np.ndarray, field: Field) -> np.ndarray:
    """Spaces the wrist ring evenly by angle, on the outline of the forearm."""
    loop = boundary_loop(faces)
    centre = vertices[loop].mean(0)
    centre[0] = WRIST_CUT_X
    local = vertices[loop] - centre
    angle = np.unwrap(np.arctan2(local[:, 1], local[:, 2]))
    step = np.sign(np.median(np.diff(angle))) * 2 * np.pi / NUM_LOOP
    even = angle[0] + step * np.arange(NUM_LOOP)
    even = even + (angle - even).mean()
    ray = np.stack([np.zeros(NUM_LOOP), np.sin(even), np.cos(even)], 1)
    low, high = np.zeros(NUM_LOOP), np.full(NUM_LOOP, 0.06)
    for _ in range(30):
        middle = (low + high) / 2
        is_inside = field(centre + middle[:, None] * ray) < 0
        low, high = np.where(is_inside, middle, low), np.where(is_inside, high, middle)
    vertices = vertices.copy()
    vertices[loop] = centre + low[:, None] * ray
    return vertices


def _renumber(
    vertices: np.ndarray,
    faces: np.ndarray,
    joints: np.ndarray,
    tips: dict[str, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Gives wrist loop and fingertips the vertex numbers that code relies on."""
    number = np.full(len(vertices), -1)
    loop = boundary_loop(faces)
    start = int(np.argmax(vertices[loop][:, 2]))
    # Public recipes fan the listed order outward: the reverse of our half-edges.
    for name, v in zip(WRIST_LOOP, (loop[start:] + loop[:start])[::-1], strict=True):
        number[v] = name
    for position, finger in enumerate(TIP_ORDER):
        names = dict.fromkeys(FINGERTIPS[x][position] for x in TIP_LISTS)
        outermost = _outermost(vertices, joints, tips, finger, len(names))
        for name, v in zip(names, outermost, strict=True):
            number[v] = name
    rest = np.flatnonzero(number < 0)
    keys = (vertices[rest, 2], vertices[rest, 1], -vertices[rest, 0].round(2))
    rest = rest[np.lexsort(keys)]
    number[rest] = np.setdiff1d(np.arange(len(vertices)), number[number >= 0])
    renumbered = np.empty_like(vertices)
    renumbered[number] = vertices
    faces = np.stack([np.roll(f, -int(np.argmin(f))) for f in number[faces]])
    return renumbered, faces[np.lexsort(faces.T[::-1])]


def _outermost(
    vertices: np.ndarray,
    joints: np.ndarray,
    tips: dict[str, np.ndarray],
    finger: str,
    num: int,
) -> np.ndarray:
    """The vertices farthest along the last phalanx, on the finger itself."""
    joint = joints[first_joint(finger) + 2]
    along = (vertices - joint) @ unit(tips[finger] - joint)
    away, _ = bases.segment_distance(vertices, joint, tips[finger])
    reach = DIGITS[finger].radii[2] * 1.5
    return np.argsort(np.where(away < reach, -along, np.inf), kind="stable")[:num]
