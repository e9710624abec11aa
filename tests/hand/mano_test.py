import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from homae_jax.hand import mano, mano_files
from homae_jax.hand.joints import PARENTS
from tests.hand.built_hand import built_hand

MICROMETRE = 1e-6


@pytest.fixture(scope="module")
def fields():
    fields = built_hand()
    return {**fields, "J_regressor": fields["J_regressor"].toarray()}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("mano") / "MANO_RIGHT.pkl"
    mano_files.write_mano_pkl(built_hand(), path)
    return jax.tree.map(jnp.asarray, mano_files.load_mano(path))


def to_rotmat(aa):
    aa = np.asarray(aa)
    flat = Rotation.from_rotvec(aa.reshape(-1, 3)).as_matrix()
    return jnp.asarray(flat.reshape(*aa.shape, 3), jnp.float32)


def forward(model, aa, betas=None, fingertips="ho3d"):
    betas = np.zeros((*np.shape(aa)[:-2], 10)) if betas is None else betas
    betas = jnp.asarray(betas, jnp.float32)
    return mano.mano_forward(model, to_rotmat(aa), betas, fingertips=fingertips)


def reference(fields, aa, betas):
    """The definition in float64, one vertex and one joint after the other."""
    shaped = fields["v_template"] + fields["shapedirs"] @ betas
    rest = fields["J_regressor"] @ shaped
    rotmat = Rotation.from_rotvec(aa).as_matrix()
    feature = np.concatenate([(r - np.eye(3)).ravel() for r in rotmat[1:]])
    posed = shaped + fields["posedirs"] @ feature
    chain = []
    for j, parent in enumerate(PARENTS):
        local = np.eye(4)
        local[:3, :3] = rotmat[j]
        local[:3, 3] = rest[j] - (rest[parent] if j else 0)
        chain.append(chain[parent] @ local if j else local)
    joints = np.array([g[:3, 3] for g in chain])
    from_rest = []
    for j, transform in enumerate(chain):
        to_origin = np.eye(4)
        to_origin[:3, 3] = -rest[j]
        from_rest.append(transform @ to_origin)
    vertices = np.zeros((778, 3))
    for i, weights in enumerate(fields["weights"]):
        blend = sum(w * t for w, t in zip(weights, from_rest, strict=True))
        vertices[i] = (blend @ np.append(posed[i], 1))[:3]
    return vertices, joints


def random_pose(seed, scale=0.5):
    return np.random.default_rng(seed).normal(scale=scale, size=(16, 3))


def test_mano_forward_matches_the_definition(model, fields):
    for seed in range(3):
        aa = random_pose(seed)
        betas = np.random.default_rng(seed).normal(size=10)
        vertices, joints = reference(fields, aa, betas)
        out = forward(model, aa, betas)
        np.testing.assert_allclose(out.vertices, vertices, atol=MICROMETRE)
        np.testing.assert_allclose(out.joints[:16], joints, atol=MICROMETRE)


def test_mano_forward_at_rest_is_the_template(model, fields):
    out = forward(model, np.zeros((16, 3)))
    np.testing.assert_allclose(out.vertices, fields["v_template"], atol=MICROMETRE)
    np.testing.assert_allclose(out.joints[:16], fields["J"], atol=MICROMETRE)


def test_mano_forward_wrist_rotation_pivots_at_the_wrist(model):
    aa = random_pose(4)
    turn = np.array([0.9, -1.7, 0.4])
    still, turned = aa.copy(), aa.copy()
    still[0], turned[0] = 0, turn
    a, b = forward(model, still), forward(model, turned)
    rotmat, wrist = to_rotmat(turn), a.joints[0]
    np.testing.assert_allclose(b.joints[0], wrist, atol=MICROMETRE)
    expected = (a.vertices - wrist[None]) @ rotmat.T + wrist[None]
    np.testing.assert_allclose(b.vertices, expected, atol=MICROMETRE)


