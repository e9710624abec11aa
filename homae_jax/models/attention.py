"""Softmax attention, and how a CPU computes it.

Elsewhere these are JAX's and flax's own functions. On a CPU the weights of all heads
and pictures at once (13 MB in a layer of ViT-S on eight pictures) would leave the
processor's cache between product, softmax and product; head by head they stay there.
The softmax is float32 everywhere.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from homae_jax.errors import UserError
from homae_jax.models.products import einsum, from_bits, to_bits
from homae_jax.models.xla_cpu import is_for_cpu, is_for_gpu_here, written_out

CACHE_BYTES = 2**20  # of weights that stay at hand between two products
CUDNN_MULTIPLE = 8  # of tokens; JAX refuses odd numbers where there is a gradient


def self_attention(
    query: Float[Array, "b n h d"],
    key: Float[Array, "b n h d"],
    value: Float[Array, "b n h d"],
    dtype: DTypeLike,
    *,
    implementation: str,
) -> Float[Array, "b n h d"]:
    """Attention among tokens, products in `dtype`; `implementation` is JAX's.

    Where cuDNN cannot be had it is XLA's: the answers are the same up to rounding.
    """
    if is_for_cpu():
        return _on_cpu(query, key, value, dtype)
    if implementation == "cudnn" and _lacking_for_cudnn(dtype) is None:
        return _by_cudnn(query, key, value)
    return jax.nn.dot_product_attention(query, key, value, implementation="xla")


def check_implementation(implementation: str, dtype: DTypeLike) -> None:
    """Raises UserError where a run would not be trained with what it asks for."""
    lacking = _lacking_for_cudnn(dtype) if implementation == "cudnn" else None
    if lacking is not None:
        raise UserError(
            f"model.encoder.attention=cudnn needs {lacking}: use attention=xla"
        )


def _lacking_for_cudnn(dtype: DTypeLike) -> str | None:
    """What cuDNN's attention needs and does not find; None: nothing."""
    if jnp.dtype(dtype).itemsize != 2:
        return f"model.dtype=bfloat16, got {jnp.dtype(dtype).name}"
    if not is_for_gpu_here():
        return f"an NVIDIA GPU, this run is on {jax.default_backend()}"
    capability = getattr(jax.local_devices()[0], "compute_capability", "8.0")
    major = capability.partition(".")[0]
    if not major.isdigit() or int(major) < 8:
        return f"an NVIDIA GPU of compute capability 8.0 or more, got {capability}"
    return None


def attention_with_dropout(dtype: DTypeLike) -> Callable[..., jax.Array]:
    """For `flax.linen.MultiHeadDotProductAttention`: its own attention, draws included.

    Products run in `dtype`, the softmax in float32. As by flax's default, what is
    dropped is dropped in every head and picture.
    """
    is_on_cpu = is_for_cpu()

    def attend(
        query: Float[Array, "b n h d"],
        key: Float[Array, "b m h d"],
        value: Float[Array, "b m h d"],
        mask: Bool[Array, "1 1 n m"] | None = None,
        dropout_rng: Array | None = None,
        dropout_rate: float = 0.0,
        deterministic: bool = False,
    ) -> Float[Array, "b n h d"]:
        if not is_on_cpu:
            weights = nn.dot_product_attention_weights(
                query,
                key,
                mask=mask,
                dropout_rng=dropout_rng,
                dropout_rate=dropout_rate,
                deterministic=deterministic,
                force_fp32_for_softmax=True,  # the product after it stays in `dtype`
            )
            return jnp.einsum("bhnm,bmhd->bnhd", weights.astype(value.dtype), value)
        if dropout_rate == 0 or deterministic:
            return _on_cpu(query, key, value, dtype, mask)
        share = 1.0 - dropout_rate
        shape = (1, 1, query.shape[1], key.shape[1])
        kept = written_out(jax.random.bernoulli(dropout_rng, share, shape))
        return _on_cpu(query, key, value, dtype, mask, kept, share)

    return attend


def _by_cudnn(
    query: Float[Array, "b n h d"],
    key: Float[Array, "b n h d"],
    value: Float[Array, "b n h d"],
) -> Float[Array, "b n h d"]:
    """Attention of cuDNN among `CUDNN_MULTIPLE`s of tokens, of which it reads n."""
    batch, num = query.shape[:2]
    missing = (0, 0), (0, -num % CUDNN_MULTIPLE), (0, 0), (0, 0)
    lengths = jnp.full(batch, num, jnp.int32)
    out = jax.nn.dot_product_attention(
        *(jnp.pad(x, missing) for x in (query, key, value)),
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        implementation="cudnn",
    )
    return out[:, :num]


