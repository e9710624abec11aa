"""What a program costs by counting: arithmetic from its jaxpr, the rest from XLA.

None of it depends on how busy the machine is. XLA's own analysis counts the body of a
loop once, whatever its length; the jaxpr is walked here so that a scan counts as often
as it runs. Of a conditional the dearest branch counts.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
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

    matrix: int  # products and convolutions: a multiplication and an addition each
    other: int  # element by element, and reductions

    @property
    def total(self) -> int:
        """Both."""
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
    counts = [_count_equation(equation) for equation in jaxpr.eqns]
    return Arithmetic(sum(c.matrix for c in counts), sum(c.other for c in counts))


def _count_equation(equation: core.JaxprEqn) -> Arithmetic:
    name = equation.primitive.name
    size = sum(math.prod(out.aval.shape) for out in equation.outvars)
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return Arithmetic(2 * size * math.prod(left[axis] for axis in contracted), 0)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        out_axis = equation.params["dimension_numbers"].rhs_spec[0]
        per_output = math.prod(kernel) // kernel[out_axis]
        return Arithmetic(2 * size * per_output, 0)
    if name in ELEMENTWISE:
        return Arithmetic(0, size)
    if name in REDUCTIONS:
        operand = equation.invars[-1 if name == "scatter-add" else 0].aval
        return Arithmetic(0, math.prod(operand.shape))
    inner = [_count(jaxpr) for jaxpr in _inner_jaxprs(equation.params)]
    if name == "cond":
        return max(inner, key=lambda counts: counts.total)
    times = equation.params["length"] if name == "scan" else 1
    return Arithmetic(
        times * sum(c.matrix for c in inner), times * sum(c.other for c in inner)
    )


def _inner_jaxprs(params: Mapping[str, Any]) -> Iterator[core.Jaxpr]:
    for value in params.values():
        for each in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(each, core.ClosedJaxpr):
                yield each.jaxpr
            elif isinstance(each, core.Jaxpr):
                yield each
