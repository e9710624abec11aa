"""DINOv2 variants and their weights, from any of the public namings.

A weights file is read into this project's names by a table of target -> source keys and
a transform; anything left over on either side is an error. Namings: the Hub's
``model.safetensors`` (transformers), the official ``.pth`` state dict, timm's, and the
file that ``python -m homae_jax.convert dinov2`` writes. Arrays here are numpy; the
parameters returned are the ``params`` collection of models/vit.py.
"""

import json
import math
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.typing import DTypeLike
from jaxtyping import Float

from homae_jax.errors import UserError
from homae_jax.models.vit import Vit

IMAGE_MEAN = (0.485, 0.456, 0.406)  # RGB in [0, 1]; ImageNet, as DINOv2 was trained
IMAGE_STD = (0.229, 0.224, 0.225)
METADATA_KEY = "__metadata__"  # JSON text in our .npz files
PRETRAINED_SIZE = 518  # px; the grid of the public position embeddings is 37 x 37

State = dict[str, np.ndarray]
Transform = Callable[[np.ndarray], np.ndarray]


class Variant(NamedTuple):
    """Sizes of one encoder; the fields are those of `Vit` save the last two."""

    patch: int
    width: int
    depth: int
    num_heads: int
    mlp_hidden: int
    ffn: str = "mlp"
    num_registers: int = 0
    stem: str = "patch"
    stem_widths: tuple[int, ...] = ()
    stem_blocks: tuple[int, ...] = ()
    layerscale_init: float = 1.0
    # DINOv2 resizes its position embedding by (grid + 0.1) / 37 without antialiasing,
    # the models with registers by grid / 37 with it.
    position_offset: float = 0.1
    position_antialias: bool = False


_PUBLIC = {
    "vits14": Variant(14, 384, 12, 6, 1536),
    "vitb14": Variant(14, 768, 12, 12, 3072),
    "vitl14": Variant(14, 1024, 24, 16, 4096),
    "vitg14": Variant(14, 1536, 40, 24, 4096, ffn="swiglu"),
}
VARIANTS: Mapping[str, Variant] = {
    **_PUBLIC,
    **{
        f"{name}_reg": variant._replace(
            num_registers=4, position_offset=0.0, position_antialias=True
        )
        for name, variant in _PUBLIC.items()
    },
    # Trained from scratch, for CPUs and tests: the stem does most of the work.
    "vit_tiny": Variant(
        16,
        192,
        2,
        6,
        384,
        stem="conv",
        stem_widths=(24, 48, 96, 160, 192),
        stem_blocks=(0, 1, 1, 1, 1),
        # Starts as a CNN: with 1.0 the blocks' noise stops learning at 1e-3.
        layerscale_init=0.1,
    ),
}


class Naming(NamedTuple):
    """Where one public layout keeps what; block keys follow ``block``."""

    cls: str
    position: str
    registers: str
    patch_embed: str
    norm: str
    unused: tuple[str, ...]
    block: str
    qkv: tuple[str, ...]
    proj: str
    scale: str
    mlp: Mapping[str, str]


NAMINGS: Mapping[str, Naming] = {
    "hub": Naming(
        cls="embeddings.cls_token",
        position="embeddings.position_embeddings",
        registers="embeddings.register_tokens",
        patch_embed="embeddings.patch_embeddings.projection",
        norm="layernorm",
        unused=("embeddings.mask_token",),
        block="encoder.layer.",
        qkv=tuple(f"attention.attention.{x}" for x in ("query", "key", "value")),
        proj="attention.output.dense",
        scale="layer_scale{}.lambda1",
        mlp={x: f"mlp.{x}" for x in ("fc1", "fc2")}
        | {"w12": "mlp.weights_in", "w3": "mlp.weights_out"},
    ),
    "official": Naming(
        cls="cls_token",
        position="pos_embed",
        registers="register_tokens",
        patch_embed="patch_embed.proj",
        norm="norm",
        unused=("mask_token",),
        block="blocks.",
        qkv=("attn.qkv",),
        proj="attn.proj",
        scale="ls{}.gamma",
        mlp={x: f"mlp.{x}" for x in ("fc1", "fc2", "w12", "w3")},
    ),
}
# timm renames the registers and the gated MLP, keeps no mask token, and in models with
# registers adds the class position to the class token and drops its row.
NAMINGS = NAMINGS | {
    "timm": NAMINGS["official"]._replace(
        registers="reg_token",
        unused=(),
        mlp={x: f"mlp.{x}" for x in ("fc1", "fc2")}
        | {"w12": "mlp.fc1", "w3": "mlp.fc2"},
    )
}


