"""Colours drawn on the device: what the loader's are, for the same draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from homae_jax import assembly
from homae_jax.data import crops
from homae_jax.data.recolour import recolour, recolour_batch
from homae_jax.errors import UserError
from homae_jax.schema import Scene
from tests import toy

LARGEST_BLUR_PX = 1.5
WIDTHS = {
    "brightness": 0.5,
    "contrast": 0.5,
    "saturation": 0.5,
    "hue": 0.15,
    "blur_px": 0.5,
}
NONE = dict.fromkeys(WIDTHS, 0.0)
on_device = jax.jit(recolour, static_argnames="largest_blur_px")


class Script(np.random.Generator):
    """A generator whose draws are given."""

    def __init__(self, change, blur_px):
        super().__init__(np.random.PCG64(0))
        factors = change.brightness, change.contrast, change.saturation
        self.numbers = iter([*factors, change.hue / (2 * np.pi), blur_px])
        self.order = change.order

    def uniform(self, low, high):
        del low, high
        return float(next(self.numbers))

    def permutation(self, size):
        assert size == 4
        return self.order


def picture(seed, size=24):
    rng = np.random.default_rng(seed)
    smooth = rng.integers(1, 256, (size // 4, size // 4, 3))
    return np.kron(smooth, np.ones((4, 4, 1))).astype(np.uint8)


@pytest.mark.parametrize("seed", range(40))
def test_recolour_is_what_the_loader_does(seed):
    rng = np.random.default_rng(seed)
    factors, hue = rng.uniform(0.5, 1.5, 3), rng.uniform(-1, 1)
    blur_px, order = rng.uniform(0, LARGEST_BLUR_PX), rng.permutation(4)
    image = picture(seed)
    change = crops.ColourChange(*factors, hue=hue, order=order)
    wide = crops.Augmentation(
        True, *[0.0] * 3, "uniform", 0.0, *[1.0] * 4, LARGEST_BLUR_PX, "loader"
    )
    wanted = crops.jitter_colours(image, Script(change, blur_px), wide).astype(int)
    change = jax.tree.map(jnp.asarray, change)
    found = on_device(image, change, blur_px, largest_blur_px=LARGEST_BLUR_PX)
    # OpenCV blurs in fixed point.
    assert np.abs(np.asarray(found).astype(int) - wanted).max() <= 2


def test_recolour_keeps_black():
    image = picture(0)
    image[:5] = 0
    change = crops.ColourChange(1.0, 0.5, 1.0, 0.0, jnp.arange(4))
    found = on_device(image, change, 1.0, largest_blur_px=1.0)
    assert not np.asarray(found[:5]).any()
    assert np.asarray(found[5:]).all(axis=-1).any()


def test_recolour_batch_is_the_identity_for_zero_widths():
    batch = toy.toy_batch(2)
    found = recolour_batch(jax.random.key(0), batch, **NONE)
    np.testing.assert_array_equal(found.image, batch.image)


def test_recolour_batch_changes_every_picture_and_nothing_else():
    image = jnp.asarray(np.stack([picture(0)] * 3))
    batch = toy.toy_batch(3)
    scene = Scene(image, jnp.eye(3), jnp.zeros(4), jnp.zeros(4))
    batch = batch._replace(image=image, scene=scene)
    found = jax.jit(lambda key: recolour_batch(key, batch, **WIDTHS))(jax.random.key(1))
    pictures = np.concatenate([found.image, found.scene.image, image[:1]])
    for i, one in enumerate(pictures):
        for other in pictures[:i]:
            assert np.abs(one.astype(int) - other.astype(int)).mean() > 1
    back = found._replace(image=image, scene=found.scene._replace(image=image))
    jax.tree.map(np.testing.assert_array_equal, back, batch)
    again = recolour_batch(jax.random.key(1), batch, **WIDTHS)
    np.testing.assert_array_equal(again.image, found.image)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_draws_fill_their_widths(name):
    image = jnp.full((200, 2, 2, 3), 20, jnp.uint8)
    image = image.at[:, 0].set(jnp.array([120, 40, 40], jnp.uint8))
    batch = toy.toy_batch(2)._replace(image=image)
    found = recolour_batch(jax.random.key(0), batch, **(NONE | {name: 0.5})).image
    ratio = np.ptp(found[:, 0, 0].astype(float), axis=-1) / 80
    assert 0.48 < ratio.min() < 0.55
    assert 1.45 < ratio.max() < 1.52


def test_colours_on_device_follows_the_configuration():
    config = common.get_config()
    assert assembly.colours_on_device(config) is None
    config.data.augment.colours_on = "device"
    assert assembly.colours_on_device(config).keywords == {
        name: config.data.augment[name] for name in WIDTHS
    }
    config.data.augment.enabled = False
    assert assembly.colours_on_device(config) is None
    config.data.augment.colours_on = "gpu"
    with pytest.raises(UserError, match=r"data\.augment\.colours_on=\"gpu\": use one"):
        assembly.colours_on_device(config)
