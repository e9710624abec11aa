"""What a batch supervises: frames, distances and points against independent sums."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh

from homae_jax import targets
from homae_jax.geometry import camera
from tests import toy

SCALE = 3.1
BALL = 1  # row of the batch and of the templates
RADIUS = 0.05


def compute(batch, seed=0, jitter=0.0, **changes):
    options = toy.toy_target_options() | {"sdf_clamp": 10.0} | changes
    return targets.compute_targets(
        jax.random.key(seed),
        batch,
        mano=toy.toy_mano(),
        templates=toy.toy_templates(),
        point_jitter=jnp.float32(jitter),
        **options,
    )


@pytest.fixture(scope="module")
def batch():
    return toy.toy_batch(2)


def from_ball(points_norm, batch):
    """Metres from the centre of the batch's ball."""
    centre = np.asarray(batch.object_trans - batch.object_center)[BALL]
    return np.linalg.norm(np.asarray(points_norm)[BALL] / SCALE - centre, axis=-1)


def test_hand_targets_are_the_labels_relative_to_the_wrist(batch):
    out = compute(batch)
    wanted = batch.joints - batch.wrist[:, None]
    np.testing.assert_allclose(out.hand_joints_root, wanted, atol=1e-6)
    np.testing.assert_array_equal(out.hand_joints_root[:, 0], np.zeros((2, 3)))


def test_object_targets_are_the_labels_relative_to_the_object_center(batch):
    out = compute(batch)
    centre = batch.object_trans - batch.object_center
    np.testing.assert_allclose(out.object_trans_root, centre, atol=1e-7)
    np.testing.assert_array_equal(out.object_rotmat, batch.object_rotmat)


def test_exact_distances_of_a_ball_are_those_of_a_ball(batch):
    out = compute(batch, num_object_sdf=400, object_sdf="exact")
    wanted = from_ball(out.object_sdf_points_norm, batch) - RADIUS
    error = np.asarray(out.object_sdf_norm)[BALL] / SCALE - wanted
    assert np.abs(error).max() < 1.5e-3  # the ball has facets
    assert (wanted < 0).any() and (wanted > 0).any()


def test_lattice_and_exact_distances_agree(batch):
    exact = compute(batch, num_object_sdf=400, object_sdf="exact")
    grid = compute(batch, num_object_sdf=400, object_sdf="grid")
    np.testing.assert_array_equal(
        grid.object_sdf_points_norm, exact.object_sdf_points_norm
    )
    error = np.asarray(grid.object_sdf_norm - exact.object_sdf_norm)[BALL] / SCALE
    assert np.abs(error).max() < 3e-3  # in spite of cells of 29 mm
    assert np.abs(error).mean() < 5e-4


def test_hand_distances_are_those_of_the_posed_mesh(batch):
    """Far from the surface's own crossings the sign is that of trimesh's ray."""
    out = compute(batch, num_hand_sdf=200)
    mesh = trimesh.Trimesh(
        np.asarray(out.hand_vertices_root)[0],
        toy.toy_mano().closed_faces,
        process=False,
    )
    points = np.asarray(out.hand_sdf_points_norm)[0] / SCALE
    _, wanted, _ = trimesh.proximity.closest_point_naive(mesh, points)
    got = np.abs(np.asarray(out.hand_sdf_norm)[0]) / SCALE
    np.testing.assert_allclose(got, wanted, atol=2e-6)


def test_distances_are_clamped(batch):
    out = compute(batch, num_object_sdf=100, num_hand_sdf=100, sdf_clamp=0.15)
    for sdf in (out.hand_sdf_norm, out.object_sdf_norm):
        assert np.abs(sdf).max() == np.float32(0.15)
        assert np.abs(sdf).min() < 0.15


