"""Signed distance against libigl; needs libigl. Prints the largest differences."""

import pytest

pytest.importorskip("igl")

from tests.parity import make_sdf_reference as reference
from tests.parity.sdf_comparison import compare

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def arrays():
    return reference.make_reference(num=3000, seed=1)


@pytest.mark.parametrize("name", reference.CASES)
def test_signed_distance_matches_igl(arrays, name):
    keys = ("vertices", "faces", "points", "distance", "winding")
    case = {key: arrays[f"{name}/{key}"] for key in keys}
    compare(f"{name}, 3000 points", case, is_closed=name in reference.CLOSED)
