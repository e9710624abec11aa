"""From a picture to a hand and an object in 3D: `Predictor`.

    from homae_jax import Predictor

    predict = Predictor()  # what ships; or a run, or a folder made by export
    result = predict(image)  # uint8 RGB [h, w, 3], any size
    result.joints_cam, result.cam_T_obj, result.is_metric

Everything with ``_cam`` in its name is in the OpenCV camera frame of the *picture*
(x right, y down, z forward), metres. ``_px`` are pixels of the picture, its top-left
centre at (0, 0), unless the name says crop. Two passes of the auxiliary head find what
is not given (models/auxiliary.py): the whole picture gives the boxes, the crop closer
boxes and the wrist; a third pass is the paper's network.

Part of the entry points: it reads the configuration inside the checkpoint.
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy.spatial import ConvexHull, QhullError, cKDTree
from scipy.spatial.transform import Rotation

from homae_jax import assembly, bundle, weights
from homae_jax.data import crops, photos
from homae_jax.errors import UserError
from homae_jax.evaluation import passes
from homae_jax.geometry import camera
from homae_jax.hand.mano import ManoModel
from homae_jax.hand.mano_files import load_mano
from homae_jax.models.dinov2 import IMAGE_MEAN, IMAGE_STD
from homae_jax.models.homae import Homae, round_params
from homae_jax.schema import Batch, Located, ObjectTemplates
from homae_jax.viz.figures import picture_from_normalised

SHIPPED = Path(__file__).resolve().parent / "pretrained"
SURE_FROM = 0.5  # belief in a known object, below which none is named
UNNAMED = "unnamed"  # object: the hull of its points
MIN_BOX_PX = 4  # of a hand or object to be looked at
FARTHEST = 20.0  # metres; beyond, millimetres were meant
MOST_OUTSIDE = 2.0  # of the picture's longer side, for what is partly out of view
MIRROR = np.diag([-1.0, 1.0, 1.0])  # x of the camera, for left hands
SLICE_SIDE = 48  # samples of an SDF slice, per axis


class ObjectShape(NamedTuple):
    """An object in its model frame, metres: a known one, one's own, or `UNNAMED`."""

    name: str
    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]


class Prediction(NamedTuple):
    """One hand and one object; ``_cam``: OpenCV camera frame of the picture, metres.

    For a left hand everything but `network_input` is turned back to the picture as it
    came; the pose is that of MANO's left hand.
    """

    joints_cam: Float[np.ndarray, "21 3"]  # MANO order (hand/joints.py)
    vertices_cam: Float[np.ndarray, "778 3"]
    hand_faces: Int[np.ndarray, "f 3"]  # outward for this hand, closed at the wrist
    hand_pose_aa: Float[np.ndarray, "16 3"]  # MANO theta, flat mean, wrist first
    hand_betas: Float[np.ndarray, " 10"]  # MANO shape
    wrist_cam: Float[np.ndarray, " 3"]  # of joints_cam: given or predicted
    cam_T_obj: Float[np.ndarray, "4 4"]  # model frame -> camera
    object_shape: ObjectShape | None  # UNNAMED: the hull of object_points_cam
    object_scores: dict[str, float]  # share of belief per known object; {} if given
    hand_points_cam: Float[np.ndarray, "nh 3"]  # where the pose was read from
    hand_points_sdf: Float[np.ndarray, " nh"]  # metres, negative inside
    object_points_cam: Float[np.ndarray, "no 3"]
    object_points_sdf: Float[np.ndarray, " no"]
    hand_box_px: Float[np.ndarray, " 4"]  # x0, y0, x1, y1 of the picture
    object_box_px: Float[np.ndarray, " 4"]
    picture_intrinsics: Float[np.ndarray, "3 3"]
    crop_intrinsics: Float[np.ndarray, "3 3"]
    crop_affine: Float[np.ndarray, "3 3"]  # pixels of the picture -> of the crop
    crop: UInt8[np.ndarray, "s s 3"]
    is_left: bool
    is_metric: bool  # False: K was guessed, so depths and translations are too
    camera_source: str  # "given" | "fov" | "exif" | "assumed"
    predicted_inputs: tuple[str, ...]  # what was not given: "hand_box", "wrist" ...
    hand_mask: Float[np.ndarray, "m m"]  # probability, over the crop
    object_mask: Float[np.ndarray, "m m"]
    network_input: Batch  # one row; mirrored where is_left

    @property
    def object_vertices_cam(self) -> Float[np.ndarray, "v 3"] | None:
        """The object's mesh where it is; None without one."""
        if self.object_shape is None:
            return None
        rotmat, trans = self.cam_T_obj[:3, :3], self.cam_T_obj[:3, 3]
        return self.object_shape.vertices @ rotmat.T + trans[None]


