"""A configuration's network and one real batch, for the sections that need them.

What a section's `add_arguments` sets as `prepare` opens what the user named, before
anything is measured: its mistakes come at once.
"""

import argparse
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from homae_jax import assembly, config_flags
from homae_jax.models.attention import check_implementation
from homae_jax.schema import Batch

CONFIG = "configs/synthetic.py"


class Setup(NamedTuple):
    """What a configuration gives."""

    config: Any
    parts: assembly.Parts
    source: Any  # of the training split
    batch: Batch  # on the device
    params: Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of every section that runs the network."""
    add_config(parser)
    parser.add_argument(
        "--batch", type=int, help="pictures; default: the configuration's"
    )


def add_config(parser: argparse.ArgumentParser) -> None:
    """A configuration, which is `options.config` once it is prepared."""
    parser.add_argument(
        "--config",
        dest="config_file",
        default=CONFIG,
        metavar="FILE",
        help=f"configuration file; default: {CONFIG}",
    )
    config_flags.add_overrides(parser)
    parser.set_defaults(prepare=_load_config)


def _load_config(options: argparse.Namespace) -> None:
    config = config_flags.load_config(options.config_file, options.overrides)
    assembly.prepare_data(config)
    assembly.check_split(config, config.data.train_split)
    options.config = config


def build(options: argparse.Namespace) -> Setup:
    """Reads the data set's first frames and makes fresh parameters.

    Raises:
      UserError: what would be measured is not what the configuration asks for.
    """
    config = options.config
    parts = assembly.build_parts(config)
    check_implementation(parts.model.encoder["attention"], parts.model.dtype)
    source = assembly.build_source(config, config.data.train_split)
    config.evaluate.batch_size = options.batch or config.train.batch_size
    rows = np.arange(config.evaluate.batch_size) % len(source)
    batches = assembly.build_eval_batches(config, source, rows, parts.object_names)
    batch = jax.tree.map(jnp.asarray, next(batches))
    return Setup(config, parts, source, batch, assembly.initial_params(config, parts))


def describe(setup: Setup, num: int) -> str:
    """Shapes and settings of a measurement on `num` pictures."""
    model = setup.parts.model
    return (
        f"{num} pictures of {model.image_size} px, {model.encoder['variant']}, "
        f"{model.dtype}, {model.points['sampler']} in {model.points['grid_size']}^3"
    )
