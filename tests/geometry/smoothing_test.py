"""One-Euro filters: still things stay still, moving ones are followed."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from homae_jax.geometry.smoothing import OneEuro, OneEuroRotation

STEP = 1 / 30


def test_one_euro_leaves_a_constant_alone_and_calms_noise():
    rng = np.random.default_rng(0)
    noise = 0.003 * rng.normal(size=(200, 3))
    calm = OneEuro()
    out = np.stack([calm(np.array([0.1, 0.2, 0.5]) + n, STEP) for n in noise])
    assert out[50:].std(axis=0).max() < 0.5 * noise[50:].std(axis=0).min()
    still = OneEuro()
    for _ in range(5):
        value = still(np.ones(3), STEP)
    np.testing.assert_allclose(value, 1.0)


def test_one_euro_lags_less_when_it_moves_fast():
    """Behind a steady motion by v / (2 pi cutoff), and the cut-off grows with v."""
    lags = []
    for gain in (0.0, 8.0):
        calm = OneEuro(min_cutoff=1.0, speed_gain=gain)
        for frame in range(200):
            out = calm(np.array([frame * STEP]), STEP)  # 1 m/s
        lags.append(199 * STEP - out[0])
    np.testing.assert_allclose(lags[0], 1 / (2 * np.pi), rtol=0.02)
    np.testing.assert_allclose(lags[1], 1 / (2 * np.pi * 9), rtol=0.02)


def test_one_euro_rotation_stays_a_rotation_and_follows_through_pi():
    calm = OneEuroRotation(min_cutoff=3.0)
    for frame in range(120):
        angle = 0.06 * frame  # beyond pi and 2 pi
        rotmat = Rotation.from_rotvec([[0, 0, angle], [0, 0, 0]]).as_matrix()
        out = calm(rotmat, STEP)
        np.testing.assert_allclose(np.linalg.det(out), 1.0, atol=1e-9)
    behind = Rotation.from_matrix(out[0]).inv() * Rotation.from_matrix(rotmat[0])
    assert 0 < behind.as_rotvec()[2] < 0.15
    np.testing.assert_allclose(out[1], np.eye(3), atol=1e-12)


def noisy_clip(seconds=8.0):
    """A hand that sways by 5 cm and half a radian, once in two seconds, with noise."""
    rng = np.random.default_rng(0)
    time = np.arange(0, seconds, STEP)
    sway = np.sin(np.pi * time)[:, None]
    places = 0.05 * sway * [1.0, 0.5, 0.2] + [0.0, 0.0, 0.5]
    turns = Rotation.from_rotvec(0.5 * sway * [0.6, 0.8, 0.0])
    noise = Rotation.from_rotvec(0.1 * rng.normal(size=(len(time), 3)))
    noisy = places + 0.006 * rng.normal(size=places.shape)
    return places, noisy, turns, turns * noise


def test_one_euro_is_nearer_the_truth_of_a_noisy_clip_and_trembles_less():
    true, noisy, _, _ = noisy_clip()
    calm = OneEuro()
    out = np.stack([calm(place, STEP) for place in noisy])

    def error(places):
        return np.linalg.norm(places - true, axis=-1)[30:].mean()

    def tremor(places):
        return np.linalg.norm(np.diff(places - true, axis=0), axis=-1)[30:].mean()

    assert error(out) < 0.8 * error(noisy)
    assert tremor(out) < 0.5 * tremor(noisy)


def test_one_euro_rotation_is_nearer_the_truth_of_a_noisy_clip_and_trembles_less():
    _, _, true, noisy = noisy_clip()
    calm = OneEuroRotation()
    steps = [calm(rotmat[None], STEP)[0] for rotmat in noisy.as_matrix()]
    out = Rotation.from_matrix(np.stack(steps))

    def tremor(turns):
        return (turns[:-1].inv() * turns[1:]).magnitude()[30:].mean()

    errors = [(true.inv() * turns).magnitude()[30:].mean() for turns in (out, noisy)]
    assert errors[0] < 0.8 * errors[1]
    assert tremor(out) < 0.5 * tremor(noisy)


@pytest.mark.parametrize("make", [OneEuro, OneEuroRotation])
def test_filters_start_anew_where_time_stands_still(make):
    """A frame at the same time, as after a cut, is taken as it is."""
    calm = make()
    for angle in (0.0, 0.3, 1.2):
        rotmat = Rotation.from_rotvec([[0, 0, angle]]).as_matrix()
        np.testing.assert_array_equal(calm(rotmat, 0.0), rotmat)