class Inspection(NamedTuple):
    """What pictures of the network's insides need; images are 8-bit RGB crops."""

    masked: UInt8[np.ndarray, "s s 3"] | None  # None: trained without masking
    reconstruction: UInt8[np.ndarray, "s s 3"] | None
    sdf: dict[str, Float[np.ndarray, "m m"]]  # slices facing the camera, metres


class _View(NamedTuple):
    """A square of the picture, as the network takes it."""

    affine: Float[np.ndarray, "3 3"]
    image: UInt8[np.ndarray, "s s 3"]
    intrinsics: Float[np.ndarray, "3 3"]


class Predictor:
    """Loads a checkpoint once and answers one picture after the other."""

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        step: int | None = None,
        mano: str | Path | None = None,
        models: str | Path | None = None,
    ):
        """Opens a run's folder or an export.

        Args:
          folder: None: the checkpoint that ships with the package.
          step: of the checkpoint; None: the newest.
          mano: MANO_RIGHT.pkl or .npz; None: what the export holds, or the file the
            run was trained with.
          models: folder of object models, likewise.

        Raises:
          UserError: no such run, or hand and objects cannot be found.
        """
        run = assembly.open_run(_shipped() if folder is None else folder, step)
        self.folder, self.step, self.config = run.folder, run.step, run.config
        self.mano = _find_hand(run, mano)
        self.templates, self.object_names = _find_objects(run, models)
        # Of the head's rows; a run before they were noted: of its own models.
        self._trained_names = run.object_names or self.object_names
        if models is not None and not run.object_names:
            self._trained_names = _names_of_training(run) or self.object_names
        self.model: Homae = assembly.build_model(run.config)
        self.has_auxiliary = bool(self.model.auxiliary)
        params = jax.tree.map(jnp.asarray, _read_params(run))
        self._params = round_params(params, self.model.dtype)
        self._hand = jax.tree.map(jnp.asarray, self.mano)
        self._locate = jax.jit(functools.partial(_locate, model=self.model))
        self._answer = jax.jit(functools.partial(answer_batch, model=self.model))
        self._distances = passes.jitted(passes.signed_distances, model=self.model)
        self._reconstruct = passes.jitted(passes.reconstruct, model=self.model)

    def __call__(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        *,
        intrinsics: Float[np.ndarray, "3 3"] | None = None,
        fov_deg: float | None = None,
        focal_35mm: float | None = None,
        hand_box_px: Float[np.ndarray, " 4"] | None = None,
        object_box_px: Float[np.ndarray, " 4"] | None = None,
        wrist_cam: Float[np.ndarray, " 3"] | None = None,
        object_center_cam: Float[np.ndarray, " 3"] | None = None,
        object_shape: str | ObjectShape | None = None,
        is_left: bool = False,
    ) -> Prediction:
        """Answers a picture.

        Args:
          image: RGB.
          intrinsics: K of the picture; else `fov_deg` along its longer side, else
            EXIF's `focal_35mm`, else 60 degrees, and then `is_metric` is False.
          hand_box_px: tight box round the visible and hidden hand, x0, y0, x1, y1.
          object_box_px: tight box round the object, likewise.
          wrist_cam: the wrist joint, if known (the papers' protocol).
          object_center_cam: origin of the object's points; None: as in training, the
            middle of its box at the wrist's depth or the run's constant one.
          object_shape: name of a known object, or a mesh of one's own; None: the
            object that the auxiliary head names, or, where it believes in none by
            half, the hull of the object's points.
          is_left: the hand is a left one.

        Raises:
          UserError: a box is none, or something is missing that this checkpoint
            cannot predict.
        """
        image = _checked_image(image)
        height, width = image.shape[:2]
        taken = photos.choose_camera(
            width,
            height,
            intrinsics=intrinsics,
            fov_deg=fov_deg,
            focal_35mm=focal_35mm,
        )
        given = {
            "hand_box": _checked_box("hand_box", hand_box_px, width, height),
            "object_box": _checked_box("object_box", object_box_px, width, height),
            "wrist": _checked_place("root", wrist_cam),
        }
        _check_in_view("root", given["wrist"], taken.intrinsics, width, height)
        missing = [name for name, value in given.items() if value is None]
        self._check_can_predict(missing)
        shape = self.find_object(object_shape)
        center = _checked_place("object_center", object_center_cam)
        _check_in_view("object_center", center, taken.intrinsics, width, height)
        scene = _Scene(image, taken.intrinsics, given, center)
        if is_left:
            scene = scene.mirrored()
        batch, view, located = self._prepare(scene)
        answer = self._answer(self._params, batch, self._hand)
        answer = jax.tree.map(lambda x: np.asarray(x[0], np.float64), answer)
        scores = {} if shape is not None else self._scores(located)
        if scores and max(scores.values()) >= SURE_FROM:
            shape = self.find_believed(max(scores, key=scores.get))
        found = _result(answer, view.affine, batch, self._box_scales)
        result = Prediction(
            **found,
            hand_faces=np.asarray(self.mano.closed_faces),
            object_shape=shape,
            object_scores=scores,
            picture_intrinsics=scene.intrinsics,
            is_left=False,
            is_metric=taken.is_metric,
            camera_source=taken.source,
            predicted_inputs=tuple(missing),
            network_input=batch,
        )
        result = _turned_back(result, width) if is_left else result
        return result if shape else result._replace(object_shape=_hull(result))

    def find_believed(self, name: str) -> ObjectShape | None:
        """The object that the network names; None where its mesh is not here."""
        return self.find_object(name) if name in self.object_names else None

    def find_object(self, shape: str | ObjectShape | None) -> ObjectShape | None:
        """A known object by its name ("mustard" will do), or the mesh itself."""
        if shape is None:
            return None
        if isinstance(shape, ObjectShape):
            return shape._replace(
                vertices=np.asarray(shape.vertices, np.float64),
                faces=np.asarray(shape.faces, np.int64),
            )
        if not isinstance(shape, str):
            raise UserError(
                f"object_shape={shape!r:.80}: give a name or an ObjectShape"
            )
        if not self.object_names:
            raise UserError(
                f"object={shape}: no object is known here; give a mesh (.obj, .ply, "
                ".glb), or their folder by --models"
            )
        rows = [i for i, name in enumerate(self.object_names) if shape in name]
        if shape in self.object_names:
            rows = [self.object_names.index(shape)]
        if len(rows) != 1:
            raise UserError(
                f"object={shape}: {'no' if not rows else 'more than one'} known object "
                f"of that name; known: {', '.join(self.object_names)}; or give a mesh "
                "(.obj, .ply, .glb)"
            )
        (row,) = rows
        vertices = np.asarray(self.templates.vertices[row], np.float64)
        faces = np.asarray(self.templates.faces[row])
        is_real = (faces != np.roll(faces, 1, axis=1)).all(axis=1)
        return ObjectShape(self.object_names[row], vertices, faces[is_real])

    def inspect(self, result: Prediction, *, seed: int = 0) -> Inspection:
        """The reconstruction of a masked crop and slices of the signed distance.

        Like `result.crop`, as the picture came: of a left hand they are turned back.
        """
        batch = result.network_input
        masked = reconstruction = None
        if self.model.mask["enabled"]:
            key = jax.random.key(seed)
            seen = self._reconstruct(self._params, batch, self._hand, key)
            masked, reconstruction = (
                _as_it_came(
                    picture_from_normalised(
                        np.asarray(image[0]), IMAGE_MEAN, IMAGE_STD
                    ),
                    result.is_left,
                )
                for image in (seen.masked_image, seen.image)
            )
        asked = [
            jnp.asarray(passes.slice_points(part, SLICE_SIDE) + at[None])[None]
            for part, at in _middles(result, batch).items()
        ]
        values = self._distances(self._params, batch, self._hand, *asked)
        slices = [
            _as_it_came(
                np.asarray(v[0]).reshape(SLICE_SIDE, SLICE_SIDE), result.is_left
            )
            for v in values
        ]
        sdf = dict(zip(("hand", "object"), slices, strict=True))
        return Inspection(masked, reconstruction, sdf)

    @property
    def _box_scales(self) -> tuple[float, float]:
        return self.config.data.hand_box_scale, self.config.data.object_box_scale

    def _check_can_predict(self, missing: list[str]) -> None:
        if missing and not self.has_auxiliary:
            flags = {"wrist": "root"}
            listed = ", ".join(f"--{flags.get(name, name)}" for name in missing)
            raise UserError(
                f"{self.folder}: was trained without auxiliary heads and cannot find "
                f"these by itself: give {listed}, or train with "
                "--config.model.auxiliary=true"
            )

    def _prepare(self, scene: "_Scene") -> tuple[Batch, _View, Located | None]:
        """The crop and all that the network is to be given with it."""
        data = self.config.data
        hand_box, object_box = scene.given["hand_box"], scene.given["object_box"]
        located = None
        if hand_box is None or object_box is None:
            wide = self._view(scene, crops.whole_view(*scene.size))
            located = self._find(wide)
            found = _boxes_to_picture(located, wide, self._box_scales)
            hand_box = found[0] if hand_box is None else hand_box
            object_box = found[1] if object_box is None else object_box
        boxes = [object_box] + ([hand_box] if data.crop == "hand_object" else [])
        width, height = scene.size
        around = crops.crop_view(boxes, data.crop_scale, width=width, height=height)
        view = self._view(scene, around)
        box_px = {
            part: crops.enlarge(_move_box(box, view.affine), scale)
            for part, box, scale in zip(
                ("hand", "object"),
                (hand_box, object_box),
                self._box_scales,
                strict=True,
            )
        }
        if self.has_auxiliary:
            located = self._find(view)
            closer = {"hand": located.hand_box_px, "object": located.object_box_px}
            for part, box in closer.items():
                if scene.given[f"{part}_box"] is None:
                    box_px[part] = box
        wrist = located.wrist if scene.given["wrist"] is None else scene.given["wrist"]
        center = self._object_center(scene, box_px["object"], wrist, view)
        return self._batch(view, box_px, wrist, center), view, located

    def _object_center(
        self, scene: "_Scene", box_px: np.ndarray, wrist: np.ndarray, view: _View
    ) -> np.ndarray:
        """As data.crops places it in training, unless it is given."""
        if scene.object_center is not None:
            return scene.object_center
        data = self.config.data
        depth = wrist[2] if data.object_center == "wrist" else data.object_center_depth
        at = np.trunc((box_px[:2] + box_px[2:]) / 2)
        return camera.unproject(at[None], np.array([depth]), view.intrinsics)[0]

    def _view(self, scene: "_Scene", view: crops.View) -> _View:
        size = self.config.data.image_size
        affine = camera.crop_affine(view.center_px, view.side_px, size, 0.0)
        return _View(
            affine,
            crops.warp_picture(scene.image, affine, size),
            camera.crop_intrinsics(affine, scene.intrinsics, 0.0),
        )

    def _find(self, view: _View) -> Located:
        found = self._locate(
            self._params,
            jnp.asarray(view.image)[None],
            jnp.asarray(view.intrinsics, jnp.float32)[None],
        )
        return jax.tree.map(lambda x: np.asarray(x[0], np.float64), found)

    def _scores(self, located: Located | None) -> dict[str, float]:
        if located is None or not self._trained_names:
            return {}
        logits = located.object_logits[: len(self._trained_names)]
        shares = np.exp(logits - logits.max())
        shares = (shares / shares.sum()).tolist()
        return dict(zip(self._trained_names, shares, strict=True))

    def _batch(
        self, view: _View, box_px: dict, wrist: np.ndarray, center: np.ndarray
    ) -> Batch:
        values = {
            "intrinsics": view.intrinsics,
            "hand_box_px": box_px["hand"],
            "object_box_px": box_px["object"],
            "wrist": wrist,
            "object_center": center,
        }
        rows = {key: np.asarray(v, np.float32)[None] for key, v in values.items()}
        blank = assembly.blank_batch(self.config, 1)
        return jax.tree.map(jnp.asarray, blank._replace(image=view.image[None], **rows))


