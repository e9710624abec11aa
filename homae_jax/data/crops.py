"""From a full picture to a square crop: one affine moves everything at once.

A pixel of the picture goes to A x in the crop; A is a scale, a shift and a turn by an
angle. Every 3D label turns by the same angle about the optical axis, and the intrinsics
become K' = A K Rz^T, so that what is projected lies where the picture shows it, exactly
(geometry/camera.py). Boxes are x0, y0, x1, y1. Hands are never flipped.

Sizes, order and guards of the crop are HOISDF's, augmentation included.
"""

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from homae_jax.data.source import Frame
from homae_jax.errors import UserError
from homae_jax.geometry import camera
from homae_jax.schema import BACKGROUND, HAND, OBJECT, Scene

WHOLE_SHARE = 0.3  # of training scenes that are the whole picture
MIN_CROP_SIDE_PX = 16.0  # of the picture; a smaller box holds nothing to look at
CROPS = ("hand_object", "object")
OBJECT_CENTERS = ("const", "wrist")
ROTATION_MODES = ("uniform", "normal")
COLOURS_ON = ("loader", "device")  # the device's are in recolour.py
SMALLEST_BLUR_PX = 0.1  # of a sigma; the neighbours' weight is below the rounding
GREY_WEIGHTS = np.array([0.299, 0.587, 0.114])  # Rec. 601
# RGB -> YIQ; a turn of the IQ plane is a turn of the hue.
RGB_TO_YIQ = np.array(
    [GREY_WEIGHTS, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]]
)
YIQ_TO_RGB = np.linalg.inv(RGB_TO_YIQ)
_GREY_ROW = GREY_WEIGHTS[None]
CONTRAST = 1  # of the four changes: it alone looks at the picture's mean


class Augmentation(NamedTuple):
    """Widths of the random changes; keys of config.data.augment."""

    enabled: bool
    center_jitter: float  # share of the crop's side, uniform, per axis
    scale_sigma: float  # side x N(1, sigma), clipped to 1 +- sigma
    rotation_deg: float  # limit if uniform, 2 sigma and limit if normal
    rotation_mode: str
    rotation_probability: float
    brightness: float
    contrast: float
    saturation: float
    hue: float  # of a full turn
    blur_px: float  # largest sigma
    colours_on: str  # who changes the colours


class ColourChange(NamedTuple):
    """What happens to the colours of one picture; numbers, or traced ones."""

    brightness: Any  # factors
    contrast: Any
    saturation: Any
    hue: Any  # radians
    order: Any  # of the four, by number


class View(NamedTuple):
    """A square of the picture, turned."""

    center_px: Float[np.ndarray, " 2"]
    side_px: float
    angle: float  # radians, by which the picture's content turns clockwise


