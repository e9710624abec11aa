"""The world: who holds what, seen from where, in front of what.

Nothing here knows how a data set lays out its files. Frames of coordinates: the hand
frame is MANO's own with an unrotated wrist (fingers -x, back of the hand +y, thumb +z);
`_cam` is the OpenCV camera frame. Metres, radians.

Everything random of a frame comes from a generator seeded by the world's seed and the
frame's own name, so that frames may be made in any order and by any process.
"""

import functools
import zlib
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from homae_jax.synthetic.appearance import (
    HandSkin,
    cloth_material,
    sample_light,
    sleeve_mesh,
)
from homae_jax.synthetic.meshes import DrawMesh, Material, Model, load_model
from homae_jax.synthetic.render import BACKGROUND, HAND, OBJECT, Part, Stage

IMAGE_HEIGHT, IMAGE_WIDTH = 480, 640
HEAVY_BELOW = 0.6  # visible share of hand or object that counts as heavy occlusion
CAMERA_DISTANCE = (0.42, 0.68)  # metres from the camera to hand and object
MEAN_VIEW_FROM = (0.10, 0.30, 0.95)  # hand frame: where the mean camera stands
_CELL = 10  # px: grid of the quick visibility estimate
_PAD = 32  # cells round the picture in that grid
_VIEW_TRIES = 10
_OCCLUDER_TRIES = 16
_SURELY_HEAVY = 0.49  # estimates are too low on small parts, hence the wide margins
_SURELY_LIGHT = 0.66
_LEAST_VISIBLE = 0.12  # below this there is nothing left to learn from


class Clip(NamedTuple):
    """A run of frames by one camera: one subject, one object, several grasps."""

    split: str
    name: str
    object_name: str
    subject: str
    camera: int
    rig: tuple[int, ...]  # all cameras of the recording
    numbers: tuple[int, ...]  # the frames' numbers
    grasps: tuple[int, ...]  # row of Grasps per frame
    blanks: tuple[int, ...]  # further numbers, without hand, object or labels


class Grasps(NamedTuple):
    """Hands round objects, in the hand frame."""

    hand_vertices: Float[np.ndarray, "g 778 3"]
    joints: Float[np.ndarray, "g 16 3"]
    finger_pose: Float[np.ndarray, "g 15 3"]  # axis-angle, flat mean
    betas: Float[np.ndarray, "g 10"]
    object_rotmat: Float[np.ndarray, "g 3 3"]  # hand_T_obj
    object_trans: Float[np.ndarray, "g 3"]


class HandShape(NamedTuple):
    """What drawing needs to know of the hand model."""

    template_vertices: Float[np.ndarray, "778 3"]
    closed_faces: Int[np.ndarray, "f 3"]
    joints: Float[np.ndarray, "16 3"]
    tip_ids: Int[np.ndarray, "5"]  # index, middle, little, ring, thumb
    wrist_loop: Int[np.ndarray, "r"]  # border vertices in order


class SceneOptions(NamedTuple):
    """What a user may choose about the views."""

    seed: int
    view_cone_deg: float  # cameras within this angle of the mean view; 180: anywhere
    roll_deg: float  # in-plane rotation, uniform within +- this
    heavy_share: float  # share of frames with heavy occlusion


class Labels(NamedTuple):
    """The truth about a frame, camera frame."""

    intrinsics: Float[np.ndarray, "3 3"]
    hand_vertices: Float[np.ndarray, "778 3"]
    joints: Float[np.ndarray, "16 3"]
    hand_rotmat: Float[np.ndarray, "3 3"]  # of the wrist
    finger_pose: Float[np.ndarray, "15 3"]
    betas: Float[np.ndarray, "10"]
    rest_wrist: Float[np.ndarray, "3"]  # J0(betas), about which MANO turns the hand
    object_rotmat: Float[np.ndarray, "3 3"]
    object_trans: Float[np.ndarray, "3"]
    object_name: str
    object_bounds: Float[np.ndarray, "2 3"]  # model frame


class Subject(NamedTuple):
    """One person: the look of hand and arm (the shape comes with the grasps)."""

    skin: Material
    sleeve: Material
    sleeve_thickness: float


