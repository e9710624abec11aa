"""DINOv2 encoders, forward and with their gradient, beside the public PyTorch ones.

The peer, transformers' Dinov2Model, runs in a process of its own where `--peer` names a
Python that has torch and transformers (`--compile` puts it through torch.compile).
"""

import argparse
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from homae_jax.benchmarks import _peer
from homae_jax.benchmarks._measure import Measurement, measure
from homae_jax.models.dinov2 import VARIANTS, make_encoder
from homae_jax.models.vit import Vit

IMAGE_SIZE = 224


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this section."""
    parser.add_argument(
        "--variant", nargs="+", choices=VARIANTS, default=["vits14", "vitb14"]
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dtype", choices=_peer.DTYPES, default="float32")
    _peer.add_arguments(parser, compiles=True, rounds=True)


def run(options: argparse.Namespace) -> Iterator[Measurement]:
    """Ours, then the peer's of the same variant."""
    for variant in options.variant:
        vit = make_encoder(variant, IMAGE_SIZE, dtype=jnp.dtype(options.dtype))
        image = jnp.ones((options.batch, IMAGE_SIZE, IMAGE_SIZE, 3))
        params = initial(vit, image[:1])
        ours = {}
        for name, function in (("forward", forward(vit)), ("gradient", gradient(vit))):
            ours[name] = measure(
                function,
                params,
                image,
                name=f"{variant} {name}",
                shapes=f"{options.batch} x {IMAGE_SIZE} px, {options.dtype}",
                count=options.batch,
                repeats=options.repeats,
            )
            yield ours[name]
        yield from _run_peer(variant, options, ours)


def forward(vit: Vit) -> Callable[..., jax.Array]:
    """Parameters and images -> patch tokens, compiled."""
    return jax.jit(functools.partial(_encode, vit))


def gradient(vit: Vit) -> Callable[..., dict]:
    """Parameters and images -> the gradient of a sum of squares, compiled."""

    def total(params: dict, image: jax.Array) -> jax.Array:
        return jnp.sum(_encode(vit, params, image, train=True) ** 2)

    return jax.jit(jax.grad(total))


def _encode(vit: Vit, params: dict, image: jax.Array, train: bool = False) -> jax.Array:
    return vit.apply({"params": params}, image, train=train).patch_tokens


def initial(vit: Vit, image: jax.Array) -> dict:
    """Random parameters."""
    init = jax.jit(functools.partial(vit.init, train=False))
    return init(jax.random.key(0), image)["params"]


def _run_peer(
    variant: str, options: argparse.Namespace, ours: dict[str, Measurement]
) -> Iterator[Measurement]:
    sizes = VARIANTS[variant]
    request = {
        "what": "dinov2",
        "config": {
            "hidden_size": sizes.width,
            "num_hidden_layers": sizes.depth,
            "num_attention_heads": sizes.num_heads,
            "patch_size": sizes.patch,
            "image_size": IMAGE_SIZE,
        },
        "image_size": IMAGE_SIZE,
        "batch": options.batch,
        "compile": options.compile,
        "dtype": options.peer_dtype,
    }
    yield from _peer.run(f"{variant}, transformers", request, options, ours)
