import cv2
import numpy as np
import pytest

from configs import common
from homae_jax.data import crops
from homae_jax.errors import UserError
from homae_jax.geometry import camera
from homae_jax.schema import HAND, OBJECT, Batch

# fx and fy far apart, so that a turn which takes them for equal shows.
INTRINSICS = np.array([[640.0, 0.0, 330.0], [0.0, 520.0, 230.0], [0.0, 0.0, 1.0]])
WIDTH, HEIGHT = 640, 480
NAMES = ("003_cracker_box", "006_mustard_bottle")
CORNERS = (np.array(list(np.ndindex(2, 2, 2))) - 0.5) * [0.07, 0.06, 0.15]


def make_frame(seed=0, **changes):
    rng = np.random.default_rng(seed)
    joints = rng.uniform([-0.08, -0.08, 0.5], [0.08, 0.08, 0.6], size=(21, 3))
    frame = {
        "index": 7,
        "image": np.zeros((HEIGHT, WIDTH, 3), np.uint8),
        "segmentation": np.zeros((HEIGHT // 4, WIDTH // 4), np.uint8),
        "intrinsics": INTRINSICS,
        "wrist": joints[0],
        "joints": joints,
        "hand_pose": rng.normal(size=(16, 3)),
        "hand_betas": rng.normal(size=10),
        "gt_joints": None,
        "hand_box_px": None,
        "object_name": NAMES[1],
        "object_rotmat": cv2.Rodrigues(rng.normal(size=3))[0],
        "object_trans": rng.uniform([-0.05, -0.05, 0.5], [0.05, 0.05, 0.6]),
        "object_corners": CORNERS,
    }
    return frame | changes


def options(**changes):
    data = common.get_config().data
    keys = "crop crop_scale hand_box_scale object_box_scale object_center"
    chosen = {key: data[key] for key in [*keys.split(), "object_center_depth"]}
    return chosen | {"object_names": NAMES, "image_size": 128} | changes


def augmentation(**changes):
    return crops.Augmentation(**(common.get_config().data.augment.to_dict() | changes))


def example(frame, seed=None, **changes):
    rng = None if seed is None else np.random.default_rng(seed)
    changes = {"augmentation": augmentation()} | changes
    return crops.make_example(frame, rng, **options(**changes))


def dot(image, at_px, value):
    """A soft disc round a point between pixels, with its centre of mass there."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    weight = np.exp(-((x - at_px[0]) ** 2 + (y - at_px[1]) ** 2) / (2 * 4.0**2))
    image[...] = np.maximum(image, (weight[..., None] * value).astype(np.uint8))


def centre_of_mass(weights):
    y, x = np.mgrid[: weights.shape[0], : weights.shape[1]]
    total = weights.sum()
    return np.array([(x * weights).sum(), (y * weights).sum()]) / total


def recovered_affine(frame, made):
    """The affine of an example, from where the object's box went, in the plane."""
    posed = CORNERS @ frame["object_rotmat"].T + frame["object_trans"]
    before = camera.project(posed, frame["intrinsics"])
    posed = CORNERS @ made["object_rotmat"].T + made["object_trans"]
    after = camera.project(posed, made["intrinsics"].astype(np.float64))
    design = np.column_stack([before, np.ones(8)])
    solution, *_ = np.linalg.lstsq(design, after, rcond=None)
    return solution.T, np.abs(design @ solution - after).max()


@pytest.mark.parametrize("seed", range(12))
def test_make_example_moves_labels_by_one_similarity_of_the_plane(seed):
    """Projected with K', turned joints and corners lie where one A puts the pixels."""
    frame = make_frame(seed)
    made = example(frame, seed=seed)
    affine, corners_error = recovered_affine(frame, made)
    assert corners_error < 1e-3
    before = camera.project(frame["joints"], INTRINSICS)
    after = camera.project(
        made["joints"].astype(np.float64), made["intrinsics"].astype(np.float64)
    )
    moved = before @ affine[:, :2].T + affine[:, 2]
    np.testing.assert_allclose(after, moved, atol=1e-3)
    block = affine[:, :2]
    scale = np.sqrt(np.linalg.det(block))  # positive: nothing is flipped
    np.testing.assert_allclose(block @ block.T, scale**2 * np.eye(2), atol=1e-4)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("size", [64, 128, 224])
def test_make_example_shows_a_joint_where_it_projects(seed, size):
    frame = make_frame(seed, joints=np.tile([0.02, 0.01, 0.55], (21, 1)))
    frame["wrist"] = frame["joints"][0]
    at_px = camera.project(frame["joints"][:1], INTRINSICS)[0]
    dot(frame["image"], at_px, np.array([250, 250, 250]))
    plain = augmentation(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
    made = example(frame, seed=seed, image_size=size, augmentation=plain)
    shown = centre_of_mass(made["image"].mean(axis=-1))
    expected = camera.project(made["joints"][:1], made["intrinsics"])[0]
    np.testing.assert_allclose(shown, expected, atol=0.1)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("coarseness", [1, 4])
def test_make_example_moves_masks_with_the_labels(seed, coarseness):
    """At half size, cells cover 2x2 pixels: cell c is centred on pixel 2c + 1/2."""
    frame = make_frame(seed)
    frame["segmentation"] = np.zeros((HEIGHT, WIDTH), np.uint8)
    centers = {}
    for label, point in ((HAND, frame["joints"][5]), (OBJECT, frame["object_trans"])):
        point[:2] = [[-0.05, 0.0], [0.05, 0.02]][label == OBJECT]
        centers[label] = np.round(camera.project(point[None], INTRINSICS)[0])
        center = centers[label].astype(int).tolist()
        cv2.circle(frame["segmentation"], center, 22, int(label), -1)
    frame["segmentation"] = frame["segmentation"][::coarseness, ::coarseness].copy()
    offset = (coarseness - 1) / 2  # what taking every n-th pixel shifts
    made = example(frame, seed=seed, image_size=256)
    affine, _ = recovered_affine(frame, made)
    for label, center in centers.items():
        expected = affine @ [*(center + offset), 1.0]
        shown = centre_of_mass(made["segmentation"] == label) * 2 + 0.5
        np.testing.assert_allclose(shown, expected, atol=0.4)


def test_make_example_is_the_plain_crop_without_a_generator():
    """Box (100..301, 120..220) as it is: a square of 201 px round (200, 170)."""
    frame = make_frame(hand_box_px=np.array([100.0, 120.0, 301.0, 220.0]))
    frame["image"] = np.random.default_rng(0).integers(
        0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8
    )
    frame["object_trans"] = np.array([-0.1, -0.05, 0.6])
    frame["object_corners"] = 0.01 * CORNERS
    made = example(frame, crop_scale=1.0, image_size=201)
    np.testing.assert_array_equal(made["image"], frame["image"][70:271, 100:301])
    shift = np.array([[1.0, 0.0, -100.0], [0.0, 1.0, -70.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(made["intrinsics"], shift @ INTRINSICS, rtol=1e-6)
    for key in ("joints", "wrist", "hand_pose", "object_rotmat", "object_trans"):
        np.testing.assert_allclose(made[key], frame[key], atol=1e-6)


def test_make_example_has_every_field_of_a_batch_in_its_type():
    made = example(make_frame(), seed=0)
    assert set(made) == set(Batch._fields) - {"scene"}
    types = {key: value.dtype for key, value in made.items()}
    pictures, whole = {"image", "segmentation"}, {"object_index", "sample_index"}
    for key, dtype in types.items():
        if key in pictures:
            assert dtype == np.uint8
        elif key in whole:
            assert dtype == np.int32
        elif key.startswith(("has_", "is_")):
            assert dtype.kind == "b"
        else:
            assert dtype == np.float32, key
    assert made["segmentation"].shape == (64, 64) and made["image"].shape == (
        128,
    ) * 2 + (3,)
    assert made["object_index"] == 1 and made["sample_index"] == 7 and made["is_real"]


def test_make_example_is_deterministic_in_the_generator():
    frame = make_frame()
    frame["image"] = np.random.default_rng(0).integers(
        0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8
    )
    first, again, other = (example(frame, seed=seed) for seed in (3, 3, 4))
    for key in first:
        np.testing.assert_array_equal(first[key], again[key])
    assert np.abs(first["joints"] - other["joints"]).max() > 1e-3
    assert not np.array_equal(first["image"], other["image"])


def test_make_example_ignores_the_generator_where_augmentation_is_off():
    off = example(make_frame(), seed=0, augmentation=augmentation(enabled=False))
    plain = example(make_frame())
    for key in plain:
        np.testing.assert_array_equal(off[key], plain[key])


def test_make_example_leaves_colours_to_the_device_where_asked():
    image = np.random.default_rng(0).integers(1, 256, (480, 640, 3), np.uint8)
    frame = make_frame(image=image)
    widths = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    plain = example(frame, 3, augmentation=augmentation(**widths, blur_px=0.0))
    left = example(frame, 3, augmentation=augmentation(colours_on="device"))
    changed = example(frame, 3)
    # The loader's colours come with a rim cut off where the picture ends.
    image = np.where(plain["image"] == 0, 0, left["image"])
    for key, value in plain.items():
        np.testing.assert_array_equal(({**left, "image": image})[key], value)
    assert np.mean(image != left["image"]) < 0.02
    assert np.abs(changed["image"].astype(int) - plain["image"]).mean() > 1


def test_make_example_leaves_the_frame_as_it_is():
    frame, untouched = make_frame(), make_frame()
    example(frame, seed=0)
    for key, value in untouched.items():
        np.testing.assert_array_equal(frame[key], value)


@pytest.mark.parametrize("seed", range(4))
def test_make_example_turns_the_wrists_rotation_as_its_points(seed):
    frame = make_frame(seed)
    made = example(frame, seed=seed)
    offsets = frame["joints"] - frame["wrist"]
    moved = made["joints"] - made["wrist"]
    before = cv2.Rodrigues(frame["hand_pose"][0])[0]
    after = cv2.Rodrigues(made["hand_pose"][0].astype(np.float64))[0]
    np.testing.assert_allclose(moved @ after, offsets @ before, atol=1e-6)
    np.testing.assert_allclose(made["hand_pose"][1:], frame["hand_pose"][1:], atol=1e-6)
    distance = np.linalg.norm(frame["object_trans"] - frame["wrist"])
    turned = np.linalg.norm(made["object_trans"] - made["wrist"])
    np.testing.assert_allclose(turned, distance, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_make_example_boxes_hold_the_projected_points(seed):
    frame = make_frame(seed)
    made = example(frame, seed=seed, hand_box_scale=1.0, object_box_scale=1.0)
    for key, points in (
        ("hand", made["joints"]),
        ("object", CORNERS @ made["object_rotmat"].T + made["object_trans"]),
    ):
        px = camera.project(points.astype(np.float32), made["intrinsics"])
        box = np.concatenate([px.min(axis=0), px.max(axis=0)])
        np.testing.assert_allclose(made[f"{key}_box_px"], box, atol=1e-2)
    larger = example(frame, seed=seed, hand_box_scale=1.5, object_box_scale=1.0)
    grown = np.diff(larger["hand_box_px"].reshape(2, 2), axis=0)
    np.testing.assert_allclose(
        grown, 1.5 * np.diff(made["hand_box_px"].reshape(2, 2), axis=0), rtol=1e-4
    )


@pytest.mark.parametrize("object_center", ["const", "wrist"])
@pytest.mark.parametrize("seed", [None, 1])
def test_make_example_places_the_object_center_on_the_boxs_middle(object_center, seed):
    made = example(make_frame(), seed=seed, object_center=object_center)
    depth = 0.5244322 if object_center == "const" else made["wrist"][2]
    np.testing.assert_allclose(made["object_center"][2], depth, rtol=1e-6)
    px = camera.project(made["object_center"][None], made["intrinsics"])[0]
    middle = made["object_box_px"].reshape(2, 2).mean(axis=0)
    np.testing.assert_allclose(px, np.trunc(middle), atol=1e-2)


def test_make_example_crops_round_the_object_alone_where_asked():
    frame = make_frame(hand_box_px=np.array([0.0, 0.0, 60.0, 60.0]))
    both, alone = (example(frame, crop=crop) for crop in ("hand_object", "object"))
    middle = alone["object_box_px"].reshape(2, 2).mean(axis=0)
    np.testing.assert_allclose(middle, [63.5, 63.5], atol=2.0)
    assert alone["intrinsics"][0, 0] > 1.5 * both["intrinsics"][0, 0]


def test_make_example_of_evaluation_carries_joints_but_no_hand_label():
    truth = make_frame()["joints"]
    frame = make_frame(
        joints=None,
        hand_pose=None,
        hand_betas=None,
        segmentation=None,
        gt_joints=truth,
        hand_box_px=np.array([200.0, 150.0, 400.0, 330.0]),
    )
    made = example(frame)
    np.testing.assert_allclose(made["joints"], truth, rtol=1e-6)
    assert not made["has_hand"] and not made["has_segmentation"] and made["has_object"]
    assert not made["hand_pose"].any() and not made["segmentation"].any()
    kept_back = example(frame | {"gt_joints": None})
    assert not kept_back["joints"].any()


@pytest.mark.parametrize(
    "hand",
    [
        [300.0, 200.0, 300.0, 200.0],  # no extent
        [-900.0, -900.0, -800.0, -800.0],  # outside
        [0.0, 0.0, 639.0, 479.0],
        [-1e9, -1e9, 1e9, 1e9],
    ],
)
@pytest.mark.parametrize(
    "trans", [[0.0, 0.0, 0.5], [0.0, 0.0, 0.0], [0.0, 0.0, -0.4], [9.0, 9.0, 0.5]]
)
def test_make_example_is_finite_for_degenerate_boxes(hand, trans):
    frame = make_frame(hand_box_px=np.array(hand), object_trans=np.array(trans))
    for seed in (None, 0):
        for key, value in example(frame, seed=seed).items():
            assert np.isfinite(value).all(), key
            assert "box" not in key or np.abs(value).max() < 1e5, key


def test_crop_view_matches_worked_example():
    """Boxes grow by half about whole centres; the union is clipped, then squared."""
    hand, obj = np.array([10.0, 20, 111, 121]), np.array([100.0, 50, 200, 251])
    view = crops.crop_view([hand, obj], 1.5, width=640, height=480)
    # hand: centre (60, 70), half 75.75 -> x -15.75..135.75, y -5.75..145.75
    # object: centre (150, 150), not 150.5 -> x 75..225, y -0.75..300.75
    np.testing.assert_allclose(view.center_px, [112, 150])
    assert view.side_px == 300.75 and view.angle == 0


def test_crop_view_takes_the_picture_where_nothing_is_in_it():
    view = crops.crop_view([np.array([-90.0, 5, -50, 20])], 1.5, width=640, height=480)
    np.testing.assert_allclose(view.center_px, [319, 239])
    assert view.side_px == 639


@pytest.mark.parametrize("mode", ["uniform", "normal"])
def test_jitter_view_stays_within_its_limits(mode):
    limits = augmentation(
        rotation_mode=mode, rotation_deg=60.0, rotation_probability=0.6
    )
    view, rng = crops.View(np.array([100.0, 80.0]), 50.0, 0.0), np.random.default_rng(0)
    views = [crops.jitter_view(view, rng, limits) for _ in range(2000)]
    moved = np.abs([v.center_px - view.center_px for v in views])
    sides, angles = np.array([v[1:] for v in views]).T
    assert 4.9 < moved.max() <= 5.0
    assert 40.0 <= sides.min() < 40.1 and 59.9 < sides.max() <= 60.0
    assert np.deg2rad(59) < np.abs(angles).max() <= np.deg2rad(60) + 1e-12
    assert abs((angles != 0).mean() - 0.6) < 0.05
    spread = np.rad2deg(angles[angles != 0]).std()
    expected = 60 / np.sqrt(3) if mode == "uniform" else 28.8
    np.testing.assert_allclose(spread, expected, rtol=0.06)


def test_warp_picture_averages_where_it_shrinks():
    """A checkerboard of single pixels turns grey; 3x3 boxes hold 5 : 4 of it."""
    y, x = np.mgrid[:480, :640]
    board = np.repeat((255 * ((x + y) % 2)).astype(np.uint8)[..., None], 3, axis=-1)
    affine = camera.crop_affine(np.array([320.0, 240.0]), 440.0, 128, 0.3)
    crop = crops.warp_picture(board, affine, 128)
    assert np.abs(crop[20:-20, 20:-20].astype(float) - 127.5).max() < 16


def colours(changes, seed=0, image=None):
    none = dict.fromkeys(
        ("brightness", "contrast", "saturation", "hue", "blur_px"), 0.0
    )
    if image is None:
        image = np.random.default_rng(5).integers(60, 120, (32, 32, 3), dtype=np.uint8)
    wanted = augmentation(**(none | changes))
    changed = crops.jitter_colours(image, np.random.default_rng(seed), wanted)
    return image.astype(float), changed.astype(float)


def test_jitter_colours_is_the_identity_for_zero_widths():
    before, after = colours({})
    np.testing.assert_array_equal(before, after)


def test_jitter_colours_scales_for_brightness():
    before, after = colours({"brightness": 0.5}, seed=3)
    factor = after.sum() / before.sum()
    assert 0.5 <= factor <= 1.5 and abs(factor - 1) > 0.05
    np.testing.assert_allclose(after, factor * before, atol=0.6)


def test_jitter_colours_keeps_the_mean_grey_for_contrast():
    before, after = colours({"contrast": 0.5}, seed=1)
    grey = before @ crops.GREY_WEIGHTS
    np.testing.assert_allclose(
        (after @ crops.GREY_WEIGHTS).mean(), grey.mean(), atol=0.3
    )
    spread = after.std() / before.std()
    assert 0.5 <= spread <= 1.5 and abs(spread - 1) > 0.05


@pytest.mark.parametrize("change", ["saturation", "hue"])
def test_jitter_colours_keeps_every_pixels_grey_for(change):
    before, after = colours({change: 0.5 if change == "saturation" else 0.15}, seed=1)
    assert np.abs(before - after).max() > 2
    weights = crops.GREY_WEIGHTS
    np.testing.assert_allclose(after @ weights, before @ weights, atol=0.6)


def test_jitter_colours_turns_the_hue_by_its_angle():
    """A third of a turn in YIQ makes red blue or green, at the same grey."""
    image = np.full((4, 4, 3), 100, np.uint8) + np.array([60, 0, 0], np.uint8)
    turned = crops._hue_matrix(2 * np.pi / 3) @ image[0, 0]
    assert np.argmax(turned) != 0
    np.testing.assert_allclose(crops._hue_matrix(2 * np.pi), np.eye(3), atol=1e-12)


def test_jitter_colours_blurs():
    image = np.zeros((9, 9, 3), np.uint8)
    image[4, 4] = 200
    peaks = [
        colours({"blur_px": 0.5}, seed=seed, image=image)[1][4, 4, 0]
        for seed in range(20)
    ]
    assert max(peaks) == 200
    # A Gaussian of sigma 0.5 keeps 0.786 squared at its middle.
    assert 0.61 * 200 < min(peaks) < 0.8 * 200


def test_make_example_stays_black_outside_the_picture():
    """Contrast lifts black to grey; what lies outside the picture is put back."""
    frame = make_frame(hand_box_px=np.array([0.0, 0.0, 639.0, 479.0]))
    frame["image"][...] = 200
    upright = augmentation(rotation_deg=0.0, center_jitter=0.0, scale_sigma=0.0)
    num_outside = 0
    for seed in range(5):
        made = example(frame, seed=seed, augmentation=upright)
        assert not made["image"][:14].any() and made["image"][20:100].all()
        made = example(frame, seed=seed, augmentation=upright, with_scene=True)
        outside = np.array([[-10.0, 240], [650, 240], [320, -10], [320, 490]])
        scene = made["scene"]
        affine = scene.intrinsics @ np.linalg.inv(INTRINSICS)  # upright
        for x, y in np.round(outside @ affine[:2, :2].T + affine[:2, 2]).astype(int):
            if 0 <= x < 128 and 0 <= y < 128:
                assert not scene.image[y, x].any()
                num_outside += 1
    assert num_outside > 2


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"crop": "hand"}, "data.crop"),
        ({"object_center": "box"}, "data.object_center"),
        ({"object_names": ("025_mug",)}, "no model of the object 006_mustard_bottle"),
        ({"augmentation": augmentation(rotation_mode="x")}, "rotation_mode"),
    ],
)
def test_make_example_raises_on(changes, message):
    with pytest.raises(UserError, match=message):
        example(make_frame(), seed=0, **changes)


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_make_example_scene_shows_what_its_boxes_and_intrinsics_say(seed):
    frame = make_frame()
    frame["joints"] = frame["joints"][:1] + np.zeros((21, 1))
    frame["wrist"] = frame["joints"][0]
    dot(frame["image"], camera.project(frame["joints"][:1], INTRINSICS)[0], 255)
    calm = augmentation(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
    made = example(frame, seed=seed, with_scene=True, augmentation=calm)
    scene = made["scene"]
    shown = centre_of_mass(scene.image[..., 0].astype(float))
    box = scene.hand_box_px
    np.testing.assert_allclose((box[:2] + box[2:]) / 2, shown, atol=0.3)
    wrist_px = camera.project(made["wrist"][None], scene.intrinsics)[0]
    np.testing.assert_allclose(wrist_px, shown, atol=0.3)
    if seed is None:  # the whole picture, 640 px wide, padded to a square of 128
        area = np.linalg.det(scene.intrinsics[:2, :2])
        np.testing.assert_allclose(area, 640 * 520 / 25, rtol=1e-5)


def test_make_example_is_the_same_with_and_without_a_scene():
    frame = make_frame()
    plain, wide = (example(frame, seed=3, with_scene=w) for w in (False, True))
    for key in plain:
        np.testing.assert_array_equal(plain[key], wide[key])