def random_stream(seed: int, *names: str | int) -> np.random.Generator:
    """A generator of its own for anything that has a name."""
    return np.random.default_rng([seed, *(zlib.crc32(str(n).encode()) for n in names)])


def sample_betas(seed: int, subject: str) -> Float[np.ndarray, "10"]:
    """A person's hand shape: standard normal, within two sigmas."""
    return np.clip(random_stream(seed, "betas", subject).normal(size=10), -2.0, 2.0)


class World:
    """Everything that frames are made from; read only.

    Args:
      hand: the hand model's shape.
      grasps: all grasps.
      models_dir: folder of the object models.
      clutter_names: per split, the models that may lie about.
      backgrounds_dir: pictures `<split>_<i>.png`.
      options: what the user chose.
    """

    def __init__(
        self,
        hand: HandShape,
        grasps: Grasps,
        *,
        models_dir: Path,
        clutter_names: dict[str, tuple[str, ...]],
        backgrounds_dir: Path,
        options: SceneOptions,
    ):
        self.hand, self.grasps, self.options = hand, grasps, options
        self._models_dir, self._clutter_names = models_dir, clutter_names
        self._backgrounds_dir = backgrounds_dir
        self._skin = HandSkin(
            hand.template_vertices,
            hand.closed_faces,
            hand.joints,
            hand.template_vertices[hand.tip_ids],
        )
        self.model = functools.lru_cache(maxsize=None)(self._load_model)
        self._subject = functools.lru_cache(maxsize=None)(self._make_subject)
        self._backgrounds = functools.lru_cache(maxsize=None)(self._load_backgrounds)

    def compose(self, clip: Clip, index: int) -> tuple[Stage, Labels]:
        """Sets up frame `index` of a clip."""
        rng = random_stream(self.options.seed, clip.split, clip.name, index)
        row = clip.grasps[index]  # copied: the fields may be memory-mapped
        grasp = Grasps(*(np.array(field[row], np.float64) for field in self.grasps))
        model = self.model(clip.object_name)
        intrinsics = self._camera(clip)
        subject = self._subject(clip.subject)
        sleeve = sleeve_mesh(
            grasp.hand_vertices[self.hand.wrist_loop],
            grasp.joints[0],
            length=float(rng.uniform(0.58, 0.66)),
            thickness=subject.sleeve_thickness,
            flare=float(rng.uniform(1.6, 2.1)),
        )
        points = self._outline_points(grasp, model, sleeve)
        cam_T_hand, occluders = self._choose_view(rng, clip, index, points, intrinsics)
        labels = _make_labels(grasp, model, cam_T_hand, intrinsics)

        hand_T_obj = transform(grasp.object_rotmat, grasp.object_trans)
        hand_mesh = self._skin.mesh(grasp.hand_vertices)
        parts = (
            Part(hand_mesh, subject.skin, cam_T_hand, HAND),
            Part(model.mesh, model.material, cam_T_hand @ hand_T_obj, OBJECT),
            Part(sleeve, subject.sleeve, cam_T_hand, BACKGROUND),
            *occluders,
            *self._place_behind(rng, clip, labels),
        )
        stage = Stage(
            parts=parts,
            intrinsics=intrinsics,
            light=sample_light(rng),
            background=self.background(rng, clip.split),
        )
        return stage, labels

    def background(
        self, rng: np.random.Generator, split: str
    ) -> UInt8[np.ndarray, "480 640 3"]:
        """A part of a prepared picture, perhaps mirrored, a little brighter or not."""
        pictures = self._backgrounds(split)
        picture = pictures[rng.integers(len(pictures))]
        share = rng.uniform(0.55, 0.95)
        height, width = int(IMAGE_HEIGHT * share), int(IMAGE_WIDTH * share)
        top = int(rng.integers(IMAGE_HEIGHT - height + 1))
        left = int(rng.integers(IMAGE_WIDTH - width + 1))
        part = picture[top : top + height, left : left + width]
        if rng.random() < 0.5:
            part = part[:, ::-1]
        scaled = cv2.resize(np.ascontiguousarray(part), (IMAGE_WIDTH, IMAGE_HEIGHT))
        return cv2.convertScaleAbs(
            scaled, alpha=rng.uniform(0.75, 1.15), beta=rng.uniform(-12, 12)
        )

    def clutter(self, split: str) -> tuple[str, ...]:
        """Names of the models that may lie about in a split."""
        return self._clutter_names[split]

    def _load_model(self, name: str) -> Model:
        return load_model(self._models_dir / name)

    def _load_backgrounds(self, split: str) -> list[UInt8[np.ndarray, "480 640 3"]]:
        paths = sorted(self._backgrounds_dir.glob(f"{split}_*.png"))
        return [np.ascontiguousarray(cv2.imread(str(p))[..., ::-1]) for p in paths]

    def _make_subject(self, name: str) -> Subject:
        rng = random_stream(self.options.seed, "subject", name)
        tone = rng.uniform(0, 5)
        skin = self._skin.material(tone, rng.uniform(0.95, 1.05, 3))
        if rng.random() < 0.3:  # bare forearm: one more patch of the same skin
            row, column = (int(v) for v in rng.integers(0, 40, 2))
            patch = skin.texture[row * 4 : row * 4 + 16, column * 4 : column * 4 + 16]
            colour = np.median(patch.reshape(-1, 3), axis=0)
            grain = rng.normal(1, 0.02, (64, 64, 1))
            arm = np.clip(colour * grain, 0, 255).astype(np.uint8)
            return Subject(skin, Material(arm, gloss=0.05, wrap=0.18), 0.0)
        return Subject(skin, cloth_material(rng), float(rng.uniform(0.10, 0.22)))

    def _camera(self, clip: Clip) -> Float[np.ndarray, "3 3"]:
        """Intrinsics like those of HO-3D's cameras, one set per camera and clip.

        Names with folders (DexYCB) end in the camera's own, which has one set for all.
        """
        name = clip.name.rpartition("/")[2]
        rng = random_stream(self.options.seed, "camera", name)
        fx = 614.6 + rng.normal() * 2.5
        fy = fx + rng.normal() * 0.4
        cx, cy = 320 + rng.normal() * 6, 240 + rng.normal() * 5
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])

    def _outline_points(
        self, grasp: Grasps, model: Model, sleeve: DrawMesh
    ) -> "_Cloud":
        """Points dense enough to estimate outlines from, hand frame."""
        corners = grasp.hand_vertices[self.hand.closed_faces]
        hand = np.concatenate([grasp.hand_vertices, corners.mean(axis=1)])
        surface = model.surface_points @ grasp.object_rotmat.T + grasp.object_trans
        return _Cloud(hand, surface, sleeve.positions)

    def _choose_view(self, rng, clip: Clip, index: int, points, intrinsics):
        """A camera, and things before it, that give the wanted degree of occlusion.

        Returns:
          cam_T_hand and the occluding parts.
        """
        del index
        wants_heavy = rng.random() < self.options.heavy_share
        best_view, best_share = np.eye(4), -1.0
        for _ in range(_VIEW_TRIES):
            view = self._sample_view(rng, points, intrinsics)
            seen = points.moved(view)
            share = min(_quick_visibility(seen, intrinsics))
            if _shows_cut_arm(seen.arm, intrinsics):
                share = 0.0
            if wants_heavy and _LEAST_VISIBLE < share < _SURELY_HEAVY:
                return view, ()
            if share > best_share:
                best_view, best_share = view, share
            if not wants_heavy and share > _SURELY_LIGHT:
                break
        seen = points.moved(best_view)
        if wants_heavy:
            low, high = _LEAST_VISIBLE, _SURELY_HEAVY
        elif rng.random() < 0.25:
            low, high = _SURELY_LIGHT, 1.0
        else:
            return best_view, ()
        part = self._find_occluder(rng, clip.split, seen, intrinsics, low, high)
        return best_view, () if part is None else (part,)

    def _sample_view(self, rng, points: "_Cloud", intrinsics):
        """cam_T_hand with hand and object in the picture, mostly."""
        rotation = _sample_rotation(
            rng, self.options.view_cone_deg, self.options.roll_deg
        )
        cloud = np.concatenate([points.hand, points.object]) @ rotation.T
        low, high = cloud.min(axis=0), cloud.max(axis=0)
        centre, half = (low + high) / 2, (high - low) / 2
        distance = rng.uniform(*CAMERA_DISTANCE)
        distance = max(distance, half[2] + 0.25)
        room = np.array([IMAGE_WIDTH, IMAGE_HEIGHT]) / 2 * distance
        room = room / intrinsics[[0, 1], [0, 1]] - half[:2]
        shift = rng.uniform(-1, 1, 2) * np.clip(room, 0.01, 0.14)
        view = transform(rotation, -centre)
        view[:3, 3] += [*shift, distance]
        return view

    def _find_occluder(self, rng, split, seen: "_Cloud", intrinsics, low, high):
        """Something before hand or object that leaves a share in (low, high) visible.

        Returns:
          The part, or None if no try succeeds.
        """
        names = self.clutter(split)
        nearest = min(seen.hand[:, 2].min(), seen.object[:, 2].min())
        for _ in range(_OCCLUDER_TRIES):
            model = self.model(names[rng.integers(len(names))])
            rotation = random_rotation(rng)
            cloud = model.surface_points @ rotation.T
            victim = seen.hand if rng.random() < 0.5 else seen.object
            aim = victim[rng.integers(len(victim))]
            depth = nearest - 0.02 - cloud[:, 2].max()
            if depth + cloud[:, 2].min() < 0.12:
                continue
            offset = rng.normal(size=2) * 0.05
            shift = np.array([*(aim[:2] / aim[2] * depth + offset), depth])
            shares = _quick_visibility(seen, intrinsics, cloud + shift)
            if low < min(shares) < high:
                pose = transform(rotation, shift)
                return Part(model.mesh, model.material, pose, BACKGROUND)
        return None

    def _place_behind(self, rng, clip: Clip, labels: Labels) -> tuple[Part, ...]:
        """Things that stand about farther away, in some frames."""
        if rng.random() > 0.4:
            return ()
        names = self.clutter(clip.split)
        model = self.model(names[rng.integers(len(names))])
        rotation = random_rotation(rng)
        radius = np.linalg.norm(np.diff(model.bounds, axis=0)) / 2
        farthest = max(labels.hand_vertices[:, 2].max(), labels.object_trans[2] + 0.15)
        depth = farthest + radius + rng.uniform(0.02, 0.4)
        px = rng.uniform([0, 0], [IMAGE_WIDTH, IMAGE_HEIGHT])
        ray = (px - labels.intrinsics[:2, 2]) / labels.intrinsics[[0, 1], [0, 1]]
        pose = transform(rotation, np.array([*(ray * depth), depth]))
        return (Part(model.mesh, model.material, pose, BACKGROUND),)


