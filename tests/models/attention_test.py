"""Attention on a CPU against JAX's and flax's own, at once and head by head."""

import functools
import re
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homae_jax.errors import UserError
from homae_jax.models import attention
from homae_jax.models.xla_cpu import as_on_accelerators

BATCH, TOKENS, HEADS, WIDTH = 2, 9, 3, 4


@pytest.fixture(params=[0, 2**20], ids=["by head", "at once"])
def way(request, monkeypatch):
    monkeypatch.setattr(attention, "CACHE_BYTES", request.param)


def make_inputs(num_keys=TOKENS):
    shapes = [(BATCH, n, HEADS, WIDTH) for n in (TOKENS, num_keys, num_keys)]
    keys = jax.random.split(jax.random.key(0), 3)
    return [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]


def value_and_gradient(function, inputs):
    def total(*inputs):
        out = function(*inputs)
        return jnp.sum(jnp.sin(out)), out

    (_, out), gradient = jax.value_and_grad(total, (0, 1, 2), has_aux=True)(*inputs)
    return [out, *gradient]


def assert_same(ours, theirs, atol=1e-5):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-5), ("bfloat16", 0.03)])
def test_self_attention_is_jaxs(way, dtype, atol):
    inputs = make_inputs()
    ours = value_and_gradient(
        lambda *x: attention.self_attention(*x, dtype, implementation="xla"), inputs
    )
    theirs = value_and_gradient(jax.nn.dot_product_attention, inputs)
    assert all(x.dtype == jnp.float32 for x in ours)
    assert_same(ours, theirs, atol=atol)


@pytest.mark.parametrize(("cache", "products"), [(0, 2 * HEADS), (2**20, 2)])
def test_weights_beyond_the_cache_are_taken_head_by_head(monkeypatch, cache, products):
    monkeypatch.setattr(attention, "CACHE_BYTES", cache)
    program = jax.make_jaxpr(
        lambda *x: attention.self_attention(*x, jnp.float32, implementation="xla")
    )(*make_inputs())
    assert str(program).count("dot_general[") == products


def assert_is_flaxs_draws_included(attend):
    """With a mask and dropout, and without dropout."""
    inputs = make_inputs(num_keys=5)
    mask = jax.random.bernoulli(jax.random.key(1), 0.7, (1, 1, TOKENS, 5))
    mask = mask.at[..., 0].set(True)
    options = {"mask": mask, "dropout_rng": jax.random.key(2), "dropout_rate": 0.3}
    for deterministic in (False, True):
        options["deterministic"] = deterministic
        ours = value_and_gradient(lambda *x: attend(*x, **options), inputs)
        theirs = value_and_gradient(
            lambda *x: nn.dot_product_attention(*x, **options), inputs
        )
        assert_same(ours, theirs)


def test_attention_with_dropout_is_flaxs_draws_included(way):
    assert_is_flaxs_draws_included(attention.attention_with_dropout(jnp.float32))


def test_multi_head_attention_takes_it(way):
    x = jax.random.normal(jax.random.key(0), (BATCH, TOKENS, 12))
    options = {"num_heads": 3, "dropout_rate": 0.3, "deterministic": False}
    plain = nn.MultiHeadDotProductAttention(**options)
    ours = nn.MultiHeadDotProductAttention(
        **options, attention_fn=attention.attention_with_dropout(jnp.float32)
    )
    params = plain.init({"params": jax.random.key(1), "dropout": jax.random.key(2)}, x)
    rngs = {"dropout": jax.random.key(3)}
    np.testing.assert_allclose(
        ours.apply(params, x, rngs=rngs), plain.apply(params, x, rngs=rngs), atol=1e-5
    )


def test_elsewhere_it_is_their_own():
    inputs = [x.astype(jnp.bfloat16) for x in make_inputs()]
    with as_on_accelerators():
        out = attention.self_attention(*inputs, jnp.bfloat16, implementation="xla")
    want = jax.nn.dot_product_attention(*inputs, implementation="xla")
    np.testing.assert_array_equal(out, want)


@pytest.mark.parametrize("num_tokens", [257, 261, 264])
def test_cudnn_takes_any_number_of_tokens_under_a_gradient(monkeypatch, num_tokens):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    library = "jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version"
    monkeypatch.setattr(library, lambda: 90800)
    tokens = jax.ShapeDtypeStruct((BATCH, num_tokens, HEADS, 64), jnp.bfloat16)

    def total(*inputs):
        out = attention.self_attention(*inputs, jnp.bfloat16, implementation="cudnn")
        assert out.shape == tokens.shape
        return jnp.sum(out.astype(jnp.float32))

    traced = jax.jit(jax.grad(total, (0, 1, 2))).trace(*[tokens] * 3)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    calls = [line for line in text.splitlines() if "stablehlo.custom_call" in line]
    assert len(calls) == 2 and all("__cudnn$fmhaSoftmax" in call for call in calls)
    assert all(f"tensor<{BATCH}x264x{HEADS}x64xbf16>" in call for call in calls)


def test_elsewhere_dropout_is_flaxs_and_the_softmax_float32():
    with as_on_accelerators():
        attend = attention.attention_with_dropout(jnp.bfloat16)
    assert_is_flaxs_draws_included(attend)
    low = [x.astype(jnp.bfloat16) for x in make_inputs()]
    program = str(jax.make_jaxpr(attend)(*low))
    results = re.findall(r":(\w+)\[[\d,]*\] = (exp|dot_general)\b", program)
    assert set(results) == {("f32", "exp"), ("bf16", "dot_general")}


def test_tokens_that_cudnn_is_padded_with_change_nothing(monkeypatch):
    inputs = [x.astype(jnp.bfloat16) for x in make_inputs()]
    plain = functools.partial(jax.nn.dot_product_attention, implementation="xla")

    def in_cudnns_place(*padded, implementation, **lengths):
        assert implementation == "cudnn" and padded[0].shape[1] == 16
        return plain(*padded, **lengths)

    def ours(*inputs):
        return attention.self_attention(*inputs, jnp.bfloat16, implementation="cudnn")

    want = value_and_gradient(plain, inputs)
    with as_on_accelerators():  # and where there is no cuDNN
        assert_same(value_and_gradient(ours, inputs), want)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax.nn, "dot_product_attention", in_cudnns_place)
    assert_same(value_and_gradient(ours, inputs), want)


@pytest.mark.parametrize(
    ("dtype", "backend", "capability", "lacking"),
    [
        ("float32", "gpu", "9.0", "needs model.dtype=bfloat16, got float32"),
        ("bfloat16", "cpu", "9.0", "needs an NVIDIA GPU, this run is on cpu"),
        ("bfloat16", "gpu", "7.5", "capability 8.0 or more, got 7.5"),
        ("bfloat16", "gpu", "gfx90a", "capability 8.0 or more, got gfx90a"),
        ("bfloat16", "gpu", "12.0", None),
        ("bfloat16", "gpu", "8.0", None),
    ],
)
def test_a_training_with_cudnn_is_refused_where_it_cannot_be(
    monkeypatch, dtype, backend, capability, lacking
):
    device = SimpleNamespace(compute_capability=capability)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    attention.check_implementation("xla", dtype)
    if lacking is None:
        attention.check_implementation("cudnn", dtype)
    else:
        with pytest.raises(UserError, match=lacking):
            attention.check_implementation("cudnn", dtype)