class _Scene(NamedTuple):
    """A picture and what is given with it; None: to be predicted."""

    image: np.ndarray
    intrinsics: np.ndarray
    given: dict[str, np.ndarray | None]  # hand_box, object_box (px), wrist (metres)
    object_center: np.ndarray | None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, px."""
        return self.image.shape[1], self.image.shape[0]

    def mirrored(self) -> "_Scene":
        """Left and right swapped: a left hand becomes a right one."""
        flip = _flip(self.size[0])
        given = dict(self.given)
        for part in ("hand_box", "object_box"):
            if given[part] is not None:
                x0, y0, x1, y1 = given[part]
                last = self.size[0] - 1.0
                given[part] = np.array([last - x1, y0, last - x0, y1])
        if given["wrist"] is not None:
            given["wrist"] = MIRROR @ given["wrist"]
        center = self.object_center
        return _Scene(
            np.ascontiguousarray(self.image[:, ::-1]),
            flip @ self.intrinsics @ MIRROR,
            given,
            None if center is None else MIRROR @ center,
        )


def _flip(width: int) -> Float[np.ndarray, "3 3"]:
    """Pixels of a picture -> of the same picture, left and right swapped."""
    return np.array([[-1.0, 0.0, width - 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


def _locate(params: Any, image: jax.Array, intrinsics: jax.Array, *, model: Homae):
    return model.apply({"params": params}, image, intrinsics, method="locate")


def answer_batch(
    params: Any, batch: Batch, mano: ManoModel, *, model: Homae
) -> dict[str, jax.Array]:
    """The network's answer for a batch, point sets in the camera frame, metres.

    What `Predictor` asks and what an export's program returns.
    """
    out = model.apply({"params": params}, batch, mano)
    scale = model.points["scale"]
    return {
        "joints": out.joints,
        "vertices": out.vertices,
        "hand_rotmat": out.hand_rotmat[-1],
        "hand_betas": out.hand_betas[-1],
        "object_rotmat": out.object_rotmat,
        "object_trans": out.object_trans,
        "hand_points": out.hand_points_norm / scale + batch.wrist[:, None],
        "hand_points_sdf": out.hand_points_sdf_norm / scale,
        "object_points": out.object_points_norm / scale + batch.object_center[:, None],
        "object_points_sdf": out.object_points_sdf_norm / scale,
        "hand_mask": jax.nn.sigmoid(out.hand_mask_logits),
        "object_mask": jax.nn.sigmoid(out.object_mask_logits),
    }


def _result(
    answer: dict[str, np.ndarray],
    affine: np.ndarray,
    batch: Batch,
    box_scales: tuple[float, float],
) -> dict[str, np.ndarray]:
    """The fields of a Prediction that come out of the network, for a right hand."""
    cam_T_obj = np.eye(4)
    cam_T_obj[:3, :3], cam_T_obj[:3, 3] = (
        answer["object_rotmat"],
        answer["object_trans"],
    )
    to_picture = np.linalg.inv(affine)
    boxes = {
        f"{part}_box_px": _move_box(
            crops.enlarge(np.asarray(box[0], np.float64), 1 / scale), to_picture
        )
        for part, box, scale in zip(
            ("hand", "object"),
            (batch.hand_box_px, batch.object_box_px),
            box_scales,
            strict=True,
        )
    }
    return boxes | {
        "joints_cam": answer["joints"],
        "vertices_cam": answer["vertices"],
        "hand_pose_aa": Rotation.from_matrix(answer["hand_rotmat"]).as_rotvec(),
        "hand_betas": answer["hand_betas"],
        "wrist_cam": np.asarray(batch.wrist[0], np.float64),
        "cam_T_obj": cam_T_obj,
        "hand_points_cam": answer["hand_points"],
        "hand_points_sdf": answer["hand_points_sdf"],
        "object_points_cam": answer["object_points"],
        "object_points_sdf": answer["object_points_sdf"],
        "crop_intrinsics": np.asarray(batch.intrinsics[0], np.float64),
        "crop_affine": affine,
        "crop": np.asarray(batch.image[0]),
        "hand_mask": answer["hand_mask"],
        "object_mask": answer["object_mask"],
    }


def _turned_back(result: Prediction, width: int) -> Prediction:
    """The answer for a mirrored picture, mirrored: a left hand in the picture it was.

    The object's mirror image is no turn of the object, unless it has a plane of
    symmetry: the one of its box's three that fits best is taken.
    """
    side = result.crop.shape[0]
    picture, crop = _flip(width), _flip(side)
    x0, y0, x1, y1 = range(4)
    swap = np.array([x1, y0, x0, y1])

    def boxed(box_px: np.ndarray) -> np.ndarray:
        return np.where([True, False] * 2, width - 1.0 - box_px[swap], box_px[swap])

    rotmat = Rotation.from_rotvec(result.hand_pose_aa).as_matrix()
    mirrored = {
        name: getattr(result, name) @ MIRROR
        for name in result._fields
        if name.endswith("_cam")
    }
    return result._replace(
        **mirrored,
        hand_faces=result.hand_faces[:, ::-1],
        hand_pose_aa=Rotation.from_matrix(MIRROR @ rotmat @ MIRROR).as_rotvec(),
        cam_T_obj=mirrored_pose(result.cam_T_obj, result.object_shape),
        hand_box_px=boxed(result.hand_box_px),
        object_box_px=boxed(result.object_box_px),
        picture_intrinsics=picture @ result.picture_intrinsics @ MIRROR,
        crop_intrinsics=crop @ result.crop_intrinsics @ MIRROR,
        crop_affine=crop @ result.crop_affine @ picture,
        crop=np.ascontiguousarray(result.crop[:, ::-1]),
        hand_mask=result.hand_mask[:, ::-1],
        object_mask=result.object_mask[:, ::-1],
        is_left=True,
    )


def mirrored_pose(
    cam_T_obj: Float[np.ndarray, "4 4"], shape: ObjectShape | None
) -> Float[np.ndarray, "4 4"]:
    """The pose whose object looks like the mirror image of the posed object.

    Twice is none. An object that is not recognised has x = 0 for its plane.
    """
    is_known = shape is not None and shape.name != UNNAMED
    vertices = shape.vertices if is_known else np.zeros((1, 3))
    middle = (vertices.min(axis=0) + vertices.max(axis=0)) / 2
    tree = cKDTree(vertices)

    def misfit(axis: int) -> float:
        signs = np.where(np.arange(3) == axis, -1.0, 1.0)
        return float(tree.query((vertices - middle[None]) * signs + middle)[0].mean())

    best = min(range(3), key=misfit)
    model = np.eye(4)  # reflects the model in its plane of symmetry
    model[best, best], model[best, 3] = -1.0, 2 * middle[best]
    view = np.diag([-1.0, 1.0, 1.0, 1.0])
    return view @ cam_T_obj @ model


def _hull(result: Prediction) -> ObjectShape | None:
    """What the object's points enclose; None where they lie in a plane."""
    cam_T_obj = result.cam_T_obj
    points = (result.object_points_cam - cam_T_obj[None, :3, 3]) @ cam_T_obj[:3, :3]
    try:
        hull = ConvexHull(points)
    except QhullError:
        return None
    a, b, c = (points[hull.simplices[:, corner]] for corner in range(3))
    outward = np.einsum("fc,fc->f", np.cross(b - a, c - a), hull.equations[:, :3]) > 0
    faces = np.where(outward[:, None], hull.simplices, hull.simplices[:, ::-1])
    rows, faces = np.unique(faces, return_inverse=True)
    return ObjectShape(UNNAMED, points[rows], faces.reshape(-1, 3))