def make_example(
    frame: Frame,
    rng: np.random.Generator | None,
    *,
    object_names: Sequence[str],
    image_size: int,
    crop: str,
    crop_scale: float,
    hand_box_scale: float,
    object_box_scale: float,
    object_center: str,
    object_center_depth: float,
    augmentation: Augmentation | None = None,
    with_scene: bool = False,
) -> dict[str, np.ndarray]:
    """Crops a frame; returns the fields of schema.Batch, without the batch's axis.

    Augments if there are both an `rng` and an enabled `augmentation`; the same state of
    the generator gives the same example. `joints` are the labels or, where a frame has
    none, what it is scored against; `has_hand` says which.

    Args:
      object_names: of the rows of ObjectTemplates.
      crop: "hand_object" or "object": the boxes that the crop is to hold.
      crop_scale: boxes grow by this before their union is taken.
      object_center: depth at which the object's box centre is placed: "const"
        (`object_center_depth`, metres) or "wrist" (the wrist's).
      with_scene: also `scene`: the whole picture padded to a square or, when
        augmenting, a view between that and the crop.

    Raises:
      UserError: the object has no template, or an option is not known.
    """
    check_choice("data.crop", crop, CROPS)
    check_choice("data.object_center", object_center, OBJECT_CENTERS)
    points = _picture_points(frame)
    height, width = frame["image"].shape[:2]
    view = frame_view(frame, crop, crop_scale)
    is_augmented = rng is not None and augmentation is not None and augmentation.enabled
    is_recoloured = False
    if is_augmented:
        is_recoloured = augmentation.colours_on == "loader"
        view = jitter_view(view, rng, augmentation)

    affine = camera.crop_affine(view.center_px, view.side_px, image_size, view.angle)
    image = warp_picture(frame["image"], affine, image_size)
    if is_recoloured:
        image = jitter_colours(image, rng, augmentation)
        image = _blacken_outside(image, affine, width=width, height=height)
    hand_box = bounding_box(_apply(affine, points["hand"]))
    object_box = bounding_box(_apply(affine, points["object"]))
    turned = _turned_labels(frame, view.angle)
    intrinsics = camera.crop_intrinsics(affine, frame["intrinsics"], view.angle)
    depth = turned["wrist"][2] if object_center == "wrist" else object_center_depth
    center_px = np.trunc((object_box[:2] + object_box[2:]) / 2)  # whole, as in HOISDF
    example = turned | {
        "image": image,
        "intrinsics": intrinsics,
        "hand_box_px": enlarge(hand_box, hand_box_scale),
        "object_box_px": enlarge(object_box, object_box_scale),
        "object_center": camera.unproject(
            center_px[None], np.array([depth]), intrinsics
        )[0],
        "segmentation": _segmentation(frame, affine, image_size),
        "object_index": _object_index(frame["object_name"], object_names),
        "has_hand": frame["hand_pose"] is not None,
        "has_object": True,
        "has_segmentation": frame["segmentation"] is not None,
        "sample_index": frame["index"],
        "is_real": True,
    }
    stored = {key: _as_stored(value) for key, value in example.items()}
    if not with_scene:
        return stored
    wide = scene_view(view, width, height, rng if is_augmented else None)
    scales = hand_box_scale, object_box_scale
    affine = camera.crop_affine(wide.center_px, wide.side_px, image_size, wide.angle)
    image = warp_picture(frame["image"], affine, image_size)
    if is_recoloured:
        image = jitter_colours(image, rng, augmentation)
        image = _blacken_outside(image, affine, width=width, height=height)
    scene = _scene(frame, wide, affine, image, points=points, scales=scales)
    return stored | {"scene": scene}


def scene_view(
    crop: View, width: int, height: int, rng: np.random.Generator | None
) -> View:
    """The whole picture as a square, or at random one between that and the crop."""
    whole = whole_view(width, height)._replace(angle=crop.angle)
    if rng is None or rng.random() < WHOLE_SHARE:
        return whole
    share = rng.uniform(0.0, 1.0)
    side = whole.side_px ** (1 - share) * crop.side_px**share
    center = (1 - share) * whole.center_px + share * crop.center_px
    return View(center, float(side), crop.angle)


def whole_view(width: int, height: int) -> View:
    """The whole picture, padded to a square."""
    middle = np.array([width - 1.0, height - 1.0]) / 2
    return View(middle, float(max(width, height)), 0.0)


def _scene(
    frame: Frame,
    view: View,
    affine: Float[np.ndarray, "3 3"],
    image: UInt8[np.ndarray, "s s 3"],
    *,
    points: Mapping[str, Float[np.ndarray, "_p 2"]],
    scales: tuple[float, float],
) -> Scene:
    boxes = [bounding_box(_apply(affine, points[part])) for part in ("hand", "object")]
    hand_box, object_box = map(enlarge, boxes, scales)
    return Scene(
        image=image,
        intrinsics=_as_stored(
            camera.crop_intrinsics(affine, frame["intrinsics"], view.angle)
        ),
        hand_box_px=_as_stored(hand_box),
        object_box_px=_as_stored(object_box),
    )


def bounding_box(points_px: Float[np.ndarray, "p 2"]) -> Float[np.ndarray, " 4"]:
    """The smallest box that holds the points."""
    return np.concatenate([points_px.min(axis=0), points_px.max(axis=0)])