def make_encoder(
    variant: str,
    image_size: int,
    *,
    attention: str = "xla",
    remat: bool = False,
    drop_path: float = 0.0,
    dtype: DTypeLike = jnp.float32,
) -> Vit:
    """The encoder of a named variant for square images.

    Raises:
      UserError: unknown variant or attention, or a size its patches do not tile.
    """
    sizes = find_variant(variant)
    if image_size <= 0 or image_size % sizes.patch:
        raise UserError(
            f"data.image_size={image_size}: {variant} needs a multiple of its patch of "
            f"{sizes.patch} px"
        )
    if attention not in ("xla", "cudnn"):
        raise UserError(f"model.encoder.attention={attention!r}: use xla or cudnn")
    return make_vit(
        sizes,
        image_size,
        attention=attention,
        remat=remat,
        drop_path=drop_path,
        dtype=dtype,
    )


def find_variant(name: str) -> Variant:
    """Looks up a variant.

    Raises:
      UserError: there is none of this name.
    """
    if name not in VARIANTS:
        raise UserError(
            f"model.encoder.variant={name!r}: expected one of {', '.join(VARIANTS)}"
        )
    return VARIANTS[name]


def load_dinov2(path: str | Path, *, variant: str, image_size: int) -> dict[str, Any]:
    """Parameters of `make_encoder(variant, image_size)` from a weights file.

    The file's own variant and image statistics are checked; its position embedding is
    resized to the grid of `image_size`.

    Raises:
      UserError: the file is unreadable, of another variant, or does not match the
        variant key for key and shape for shape; one line that lists the differences.
    """
    sizes = find_variant(variant)
    state, metadata = read_weights(path)
    found = detect_variant(state, path)
    if found != variant:
        raise UserError(
            f"{path} holds {found}, the config asks for {variant}: set "
            f"model.encoder.variant={found} or give other weights"
        )
    check_image_statistics(path, metadata)
    flat = convert_state(state, sizes, name=str(path))
    flat["position_embedding"] = resize_position_embedding(
        flat["position_embedding"],
        image_size // sizes.patch,
        offset=sizes.position_offset,
        antialias=sizes.position_antialias,
    )
    return traverse_util.unflatten_dict(flat, sep="/")


def convert_state(state: State, sizes: Variant, *, name: str) -> State:
    """Renames and transposes a public state dict, strictly; keys joined by "/".

    The position embedding keeps the file's grid.

    Args:
      name: what error messages call the source.

    Raises:
      UserError: keys missing or left over, or shapes that differ.
    """
    naming = detect_naming(state, name)
    if naming == "own":
        table = {key: ((key,), _same) for key in expected_shapes(sizes, 1)}
        unused: tuple[str, ...] = ()
    else:
        table = key_table(naming, sizes)
        unused = NAMINGS[naming].unused
    wanted = {key for sources, _ in table.values() for key in sources}
    problems = []
    if missing := sorted(wanted - state.keys()):
        problems.append(f"missing {_listing(missing)}")
    if left := sorted(state.keys() - wanted - set(unused)):
        problems.append(f"not known {_listing(left)}")
    if problems:
        raise UserError(f"{name} ({naming} naming): {'; '.join(problems)}")
    flat = {
        target: _apply(transform, [state[key] for key in sources])
        for target, (sources, transform) in table.items()
    }
    _check_shapes(flat, sizes, name)
    return flat


