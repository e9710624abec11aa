import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from homae_jax.geometry.camera import GL_TO_CV
from homae_jax.hand import mano, mano_files
from homae_jax.hand.joints import MANO_TO_SIMPLE
from homae_jax.synthetic.hand_model import mirror_hand
from tests.hand import label_joints
from tests.hand.built_hand import built_hand

MICROMETRE = 1e-6


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mano")
    right = built_hand()
    # The built hand's wrist is the same in every shape; here it must move.
    right["shapedirs"] = np.random.default_rng(0).normal(scale=5e-3, size=(778, 3, 10))
    right["shapedirs"] += np.linspace(-5e-3, 5e-3, 10)
    hands = {"right": right, "left": mirror_hand(right)}
    for side, fields in hands.items():
        mano_files.write_mano_pkl(fields, folder / f"{side}.pkl")
    return {s: mano_files.load_mano(folder / f"{s}.pkl", side=s) for s in hands}


def draw(seed, *lead):
    rng = np.random.default_rng(seed)
    pose = rng.normal(scale=0.5, size=(*lead, 48)).astype(np.float32)
    betas = rng.normal(size=(*lead, 10)).astype(np.float32)
    trans = rng.normal(loc=0.5, scale=0.1, size=(*lead, 3)).astype(np.float32)
    return pose, betas, trans


def reference_joints(model, pose_aa, betas, trans, tips):
    """By scipy's rotations and the hand layer."""
    rotmat = Rotation.from_rotvec(pose_aa.reshape(-1, 3)).as_matrix().reshape(16, 3, 3)
    hand = mano.mano_forward(
        model, jnp.asarray(rotmat, jnp.float32), jnp.asarray(betas), fingertips="ho3d"
    )
    joints = np.concatenate([hand.joints[:16], hand.vertices[np.array(tips)]])
    return joints + trans


@pytest.mark.parametrize(
    ("side", "tips"),
    [("right", (745, 317, 444, 556, 673)), ("left", (745, 317, 445, 556, 673))],
)
def test_dexycb_label_joints_add_the_mean_and_take_manopths_tips(models, side, tips):
    model = models[side]
    pose, betas, trans = draw(0)
    fingers = pose[3:] @ model.hand_components + model.hand_mean
    pose_aa = np.concatenate([pose[:3], fingers])
    joints = label_joints.dexycb_label_joints(model, pose, betas, trans, side=side)
    expected = reference_joints(model, pose_aa, betas, trans, tips)
    np.testing.assert_allclose(joints, expected, atol=2 * MICROMETRE)
    simple = np.asarray(joints)[MANO_TO_SIMPLE]  # the order of the files
    np.testing.assert_array_equal(simple[4], joints[16])  # thumb's tip


def test_dexycb_hand_pose_leaves_the_wrist_alone(models):
    pose = np.zeros((2, 48), np.float32)
    pose[:, :3] = [0.1, 0.2, 0.3]
    flat = label_joints.dexycb_hand_pose(models["right"], pose)
    assert isinstance(flat, np.ndarray) and flat.shape == (2, 16, 3)
    np.testing.assert_array_equal(flat[:, 0], pose[:, :3])
    mean = models["right"].hand_mean.reshape(15, 3)
    np.testing.assert_allclose(flat[1, 1:], mean, atol=1e-7)


def test_ho3d_label_joints_have_a_flat_mean_and_ho3ds_tips(models):
    pose, betas, trans = draw(1)
    joints = label_joints.ho3d_label_joints(models["right"], pose, betas, trans)
    tips = (728, 353, 442, 576, 694)
    expected = reference_joints(models["right"], pose, betas, trans, tips)
    np.testing.assert_allclose(joints, expected, atol=2 * MICROMETRE)


def test_label_joints_have_the_wrist_at_rest_plus_the_translation(models):
    """Whatever the pose: wrist = J0(betas) + trans (HO-3D, DexYCB)."""
    pose, betas, trans = draw(2, 3)
    rest = label_joints.rest_wrist(models["right"], jnp.asarray(betas))
    for joints in (
        label_joints.ho3d_label_joints(models["right"], pose, betas, trans),
        label_joints.dexycb_label_joints(
            models["right"], pose, betas, trans, side="right"
        ),
    ):
        np.testing.assert_allclose(joints[:, 0], rest + trans, atol=MICROMETRE)