def enlarge(box_px: Float[np.ndarray, " 4"], scale: float) -> Float[np.ndarray, " 4"]:
    """Scales a box about its centre."""
    middle, half = (box_px[:2] + box_px[2:]) / 2, (box_px[2:] - box_px[:2]) / 2
    return np.concatenate([middle - scale * half, middle + scale * half])


def crop_view(
    boxes_px: Sequence[Float[np.ndarray, " 4"]],
    scale: float,
    *,
    width: int,
    height: int,
) -> View:
    """The upright square round the enlarged boxes' union, clipped to the picture.

    Centres are truncated to whole pixels twice, before enlarging and of the square
    (HOISDF). Where no box touches the picture, the whole picture is taken.
    """
    grown = []
    for box in boxes_px:
        middle = (box[:2] + box[2:]) / 2
        shift = np.trunc(middle) - middle
        grown.append(enlarge(box + np.tile(shift, 2), scale))
    low = np.min([box[:2] for box in grown], axis=0)
    high = np.max([box[2:] for box in grown], axis=0)
    last = np.array([width - 1.0, height - 1.0])
    if (high <= 0).any() or (low >= last).any():
        low, high = np.zeros(2), last
    low, high = np.clip(low, 0, last), np.clip(high, 0, last)
    side = max(float((high - low).max()), MIN_CROP_SIDE_PX)
    return View(np.trunc((low + high) / 2), side, 0.0)


def frame_view(frame: Frame, crop: str, crop_scale: float) -> View:
    """The upright square of a frame that holds what it is to hold."""
    points = _picture_points(frame)
    boxes = [bounding_box(points["object"])]
    if crop == "hand_object":
        boxes.append(bounding_box(points["hand"]))
    height, width = frame["image"].shape[:2]
    return crop_view(boxes, crop_scale, width=width, height=height)


def jitter_view(
    view: View, rng: np.random.Generator, augmentation: Augmentation
) -> View:
    """Moves, scales and turns a view at random (HOISDF)."""
    check_choice(
        "data.augment.rotation_mode", augmentation.rotation_mode, ROTATION_MODES
    )
    reach = augmentation.center_jitter * view.side_px
    center = view.center_px + rng.uniform(-reach, reach, size=2)
    sigma = augmentation.scale_sigma
    side = view.side_px * (1 + np.clip(sigma * rng.normal(), -sigma, sigma))
    is_turned = rng.random() < augmentation.rotation_probability
    if augmentation.rotation_mode == "uniform":
        share = rng.uniform(-1.0, 1.0)
    else:
        share = np.clip(rng.normal(), -2.0, 2.0) / 2
    angle = np.deg2rad(augmentation.rotation_deg) * share if is_turned else 0.0
    return View(center, float(side), float(angle))


def reachable_window(
    frame: Frame,
    *,
    crop: str,
    crop_scale: float,
    image_size: int,
    augmentation: Augmentation,
    with_scene: bool,
) -> tuple[slice, slice]:
    """Rows and columns of the picture that some crop of the frame can look at."""
    height, width = frame["image"].shape[:2]
    if with_scene:
        return slice(0, height), slice(0, width)
    view = frame_view(frame, crop, crop_scale)
    move, grow = 0.0, 1.0
    if augmentation.enabled:
        move = augmentation.center_jitter
        grow = np.sqrt(2) * (1 + augmentation.scale_sigma)  # turned by 45 degrees
    block = np.ceil(view.side_px * grow / image_size)  # pixels averaged into one
    reach = view.side_px * (move + grow / 2) + 2 * block + 2
    low, high = np.floor(view.center_px - reach), np.ceil(view.center_px + reach)
    left, top = np.clip(low, 0, [width, height]).astype(int).tolist()
    right, bottom = np.clip(high, 0, [width, height]).astype(int).tolist()
    return slice(top, bottom), slice(left, right)