def test_mano_forward_moves_with_its_template(model):
    offset = jnp.array([0.1, -0.2, 0.3])
    moved = model._replace(template_vertices=model.template_vertices + offset[None])
    aa = random_pose(5)
    a, b = forward(model, aa), forward(moved, aa)
    np.testing.assert_allclose(b.vertices, a.vertices + offset[None], atol=MICROMETRE)
    np.testing.assert_allclose(b.joints, a.joints + offset[None], atol=MICROMETRE)


def test_mano_forward_camera_flip_keeps_the_wrist_where_it_is_flipped_to(model):
    """R0' = C R0, t' = C (J0 + t) - J0 turns an OpenGL hand into an OpenCV one."""
    flip = jnp.diag(jnp.array([1.0, -1.0, -1.0]))
    rotmat, betas = to_rotmat(random_pose(6)), jnp.ones(10)
    trans_gl = jnp.array([0.02, 0.03, -0.5])
    out_gl = mano.mano_forward(model, rotmat, betas, fingertips="ho3d")
    flipped = rotmat.at[0].set(flip @ rotmat[0])
    out = mano.mano_forward(model, flipped, betas, fingertips="ho3d")
    rest = out.joints[0]
    trans = flip @ (rest + trans_gl) - rest
    expected = (out_gl.vertices + trans_gl[None]) @ flip
    np.testing.assert_allclose(out.vertices + trans[None], expected, atol=MICROMETRE)