def test_label_joints_of_a_batch_are_those_of_its_rows(models):
    pose, betas, trans = draw(3, 2, 3)
    many = label_joints.ho3d_label_joints(models["right"], pose, betas, trans)
    one = label_joints.ho3d_label_joints(
        models["right"], pose[1, 2], betas[1, 2], trans[1, 2]
    )
    np.testing.assert_allclose(many[1, 2], one, atol=MICROMETRE)


def test_hand_gl_to_cv_places_the_flipped_hand(models):
    pose, betas, trans_gl = (jnp.asarray(x) for x in draw(4, 2))
    rotvec = np.asarray(pose).reshape(-1, 3)
    rotmat = Rotation.from_rotvec(rotvec).as_matrix().reshape(2, 16, 3, 3)
    rotmat = jnp.asarray(rotmat, jnp.float32)
    arguments = {"fingertips": "ho3d"}
    model = models["right"]
    before = mano.mano_forward(model, rotmat, betas, **arguments)
    turned, trans = label_joints.hand_gl_to_cv(model, rotmat, betas, trans_gl)
    after = mano.mano_forward(model, turned, betas, **arguments)
    for a, b in ((before.vertices, after.vertices), (before.joints, after.joints)):
        expected = np.asarray(a + trans_gl[:, None]) @ GL_TO_CV
        np.testing.assert_allclose(b + trans[:, None], expected, atol=MICROMETRE)
    # C t alone would miss by centimetres.
    assert float(jnp.abs(trans - trans_gl @ GL_TO_CV).max()) > 5e-3


def test_hand_gl_to_cv_is_its_own_inverse(models):
    _, betas, trans = (jnp.asarray(x) for x in draw(5))
    rotmat = jax.random.normal(jax.random.key(0), (16, 3, 3))
    there = label_joints.hand_gl_to_cv(models["right"], rotmat, betas, trans)
    back = label_joints.hand_gl_to_cv(models["right"], there[0], betas, there[1])
    np.testing.assert_array_equal(back[0], rotmat)
    np.testing.assert_allclose(back[1], trans, atol=1e-7)


def official_left(models):
    """A left hand whose shape basis has the wrong sign in x, as the official file's."""
    return label_joints.with_left_shape(models["left"], "mirrored")


def test_with_left_shape_mirrored_is_the_mirror_image_of_the_right_hand(models):
    mended = label_joints.with_left_shape(official_left(models), "mirrored")
    pose, betas, _ = draw(6)
    right = pose.reshape(16, 3)
    left = right * np.array([1, -1, -1], np.float32)
    still = np.zeros(3, np.float32)
    a = label_joints.ho3d_label_joints(models["right"], right.ravel(), betas, still)
    b = label_joints.ho3d_label_joints(mended, left.ravel(), betas, still)
    mirrored = np.asarray(a) * [-1, 1, 1]
    np.testing.assert_allclose(b, mirrored, atol=MICROMETRE)


def test_with_left_shape_as_filed_moves_both_wrists_the_same_way(models):
    """DexYCB's labels: right x is 0.0957 + d, left -0.0957 + d, with the same d."""
    filed = label_joints.with_left_shape(official_left(models), "as_filed")
    betas = jnp.asarray(draw(7)[1])
    shift = {}
    for side, model in (("right", models["right"]), ("left", filed)):
        rest = label_joints.rest_wrist(model, jnp.zeros(10))
        shift[side] = (label_joints.rest_wrist(model, betas) - rest)[0]
    assert abs(shift["right"]) > 1e-4
    np.testing.assert_allclose(shift["left"], shift["right"], atol=MICROMETRE)


def test_with_left_shape_negated_changes_every_sign(models):
    negated = label_joints.with_left_shape(models["left"], "negated")
    np.testing.assert_array_equal(negated.shape_basis, -models["left"].shape_basis)
    np.testing.assert_array_equal(negated.pose_basis, models["left"].pose_basis)


def test_with_left_shape_raises_on_an_unknown_rule(models):
    with pytest.raises(ValueError, match=r'rule="none".*mirrored'):
        label_joints.with_left_shape(models["left"], "none")
