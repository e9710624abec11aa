import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
import trimesh
from scipy.spatial.transform import Rotation

from homae_jax.hand import mano, mano_files
from homae_jax.hand.joints import PARENTS
from homae_jax.synthetic.hand_model import bases, build_hand, mirror_hand
from homae_jax.synthetic.hand_model.decimation import (
    adjacency,
    boundary_loop,
    decimate,
    flip_edges,
)
from homae_jax.synthetic.hand_model.skeleton import (
    DIGITS,
    FINGERS,
    Cone,
    first_joint,
    flesh,
    flexion_axes,
    rest_joints,
)
from homae_jax.synthetic.hand_model.surface import (
    hand_field,
    round_cone_distance,
    smooth_union,
    surface_nets,
)
from tests.hand.built_hand import built_hand

MILLIMETRE = 1e-3
TIP_FINGERS = ("thumb", "index", "middle", "ring", "little")  # order of FINGERTIPS
REAL_ARRAYS = (
    "v_template", "weights", "shapedirs", "posedirs", "hands_mean", "hands_components",
)  # fmt: skip


@pytest.fixture(scope="module")
def hand():
    return built_hand()


@pytest.fixture(scope="module")
def models(tmp_path_factory, hand):
    folder = tmp_path_factory.mktemp("mano")
    out = {}
    for side, fields in (("right", hand), ("left", mirror_hand(hand))):
        path = folder / f"{side}.pkl"
        mano_files.write_mano_pkl(fields, path)
        model = mano_files.load_mano(path, side=side)
        out[side] = jax.tree.map(jnp.asarray, model)
    return out


def posed(model, aa, betas=None):
    rotmat = jnp.asarray(Rotation.from_rotvec(aa).as_matrix(), jnp.float32)
    betas = np.zeros(10) if betas is None else betas
    betas = jnp.asarray(betas, jnp.float32)
    return mano.mano_forward(model, rotmat, betas, fingertips="ho3d")


def curled(amount):
    aa = np.zeros((16, 3))
    axes = flexion_axes()
    for finger in FINGERS[:4]:
        i = first_joint(finger)
        aa[i : i + 3] = amount * np.array([[1.25], [1.45], [0.85]]) * axes[i : i + 3]
    return aa


def volume(vertices, faces):
    return trimesh.Trimesh(np.asarray(vertices), faces, process=False).volume


def test_build_hand_has_the_official_keys_shapes_and_types(hand):
    assert set(hand) == {*mano_files.SHAPES, "J", "kintree_table", "hands_coeffs",
                         "bs_style", "bs_type"}  # fmt: skip
    for name, shape in mano_files.SHAPES.items():
        assert hand[name].shape == shape, name
    for name in (*REAL_ARRAYS, "J", "hands_coeffs"):
        assert hand[name].dtype == np.float64 and np.isfinite(hand[name]).all()
    assert hand["f"].dtype == np.uint32
    assert isinstance(hand["J_regressor"], sp.csc_matrix)
    np.testing.assert_array_equal(hand["kintree_table"][0, 1:], PARENTS[1:])
    assert hand["kintree_table"][0, 0] == 2**32 - 1


def test_build_hand_is_the_same_every_time(hand):
    again = build_hand()
    for name in (*REAL_ARRAYS, "f", "J"):
        np.testing.assert_array_equal(again[name], hand[name])


def test_build_hand_opens_along_the_wrist_loop_only(hand):
    faces = hand["f"].astype(np.int64)
    loop = boundary_loop(faces)  # raises on a second boundary
    start = loop.index(mano_files.WRIST_LOOP[0])
    around = tuple(loop[start:] + loop[:start])
    backwards = (around[0], *around[:0:-1])
    assert mano_files.WRIST_LOOP in (around, backwards)
    assert set(faces.ravel()) == set(range(778))


def test_build_hand_is_closed_and_sized_like_a_hand(hand):
    faces = mano_files.close_wrist(hand["f"].astype(np.int32))
    mesh = trimesh.Trimesh(hand["v_template"], faces, process=False)
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert mesh.euler_number == 2
    assert 2e-4 < mesh.volume < 5e-4  # m^3
    length, thickness, span = np.ptp(hand["v_template"], axis=0)
    assert 0.18 < length < 0.22 and thickness < 0.07 and 0.12 < span < 0.18


