"""Softmax attention, and how a CPU computes it.

Elsewhere these are JAX's and flax's own functions. On a CPU the weights of all heads
and pictures at once (13 MB in a layer of ViT-S on eight pictures) would leave the
processor's cache between product, softmax and product; head by head they stay there.
"""

import functools
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
        return jnp.swapaxes(_attend("bh", dtype, *at_once, mask, factor), 1, 2)
    mask, factor = (None if x is None else x[0] for x in (mask, factor))
    by_head = [
        _attend("b", dtype, *(x[:, :, h] for x in (query, key, value)), mask, factor)
        for h in range(heads)
    ]
    return jnp.stack(by_head, axis=2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(
    lead: str,
    dtype: DTypeLike,
    query: Float[Array, "*l n d"],
    key: Float[Array, "*l m d"],
    value: Float[Array, "*l m d"],
    mask: Bool[Array, "*one n m"] | None,
    factor: Float[Array, "*one n m"] | None,
) -> Float[Array, "*l n d"]:
    """softmax(Q K' / sqrt(d)) V over the axes that `lead` names, weights in float32."""
    return _forward(lead, dtype, query, key, value, mask, factor)[0]


def _forward(
    lead: str,
    dtype: DTypeLike,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    factor: Array | None,
) -> tuple[Array, tuple]:
    logits = einsum(f"{lead}nd,{lead}md->{lead}nm", query, key, dtype)
    logits *= query.shape[-1] ** -0.5
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
    weights = jax.nn.softmax(logits, axis=-1)
    used = weights if factor is None else weights * factor
    out = einsum(f"{lead}nm,{lead}md->{lead}nd", used, value, dtype)
    return out.astype(query.dtype), (query, key, value, factor, weights, out)


def _backward(
    lead: str, dtype: DTypeLike, kept: tuple, gradient: Array
) -> tuple[Array | None, ...]:
    """Of the weights, one array is kept and one made; JAX's own rules take several.

    The sum over a row of the softmax's gradient is that over d of the output times its
    gradient (Dao et al. 2022, appendix B.2).
    """
    query, key, value, factor, weights, out = kept
    used = weights if factor is None else weights * factor
    of_value = einsum(f"{lead}nm,{lead}nd->{lead}md", used, gradient, dtype)
    of_used = einsum(f"{lead}nd,{lead}md->{lead}nm", gradient, value, dtype)
    of_weights = of_used if factor is None else of_used * factor
    row = jnp.sum(gradient * out, axis=-1, keepdims=True)
    of_logits = weights * (of_weights - row) * query.shape[-1] ** -0.5
    of_query = einsum(f"{lead}nm,{lead}md->{lead}nd", of_logits, key, dtype)
    of_key = einsum(f"{lead}nm,{lead}nd->{lead}md", of_logits, query, dtype)
    arrays = ((of_query, query), (of_key, key), (of_value, value))
    return *(new.astype(old.dtype) for new, old in arrays), None, None


_attend.defvjp(_forward, _backward)
