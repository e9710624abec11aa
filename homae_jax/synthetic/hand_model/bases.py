"""Skinning weights, shape and pose bases, joint regressor and pose statistics.

One unit of a shape coefficient is one standard deviation of that trait.
"""

from itertools import product

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spl
from jaxtyping import Float, Int
from scipy.optimize import nnls

from homae_jax.hand.joints import PARENTS
from homae_jax.synthetic.hand_model.decimation import adjacency
from homae_jax.synthetic.hand_model.skeleton import (
    FINGERS,
    PALM,
    Cone,
    bone_ends,
    first_joint,
    flexion_axes,
    unit,
)
from homae_jax.synthetic.hand_model.surface import (
    FINGER_BLEND,
    gradient,
    round_cone_distance,
    smooth_union,
)

# One trait per shape coefficient: its name and its standard deviation.
SHAPE_TRAITS = (
    ("size", 0.055),
    ("girth", 0.08),
    ("finger_length", 0.05),
    ("palm_width", 0.05),
    ("palm_thickness", 0.08),
    ("thumb_length", 0.05),
    ("palm_length", 0.03),
    ("index_length", 0.035),
    ("little_length", 0.05),
    ("tip_length", 0.06),
)
DIFFUSION_LENGTH = 0.0055  # metres over which skinning weights blend
REGRESSOR_SUPPORT = 90  # vertices that may carry a joint
NUM_POSES = 2000  # behind hands_mean and hands_components
NUM_CORRECTIVE_POSES = 160


def finger_joints(finger: str) -> list[int]:
    i = first_joint(finger)
    return [i, i + 1, i + 2]


def rodrigues(aa: Float[np.ndarray, "*b 3"]) -> Float[np.ndarray, "*b 3 3"]:
    """Rotation matrices of axis-angle vectors."""
    angle = np.linalg.norm(aa, axis=-1)[..., None, None] + 1e-12
    x, y, z = np.moveaxis(aa / angle[..., 0], -1, 0)
    zero = np.zeros_like(x)
    skew = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*x.shape, 3, 3)
    return np.eye(3) + np.sin(angle) * skew + (1 - np.cos(angle)) * skew @ skew


def segment_distance(
    points: Float[np.ndarray, "p 3"],
    a: Float[np.ndarray, "3"],
    b: Float[np.ndarray, "3"],
) -> tuple[Float[np.ndarray, " p"], Float[np.ndarray, " p"]]:
    """Distance to the segment ab and the fraction of it at which it is reached."""
    t = np.clip(((points - a) @ (b - a)) / ((b - a) @ (b - a)), 0, 1)
    return np.linalg.norm(points - a - t[:, None] * (b - a), axis=1), t


def skinning_weights(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], cones: list[Cone]
) -> Float[np.ndarray, "v 16"]:
    """Nearest bone, diffused along the surface: never from finger to finger."""
    depth = np.full((len(vertices), 16), 1e3)
    for cone in cones:
        distance, t = segment_distance(vertices, cone.a, cone.b)
        radius = (1 - t) * cone.radius_a + t * cone.radius_b
        depth[:, cone.joint] = np.minimum(depth[:, cone.joint], distance - radius)
    owner = np.eye(16)[depth.argmin(1)]
    matrix = adjacency(faces, len(vertices))
    i, j = matrix.nonzero()
    conductance = 1 / ((vertices[i] - vertices[j]) ** 2).sum(1)
    graph = sp.coo_matrix((conductance, (i, j)), matrix.shape).tocsr()
    laplacian = sp.diags(np.asarray(graph.sum(1)).ravel()) - graph
    system = sp.eye(len(vertices)) + DIFFUSION_LENGTH**2 / 2 * laplacian
    weights = spl.spsolve(system.tocsc(), owner)
    weights = np.where(weights < 0.02, 0, weights)
    return weights / weights.sum(1, keepdims=True)