def key_table(
    naming: str, sizes: Variant
) -> dict[str, tuple[tuple[str, ...], Transform]]:
    """Our parameter -> the keys it is made of, and how; several keys are stacked."""
    names = NAMINGS[naming]
    drops_class_row = naming == "timm" and sizes.num_registers > 0
    position = _with_class_row if drops_class_row else _tokens
    table = {
        "cls_token": ((names.cls,), _tokens),
        "position_embedding": ((names.position,), position),
    }
    if sizes.num_registers:
        table["register_tokens"] = ((names.registers,), _tokens)
    table |= _affine("patch_embed", (names.patch_embed,), "kernel", _conv_kernel)
    table |= _affine("norm", (names.norm,), "scale", _same)
    layers = {"mlp": ("fc1", "fc2"), "swiglu": ("w12", "w3")}[sizes.ffn]
    for i in range(sizes.depth):
        ours, theirs = f"blocks_{i}", f"{names.block}{i}."
        qkv = tuple(theirs + key for key in names.qkv)
        table |= _affine(f"{ours}/attn/qkv", qkv, "kernel", _dense_kernel)
        proj = (theirs + names.proj,)
        table |= _affine(f"{ours}/attn/proj", proj, "kernel", _dense_kernel)
        for layer in layers:
            source = (theirs + names.mlp[layer],)
            table |= _affine(f"{ours}/mlp/{layer}", source, "kernel", _dense_kernel)
        for k in (1, 2):
            source = (f"{theirs}norm{k}",)
            table |= _affine(f"{ours}/norm{k}", source, "scale", _same)
            table[f"{ours}/scale{k}"] = ((theirs + names.scale.format(k),), _same)
    return table


def detect_naming(state: State, name: str) -> str:
    """Tells "hub", "official", "timm" or "own" by the keys.

    Raises:
      UserError: none of them.
    """
    if "position_embedding" in state:
        return "own"
    if NAMINGS["hub"].position in state:
        return "hub"
    if NAMINGS["official"].position in state:
        marks = ("mask_token", "register_tokens", "blocks.0.mlp.w12.weight")
        return "official" if any(mark in state for mark in marks) else "timm"
    raise UserError(
        f"{name} holds no DINOv2 backbone (first keys: {_listing(sorted(state))}): "
        "expected the Hub's model.safetensors, the official .pth, timm's, or the "
        "output of `python -m homae_jax.convert dinov2`"
    )


def detect_variant(state: State, name: str | Path) -> str:
    """The variant whose sizes a state dict has.

    Raises:
      UserError: it has the sizes of none.
    """
    naming = detect_naming(state, str(name))
    if naming == "own":
        cls, registers, patch = "cls_token", "register_tokens", "patch_embed/kernel"
        block, gated = "blocks_", "mlp/w12"
    else:
        names = NAMINGS[naming]
        cls, registers, block = names.cls, names.registers, names.block
        patch, gated = f"{names.patch_embed}.weight", names.mlp["w12"]
    if cls not in state or patch not in state:
        raise UserError(f"{name} ({naming} naming): missing {cls} or {patch}")
    pattern = re.compile(re.escape(block) + r"(\d+)")
    indices = [int(m.group(1)) for key in state if (m := pattern.match(key))]
    width = state[cls].shape[-1]
    num_registers = state[registers].shape[-2] if registers in state else 0
    swiglu = any(gated in key for key in state)
    if naming == "timm":  # both feed-forwards are called fc1, fc2
        hidden = {k: state.get(f"blocks.0.mlp.{k}.weight") for k in ("fc1", "fc2")}
        wide = [0 if x is None else max(x.shape) for x in hidden.values()]
        swiglu = wide[0] != wide[1]
    ffn = "swiglu" if swiglu else "mlp"
    depth = max(indices, default=-1) + 1
    for known, sizes in VARIANTS.items():
        same = (sizes.width, sizes.depth, sizes.num_registers, sizes.ffn)
        if sizes.stem == "patch" and same == (width, depth, num_registers, ffn):
            return known
    raise UserError(
        f"{name} holds a ViT of width {width}, depth {depth}, {num_registers} "
        f"registers, feed-forward {ffn}: no variant of DINOv2 has these sizes"
    )


