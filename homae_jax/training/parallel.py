"""One step on many devices: jit over a mesh, or the same step under a literal pmap.

The batch is cut along its first axis, everything else is replicated. "mesh" computes
what one device would, dropout and masks included; under "pmap" each device draws its
own. A term of the loss is the mean over all devices' rows in both.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from homae_jax.errors import UserError
from homae_jax.training.state import TrainState

AXIS = "data"
MAX_WAIT_MS = 24 * 3600 * 1000  # for the process that evaluates
STEPS_BETWEEN_ASKING = 8  # the other processes whether to stop


class Engine(NamedTuple):
    """How state and batches get to the devices, the step there, and the way back."""

    put_state: Callable[[TrainState], Any]  # what it is given is used up
    put_batch: Callable[[Any], Any]  # of this process's rows
    step: Callable[[Any, Any], tuple[Any, dict[str, Any]]]  # its state is donated
    to_host: Callable[[Any], Any]  # copies the state, or a part of it, as numpy


def check_processes() -> None:
    """Raises UserError unless every process has as many devices as the others."""
    num, here = jax.process_count(), jax.local_device_count()
    if here * num != jax.device_count():
        raise UserError(
            f"process {jax.process_index()} has {here} devices, all {num} processes "
            f"together {jax.device_count()}: give each the same number"
        )


def is_time_to_ask(step: int) -> bool:
    """Whether to ask the other processes after this step; alone, always."""
    return jax.process_count() == 1 or step % STEPS_BETWEEN_ASKING == 0


def is_wanted_by_any(is_wanted: bool) -> bool:
    """Whether any process wants it; every one must ask, after the same steps."""
    if jax.process_count() == 1:
        return is_wanted
    return bool(np.any(multihost_utils.process_allgather(np.array(is_wanted))))


def check_same_everywhere(
    what: str, value: int, *, advice: str = "does each see the same --workdir?"
) -> None:
    """Raises UserError where the processes do not agree on a number."""
    if jax.process_count() == 1:
        return
    values = multihost_utils.process_allgather(np.array(value)).tolist()
    if len(set(values)) > 1:
        raise UserError(f"the processes do not agree on {what}: {values}; {advice}")


def wait_for_all(place: str) -> None:
    """Returns when every process has come to a place of that name.

    Not by the devices, whose collectives do not wait for a long evaluation.

    Raises:
      UserError: one of them is gone.
    """
    with naming_the_lost():
        wait = ocp.multihost.get_barrier_sync_fn()
        wait(key=place, timeout_ms=MAX_WAIT_MS)


@contextlib.contextmanager
def naming_the_lost() -> Iterator[None]:
    """With several processes, an error of the device means that one is gone."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        reason = str(error).splitlines()[0]
        raise UserError(
            f"process {jax.process_index()} lost another one ({reason:.200}); start "
            "all again to go on from the last checkpoint"
        ) from error


def check_batch_size(batch_size: int, accumulate: int, num_devices: int) -> None:
    """Raises UserError unless every device and pass gets the same share."""
    if accumulate < 1:
        raise UserError(f"train.accumulate={accumulate}: must be 1 or more")
    parts = accumulate * num_devices
    if batch_size < 1 or batch_size % parts:
        above = parts * (max(batch_size, 0) // parts + 1)
        raise UserError(
            f"train.batch_size={batch_size} does not divide among {num_devices} "
            f"devices x train.accumulate={accumulate}; try {above}"
        )


def make_engine(name: str, step: Callable[..., Any]) -> Engine:
    """The engine named by `parallel.engine`, on all devices.

    Args:
      step: train_step with everything but state, batch and axis_name given.
    """
    if name == "mesh":
        return _mesh_engine(step)
    if name == "pmap":
        return _pmap_engine(step)
    raise UserError(f'parallel.engine="{name}": use "mesh" or "pmap"')


def _mesh_engine(step: Callable[..., Any]) -> Engine:
    mesh = jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))
    everywhere = NamedSharding(mesh, PartitionSpec())
    shared = NamedSharding(mesh, PartitionSpec(AXIS))

    def put_batch(batch: Any) -> Any:
        return jax.tree.map(
            lambda rows: jax.make_array_from_process_local_data(
                shared, np.asarray(rows)
            ),
            batch,
        )

    return Engine(
        put_state=lambda state: jax.device_put(state, everywhere),
        put_batch=put_batch,
        step=jax.jit(
            step,
            in_shardings=(everywhere, shared),
            out_shardings=(everywhere, everywhere),
            donate_argnums=0,
        ),
        to_host=lambda tree: jax.tree.map(_host_copy, tree),
    )


def _pmap_engine(step: Callable[..., Any]) -> Engine:
    num = jax.local_device_count()
    if jax.process_count() > 1:
        raise UserError('parallel.engine="pmap" runs on one host: use "mesh" on many')
    mapped = jax.pmap(
        lambda state, batch: step(state, batch, axis_name=AXIS),
        axis_name=AXIS,
        donate_argnums=0,
    )

    # As pmap gives its state back, or the second step would be compiled anew.
    mesh = jax.make_mesh((num,), (AXIS,), axis_types=(AxisType.Auto,))
    one_each = NamedSharding(mesh, PartitionSpec(AXIS))

    def put_state(state: TrainState) -> Any:
        stacked = jax.tree.map(lambda leaf: np.stack([np.asarray(leaf)] * num), state)
        for leaf in jax.tree.leaves(state):
            if isinstance(leaf, jax.Array):
                leaf.delete()  # the caller may hold it as long as the run lasts
        return jax.device_put(stacked, one_each)

    def put_batch(batch: Any) -> Any:
        def split(rows: Any) -> Any:
            return np.reshape(rows, (num, -1, *np.shape(rows)[1:]))

        return jax.tree.map(split, batch)

    def run(state: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
        state, terms = mapped(state, batch)
        return state, jax.tree.map(lambda leaf: _first_shard(leaf)[0], terms)

    return Engine(
        put_state=put_state,
        put_batch=put_batch,
        step=run,
        to_host=lambda tree: jax.tree.map(lambda leaf: _host_copy(leaf)[0], tree),
    )


def _host_copy(leaf: Any) -> np.ndarray:
    """The first shard, copied: the device's buffer is donated to the next step."""
    return np.array(_first_shard(leaf), copy=True)


def _first_shard(leaf: Any) -> Any:
    return leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf
