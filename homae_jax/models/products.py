"""Matrix products that are fast on a CPU too, in bfloat16 and float32.

Where `model.dtype` is bfloat16, accelerators keep everything between products in it;
what leaves the network (`read_out`) keeps the sums of its product, float32.
XLA for the CPU has fast products of bfloat16 (YNNPACK; on processors with instructions
for them twice the rate of float32), but takes them only where the result is asked for
in float32; else it widens both factors first. And every other operation on bfloat16 is
emulated, rounding after each. So on a CPU activations are float32, and only the factors
of a product are rounded, forward and backward: `model.dtype` is what products run in.

Gradients of weights contract over the rows of both factors. The fast products do not
offer that, in either type: one factor must be transposed in memory, which is cheap, but
which XLA leaves out unless told to (it would choose a slower kernel, and for bfloat16
may have none: "Unsupported element type for DotThunk"). Hence gradients of our own.
"""

import functools
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from homae_jax.models.xla_cpu import is_for_cpu, transposed


def between(dtype: DTypeLike) -> jnp.dtype:
    """The dtype of what lies between products that run in `dtype`, on this device."""
    is_rounded = jnp.dtype(dtype) == jnp.bfloat16 and is_for_cpu()
    return jnp.dtype(jnp.float32 if is_rounded else dtype)


def round_factors(
    params: Any, dtype: DTypeLike, *, float32_layers: Collection[str] = ()
) -> Any:
    """Parameters for inference: what only products read is stored in their dtype.

    The answers are the same to the bit; nothing is left to be rounded at every call.
    Convolutions, kernels that have a length of their own (sdf.WeightNormDense) and
    `float32_layers`, by their names, are read in float32 too and stay.
    """
    if not isinstance(params, Mapping):
        return params
    rounded = {
        key: value
        if key in float32_layers
        else round_factors(value, dtype, float32_layers=float32_layers)
        for key, value in params.items()
    }
    kernel = params.get("kernel")
    if kernel is not None and kernel.ndim < 4 and "scale" not in params:
        rounded["kernel"] = kernel.astype(dtype)
    return rounded


def dense(features: int, dtype: DTypeLike, **options: Any) -> nn.Dense:
    """flax's dense layer, its product in `dtype`; further options are `nn.Dense`'s."""
    return nn.Dense(
        features, dtype=between(dtype), dot_general=dot_general_in(dtype), **options
    )


def read_out(features: int, dtype: DTypeLike, **options: Any) -> nn.Dense:
    """`dense` for what leaves the network: its result is float32 on every device."""
    product = _dot_general_to_float32 if not is_for_cpu() else _dot_general_on_cpu
    return nn.Dense(
        features,
        dtype=jnp.float32,
        dot_general=functools.partial(product, dtype=dtype),
        **options,
    )


def dot_general_in(dtype: DTypeLike) -> Callable[..., jax.Array]:
    """`jax.lax.dot_general` for flax's layers, with the product in `dtype`.

    It takes what dense layers ask for: the last axes of one array contracted with the
    first ones of the other, no batch. Arrays come and leave as `between(dtype)`.
    """
    if not is_for_cpu():
        return lax.dot_general
    return functools.partial(_dot_general_on_cpu, dtype=dtype)


def einsum(equation: str, a: Array, b: Array, dtype: DTypeLike) -> Float[Array, "..."]:
    """A product in `dtype`, summed and returned in float32.

    Args:
      equation: as numpy's, written out; batches lead, and every index is in two terms.
    """
    if is_for_cpu():
        return _einsum_on_cpu(equation, dtype, a, b)
    a, b = a.astype(dtype), b.astype(dtype)
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)


def _dot_general_to_float32(
    lhs: Array,
    rhs: Array,
    dimension_numbers: lax.DotDimensionNumbers,
    *,
    dtype: DTypeLike,
    **_: Any,
) -> jax.Array:
    lhs, rhs = lhs.astype(dtype), rhs.astype(dtype)
    return lax.dot_general(
        lhs, rhs, dimension_numbers, preferred_element_type=jnp.float32
    )


def _dot_general_on_cpu(
    lhs: Array,
    rhs: Array,
    dimension_numbers: lax.DotDimensionNumbers,
    *,
    dtype: DTypeLike,
    **_: Any,
) -> jax.Array:
    num = len(dimension_numbers[0][0])
    rows, columns = lhs.shape[: lhs.ndim - num], rhs.shape[num:]
    inner = math.prod(rhs.shape[:num])
    product = _einsum_on_cpu(
        "mk,kn->mn",
        dtype,
        lhs.reshape(math.prod(rows), inner),
        rhs.reshape(inner, math.prod(columns)),
    )
    return product.reshape(*rows, *columns).astype(between(dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _einsum_on_cpu(equation: str, dtype: DTypeLike, a: Array, b: Array) -> jax.Array:
    return _product(equation, a.astype(dtype), b.astype(dtype))


def _forward(
    equation: str, dtype: DTypeLike, a: Array, b: Array
) -> tuple[jax.Array, tuple]:
    kept = to_bits(a.astype(dtype)), to_bits(b.astype(dtype))
    return _einsum_on_cpu(equation, dtype, a, b), kept


def _backward(
    equation: str, dtype: DTypeLike, kept: tuple[Array, Array], gradient: Array
) -> tuple[jax.Array, jax.Array]:
    """Each factor's gradient is the other's product with the result's, rounded too."""
    a, b = (from_bits(x, dtype) for x in kept)
    terms, result = equation.split("->")
    of_a, of_b = terms.split(",")
    gradient = gradient.astype(dtype)
    return (
        _product(f"{result},{of_b}->{of_a}", gradient, b),
        _product(f"{of_a},{result}->{of_b}", a, gradient),
    )


_einsum_on_cpu.defvjp(_forward, _backward)


def to_bits(x: Array) -> jax.Array:
    """bfloat16 as integers, which a scan can stack; other dtypes as they are.

    Of a stack of bfloat16 XLA's CPU compiler rewrites all at every turn, by way of
    float32.
    """
    return lax.bitcast_convert_type(x, jnp.uint16) if x.dtype == jnp.bfloat16 else x


def from_bits(x: Array, dtype: DTypeLike) -> jax.Array:
    """What `to_bits` made integers of, if it was of `dtype` bfloat16; else x."""
    return lax.bitcast_convert_type(x, dtype) if x.dtype == jnp.uint16 else x


def _product(equation: str, a: Array, b: Array) -> jax.Array:
    """A product in float32, by the fast kernels."""
    terms, result = equation.split("->")
    of_a, of_b = terms.split(",")
    if of_a[-1] in of_b:
        return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)
    # Contracts over the rows of both.
    if jax.device_count() > 1:
        # These may be divided among devices, and a layout would have them gathered.
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
        return jnp.einsum(equation, a, b)
    is_swapped = b.shape[-1] < a.shape[-1]  # the narrower one is transposed
    if is_swapped:
        a, b, of_a, of_b = b, a, of_b, of_a
    lead, rows, columns = of_a[:-2], of_a[-2], of_a[-1]
    product = jnp.einsum(
        f"{lead}{columns}{rows},{of_b}->{lead}{columns}{of_b[-1]}",
        transposed(a),
        b,
        preferred_element_type=jnp.float32,
    )
    if result[-1] == of_b[-1]:
        return product
    return transposed(product)