def test_build_hand_triangles_are_even_and_on_the_surface(hand):
    vertices, faces = hand["v_template"], hand["f"].astype(int)
    corners = vertices[faces]
    edges = corners - np.roll(corners, 1, axis=1)
    area = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1) / 2
    quality = 4 * np.sqrt(3) * area / (edges**2).sum((1, 2))  # 1 if equilateral
    assert quality.min() > 0.4 and np.median(quality) > 0.93
    off = np.abs(hand_field(flesh(*rest_joints()))(corners.mean(1)))
    assert np.median(off) < 0.5 * MILLIMETRE
    assert np.quantile(off, 0.95) < MILLIMETRE


@pytest.mark.parametrize("name", sorted(mano.FINGERTIPS))
def test_build_hand_puts_every_tip_list_on_the_fingertips(hand, name):
    _, tips = rest_joints()
    joints = hand["J"]
    for finger, vertex in zip(TIP_FINGERS, mano.FINGERTIPS[name], strict=True):
        at = hand["v_template"][vertex]
        radius = DIGITS[finger].radii[3]
        assert np.linalg.norm(at - tips[finger]) < 1.4 * radius, (finger, vertex)
        last = first_joint(finger) + 2
        length = np.linalg.norm(tips[finger] - joints[last])
        along = (at - joints[last]) @ (tips[finger] - joints[last]) / length
        assert along > 0.85 * length, (finger, vertex)


def test_build_hand_is_a_right_hand(hand):
    """Fingers along -x, thumb at +z, and curling takes the tips to the palm, -y."""
    joints = hand["J"]
    assert (joints[1:13, 0] < joints[0, 0] - 0.05).all()
    assert joints[15, 2] == joints[:, 2].max()
    assert joints[1, 2] > joints[4, 2] > joints[10, 2] > joints[7, 2]


def test_build_hand_fingers_curl_towards_the_palm(models):
    rest = posed(models["right"], np.zeros((16, 3)))
    fist = posed(models["right"], curled(1.0))
    drop = fist.joints[17:, 1] - rest.joints[17:, 1]
    assert (drop < -0.02).all()
    back = fist.joints[17:, 0] - rest.joints[17:, 0]
    assert (back > 0.05).all()


def test_build_hand_weights_blend_neighbours_of_one_finger(hand):
    weights = hand["weights"]
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-12)
    assert weights.min() >= 0 and (weights > 0).sum(1).max() <= 4
    per_finger = weights[:, 1:].reshape(778, 5, 3)
    beyond_knuckle = per_finger[..., 1:].sum(2)
    assert ((beyond_knuckle > 0).sum(1) <= 1).all()
    # Webs blend two knuckles; past them a finger moves alone.
    mine = np.flatnonzero(beyond_knuckle.max(1) > 0.5)
    others = np.sort(per_finger.sum(2), axis=1)[mine, :-1].sum(1)
    assert len(mine) > 300 and others.max() < 0.03
    assert set(weights.argmax(1)) == set(range(16))


def test_build_hand_regressor_follows_the_joints_in_every_shape(hand):
    regressor = hand["J_regressor"].toarray()
    joints, tips = rest_joints()
    np.testing.assert_allclose(regressor.sum(1), 1, atol=1e-12)
    assert regressor.min() >= 0
    np.testing.assert_allclose(regressor @ hand["v_template"], hand["J"], atol=1e-12)
    np.testing.assert_allclose(hand["J"], joints, atol=0.01 * MILLIMETRE)
    space = bases.ShapeSpace(hand["v_template"], hand["weights"], joints, tips)
    for i, (name, sigma) in enumerate(bases.SHAPE_TRAITS):
        _, expected = space({name: 2.5 * sigma})
        found = regressor @ (hand["v_template"] + 2.5 * hand["shapedirs"][..., i])
        np.testing.assert_allclose(found, expected, atol=0.3 * MILLIMETRE)


def test_shape_space_without_traits_is_the_template(hand):
    joints, tips = rest_joints()
    space = bases.ShapeSpace(hand["v_template"], hand["weights"], joints, tips)
    vertices, same_joints = space({})
    np.testing.assert_allclose(vertices, hand["v_template"], atol=1e-12)
    np.testing.assert_allclose(same_joints, joints, atol=1e-12)