def warp_picture(
    image: UInt8[np.ndarray, "h w 3"], affine: Float[np.ndarray, "3 3"], size: int
) -> UInt8[np.ndarray, "s s 3"]:
    """The crop, black outside the picture; pixels are averaged where it shrinks."""
    shrink = int(1 / np.sqrt(np.linalg.det(affine[:2, :2])))
    shrink = min(shrink, *image.shape[:2])  # a narrow strip keeps a row
    if shrink > 1:
        height, width = (n // shrink for n in image.shape[:2])
        image = cv2.resize(
            image[: height * shrink, : width * shrink],
            (width, height),
            interpolation=cv2.INTER_AREA,
        )
        affine = affine @ _resize_affine(float(shrink))
    return cv2.warpAffine(image, affine[:2], (size, size), flags=cv2.INTER_LINEAR)


def jitter_colours(
    image: UInt8[np.ndarray, "h w 3"],
    rng: np.random.Generator,
    augmentation: Augmentation,
) -> UInt8[np.ndarray, "h w 3"]:
    """Brightness, contrast, saturation and hue in random order, then a blur (HOISDF).

    Each is linear in RGB (the hue turns in YIQ), hence all four are one matrix and
    nothing is clipped in between.
    """
    a = augmentation
    brightness, contrast, saturation = (
        rng.uniform(max(0.0, 1 - width), 1 + width)
        for width in (a.brightness, a.contrast, a.saturation)
    )
    hue = 2 * np.pi * rng.uniform(-a.hue, a.hue)
    change = ColourChange(brightness, contrast, saturation, hue, rng.permutation(4))
    matrix, offset = colour_map(np.array(cv2.mean(image)[:3]), change)
    image = cv2.transform(image, np.column_stack([matrix, offset]))
    sigma = rng.uniform(0.0, a.blur_px)
    if sigma < SMALLEST_BLUR_PX:
        return image
    taps = 2 * int(np.ceil(3 * sigma)) + 1
    return cv2.GaussianBlur(image, (taps, taps), sigma)


def colour_map(mean: Any, change: ColourChange, xp: ModuleType = np) -> tuple[Any, Any]:
    """The four changes of a picture, whose mean is `mean`, as one affine map of RGB.

    Args:
      xp: numpy, or jax.numpy where the changes are traced.

    Returns:
      The matrix, "3 3", and the offset, "3".
    """
    factors = xp.stack(
        [
            change.brightness * np.eye(3),
            change.contrast * np.eye(3),
            change.saturation * np.eye(3) + (1 - change.saturation) * _GREY_ROW,
            _hue_matrix(change.hue, xp),
        ]
    )
    matrix, offset = xp.eye(3), xp.zeros(3)
    for i in range(4):
        which = change.order[i]
        grey = GREY_WEIGHTS @ (matrix @ mean + offset)
        shift = xp.where(which == CONTRAST, (1 - change.contrast) * grey, 0.0)
        matrix, offset = factors[which] @ matrix, factors[which] @ offset + shift
    return matrix, offset


def _hue_matrix(angle: Any, xp: ModuleType = np) -> Any:
    c, s = xp.cos(angle), xp.sin(angle)
    turn = xp.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])
    return YIQ_TO_RGB @ turn @ RGB_TO_YIQ


def _blacken_outside(
    image: UInt8[np.ndarray, "s s 3"],
    affine: Float[np.ndarray, "3 3"],
    *,
    width: int,
    height: int,
) -> UInt8[np.ndarray, "s s 3"]:
    """Black again where the crop leaves the picture: contrast had made it grey."""
    rim = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]])
    inside = np.zeros(image.shape[:2], np.uint8)
    corners = np.round(_apply(affine, rim.astype(np.float64))).astype(np.int32)
    cv2.fillConvexPoly(inside, corners, 255)
    return cv2.bitwise_and(image, image, mask=inside)


