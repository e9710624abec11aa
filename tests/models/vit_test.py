"""Structure of the encoder: tokens, stems, stochastic depth, dtypes."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homae_jax.errors import UserError
from homae_jax.models import dinov2
from homae_jax.models.vit import Block, PatchEmbed, Vit

SMALL = {
    "image_size": 32,
    "patch": 8,
    "width": 16,
    "depth": 2,
    "num_heads": 2,
    "mlp_hidden": 24,
}
CONV = {**SMALL, "image_size": 64, "patch": 16, "stem": "conv"} | {
    "stem_widths": (8, 8, 8, 16, 16),
    "stem_blocks": (1, 0, 1, 0, 1),
}


def make_image(size, batch=2, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(batch, size, size, 3)), jnp.float32)


def make(**fields):
    model = Vit(**{**SMALL, **fields})
    image = make_image(model.image_size)
    return model, model.init(jax.random.key(0), image, train=False), image


@pytest.mark.parametrize("num_registers", [0, 3])
def test_vit_splits_its_tokens(num_registers):
    model, params, image = make(num_registers=num_registers)
    out = model.apply(params, image, train=False)
    assert out.patch_tokens.shape == (2, 16, 16)
    assert out.cls.shape == (2, 16)
    assert out.registers.shape == (2, num_registers, 16)


def test_vit_tokens_are_row_major():
    # With no block, a token depends on its own patch alone.
    model, params, image = make(depth=0)
    before = model.apply(params, image, train=False).patch_tokens
    # Patch row 1, column 2 of a 4 x 4 grid of 8 px patches is token 6.
    changed = image.at[:, 8:16, 16:24].add(1.0)
    after = model.apply(params, changed, train=False).patch_tokens
    moved = np.any(np.asarray(before != after), axis=(0, 2))
    assert np.flatnonzero(moved).tolist() == [6]


def test_patches_are_embedded_as_by_a_convolution_of_their_size():
    layer, image = PatchEmbed(patch=8, width=5, dtype=jnp.float32), make_image(32)
    params = layer.init(jax.random.key(0), image)["params"]
    params["bias"] = jnp.arange(5.0)
    want = jax.lax.conv_general_dilated(
        image,
        params["kernel"],
        (8, 8),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    got = layer.apply({"params": params}, image)
    np.testing.assert_allclose(
        got, want + params["bias"][None, None, None], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
@pytest.mark.parametrize("fields", [SMALL, CONV], ids=["patch", "conv"])
def test_vit_gradients_reach_every_parameter(ffn, fields):
    model, params, image = make(**fields, ffn=ffn, num_registers=2)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(2, 16, 16)))

    def loss(p):
        tokens = model.apply(p, image, train=False).patch_tokens
        return jnp.sum(tokens * weights[:, : tokens.shape[1]])

    grads = jax.jit(jax.grad(loss))(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        assert jnp.all(jnp.isfinite(leaf)), path
        assert jnp.any(leaf != 0), path


def test_conv_stem_makes_one_token_per_16_pixels():
    model, params, image = make(**CONV)
    assert model.apply(params, image, train=False).patch_tokens.shape == (2, 16, 16)


def test_conv_stem_ignores_the_rest_of_the_batch():
    model, params, image = make(**CONV)
    alone = model.apply(params, image[:1], train=False).patch_tokens
    together = model.apply(params, image, train=True).patch_tokens[:1]
    np.testing.assert_allclose(alone, together, atol=1e-5)


@pytest.mark.parametrize("remat", [False, True])
def test_scan_of_training_equals_one_block_after_another(remat):
    model, params, image = make(depth=3, remat=remat)
    params = jax.tree.map(
        lambda p: p + 0.3 * jax.random.normal(jax.random.key(1), p.shape), params
    )

    @functools.partial(jax.jit, static_argnums=1)
    def tokens(params, train):
        return model.apply(params, image, train=train).patch_tokens

    @functools.partial(jax.jit, static_argnums=1)
    @jax.grad
    def gradient(params, train):
        return jnp.sum(tokens(params, train) ** 3)

    np.testing.assert_allclose(tokens(params, True), tokens(params, False), atol=1e-4)
    scanned, plain = (gradient(params, train) for train in (True, False))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max()),
        scanned,
        plain,
    )


def widest_fusion(depth, train):
    """Most operands of a fusion in the compiled gradient."""
    model, params, image = make(depth=depth)

    @jax.jit
    @jax.grad
    def gradient(params):
        return jnp.sum(model.apply(params, image, train=train).patch_tokens ** 3)

    text = gradient.lower(params).compile().as_text()
    calls = re.findall(r" fusion\((.*?)\), kind=", text)
    return max(call.count("%") for call in calls)


def test_the_gradient_of_a_block_reads_nothing_of_other_blocks():
    assert widest_fusion(6, train=True) == widest_fusion(3, train=True) < 20


def test_blocks_are_applied_in_order():
    model, params, image = make(depth=3, layerscale_init=1.0)
    _, found = model.apply(params, image, train=False, mutable=["intermediates"])
    found = found["intermediates"]
    block, x = Block(2, 24, "mlp", 1.0, "xla", jnp.float32), found["embeddings"][0]
    for i in range(3):
        before, x = x, block.apply({"params": params["params"][f"blocks_{i}"]}, x)
        np.testing.assert_allclose(found[f"blocks_{i}"][0], x, atol=1e-5)
        assert np.abs(x - before).max() > 0.01


def test_blocks_start_different():
    _, params, _ = make()
    first, second = (params["params"][f"blocks_{i}"]["mlp"]["fc1"] for i in (0, 1))
    assert not np.allclose(first["kernel"], second["kernel"])


def test_drop_path_drops_whole_samples_in_training_only():
    model, params, _ = make(drop_path=0.9)
    image = jnp.tile(make_image(32, batch=1), (64, 1, 1, 1))
    run = jax.jit(model.apply, static_argnames="train")
    still = run(params, image, train=False).cls
    np.testing.assert_allclose(still, jnp.tile(still[:1], (64, 1)), atol=1e-5)
    moved = run(params, image, train=True, rngs={"dropout": jax.random.key(3)}).cls
    # Each of the last block's two branches is kept or dropped: at most four values.
    kinds = np.unique(np.round(np.asarray(moved[:, 0]), 3))
    assert 2 <= len(kinds) <= 4


def test_bfloat16_keeps_float32_parameters_and_norms():
    model, params, image = make(dtype=jnp.bfloat16)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    low = model.apply(params, image, train=False).patch_tokens
    high = Vit(**SMALL).apply(params, image, train=False).patch_tokens
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, high, atol=0.1)


def test_vit_raises_on_another_image_size():
    model, params, _ = make()
    with pytest.raises(UserError, match="built for 32 px square images, got 40x40"):
        model.apply(params, make_image(40), train=False)


@pytest.mark.parametrize(
    "arguments, text",
    [
        ({"variant": "vitx14"}, "expected one of vits14"),
        ({"image_size": 225}, "multiple of its patch of 14 px"),
        ({"attention": "flash"}, "use xla or cudnn"),
    ],
)
def test_make_encoder_raises_on_what_cannot_be(arguments, text):
    with pytest.raises(UserError, match=text):
        dinov2.make_encoder(**{"variant": "vits14", "image_size": 224, **arguments})
