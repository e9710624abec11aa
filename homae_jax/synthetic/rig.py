"""Eight cameras about one scene, as DexYCB's rig: every one sees the same grasp.

Rig frame: the hand frame of a grasp that is neither turned nor moved. Cameras stand on
a dome about the mean view, all look at the origin, and never move. A scene turns and
shifts the grasp, now and then so far that some cameras lose it; things that stand about
keep their places for a sequence. Pictures behind it all are each camera's own.
"""

import cv2
import numpy as np
from jaxtyping import Float

from homae_jax.synthetic.render import BACKGROUND, Part
from homae_jax.synthetic.scenes import (
    MEAN_VIEW_FROM,
    Clip,
    Labels,
    World,
    look_from,
    random_rotation,
    random_stream,
    transform,
)

NUM_CAMERAS = 8
DOME_DEG = 60.0  # from the dome's middle to its rim
DISTANCE = 0.60  # metres from a camera to the origin
MAX_TURN_DEG = 40.0  # of the grasp
SHIFT, FAR_SHIFT = 0.05, (0.32, 0.40)  # metres
FAR_SHARE = 0.06  # of the scenes
NUM_THINGS = 3


def _cameras() -> Float[np.ndarray, "8 4 4"]:
    """cam_T_rig of every camera."""
    mean = np.array(MEAN_VIEW_FROM) / np.linalg.norm(MEAN_VIEW_FROM)
    side = np.cross(mean, [0.0, 1.0, 0.0])
    side /= np.linalg.norm(side)
    above = np.cross(side, mean)
    poses = []
    for row in range(NUM_CAMERAS):
        tilt = np.radians(DOME_DEG) * (0.2, 1.0, 0.6)[min(row, 1 + row % 2)]
        around = 2 * np.pi * row / (NUM_CAMERAS - 1)
        ring = np.cos(around) * side + np.sin(around) * above
        place = (DISTANCE + 0.01 * row) * (np.cos(tilt) * mean + np.sin(tilt) * ring)
        rotmat = look_from(place)
        poses.append(transform(rotmat, -rotmat @ place))
    return np.stack(poses)


CAM_T_RIG = _cameras()


def world_T_cam(row: int, *, is_mirrored: bool) -> Float[np.ndarray, "3 4"]:
    """A camera's pose in the first camera's frame, as `extrinsics.yml` has it.

    Args:
      is_mirrored: of pictures that were turned left to right, each about its own axis:
        then the rig is the mirror image of the rig, M T M.
    """
    pose = CAM_T_RIG[0] @ np.linalg.inv(CAM_T_RIG[row])
    if is_mirrored:
        mirror = np.array([-1.0, 1.0, 1.0, 1.0])
        pose = mirror[:, None] * pose * mirror
    return pose[:3]


class RigWorld(World):
    """A world whose frames of one sequence and number are one scene."""

    def _choose_view(self, rng, clip: Clip, index: int, points, intrinsics):
        """The camera's own pose; what stands in the way stands in the scene."""
        del rng, intrinsics
        scene = self._scene(clip, clip.numbers[index])
        options = self.options
        turn = np.radians(scene.uniform(0, min(options.view_cone_deg, MAX_TURN_DEG)))
        axis = scene.normal(size=3)
        tilted = cv2.Rodrigues(turn * axis / np.linalg.norm(axis))[0]
        mean = np.array(MEAN_VIEW_FROM) / np.linalg.norm(MEAN_VIEW_FROM)
        roll = np.radians(scene.uniform(-options.roll_deg, options.roll_deg))
        rotmat = cv2.Rodrigues(roll * mean)[0] @ tilted
        cloud = np.concatenate([points.hand, points.object]) @ rotmat.T
        middle = (cloud.min(axis=0) + cloud.max(axis=0)) / 2
        shift = scene.uniform(-SHIFT, SHIFT, 3)
        if scene.random() < FAR_SHARE:
            sideways = np.cross(mean, scene.normal(size=3))
            sideways /= np.linalg.norm(sideways)
            shift += scene.uniform(*FAR_SHIFT) * sideways
        return CAM_T_RIG[clip.camera] @ transform(rotmat, shift - middle), ()

    def _place_behind(self, rng, clip: Clip, labels: Labels) -> tuple[Part, ...]:
        """Things below the hand, at the same places for the whole sequence."""
        del rng, labels
        scene, names, parts = self._scene(clip, -1), self.clutter(clip.split), []
        for _ in range(NUM_THINGS):
            model = self.model(names[scene.integers(len(names))])
            place = np.array([*scene.uniform(-0.3, 0.3, 2), scene.uniform(-0.5, -0.3)])
            rig_T_thing = transform(random_rotation(scene), place)
            pose = CAM_T_RIG[clip.camera] @ rig_T_thing
            parts.append(Part(model.mesh, model.material, pose, BACKGROUND))
        return tuple(parts)

    def _scene(self, clip: Clip, number: int) -> np.random.Generator:
        """The same for all cameras."""
        sequence = clip.name.rpartition("/")[0]
        return random_stream(self.options.seed, "scene", sequence, number)