def _segmentation(
    frame: Frame, affine: Float[np.ndarray, "3 3"], image_size: int
) -> UInt8[np.ndarray, "s s"]:
    """Labels at half the crop's size, from masks of any resolution."""
    size = image_size // 2
    labels = frame["segmentation"]
    if labels is None:
        return np.full((size, size), BACKGROUND, np.uint8)
    to_picture = _resize_affine(frame["image"].shape[1] / labels.shape[1])
    affine = np.linalg.inv(_resize_affine(2.0)) @ affine @ to_picture
    result = np.full((size, size), BACKGROUND, np.uint8)
    for label in (HAND, OBJECT):
        mask = np.where(labels == label, np.uint8(255), np.uint8(0))
        result[cv2.warpAffine(mask, affine[:2], (size, size)) > 127] = label
    return result


def _resize_affine(factor: float) -> Float[np.ndarray, "3 3"]:
    """Pixels of a picture `factor` times smaller -> pixels of the larger one."""
    shift = (factor - 1) / 2
    return np.array([[factor, 0.0, shift], [0.0, factor, shift], [0.0, 0.0, 1.0]])


def _picture_points(frame: Frame) -> dict[str, Float[np.ndarray, "p 2"]]:
    """Pixels of the picture whose boxes are the hand's and the object's.

    Kept within one picture's size of the picture: a point near the camera's plane
    would stretch a box without end.
    """
    corners = frame["object_corners"] @ frame["object_rotmat"].T + frame["object_trans"]
    if frame["hand_box_px"] is None:
        hand = camera.project(frame["joints"], frame["intrinsics"])
    else:
        x0, y0, x1, y1 = frame["hand_box_px"]
        hand = np.array([[x0, y0], [x1, y0], [x0, y1], [x1, y1]])
    obj = camera.project(corners, frame["intrinsics"])
    size = np.array(frame["image"].shape[1::-1], np.float64)
    return {
        "hand": np.clip(hand, -size, 2 * size),
        "object": np.clip(obj, -size, 2 * size),
    }


def _turned_labels(frame: Frame, angle: float) -> dict[str, np.ndarray]:
    """3D labels after the turn about the optical axis; zeros where there are none."""
    roll = camera.roll_rotmat(angle)
    joints = frame["joints"] if frame["joints"] is not None else frame["gt_joints"]
    pose, betas = np.zeros((16, 3)), np.zeros(10)
    if frame["hand_pose"] is not None:
        pose, betas = frame["hand_pose"].copy(), frame["hand_betas"]
        wrist_rotmat = roll @ cv2.Rodrigues(pose[0])[0]
        pose[0] = cv2.Rodrigues(wrist_rotmat)[0].ravel()
    return {
        "wrist": roll @ frame["wrist"],
        "joints": np.zeros((21, 3)) if joints is None else joints @ roll.T,
        "hand_pose": pose,
        "hand_betas": betas,
        "object_rotmat": roll @ frame["object_rotmat"],
        "object_trans": roll @ frame["object_trans"],
    }


def _apply(
    affine: Float[np.ndarray, "3 3"], points_px: Float[np.ndarray, "p 2"]
) -> Float[np.ndarray, "p 2"]:
    return points_px @ affine[:2, :2].T + affine[:2, 2]


def _object_index(name: str, object_names: Sequence[str]) -> int:
    try:
        return list(object_names).index(name)
    except ValueError as error:
        raise UserError(
            f"no model of the object {name}; put its folder with textured_simple.obj "
            f"beside the others (known: {', '.join(object_names)})"
        ) from error


def check_choice(key: str, value: str, choices: Sequence[str]) -> None:
    """Raises a UserError where a key's value is none of the choices."""
    if value not in choices:
        raise UserError(f'{key}="{value}": use one of {", ".join(choices)}')


def _as_stored(value: Any) -> np.ndarray:
    """The types of schema.Batch: float32, int32, bool, pictures as they are."""
    array = np.asarray(value)
    narrow: Mapping[str, type] = {"f": np.float32, "i": np.int32}
    return array.astype(narrow.get(array.dtype.kind, array.dtype), copy=False)
