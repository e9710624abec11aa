"""What a program costs by counting: arithmetic from its jaxpr, the rest from XLA.

None of it depends on how busy the machine is. XLA's own analysis counts the body of a
loop once, whatever its length; the jaxpr is walked here so that a scan counts as often
as it runs. Of a conditional the dearest branch counts.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from homae_jax.models.points import count_evaluations

TARGETS = ("hand", "object")

ELEMENTWISE = frozenset(
    """
    abs add add_any and atan2 ceil clamp cos cumsum div eq erf erf_inv exp exp2 expm1
    floor ge gt integer_pow is_finite le log log1p logistic lt max min mul ne neg not or
    pow rem round rsqrt select_n sign sin sqrt square sub tan tanh xor
    """.split()  # noqa: SIM905
)
REDUCTIONS = frozenset(
    """
    argmax argmin reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum
    scatter-add
    """.split()  # noqa: SIM905
)


def evaluations(points: Any, sampler: str | None = None) -> dict[str, int]:
    """Signed distances that one picture takes, of hand and object.

    Args:
      points: the group model.points of a configuration.
      sampler: in place of the group's.
    """
    return {
        target: count_evaluations(
            sampler=sampler or points.sampler,
            grid_size=points.grid_size,
            factor=points.coarse_factor,
            share=points.refine_share,
            num=points[f"num_{target}"],
        )
        for target in TARGETS
    }


class Arithmetic(NamedTuple):
    """Floating-point and other operations of a program."""

    matrix: int = 0  # products and convolutions: a multiplication and an addition each
    other: int = 0  # element by element, and reductions
    bfloat16: int = 0  # of matrix: both factors are bfloat16

    @property
    def total(self) -> int:
        """Of products and others."""
        return self.matrix + self.other


class Analysis(NamedTuple):
    """What XLA says of a compiled program, for the device it was compiled for."""

    flops: float  # loops once
    bytes_accessed: float  # loops once
    peak_bytes: int  # arguments, outputs and temporaries, less what they share


def count_arithmetic(function: Callable[..., Any], *arguments: Any) -> Arithmetic:
    """Operations of one call; arguments may be shapes."""
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def analyse(compiled: Any) -> Analysis:
    """Cost and memory of what `jax.jit(...).lower(...).compile()` gives."""
    cost: Mapping[str, float] = compiled.cost_analysis() or {}
    memory = compiled.memory_analysis()
    peak = 0
    if memory is not None:
        peak = (
            memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            + memory.temp_size_in_bytes
            - memory.alias_size_in_bytes
        )
    return Analysis(cost.get("flops", 0.0), cost.get("bytes accessed", 0.0), peak)


def _count(jaxpr: core.Jaxpr) -> Arithmetic:
    return _sum(_count_equation(equation) for equation in jaxpr.eqns)


def _sum(counts: Iterable[Arithmetic], times: int = 1) -> Arithmetic:
    columns = zip(Arithmetic(), *counts, strict=True)
    return Arithmetic(*(times * sum(column) for column in columns))


def _count_equation(equation: core.JaxprEqn) -> Arithmetic:
    name = equation.primitive.name
    size = sum(math.prod(out.aval.shape) for out in equation.outvars)
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return _products(equation, size * math.prod(left[axis] for axis in contracted))
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        out_axis = equation.params["dimension_numbers"].rhs_spec[0]
        return _products(equation, size * math.prod(kernel) // kernel[out_axis])
    if name in ELEMENTWISE:
        return Arithmetic(other=size)
    if name in REDUCTIONS:
        operand = equation.invars[-1 if name == "scatter-add" else 0].aval
        return Arithmetic(other=math.prod(operand.shape))
    inner = [_count(jaxpr) for jaxpr in _inner_jaxprs(equation.params)]
    if name == "cond":
        return max(inner, key=lambda counts: counts.total)
    return _sum(inner, times=equation.params["length"] if name == "scan" else 1)


def _products(equation: core.JaxprEqn, multiplications: int) -> Arithmetic:
    """Each with its addition."""
    is_rounded = all(x.aval.dtype == jnp.bfloat16 for x in equation.invars)
    flops = 2 * multiplications
    return Arithmetic(matrix=flops, bfloat16=flops if is_rounded else 0)


def _inner_jaxprs(params: Mapping[str, Any]) -> Iterator[core.Jaxpr]:
    for value in params.values():
        for each in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(each, core.ClosedJaxpr):
                yield each.jaxpr
            elif isinstance(each, core.Jaxpr):
                yield each