class _Cloud(NamedTuple):
    """Points of hand, object and arm in one frame of coordinates."""

    hand: Float[np.ndarray, "p 3"]
    object: Float[np.ndarray, "q 3"]
    arm: Float[np.ndarray, "r 3"]

    def moved(self, transform: Float[np.ndarray, "4 4"]) -> "_Cloud":
        rotation, shift = transform[:3, :3], transform[:3, 3]
        return _Cloud(*(points @ rotation.T + shift for points in self))


def _quick_visibility(
    seen: _Cloud,
    intrinsics: Float[np.ndarray, "3 3"],
    occluder: Float[np.ndarray, "p 3"] | None = None,
) -> tuple[float, float]:
    """Estimates the visible shares of hand and object from points on a coarse grid."""
    grids = [_depth_grid(points, intrinsics) for points in seen]
    open_cells = np.zeros(grids[0].shape, bool)
    open_cells[_PAD:-_PAD, _PAD:-_PAD] = True
    if occluder is not None:
        open_cells &= ~_hull_cells(occluder, intrinsics, open_cells.shape)
    shares = []
    for own, other in (grids[:2], grids[1::-1]):
        is_own = np.isfinite(own)
        is_seen = (own <= other) & (own <= grids[2]) & open_cells
        visible = np.count_nonzero(is_own & is_seen)
        shares.append(visible / max(np.count_nonzero(is_own), 1))
    return shares[0], shares[1]


