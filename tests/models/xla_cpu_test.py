"""What is written out is the same numbers, and is asked for on one CPU alone."""

import jax
import jax.numpy as jnp
import numpy as np

from homae_jax.models import xla_cpu


def test_what_is_written_out_is_the_same_and_kept_apart_on_a_cpu_alone():
    x = jax.random.normal(jax.random.key(0), (5, 7))

    def read_twice(x):
        total = xla_cpu.written_out(jnp.sin(x))
        return jnp.sum(total**2) + jnp.sum(jnp.cos(total))

    def plain(x):
        return jnp.sum(jnp.sin(x) ** 2) + jnp.sum(jnp.cos(jnp.sin(x)))

    np.testing.assert_allclose(read_twice(x), plain(x), rtol=1e-6)
    ours, theirs = jax.grad(read_twice)(x), jax.grad(plain)(x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    is_alone = jax.device_count() == 1
    assert ("LayoutConstraint" in jax.jit(read_twice).lower(x).as_text()) == is_alone
    with xla_cpu.as_on_accelerators():
        text = jax.jit(lambda x: read_twice(x)).lower(x).as_text()
    assert "LayoutConstraint" not in text