def _middles(result: Prediction, batch: Batch) -> dict[str, Float[np.ndarray, " 3"]]:
    """Middles of hand and object, relative to the origins of their points."""
    vertices = result.object_vertices_cam
    obj = result.cam_T_obj[:3, 3] if vertices is None else vertices.mean(axis=0)
    middles = {"hand": result.joints_cam.mean(axis=0), "object": obj}
    if result.is_left:
        middles = {part: MIRROR @ at for part, at in middles.items()}
    origins = {"hand": batch.wrist[0], "object": batch.object_center[0]}
    return {part: at - np.asarray(origins[part]) for part, at in middles.items()}


def _as_it_came(picture: np.ndarray, is_left: bool) -> np.ndarray:
    """Mirrored back, where the network has seen the mirror image."""
    return np.ascontiguousarray(picture[:, ::-1]) if is_left else picture


def _boxes_to_picture(
    located: Located, view: _View, scales: tuple[float, float]
) -> list[Float[np.ndarray, " 4"]]:
    """Tight boxes in pixels of the picture, from the enlarged ones of a view."""
    to_picture = np.linalg.inv(view.affine)
    boxes = (located.hand_box_px, located.object_box_px)
    return [
        _move_box(crops.enlarge(box, 1 / scale), to_picture)
        for box, scale in zip(boxes, scales, strict=True)
    ]