@pytest.mark.parametrize("joint", [1, 5, 15])
def test_mano_forward_bends_only_what_hangs_on_the_joint(model, joint):
    aa = np.zeros((16, 3))
    aa[joint] = [0.2, -0.5, 1.0]
    rest, bent = forward(model, np.zeros((16, 3))), forward(model, aa)
    moved = np.linalg.norm(bent.joints[:16] - rest.joints[:16], axis=1) > 1e-4
    last = 3 * ((joint - 1) // 3) + 3
    assert set(np.flatnonzero(moved)) == set(range(joint + 1, last + 1))
    owner = np.asarray(model.skinning_weights)
    free = owner[:, joint : last + 1].sum(1) == 0
    free &= (
        np.abs(np.asarray(model.pose_basis)[..., 9 * (joint - 1) :][..., :9]).max(
            (1, 2)
        )
        == 0
    )
    np.testing.assert_allclose(
        bent.vertices[free], rest.vertices[free], atol=MICROMETRE
    )


def test_mano_forward_pose_feature_is_row_major_without_the_wrist(model):
    basis = np.zeros((778, 3, 135), np.float32)
    joint, row, column = 7, 0, 1
    basis[100, 2, 9 * (joint - 1) + 3 * row + column] = 1.0
    only = model._replace(
        pose_basis=jnp.asarray(basis),
        skinning_weights=jnp.zeros((778, 16)).at[:, 0].set(1.0),
    )
    aa = np.zeros((16, 3))
    aa[joint] = [0, 0, 0.3]
    out = forward(only, aa)
    expected = np.asarray(model.template_vertices).copy()
    expected[100, 2] += -np.sin(0.3)  # entry (0, 1) of a turn about z
    np.testing.assert_allclose(out.vertices, expected, atol=MICROMETRE)


def test_mano_forward_takes_any_leading_axes_and_jit(model):
    aa = np.stack([random_pose(s) for s in range(6)]).reshape(2, 3, 16, 3)
    betas = np.random.default_rng(0).normal(size=(2, 3, 10))
    many = jax.jit(mano.mano_forward, static_argnames="fingertips")(
        model, to_rotmat(aa), jnp.asarray(betas, jnp.float32), fingertips="ho3d"
    )
    assert many.vertices.shape == (2, 3, 778, 3) and many.joints.shape == (2, 3, 21, 3)
    one = forward(model, aa[1, 2], betas[1, 2])
    np.testing.assert_allclose(many.vertices[1, 2], one.vertices, atol=MICROMETRE)
    np.testing.assert_allclose(many.joints[1, 2], one.joints, atol=MICROMETRE)


def test_mano_forward_of_many_hands_is_that_of_each(model):
    num = mano.SKINNED_AT_ONCE + 5  # in two parts
    rotmat = to_rotmat(np.stack([random_pose(seed) for seed in range(num)]))
    betas = jax.random.normal(jax.random.key(4), (num, 10))

    def run(rotmat, betas):
        return mano.mano_forward(model, rotmat, betas, fingertips="ho3d")

    def total(betas, rotmat):
        return jnp.sum(run(rotmat, betas).vertices ** 2)

    every, slope = run(rotmat, betas), jax.grad(total)(betas, rotmat)
    for part in (slice(0, 5), slice(num - 5, num)):
        some = run(rotmat[part], betas[part])
        np.testing.assert_allclose(every.vertices[part], some.vertices, atol=MICROMETRE)
        np.testing.assert_allclose(every.joints[part], some.joints, atol=MICROMETRE)
        few = jax.grad(total)(betas[part], rotmat[part])
        np.testing.assert_allclose(slope[part], few, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("backend", "in_parts"), [("cpu", True), ("gpu", False)])
def test_mano_forward_takes_many_hands_in_parts_on_a_cpu_alone(
    model, monkeypatch, backend, in_parts
):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    num = mano.SKINNED_AT_ONCE + 5
    program = jax.make_jaxpr(
        lambda *hands: mano.mano_forward(model, *hands, fingertips="ho3d")
    )(jnp.zeros((num, 16, 3, 3)), jnp.zeros((num, 10)))
    assert ("concatenate[dimension=0]" in str(program)) == in_parts


@pytest.mark.parametrize("name", sorted(mano.FINGERTIPS))
def test_mano_forward_tips_are_the_listed_vertices(model, name):
    out = forward(model, random_pose(8), fingertips=name)
    expected = out.vertices[np.array(mano.FINGERTIPS[name])]
    np.testing.assert_array_equal(out.joints[16:], expected)


def test_mano_forward_raises_on_an_unknown_tip_list(model):
    with pytest.raises(ValueError, match=r'fingertips="mine".*ho3d'):
        forward(model, np.zeros((16, 3)), fingertips="mine")


def test_mano_forward_gradients_match_differences(model):
    target = forward(model, random_pose(9), np.ones(10)).vertices

    def loss(rotmat, betas):
        out = mano.mano_forward(model, rotmat, betas, fingertips="ho3d")
        return 1e3 * jnp.mean((out.vertices - target) ** 2)

    at = (to_rotmat(random_pose(10)), 0.5 * jnp.ones(10))
    slope = jax.grad(loss, argnums=(0, 1))(*at)
    chex.assert_tree_all_finite(slope)
    assert all(float(jnp.abs(s).max()) > 0 for s in slope)
    way = jax.tree.map(lambda x: jnp.sin(jnp.arange(x.size) + 1.0).reshape(x.shape), at)
    step = 1e-2
    ahead = loss(*(a + step * w for a, w in zip(at, way, strict=True)))
    behind = loss(*(a - step * w for a, w in zip(at, way, strict=True)))
    predicted = sum(jnp.sum(s * w) for s, w in zip(slope, way, strict=True))
    np.testing.assert_allclose((ahead - behind) / (2 * step), predicted, rtol=0.02)


def test_pca_to_aa_is_inverted_by_the_components(model):
    pose = np.random.default_rng(0).normal(size=(4, 45)).astype(np.float32)
    centred = pose - np.asarray(model.hand_mean)
    coefficients = centred @ np.linalg.inv(np.asarray(model.hand_components))
    aa = mano.pca_to_aa(model, jnp.asarray(coefficients))
    np.testing.assert_allclose(aa.reshape(4, 45), pose, atol=1e-5)


def test_pca_to_aa_of_few_coefficients_uses_the_first_components(model):
    aa = mano.pca_to_aa(model, jnp.array([0.0, 2.0]))
    expected = model.hand_mean + 2.0 * model.hand_components[1]
    np.testing.assert_allclose(aa.reshape(45), expected, atol=1e-6)


def test_fingertips_of_knows_every_list():
    vertices = np.random.default_rng(0).normal(size=(778, 3))
    joints = np.zeros((21, 3))
    for name, numbers in mano.FINGERTIPS.items():
        joints[16:] = vertices[list(numbers)] + 5e-5
        assert mano.fingertips_of(joints, vertices) == name
    joints[20] += 0.001
    assert mano.fingertips_of(joints, vertices) is None