def read_weights(path: str | Path) -> tuple[State, dict[str, Any]]:
    """Reads a flat state dict and its metadata; nothing in the file is executed.

    Raises:
      UserError: no such file, an unknown kind, or unreadable.
    """
    path = Path(path)
    readers = {
        ".safetensors": _read_safetensors,
        ".npz": _read_npz,
        ".pth": _read_torch,
        ".pt": _read_torch,
        ".bin": _read_torch,
    }
    if path.suffix not in readers:
        is_there = "" if path.exists() else "no such file; "
        raise UserError(
            f"{path}: {is_there}expected one ending in {', '.join(readers)}"
        )
    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    return readers[path.suffix](path)


def check_image_statistics(path: str | Path, metadata: Mapping[str, Any]) -> None:
    """Compares mean and deviation stated by a weights file, if any, with ours.

    They are looked for in the file's own metadata, then in the ``config.json`` and
    ``preprocessor_config.json`` that the Hub keeps beside ``model.safetensors``.

    Raises:
      UserError: they differ from ImageNet's, with which this project normalises.
    """
    stated = [metadata]
    for name in ("preprocessor_config.json", "config.json"):
        beside = Path(path).parent / name
        if Path(path).suffix != ".npz" and beside.is_file():
            stated.append(_read_json(beside))
    for source in stated:
        config = source.get("pretrained_cfg")
        source = {**source, **(config if isinstance(config, dict) else {})}
        mean = source.get("image_mean", source.get("mean"))
        std = source.get("image_std", source.get("std"))
        for found, ours in ((mean, IMAGE_MEAN), (std, IMAGE_STD)):
            if found is not None and not _is_close(found, ours):
                raise UserError(
                    f"{path}: its images were normalised by {found!r:.80}, we use "
                    f"{list(ours)}: not a DINOv2 checkpoint as published"
                )


def resize_position_embedding(
    position: Float[np.ndarray, "n d"], grid: int, *, offset: float, antialias: bool
) -> Float[np.ndarray, "m d"]:
    """Resizes [class row, square grid] to `grid` cells a side, as DINOv2 does.

    Bicubic as in PyTorch (a = -0.75, or -0.5 with antialiasing), scaled by
    (grid + offset) / old grid. An embedding of that size already is left as it is.
    """
    old = math.isqrt(position.shape[0] - 1)
    if old == grid:
        return position
    scale = jnp.full(2, (grid + offset) / old, jnp.float32)
    resized = jax.image.scale_and_translate(
        jnp.asarray(position[1:]).reshape(old, old, -1),
        (grid, grid, position.shape[-1]),
        (0, 1),
        scale,
        jnp.zeros(2),
        method="cubic" if antialias else "cubic-pytorch",
        antialias=antialias,
    )
    rows = np.asarray(resized, np.float32).reshape(grid**2, -1)
    return np.concatenate([position[:1], rows])