def test_supervision_points_are_near_the_surface_by_share_and_spread(batch):
    out = compute(batch, num_object_sdf=4000, near_share=0.5, near_sigma=0.01)
    away = from_ball(out.object_sdf_points_norm, batch) - RADIUS
    near, uniform = away[:2000], np.asarray(out.object_sdf_points_norm)[BALL, 2000:]
    assert abs(near.std() - 0.01) < 1e-3
    assert abs(near.mean()) < 3e-3
    assert np.abs(uniform).max() <= 1.0
    np.testing.assert_allclose(uniform.std(axis=0), 1 / np.sqrt(3), rtol=0.05)


def test_pose_points_lie_on_the_surfaces(batch):
    out = compute(batch, num_object=300)
    away = from_ball(out.object_points_norm, batch)
    np.testing.assert_allclose(away, RADIUS, atol=1.5e-3)


def test_pose_points_are_jittered_within_the_half_width(batch):
    still = compute(batch, num_hand=300, num_object=300)
    moved = compute(batch, num_hand=300, num_object=300, jitter=0.05)
    for name in ("hand_points_norm", "object_points_norm"):
        shift = np.asarray(getattr(moved, name) - getattr(still, name))
        assert 0.049 < np.abs(shift).max() <= 0.05 + 1e-6
        np.testing.assert_allclose(shift.std(), 0.05 / np.sqrt(3), rtol=0.05)


def test_targets_depend_on_the_key_alone(batch):
    chex.assert_trees_all_equal(compute(batch, seed=3), compute(batch, seed=3))
    other = compute(batch, seed=4)
    assert not np.array_equal(
        other.object_points_norm, compute(batch, seed=3).object_points_norm
    )


def test_rows_without_labels_do_not_change_others(batch):
    nowhere = jnp.array([True, False])
    blank = batch._replace(
        has_hand=nowhere,
        has_object=nowhere,
        hand_pose=jnp.where(nowhere[:, None, None], batch.hand_pose, jnp.nan),
        object_trans=jnp.where(nowhere[:, None], batch.object_trans, jnp.nan),
    )
    out, whole = compute(blank), compute(batch)
    chex.assert_tree_all_finite(out)
    first = [jax.tree.map(lambda x: x[0], tree) for tree in (out, whole)]
    chex.assert_trees_all_equal(*first)
    assert not np.asarray(out.heatmap)[1].any()


def test_unknown_methods_are_refused(batch):
    with pytest.raises(ValueError, match='object_sdf="mesh": use "exact" or "grid"'):
        compute(batch, object_sdf="mesh")


@pytest.mark.parametrize(
    ("step", "wanted"),
    [
        (0, 0.03),
        (29, 0.03),
        (30, 0.05),
        (69, 0.05),
        (70, 0.07),
        (99, 0.07),
        (100, 0.03),
    ],
)
def test_point_jitter_grows_within_each_epoch(step, wanted):
    got = targets.point_jitter(
        jnp.int32(step), steps_per_epoch=100, jitter=(0.03, 0.05, 0.07)
    )
    assert float(got) == pytest.approx(wanted)


def test_joint_heatmap_is_no_rougher_where_products_are(batch):
    program = jax.make_jaxpr(lambda b: targets.joint_heatmap(b, sigma_px=1.25))(batch)
    products = str(program).split("dot_general[")[1:]
    assert products and all("Precision.HIGHEST" in each for each in products)


def test_joint_heatmap_is_the_sum_of_gaussians_at_the_joints(batch):
    got = np.asarray(targets.joint_heatmap(batch, sigma_px=1.25))
    pixels = camera.project(np.asarray(batch.joints), np.asarray(batch.intrinsics))
    cells = (pixels + 0.5) / 2 - 0.5  # of half the resolution
    rows, columns = np.mgrid[0:32, 0:32]
    for row in range(2):
        squared = [(columns - x) ** 2 + (rows - y) ** 2 for x, y in cells[row]]
        wanted = 255 * np.exp(-np.array(squared) / (2 * 1.25**2)).sum(axis=0)
        np.testing.assert_allclose(got[row], wanted, rtol=1e-3, atol=1e-2)
