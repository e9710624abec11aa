"""Target-focused masking: counts, shares, orientation, fills."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homae_jax.errors import UserError
from homae_jax.models import masking

GRID, PATCH = 8, 28

BOXES = {
    "inside": (60.0, 90.0, 150.0, 170.0),
    "tiny": (100.0, 100.0, 100.5, 100.5),
    "whole": (0.0, 0.0, 223.0, 223.0),
    "beyond": (-400.0, 100.0, 900.0, 120.0),
    "outside": (500.0, 500.0, 600.0, 600.0),
    "inside_out": (120.0, 120.0, 115.0, 115.0),
    "nan": (np.nan, np.nan, np.nan, np.nan),
}


def draw(keys, box, **options):
    options = {"num_patches": 12, "object_share": 0.5, **options}
    one = partial(masking.target_focused_mask, grid=GRID, patch=PATCH, **options)
    return jax.jit(jax.vmap(one, in_axes=(0, None)))(keys, jnp.array(box))


def keys(num, seed=0):
    return jax.random.split(jax.random.key(seed), num)


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
@pytest.mark.parametrize("num_patches", [0, 4, 12, 64])
def test_mask_count_is_exact(box, num_patches):
    masks = draw(keys(64), box, num_patches=num_patches)
    np.testing.assert_array_equal(masks.sum((1, 2)), num_patches)


def test_covered_patches_matches_worked_example():
    # x from 30 to 100 px: columns 1..3; y from 60 to 83: row 2 alone.
    box = jnp.array([30.0, 60.0, 100.0, 83.0])
    covered = masking.covered_patches(box, grid=GRID, patch=PATCH)
    expected = np.zeros((GRID, GRID), bool)
    expected[2, 1:4] = True
    np.testing.assert_array_equal(covered, expected)


@pytest.mark.parametrize(
    "name, count",
    [("tiny", 1), ("whole", 64), ("beyond", 16), ("outside", 0), ("inside_out", 0)],
)
def test_covered_patches_counts(name, count):
    box = jnp.array(BOXES[name])
    assert masking.covered_patches(box, grid=GRID, patch=PATCH).sum() == count


def test_mask_holds_at_least_the_share_inside():
    covered = masking.covered_patches(
        jnp.array(BOXES["inside"]), grid=GRID, patch=PATCH
    )
    masks = np.asarray(draw(keys(256), BOXES["inside"]))
    inside = (masks & np.asarray(covered)[None]).sum((1, 2))
    assert inside.min() >= 6


def test_mask_takes_whole_box_when_it_covers_fewer():
    covered = np.asarray(
        masking.covered_patches(jnp.array(BOXES["tiny"]), grid=GRID, patch=PATCH)
    )
    assert np.asarray(draw(keys(64), BOXES["tiny"]))[:, covered].all()


def test_mask_statistics_match_the_two_stage_draw():
    covered = np.asarray(
        masking.covered_patches(jnp.array(BOXES["inside"]), grid=GRID, patch=PATCH)
    )
    num_covered = covered.sum()
    rate = np.asarray(draw(keys(8192), BOXES["inside"])).mean(0)
    rest = 6 / (GRID**2 - 6)  # the other 6 of 12, among all not chosen yet
    inside = 6 / num_covered + (1 - 6 / num_covered) * rest
    np.testing.assert_allclose(rate[covered], inside, atol=0.03)
    np.testing.assert_allclose(rate[~covered], rest, atol=0.02)


def test_mask_is_uniform_without_a_target():
    box = masking.target_box("uniform", jnp.zeros(4), jnp.array(BOXES["inside"]))
    rate = np.asarray(draw(keys(8192), box)).mean(0)
    np.testing.assert_allclose(rate, 12 / 64, atol=0.02)


def test_mask_depends_on_the_key_alone():
    masks = np.asarray(draw(keys(8), BOXES["inside"]))
    np.testing.assert_array_equal(masks, draw(keys(8), BOXES["inside"]))
    assert len({mask.tobytes() for mask in masks}) == 8
    single = masking.target_focused_mask(
        keys(8)[3],
        jnp.array(BOXES["inside"]),
        grid=GRID,
        patch=PATCH,
        num_patches=12,
        object_share=0.5,
    )
    np.testing.assert_array_equal(single, masks[3])


@pytest.mark.parametrize("share, num", [(0.5, 3), (0.4, 2), (1.0, 5), (0.0, 0)])
def test_mask_rounds_the_share(share, num):
    # One corner patch cannot hold them all, so a box of one row counts exactly.
    row = (0.0, 0.0, 223.0, 10.0)
    masks = np.asarray(draw(keys(512), row, num_patches=5, object_share=share))
    assert masks[:, 0].sum(1).min() == num


def test_target_box_of_hand_object_is_their_union():
    hand, obj = jnp.array([10.0, 40.0, 50.0, 90.0]), jnp.array([30.0, 20.0, 80.0, 60.0])
    box = masking.target_box("hand_object", hand, obj)
    np.testing.assert_array_equal(box, [10.0, 20.0, 80.0, 90.0])
    np.testing.assert_array_equal(masking.target_box("object", hand, obj), obj)


def test_apply_mask_changes_exactly_the_masked_pixels():
    # Eq. 7: M[i, j] masks rows iP.. and columns jP..
    image = jnp.full((56, 56, 3), 7.0)
    mask = jnp.zeros((2, 2), bool).at[0, 1].set(True)
    out = masking.apply_mask(jax.random.key(0), image, mask, patch=28, fill="gaussian")
    changed = np.asarray(out != image)
    expected = np.zeros((56, 56, 3), bool)
    expected[:28, 28:] = True
    np.testing.assert_array_equal(changed, expected)


def test_apply_mask_fills_gaussian_noise_fresh_for_each_patch():
    image = jnp.full((224, 224, 3), 7.0)
    mask = jnp.ones((8, 8), bool)
    out = masking.apply_mask(jax.random.key(1), image, mask, patch=28, fill="gaussian")
    assert abs(out.mean()) < 0.02 and abs(out.std() - 1) < 0.02
    assert abs(np.corrcoef(out[:28, :28].ravel(), out[28:56, :28].ravel())[0, 1]) < 0.1


def test_apply_mask_fills_zero_and_mean():
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.normal(size=(56, 56, 3)), jnp.float32)
    mask = jnp.ones((2, 2), bool)
    key = jax.random.key(0)
    zero = masking.apply_mask(key, image, mask, patch=28, fill="zero")
    np.testing.assert_array_equal(zero, 0)
    mean = masking.apply_mask(key, image, mask, patch=28, fill="mean")
    np.testing.assert_allclose(mean[3, 5], image.mean((0, 1)), atol=1e-6)


@pytest.mark.parametrize(
    "options, text",
    [
        ({"num_patches": 65}, "model.mask.num_patches=65"),
        ({"object_share": 1.5}, "model.mask.object_share=1.5"),
    ],
)
def test_mask_raises_on_impossible_counts(options, text):
    with pytest.raises(UserError, match=text):
        draw(keys(1), BOXES["inside"], **options)


def test_unknown_names_raise():
    with pytest.raises(UserError, match="target='face'"):
        masking.target_box("face", jnp.zeros(4), jnp.zeros(4))
    image, mask = jnp.zeros((56, 56, 3)), jnp.zeros((2, 2), bool)
    with pytest.raises(UserError, match="fill='red'"):
        masking.apply_mask(jax.random.key(0), image, mask, patch=28, fill="red")
    with pytest.raises(UserError, match="does not tile"):
        masking.apply_mask(jax.random.key(0), image, mask, patch=27, fill="zero")
