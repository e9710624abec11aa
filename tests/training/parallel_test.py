"""Both engines compute on several devices what one device computes."""

import contextlib
import functools
import os
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from homae_jax.errors import UserError
from homae_jax.geometry import mesh_sdf
from homae_jax.hand.mano import mano_forward
from homae_jax.models import points
from homae_jax.models.xla_cpu import as_on_accelerators
from homae_jax.training import parallel
from homae_jax.training.state import create_state
from homae_jax.training.step import train_step
from tests import toy
from tests.training import objective_test, toy_step

ROOT = Path(__file__).resolve().parents[2]
NUM_DEVICES = 4
NUM_STEPS = 5
NUM_ROWS = 32  # more than a device would take at once


def make_step(*, loss_fn=toy_step.toy_loss, accumulate: int = 1, count_rows=None):
    """A step of SGD with momentum; Adam would blow up the rounding of zeros."""
    tx = optax.sgd(0.1, momentum=0.9)
    step = functools.partial(
        train_step,
        loss_fn=loss_fn,
        tx=tx,
        rate=optax.constant_schedule(0.1),
        accumulate=accumulate,
        count_rows=count_rows,
    )
    return step, create_state(toy_step.toy_params(), tx, seed=1)


def train(engine_name: str, **options) -> tuple[object, list[float]]:
    """The host's copy of the state after a few steps, and every loss."""
    step, state = make_step(**options)
    traces = []

    def counted(*args, **keywords):
        traces.append(args)
        return step(*args, **keywords)

    engine = parallel.make_engine(engine_name, counted)
    on_device, losses = engine.put_state(state), []
    for seed in range(NUM_STEPS):
        batch = engine.put_batch(toy_step.toy_batch(8, seed))
        on_device, terms = engine.step(on_device, batch)
        losses.append(float(terms["loss"]))
    assert len(traces) == 1
    return engine.to_host(on_device), losses


def compare_on_this_process() -> None:
    """What several devices compute is what one does."""
    assert jax.device_count() == NUM_DEVICES
    single, state = make_step()
    for seed in range(NUM_STEPS):
        state, _ = single(state, toy_step.toy_batch(8, seed))
    for engine in ("mesh", "pmap"):
        for accumulate in (1, 2):
            found, _ = train(engine, accumulate=accumulate)
            for leaf in jax.tree.leaves(found):
                assert isinstance(leaf, np.ndarray | np.generic)
            chex.assert_trees_all_close(found.params, state.params, atol=1e-6)
            chex.assert_trees_all_close(found.opt_state, state.opt_state, atol=1e-6)
            chex.assert_trees_all_equal(found.rng, state.rng)
    options = {"loss_fn": toy_step.masked_loss, "count_rows": toy_step.count_rows}
    single, state = make_step(**options)
    for seed in range(NUM_STEPS):
        state, terms = single(state, toy_step.toy_batch(8, seed))
    for engine, accumulate in (("mesh", 2), ("pmap", 1), ("pmap", 2)):
        found, losses = train(engine, accumulate=accumulate, **options)
        chex.assert_trees_all_close(found.params, state.params, atol=1e-6)
        np.testing.assert_allclose(losses[-1], terms["loss"], rtol=1e-5)
    noisy, state = make_step(loss_fn=toy_step.noisy_loss)
    _, terms = noisy(state, toy_step.toy_batch(8, 0))
    _, losses = train("mesh", loss_fn=toy_step.noisy_loss)
    np.testing.assert_allclose(losses[0], terms["loss"], rtol=1e-6)
    _, losses = train("pmap", loss_fn=toy_step.noisy_loss)
    assert abs(losses[0] - float(terms["loss"])) > 1e-4  # devices draw their own


