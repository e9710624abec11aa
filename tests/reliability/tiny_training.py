"""The real training, shrunk: scenes made at first use, every part of the network.

As a program, `python -m tests.reliability.tiny_training FLAGS` is `python -m
homae_jax.train FLAGS` with an encoder of a few thousand parameters to choose from and
without the evaluation at the end, which no promise of this folder is about.
"""

import os
import time
from typing import Any

import ml_collections

from configs import synthetic
from homae_jax import config_flags, train
from tests import toy

PAUSE = "TINY_PAUSE"  # variable: seconds between two steps


def get_config() -> ml_collections.ConfigDict:
    """A setting whose steps take tens of milliseconds."""
    c = synthetic.get_config()
    c.name = "tiny"
    c.data.root = "cache/tiny"
    c.data.image_size = toy.IMAGE_SIZE
    c.data.augment.enabled = True
    c.synthetic.num_train = 48
    c.synthetic.num_eval = 8

    options = toy.toy_model_options()
    options.pop("image_size"), options.pop("fingertips")
    c.model.update(options)
    t = c.targets
    t.num_hand_sdf, t.num_object_sdf = 16, 16

    g = c.train
    g.batch_size = 4
    g.steps = 60
    g.log_every = 5
    g.checkpoint_every = 4
    g.figures_every = 0
    return c


def evaluate(run: train.Run, params: Any, step: int) -> dict[str, Any]:
    """Takes the place of the evaluation."""
    print(f"evaluated step {step}", flush=True)
    return {}


def next_batch_after_a_pause(*arguments: Any) -> Any:
    """Leaves the machine to others between two steps, for as long as told."""
    time.sleep(float(os.environ.get(PAUSE, "0")))
    return _next_batch(*arguments)


if __name__ == "__main__":
    _next_batch = train._next_batch
    train._next_batch = next_batch_after_a_pause
    train.evaluate = evaluate
    config_flags.run(train.main, train.FLAGS)
