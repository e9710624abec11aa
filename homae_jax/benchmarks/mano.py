"""The hand layer: vertices and joints, and their gradients, by batch size.

Beside smplx's, where `--peer` names a Python that has it.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from homae_jax.benchmarks import _peer
from homae_jax.benchmarks._measure import Measurement, measure
from homae_jax.geometry.rotations import aa_to_rotmat
from homae_jax.hand import mano
from homae_jax.hand.joints import PARENTS
from homae_jax.hand.mano_files import NPZ_KEYS, SHAPES, load_mano

BATCHES = (1, 24, 1024)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this section."""
    parser.add_argument(
        "--mano", default="", help="MANO file; default: random numbers of its shapes"
    )
    parser.add_argument("--batch", type=int, nargs="+", default=list(BATCHES))
    _peer.add_arguments(parser)
    parser.set_defaults(prepare=_load_model)


def _load_model(options: argparse.Namespace) -> None:
    options.model = load_mano(options.mano) if options.mano else _random_model()


def run(options: argparse.Namespace) -> Iterator[Measurement]:
    """Forward, then forward and backward, at every batch size."""
    model = jax.tree.map(jnp.asarray, options.model)
    forward, backward = jax.jit(_forward), jax.jit(jax.grad(_loss, argnums=(1, 2)))
    for num in options.batch:
        keys = jax.random.split(jax.random.key(0))
        pose = 0.5 * jax.random.normal(keys[0], (num, 16, 3))
        betas = jax.random.normal(keys[1], (num, 10))
        ours = {}
        for name, function in (("forward", forward), ("gradient", backward)):
            ours[name] = measure(
                function,
                model,
                pose,
                betas,
                name=f"MANO {name}",
                shapes=f"{num} x (16 axis-angles, 10 betas) -> 778 vertices, 21 joints",
                count=num,
                repeats=options.repeats,
            )
            yield ours[name]
        with tempfile.TemporaryDirectory() as folder:
            hand = _write_official(model, Path(folder) / "hand.npz")
            request = {"what": "mano", "hand": str(hand), "batch": num}
            yield from _peer.run("MANO, smplx", request, options, ours)


def _write_official(model: mano.ManoModel, path: Path) -> Path:
    """Arrays by their official names: the peer has no pickle to trust."""
    fields = {name: getattr(model, ours) for ours, name in NPZ_KEYS.items()}
    np.savez(path, kintree_table=[PARENTS, range(len(PARENTS))], **fields)
    return path


def _forward(model: mano.ManoModel, pose: jax.Array, betas: jax.Array) -> tuple:
    return mano.mano_forward(model, aa_to_rotmat(pose), betas, fingertips="ho3d")


def _loss(model: mano.ManoModel, pose: jax.Array, betas: jax.Array) -> jax.Array:
    hand = _forward(model, pose, betas)
    return jnp.sum(hand.vertices**2) + jnp.sum(hand.joints**2)


def _random_model() -> mano.ManoModel:
    """Time does not depend on what the arrays hold."""
    rng = np.random.default_rng(0)
    arrays = {k: rng.normal(scale=0.01, size=s) for k, s in SHAPES.items()}
    faces = np.zeros((1552, 3), np.int32)
    return mano.ManoModel(
        template_vertices=arrays["v_template"].astype(np.float32),
        faces=faces[:1538],
        closed_faces=faces,
        shape_basis=arrays["shapedirs"].astype(np.float32),
        pose_basis=arrays["posedirs"].astype(np.float32),
        joint_regressor=arrays["J_regressor"].astype(np.float32),
        skinning_weights=arrays["weights"].astype(np.float32),
        hand_components=arrays["hands_components"].astype(np.float32),
        hand_mean=arrays["hands_mean"].astype(np.float32),
    )
