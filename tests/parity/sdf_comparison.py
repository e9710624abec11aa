"""Our signed distance on the cases of make_sdf_reference.py, and how far off it is."""

import functools
from collections.abc import Mapping

import jax
import numpy as np

from homae_jax.geometry import mesh_sdf

DISTANCE_TOLERANCE = 1e-7  # metres
SIGN_MARGIN = 2e-4  # metres; nearer the surface the sign may differ by rounding
WINDING_TOLERANCE = 1e-4
# Where libigl's number is closer to one half than this, an open mesh has no sides.
WINDING_MARGIN = 1e-3


@functools.cache
def _compiled(name: str, **options: str):
    return jax.jit(functools.partial(getattr(mesh_sdf, name), **options))


def compare(label: str, case: Mapping[str, np.ndarray], *, is_closed: bool) -> None:
    """Prints the largest differences and holds them to the tolerances."""
    inputs = [jax.numpy.asarray(case[k]) for k in ("points", "vertices", "faces")]
    winding = np.asarray(_compiled("winding_number")(*inputs))
    off = np.abs(winding - case["winding"]).max()
    is_inside = case["winding"] > 0.5
    is_clear = (case["distance"] > SIGN_MARGIN) & (
        np.abs(case["winding"] - 0.5) > WINDING_MARGIN
    )
    for sign in ("winding", "ray") if is_closed else ("winding",):
        ours = np.asarray(_compiled("signed_distance", sign=sign)(*inputs))
        worst = np.abs(np.abs(ours) - case["distance"]).max()
        wrong = int(((ours < 0) != is_inside)[is_clear].sum())
        print(
            f"\n{label}, sign by {sign}: largest difference {1e3 * worst:.1e} mm, "
            f"{wrong} wrong signs of {is_clear.sum()} ({is_inside.sum()} inside), "
            f"winding number {off:.1e}"
        )
        assert worst <= DISTANCE_TOLERANCE
        assert wrong == 0
    assert off <= WINDING_TOLERANCE
