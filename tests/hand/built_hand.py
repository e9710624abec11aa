"""The procedural hand, built once per test run and handed out as copies."""

import copy
import fcntl
import functools
import pickle
from pathlib import Path
from typing import Any

from homae_jax.synthetic.hand_model import build_hand

shared: Path | None = None  # folder of the run's processes; None: a process of its own


@functools.cache
def _hand() -> dict[str, Any]:
    if shared is None:
        return build_hand()
    path = shared / "built_hand.pkl"  # made and read by this run alone
    with open(shared / "built_hand.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            path.write_bytes(pickle.dumps(build_hand()))
    return pickle.loads(path.read_bytes())


def built_hand() -> dict[str, Any]:
    """The right hand under the official file's keys."""
    return copy.deepcopy(_hand())
