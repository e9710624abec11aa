"""Bones and flesh of the hand: joint positions and the round cones laid over them."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from homae_jax.hand.joints import PARENTS

FINGERS = ("index", "middle", "little", "ring", "thumb")  # MANO's kinematic order
WRIST_CUT_X = 0.110  # plane at which the forearm is cut open
Point = np.ndarray | tuple[float, float, float]
PALM = 0  # group of the palm's cones; the fingers' are 1..5


class Digit(NamedTuple):
    """A finger at rest: knuckle, direction, phalanges, radii, bend per phalanx."""

    base: tuple[float, float, float]
    direction: tuple[float, float, float]
    lengths: tuple[float, float, float]
    radii: tuple[float, float, float, float]
    bend: tuple[float, float, float]


DIGITS = {
    "index": Digit(
        (0.0085, 0.0035, 0.0255), (-1, 0.03, 0.09), (0.0370, 0.0235, 0.0165),
        (0.0118, 0.0096, 0.0085, 0.0072), (0, -0.05, 0),
    ),
    "middle": Digit(
        (0.0025, 0.0060, 0.0030), (-1, 0.04, -0.03), (0.0410, 0.0270, 0.0170),
        (0.0120, 0.0100, 0.0088, 0.0075), (0, -0.05, 0),
    ),
    "little": Digit(
        (0.0270, -0.0020, -0.0350), (-1, 0.0, -0.34), (0.0300, 0.0190, 0.0150),
        (0.0100, 0.0082, 0.0073, 0.0062), (0, -0.05, 0),
    ),
    "ring": Digit(
        (0.0120, 0.0030, -0.0175), (-1, 0.03, -0.16), (0.0375, 0.0260, 0.0170),
        (0.0112, 0.0093, 0.0083, 0.0071), (0, -0.05, 0),
    ),
    "thumb": Digit(
        (0.0740, -0.0080, 0.0270), (-0.66, -0.16, 0.74), (0.0420, 0.0315, 0.0200),
        (0.0160, 0.0132, 0.0112, 0.0088), (-0.16, 0.02, -0.14),
    ),
}  # fmt: skip
WRIST = (0.095, 0.004, 0.004)
THUMB_BEND_NORMAL = (-0.35, -0.55, -0.75)


class Cone(NamedTuple):
    """A round cone from ball (a, radius_a) to ball (b, radius_b), moved by a joint."""

    joint: int
    a: np.ndarray
    b: np.ndarray
    radius_a: float
    radius_b: float
    group: int


def unit(v: np.ndarray) -> np.ndarray:
    """Vectors of length 1 along the last axis."""
    v = np.asarray(v, float)
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def first_joint(finger: str) -> int:
    """MANO's index of a finger's knuckle."""
    return 1 + 3 * FINGERS.index(finger)


def rest_joints() -> tuple[Float[np.ndarray, "16 3"], dict[str, np.ndarray]]:
    """The 16 joints and the centres of the five tip balls."""
    joints, tips = np.zeros((16, 3)), {}
    joints[0] = WRIST
    for finger, digit in DIGITS.items():
        point = np.array(digit.base)
        for phalanx, length in enumerate(digit.lengths):
            joints[first_joint(finger) + phalanx] = point
            direction = np.array(digit.direction) + phalanx * np.array(digit.bend)
            point = point + unit(direction) * length
        tips[finger] = point
    return joints, tips


def bone_ends(
    joints: Float[np.ndarray, "16 3"], tips: dict[str, np.ndarray]
) -> Float[np.ndarray, "16 3"]:
    """Far end of each finger joint's bone; the wrist's row is unused."""
    ends = np.zeros((16, 3))
    for joint, parent in enumerate(PARENTS):
        if parent > 0:
            ends[parent] = joints[joint]
    for finger in FINGERS:
        ends[first_joint(finger) + 2] = tips[finger]
    return ends


def flexion_axes() -> Float[np.ndarray, "16 3"]:
    """Axis about which each joint bends towards the palm; wrist: 0."""
    joints, _ = rest_joints()
    axes = np.zeros((16, 3))
    for finger in FINGERS[:4]:
        i = first_joint(finger)
        axes[i : i + 3] = unit(np.cross(unit(joints[i + 1] - joints[i]), [0, -1, 0]))
    normal = unit(np.array(THUMB_BEND_NORMAL))
    i = first_joint("thumb")
    axes[i] = unit(np.cross(unit(joints[i + 1] - joints[i]), normal))
    axes[i + 1 :] = unit(np.cross(unit(joints[i + 2] - joints[i + 1]), normal))
    return axes


def flesh(joints: Float[np.ndarray, "16 3"], tips: dict[str, np.ndarray]) -> list[Cone]:
    """Round cones of fingers, metacarpals, pads, webs and forearm."""
    cones = []
    for group, finger in enumerate(FINGERS, start=1):
        i, radii = first_joint(finger), DIGITS[finger].radii
        points = [*joints[i : i + 3], tips[finger]]
        for n in range(3):
            ends = (points[n], points[n + 1], radii[n], radii[n + 1])
            cones.append(Cone(i + n, *ends, group))
    knuckle = {finger: joints[first_joint(finger)] for finger in FINGERS}

    def palm(a: Point, b: Point, radius_a: float, radius_b: float) -> None:
        cones.append(Cone(0, np.array(a), np.array(b), radius_a, radius_b, PALM))

    carpals = {
        "index": ((0.082, 0.004, 0.015), 0.0118),
        "middle": ((0.082, 0.006, 0.007), 0.0118),
        "ring": ((0.083, 0.004, -0.003), 0.0112),
        "little": ((0.085, 0.0, -0.012), 0.0100),
    }
    for finger, (carpal, radius) in carpals.items():
        palm(carpal, knuckle[finger], 0.0150, radius)
        pad = knuckle[finger] + [0.006, -0.0055, 0]
        palm(np.add(carpal, [0, -0.006, 0]), pad, 0.0130, 0.0095)
    for a, b in (("index", "middle"), ("middle", "ring"), ("ring", "little")):
        web = np.array([0.004, -0.003, 0])
        palm(knuckle[a] + web, knuckle[b] + web, 0.0095, 0.0090)
    hypothenar = knuckle["little"] + [0.012, -0.0085, 0.001]
    palm((0.088, -0.008, -0.012), hypothenar, 0.0140, 0.0105)
    thumb = first_joint("thumb")
    thenar = joints[thumb + 1] + [0.012, 0.0, -0.013]
    palm((0.084, -0.006, 0.016), thenar, 0.0150, 0.0110)
    first_web = knuckle["index"] + [0.022, -0.004, 0.004]
    palm(joints[thumb] + [-0.010, 0.0, -0.008], first_web, 0.0120, 0.0080)
    for z, y in ((0.0155, 0.002), (-0.0085, 0.002), (0.0035, 0.001)):
        palm((0.084, y, 0.95 * z), (0.16, y, z), 0.0165, 0.0180)
    return cones