def rows_of(tree, num=NUM_ROWS):
    """Shapes of a tree's arrays with so many rows."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((num, *x.shape[1:]), x.dtype), tree
    )


def check_rows_stay(lowered) -> None:
    """No device asks for the rows of another."""
    program = lowered.compile(objective_test.QUICKLY).as_text()
    for name in ("all-gather", "all-to-all", "collective-permute"):
        found = [line for line in program.splitlines() if f" {name}(" in line]
        assert not found, "\n".join(found)


@contextlib.contextmanager
def on_accelerators():
    """Programs take the form that they have there."""
    jax.lax.platform_dependent = lambda *operands, default, **_: default(*operands)
    with as_on_accelerators():
        yield


def keep_rows_on_this_process() -> None:
    """What is done row by row: signed distances, hands of every layer, sampling."""
    mesh = jax.make_mesh((NUM_DEVICES,), (parallel.AXIS,))
    shared = NamedSharding(mesh, PartitionSpec(parallel.AXIS))
    by_layer = NamedSharding(mesh, PartitionSpec(None, parallel.AXIS))
    mano, faces = toy.toy_mano(), toy.toy_templates().faces[0]

    def distances(points, vertices):
        return mesh_sdf.signed_distance_batch(points, vertices, faces)

    def hands(rotmat, betas):
        return mano_forward(mano, rotmat, betas, fingertips="ho3d")

    def sampled(centre):
        options = {"num": 8, "batch_size": NUM_ROWS, "grid_size": 8}
        return points.sample_coarse_to_fine(
            lambda x: jnp.linalg.norm(x - centre[:, None], axis=-1) - 0.5,
            lambda x: jnp.zeros(x.shape[:2]),
            factor=4,
            share=0.25,
            **options,
        )

    with on_accelerators():
        for function, sharding, shapes in (
            (distances, shared, ((NUM_ROWS, 10, 3), (NUM_ROWS, 1000, 3))),
            (hands, by_layer, ((2, NUM_ROWS, 16, 3, 3), (2, NUM_ROWS, 10))),
            (sampled, shared, ((NUM_ROWS, 3),)),
        ):
            arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
            shardings = (sharding,) * len(arguments)
            program = jax.jit(function, in_shardings=shardings, out_shardings=sharding)
            check_rows_stay(program.lower(*arguments))


def keep_rows_of_a_step_on_this_process() -> None:
    """The real loss: devices exchange sums alone."""
    step, state = make_step(loss_fn=objective_test.loss_fn())
    params, batch = objective_test.toy_inputs()
    state = state._replace(params=params, opt_state=step.keywords["tx"].init(params))
    with on_accelerators():
        engine = parallel.make_engine("mesh", step)
        check_rows_stay(engine.step.lower(state, rows_of(batch)))


@pytest.mark.parametrize(
    "function",
    [
        compare_on_this_process,
        keep_rows_on_this_process,
        pytest.param(keep_rows_of_a_step_on_this_process, marks=pytest.mark.slow),
    ],
)
def test_engines_on_four_devices(function):
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={NUM_DEVICES}",
        "PYTHONPATH": str(ROOT),
    }
    code = (
        f"from tests.training import parallel_test\nparallel_test.{function.__name__}()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("engine", ["mesh", "pmap"])
def test_a_state_is_on_the_device_once(engine):
    step, state = make_step()
    engine = parallel.make_engine(engine, step)
    on_device = engine.put_state(state)
    on_device, _ = engine.step(on_device, engine.put_batch(toy_step.toy_batch(8)))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    chex.assert_tree_all_finite(engine.to_host(on_device).params)


@pytest.mark.parametrize("engine", ["mesh", "pmap"])
def test_a_copy_survives_the_next_step(engine):
    """The device's buffers are donated; the host's copy must not share them."""
    step, state = make_step()
    engine = parallel.make_engine(engine, step)
    batch = engine.put_batch(toy_step.toy_batch(8))
    on_device, _ = engine.step(engine.put_state(state), batch)
    copy = engine.to_host(on_device)
    before = jax.tree.map(np.copy, copy)
    for _ in range(3):
        on_device, _ = engine.step(on_device, batch)
    chex.assert_trees_all_equal(copy, before)


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "num_devices", "message"),
    [
        (24, 1, 5, "batch_size=24 does not divide among 5 devices.*try 25"),
        (24, 5, 4, "4 devices x train.accumulate=5; try 40"),
        (0, 1, 1, "batch_size=0 does not divide.*try 1"),
        (24, 0, 1, "accumulate=0: must be 1 or more"),
    ],
)
def test_check_batch_size_raises(batch_size, accumulate, num_devices, message):
    with pytest.raises(UserError, match=message):
        parallel.check_batch_size(batch_size, accumulate, num_devices)


def test_check_batch_size_lets_equal_shares_pass():
    parallel.check_batch_size(24, 3, 4)


def test_make_engine_names_the_choices():
    with pytest.raises(UserError, match='"mesh" or "pmap"'):
        parallel.make_engine("shard_map", make_step()[0])


def test_check_processes_wants_the_same_number_of_devices_everywhere(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "local_device_count", lambda: 2)
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    parallel.check_processes()
    monkeypatch.setattr(jax, "device_count", lambda: 3)
    with pytest.raises(UserError, match="process 0 has 2 devices, all 2 processes"):
        parallel.check_processes()


def test_alone_a_process_asks_and_waits_for_nobody():
    assert parallel.is_wanted_by_any(True)
    assert not parallel.is_wanted_by_any(False)
    assert parallel.is_time_to_ask(3)
    parallel.wait_for_all("here")
    parallel.check_same_everywhere("a number", 3)


def test_processes_that_disagree_are_told_what_to_do(monkeypatch):
    gather = parallel.multihost_utils
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(gather, "process_allgather", lambda x: np.array([x, x]))
    parallel.check_same_everywhere("the dtype", 1)
    monkeypatch.setattr(gather, "process_allgather", lambda x: np.array([x, x + 1]))
    with pytest.raises(UserError, match=r"on the dtype: \[1, 2\]; does each see"):
        parallel.check_same_everywhere("the dtype", 1)
    with pytest.raises(UserError, match=r"on the dtype: \[1, 2\]; set it"):
        parallel.check_same_everywhere("the dtype", 1, advice="set it")
