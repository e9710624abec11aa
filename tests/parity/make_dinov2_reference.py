"""Makes tests/parity/data/dinov2_reference.npz from the public implementation.

Run with torch and transformers installed, from the repository root:
`python -m tests.parity.make_dinov2_reference`. Models are tiny and random; arrays are
named `<case>/state/<key>`, `<case>/image` (NHWC) and `<case>/<stage>`. Position
embeddings are resized by `torch.nn.functional.interpolate` with DINOv2's arguments.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from homae_jax.benchmarks._peer_program import declare_operators

declare_operators(torch)
import transformers  # after torchvision was seen to

PATH = Path(__file__).parent / "data" / "dinov2_reference.npz"
CASES = ("plain", "registers", "swiglu")
PATCH, WIDTH, DEPTH, HEADS, GRID = 4, 16, 2, 2, 5


def make_model(
    *,
    width: int,
    depth: int,
    num_heads: int,
    patch: int,
    image_size: int,
    ffn: str = "mlp",
    num_registers: int = 0,
    seed: int = 0,
) -> torch.nn.Module:
    """A transformers model with every parameter drawn at random."""
    torch.manual_seed(seed)
    options = {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": num_heads,
        "patch_size": patch,
        "image_size": image_size,
        "use_swiglu_ffn": ffn == "swiglu",
        "attn_implementation": "eager",
    }
    if num_registers:
        config = transformers.Dinov2WithRegistersConfig(
            num_register_tokens=num_registers, **options
        )
        model = transformers.Dinov2WithRegistersModel(config)
    else:
        model = transformers.Dinov2Model(transformers.Dinov2Config(**options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            centre = 0.5 if "layer_scale" in name else centre
            spread = 0.5 / width**0.5 if parameter.ndim > 1 else 0.1
            parameter.copy_(centre + spread * torch.randn(parameter.shape))
    return model.eval()


def hub_state(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """The state dict as the Hub's files name it (transformers renames at run time)."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_file(Path(folder) / "model.safetensors")


def run_stages(model: torch.nn.Module, image: np.ndarray) -> dict[str, np.ndarray]:
    """Embeddings, every block's output and the final norm, for an NHWC image."""
    with torch.no_grad():
        pixels = torch.from_numpy(image.transpose(0, 3, 1, 2).copy())
        out = model(pixels, output_hidden_states=True)
    stages = {"embeddings": out.hidden_states[0], "norm": out.last_hidden_state}
    for i, hidden in enumerate(out.hidden_states[1:]):
        stages[f"blocks_{i}"] = hidden
    return {name: value.numpy() for name, value in stages.items()}


def resize_as_dinov2(
    position: np.ndarray, grid: int, *, offset: float, antialias: bool
) -> np.ndarray:
    """DINOv2's resizing of a [1 + n, d] position embedding, by torch."""
    old = round((position.shape[0] - 1) ** 0.5)
    patches = torch.from_numpy(position[1:]).reshape(1, old, old, -1)
    scale = (grid + offset) / old
    size = {"scale_factor": (scale, scale)} if offset else {"size": (grid, grid)}
    resized = torch.nn.functional.interpolate(
        patches.permute(0, 3, 1, 2), mode="bicubic", antialias=antialias, **size
    )
    rows = resized.permute(0, 2, 3, 1).reshape(grid**2, -1).numpy()
    return np.concatenate([position[:1], rows])


def make_reference() -> dict[str, np.ndarray]:
    """All arrays of the file."""
    arrays: dict[str, np.ndarray] = {}
    rng = np.random.default_rng(0)
    for case in CASES:
        model = make_model(
            width=WIDTH,
            depth=DEPTH,
            num_heads=HEADS,
            patch=PATCH,
            image_size=GRID * PATCH,
            ffn="swiglu" if case == "swiglu" else "mlp",
            num_registers=4 if case == "registers" else 0,
        )
        image = rng.standard_normal((1, GRID * PATCH, GRID * PATCH, 3), np.float32)
        arrays[f"{case}/image"] = image
        for name, value in run_stages(model, image).items():
            arrays[f"{case}/{name}"] = value
        for key, value in hub_state(model).items():
            arrays[f"{case}/state/{key}"] = value
    position = rng.standard_normal((1 + 37 * 37, 1), np.float32)
    arrays["position/source"] = position
    for grid in (8, 16, 40):
        for offset, antialias in ((0.1, False), (0.0, False), (0.0, True)):
            arrays[f"position/{grid}/{offset}/{antialias}"] = resize_as_dinov2(
                position, grid, offset=offset, antialias=antialias
            )
    return arrays


if __name__ == "__main__":
    np.savez_compressed(PATH, **make_reference())
    print(f"{PATH}: {PATH.stat().st_size / 1e3:.0f} kB")
