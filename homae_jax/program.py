"""Serialises a network as StableHLO programs that run without this project's code.

`jax.export` with a symbolic batch for cpu and cuda. Parameters come in flat, by the
names of ``parameters.safetensors``; the hand as the arrays of ``hand.npz``, so that no
licensed array is inside. Both platforms get the accelerators' form of products and
attention (models/products.py). Part of the entry point export; exported.py reads the
result.
"""

import importlib.util
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import traverse_util
from jax import export

from homae_jax import assembly
from homae_jax.errors import UserError
from homae_jax.exported import ABOUT, LOCATE, PROGRAM
from homae_jax.hand.mano import ManoModel
from homae_jax.models.xla_cpu import as_on_accelerators
from homae_jax.predictor import answer_batch

PLATFORMS = ("cpu", "cuda")


def build_programs(
    config: ml_collections.ConfigDict, params: Any, mano: ManoModel
) -> dict[str, bytes]:
    """Files by name: the answer, the auxiliary head if there is one, their note.

    Raises:
      UserError: the package that jax.export writes with is not installed.
    """
    if importlib.util.find_spec("flatbuffers") is None:
        raise UserError("programs need flatbuffers: pip install flatbuffers")
    model = assembly.build_model(config)
    if config.model.dtype == "auto":
        model = model.clone(dtype="float32")  # which every device has
    flat = traverse_util.flatten_dict(dict(params), sep="/")
    size, (b,) = config.data.image_size, export.symbolic_shape("b")
    params_spec = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in flat.items()}
    hand = {k: np.asarray(v) for k, v in mano._asdict().items()}
    hand_spec = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in hand.items()}
    image = jax.ShapeDtypeStruct((b, size, size, 3), jnp.uint8)
    matrix = jax.ShapeDtypeStruct((b, 3, 3), jnp.float32)
    box, point = (jax.ShapeDtypeStruct((b, n), jnp.float32) for n in (4, 3))

    # Written for one row and mapped over the batch: nothing inside sees its symbol.
    def answer(params: Mapping, hand: Mapping, *row: jax.Array) -> dict:
        image, intrinsics, hand_box, object_box, wrist, center = _as_batch(row)
        blank = jax.tree.map(jnp.asarray, assembly.blank_batch(config, 1))
        batch = blank._replace(
            image=image,
            intrinsics=intrinsics,
            hand_box_px=hand_box,
            object_box_px=object_box,
            wrist=wrist,
            object_center=center,
        )
        nested = _nested(params)
        found = answer_batch(nested, batch, ManoModel(**hand), model=model)
        return jax.tree.map(lambda x: x[0], found)

    def locate(params: Mapping, *row: jax.Array) -> dict:
        variables = {"params": _nested(params)}
        found = model.apply(variables, *_as_batch(row), method="locate")
        return jax.tree.map(lambda x: x[0], found._asdict())

    specs = (params_spec, hand_spec, image, matrix, box, box, point, point)
    mapped = jax.vmap(answer, in_axes=(None, None, *[0] * 6))
    files = {PROGRAM: _serialised(mapped, *specs)}
    if model.auxiliary:
        mapped = jax.vmap(locate, in_axes=(None, 0, 0))
        files[LOCATE] = _serialised(mapped, params_spec, image, matrix)
    about = {
        "image_size": size,
        "platforms": PLATFORMS,
        "hand_arrays": list(hand),
        "jax": jax.__version__,
        "frame": "OpenCV camera, metres; pixels of the crop",
    }
    return files | {ABOUT: (json.dumps(about, indent=2) + "\n").encode()}


def _as_batch(row: tuple[jax.Array, ...]) -> list[jax.Array]:
    return [x[None] for x in row]


def _nested(params: Mapping[str, jax.Array]) -> dict:
    """Flat parameters as the network wants them."""
    return traverse_util.unflatten_dict(dict(params), sep="/")


def _serialised(function: Any, *specs: Any) -> bytes:
    with as_on_accelerators():
        exported = export.export(jax.jit(function), platforms=PLATFORMS)(*specs)
    return bytes(exported.serialize())
