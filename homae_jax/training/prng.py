"""Random numbers of a training: first parameters, points, masks, dropout.

JAX's own generators take twenty rounds and more for a number, and a graph of dozens of
operations wherever one is asked for: on a CPU a fifth of the paper's step went into
dropout. This one is a counter and two rounds of a hash, so it fuses with what reads it,
takes a shape apart among devices as any other array, and gives the same numbers on
every device. It is for simulation, not for secrets.

A key is two words of 32 bits. Number i of an array is
mix(mix(i * PHI + key[0]) ^ key[1]), mix being the 32-bit finaliser of MurmurHash3
(Austin Appleby, public domain) and PHI the odd number nearest to 2^32 / golden ratio,
as in SplitMix (Steele et al., OOPSLA 2014).
"""

import math

import jax
import jax.numpy as jnp
from jax.extend.random import define_prng_impl
from jaxtyping import Array, PRNGKeyArray, UInt, UInt32

PHI = 0x9E3779B9


def make_key(seed: int) -> PRNGKeyArray:
    """A key that every function of `jax.random` takes."""
    return jax.random.key(seed, impl=_GENERATOR)


def wrap_key(data: UInt32[Array, "2"]) -> PRNGKeyArray:
    """The key of `jax.random.key_data(key)`."""
    return jax.random.wrap_key_data(data, impl=_GENERATOR)


def mix(word: UInt32[Array, "*b"]) -> UInt32[Array, "*b"]:
    """A bijection of 32-bit words: every bit of one moves half of the other's."""
    word = (word ^ (word >> 16)) * jnp.uint32(0x85EBCA6B)
    word = (word ^ (word >> 13)) * jnp.uint32(0xC2B2AE35)
    return word ^ (word >> 16)


def _seed(seed: Array) -> UInt32[Array, "2"]:
    word = jnp.asarray(seed).astype(jnp.uint32) + jnp.uint32(PHI)
    return jnp.stack([mix(word), mix(word + jnp.uint32(PHI))])


def _fold_in(key: UInt32[Array, "2"], data: Array) -> UInt32[Array, "2"]:
    word = mix(jnp.asarray(data).astype(jnp.uint32) + jnp.uint32(PHI))
    first = mix(key[0] ^ word)
    return jnp.stack([first, mix((key[1] + word) ^ first)])


def _split(key: UInt32[Array, "2"], shape: tuple[int, ...]) -> UInt32[Array, "*b 2"]:
    words = jax.lax.iota(jnp.uint32, math.prod(shape))
    keys = jax.vmap(_fold_in, in_axes=(None, 0))(key, words)
    return keys.reshape(*shape, 2)


def _random_bits(
    key: UInt32[Array, "2"], bit_width: int, shape: tuple[int, ...]
) -> UInt[Array, "*b"]:
    num = math.prod(shape)
    if bit_width > 32 or num >= 2**32:
        raise ValueError(f"{num} numbers of {bit_width} bits: at most 2^32 of 32")
    count = jax.lax.iota(jnp.uint32, num) * jnp.uint32(PHI)
    words = mix(mix(count + key[0]) ^ key[1]).reshape(shape)
    return words.astype(jnp.dtype(f"uint{bit_width}"))


_GENERATOR = define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="counter_hash",
    tag="hash",
)
