"""Filters that calm a video: One-Euro for positions, its analogue on SO(3).

Causal: a value depends on those before it alone. The cut-off rises with speed, so that
a still hand does not tremble and a fast one does not lag (Casiez et al. 2012). numpy;
time in seconds, frequencies in hertz.
"""

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

Number = float | int


class OneEuro:
    """A low-pass filter for arrays of any one shape, value by value."""

    def __init__(
        self,
        *,
        min_cutoff: Number = 1.0,
        speed_gain: Number = 8.0,
        speed_cutoff: Number = 1.0,
    ):
        """Prepares the filter.

        Args:
          min_cutoff: of a value at rest.
          speed_gain: cut-off gained per unit of speed (metres per second).
          speed_cutoff: of the speed's own filter.
        """
        self._min_cutoff, self._gain = min_cutoff, speed_gain
        self._speed_cutoff = speed_cutoff
        self._last: np.ndarray | None = None  # as it came
        self._value: np.ndarray | None = None
        self._speed: np.ndarray | None = None

    def __call__(
        self, value: Float[np.ndarray, "*n"], seconds: Number
    ) -> Float[np.ndarray, "*n"]:
        """The filtered value, `seconds` after the last one."""
        if self._value is None or seconds <= 0:
            self._last = self._value = value
            self._speed = np.zeros_like(value)
            return value
        speed = (value - self._last) / seconds
        self._last = value
        self._speed += _share(self._speed_cutoff, seconds) * (speed - self._speed)
        cutoff = self._min_cutoff + self._gain * np.abs(self._speed)
        self._value = self._value + _share(cutoff, seconds) * (value - self._value)
        return self._value


class OneEuroRotation:
    """The same for rotations, along the shortest arc; each of a stack on its own."""

    def __init__(
        self,
        *,
        min_cutoff: Number = 1.0,
        speed_gain: Number = 1.0,
        speed_cutoff: Number = 1.0,
    ):
        """As OneEuro; `speed_gain` is per radian per second."""
        self._min_cutoff, self._gain = min_cutoff, speed_gain
        self._speed_cutoff = speed_cutoff
        self._last: np.ndarray | None = None  # as it came
        self._value: np.ndarray | None = None
        self._speed: np.ndarray | None = None

    def __call__(
        self, rotmat: Float[np.ndarray, "n 3 3"], seconds: Number
    ) -> Float[np.ndarray, "n 3 3"]:
        """The filtered rotations, `seconds` after the last ones."""
        if self._value is None or seconds <= 0:
            self._last = self._value = rotmat
            self._speed = np.zeros(len(rotmat))
            return rotmat
        speed = np.linalg.norm(_arc(self._last, rotmat), axis=-1) / seconds
        self._last = rotmat
        self._speed += _share(self._speed_cutoff, seconds) * (speed - self._speed)
        cutoff = self._min_cutoff + self._gain * self._speed
        step = _share(cutoff, seconds)[:, None] * _arc(self._value, rotmat)
        value = Rotation.from_matrix(self._value) * Rotation.from_rotvec(step)
        self._value = value.as_matrix()
        return self._value


def _arc(
    start: Float[np.ndarray, "n 3 3"], end: Float[np.ndarray, "n 3 3"]
) -> Float[np.ndarray, "n 3"]:
    """The turn from one rotation to another, as axis times angle."""
    turn = Rotation.from_matrix(start).inv() * Rotation.from_matrix(end)
    return turn.as_rotvec()


def _share(cutoff: Number | np.ndarray, seconds: Number) -> np.ndarray | np.floating:
    """Share of the way to the new value that a first-order filter goes."""
    reach = 2 * np.pi * np.asarray(cutoff) * seconds
    return reach / (reach + 1)
