"""Against scipy's orthogonal Procrustes, Umeyama by numpy, and by construction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from homae_jax.geometry import alignment
from tests.alignment_reference import official, umeyama
from tests.proof import assert_close


def f32(x):
    return jnp.asarray(x, jnp.float32)


def sample_sets(num=8, points=21, seed=0):
    rng = np.random.default_rng(seed)
    target = rng.normal(size=(num, points, 3)) * 0.05 + [0.0, 0.1, 0.5]
    source = target + rng.normal(size=target.shape) * 0.02
    return source, target


def align(source, target, allow_reflection):
    return np.asarray(
        alignment.procrustes_similarity(
            f32(source), f32(target), allow_reflection=allow_reflection
        )
    )


@pytest.mark.parametrize(
    ("allow_reflection", "reference"), [(True, official), (False, umeyama)]
)
@pytest.mark.parametrize("is_mirrored", [True, False])
def test_procrustes_similarity_matches_reference(
    allow_reflection, reference, is_mirrored
):
    source, target = sample_sets()
    if is_mirrored:
        source = source * [-1, 1, 1]
    expected = np.stack([reference(*pair) for pair in zip(source, target, strict=True)])
    label = f"Procrustes, reflection allowed {allow_reflection}, mirrored {is_mirrored}"
    assert_close(label, align(source, target, allow_reflection), expected, atol=5e-7)


@pytest.mark.parametrize("allow_reflection", [True, False])
def test_procrustes_similarity_undoes_any_similarity(allow_reflection):
    _, target = sample_sets()
    turn = Rotation.from_rotvec([1.0, -2.0, 0.5]).as_matrix()
    source = 1.7 * target @ turn.T + [0.3, -0.2, 1.0]
    np.testing.assert_allclose(
        align(source, target, allow_reflection), target, atol=1e-6
    )


def test_procrustes_similarity_undoes_a_reflection_only_where_allowed():
    _, target = sample_sets()
    source = target * [1, -1, 1]
    np.testing.assert_allclose(align(source, target, True), target, atol=1e-6)
    assert np.abs(align(source, target, False) - target).max() > 1e-2


@pytest.mark.parametrize("allow_reflection", [True, False])
def test_procrustes_similarity_of_coinciding_points_is_the_mean(allow_reflection):
    _, target = sample_sets()
    source = np.full_like(target, 0.3)
    expected = np.broadcast_to(target.mean(1, keepdims=True), target.shape)
    np.testing.assert_allclose(
        align(source, target, allow_reflection), expected, atol=1e-6
    )


def test_procrustes_similarity_takes_any_leading_axes():
    source, target = sample_sets(num=6)
    flat = align(source, target, True)
    nested = align(source.reshape(2, 3, 21, 3), target.reshape(2, 3, 21, 3), True)
    np.testing.assert_allclose(nested.reshape(flat.shape), flat, atol=1e-7)
    np.testing.assert_allclose(align(source[0], target[0], True), flat[0], atol=1e-7)


def test_scale_translation_align_matches_the_definition():
    source, target = sample_sets()
    scale = np.linalg.norm(target[:, 4] - target[:, 0], axis=-1)
    scale /= np.linalg.norm(source[:, 4] - source[:, 0], axis=-1)
    expected = scale[:, None, None] * (source - source[:, :1]) + target[:, :1]
    actual = alignment.scale_translation_align(f32(source), f32(target))
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_scale_translation_align_puts_an_all_zero_prediction_on_the_wrist():
    _, target = sample_sets()
    actual = alignment.scale_translation_align(jnp.zeros((8, 21, 3)), f32(target))
    expected = np.broadcast_to(target[:, :1], target.shape)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_alignments_have_finite_gradients_at_equal_sets():
    _, target = sample_sets(num=1)
    gradient = jax.grad(
        lambda x: alignment.scale_translation_align(x, f32(target)).sum()
    )(jnp.zeros((1, 21, 3)))
    assert np.isfinite(gradient).all()
