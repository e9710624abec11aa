"""Equality that a test proves: it says how large the largest difference was.

`pytest -s` shows the lines; docs/fidelity.md collects them.
"""

from typing import Any

import numpy as np


def assert_close(label: str, actual: Any, expected: Any, *, atol: float) -> None:
    """Fails unless every entry is within `atol` of its counterpart."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    worst = float(np.abs(actual - expected).max())
    print(f"\n{label}: largest difference {worst:.1e} (tolerance {atol:.0e})")
    np.testing.assert_allclose(actual, expected, rtol=0, atol=atol, err_msg=label)
