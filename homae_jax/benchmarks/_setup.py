"""A configuration's network and one real batch, for the sections that need them."""

import argparse
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from homae_jax import assembly, config_flags
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
    parser.add_argument("--config", default=CONFIG, help="configuration file")
    parser.add_argument(
        "--batch", type=int, help="pictures; default: the configuration's"
    )
    add_overrides(parser)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """The option that overrides keys of a configuration."""
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="overrides, such as data.root=/data/HO3D_v2 model.dtype=bfloat16",
    )


def read_overrides(options: argparse.Namespace) -> list[config_flags.Override]:
    """What was given to `--set`."""
    pairs = [override.partition("=") for override in options.set]
    return [config_flags.Override(key, value) for key, _, value in pairs]


def load_config(options: argparse.Namespace) -> Any:
    """The configuration with its overrides; the data made ready."""
    config = config_flags.load_config(options.config, read_overrides(options))
    assembly.prepare_data(config)
    return config


def build(options: argparse.Namespace) -> Setup:
    """Reads the data set's first frames and makes fresh parameters."""
    config = load_config(options)
    parts = assembly.build_parts(config)
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
