"""The project's own hand, made coarse so that it packs small, under MANO's keys.

`python -m tests.hand.data.toy_hand FOLDER` writes right.npz and left.npz, which
make_chumpy_hand.py turns into pickles under Python 2. Differences from the built hand:
values are rounded; every shape moves the wrist too; the file holds 20 shape
directions, of which the official selection shows 10; the left hand's shape basis is
filed with the right one's x, as in the official MANO_LEFT.pkl.
"""

import sys
from pathlib import Path

import numpy as np

from homae_jax.synthetic.hand_model import mirror_hand
from tests.hand.built_hand import built_hand

METRE_STEP = 2.0**-13
POSE_STEP = 2.0**-12
SHARE_STEP = 2.0**-10
NUM_FILED_SHAPES = 20


def toy_hand(side: str) -> dict[str, np.ndarray]:
    """Arrays of one hand; the regressor is dense, `shapedirs` has 20 directions."""
    fields = built_hand()
    shape = fields["shapedirs"] + np.linspace(-4e-3, 4e-3, 10)
    fields["shapedirs"] = shape
    if side == "left":
        fields = mirror_hand(fields)
        fields["shapedirs"] = shape
    regressor = _rounded_shares(np.asarray(fields["J_regressor"].todense()))
    vertices = _rounded(fields["v_template"], METRE_STEP)
    hidden = np.full_like(shape, 0.25)  # whoever reads them shows it
    return {
        "v_template": vertices,
        "f": fields["f"],
        "shapedirs": np.concatenate([_rounded(shape, METRE_STEP), hidden], axis=-1),
        "posedirs": _rounded(fields["posedirs"], POSE_STEP),
        "J_regressor": regressor,
        "J": regressor @ vertices,
        "weights": _rounded_shares(fields["weights"]),
        "kintree_table": fields["kintree_table"],
        "hands_components": _rounded(fields["hands_components"], SHARE_STEP),
        "hands_mean": _rounded(fields["hands_mean"], SHARE_STEP),
        "hands_coeffs": np.zeros((1554, 45)),
    }


def _rounded(values: np.ndarray, step: float) -> np.ndarray:
    return np.round(values / step) * step


def _rounded_shares(rows: np.ndarray) -> np.ndarray:
    """Rows that still sum to 1: the largest entry takes the rest."""
    out = _rounded(rows, SHARE_STEP)
    at = np.arange(len(out)), rows.argmax(axis=1)
    out[at] += 1 - out.sum(axis=1)
    return out


def main(folder: str) -> None:
    for side in ("right", "left"):
        np.savez(Path(folder) / f"{side}.npz", **toy_hand(side))


if __name__ == "__main__":
    main(sys.argv[1])
