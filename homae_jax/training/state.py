"""What a training run is, between two steps."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, UInt32

from homae_jax.training import prng


class TrainState(NamedTuple):
    """All that a step reads and writes; a checkpoint holds exactly this."""

    params: Any
    opt_state: Any
    step: Int[Array, ""]  # steps done
    rng: UInt32[Array, " k"]  # key data; a step's key is fold_in(rng, step)
    num_skipped: Int[Array, ""]  # steps not applied: loss or gradient not finite
    num_skipped_in_a_row: Int[Array, ""]


def create_state(
    params: Any, tx: optax.GradientTransformation, seed: int
) -> TrainState:
    """The state before the first step."""
    return TrainState(
        params=params,
        # As one program: outside of it every shape is a compilation of its own.
        opt_state=jax.jit(tx.init)(params),
        step=jnp.zeros((), jnp.int32),
        rng=jax.random.key_data(prng.make_key(seed)),
        num_skipped=jnp.zeros((), jnp.int32),
        num_skipped_in_a_row=jnp.zeros((), jnp.int32),
    )
