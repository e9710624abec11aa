"""One step on many devices: jit over a mesh, or the same step under a literal pmap.

The batch is cut along its first axis, everything else is replicated. "mesh" computes
what one device would, dropout and masks included; under "pmap" each device draws its
own, and losses are means of the devices' means.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from homae_jax.errors import UserError
from homae_jax.schema import Batch
from homae_jax.training.state import TrainState

AXIS = "data"


class Engine(NamedTuple):
    """How state and batches get to the devices, and the step there."""

    put_state: Callable[[TrainState], Any]
    put_batch: Callable[[Batch], Any]
    step: Callable[[Any, Any], tuple[Any, dict[str, Any]]]  # its state is donated
    get_state: Callable[[Any], TrainState]  # one copy, as arrays


def check_batch_size(batch_size: int, accumulate: int, num_devices: int) -> None:
    """Raises UserError unless every device and pass gets the same share."""
    if batch_size % (accumulate * num_devices):
        raise UserError(
            f"train.batch_size={batch_size} does not divide into train.accumulate="
            f"{accumulate} passes on {num_devices} devices: change one of them"
        )


def make_engine(name: str, step: Callable[..., Any]) -> Engine:
    """The engine named by `parallel.engine`.

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
    return Engine(
        put_state=lambda state: jax.device_put(state, everywhere),
        put_batch=lambda batch: jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(shared, np.asarray(x)),
            batch,
        ),
        step=jax.jit(
            step,
            in_shardings=(everywhere, shared),
            out_shardings=(everywhere, everywhere),
            donate_argnums=0,
        ),
        get_state=lambda state: state,
    )


def _pmap_engine(step: Callable[..., Any]) -> Engine:
    num = jax.local_device_count()
    if jax.process_count() > 1:
        raise UserError('parallel.engine="pmap" runs on one host: use "mesh" on many')

    def put_state(state: TrainState) -> Any:
        return jax.tree.map(lambda x: np.stack([np.asarray(x)] * num), state)

    def split(batch: Batch) -> Any:
        return jax.tree.map(lambda x: np.reshape(x, (num, -1, *x.shape[1:])), batch)

    mapped = jax.pmap(
        lambda state, batch: step(state, batch, axis_name=AXIS),
        axis_name=AXIS,
        donate_argnums=0,
    )

    def run(state: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
        state, terms = mapped(state, batch)
        return state, jax.tree.map(lambda x: x[0], terms)

    return Engine(
        put_state=put_state,
        put_batch=split,
        step=run,
        get_state=lambda state: jax.tree.map(lambda x: x[0], state),
    )
