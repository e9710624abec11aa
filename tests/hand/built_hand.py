"""The procedural hand, built once per test run and handed out as copies."""

import copy
import functools
from typing import Any

from homae_jax.synthetic.hand_model import build_hand


@functools.cache
def _hand() -> dict[str, Any]:
    return build_hand()


def built_hand() -> dict[str, Any]:
    """The right hand under the official file's keys."""
    return copy.deepcopy(_hand())
