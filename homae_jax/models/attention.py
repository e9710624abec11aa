"""Softmax attention, and how a CPU computes it.

Elsewhere these are JAX's and flax's own functions. On a CPU the weights of all heads
and pictures at once (13 MB in a layer of ViT-S on eight pictures) would leave the
processor's cache between product, softmax and product; head by head they stay there.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from homae_jax.models.products import einsum, is_for_cpu

CACHE_BYTES = 2**20  # of weights that stay at hand between two products


def self_attention(
    query: Float[Array, "b n h d"],
    key: Float[Array, "b n h d"],
    value: Float[Array, "b n h d"],
    dtype: DTypeLike,
    *,
    implementation: str,
) -> Float[Array, "b n h d"]:
    """Attention among tokens, products in `dtype`; `implementation` is JAX's."""
    if is_for_cpu():
        return _on_cpu(query, key, value, dtype)
    return jax.nn.dot_product_attention(
        query, key, value, implementation=implementation
    )


def attention_with_dropout(dtype: DTypeLike) -> Callable[..., jax.Array]:
    """For `flax.linen.MultiHeadDotProductAttention`: its own attention, draws included.

    Products run in `dtype`. As by flax's default, what is dropped is dropped in every
    head and picture.
    """
    if not is_for_cpu():
        return nn.dot_product_attention

    def attend(
        query: Float[Array, "b n h d"],
        key: Float[Array, "b m h d"],
        value: Float[Array, "b m h d"],
        mask: Bool[Array, "1 1 n m"] | None = None,
        dropout_rng: Array | None = None,
        dropout_rate: float = 0.0,
        deterministic: bool = False,
    ) -> Float[Array, "b n h d"]:
        factor = None
        if dropout_rate > 0 and not deterministic:
            shape = (1, 1, query.shape[1], key.shape[1])
            kept = jax.random.bernoulli(dropout_rng, 1.0 - dropout_rate, shape)
            factor = kept / (1.0 - dropout_rate)
        return _on_cpu(query, key, value, dtype, mask, factor)

    return attend


def _on_cpu(
    query: Float[Array, "b n h d"],
    key: Float[Array, "b m h d"],
    value: Float[Array, "b m h d"],
    dtype: DTypeLike,
    mask: Bool[Array, "1 1 n m"] | None = None,
    factor: Float[Array, "1 1 n m"] | None = None,
) -> Float[Array, "b n h d"]:
    """Head by head if all weights are more than `CACHE_BYTES`, else all at once."""
    batch, num, heads, _ = query.shape
    if 4 * batch * heads * num * key.shape[1] <= CACHE_BYTES:
        at_once = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
        return jnp.swapaxes(_attend("bh", *at_once, dtype, mask, factor), 1, 2)
    mask, factor = (None if x is None else x[0] for x in (mask, factor))
    by_head = [
        _attend("b", *(x[:, :, h] for x in (query, key, value)), dtype, mask, factor)
        for h in range(heads)
    ]
    return jnp.stack(by_head, axis=2)


def _attend(
    lead: str,
    query: Float[Array, "*l n d"],
    key: Float[Array, "*l m d"],
    value: Float[Array, "*l m d"],
    dtype: DTypeLike,
    mask: Bool[Array, "*one n m"] | None,
    factor: Float[Array, "*one n m"] | None,
) -> Float[Array, "*l n d"]:
    """softmax(Q K' / sqrt(d)) V over the axes that `lead` names, weights in float32."""
    logits = einsum(f"{lead}nd,{lead}md->{lead}nm", query, key, dtype)
    logits *= query.shape[-1] ** -0.5
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
    weights = jax.nn.softmax(logits, axis=-1)
    if factor is not None:
        weights *= factor
    out = einsum(f"{lead}nm,{lead}md->{lead}nd", weights, value, dtype)
    return out.astype(query.dtype)
