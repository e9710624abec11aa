"""Loss terms against worked numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from homae_jax import losses
from homae_jax.schema import Batch, Outputs, Targets
from tests import toy

SCALE, CLAMP = 3.1, 0.15
LN2 = float(np.log(2))
SURE = 30.0  # a logit that leaves no loss
# Which lambda scales which terms, and HOISDF's kinds of L_others.
LAYERED = (
    *("hand_rotmat", "hand_betas", "hand_vertices_root", "hand_joints_root"),
    *("vote_offsets_root", "vote_logits", "object_rotation", "object_trans_root"),
)
GROUPS = {
    "rec": ["rec"],
    "mano": ["mano_pose", "mano_shape"],
    "obj": ["obj_rotation", "obj_translation"],
    "sdf": ["sdf_hand", "sdf_object"],
    "others": [
        *("vertices", "joints", "vote", "vote_class", "joint_aggregate"),
        *("heatmap", "hand_mask", "object_mask"),
    ],
}


def test_masked_mean_ignores_uncounted_rows_even_when_they_are_nan():
    values = jnp.array([[1.0, 3.0], [jnp.nan, jnp.nan]])
    assert float(losses.masked_mean(values, jnp.array([True, False]))) == 2.0
    gradient = jax.grad(lambda v: losses.masked_mean(v, jnp.array([True, False])))
    np.testing.assert_array_equal(gradient(values), [[0.5, 0.5], [0.0, 0.0]])


def test_masked_mean_is_zero_when_nothing_counts():
    assert float(losses.masked_mean(jnp.ones((2, 3)), jnp.zeros(2, bool))) == 0.0


def test_smooth_l1_is_quadratic_then_linear():
    np.testing.assert_allclose(
        losses.smooth_l1(jnp.array([0.5, -1.0, 3.0])), [0.125, 0.5, 2.5]
    )


@pytest.mark.parametrize(
    ("pred", "gt", "loss", "slope"),
    [
        (0.02, 0.05, 0.03, -1.0),
        (0.60, 0.05, 0.55, 1.0),  # beyond the clamp and wrong: pulled back
        (-0.40, -0.10, 0.30, -1.0),
        (0.60, 0.15, 0.0, 0.0),  # both far outside
        (-0.40, -0.15, 0.0, 0.0),
        (0.60, -0.15, 0.75, 1.0),
        (0.10, 0.15, 0.05, -1.0),
    ],
)
def test_sdf_losses_are_l1_free_of_charge_beyond_a_clamped_truth(pred, gt, loss, slope):
    value, gradient = jax.value_and_grad(losses.clamped_l1)(
        jnp.float32(pred), jnp.float32(gt), clamp=0.15
    )
    np.testing.assert_allclose([value, gradient], [loss, slope], atol=1e-6)


def test_groups_name_every_weighted_term_once():
    names = [name for group in losses.GROUPS.values() for name in group]
    assert len(names) == len(set(names)) == 20


def labels() -> tuple[Batch, Targets]:
    """Two frames; their hand points lie 5 to 120 mm from the joints."""
    batch = jax.tree.map(np.asarray, toy.toy_batch(2))
    rng = np.random.default_rng(5)
    joints_root = batch.joints - batch.wrist[:, None]
    around = rng.normal(size=(2, 12, 3))
    around *= np.linspace(0.005, 0.12, 12)[:, None] / np.linalg.norm(
        around, axis=-1, keepdims=True
    )
    pose = Rotation.from_rotvec(batch.hand_pose.reshape(-1, 3)).as_matrix()
    targets = Targets(
        hand_vertices_root=rng.normal(size=(2, 778, 3)),
        hand_joints_root=joints_root,
        hand_rotmat=pose.reshape(2, 16, 3, 3),
        hand_betas=batch.hand_betas,
        object_rotmat=batch.object_rotmat,
        object_trans_root=batch.object_trans - batch.object_center,
        hand_sdf_points_norm=np.zeros((2, 6, 3)),
        hand_sdf_norm=rng.uniform(-0.1, 0.09, (2, 6)),
        object_sdf_points_norm=np.zeros((2, 4, 3)),
        object_sdf_norm=rng.uniform(-0.1, 0.09, (2, 4)),
        hand_points_norm=SCALE * (joints_root[:, 5:17] + around),
        object_points_norm=np.zeros((2, 8, 3)),
        heatmap=rng.uniform(0, 255, (2, 32, 32)),
    )
    return batch, jax.tree.map(np.float32, targets)


def truth(batch: Batch, targets: Targets, *, votes_are_6d: bool = True) -> Outputs:
    """What a network says that is right everywhere, in two layers."""

    def layers(x):
        return np.stack([x, x]).astype(np.float32)

    def logits(is_true):
        return np.where(is_true, SURE, -SURE).astype(np.float32)

    offsets = (
        targets.hand_joints_root[:, None, 1:]
        - targets.hand_points_norm[:, :, None] / SCALE
    )
    columns = targets.object_rotmat[:, :, :2]
    vote = columns.transpose(0, 2, 1).reshape(2, 6)
    if not votes_are_6d:
        vote = Rotation.from_matrix(targets.object_rotmat).as_rotvec()
    image = np.random.default_rng(1).normal(size=(2, 64, 64, 3)).astype(np.float32)
    mask = np.zeros((2, 4, 4), bool)
    mask[0, 1, 2] = mask[1, 3, 3] = True
    return Outputs(
        clean_image=image,
        image=image,
        masked_image=image,
        patch_mask=mask,
        heatmap=targets.heatmap,
        hand_mask_logits=logits(batch.segmentation == 1),
        object_mask_logits=logits(batch.segmentation == 2),
        hand_sdf_norm=targets.hand_sdf_norm,
        object_sdf_norm=targets.object_sdf_norm,
        hand_points_norm=targets.hand_points_norm,
        object_points_norm=targets.object_points_norm,
        hand_points_sdf_norm=np.zeros((2, 12)),
        object_points_sdf_norm=np.zeros((2, 8)),
        hand_points_in_box=np.ones((2, 12), bool),
        object_points_in_box=np.ones((2, 8), bool),
        hand_rotmat=layers(targets.hand_rotmat),
        hand_betas=layers(targets.hand_betas),
        hand_vertices_root=layers(targets.hand_vertices_root),
        hand_joints_root=layers(targets.hand_joints_root),
        vote_offsets_root=layers(offsets),
        vote_logits=layers(logits(np.linalg.norm(offsets, axis=-1) < 0.04)),
        object_rotation=layers(np.repeat(vote[:, None], 8, 1)),
        object_trans_root=layers(np.repeat(targets.object_trans_root[:, None], 8, 1)),
        object_rotmat=batch.object_rotmat,
        object_trans=batch.object_trans,
        joints=batch.joints,
        vertices=targets.hand_vertices_root + batch.wrist[:, None],
    )


def terms_of(
    outputs, targets, batch, *, rotation="matrix", weights=None, mean_rows=None
):
    """The terms as floats; without weights, every one is 1."""
    trees = jax.tree.map(jnp.asarray, (outputs, targets, batch))
    options = {"rotation": rotation, "sdf_clamp": CLAMP, "scale": SCALE}
    weights = weights or dict.fromkeys([*GROUPS, "auxiliary"], 1.0)
    _, terms = losses.total_loss(
        *trees, weights=weights, mean_rows=mean_rows, **options
    )
    return {name: float(value) for name, value in terms.items()}


@pytest.mark.parametrize("rotation", ["matrix", "axis_angle"])
@pytest.mark.parametrize("votes_are_6d", [True, False])
def test_the_truth_costs_nothing(rotation, votes_are_6d):
    batch, targets = labels()
    near = truth(batch, targets).vote_logits[0] > 0
    assert 0.1 < near.mean() < 0.9  # both classes are there
    outputs = truth(batch, targets, votes_are_6d=votes_are_6d)
    terms = terms_of(outputs, targets, batch, rotation=rotation)
    names = [name for group in GROUPS.values() for name in group]
    assert {n: terms[n] for n in names} == pytest.approx(
        dict.fromkeys(names, 0), abs=1e-6
    )
    assert terms["mje_mm"] == terms["oce_mm"] == 0.0


def last_layer(field, error):
    """Wrong in the last of two layers: terms are means over layers."""

    def change(outputs):
        values = getattr(outputs, field).copy()
        values[-1] = values[-1] + np.float32(error)
        return {field: values}

    return change


def whole(field, error):
    return lambda outputs: {field: getattr(outputs, field) + np.float32(error)}


def undecided(field):
    return lambda outputs: {field: 0 * getattr(outputs, field)}


def one_patch(outputs):
    """Two off in all colours of a masked patch of the first frame."""
    image = outputs.image.copy()
    image[0, 16:32, 32:48] += 2.0
    return {"image": image}


X = np.array([1, 0, 0])


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (whole("image", 0.5), {"rec": 3 * 0.25, "rec_masked": 0.25}),
        (one_patch, {"rec": 3 * 4 / 16 / 2, "rec_masked": 4 / 2}),
        (last_layer("hand_rotmat", 0.2), {"mano_pose": 0.02 / 2}),
        (last_layer("hand_betas", -3), {"mano_shape": 2.5 / 2}),
        (last_layer("hand_vertices_root", 0.01), {"vertices": 1e-4 / 2}),
        (last_layer("hand_joints_root", -0.02), {"joints": 4e-4 / 2}),
        (last_layer("object_trans_root", 0.1), {"obj_translation": 0.005 / 2}),
        (whole("hand_sdf_norm", 0.05), {"sdf_hand": 0.05}),
        (whole("object_sdf_norm", -0.04), {"sdf_object": 0.04}),
        (
            last_layer("vote_offsets_root", 0.002 * X),
            {"vote": 1.5 / 3 / 2, "joint_aggregate": 1.5 / 3 / 2},
        ),
        (undecided("vote_logits"), {"vote_class": LN2}),
        (whole("heatmap", 3), {"heatmap": 9}),
        (undecided("hand_mask_logits"), {"hand_mask": LN2}),
        (undecided("object_mask_logits"), {"object_mask": LN2}),
    ],
)
def test_each_term_is_its_worked_number_and_no_other_moves(change, wanted):
    batch, targets = labels()
    outputs = truth(batch, targets)
    terms = terms_of(outputs._replace(**change(outputs)), targets, batch)
    names = [*(name for group in GROUPS.values() for name in group), "rec_masked"]
    expected = dict.fromkeys(names, 0.0) | wanted
    assert {n: terms[n] for n in names} == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_rotation_terms_compare_matrices_or_axis_angles():
    batch, targets = labels()
    outputs = truth(batch, targets)
    turn = Rotation.from_rotvec([0, 0, 0.3])
    turned = turn.as_matrix() @ targets.object_rotmat.astype(np.float64)
    columns = np.repeat(turned[:, None, :, :2].swapaxes(2, 3).reshape(2, 1, 6), 8, 1)
    votes = outputs.object_rotation.copy()
    votes[-1] = columns
    pose = outputs.hand_rotmat.copy()
    hand_turned = turn.as_matrix() @ targets.hand_rotmat.astype(np.float64)
    pose[-1] = hand_turned
    outputs = outputs._replace(object_rotation=votes, hand_rotmat=pose)

    def halves(pred, gt):
        return np.mean((pred - gt) ** 2) / 2 / 2  # quadratic; one layer of two

    def aa(rotmat):
        return Rotation.from_matrix(rotmat.reshape(-1, 3, 3)).as_rotvec()

    for rotation, view in (("matrix", np.asarray), ("axis_angle", aa)):
        terms = terms_of(outputs, targets, batch, rotation=rotation)
        wanted = halves(view(turned), view(targets.object_rotmat))
        assert terms["obj_rotation"] == pytest.approx(wanted, rel=1e-4)
        wanted = halves(view(hand_turned), view(targets.hand_rotmat))
        assert terms["mano_pose"] == pytest.approx(wanted, rel=1e-4)


def test_points_vote_for_joints_nearer_than_40_mm():
    """A wrong offset costs what the pairs that count make of it."""
    batch, targets = labels()
    for millimetres, counts in ((39, True), (41, False)):
        points = targets.hand_joints_root[:, 1:13] + np.float32(1e-3 * millimetres * X)
        outputs = truth(batch, targets._replace(hand_points_norm=SCALE * points))
        wrong = outputs.vote_offsets_root.copy()
        pairs = np.arange(12)
        wrong[:, :, pairs, pairs, 0] += 0.5
        terms = terms_of(outputs._replace(vote_offsets_root=wrong), targets, batch)
        assert (terms["vote"] > 1.0) == counts


def test_frames_without_labels_cost_nothing():
    """Rubbish in the second frame's labels: the loss is the first frame's."""
    batch, targets = labels()
    outputs = truth(batch, targets)
    outputs = outputs._replace(**last_layer("hand_betas", -3)(outputs))
    outputs = outputs._replace(**last_layer("object_trans_root", 0.1)(outputs))
    one = np.array([True, False])
    unlabelled = batch._replace(
        has_hand=one, has_object=one, has_segmentation=one, is_real=one
    )
    rubbish = jax.tree.map(lambda x: np.concatenate([x[:1], 7 + 0 * x[1:]]), targets)
    whole_terms = terms_of(outputs, targets, batch)
    terms = terms_of(outputs, rubbish, unlabelled)
    assert terms["loss"] > 1
    for name in ("loss", "mano_shape", "obj_translation", "sdf_hand", "heatmap"):
        assert terms[name] == pytest.approx(whole_terms[name], rel=1e-4, abs=1e-6)


def test_total_loss_weighs_groups_and_terms():
    batch, targets = labels()
    outputs = truth(batch, targets)
    rng = np.random.default_rng(2)
    outputs = outputs._replace(
        **{
            field: 0.1 * value + rng.normal(size=value.shape).astype(np.float32)
            for field, value in outputs._asdict().items()
            if value is not None
            and value.dtype == np.float32
            and field != "hand_points_norm"  # far away they would have no votes
        }
    )
    names = [*GROUPS, *(n for group in GROUPS.values() for n in group)]
    weights = {"auxiliary": 1.0}
    weights |= {name: 1.0 + 0.1 * i for i, name in enumerate(dict.fromkeys(names))}
    terms = terms_of(outputs, targets, batch, weights=weights)
    wanted = weights["rec"] * terms["rec"]
    for group, members in GROUPS.items():
        if group != "rec":  # group and term in one
            wanted += sum(weights[group] * weights[n] * terms[n] for n in members)
    assert min(terms[n] for group in GROUPS.values() for n in group) > 1e-6
    assert terms["loss"] == pytest.approx(wanted, rel=1e-5)


def test_parts_of_a_batch_weigh_as_much_as_they_have_rows():
    """One row has no hand and no mask, as where a data set does not label them."""
    batch, targets = labels()
    one = np.array([True, False])
    batch = batch._replace(has_hand=one, has_segmentation=one)
    outputs = truth(batch, targets)
    outputs = outputs._replace(
        hand_betas=outputs.hand_betas + 0.1 * np.float32([1, 3])[:, None],
        object_trans_root=outputs.object_trans_root
        + 0.1 * np.float32([1, 3])[:, None, None],
        hand_mask_logits=0 * outputs.hand_mask_logits,
        vote_logits=0 * outputs.vote_logits,
    )
    whole = terms_of(outputs, targets, batch)
    mean_rows = jax.tree.map(lambda num: num / 2, losses.count_rows(batch))

    def row(tree, i):
        def cut(name, value):  # outputs have a first axis of layers, or none
            is_layered = isinstance(tree, Outputs) and name in LAYERED
            return value[:, i : i + 1] if is_layered else value[i : i + 1]

        return tree._replace(
            **{
                name: cut(name, value)
                for name, value in tree._asdict().items()
                if isinstance(value, np.ndarray)
            }
        )

    parts = [
        terms_of(*(row(t, i) for t in (outputs, targets, batch)), mean_rows=mean_rows)
        for i in (0, 1)
    ]
    assert whole["loss"] > 1 and parts[1]["mano_shape"] == 0.0
    mean = {name: (parts[0][name] + parts[1][name]) / 2 for name in whole}
    assert mean == pytest.approx(whole, rel=1e-5, abs=1e-7)


def test_every_term_knows_its_rows():
    batch, targets = labels()
    terms = terms_of(truth(batch, targets), targets, batch)
    own = {name for name in terms if "/" not in name and name != "loss"}
    named = [name for names in losses.ROWS.values() for name in names]
    assert own <= {*named} and len(named) == len({*named})


def test_watched_errors_are_of_the_answer_in_millimetres():
    batch, targets = labels()
    outputs = truth(batch, targets)
    joints = last_layer("hand_joints_root", 0.01 * X)(outputs)
    moved = outputs.object_trans + np.float32([0, 0.003, 0.004])[None]
    terms = terms_of(outputs._replace(**joints, object_trans=moved), targets, batch)
    assert terms["mje_mm"] == pytest.approx(10, rel=1e-4)
    assert terms["oce_mm"] == pytest.approx(5, rel=1e-4)