def test_build_hand_first_shape_is_the_size(hand):
    away = hand["v_template"] - rest_joints()[0][0]
    expected = bases.SHAPE_TRAITS[0][1] * away
    np.testing.assert_allclose(hand["shapedirs"][..., 0], expected, atol=1e-9)


@pytest.mark.parametrize("sigma", [-2.5, 2.5])
def test_build_hand_stays_a_hand_in_every_shape(hand, sigma):
    faces = mano_files.close_wrist(hand["f"].astype(np.int32))
    rest = volume(hand["v_template"], faces)
    normals = trimesh.Trimesh(hand["v_template"], faces, process=False).face_normals
    for i in range(10):
        shaped = hand["v_template"] + sigma * hand["shapedirs"][..., i]
        mesh = trimesh.Trimesh(shaped, faces, process=False)
        assert 0.55 < mesh.volume / rest < 1.6, i
        assert ((mesh.face_normals * normals).sum(1) > 0.3).all(), i


@pytest.mark.parametrize("amount", [0.5, 1.0])
def test_build_hand_keeps_its_volume_in_a_fist(models, amount):
    model = models["right"]
    faces = np.asarray(model.closed_faces)
    rest = volume(model.template_vertices, faces)
    fist = posed(model, curled(amount))
    assert abs(volume(fist.vertices, faces) / rest - 1) < 0.05


def test_pose_basis_brings_bent_fingers_back_to_round(hand, models):
    """Correctives undo most of the skin's way off the posed round cones."""
    joints, tips = rest_joints()
    cones = [c for c in flesh(joints, tips) if c.group]
    aa = curled(0.8)
    rotmat = Rotation.from_rotvec(aa).as_matrix()
    turned, shift = bases.bone_transforms(rotmat, joints)
    bent = [
        c._replace(
            a=turned[c.joint] @ c.a + shift[c.joint],
            b=turned[c.joint] @ c.b + shift[c.joint],
        )
        for c in cones
    ]
    pip = [first_joint(f) + 1 for f in FINGERS[:4]]
    bend = np.flatnonzero(hand["weights"][:, pip].max(1) > 0.2)

    def off(model):
        vertices = np.asarray(posed(model, aa).vertices, np.float64)[bend]
        distance = np.min([round_cone_distance(vertices, c) for c in bent], axis=0)
        return np.sqrt((distance**2).mean())

    model = models["right"]
    plain = model._replace(pose_basis=jnp.zeros_like(model.pose_basis))
    assert off(model) < 0.7 * off(plain)


def test_pose_statistics_are_principal_components(hand):
    components = hand["hands_components"]
    np.testing.assert_allclose(components @ components.T, np.eye(45), atol=1e-9)
    spread = hand["hands_coeffs"].std(0)
    assert (np.diff(spread) <= 1e-9).all() and spread[0] > 1.0
    largest = components[np.arange(45), np.abs(components).argmax(1)]
    assert (largest > 0).all()


def test_mirror_hand_mirrors_every_pose_and_shape(models):
    rng = np.random.default_rng(0)
    aa, betas = rng.normal(scale=0.4, size=(16, 3)), rng.normal(size=10)
    right = posed(models["right"], aa, betas)
    left = posed(models["left"], aa * [1, -1, -1], betas)
    flip = np.array([-1, 1, 1])
    np.testing.assert_allclose(left.vertices, right.vertices * flip[None], atol=1e-6)
    np.testing.assert_allclose(left.joints, right.joints * flip[None], atol=1e-6)


def test_mirror_hand_mirrors_the_pose_coefficients(models):
    coefficients = jnp.asarray(np.random.default_rng(1).normal(size=45), jnp.float32)
    right = mano.pca_to_aa(models["right"], coefficients)
    left = mano.pca_to_aa(models["left"], coefficients)
    expected = right * jnp.array([[1.0, -1.0, -1.0]])
    np.testing.assert_allclose(left, expected, atol=1e-6)


def test_mirror_hand_leaves_the_right_one_alone(hand):
    before = {k: np.array(hand[k]) for k in REAL_ARRAYS}
    mirror_hand(hand)
    for name, value in before.items():
        np.testing.assert_array_equal(hand[name], value)