def _move_box(
    box_px: Float[np.ndarray, " 4"], affine: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, " 4"]:
    """A box under an affine map without a turn."""
    corners = np.array([box_px[:2], box_px[2:]])
    return crops.bounding_box(corners @ affine[:2, :2].T + affine[:2, 2][None])


def _checked_image(image: Any) -> UInt8[np.ndarray, "h w 3"]:
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise UserError(
            f"image: wants 8-bit RGB [h, w, 3], got {image.dtype} {list(image.shape)}"
        )
    if min(image.shape[:2]) < photos.MIN_SIDE_PX:
        raise UserError(
            f"image: {list(image.shape)} is smaller than {photos.MIN_SIDE_PX} px"
        )
    return image


def _checked_box(
    name: str, box_px: Any, width: int, height: int
) -> Float[np.ndarray, " 4"] | None:
    """The box, if it is one and meets the picture."""
    if box_px is None:
        return None
    box = _numbers(box_px)
    what = f"{name}={_listed(box)}"
    if box.shape != (4,) or not np.isfinite(box).all() or (box[2:] <= box[:2]).any():
        raise UserError(f"{what}: give x0,y0,x1,y1 with x0 < x1 and y0 < y1")
    if (box[2:] - box[:2]).max() < MIN_BOX_PX:
        raise UserError(f"{what}: smaller than {MIN_BOX_PX} px")
    if (box[2:] < 0).any() or (box[:2] > [width - 1, height - 1]).any():
        raise UserError(f"{what}: lies outside the picture of {width} x {height} px")
    if _is_far_outside(box, width, height):
        raise UserError(
            f"{what}: reaches far outside the picture of {width} x {height} px; give "
            "pixels of this picture"
        )
    return box


