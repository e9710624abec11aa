"""Counts that do not depend on how busy a machine is, against those of counts.json.

`python -m tests.benchmarks.counting` writes the file anew, after a change that is meant
to cost what it costs. Arithmetic is that of the programs' jaxprs, at the paper's and
the default's sizes; flops, bytes and memory are XLA's, of programs of toy size on a
CPU.
"""

import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from configs import ho3d, synthetic
from homae_jax import assembly
from homae_jax.benchmarks import _counts
from homae_jax.models.homae import Homae
from homae_jax.training import objective, prng
from tests import toy

PATH = Path(__file__).with_name("counts.json")
BATCH = 2
SAMPLERS = {
    "dense": {"sampler": "dense"},
    "coarse_to_fine": {
        "sampler": "coarse_to_fine",
        "coarse_factor": 16,
        "refine_share": 0.012,
    },
}


def paper(sampler: str, variant: str = "vitb14") -> Any:
    """HO-3D's configuration in float32, with one of the samplers."""
    config = ho3d.get_config()
    config.model.dtype = "float32"
    config.model.encoder.variant = variant
    config.model.points.update(SAMPLERS[sampler])
    return config


def default() -> Any:
    """The synthetic default in float32, whatever this machine is faster in."""
    config = synthetic.get_config()
    config.model.dtype = "float32"
    return config


def evaluations(config: Any) -> int:
    """Of signed distances, for one picture."""
    return sum(_counts.evaluations(config.model.points).values())


def shapes(config: Any) -> tuple[Any, Any]:
    """Those of the parameters, which no sampler has any of, and of a batch."""
    model, mano = assembly.build_model(config), toy.toy_mano()
    parts = assembly.Parts(model, mano, toy.toy_templates(), ("box", "ball"))
    batch = jax.eval_shape(
        lambda: jax.tree.map(jnp.asarray, assembly.blank_batch(config, BATCH))
    )
    return assembly.param_shapes(config, parts), batch


def inference(config: Any, params: Any, batch: Any) -> _counts.Arithmetic:
    """Of a batch's inference, given `shapes`."""
    model, mano = assembly.build_model(config), toy.toy_mano()
    return _counts.count_arithmetic(
        lambda params, batch: model.apply({"params": params}, batch, mano),
        params,
        batch,
    )


def loss_gradient(
    config: Any, params: Any, batch: Any, *, own_points: bool
) -> _counts.Arithmetic:
    """Of a batch's loss and gradient, targets included, given `shapes`."""
    loss = objective.make_loss_fn(
        assembly.build_model(config),
        mano=toy.toy_mano(),
        templates=toy.toy_templates(),
        target_options=assembly.target_options(config),
        loss_options=assembly.loss_options(config),
        jitter=config.targets.point_jitter,
        steps_per_epoch=100,
        switch_step=0,
        own_points_probability=float(own_points),
    )
    key = jax.eval_shape(lambda: prng.make_key(0))
    step = jax.ShapeDtypeStruct((), jnp.int32)
    gradient = jax.grad(loss, has_aux=True)
    return _counts.count_arithmetic(gradient, params, batch, key, step)


@functools.cache
def compiled_inference() -> Any:
    """A toy network's inference, compiled."""
    apply, params, batch = toy_inference()
    return apply.lower(params, batch).compile()


@functools.cache
def toy_inference() -> tuple[Any, Any, Any]:
    """The smallest network's, with the sampler that refines; its arguments."""
    options = toy.toy_model_options()
    options["points"] |= {"sampler": "coarse_to_fine", "grid_size": 16}
    model, batch, mano = Homae(**options), toy.toy_batch(BATCH), toy.toy_mano()
    params = toy.toy_parameters(
        model, batch, mano, targets=toy.blank_targets(batch), own_points=False
    )
    return jax.jit(lambda p, batch: model.apply(p, batch, mano)), params, batch


def all_counts() -> dict[str, float]:
    """Every count, by name."""
    counts: dict[str, float] = {}
    of_paper = shapes(paper("dense"))
    for sampler in SAMPLERS:
        config = paper(sampler)
        counts[f"evaluations, paper, {sampler}"] = evaluations(config)
        total = inference(config, *of_paper).total
        counts[f"arithmetic, paper, inference, {sampler}"] = total
        total = loss_gradient(config, *of_paper, own_points=True).total
        counts[f"arithmetic, paper, gradient, own points, {sampler}"] = total
    total = loss_gradient(config, *of_paper, own_points=False).total
    counts["arithmetic, paper, gradient, true points"] = total
    of_default = shapes(default())
    counts["evaluations, synthetic"] = evaluations(default())
    for own_points in (False, True):
        name = "own" if own_points else "true"
        total = loss_gradient(default(), *of_default, own_points=own_points).total
        counts[f"arithmetic, synthetic, gradient, {name} points"] = total
    analysis = _counts.analyse(compiled_inference())
    for name, value in analysis._asdict().items():
        counts[f"XLA, toy inference, {name}"] = value
    return {name: float(value) for name, value in counts.items()}


if __name__ == "__main__":
    report = {"jax": jax.__version__, "counts": all_counts()}
    PATH.write_text(json.dumps(report, indent=2) + "\n")
    print(PATH.read_text())
