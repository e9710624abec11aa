"""The setting of the toys: some seconds of steps and saves."""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    c = common.get_config()
    c.name = "toy"
    c.device = "any"
    c.train.batch_size = 8
    c.train.steps = 24
    c.train.log_every = 4
    c.train.checkpoint_every = 5
    c.train.figures_every = 0
    return c