def _is_far_outside(px: Float[np.ndarray, " n"], width: int, height: int) -> bool:
    """Of coordinates x, y, x, ...: whether any is out of the picture by some sides."""
    limit = MOST_OUTSIDE * max(width, height)
    sizes = np.resize([width, height], px.shape)
    return bool(((px < -limit) | (px > sizes + limit)).any())


def _numbers(values: Any) -> np.ndarray:
    """As an array; a lone NaN where they are no numbers."""
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError):
        return np.array(np.nan)


def _listed(numbers: np.ndarray) -> str:
    """Numbers as they are given on the command line."""
    return ",".join(f"{number:g}" for number in numbers.ravel())


def _checked_place(name: str, place: Any) -> Float[np.ndarray, " 3"] | None:
    """A point in front of the camera, in metres."""
    if place is None:
        return None
    point = _numbers(place)
    if point.shape != (3,) or not np.isfinite(point).all():
        raise UserError(f"{name}={_listed(point)}: give x,y,z in metres")
    if not 0.0 < point[2] < FARTHEST:
        raise UserError(
            f"{name}={_listed(point)}: z is {point[2]:g} m; give metres in front of "
            f"the camera, up to {FARTHEST:g}"
        )
    return point


def _check_in_view(
    name: str,
    place: Float[np.ndarray, " 3"] | None,
    intrinsics: Float[np.ndarray, "3 3"],
    width: int,
    height: int,
) -> None:
    """Raises UserError where a place projects to far outside the picture."""
    if place is None:
        return
    px = camera.project(place[None], intrinsics)[0]
    if _is_far_outside(px, width, height):
        raise UserError(
            f"{name}={_listed(place)}: projects to {_listed(px.round())}, far outside "
            f"the picture of {width} x {height} px; give metres in the camera's frame "
            "(x right, y down, z forward)"
        )