def _shows_cut_arm(arm, intrinsics) -> bool:
    """Whether the arm's far end, cut open, looks into the camera."""
    end, start = arm[-1], arm[0]
    if end[2] > start[2] - 0.03:
        return False
    px = end / max(end[2], 0.02) @ intrinsics.T
    size = np.array([IMAGE_WIDTH, IMAGE_HEIGHT])
    return bool((px[:2] > -0.3 * size).all() and (px[:2] < 1.3 * size).all())


def _depth_grid(points, intrinsics) -> Float[np.ndarray, "rows columns"]:
    """The least depth of the points in each cell; infinite where there are none."""
    rows = IMAGE_HEIGHT // _CELL + 2 * _PAD
    columns = IMAGE_WIDTH // _CELL + 2 * _PAD
    depth = np.maximum(points[:, 2:], 0.05)
    px = (points / depth @ intrinsics.T)[:, :2]
    cell = np.floor(px / _CELL).astype(int) + _PAD
    cell = np.clip(cell, 0, [columns - 1, rows - 1])
    grid = np.full(rows * columns, np.inf)
    np.minimum.at(grid, cell[:, 1] * columns + cell[:, 0], points[:, 2])
    return grid.reshape(rows, columns)


def _hull_cells(points, intrinsics, shape) -> Bool[np.ndarray, "rows columns"]:
    """Cells inside the convex outline of an occluder."""
    px = (points / points[:, 2:] @ intrinsics.T)[:, :2]
    outline = cv2.convexHull((px / _CELL + _PAD).astype(np.float32))
    mask = np.zeros(shape, np.uint8)
    cv2.fillConvexPoly(mask, np.round(outline).astype(np.int32), 1)
    return mask.astype(bool)


