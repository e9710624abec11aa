import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh

from homae_jax.geometry import mesh_sdf, rotations
from homae_jax.hand import mano_files
from homae_jax.hand.mano import mano_forward
from homae_jax.objects.sdf_bake import bake_sdf
from homae_jax.objects.simplify import simplify_exactly
from homae_jax.objects.templates import box_corners
from homae_jax.schema import ObjectTemplates
from homae_jax.synthetic import closing, grasps
from homae_jax.synthetic.meshes import vertex_normals
from tests.hand.built_hand import built_hand

CAN, SLAB, TABLE = 0, 1, 2  # a can, a slab and what no hand can hold
ROWS = np.array([CAN, SLAB, CAN, SLAB, CAN, SLAB], np.int32)


@pytest.fixture(scope="module")
def mano(tmp_path_factory):
    path = tmp_path_factory.mktemp("mano") / "MANO_RIGHT.pkl"
    mano_files.write_mano_pkl(built_hand(), path)
    return mano_files.load_mano(path)


@pytest.fixture(scope="module")
def templates():
    meshes = [
        trimesh.creation.cylinder(radius=0.033, height=0.10, sections=48),
        trimesh.creation.box((0.03, 0.09, 0.16)),
        trimesh.creation.box((1.0, 1.0, 1.0)),
    ]
    rows = []
    for mesh in meshes:
        vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
        vertices, faces = simplify_exactly(vertices, faces, 1000)
        grid = bake_sdf(vertices, faces, 32, 0.02)
        vertices = vertices.astype(np.float32)
        rows.append((vertices, faces, box_corners(vertices), *grid))
    return ObjectTemplates(
        *(np.stack(f).astype(np.asarray(f[0]).dtype) for f in zip(*rows, strict=True))
    )._replace(sdf_pitch=np.array([row[5] for row in rows], np.float32))


@pytest.fixture(scope="module")
def betas():
    return np.random.default_rng(0).normal(size=(len(ROWS), 10)).astype(np.float32)


@pytest.fixture(scope="module")
def found(mano, templates, betas):
    return grasps.synthesize_grasps(7, ROWS, betas, templates=templates, mano=mano)


def posed_object(found, templates, row):
    vertices = templates.vertices[found.object_index[row]]
    return vertices @ found.object_rotmat[row].T + found.object_trans[row]


def test_grasps_hold_their_object(found, templates):
    for row in range(len(ROWS)):
        distance = mesh_sdf.signed_distance(
            jnp.asarray(found.hand_vertices[row]),
            jnp.asarray(posed_object(found, templates, row)),
            jnp.asarray(templates.faces[ROWS[row]]),
        )
        rough = 0.001  # a lattice of 32 rounds edges off
        assert distance.min() > -grasps.MAX_HAND_DEPTH - rough
        np.testing.assert_allclose(
            found.contact[row].min(), distance.min(), atol=1.5 * rough
        )
    is_touching = found.contact < grasps.CONTACT
    assert is_touching[:, 4].all() and (is_touching[:, :4].sum(axis=1) >= 2).all()


def test_grasps_keep_the_object_out_of_the_hand(found, mano, templates):
    for row in range(len(ROWS)):
        distance = mesh_sdf.signed_distance(
            jnp.asarray(posed_object(found, templates, row)),
            jnp.asarray(found.hand_vertices[row]),
            jnp.asarray(mano.closed_faces),
        )
        depth = max(-float(distance.min()), 0)
        assert depth <= grasps.MAX_OBJECT_DEPTH
        assert found.object_depth[row] == pytest.approx(depth, abs=1e-6)


def test_grasps_keep_the_hand_out_of_itself(found, mano):
    faces = np.asarray(mano.closed_faces)
    for row in range(len(ROWS)):
        vertices = found.hand_vertices[row]
        under = vertices - grasps.UNDER_SKIN * vertex_normals(vertices, faces)
        turns = mesh_sdf.winding_number(
            jnp.asarray(under, jnp.float32),
            jnp.asarray(vertices),
            jnp.asarray(faces),
        )
        share = float((turns > 1.5).mean())
        assert share <= grasps.MAX_OVERLAP
        assert found.overlap[row] == pytest.approx(share, abs=0.0013)  # one vertex


def test_grasps_are_poses_of_the_given_hands(found, mano, betas):
    np.testing.assert_array_equal(found.betas, betas)
    pose = np.concatenate([np.zeros((len(ROWS), 1, 3)), found.finger_pose], axis=1)
    rotmat = rotations.aa_to_rotmat(jnp.asarray(pose, jnp.float32))
    hand = mano_forward(mano, rotmat, jnp.asarray(betas), fingertips="ho3d")
    np.testing.assert_allclose(hand.vertices, found.hand_vertices, atol=2e-5)
    np.testing.assert_allclose(hand.joints[:, :16], found.joints, atol=2e-5)


def test_grasps_turn_objects_rigidly_and_in_many_ways(found):
    eye = np.broadcast_to(np.eye(3), found.object_rotmat.shape)
    rotmat = found.object_rotmat
    np.testing.assert_allclose(rotmat @ rotmat.swapaxes(1, 2), eye, atol=1e-5)
    np.testing.assert_allclose(np.linalg.det(rotmat), 1, atol=1e-5)
    assert np.abs(rotmat[0] - rotmat[2]).max() > 0.1
    assert np.abs(found.finger_pose[0] - found.finger_pose[2]).max() > 0.05


