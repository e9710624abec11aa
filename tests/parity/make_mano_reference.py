"""Makes tests/parity/data/mano_reference.npz with smplx's MANO layer.

Run with torch and smplx installed, from the repository root:
`python -m tests.parity.make_mano_reference`. smplx reads the chumpy pickles of toy
hands in tests/hand/data and computes in float64. Per case (side/space/mean): `wrist`
(3), `fingers` (axis-angle or PCA coefficients), `betas`, `trans`; `vertices`, `joints`
(16) with the translation; and the gradient of `(vertices * sines).sum()`, sines =
sin(1, 2, ...), by the first three.
"""

import contextlib
import itertools
import pickle
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import smplx
import torch

from tests.hand.toy_files import SIDES, unpack_hand

PATH = Path(__file__).parent / "data" / "mano_reference.npz"
# 45 would do, but smplx then reads the coefficients as axis-angle.
NUM_COMPONENTS = {"aa": 45, "pca": 44, "pca6": 6}
CASES = tuple(itertools.product(SIDES, NUM_COMPONENTS, ("flat", "mean")))
INPUTS = ("wrist", "fingers", "betas")


class _Ch:
    """chumpy.ch.Ch as far as a file needs it; chumpy does not run on Python 3.11."""

    def value(self) -> np.ndarray:
        return self.x


class _Select(_Ch):
    """chumpy.reordering.Select."""

    def value(self) -> np.ndarray:
        return self.a.value().ravel()[self.idxs].reshape(self.preferred_shape)


@contextlib.contextmanager
def _chumpy() -> Iterator[None]:
    parts = {
        "chumpy": {},
        "chumpy.ch": {"Ch": _Ch},
        "chumpy.reordering": {"Select": _Select},
    }
    for name, content in parts.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(content)
    try:
        yield
    finally:
        for name in parts:
            del sys.modules[name]


def make_layer(
    path: Path, *, side: str, space: str, mean: str, dtype: torch.dtype = torch.float64
) -> torch.nn.Module:
    """smplx's layer of one file."""
    with _chumpy(), path.open("rb") as file:
        fields = pickle.load(file, encoding="latin1")
    fields = {k: v.value() if isinstance(v, _Ch) else v for k, v in fields.items()}
    num = NUM_COMPONENTS[space]
    return smplx.MANO(
        str(path),
        is_rhand=side == "right",
        data_struct=smplx.utils.Struct(**fields),
        use_pca=num < 45,
        num_pca_comps=num,
        flat_hand_mean=mean == "flat",
        dtype=dtype,
    )


def draw_inputs(space: str, seed: int, num: int = 1) -> dict[str, np.ndarray]:
    """Poses of up to a radian or so per joint, wrists turned anyhow."""
    rng = np.random.default_rng(seed)
    return {
        "wrist": rng.normal(size=(num, 3)),
        "fingers": 0.5 * rng.normal(size=(num, NUM_COMPONENTS[space])),
        "betas": rng.normal(size=(num, 10)),
        "trans": rng.normal(size=(num, 3)) * 0.1 + [0, 0, 0.7],
    }


def run_layer(
    layer: torch.nn.Module, inputs: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Vertices, joints and gradients."""
    held = {k: torch.tensor(v, requires_grad=True) for k, v in inputs.items()}
    out = layer(
        betas=held["betas"],
        global_orient=held["wrist"],
        hand_pose=held["fingers"],
        transl=held["trans"],
    )
    sines = torch.sin(torch.arange(1, 778 * 3 + 1, dtype=torch.float64))
    (out.vertices * sines.reshape(1, 778, 3)).sum().backward()
    found = {"vertices": out.vertices, "joints": out.joints}
    found |= {f"gradient/{name}": held[name].grad for name in INPUTS}
    return {name: value.detach().numpy() for name, value in found.items()}


def make_reference() -> dict[str, np.ndarray]:
    """All arrays of the file."""
    arrays: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed, (side, space, mean) in enumerate(CASES):
            path = unpack_hand(side, folder)
            layer = make_layer(path, side=side, space=space, mean=mean)
            inputs = draw_inputs(space, seed)
            for name, value in (inputs | run_layer(layer, inputs)).items():
                is_output = name in ("vertices", "joints")
                dtype = np.float32 if is_output else np.float64
                arrays[f"{side}/{space}/{mean}/{name}"] = value.astype(dtype)
    return arrays


if __name__ == "__main__":
    np.savez_compressed(PATH, **make_reference())
    print(f"{PATH}: {PATH.stat().st_size / 1e3:.0f} kB")