def expected_shapes(sizes: Variant, grid: int) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter of a variant at a grid; keys joined by "/"."""
    size = grid * sizes.patch
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    init = make_vit(sizes, size).init
    shapes = jax.eval_shape(lambda x: init(jax.random.key(0), x, train=False), image)
    flat = traverse_util.flatten_dict(shapes["params"], sep="/")
    return {key: leaf.shape for key, leaf in flat.items()}


def make_vit(sizes: Variant, image_size: int, **options: Any) -> Vit:
    """The encoder of given sizes, unchecked; see `make_encoder`."""
    fields = sizes._asdict()
    del fields["position_offset"], fields["position_antialias"]
    return Vit(image_size=image_size, **fields, **options)


def _check_shapes(flat: State, sizes: Variant, name: str) -> None:
    rows = flat["position_embedding"].shape[0]
    grid = math.isqrt(max(rows - 1, 1))
    wrong = [
        f"{key} {flat[key].shape} for {shape}"
        for key, shape in expected_shapes(sizes, grid).items()
        if flat[key].shape != shape
    ]
    if wrong:
        raise UserError(f"{name}: wrong shape: {_listing(wrong)}")


def _affine(
    target: str, sources: tuple[str, ...], weight: str, transform: Transform
) -> dict[str, tuple[tuple[str, ...], Transform]]:
    """Table rows of a layer with weight and bias."""
    return {
        f"{target}/{weight}": (tuple(f"{key}.weight" for key in sources), transform),
        f"{target}/bias": (tuple(f"{key}.bias" for key in sources), _same),
    }


def _apply(transform: Transform, arrays: list[np.ndarray]) -> np.ndarray:
    """Stacks the sources' outputs (q, k, v), then transforms."""
    joined = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    return np.ascontiguousarray(transform(joined), dtype=np.float32)


def _same(x: np.ndarray) -> np.ndarray:
    return x


def _tokens(x: np.ndarray) -> np.ndarray:
    return x.reshape(-1, x.shape[-1])


def _with_class_row(x: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros((1, x.shape[-1]), x.dtype), _tokens(x)])


def _dense_kernel(x: np.ndarray) -> np.ndarray:
    return x.T


def _conv_kernel(x: np.ndarray) -> np.ndarray:
    return x.transpose(2, 3, 1, 0)


def _listing(items: Iterable[str], most: int = 6) -> str:
    items = list(items)
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + rest


def _is_close(found: Any, ours: Sequence[float]) -> bool:
    """Whether a value out of a file is just these numbers."""
    try:
        numbers = np.array(found, np.float64)
    except (TypeError, ValueError, OverflowError):
        return False
    return numbers.shape == (len(ours),) and np.allclose(numbers, ours, atol=1e-4)


def _read_safetensors(path: Path) -> tuple[State, dict[str, Any]]:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except Exception as error:  # a strange file may fail anywhere in the reader
        raise _unreadable(path, error) from error
    return state, _parse_metadata(metadata.get(METADATA_KEY, "{}"), path)


def _read_npz(path: Path) -> tuple[State, dict[str, Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            is_packed = any(
                info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()
            )
        if is_packed:  # what it unpacks to would know no bound
            raise UserError(
                f"{path}: holds compressed arrays; write them by numpy.savez"
            )
        with np.load(path, allow_pickle=False) as file:
            state = {key: file[key] for key in file.files}
    except UserError:
        raise
    except Exception as error:  # a strange file may fail anywhere in the reader
        raise _unreadable(path, error) from error
    return state, _parse_metadata(str(state.pop(METADATA_KEY, "{}")), path)


def _read_torch(path: Path) -> tuple[State, dict[str, Any]]:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path}: reading it needs PyTorch (pip install torch); the Hub's "
            "model.safetensors does not"
        ) from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the bytes provoke
        raise _unreadable(path, error) from error
    is_flat = isinstance(state, dict) and all(
        isinstance(value, torch.Tensor) for value in state.values()
    )
    if not is_flat:
        raise UserError(f"{path}: expected a flat state dict of tensors")
    return {key: value.float().numpy() for key, value in state.items()}, {}


def _parse_metadata(text: str, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, error) from error
    return content if isinstance(content, dict) else {}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, error) from error
    return content if isinstance(content, dict) else {}


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return UserError(f"{path}: cannot be read ({reason[0][:120]}); fetch it again")