def test_round_cone_distance_matches_balls_swept_along_the_axis():
    a, b, radius_a, radius_b = np.zeros(3), np.array([0.04, 0.01, 0]), 0.015, 0.006
    points = np.random.default_rng(0).uniform(-0.05, 0.08, (200, 3))
    t = np.linspace(0, 1, 4001)[:, None]
    centres, radii = a + t * (b - a), radius_a + t[:, 0] * (radius_b - radius_a)
    away = np.linalg.norm(points[:, None] - centres[None], axis=2) - radii[None]
    outside = away.min(1) > 0  # inside, the hull's distance is another thing
    found = round_cone_distance(points, Cone(0, a, b, radius_a, radius_b, 0))
    np.testing.assert_allclose(found[outside], away.min(1)[outside], atol=1e-6)
    assert (found[~outside] < 1e-9).all()


def test_smooth_union_ignores_the_order_and_lies_below_the_least():
    distances = list(np.random.default_rng(0).normal(size=(3, 50)))
    union = smooth_union(distances, 0.1)
    np.testing.assert_allclose(union, smooth_union(distances[::-1], 0.1), atol=1e-12)
    least = np.min(distances, axis=0)
    assert (union <= least).all() and (union >= least - 0.1 * np.log(3) - 1e-12).all()


@pytest.fixture(scope="module")
def bowl():
    """A ball of radius 1 cut open by the plane x = 0.6."""
    pitch = 0.1
    low = np.array([0.6 - 1.8, -1.2, -1.2])
    axes = [low[i] + pitch * np.arange(n) for i, n in enumerate((19, 25, 25))]
    lattice = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    return surface_nets(np.linalg.norm(lattice, axis=-1) - 1, low, pitch)


def test_surface_nets_meshes_a_ball_outward_and_open_at_the_edge(bowl):
    vertices, faces = bowl
    np.testing.assert_allclose(np.linalg.norm(vertices, axis=1), 1, atol=0.02)
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert ((normals * corners.mean(1)).sum(1) > 0).all()
    loop = boundary_loop(faces)
    assert (vertices[loop, 0] > 0.5).all()
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.euler_number == 1 and mesh.is_winding_consistent


def test_decimate_reaches_the_counts_and_keeps_the_shape(bowl):
    vertices, faces = bowl
    coarse, triangles = decimate(
        vertices,
        faces,
        num_vertices=150,
        num_boundary=20,
        density=np.ones(len(vertices)),
    )
    assert len(coarse) == 150 and len(boundary_loop(triangles)) == 20
    assert len(triangles) == 2 * 150 - 2 - 20  # Euler: a disc
    assert set(triangles.ravel()) == set(range(150))
    np.testing.assert_allclose(np.linalg.norm(coarse, axis=1), 1, atol=0.05)
    fine_area = trimesh.Trimesh(vertices, faces, process=False).area
    coarse_area = trimesh.Trimesh(coarse, triangles, process=False).area
    assert abs(coarse_area / fine_area - 1) < 0.06


def test_decimate_raises_when_the_counts_are_out_of_reach(bowl):
    vertices, faces = bowl
    density = np.ones(len(vertices))
    with pytest.raises(ValueError, match="no edge is left"):
        decimate(vertices, faces, num_vertices=5, num_boundary=3, density=density)


def test_flip_edges_makes_the_better_diagonal():
    vertices = np.array([[0, 0, 0], [2.0, 0, 0], [1, 0.3, 0], [1, -0.3, 0], [0, 3, 0]])
    faces = np.array([[0, 1, 2], [1, 0, 3], [0, 2, 4]])
    flipped = flip_edges(vertices, faces)
    edges = adjacency(flipped, 5).toarray()
    assert edges[2, 3] and not edges[0, 1]
    assert len(flipped) == 3


def test_boundary_loop_raises_on_two_holes():
    tube = trimesh.creation.cylinder(1, 2, sections=8)
    sides = np.abs(tube.face_normals[:, 2]) < 0.5
    with pytest.raises(ValueError, match="more than one boundary"):
        boundary_loop(np.asarray(tube.faces)[sides])
