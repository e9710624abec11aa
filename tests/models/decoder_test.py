"""Shapes, locality and switches of the decoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homae_jax.errors import UserError
from homae_jax.models.decoder import Decoder, pixel_shuffle
from homae_jax.models.products import between

SMALL = {"widths": (16, 12, 8, 8), "hidden": (16, 16, 16, 16)}


def test_decoder_has_the_paper_shapes():
    model = Decoder(224)
    grid = jax.ShapeDtypeStruct((24, 16, 16, 256), jnp.float32)

    def run(x):
        return model.init_with_output(jax.random.key(0), x, with_image=True)[0]

    out = jax.eval_shape(run, grid)
    cells = [level.shape[1:] for level in out.levels]
    assert cells == [(16, 16, 256), (28, 28, 256), (56, 56, 128), (112, 112, 64)]
    assert out.heatmap.shape == out.hand_mask_logits.shape == (24, 112, 112)
    assert out.object_mask_logits.shape == (24, 112, 112)
    assert out.image.shape == (24, 224, 224, 3)


@pytest.mark.parametrize("size, grid", [(64, 4), (112, 8), (128, 8)])
def test_decoder_runs_at_other_sizes(size, grid):
    model = Decoder(size, **SMALL)
    x = jnp.ones((2, grid, grid, 5))
    out, _ = model.init_with_output(jax.random.key(0), x, with_image=True)
    sides = [level.shape[1] for level in out.levels]
    assert sides == [grid, size // 8, size // 4, size // 2]
    assert out.image.shape == (2, size, size, 3)


def test_decoder_makes_the_image_only_when_asked():
    model = Decoder(32, **SMALL)
    x = jnp.ones((1, 2, 2, 16))
    params = model.init(jax.random.key(0), x, with_image=False)
    assert "image" in params["params"]
    assert model.apply(params, x, with_image=False).image is None
    assert model.apply(params, x, with_image=True).image is not None


def test_decoder_keeps_orientation():
    # A change of the top-right token must show at the top right of every output.
    model = Decoder(64, **SMALL)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 4, 16)), jnp.float32)
    params = model.init(jax.random.key(0), x, with_image=True)
    before = model.apply(params, x, with_image=True)
    after = model.apply(params, x.at[0, 0, 3].add(1.0), with_image=True)
    for name in ("heatmap", "hand_mask_logits", "image"):
        change = jnp.abs(getattr(after, name) - getattr(before, name))[0]
        change = np.asarray(change).reshape(*change.shape[:2], -1).sum(-1)
        half = change.shape[0] // 2
        assert change[:half, half:].sum() > 0.99 * change.sum() > 0


def test_decoder_outputs_float32_whatever_the_compute_dtype():
    model = Decoder(32, **SMALL, dtype=jnp.bfloat16)
    x = jnp.ones((1, 2, 2, 16))
    out, params = model.init_with_output(jax.random.key(0), x, with_image=True)
    assert all(level.dtype == between(jnp.bfloat16) for level in out.levels)
    assert out.heatmap.dtype == out.image.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


def test_pixel_shuffle_matches_worked_example():
    x = jnp.arange(8.0).reshape(1, 1, 1, 8)
    expected = [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
    np.testing.assert_array_equal(pixel_shuffle(x)[0], expected)


def test_decoder_raises_on_sizes_that_do_not_fit():
    x = jnp.ones((1, 2, 2, 16))
    with pytest.raises(UserError, match="image_size=36"):
        Decoder(36, **SMALL).init(jax.random.key(0), x, with_image=False)
    with pytest.raises(UserError, match="need 4 values"):
        Decoder(32, widths=(8, 8), hidden=(8, 8)).init(
            jax.random.key(0), x, with_image=False
        )
