"""Hand-computable fixtures, an independent float64 reference, and invariances."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from homae_jax import metrics
from tests.alignment_reference import official, umeyama
from tests.proof import assert_close

PROTOCOLS = metrics.PROTOCOLS
IDENTITY = np.eye(3)


@functools.cache
def compiled(name, protocol):
    return jax.jit(functools.partial(getattr(metrics, name), protocol=protocol))


def hand(pred_joints, gt_joints, pred_vertices, gt_vertices, protocol):
    arrays = (pred_joints, gt_joints, pred_vertices, gt_vertices)
    arrays = [jnp.asarray(x, jnp.float32) for x in arrays]
    result = compiled("hand_metrics", protocol)(*arrays)
    return {name: np.asarray(values, np.float64) for name, values in result.items()}


def obj(pred, gt, vertices, protocol, corners=None):
    """Metrics of one pair of poses (rotmat, trans)."""
    corners = box_corners(vertices) if corners is None else corners
    arrays = (*pred, *gt, vertices, corners)
    arrays = [jnp.asarray(x, jnp.float32)[None] for x in arrays]
    result = compiled("object_metrics", protocol)(*arrays)
    return {name: float(values[0]) for name, values in result.items()}


def box_corners(vertices):
    ends = np.stack([vertices.min(0), vertices.max(0)])
    return np.array([ends[[i, j, k], range(3)] for i, j, k in np.ndindex(2, 2, 2)])


def sample_hands(num=4, noise=0.01, seed=0):
    """Joints and vertices in the camera frame, predicted and true."""
    rng = np.random.default_rng(seed)
    gt = rng.normal(size=(num, 21 + 778, 3)) * [0.05, 0.04, 0.03] + [0.1, 0, 0.6]
    gt[:, 4] = gt[:, 0] + [0.02, 0.09, 0.01]  # a bone of common length
    pred = gt + rng.normal(size=gt.shape) * noise
    return pred[:, :21], gt[:, :21], pred[:, 21:], gt[:, 21:]


def cube(side=0.1, num=6):
    axis = np.linspace(-side / 2, side / 2, num)
    grid = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3)
    return grid[(np.abs(grid) > side / 2 - 1e-9).any(1)]


# --- fixture (a): identical ---


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_hand_metrics_of_the_truth_are_perfect(protocol):
    _, joints, _, vertices = sample_hands()
    for name, values in hand(joints, joints, vertices, vertices, protocol).items():
        is_share = "auc" in name or "f_" in name
        # An aligned 0 is a rounding error, which misses the threshold at 0 alone.
        tolerance = 0.5 / 99 + 1e-6 if "auc" in name else 3e-7
        np.testing.assert_allclose(
            values, float(is_share), atol=tolerance, err_msg=name
        )
    raw = hand(joints, joints, vertices, vertices, protocol)
    for name in ("mje", "mje_root", "v_pe"):
        np.testing.assert_array_equal(raw[name], 0)
    for name in ("j_auc", "v_auc", "f_5", "f_15", "pa_f_5"):
        np.testing.assert_allclose(raw[name], 1, atol=1e-6)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_object_metrics_of_the_truth_are_zero(protocol):
    pose = Rotation.from_rotvec([0.3, 2, -1]).as_matrix(), np.array([0.1, 0, 0.7])
    assert all(value < 1e-7 for value in obj(pose, pose, cube(), protocol).values())


# --- fixture (b): translation by 10 mm ---


def test_hand_metrics_of_a_translation_by_10_mm():
    _, joints, _, vertices = sample_hands()
    shift = np.array([0.006, -0.008, 0.0])
    moved = joints + shift, joints, vertices + shift, vertices
    absolute, rooted = hand(*moved, "standard"), hand(*moved, "hoisdf")
    for name in ("mje", "v_pe"):
        np.testing.assert_allclose(absolute[name], 0.01, atol=1e-6)
        np.testing.assert_allclose(rooted[name], 0.0, atol=1e-6)
    for values in (absolute, rooted):
        for name in ("mje_root", "pa_mje", "st_mje", "pa_v_pe"):
            np.testing.assert_allclose(values[name], 0.0, atol=1e-6)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_object_metrics_of_a_translation_by_10_mm(protocol):
    rotmat = Rotation.from_rotvec([0.3, 2, -1]).as_matrix()
    trans = np.array([0.1, 0, 0.7])
    shift = np.array([0, 0.006, 0.008])
    moved = obj((rotmat, trans + shift), (rotmat, trans), cube(), protocol)
    for name in ("oce", "mce", "ome"):
        np.testing.assert_allclose(moved[name], 0.01, atol=1e-6)
    assert 0 < moved["add_s"] <= 0.01 + 1e-7
    np.testing.assert_allclose(moved["rotation"], 0, atol=1e-6)


# --- fixture (c): scaling by 1.1 ---


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_aligned_hand_metrics_undo_a_scaling(protocol):
    _, joints, _, vertices = sample_hands()
    scaled = hand(1.1 * joints, joints, 1.1 * vertices, vertices, protocol)
    for name in ("pa_mje", "st_mje", "pa_v_pe"):
        np.testing.assert_allclose(scaled[name], 0, atol=1e-6)
    assert (scaled["mje"] > 1e-3).all()


# --- fixture (d): mirrored hand ---


def test_a_mirrored_hand_is_undone_by_the_official_alignment_alone():
    _, joints, _, vertices = sample_hands()
    mirrored = joints * [-1, 1, 1], joints, vertices * [-1, 1, 1], vertices
    for name in ("pa_mje", "pa_v_pe"):
        np.testing.assert_allclose(hand(*mirrored, "standard")[name], 0, atol=1e-6)
        assert (hand(*mirrored, "hoisdf")[name] > 5e-3).all()


# --- fixture (e): a cube turned by 90 degrees ---


def test_object_metrics_of_a_cube_turned_by_90_degrees():
    quarter = Rotation.from_rotvec([0, 0, np.pi / 2]).as_matrix()
    trans = np.array([0.0, 0.1, 0.6])
    poses = (quarter, trans), (IDENTITY, trans)
    hoisdf, standard = (obj(*poses, cube(), protocol) for protocol in PROTOCOLS)
    for values in (hoisdf, standard):
        assert values["ome"] > 0.01
        np.testing.assert_allclose(values["add_s"], 0, atol=1e-7)
        np.testing.assert_allclose(values["oce"], 0, atol=1e-7)
        np.testing.assert_allclose(values["rotation"], np.pi / 2, atol=1e-6)
    np.testing.assert_allclose(hoisdf["mce"], 0, atol=1e-7)
    np.testing.assert_allclose(standard["mce"], 0.1, atol=1e-6)  # each by one side


# --- fixtures (f) and (g): area under the curve, thresholds ---


@pytest.mark.parametrize("error", [0.0, 0.001, 0.02, 0.0333, 0.049, 0.06])
def test_area_under_pck_of_a_constant_error(error):
    area = float(metrics.area_under_pck(jnp.full((1, 21), error))[0])
    assert abs(area - max(0, 1 - error / 0.05)) < 0.5 / 99 + 1e-6
    pck = (error <= metrics.PCK_THRESHOLDS).astype(float)
    expected = np.trapezoid(pck, metrics.PCK_THRESHOLDS) / 0.05
    np.testing.assert_allclose(area, expected, atol=1e-6)


def test_area_under_pck_counts_0_at_the_first_and_50_mm_at_the_last_threshold():
    area = metrics.area_under_pck(jnp.array([[0.0], [0.05], [0.0500001]]))
    np.testing.assert_allclose(area, [1.0, 0.5 / 99, 0.0], atol=1e-6)


def test_area_under_pck_of_an_undefined_error_is_zero():
    assert float(metrics.area_under_pck(jnp.array([[jnp.nan, jnp.inf]]))[0]) == 0


def test_f_scores_do_not_count_a_distance_equal_to_the_threshold(monkeypatch):
    monkeypatch.setattr(metrics, "F_THRESHOLDS", (0.25, 0.2501))  # 1/4: exact
    one = jnp.zeros((1, 1, 3))
    two = jnp.array([[[0.0, 0, 0], [0.25, 0, 0]]])
    for pred, gt in ((one, two), (two, one)):
        at_distance, beyond = metrics.f_scores(pred, gt)
        np.testing.assert_allclose(at_distance, 2 / 3, rtol=1e-6)  # 1 of 1, 1 of 2
        assert float(beyond[0]) == 1.0


def test_f_scores_are_at_5_and_15_mm():
    assert metrics.F_THRESHOLDS == (0.005, 0.015)


def test_f_scores_match_a_worked_example():
    gt = jnp.array([[[0.0, 0, 0], [0.1, 0, 0], [0.2, 0, 0], [0.3, 0, 0]]])
    pred = jnp.array([[[0.001, 0, 0], [0.11, 0, 0], [0.5, 0, 0], [0.002, 0, 0]]])
    # Within 5 mm: 2 of 4 predicted, 1 of 4 true; within 15 mm: 3 of 4 and 2 of 4.
    at_5, at_15 = metrics.f_scores(pred, gt)
    np.testing.assert_allclose(at_5, 2 * 0.5 * 0.25 / 0.75, rtol=1e-6)
    np.testing.assert_allclose(at_15, 2 * 0.75 * 0.5 / 1.25, rtol=1e-6)


# --- an independent reference in float64, by the definitions ---


def reference_points(pred, gt):
    """Mean error and area under the PCK, key-point by key-point (HO-3D's scorer)."""
    errors = np.linalg.norm(pred - gt, axis=-1)
    thresholds = np.linspace(0, 0.05, 100)
    areas = []
    for column in errors.T:
        pck = [(column <= threshold).mean() for threshold in thresholds]
        areas.append(
            np.trapezoid(pck, thresholds) / np.trapezoid(thresholds**0, thresholds)
        )
    return errors.mean(0).mean(), np.mean(areas)


def reference_f(pred, gt, threshold):
    scores = []
    for y, x in zip(pred, gt, strict=True):
        precision = (cKDTree(y).query(x)[0] < threshold).mean()
        recall = (cKDTree(x).query(y)[0] < threshold).mean()
        total = precision + recall
        scores.append(2 * precision * recall / total if total else 0.0)
    return np.mean(scores)


def reference_hand(pred_joints, gt_joints, pred_vertices, gt_vertices, protocol):
    align = official if protocol == "standard" else umeyama
    if protocol == "hoisdf":
        pred_vertices = pred_vertices - pred_joints[:, :1]
        gt_vertices = gt_vertices - gt_joints[:, :1]
        pred_joints = pred_joints - pred_joints[:, :1]
        gt_joints = gt_joints - gt_joints[:, :1]

    def aligned(pred, gt):
        return np.stack([align(y, x) for y, x in zip(pred, gt, strict=True)])

    out = {}
    out["mje"], out["j_auc"] = reference_points(pred_joints, gt_joints)
    pa = aligned(pred_joints, gt_joints)
    out["pa_mje"], out["pa_j_auc"] = reference_points(pa, gt_joints)
    pa = aligned(pred_vertices, gt_vertices)
    for prefix, vertices in (("", pred_vertices), ("pa_", pa)):
        mean, area = reference_points(vertices, gt_vertices)
        out[f"{prefix}v_pe"], out[f"{prefix}v_auc"] = mean, area
        out[f"{prefix}f_5"] = reference_f(vertices, gt_vertices, 0.005)
        out[f"{prefix}f_15"] = reference_f(vertices, gt_vertices, 0.015)
    return out


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("noise", [0.003, 0.03])
def test_hand_metrics_match_the_definitions_in_float64(protocol, noise):
    hands = sample_hands(num=6, noise=noise, seed=3)
    expected = reference_hand(*hands, protocol)
    with jax.enable_x64(True):
        actual = metrics.hand_metrics(*map(jnp.asarray, hands), protocol=protocol)
        actual = {name: float(values.mean()) for name, values in actual.items()}
    names = list(expected)
    assert_close(
        f"hand metrics, {protocol}, {noise} m of noise",
        [actual[name] for name in names],
        [expected[name] for name in names],
        atol=1e-9,
    )
    single = hand(*hands, protocol)  # in float32 a point may cross a threshold
    for name, value in expected.items():
        tolerance = 2e-4 if "auc" in name or "f_" in name else 1e-7
        assert abs(single[name].mean() - value) < tolerance, name


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_object_metrics_match_the_definitions(protocol):
    rng = np.random.default_rng(0)
    vertices = rng.normal(size=(300, 3)) * [0.03, 0.05, 0.1] + [0.02, 0, 0.01]
    pred = Rotation.random(random_state=1).as_matrix(), np.array([0.01, 0.02, 0.6])
    gt = Rotation.random(random_state=2).as_matrix(), np.array([0.0, 0.05, 0.63])
    p, q = (vertices @ rotmat.T + trans for rotmat, trans in (pred, gt))
    corners = box_corners(vertices)
    if protocol == "hoisdf":
        add_s = cKDTree(q).query(p)[0].mean()
        oce = np.linalg.norm(pred[1] - gt[1])
        mce = np.linalg.norm(box_corners(p) - box_corners(q), axis=-1).mean()
    else:
        add_s = cKDTree(p).query(q)[0].mean()
        b, d = (corners @ rotmat.T + trans for rotmat, trans in (pred, gt))
        oce = np.linalg.norm(b.mean(0) - d.mean(0))
        mce = np.linalg.norm(b - d, axis=-1).mean()
    expected = {
        "add_s": add_s,
        "oce": oce,
        "mce": mce,
        "ome": np.linalg.norm(p - q, axis=-1).mean(),
        "rotation": Rotation.from_matrix(pred[0].T @ gt[0]).magnitude(),
    }
    actual = obj(pred, gt, vertices, protocol, corners)
    assert actual.keys() == expected.keys()
    names = list(expected)
    assert_close(
        f"object metrics, {protocol}",
        [actual[name] for name in names],
        [expected[name] for name in names],
        atol=1e-6,
    )


# --- invariances ---


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_hand_metrics_do_not_change_when_the_world_turns_and_moves(protocol):
    hands = sample_hands()
    turn = Rotation.from_rotvec([0.2, -1.0, 0.5]).as_matrix()
    moved = [x @ turn.T + [0.05, 0.02, -0.1] for x in hands]
    before, after = hand(*hands, protocol), hand(*moved, protocol)
    for name, values in before.items():
        # A point at a threshold may change sides by rounding: one in 778 at most.
        tolerance = 3e-3 if "f_" in name else 3e-4 if "auc" in name else 1e-6
        np.testing.assert_allclose(after[name], values, atol=tolerance, err_msg=name)


def test_object_metrics_do_not_change_when_the_world_turns_and_moves():
    vertices = cube() * [1, 2, 0.5] + [0.01, 0, 0]
    turn = Rotation.from_rotvec([0.2, -1.0, 0.5]).as_matrix()
    shift = np.array([0.1, -0.2, 0.3])
    pred = Rotation.from_rotvec([1, 0, 0.3]).as_matrix(), np.array([0.01, 0, 0.6])
    gt = IDENTITY, np.array([0.0, 0.0, 0.5])
    moved = [(turn @ rotmat, turn @ trans + shift) for rotmat, trans in (pred, gt)]
    before, after = (
        obj(pred, gt, vertices, "standard"),
        obj(*moved, vertices, "standard"),
    )
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, atol=1e-6, err_msg=name)
    # HOISDF's box follows the camera's axes: only its MCE changes with a turn.
    before, after = obj(pred, gt, vertices, "hoisdf"), obj(*moved, vertices, "hoisdf")
    for name in ("oce", "add_s", "ome", "rotation"):
        np.testing.assert_allclose(after[name], before[name], atol=1e-6, err_msg=name)
    assert abs(after["mce"] - before["mce"]) > 1e-4


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_aligned_hand_metrics_ignore_any_similarity_of_the_prediction(protocol):
    pred_joints, joints, pred_vertices, vertices = sample_hands()
    turn = Rotation.from_rotvec([0.2, -1.0, 0.5]).as_matrix()
    moved = [0.6 * x @ turn.T + [0.4, 0, 0] for x in (pred_joints, pred_vertices)]
    before = hand(pred_joints, joints, pred_vertices, vertices, protocol)
    after = hand(moved[0], joints, moved[1], vertices, protocol)
    for name in ("pa_mje", "pa_v_pe"):
        np.testing.assert_allclose(after[name], before[name], atol=1e-6)
    np.testing.assert_allclose(after["pa_j_auc"], before["pa_j_auc"], atol=3e-3)


