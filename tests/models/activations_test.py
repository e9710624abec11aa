"""Activations against flax's, and what they keep for the way back."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homae_jax.models import activations

X, Y = jax.random.normal(jax.random.key(0), (2, 5, 7)) * 3

CASES = {
    "exact": (
        lambda x: activations.gelu(x, approximate=False),
        lambda x: nn.gelu(x, approximate=False),
        (X,),
    ),
    "tanh": (
        lambda x: activations.gelu(x, approximate=True),
        lambda x: nn.gelu(x, approximate=True),
        (X,),
    ),
    "swiglu": (activations.swiglu, lambda x, y: nn.silu(x) * y, (X, Y)),
}


@pytest.mark.parametrize("name", CASES)
def test_activation_and_gradient_are_flaxs_and_only_inputs_are_kept(name):
    ours, theirs, inputs = CASES[name]
    got, back = jax.vjp(ours, *inputs)
    expected, expected_back = jax.vjp(theirs, *inputs)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    for a, b in zip(back(Y), expected_back(Y), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    kept = sum(leaf.size for leaf in jax.tree.leaves(back))
    assert kept == sum(x.size for x in inputs)
    assert kept < sum(leaf.size for leaf in jax.tree.leaves(expected_back))


def test_exact_gelu_keeps_the_negative_side_in_bfloat16():
    x = jnp.linspace(-4.0, 0.0, 41).astype(jnp.bfloat16)
    exact = nn.gelu(x.astype(jnp.float32), approximate=False)
    got = activations.gelu(x, approximate=False).astype(jnp.float32)
    np.testing.assert_allclose(got, exact, rtol=2**-8, atol=1e-6)


def test_activations_keep_the_dtype():
    x = jnp.zeros(3, jnp.bfloat16)
    assert activations.gelu(x, approximate=False).dtype == jnp.bfloat16
    assert activations.swiglu(x, x).dtype == jnp.bfloat16
