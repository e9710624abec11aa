import numpy as np
import pytest

from homae_jax.objects import ycb


def test_names_are_numbered_as_in_ycb_video():
    assert list(ycb.YCB_NAMES) == list(range(1, 22))
    assert ycb.YCB_NAMES[1] == "002_master_chef_can"
    assert ycb.YCB_NAMES[19] == "051_large_clamp"
    assert list(ycb.YCB_NAMES.values()) == sorted(ycb.YCB_NAMES.values())


def test_sets_are_those_of_the_papers():
    assert [n[:3] for n in ycb.HO3D_OBJECTS] == [
        "003", "004", "006", "010", "011", "019", "021", "025", "035", "037"
    ]  # fmt: skip
    assert ycb.HO3D_UNSEEN in ycb.HO3D_OBJECTS


def test_every_object_has_a_box():
    names = set(ycb.YCB_NAMES.values())
    assert set(ycb.BOX_CENTRES) == names and set(ycb.EXTENTS) == names


@pytest.mark.parametrize(
    ("name", "diagonal"),
    [("003_cracker_box", 0.2786), ("011_banana", 0.2122), ("025_mug", 0.1702)],
)
def test_extents_have_the_published_diagonals(name, diagonal):
    assert np.linalg.norm(ycb.EXTENTS[name]) == pytest.approx(diagonal, abs=2e-4)
