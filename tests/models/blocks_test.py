"""SDF head, PointNet, fusion and pose heads: the properties the paper relies on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homae_jax.models.decoder import Decoder
from homae_jax.models.fusion import Fusion
from homae_jax.models.heads import HandHead, ObjectHead, query_mask
from homae_jax.models.pointnet import PointNet
from homae_jax.models.sdf import SdfHead, WeightNormDense
from homae_jax.models.xla_cpu import as_on_accelerators

KEY = jax.random.key(0)


@pytest.mark.parametrize("name", ["sdf", "hand", "object", "decoder"])
def test_elsewhere_what_leaves_a_bfloat16_network_is_float32(name):
    low = {"dtype": jnp.bfloat16}
    heads = {
        "num_heads": 2,
        "width_mlp": 16,
        "dropout": 0.0,
        "encoder_layers": 1,
        **low,
    }
    tokens = jax.random.normal(KEY, (2, 9, 16))
    module, inputs, options = {
        "sdf": (SdfHead(32, 2, 0.0, **low), (tokens[0], False), {}),
        "hand": (
            HandHead(**heads, decoder_layers=1),
            (tokens,),
            {"num_own": 5, "train": False},
        ),
        "object": (
            ObjectHead(**heads, rotation="rot6d"),
            (tokens,),
            {"num_own": 5, "train": False},
        ),
        "decoder": (
            Decoder(32, (8,) * 4, (8,) * 4, **low),
            (jax.random.normal(KEY, (1, 2, 2, 8)),),
            {"with_image": True},
        ),
    }[name]
    with as_on_accelerators():
        out, _ = module.init_with_output(KEY, *inputs, **options)
    if name == "decoder":
        out = out._replace(levels=())
    if name == "sdf":
        out = jnp.arctanh(out)
    for leaf in jax.tree.leaves(out):
        assert leaf.dtype == jnp.float32
        rounded = leaf.astype(jnp.bfloat16).astype(jnp.float32)
        assert float(jnp.mean(jnp.abs(leaf / rounded - 1) > 1e-4)) > 0.7


def test_weight_norm_dense_starts_as_a_dense_layer():
    x = jax.random.normal(KEY, (4, 6))
    layer = WeightNormDense(5)
    variables = layer.init(KEY, x)
    kernel = variables["params"]["kernel"]
    np.testing.assert_allclose(layer.apply(variables, x), x @ kernel, rtol=1e-4)


def test_weight_norm_dense_output_ignores_the_kernels_length():
    x = jax.random.normal(KEY, (4, 6))
    layer = WeightNormDense(5)
    params = layer.init(KEY, x)["params"]
    longer = {**params, "kernel": 3.0 * params["kernel"]}
    np.testing.assert_allclose(
        layer.apply({"params": params}, x),
        layer.apply({"params": longer}, x),
        atol=1e-5,
    )


def test_sdf_head_is_bounded_and_has_the_published_layers():
    x = jax.random.normal(KEY, (10, 256))
    head = SdfHead(width=512, depth=4, dropout=0.2)
    params = head.init(KEY, x, False)["params"]
    shapes = [params[f"hidden_{i}"]["kernel"].shape for i in range(4)]
    assert shapes == [(256, 512), (512, 256), (512, 512), (512, 512)]
    out = head.apply({"params": params}, 100 * x, False)
    assert out.shape == (10,)
    assert float(jnp.abs(out).max()) <= 1.0


def test_sdf_head_says_which_width_is_too_small():
    with pytest.raises(ValueError, match=r"model\.sdf\.width=32 must exceed"):
        SdfHead(width=32, depth=4, dropout=0.0).init(KEY, jnp.zeros((2, 40)), False)


def test_pointnet_is_equivariant_to_the_order_of_points():
    points = jax.random.normal(KEY, (20, 3))
    net = PointNet(widths=(8, 16), width_out=12)
    variables = net.init(KEY, points)
    order = jax.random.permutation(KEY, 20)
    np.testing.assert_allclose(
        net.apply(variables, points[order]),
        net.apply(variables, points)[order],
        atol=1e-5,
    )


def test_pointnet_joins_the_shape_to_every_point():
    points = jax.random.normal(KEY, (20, 3))
    net = PointNet(widths=(8, 16), width_out=12)
    variables = net.init(KEY, points)
    moved = points.at[5].add(10.0)
    change = jnp.abs(net.apply(variables, moved) - net.apply(variables, points))
    assert float(change[0].max()) > 1e-4


def fusion(**options):
    defaults = {"explicit": False, "sdf_sign": 1, "beta_init": 0.1, "beta_floor": 2e-3}
    return Fusion(**(defaults | options))


def test_fusion_weight_matches_equation_14():
    f_img, sdf = jnp.ones((1, 3, 2)), jnp.array([[0.2, 0.0, -0.2]])
    module = fusion()
    out = module.apply(module.init(KEY, f_img, None, sdf), f_img, None, sdf)
    expected = 1 / (1 + np.exp(-np.array([2.0, 0.0, -2.0]))) / 0.1
    np.testing.assert_allclose(out[0, :, 0], expected, rtol=1e-5)


@pytest.mark.parametrize("explicit", [False, True])
def test_fusion_gives_the_sdf_no_gradient_but_beta_one(explicit):
    f_img, sdf = jnp.ones((1, 3, 2)), jnp.array([[0.2, 0.1, -0.2]])
    f_3d = 2 * f_img if explicit else None
    module = fusion(explicit=explicit)
    variables = module.init(KEY, f_img, f_3d, sdf)

    def total(variables, sdf):
        return module.apply(variables, f_img, f_3d, sdf).sum()

    grad_beta, grad_sdf = jax.grad(total, argnums=(0, 1))(variables, sdf)
    assert float(jnp.abs(grad_sdf).max()) == 0.0
    assert float(jnp.abs(grad_beta["params"]["beta"])) > 0.0


def test_fusion_floors_beta():
    f_img, sdf = jnp.ones((1, 1, 2)), jnp.zeros((1, 1))
    module = fusion(beta_init=-1.0)
    out = module.apply(module.init(KEY, f_img, None, sdf), f_img, None, sdf)
    np.testing.assert_allclose(out, 0.5 / 2e-3, rtol=1e-5)


@pytest.mark.parametrize("beta", [2e-3, 1e-3, -1.0])
def test_a_floored_beta_still_learns(beta):
    """As at the floor itself: d(sigmoid(0) / beta) / d(beta) = -0.5 / beta^2."""
    f_img, sdf = jnp.ones((1, 1, 1)), jnp.zeros((1, 1))
    variables = {"params": {"beta": jnp.float32(beta)}}
    grads = jax.grad(lambda v: fusion().apply(v, f_img, None, sdf).sum())(variables)
    np.testing.assert_allclose(grads["params"]["beta"], -0.5 / 2e-3**2, rtol=1e-4)


def test_query_mask_joins_each_finger_alone():
    mask = np.asarray(query_mask()[0, 0])
    assert mask.sum() == 1 + 5 * 9 + 1
    assert mask[1:4, 1:4].all() and not mask[0, 1] and not mask[3, 4]


def test_hand_head_starts_at_the_flat_hand_and_supervises_every_layer():
    tokens = jax.random.normal(KEY, (2, 9, 32))
    head = HandHead(
        num_heads=4, width_mlp=64, dropout=0.1, encoder_layers=3, decoder_layers=2
    )
    variables = head.init(KEY, tokens, num_own=6, train=False)
    out = head.apply(variables, tokens, num_own=6, train=False)
    assert out.rot6d.shape == (2, 2, 16, 6)
    assert out.betas.shape == (2, 2, 10)
    assert out.vote_offsets_root.shape == (3, 2, 6, 20, 3)
    identity = jnp.array([1.0, 0, 0, 0, 1.0, 0])
    assert float(jnp.abs(out.rot6d - identity[None, None, None]).max()) < 1.0


def test_hand_head_reads_the_other_targets_tokens_through_its_encoder():
    tokens = jax.random.normal(KEY, (1, 9, 32))
    head = HandHead(
        num_heads=4, width_mlp=64, dropout=0.0, encoder_layers=1, decoder_layers=1
    )
    variables = head.init(KEY, tokens, num_own=6, train=False)
    changed = tokens.at[:, 8].add(1.0)
    out = [
        head.apply(variables, t, num_own=6, train=False).rot6d
        for t in (tokens, changed)
    ]
    assert float(jnp.abs(out[0] - out[1]).max()) > 0


@pytest.mark.parametrize(("rotation", "size"), [("rot6d", 6), ("axis_angle", 3)])
def test_object_head_votes_per_point(rotation, size):
    tokens = jax.random.normal(KEY, (2, 7, 32))
    head = ObjectHead(
        num_heads=4, width_mlp=64, dropout=0.0, encoder_layers=3, rotation=rotation
    )
    variables = head.init(KEY, tokens, num_own=5, train=False)
    out = head.apply(variables, tokens, num_own=5, train=False)
    assert out.rotation.shape == (3, 2, 5, size)
    assert out.trans_root.shape == (3, 2, 5, 3)
