"""Products in bfloat16 on a CPU: what is rounded, and that nothing else is."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from homae_jax.models import products
from homae_jax.models.xla_cpu import as_on_accelerators

BF16 = jnp.bfloat16


def draw(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def rounded(x):
    return x.astype(BF16).astype(jnp.float32)


def exact(equation, a, b):
    return jnp.einsum(equation, a, b, precision="highest")


@pytest.mark.parametrize(
    ("equation", "a", "b"),
    [
        ("mk,kn->mn", (7, 33), (33, 5)),
        ("mk,kn->mn", (1, 3), (3, 1)),
        ("bnd,bmd->bnm", (2, 17, 8), (2, 9, 8)),
        ("bhnm,bhmd->bhnd", (2, 3, 5, 9), (2, 3, 9, 4)),
    ],
)
def test_einsum_and_its_gradient_round_factors_alone(equation, a, b):
    a, b = draw(0, *a), draw(1, *b)
    out, pull = jax.vjp(lambda a, b: products.einsum(equation, a, b, BF16), a, b)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(
        out, exact(equation, rounded(a), rounded(b)), rtol=1e-5, atol=1e-5
    )
    gradient = draw(2, *out.shape)
    _, want = jax.vjp(lambda a, b: exact(equation, a, b), rounded(a), rounded(b))
    for got, wanted in zip(pull(gradient), want(rounded(gradient)), strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("equation", "a", "b"),
    [
        ("mk,kn->mn", (40, 24), (24, 72)),
        ("mk,kn->mn", (40, 72), (72, 24)),
        ("bnd,bmd->bnm", (2, 40, 8), (2, 24, 8)),
        ("bnm,bmd->bnd", (2, 40, 24), (2, 24, 8)),
    ],
)
@pytest.mark.parametrize(("dtype", "kind"), [(BF16, "bf16"), (jnp.float32, "f32")])
def test_a_gradient_asks_for_what_the_fast_kernels_offer(equation, a, b, dtype, kind):
    a, b = draw(0, *a), draw(1, *b)
    _, pull = jax.vjp(lambda a, b: products.einsum(equation, a, b, dtype), a, b)
    program = jax.jit(pull).lower(exact(equation, a, b)).compile().as_text()
    found = re.findall(
        r" dot\(%([\w.]+), %([\w.]+)\), .*lhs_contracting_dims={(\d)}", program
    )
    assert len(found) == 2
    for left, right, contracted in found:
        assert int(contracted) == a.ndim - 1
        assert f"%{left} = {kind}[" in program
        assert f"%{right} = {kind}[" in program


@pytest.mark.parametrize("dtype", [BF16, jnp.float32])
def test_rows_that_may_be_divided_among_devices_have_no_layout(monkeypatch, dtype):
    a, b = draw(0, 40, 24), draw(1, 24, 72)

    result = draw(2, 40, 72)

    def trace():
        _, pull = jax.vjp(lambda a, b: products.einsum("mk,kn->mn", a, b, dtype), a, b)
        return str(jax.make_jaxpr(pull)(result)), pull(result)

    program, alone = trace()
    assert "layout_constraint" in program
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    program, shared = trace()
    assert "layout_constraint" not in program
    for one, many in zip(alone, shared, strict=True):
        np.testing.assert_allclose(one, many, rtol=1e-4, atol=1e-4)


def test_a_scan_stacks_no_bfloat16_for_the_way_back():
    kernels = draw(0, 5, 8, 8)

    def total(kernels, x):
        def step(x, kernel):
            return jnp.tanh(products.einsum("mk,kn->mn", x, kernel, BF16)), None

        return jnp.sum(jax.lax.scan(step, x, kernels)[0])

    x = draw(1, 3, 8)
    program = jax.make_jaxpr(jax.grad(total))(kernels, x)
    scans = [each for each in program.eqns if each.primitive.name == "scan"]
    assert len(scans) == 2  # forth and back
    kinds = {out.aval.dtype.name for scan in scans for out in scan.outvars}
    assert kinds == {"float32", "uint16"}


def test_einsum_in_float32_rounds_nothing():
    a, b = draw(0, 7, 33), draw(1, 33, 5)
    out = products.einsum("mk,kn->mn", a, b, jnp.float32)
    np.testing.assert_allclose(out, exact("mk,kn->mn", a, b), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 33), (2, 3, 33), (33,)])
def test_dense_has_flaxs_parameters_and_rounds_its_product(shape):
    x = draw(0, *shape)
    layer = products.dense(6, BF16)
    plain = nn.Dense(6)
    params = plain.init(jax.random.key(1), x)
    assert jax.tree.map(jnp.shape, layer.init(jax.random.key(1), x)) == jax.tree.map(
        jnp.shape, params
    )
    kernel = {
        "params": dict(params["params"], kernel=rounded(params["params"]["kernel"]))
    }
    np.testing.assert_allclose(
        layer.apply(params, x), plain.apply(kernel, rounded(x)), rtol=1e-5, atol=1e-5
    )


def test_dense_in_float32_is_flaxs():
    x = draw(0, 4, 33)
    params = nn.Dense(6).init(jax.random.key(1), x)
    got = products.dense(6, jnp.float32).apply(params, x)
    np.testing.assert_array_equal(got, nn.Dense(6).apply(params, x))


def test_dot_general_contracts_several_axes_as_multi_head_attention_asks():
    x, kernel = draw(0, 2, 7, 3, 4), draw(1, 3, 4, 5)
    dims = (((2, 3), (0, 1)), ((), ()))
    got = products.dot_general_in(BF16)(x, kernel, dims, precision=None)
    want = lax.dot_general(rounded(x), rounded(kernel), dims, precision="highest")
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_dense_under_vmap_is_dense_over_rows():
    x = draw(0, 3, 5, 8)
    layer = products.dense(6, BF16)
    params = layer.init(jax.random.key(1), x)

    def total(params, apply):
        return jnp.sum(jnp.sin(apply(params, x)))

    rows = jax.grad(total)(params, jax.vmap(layer.apply, (None, 0)))
    whole = jax.grad(total)(params, layer.apply)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), rows, whole)


@pytest.fixture(params=["another device", "asked for"])
def elsewhere(request, monkeypatch):
    if request.param == "asked for":
        with as_on_accelerators():
            yield
    else:
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        yield


def test_here_activations_are_float32():
    assert products.between(BF16) == jnp.float32
    with as_on_accelerators():
        pass
    assert products.between(BF16) == jnp.float32


def test_elsewhere_activations_keep_the_dtype(elsewhere):
    assert products.between(BF16) == BF16
    assert products.between(jnp.float32) == jnp.float32
    layer = products.dense(6, BF16)
    x = draw(0, 4, 33)
    assert layer.apply(layer.init(jax.random.key(1), x), x).dtype == BF16
    last = products.read_out(6, BF16)
    assert last.apply(last.init(jax.random.key(1), x), x).dtype == jnp.float32
    out = products.einsum("mk,kn->mn", x, draw(1, 33, 5), BF16)
    assert out.dtype == jnp.float32