def test_hand_metrics_of_a_row_do_not_depend_on_the_others():
    hands = sample_hands()
    whole = hand(*hands, "standard")
    single = hand(*(x[2:3] for x in hands), "standard")
    for name, values in whole.items():
        np.testing.assert_allclose(single[name], values[2:3], atol=1e-6)


def test_hand_metrics_without_meshes_are_those_of_the_joints():
    pred, gt, _, _ = (jnp.asarray(x, jnp.float32) for x in sample_hands())
    result = metrics.hand_metrics(pred, gt, None, None, protocol="standard")
    areas = {"j_auc", "st_j_auc", "pa_j_auc"}
    assert set(result) == {"mje", "mje_root", "st_mje", "pa_mje"} | areas


def test_nearest_distances_match_a_search_tree_for_sets_of_any_size():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 40, 3)), rng.normal(size=(3, 55, 3))
    a_to_b, b_to_a = metrics.nearest_distances(
        jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
    )
    for i in range(3):
        np.testing.assert_allclose(a_to_b[i], cKDTree(b[i]).query(a[i])[0], atol=1e-6)
        np.testing.assert_allclose(b_to_a[i], cKDTree(a[i]).query(b[i])[0], atol=1e-6)


def test_a_point_that_is_lost_is_near_to_nothing():
    """A NaN among the predictions must not pass for a hit, nor hide among others."""
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.normal(size=(2, 40, 3)), jnp.float32) for _ in range(2))
    broken = a.at[1, 7, 2].set(jnp.nan)
    for pair, own in (((broken, b), 0), ((b, broken), 1)):
        distances = metrics.nearest_distances(*pair)
        others = distances[1 - own]  # any of them might have been nearest to it
        assert jnp.isnan(distances[own][1, 7]) and jnp.isnan(others[1]).all()
        assert jnp.isfinite(distances[own][0]).all() and jnp.isfinite(others[0]).all()
    assert jnp.isnan(metrics.point_errors(broken, b)[1, 7])