def _on_cpu(
    query: Float[Array, "b n h d"],
    key: Float[Array, "b m h d"],
    value: Float[Array, "b m h d"],
    dtype: DTypeLike,
    mask: Bool[Array, "1 1 n m"] | None = None,
    kept: Bool[Array, "1 1 n m"] | None = None,
    share: float = 1.0,
) -> Float[Array, "b n h d"]:
    """Head by head if all weights are more than `CACHE_BYTES`, else all at once."""
    batch, num, heads, _ = query.shape
    if 4 * batch * heads * num * key.shape[1] <= CACHE_BYTES:
        at_once = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
        out = _attend("bh", dtype, share, *at_once, mask, kept)
        return jnp.swapaxes(out, 1, 2)
    mask, kept = (None if x is None else x[0] for x in (mask, kept))
    cut = zip(*(_unstack(x) for x in (query, key, value)), strict=True)
    by_head = [_attend("b", dtype, share, *head, mask, kept) for head in cut]
    return jnp.stack(by_head, axis=2)


def _unstack(x: Float[Array, "b n h d"]) -> list[Float[Array, "b n d"]]:
    """The heads, cut such that XLA joins their gradients in one copy."""
    return jnp.split(x.reshape(*x.shape[:2], -1), x.shape[2], axis=-1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _attend(
    lead: str,
    dtype: DTypeLike,
    share: float,
    query: Float[Array, "*l n d"],
    key: Float[Array, "*l m d"],
    value: Float[Array, "*l m d"],
    mask: Bool[Array, "*one n m"] | None,
    kept: Bool[Array, "*one n m"] | None,
) -> Float[Array, "*l n d"]:
    """softmax(Q K' / sqrt(d)) V over the axes that `lead` names.

    The weights that are `kept`, of which a `share` is expected, are divided by it.
    Sums are in float32. They divide the output, which is smaller than the weights, so
    of these there is one array, rounded to `dtype` as the product needs it.
    """
    weights, inverse = _softmax(lead, dtype, query, key, mask)
    out = einsum(f"{lead}nm,{lead}md->{lead}nd", _only(kept, weights), value, dtype)
    return (out * (inverse / share)).astype(query.dtype)


def _softmax(
    lead: str, dtype: DTypeLike, query: Array, key: Array, mask: Array | None
) -> tuple[Float[Array, "*l n m"], Float[Array, "*l n 1"]]:
    """Weights up to their sum, and one over it."""
    logits = einsum(f"{lead}nd,{lead}md->{lead}nm", _scaled(query), key, dtype)
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    return weights, 1 / jnp.sum(weights, axis=-1, keepdims=True)


def _scaled(query: Float[Array, "*l n d"]) -> Float[Array, "*l n d"]:
    return query * query.shape[-1] ** -0.5


def _only(kept: Bool[Array, "*one n m"] | None, weights: Array) -> Array:
    zero = jnp.zeros((), weights.dtype)
    return weights if kept is None else jnp.where(kept, weights, zero)


def _forward(
    lead: str,
    dtype: DTypeLike,
    share: float,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    kept: Array | None,
) -> tuple[Array, tuple]:
    weights, inverse = _softmax(lead, dtype, query, key, mask)
    bits = written_out(to_bits(weights.astype(dtype)))
    used = _only(kept, from_bits(bits, dtype))
    out = einsum(f"{lead}nm,{lead}md->{lead}nd", used, value, dtype)
    out *= inverse / share
    return out.astype(query.dtype), (query, key, value, kept, bits, inverse, out)


def _backward(
    lead: str, dtype: DTypeLike, share: float, residuals: tuple, gradient: Array
) -> tuple[Array | None, ...]:
    """Of the weights, one array is kept and one made; JAX's own rules take several.

    The sum over a row of the softmax's gradient is that over d of the output times its
    gradient (Dao et al. 2022, appendix B.2).
    """
    query, key, value, kept, bits, inverse, out = residuals
    weights = from_bits(bits, dtype)
    used = _only(kept, weights)
    row = jnp.sum(gradient * out, axis=-1, keepdims=True) * inverse
    gradient = gradient * (inverse / share)
    of_value = einsum(f"{lead}nm,{lead}nd->{lead}md", used, gradient, dtype)
    of_used = einsum(f"{lead}nd,{lead}md->{lead}nm", gradient, value, dtype)
    of_logits = weights * (_only(kept, of_used) - row)
    of_query = einsum(f"{lead}nm,{lead}md->{lead}nd", of_logits, key, dtype)
    of_key = einsum(f"{lead}nm,{lead}nd->{lead}md", of_logits, _scaled(query), dtype)
    arrays = ((_scaled(of_query), query), (of_key, key), (of_value, value))
    return *(new.astype(old.dtype) for new, old in arrays), None, None


_attend.defvjp(_forward, _backward)