def _make_labels(grasp, model, cam_T_hand, intrinsics) -> Labels:
    """Moves a grasp into the camera frame."""
    rotation, shift = cam_T_hand[:3, :3], cam_T_hand[:3, 3]
    return Labels(
        intrinsics=intrinsics,
        hand_vertices=grasp.hand_vertices @ rotation.T + shift,
        joints=grasp.joints @ rotation.T + shift,
        hand_rotmat=rotation,
        finger_pose=grasp.finger_pose,
        betas=grasp.betas,
        rest_wrist=grasp.joints[0],
        object_rotmat=rotation @ grasp.object_rotmat,
        object_trans=rotation @ grasp.object_trans + shift,
        object_name=model.name,
        object_bounds=model.bounds,
    )


def _sample_rotation(rng, cone_deg: float, roll_deg: float):
    """cam_R_hand: the mean view, tilted within a cone, then rolled in the picture."""
    mean = look_from(np.asarray(MEAN_VIEW_FROM))
    least_cosine = np.cos(np.radians(min(cone_deg, 180.0)))
    tilt = np.arccos(rng.uniform(least_cosine, 1.0))  # even on the spherical cap
    towards = rng.uniform(0, 2 * np.pi)
    axis = np.array([np.cos(towards), np.sin(towards), 0.0])
    roll = np.radians(rng.uniform(-roll_deg, roll_deg))
    tilted = cv2.Rodrigues(axis * tilt)[0] @ mean
    return cv2.Rodrigues(np.array([0.0, 0.0, roll]))[0] @ tilted


def look_from(position: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 3"]:
    """cam_R_hand of a camera that stands there, the back of the hand on top."""
    forward = -position / np.linalg.norm(position)
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right = right / np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward])


def random_rotation(rng: np.random.Generator) -> Float[np.ndarray, "3 3"]:
    """Any rotation, all alike likely."""
    quaternion = rng.normal(size=4)
    x, y, z, w = quaternion / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def transform(rotation, translation) -> Float[np.ndarray, "4 4"]:
    """A rigid motion as one matrix."""
    result = np.eye(4)
    result[:3, :3] = rotation
    result[:3, 3] = translation
    return result
