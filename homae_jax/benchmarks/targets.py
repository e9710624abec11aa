"""What a training step supervises: time by kind of object distance, and agreement.

Objects have their distances from baked lattices or exactly. The two are compared at
points within NEAR of each object's surface.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from homae_jax import assembly
from homae_jax.benchmarks import _setup
from homae_jax.benchmarks._measure import Measurement, measure
from homae_jax.geometry import mesh_sdf
from homae_jax.schema import ObjectTemplates
from homae_jax.targets import compute_targets
from homae_jax.training import prng

NEAR = 0.01  # metres
LIMIT = 0.0005  # metres that the two kinds of distance may differ by
TABLES = ("sdf_grid", "sdf_nearest", "nearby_faces")
CHUNK = 256  # faces at once: bounds memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this section."""
    _setup.add_arguments(parser)
    parser.add_argument("--points", type=int, default=1000, help="per object")


def run(options: argparse.Namespace) -> Iterator[Measurement]:
    """All targets with either kind of distance; then each object's disagreement."""
    setup = _setup.build(options)
    num, size = setup.batch.image.shape[:2]
    for kind in ("grid", "exact"):
        yield measure(
            make_function(setup, object_sdf=kind),
            setup.batch,
            prng.make_key(0),
            name=f"targets, object distances: {kind}",
            shapes=f"{num} pictures of {size} px",
            count=num,
            repeats=options.repeats,
        )
    yield _agreement(setup, options.points)


def make_function(setup: _setup.Setup, *, object_sdf: str) -> Callable[..., Any]:
    """A compiled function from a batch and a key to its targets."""
    options = assembly.target_options(setup.config) | {"object_sdf": object_sdf}

    def targets(batch: Any, key: jax.Array) -> Any:
        return compute_targets(
            key,
            batch,
            mano=setup.parts.mano,
            templates=setup.parts.templates,
            point_jitter=jnp.float32(0.0),
            **options,
        )

    return jax.jit(targets)


def disagreement(
    template: ObjectTemplates, key: jax.Array, num: int
) -> Float[Array, " p"]:
    """Lattice less mesh near one object's surface, metres, without sign."""
    surface_key, direction_key = jax.random.split(key)
    surface = mesh_sdf.sample_surface(
        surface_key, template.vertices, template.faces, num
    )
    offset = jax.random.uniform(direction_key, (num, 3), minval=-1.0, maxval=1.0)
    points = surface + NEAR / np.sqrt(3) * offset
    exact = mesh_sdf.signed_distance(
        points, template.vertices, template.faces, face_chunk=CHUNK
    )
    lattice = mesh_sdf.SdfGrid(
        template.sdf_grid,
        template.sdf_origin,
        template.sdf_pitch,
        template.sdf_nearest,
    )
    looked_up = mesh_sdf.lattice_signed_distance(
        points, template.vertices, template.faces, template.nearby_faces, lattice
    )
    return jnp.abs(looked_up - exact)


def _agreement(setup: _setup.Setup, num: int) -> Measurement:
    names, templates = setup.parts.object_names, setup.parts.templates
    compare = jax.jit(disagreement, static_argnums=2)
    rows = [jax.tree.map(lambda t, i=i: t[i], templates) for i in range(len(names))]
    keys = jax.random.split(jax.random.key(0), len(rows))

    def compare_all() -> list[jax.Array]:
        pairs = zip(rows, keys, strict=True)
        return [compare(row, key, num) for row, key in pairs]

    result = measure(
        compare_all,
        name="object distances: lattice against mesh",
        shapes=f"{len(names)} objects x {num} points within {1e3 * NEAR:.0f} mm",
        count=len(names) * num,
        repeats=1,
    )
    differences = np.stack([np.asarray(row) for row in compare_all()])
    return result._replace(figures=_figures(names, differences, templates))


def _figures(
    names: tuple[str, ...], differences: np.ndarray, templates: ObjectTemplates
) -> dict[str, float]:
    """Millimetres; objects are named where they go beyond the limit."""
    figures = {
        "mean_mm": 1e3 * float(differences.mean()),
        "p99_mm": 1e3 * float(np.percentile(differences, 99)),
        "largest_mm": 1e3 * float(differences.max()),
        "share_within_limit": float((differences <= LIMIT).mean()),
        "largest_pitch_mm": 1e3 * float(np.max(templates.sdf_pitch)),
        "tables_mb": sum(
            np.asarray(getattr(templates, key)).nbytes / 1e6 for key in TABLES
        ),
    }
    for name, row in zip(names, differences, strict=True):
        if row.max() > LIMIT:
            figures[f"largest_mm of {name}"] = 1e3 * float(row.max())
    return figures
