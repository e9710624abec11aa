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
        min_cutoff: Number = 1.5,
        speed_gain: Number = 40.0,
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
        self._velocity: np.ndarray | float = 0.0

    def __call__(
        self, value: Float[np.ndarray, "*n"], seconds: Number
    ) -> Float[np.ndarray, "*n"]:
        """The filtered value, `seconds` after the last one."""
        if self._value is None or seconds <= 0:
            self._last = self._value = value
            self._velocity = 0.0
            return value
        velocity = self._way(self._last, value) / seconds
        self._last = value
        change = velocity - self._velocity
        self._velocity = self._velocity + _share(self._speed_cutoff, seconds) * change
        cutoff = self._min_cutoff + self._gain * self._speed(self._velocity)
        step = _share(cutoff, seconds) * self._way(self._value, value)
        self._value = self._gone(self._value, step)
        return self._value

    def _way(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        return end - start

    def _speed(self, velocity: np.ndarray) -> np.ndarray:
        return np.abs(velocity)

    def _gone(self, start: np.ndarray, step: np.ndarray) -> np.ndarray:
        return start + step


class OneEuroRotation(OneEuro):
    """The same for rotations [n 3 3], along the shortest arc; each on its own."""

    def __init__(
        self,
        *,
        min_cutoff: Number = 1.5,
        speed_gain: Number = 1.5,
        speed_cutoff: Number = 1.0,
    ):
        """As OneEuro; `speed_gain` is per radian per second."""
        super().__init__(
            min_cutoff=min_cutoff, speed_gain=speed_gain, speed_cutoff=speed_cutoff
        )

    def _way(
        self, start: Float[np.ndarray, "n 3 3"], end: Float[np.ndarray, "n 3 3"]
    ) -> Float[np.ndarray, "n 3"]:
        """The turn from one rotation to another, as axis times angle."""
        turn = Rotation.from_matrix(start).inv() * Rotation.from_matrix(end)
        return turn.as_rotvec()

    def _speed(self, velocity: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 1"]:
        return np.linalg.norm(velocity, axis=-1, keepdims=True)

    def _gone(
        self, start: Float[np.ndarray, "n 3 3"], step: Float[np.ndarray, "n 3"]
    ) -> Float[np.ndarray, "n 3 3"]:
        return (Rotation.from_matrix(start) * Rotation.from_rotvec(step)).as_matrix()


def _share(cutoff: Number | np.ndarray, seconds: Number) -> np.ndarray | np.floating:
    """Share of the way to the new value that a first-order filter goes."""
    reach = 2 * np.pi * np.asarray(cutoff) * seconds
    return reach / (reach + 1)