class ShapeSpace:
    """The hand with traits changed: skinning with a scale per bone."""

    def __init__(
        self,
        vertices: Float[np.ndarray, "v 3"],
        weights: Float[np.ndarray, "v 16"],
        joints: Float[np.ndarray, "16 3"],
        tips: dict[str, np.ndarray],
    ):
        self._vertices, self._weights, self._joints = vertices, weights, joints
        self._ends = bone_ends(joints, tips)

    def __call__(
        self, traits: dict[str, float]
    ) -> tuple[Float[np.ndarray, "v 3"], Float[np.ndarray, "16 3"]]:
        """Vertices and joints for traits given as relative changes."""
        t = {name: traits.get(name, 0.0) for name, _ in SHAPE_TRAITS}
        length, girth = np.ones(16), 1 + t["girth"]
        for finger in FINGERS:
            ids = finger_joints(finger)
            length[ids] *= 1 + t["finger_length"]
            length[ids] *= 1 + t.get(f"{finger}_length", 0.0)
            length[ids[2]] *= 1 + t["tip_length"]
        thickness = 1 + t["palm_thickness"] + 0.5 * t["girth"]
        palm = np.array([1 + t["palm_length"], thickness, 1 + t["palm_width"]])
        scale = np.zeros((16, 3, 3))
        scale[0] = np.diag(palm)
        joints = np.zeros((16, 3))  # relative to the wrist
        for finger in FINGERS:
            ids = finger_joints(finger)
            joints[ids[0]] = palm * (self._joints[ids[0]] - self._joints[0])
            for n, j in enumerate(ids):
                bone = self._ends[j] - self._joints[j]
                along = np.outer(unit(bone), unit(bone))
                scale[j] = length[j] * along + girth * (np.eye(3) - along)
                if n < 2:
                    joints[j + 1] = joints[j] + scale[j] @ bone
        local = self._vertices[:, None] - self._joints[None]
        vertices = np.einsum("vj,jab,vjb->va", self._weights, scale, local)
        vertices = vertices + self._weights @ joints
        size, wrist = 1 + t["size"], self._joints[0]
        return wrist + size * vertices, wrist + size * joints

    def bases(self) -> tuple[Float[np.ndarray, "v 3 10"], Float[np.ndarray, "16 3 10"]]:
        """Central differences per trait: of vertices and of joints."""
        plus = [self({name: sigma}) for name, sigma in SHAPE_TRAITS]
        minus = [self({name: -sigma}) for name, sigma in SHAPE_TRAITS]
        pairs = list(zip(plus, minus, strict=True))
        return tuple(
            np.stack([(p[i] - m[i]) / 2 for p, m in pairs], axis=-1) for i in (0, 1)
        )


def joint_regressor(
    vertices: Float[np.ndarray, "v 3"],
    joints: Float[np.ndarray, "16 3"],
    vertex_basis: Float[np.ndarray, "v 3 10"],
    joint_basis: Float[np.ndarray, "16 3 10"],
) -> Float[np.ndarray, "16 v"]:
    """Non-negative weights that find each joint, at rest and in every shape."""
    regressor = np.zeros((16, len(vertices)))
    for j in range(16):
        order = np.argsort(np.linalg.norm(vertices - joints[j], axis=1), kind="stable")
        near = order[:REGRESSOR_SUPPORT]
        shapes = vertex_basis[near].transpose(1, 2, 0).reshape(-1, len(near))
        rows = [np.full((1, len(near)), 0.3), vertices[near].T, shapes]
        truth = np.concatenate([[0.3], joints[j], joint_basis[j].ravel()])
        weights, _ = nnls(np.concatenate(rows), truth)
        regressor[j, near] = weights / weights.sum()
    return regressor


def random_poses(rng: np.random.Generator, num: int) -> Float[np.ndarray, "n 45"]:
    """Plausible finger poses, axis-angle: shared flexion plus noise."""
    axes = flexion_axes()
    pose = np.zeros((num, 15, 3))
    flexion = rng.beta(1.2, 1.6, (num, 1))
    for finger in FINGERS:
        i = first_joint(finger) - 1
        curl = np.clip(flexion + 0.25 * rng.normal(size=(num, 1)), -0.1, 1.1)
        amplitude = [0.35, 0.6, 0.8] if finger == "thumb" else [1.25, 1.45, 0.85]
        pose[:, i : i + 3] = (curl * amplitude)[..., None] * axes[i + 1 : i + 4]
        pose[:, i, 1] += 0.12 * rng.normal(size=num)
        pose[:, i, 0] += 0.05 * rng.normal(size=num)
    pose[:, first_joint("thumb") - 1] += 0.25 * rng.normal(size=(num, 3))
    return pose.reshape(num, 45)


