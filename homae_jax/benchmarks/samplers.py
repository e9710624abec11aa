"""Coarse-to-fine sampling against the dense one, on trained weights.

Both read the same pictures with the same parameters. Compared are the chosen points
(the share that both choose), the poses read from them, and the evaluations of the
signed distance that they cost.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import homae_jax
from homae_jax import assembly, config_flags
from homae_jax.benchmarks import _counts
from homae_jax.benchmarks._measure import Measurement, measure
from homae_jax.schema import Outputs

SAMPLERS = ("dense", "coarse_to_fine")
PRETRAINED = Path(homae_jax.__file__).parent / "pretrained"
COMPARED = (
    "hand_points_norm",
    "object_points_norm",
    "joints",
    "vertices",
    "object_rotmat",
    "object_trans",
)


class Pictures(NamedTuple):
    """Trained parameters, and what they look at."""

    config: Any
    parts: assembly.Parts
    params: Any
    batches: list


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this section."""
    parser.add_argument(
        "--run", default=str(PRETRAINED), help="a run or an export; default: ours"
    )
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--batch", type=int, default=8)
    config_flags.add_overrides(parser)
    parser.set_defaults(prepare=_open_run)


def _open_run(options: argparse.Namespace) -> None:
    options.stored = assembly.open_run(options.run)
    config_flags.apply_overrides(options.stored.config, options.overrides)
    assembly.prepare_data(options.stored.config)


def run(options: argparse.Namespace) -> Iterator[Measurement]:
    """Either sampler on one batch; the second with what it shares with the first."""
    pictures = _open(options)
    points = pictures.config.model.points
    outputs = {}
    for sampler in SAMPLERS:
        infer = _make_function(pictures, sampler)
        found = [infer(pictures.params, batch) for batch in pictures.batches]
        outputs[sampler] = {
            key: np.concatenate([np.asarray(each[key]) for each in found])
            for key in COMPARED
        }
        figures = {
            f"{target}_evaluations": float(num)
            for target, num in _counts.evaluations(points, sampler).items()
        }
        if sampler != SAMPLERS[0]:
            figures |= compare(outputs[SAMPLERS[0]], outputs[sampler], points)
        result = measure(
            infer,
            pictures.params,
            pictures.batches[0],
            name=f"{sampler}, {points.grid_size}^3 lattice",
            shapes=f"{options.batch} of {len(outputs[sampler]['joints'])} pictures",
            count=options.batch,
            repeats=options.repeats,
        )
        yield result._replace(figures=figures)


def compare(
    dense: dict[str, np.ndarray], fine: dict[str, np.ndarray], points: Any
) -> dict[str, float]:
    """Shares and differences; lengths in millimetres, of the worst picture too."""
    figures = {}
    for target, spent in _counts.evaluations(points, SAMPLERS[1]).items():
        shares = overlap(
            dense[f"{target}_points_norm"],
            fine[f"{target}_points_norm"],
            grid_size=points.grid_size,
        )
        figures[f"{target}_overlap"] = float(shares.mean())
        figures[f"{target}_overlap_worst"] = float(shares.min())
        figures[f"{target}_share_of_evaluations"] = spent / points.grid_size**3
    lengths = {
        key: 1e3 * np.linalg.norm(dense[key] - fine[key], axis=-1)
        for key in ("joints", "vertices", "object_trans")
    }
    for key, values in lengths.items():
        figures[f"{key}_mm"] = float(values.mean())
        figures[f"{key}_mm_worst"] = float(values.max())
    chord = np.linalg.norm(dense["object_rotmat"] - fine["object_rotmat"], axis=(1, 2))
    turns = 2 * np.arcsin(np.clip(chord / np.sqrt(8), 0, 1))
    figures["object_rotation_deg"] = float(np.degrees(turns).mean())
    figures["object_rotation_deg_worst"] = float(np.degrees(turns).max())
    return figures


def overlap(dense: np.ndarray, fine: np.ndarray, *, grid_size: int) -> np.ndarray:
    """Share of the points of two samplers that are the same, per picture."""

    def numbers(points: np.ndarray) -> list[set]:
        steps = np.rint((points + 1) / 2 * (grid_size - 1)).astype(int)
        return [set(map(tuple, row)) for row in steps]

    pairs = zip(numbers(dense), numbers(fine), strict=True)
    return np.array([len(a & b) / len(a) for a, b in pairs])


def _open(options: argparse.Namespace) -> Pictures:
    stored, config = options.stored, options.stored.config
    parts = assembly.build_parts(config)
    params = assembly.load_params(
        stored.folder, assembly.param_shapes(config, parts), stored.step
    )
    source = assembly.build_source(config, config.data.eval_split)
    num = -(-min(options.pictures, len(source)) // options.batch) * options.batch
    rows = np.linspace(0, len(source) - 1, num).astype(int)
    config.evaluate.batch_size = options.batch
    batches = assembly.build_eval_batches(config, source, rows, parts.object_names)
    on_device = [jax.tree.map(jnp.asarray, batch) for batch in batches]
    return Pictures(config, parts, params, on_device)


def _make_function(pictures: Pictures, sampler: str) -> Callable[..., Any]:
    """A compiled function from parameters and batch to what is compared."""
    model = pictures.parts.model
    options = {**model.points, "sampler": sampler}
    model = model.clone(points=options)

    def infer(params: Any, batch: Any) -> dict[str, jax.Array]:
        outputs: Outputs = model.apply({"params": params}, batch, pictures.parts.mano)
        return {key: getattr(outputs, key) for key in COMPARED}

    return jax.jit(infer)
