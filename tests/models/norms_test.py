"""LayerNorm against flax's, forth and back, and what it keeps."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homae_jax.models.norms import LayerNorm

FLAXS = nn.LayerNorm(use_fast_variance=False)


def draw(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def parameters(width):
    return {"params": {"scale": 1.0 + draw(1, width), "bias": draw(2, width)}}


@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 3, 5, 7)])
def test_layer_norm_and_its_gradient_are_flaxs(shape):
    x, params = 3.0 * draw(0, *shape) + 2.0, parameters(shape[-1])
    got, pull = jax.vjp(LayerNorm().apply, params, x)
    want, pull_flaxs = jax.vjp(FLAXS.apply, params, x)
    np.testing.assert_allclose(got, want, atol=1e-5)
    gradient = draw(3, *shape)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        pull(gradient),
        pull_flaxs(gradient),
    )


def test_layer_norm_starts_as_flaxs():
    x = draw(0, 5, 7)
    ours, flaxs = (layer.init(jax.random.key(0), x) for layer in (LayerNorm(), FLAXS))
    jax.tree.map(np.testing.assert_array_equal, ours, flaxs)


def test_layer_norm_stands_outlier_channels():
    x = np.array(draw(0, 4, 384))
    x[:, 7] += 3e3
    params = parameters(384)
    exact = x.astype(np.float64)
    exact -= exact.mean(-1, keepdims=True)
    exact /= np.sqrt((exact**2).mean(-1, keepdims=True) + 1e-6)
    scale, bias = (np.array(params["params"][name]) for name in ("scale", "bias"))
    want = exact * scale + bias
    got = LayerNorm().apply(params, jnp.asarray(x))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)


def test_layer_norm_keeps_its_input_and_two_numbers_a_row():
    x = draw(0, 50, 70)
    _, pull = jax.vjp(LayerNorm().apply, parameters(70), x)
    assert sum(leaf.size for leaf in jax.tree.leaves(pull)) <= x.size + 2 * 50 + 70


def test_layer_norm_gives_the_dtype_asked_for_from_any():
    x, params = draw(0, 5, 7), parameters(7)
    out = LayerNorm(jnp.bfloat16).apply(params, x.astype(jnp.bfloat16))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        out.astype(jnp.float32), FLAXS.apply(params, x), rtol=0.05, atol=0.05
    )


def test_a_row_without_variance_has_a_finite_gradient():
    x = jnp.ones((3, 7))
    gradient = jax.grad(lambda x: jnp.sum(LayerNorm().apply(parameters(7), x) ** 2))(x)
    assert np.isfinite(gradient).all()