def test_grasps_are_the_same_for_a_seed_and_others_for_another(
    found, mano, templates, betas
):
    def again(seed):
        return grasps.synthesize_grasps(
            seed, ROWS, betas, templates=templates, mano=mano
        )

    for one, other in zip(found, again(7), strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.abs(found.finger_pose - again(8).finger_pose).max() > 0.05


def test_draw_holds_objects_at_their_middle_unless_told_to_spread(templates):
    vertices = np.asarray(templates.vertices[0], np.float64)
    middle = (vertices.min(axis=0) + vertices.max(axis=0)) / 2
    off_middle = {}
    for spread in (0.0, 1.0):
        rng = np.random.default_rng(0)
        grips = [grasps._draw_one(rng, vertices, spread, "any")[1] for _ in range(20)]
        off_middle[spread] = np.linalg.norm(np.stack(grips) - middle, axis=1).max()
    assert off_middle[0.0] < 1e-9
    assert off_middle[1.0] > 0.02


@pytest.mark.parametrize("grips, is_hung", [("above", True), ("any", False)])
def test_objects_held_from_above_hang_upright_from_the_palm(templates, grips, is_hung):
    vertices = np.asarray(templates.vertices[SLAB], np.float64)
    rng = np.random.default_rng(0)
    drawn = [grasps._draw_one(rng, vertices, 1.0, grips) for _ in range(50)]
    rotmat = np.stack([row[0] for row in drawn])
    np.testing.assert_allclose(np.linalg.det(rotmat), 1.0)
    # The slab's x, y, z are its thin, middle and long side; the palm looks to -y.
    near = np.cos(4 * grasps.STEADY * grasps.WOBBLE.max())
    assert (rotmat[:, 1, 2] > near).all() == is_hung
    assert (np.abs(rotmat[:, 0, 0]) > near).all() == is_hung


def test_grasps_from_above_hold_their_object(mano, templates, betas):
    found = grasps.synthesize_grasps(
        7, ROWS, betas, templates=templates, mano=mano, grips="above"
    )
    is_touching = found.contact < grasps.CONTACT
    assert is_touching[:, 4].all() and (is_touching[:, :4].sum(axis=1) >= 2).all()
    assert (found.object_depth < grasps.MAX_OBJECT_DEPTH).all()
    for row in np.flatnonzero(ROWS == SLAB):
        assert posed_object(found, templates, row)[:, 1].max() < 0.01  # below the palm


def test_what_cannot_be_held_from_above_is_held_any_way(
    mano, templates, betas, monkeypatch
):
    def hung(axes, size):
        raise AssertionError("asked for in a round that holds any way")

    monkeypatch.setattr(grasps, "ROUNDS_ABOVE", 0)
    monkeypatch.setattr(grasps, "_hung", hung)
    found = grasps.synthesize_grasps(
        7, ROWS[:2], betas[:2], templates=templates, mano=mano, grips="above"
    )
    assert (found.contact[:, 4] < grasps.CONTACT).all()


def test_grasps_come_back_even_for_what_no_hand_can_hold(
    mano, templates, betas, monkeypatch
):
    monkeypatch.setattr(grasps, "MAX_ROUNDS", 1)
    found = grasps.synthesize_grasps(
        0, np.array([TABLE], np.int32), betas[:1], templates=templates, mano=mano
    )
    assert all(np.isfinite(field).all() for field in found)


def test_judge_sees_fingers_in_the_palm_and_the_object_in_the_hand(mano, templates):
    judge = grasps._make_judge(mano, templates)
    flex = closing.flexion_axes() * np.array([0.0, *[1.6] * 12, 0, 0, 0])[:, None]
    rotmat = rotations.aa_to_rotmat(
        jnp.asarray(np.stack([0 * flex, flex]), jnp.float32)
    )
    hand = mano_forward(mano, rotmat, jnp.zeros((2, 10)), fingertips="ho3d").vertices
    trans = jnp.asarray([[0.0, -0.3, 0.0], hand[1].mean(axis=0)])
    eye = jnp.broadcast_to(jnp.eye(3), (2, 3, 3))
    verdict = judge(hand, jnp.asarray([CAN, CAN]), eye, trans)
    assert verdict.overlap[0] == 0 and verdict.object_depth[0] == 0
    assert verdict.overlap[1] > 0.03 and verdict.object_depth[1] > 0.005


def test_slide_stops_at_first_contact_and_never_passes_through():
    def clearance(at):  # to a thin plate at y = -0.05
        return jnp.abs(at[1] + 0.05)

    at = closing._slide(jnp.array([0.01, 0.0, 0.02]), clearance)
    assert float(at[1]) == pytest.approx(-0.05 - closing.PALM_TOUCH, abs=2e-4)
    np.testing.assert_allclose(at[jnp.array([0, 2])], [0.01, 0.02], atol=1e-7)


def test_close_stops_every_joint_before_a_link_that_touches():
    def touches(flex):  # the index's middle link, once its knuckle is past 0.5
        return jnp.zeros(15, bool).at[1].set(flex[0] > 0.5)

    flex = np.asarray(closing._close(touches))
    limit = closing.LIMIT
    assert 0.4 < flex[0] <= 0.5 and flex[1] < limit[1]
    np.testing.assert_allclose(flex[2:], limit[2:], atol=1e-6)


def test_open_hand_touches_nothing_of_itself(mano):
    rig = closing.make_rig(mano)
    joints = mano.joint_regressor @ mano.template_vertices
    vertices, placed = closing._skin(
        jax.tree.map(jnp.asarray, mano),
        jnp.asarray(mano.template_vertices),
        jnp.asarray(joints),
        jnp.zeros((15, 3)),
        slice(None),
    )
    np.testing.assert_allclose(vertices, mano.template_vertices, atol=1e-6)
    meets = closing._self_contact(rig, vertices[rig.skin], placed)
    outer = np.array([1, 2, 4, 5, 7, 8, 10, 11])  # past the knuckles, no thumb
    for found in meets:
        by_link = np.asarray(found).reshape(15, closing.SPHERES, -1)
        assert not by_link[outer].any()
