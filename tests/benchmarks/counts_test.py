"""What the programs cost, counted: no count may move unnoticed."""

import json

import jax
import jax.numpy as jnp
import pytest

from homae_jax.benchmarks import _counts
from homae_jax.models.products import einsum
from tests.benchmarks import counting

GROWTH = 1.02  # of arithmetic
XLA_GROWTH = 1.1  # of what XLA makes of it
SHRINKAGE = 0.9  # of either


def test_count_arithmetic_counts_products_and_loops():
    def program(a, b):
        product = a @ b  # 2 x 3 x 4 x 5
        turned = jax.lax.map(lambda row: row * 2.0, product)  # 3 rows of 5
        return jnp.sum(turned)  # 15

    a, b = jnp.zeros((3, 4)), jnp.zeros((4, 5))
    counted = _counts.count_arithmetic(program, a, b)
    assert counted == _counts.Arithmetic(matrix=2 * 3 * 4 * 5, other=15 + 15)


def test_count_arithmetic_tells_products_of_bfloat16():
    def program(a, b):
        rounded = einsum("mk,kn->mn", a, b, jnp.bfloat16)
        return rounded + a.astype(jnp.bfloat16) @ b

    a, b = jnp.zeros((3, 4)), jnp.zeros((4, 5))
    counted = _counts.count_arithmetic(program, a, b)
    assert (counted.matrix, counted.bfloat16) == (2 * 120, 120)


def test_count_arithmetic_counts_the_products_of_a_gradient():
    def loss(a, b):
        return jnp.sum(a @ b)

    a, b = jnp.zeros((3, 4)), jnp.zeros((4, 5))
    both = _counts.count_arithmetic(jax.grad(loss, argnums=(0, 1)), a, b)
    assert both.matrix == 3 * 120


def test_count_arithmetic_counts_convolutions_and_the_dearest_branch():
    x, kernel = jnp.zeros((1, 8, 8, 3)), jnp.zeros((2, 2, 3, 5))

    def program(choice):
        return jax.lax.cond(
            choice,
            lambda: jax.lax.conv_general_dilated(
                x, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
            ),
            lambda: jnp.zeros((1, 4, 4, 5)),
        )

    counted = _counts.count_arithmetic(program, jnp.bool_(True))
    assert counted.matrix == 2 * (4 * 4 * 5) * (2 * 2 * 3)


def test_analyse_gives_what_xla_plans():
    a = jnp.zeros((64, 64))
    found = _counts.analyse(jax.jit(lambda a: a @ a).lower(a).compile())
    assert found.flops == pytest.approx(2 * 64**3, rel=0.01)
    assert found.peak_bytes >= 2 * a.nbytes


@pytest.fixture(scope="module")
def recorded():
    return json.loads(counting.PATH.read_text())


@pytest.fixture(scope="module")
def counts():
    return counting.all_counts()


def check_count(name, value, recorded):
    """A count may not grow, nor shrink so that the file guards nothing any more."""
    growth = XLA_GROWTH if name.startswith("XLA") else GROWTH
    renew = f"{name}: {value:.6g}; python -m tests.benchmarks.counting if meant"
    assert SHRINKAGE * recorded <= value <= growth * recorded, renew


def test_counts_are_those_recorded(recorded, counts):
    assert set(counts) == set(recorded["counts"])
    for name, value in counts.items():
        if not name.startswith("XLA") or recorded["jax"] == jax.__version__:
            check_count(name, value, recorded["counts"][name])


@pytest.mark.parametrize(
    ("name", "value"), [("arithmetic", 103), ("XLA, flops", 111), ("XLA, flops", 89)]
)
def test_a_count_that_moved_says_how_to_renew_the_file(name, value):
    with pytest.raises(AssertionError, match=r"python -m tests\.benchmarks\.counting"):
        check_count(name, value, 100)
    check_count(name, 101, 100)


def test_counts_show_what_the_refining_sampler_saves(counts):
    dense, fine = (counts[f"evaluations, paper, {name}"] for name in counting.SAMPLERS)
    assert fine <= dense / 6
    dense, fine = (
        counts[f"arithmetic, paper, inference, {name}"] for name in counting.SAMPLERS
    )
    assert fine <= dense / 6


def test_synthetic_sampling_costs_little_beside_the_step(counts):
    true, own = (
        counts[f"arithmetic, synthetic, gradient, {name} points"]
        for name in ("true", "own")
    )
    assert own <= 1.25 * true


def test_inference_is_compiled_once():
    apply, params, batch = counting.toy_inference()
    for turn in range(3):
        moved = batch._replace(wrist=batch.wrist + 0.01 * turn)
        apply(params, moved)
    assert apply._cache_size() == 1
