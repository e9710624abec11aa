"""Bilinear lookup against scipy's definition, and the features of points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.ndimage import map_coordinates

from homae_jax.models.products import between
from homae_jax.models.sampling import PointFeatures, sample_bilinear

SIZE = 24
CHANNELS = 8, 4, 2  # of the levels


def reference(feature_map, points_px):
    """One channel at a time by map_coordinates, clamped at the border."""
    height, width, _ = feature_map.shape
    x = (points_px[:, 0] + 0.5) * width / SIZE - 0.5
    y = (points_px[:, 1] + 0.5) * height / SIZE - 0.5
    channels = [
        map_coordinates(feature_map[..., c], [y, x], order=1, mode="nearest")
        for c in range(feature_map.shape[-1])
    ]
    return jnp.stack(channels, axis=-1)


def make_inputs(cells, seed=0, beyond=6.0):
    rng = np.random.default_rng(seed)
    feature_map = rng.normal(size=(*cells, 5))
    points = rng.uniform(-beyond, SIZE + beyond, size=(200, 2))
    return jnp.asarray(feature_map, jnp.float32), jnp.asarray(points, jnp.float32)


@pytest.mark.parametrize("cells", [(3, 3), (12, 12), (24, 24), (6, 8), (1, 1)])
def test_sample_bilinear_matches_map_coordinates(cells):
    feature_map, points = make_inputs(cells)
    ours = sample_bilinear(feature_map, points, image_size=SIZE)
    np.testing.assert_allclose(ours, reference(feature_map, points), atol=1e-5)


@pytest.mark.parametrize("cells", [(3, 3), (12, 12)])
def test_sample_bilinear_gradients_match_map_coordinates(cells):
    feature_map, points = make_inputs(cells, seed=1)
    weights = jnp.asarray(np.random.default_rng(2).normal(size=(200, 5)), jnp.float32)

    def ours(m, p):
        return jnp.sum(sample_bilinear(m, p, image_size=SIZE) * weights)

    def theirs(m, p):
        return jnp.sum(reference(m, p) * weights)

    got = jax.grad(ours, (0, 1))(feature_map, points)
    wanted = jax.grad(theirs, (0, 1))(feature_map, points)
    np.testing.assert_allclose(got[0], wanted[0], atol=2e-5)
    inside = np.all((points > 4) & (points < SIZE - 5), axis=1)
    np.testing.assert_allclose(got[1][inside], wanted[1][inside], atol=2e-5)
    np.testing.assert_array_equal(got[1][np.all(points < -1, axis=1)], 0)


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
def test_sample_bilinear_reads_pixel_coordinates_off_a_map(stride):
    # A map that holds its cells' pixel coordinates gives every inner point back.
    centres = (np.arange(SIZE // stride) + 0.5) * stride - 0.5
    x, y = np.meshgrid(centres, centres)
    feature_map = jnp.asarray(np.stack([x, y], -1), jnp.float32)
    rng = np.random.default_rng(3)
    points = rng.uniform(stride / 2, SIZE - 1 - stride / 2, size=(50, 2))
    points = jnp.asarray(points, jnp.float32)
    found = sample_bilinear(feature_map, points, image_size=SIZE)
    np.testing.assert_allclose(found, points, atol=1e-4)


def make_levels(batch=2, dtype=jnp.float32):
    rng = np.random.default_rng(4)
    shapes = zip((3, 6, 12), CHANNELS, strict=True)
    return tuple(
        jnp.asarray(rng.normal(size=(batch, s, s, c)), dtype) for s, c in shapes
    )


def features(model, levels, points_px):
    return model.read(model.prepare(levels), points_px)


def test_sample_bilinear_adds_up_a_bfloat16_maps_gradient_in_float32():
    feature_map = jnp.ones((4, 4, 3), jnp.bfloat16)
    points = jnp.full((1000, 2), 2.0)

    def total(feature_map):
        values = sample_bilinear(feature_map, points, image_size=4)
        return jnp.sum(values.astype(jnp.float32))

    gradient = jax.grad(total)(feature_map)
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_array_equal(gradient[2, 2], 1000.0)


def test_point_features_multiscale_sees_every_level():
    levels = make_levels()
    points = jnp.full((2, 7, 2), 9.3)
    last_only = PointFeatures(SIZE, CHANNELS, width=11, multiscale=False)
    every = PointFeatures(SIZE, CHANNELS, width=11)
    for model, sees in ((last_only, [False, False, True]), (every, [True] * 3)):
        params = model.init(jax.random.key(0), levels, points, method=features)

        def total(x, model=model, params=params):
            return jnp.sum(model.apply(params, x, points, method=features) ** 2)

        assert model.apply(params, levels, points, method=features).shape == (2, 7, 11)
        grads = jax.grad(total)(levels)
        assert [bool(jnp.any(g != 0)) for g in grads] == sees


def test_point_features_agree_when_chunked():
    levels = make_levels(batch=1)
    rng = np.random.default_rng(5)
    points = jnp.asarray(rng.uniform(0, SIZE, (1, 32, 2)), jnp.float32)
    model = PointFeatures(SIZE, CHANNELS, width=11)
    params = model.init(jax.random.key(0), levels, points, method=features)
    whole = model.apply(params, levels, points, method=features)
    chunks = points.reshape(4, 1, 8, 2)
    parts = jax.lax.map(
        lambda p: model.apply(params, levels, p, method=features), chunks
    )
    np.testing.assert_allclose(parts.reshape(1, 32, 11), whole, atol=1e-6)


def test_point_features_keep_the_compute_dtype():
    levels = make_levels(dtype=jnp.bfloat16)
    points = jnp.zeros((2, 3, 2))
    model = PointFeatures(SIZE, CHANNELS, width=5, dtype=jnp.bfloat16)
    params = model.init(jax.random.key(0), levels, points, method=features)
    assert model.apply(params, levels, points, method=features).dtype == between(
        jnp.bfloat16
    )
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(params))


@pytest.mark.parametrize("width", [1, 3, 5, 11])  # every level wide, ..., none
@pytest.mark.parametrize("multiscale", [True, False])
def test_point_features_are_the_mlp_of_the_sampled_levels(width, multiscale):
    """However the first layer is divided between cells and points."""
    levels = make_levels()
    rng = np.random.default_rng(6)
    points = jnp.asarray(rng.uniform(-3, SIZE + 3, (2, 30, 2)), jnp.float32)
    model = PointFeatures(SIZE, CHANNELS, width=width, multiscale=multiscale)
    variables = model.init(jax.random.key(1), levels, points, method=features)
    noise = jax.random.normal(jax.random.key(2), (width,))
    variables["params"]["fc1"]["bias"] = noise  # it starts at zero
    x = jnp.stack(
        [
            jnp.concatenate(
                [
                    sample_bilinear(level[row], points[row], image_size=SIZE)
                    for level in (levels if multiscale else levels[-1:])
                ],
                axis=-1,
            )
            for row in range(2)
        ]
    )
    one, two = (variables["params"][name] for name in ("fc1", "fc2"))
    hidden = jax.nn.gelu(
        jnp.einsum("bpc,cd->bpd", x, one["kernel"]) + noise[None, None]
    )
    expected = (
        jnp.einsum("bpc,cd->bpd", hidden, two["kernel"]) + two["bias"][None, None]
    )
    got = model.apply(variables, levels, points, method=features)
    np.testing.assert_allclose(got, expected, atol=2e-5)
