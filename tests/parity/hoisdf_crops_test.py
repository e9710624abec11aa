"""HOISDF's crops, as the benchmarks time them, show what their labels say."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
image_library = pytest.importorskip("PIL.Image")

from homae_jax.benchmarks import _peer_hoisdf_crops as peer

pytestmark = pytest.mark.parity

CAMERA = [[600.0, 0.0, 320.0], [0.0, 600.0, 240.0], [0.0, 0.0, 1.0]]
HAND, OBJECT = (300, 220), (360, 250)  # px


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A white hand and a half as bright object on black, 25 px wide."""
    picture, masks = np.zeros((480, 640, 3), np.uint8), []
    for (x, y), value in ((OBJECT, 128), (HAND, 255)):
        window = slice(y - 12, y + 13), slice(x - 12, x + 13)
        picture[window] = value
        mask = np.zeros((480, 640), np.uint8)
        mask[window] = 1
        masks.insert(0, np.packbits(mask))
    path = tmp_path_factory.mktemp("picture") / "0000.png"
    image_library.fromarray(picture).save(path)
    corners = np.array([[-40, -40], [40, -40], [40, 40], [-40, 40], [0, 0]])
    frame = {
        "path": str(path),
        "hand_px": (corners + HAND).tolist(),
        "object_px": (corners + OBJECT).tolist(),
        "intrinsics": CAMERA,
    }
    return frame, masks


@pytest.mark.parametrize("seed", range(8))
def test_points_masks_and_pixels_of_a_crop_agree(scene, seed):
    made = peer.crop(*scene, np.random.default_rng(seed))
    assert made["image"].shape == (3, peer.SIDE, peer.SIDE)
    assert 0 <= made["image"].min() < made["image"].max() <= 1
    seen = []
    for key in ("hand", "object"):
        x, y = (made[f"{key}_px"][4].numpy()).round().astype(int)
        assert 0 <= x < peer.SIDE and 0 <= y < peer.SIDE
        seen.append(float(made["image"][:, y, x].mean()))
        cell = peer.SIDE // peer.MASK_SIDE
        assert made[f"{key}_mask"][y // cell, x // cell] == 1
        assert 0 < made[f"{key}_mask"].mean() < 0.3
    assert seen[0] > seen[1] > float(made["image"].median())


def test_an_augmentation_turns_and_moves_the_crop(scene):
    made = [peer.crop(*scene, np.random.default_rng(seed)) for seed in (0, 1)]
    assert not torch.equal(made[0]["hand_px"], made[1]["hand_px"])