def pose_statistics(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """hands_mean, hands_components and hands_coeffs of random poses."""
    poses = random_poses(rng, NUM_POSES)
    centred = poses - poses.mean(0)
    components = np.linalg.svd(centred, full_matrices=True)[2]
    # The sign of a singular vector is the solver's whim: largest entry positive.
    largest = np.abs(components).argmax(1)
    components *= np.sign(components[np.arange(45), largest])[:, None]
    return {
        "hands_mean": poses.mean(0) * 0.5,
        "hands_components": components,
        "hands_coeffs": centred @ components.T,
    }


def bone_transforms(
    rotmat: Float[np.ndarray, "16 3 3"], joints: Float[np.ndarray, "16 3"]
) -> tuple[Float[np.ndarray, "16 3 3"], Float[np.ndarray, "16 3"]]:
    """World rotation and shift of each bone from rest."""
    turned, placed = [rotmat[0]], [joints[0]]
    for j in range(1, 16):
        p = PARENTS[j]
        placed.append(turned[p] @ (joints[j] - joints[p]) + placed[p])
        turned.append(turned[p] @ rotmat[j])
    turned, placed = np.stack(turned), np.stack(placed)
    return turned, placed - np.einsum("jab,jb->ja", turned, joints)


def pose_basis(
    vertices: Float[np.ndarray, "v 3"],
    weights: Float[np.ndarray, "v 16"],
    joints: Float[np.ndarray, "16 3"],
    cones: list[Cone],
) -> Float[np.ndarray, "v 3 135"]:
    """Correctives that keep bent fingers round (ridge regression).

    Skinned vertices of random poses are pulled back to the posed round cones of their
    own finger; what that takes is regressed on the rotations of neighbouring joints.
    """
    rng = np.random.default_rng(1)
    poses = random_poses(rng, NUM_CORRECTIVE_POSES)
    features = np.zeros((len(poses), 135))
    residuals = np.zeros((len(poses), len(vertices), 3))
    for s, pose in enumerate(poses):
        rotmat = rodrigues(np.concatenate([np.zeros(3), pose]).reshape(16, 3))
        features[s] = (rotmat[1:] - np.eye(3)).ravel()
        residuals[s] = _pull_back(vertices, weights, joints, cones, rotmat)
    basis = np.zeros((len(vertices), 3, 135))
    owner = weights.argmax(1)
    for finger, k in product(FINGERS, range(3)):
        ids = finger_joints(finger)
        j = ids[k]
        mine = np.flatnonzero(owner == j)
        near = [i for i in ids if abs(i - j) <= 1]
        columns = np.concatenate([np.arange(9) + 9 * (i - 1) for i in near])
        x = features[:, columns]
        ridge = x.T @ x + 0.3 * np.eye(len(columns))
        fit = np.linalg.solve(ridge, x.T @ residuals[:, mine].reshape(len(poses), -1))
        basis[np.ix_(mine, range(3), columns)] = fit.T.reshape(len(mine), 3, -1)
    return basis


def _pull_back(
    vertices: np.ndarray,
    weights: np.ndarray,
    joints: np.ndarray,
    cones: list[Cone],
    rotmat: np.ndarray,
) -> np.ndarray:
    """What it takes, at rest, to bring posed vertices back onto their finger."""
    turned, shift = bone_transforms(rotmat, joints)
    blend = np.einsum("vj,jab->vab", weights, turned)
    posed = np.einsum("vab,vb->va", blend, vertices) + weights @ shift
    residual = np.zeros_like(vertices)
    for finger in FINGERS:
        ids = finger_joints(finger)
        is_mine = (weights[:, ids[1:]].sum(1) > 0.15) | (weights[:, ids[0]] > 0.85)
        mine = np.flatnonzero(is_mine)
        rest = [c for c in cones if c.group != PALM and c.joint in ids]
        bent = [
            c._replace(
                a=turned[c.joint] @ c.a + shift[c.joint],
                b=turned[c.joint] @ c.b + shift[c.joint],
            )
            for c in rest
        ]

        def distance(points: np.ndarray, parts: list[Cone]) -> np.ndarray:
            return smooth_union(
                [round_cone_distance(points, c) for c in parts], FINGER_BLEND
            )

        excess = distance(posed[mine], bent) - distance(vertices[mine], rest)
        slope = gradient(posed[mine], lambda p, parts=bent: distance(p, parts))
        move = -np.clip(excess, -0.004, 0.004)[:, None] * slope
        residual[mine] = np.einsum("vba,vb->va", blend[mine], move)
    return residual