def _shipped() -> Path:
    """The folder of the checkpoint that ships with the package."""
    if not SHIPPED.is_dir():
        raise UserError(
            "no checkpoint is given, and this copy ships none: name a training run or "
            "an export (bash launch/train.sh --config=configs/synthetic.py makes one)"
        )
    return SHIPPED


def _read_params(run: assembly.StoredRun) -> Any:
    if weights.is_export(run.folder):
        return weights.load_export(run.folder).params
    return assembly.stored_params(run)


def _find_hand(run: assembly.StoredRun, given: str | Path | None) -> ManoModel:
    """The right hand: as given, of the export, or of the run's data."""
    bundled = run.folder / bundle.HAND
    if given is None and bundled.is_file():
        return load_mano(bundled)
    data = run.config.data
    if not (given or data.root or data.mano):
        raise UserError(
            f"{run.folder}: holds no hand model; give it by --mano=MANO_RIGHT.pkl"
        )
    path = Path(given) if given else assembly.data_paths(run.config).mano
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the hand model by --mano=FILE")
    return load_mano(path)


def _names_of_training(run: assembly.StoredRun) -> tuple[str, ...]:
    """() where its models are not here: those that are given must be the same then."""
    try:
        return _find_objects(run, None)[1]
    except UserError:
        return ()


def _find_objects(
    run: assembly.StoredRun, given: str | Path | None
) -> tuple[ObjectTemplates | None, tuple[str, ...]]:
    """Known objects: as given, of the export, of the run's data; none is no error."""
    bundled = run.folder / bundle.OBJECTS
    if given is None and bundled.is_file():
        return bundle.read_objects(bundled)
    config = run.config.copy_and_resolve_references()
    if given:
        config.data.models = str(given)
    if not config.data.root and not config.data.models:
        return None, ()
    if not assembly.data_paths(config).models.is_dir():
        if given:
            raise UserError(f"{given}: no such folder; --models holds <name>/*.obj")
        return None, ()
    templates, names = assembly.build_templates(config)
    return jax.tree.map(np.asarray, templates), names
