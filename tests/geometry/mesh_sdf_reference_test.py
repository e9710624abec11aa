"""Signed distance against libigl's, stored by tests/parity/make_sdf_reference.py."""

from pathlib import Path

import numpy as np
import pytest

from tests.parity.sdf_comparison import compare

REFERENCE = Path(__file__).parents[1] / "parity" / "data" / "sdf_reference.npz"
CLOSED = ("capped_hand", "capped_left_hand", "overlapping_hands", "overlapping_balls")
OPEN = ("open_hand", "holed_hand", "open_overlapping_hands")


@pytest.mark.parametrize("name", CLOSED + OPEN)
def test_signed_distance_matches_stored_igl(name):
    with np.load(REFERENCE) as file:
        case = {
            key.removeprefix(f"{name}/"): file[key]
            for key in file.files
            if key.startswith(f"{name}/")
        }
    compare(name, case, is_closed=name in CLOSED)
    if name.startswith("overlapping"):
        assert case["winding"].max() > 1.5  # some points lie within both
