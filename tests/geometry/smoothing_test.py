"""One-Euro filters: still things stay still, moving ones are followed."""

import numpy as np
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
        calm = OneEuro(speed_gain=gain)
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
