"""The generator of a training: its numbers look independent, whatever the key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from homae_jax.training import prng

KEY = prng.make_key(0)
NUM = 1 << 16


def words(key, num: int = NUM) -> np.ndarray:
    return np.asarray(jax.random.bits(key, (num,), jnp.uint32))


def as_bits(values: np.ndarray) -> np.ndarray:
    """(..., ) words to (..., 32) zeros and ones."""
    return (values[..., None] >> np.arange(32, dtype=np.uint32)) & 1


def near_keys() -> dict[str, list]:
    """Pairs of keys that differ as little as keys do in a training."""
    step = [jax.random.fold_in(KEY, i) for i in (6, 7)]
    return {
        "seeds": [prng.make_key(i) for i in (0, 1)],
        "steps": step,
        "parts of a step": list(jax.random.split(step[0])),
        "a key and its child": [KEY, jax.random.fold_in(KEY, 0)],
        "the same step of two seeds": [
            jax.random.fold_in(prng.make_key(i), 7) for i in (0, 1)
        ],
    }


def test_mix_is_the_finaliser_of_murmur_hash_3():
    found = [int(prng.mix(jnp.uint32(word))) for word in (0, 1, 2, 0xFFFFFFFF)]
    assert found == [0, 0x514E28B7, 0x30F4C306, 0x81F16F39]


def test_one_changed_bit_of_a_word_changes_half_of_the_others():
    word = np.random.default_rng(0).integers(2**32, size=4000, dtype=np.uint32)
    for bit in range(32):
        changed = np.asarray(prng.mix(jnp.asarray(word ^ np.uint32(1 << bit))))
        moved = as_bits(changed ^ np.asarray(prng.mix(jnp.asarray(word))))
        np.testing.assert_allclose(moved.mean(axis=0), 0.5, atol=0.05)


@pytest.mark.parametrize("seed", [0, 1, -1, 2**31 - 1])
def test_words_are_uniform(seed):
    values = words(prng.make_key(seed))
    for shift in (0, 8, 16, 24):
        counts = np.bincount((values >> shift) & 255, minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-4
    assert len(np.unique(values)) == NUM


def test_neighbours_in_an_array_are_independent():
    values = words(KEY)
    for lag in (1, 2, 3, 64, 256, 1024):
        pairs = np.histogram2d(values[:-lag] >> 28, values[lag:] >> 28, bins=16)[0]
        assert stats.chisquare(pairs.ravel()).pvalue > 1e-4
        agree = (as_bits(values[:-lag]) == as_bits(values[lag:])).mean(axis=0)
        np.testing.assert_allclose(agree, 0.5, atol=5 * 0.5 / np.sqrt(NUM - lag))


@pytest.mark.parametrize("name", near_keys())
def test_arrays_of_near_keys_are_independent(name):
    first, second = (words(key) for key in near_keys()[name])
    agree = (as_bits(first) == as_bits(second)).mean(axis=0)
    np.testing.assert_allclose(agree, 0.5, atol=5 * 0.5 / np.sqrt(NUM))
    pairs = np.histogram2d(first >> 28, second >> 28, bins=16)[0]
    assert stats.chisquare(pairs.ravel()).pvalue > 1e-4


def test_keys_of_a_long_training_differ():
    steps = jax.vmap(lambda i: jax.random.fold_in(KEY, i))(jnp.arange(20000))
    parts = jax.vmap(lambda key: jax.random.split(key, 8))(steps)
    data = np.asarray(jax.random.key_data(parts)).reshape(-1, 2)
    assert len(np.unique(data, axis=0)) == len(data)
    first = np.asarray(jax.vmap(lambda key: jax.random.bits(key))(steps))
    counts = np.bincount(first >> 24, minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-4


def test_distributions_of_jax_hold():
    keys = jax.random.split(KEY, 3)
    normal = np.asarray(jax.random.normal(keys[0], (NUM,)))
    assert stats.kstest(normal, "norm").pvalue > 1e-4
    dropped = np.asarray(jax.random.bernoulli(keys[1], 0.9, (NUM,)))
    assert abs(dropped.mean() - 0.9) < 5 * np.sqrt(0.09 / NUM)
    order = jax.vmap(lambda key: jax.random.permutation(key, 5))(
        jax.random.split(keys[2], 6000)
    )
    codes = np.asarray(order) @ 5 ** np.arange(5)
    counts = np.unique(codes, return_counts=True)[1]
    assert len(counts) == 120
    assert stats.chisquare(counts).pvalue > 1e-4


def test_key_comes_back_from_its_data():
    data = jax.random.key_data(jax.random.fold_in(KEY, 5))
    assert data.shape == (2,)
    again = prng.wrap_key(data)
    np.testing.assert_array_equal(words(again), words(jax.random.fold_in(KEY, 5)))


def test_wider_words_than_the_hash_are_refused():
    with jax.enable_x64(True), pytest.raises(ValueError, match="64 bits"):
        jax.random.bits(prng.make_key(0), (4,), jnp.uint64)
