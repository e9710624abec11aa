"""Our hand layer on the inputs of make_mano_reference.py, and how far off it is."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from homae_jax.geometry.rotations import aa_to_rotmat
from homae_jax.hand import mano
from homae_jax.hand.mano import ManoModel

LENGTH_TOLERANCE = 1e-6  # metres
GRADIENT_TOLERANCE = 1e-5  # of the gradient's largest entry
INPUTS = ("wrist", "fingers", "betas")


@functools.partial(jax.jit, static_argnames=("space", "mean"))
def _run(
    held: dict[str, jax.Array], model: ManoModel, *, space: str, mean: str
) -> tuple[dict[str, jax.Array], mano.ManoOutput]:
    """Gradients of a weighted sum of the vertices, and the hand."""
    sines = jnp.sin(jnp.arange(1, 778 * 3 + 1.0)).reshape(1, 778, 3)

    def total(held: dict[str, jax.Array]) -> tuple[jax.Array, mano.ManoOutput]:
        fingers = held["fingers"]
        if space == "aa":
            bent = fingers + jnp.where(mean == "flat", 0, model.hand_mean)[None]
            bent = bent.reshape(-1, 15, 3)
        else:
            bent = mano.pca_to_aa(model, fingers, flat_mean=mean == "flat")
        pose = jnp.concatenate([held["wrist"][:, None], bent], axis=1)
        hand = mano.mano_forward(
            model, aa_to_rotmat(pose), held["betas"], fingertips="smplx"
        )
        return jnp.sum(hand.vertices * sines), hand

    return jax.grad(total, has_aux=True)(held)


def run_ours(
    model: ManoModel, inputs: Mapping[str, np.ndarray], *, space: str, mean: str
) -> dict[str, np.ndarray]:
    """Vertices, joints with their tips and the gradients, in float32."""
    trans = jnp.asarray(inputs["trans"], jnp.float32)[:, None]
    held = {name: jnp.asarray(inputs[name], jnp.float32) for name in INPUTS}
    slope, hand = _run(held, model, space=space, mean=mean)
    found = {"vertices": hand.vertices + trans, "joints": hand.joints + trans}
    found |= {f"gradient/{name}": slope[name] for name in INPUTS}
    return {name: np.asarray(value) for name, value in found.items()}


def compare(
    label: str, ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]
) -> None:
    """Prints the largest differences and holds them to the tolerances."""
    lengths = {
        "vertices": np.abs(ours["vertices"] - theirs["vertices"]).max(),
        "joints": np.abs(ours["joints"][:, :16] - theirs["joints"]).max(),
        "vertices from the wrist": np.abs(
            (ours["vertices"] - ours["joints"][:, :1])
            - (theirs["vertices"] - theirs["joints"][:, :1])
        ).max(),
    }
    slopes = {}
    for name in INPUTS:
        wanted = theirs[f"gradient/{name}"]
        off = np.abs(ours[f"gradient/{name}"] - wanted).max()
        slopes[f"gradient by {name}"] = off / np.abs(wanted).max()
    text = [f"{name} {value:.1e} m" for name, value in lengths.items()]
    text += [f"{name} {value:.1e}" for name, value in slopes.items()]
    print(f"\n{label}: largest difference: {', '.join(text)}")
    assert max(lengths.values()) <= LENGTH_TOLERANCE
    assert max(slopes.values()) <= GRADIENT_TOLERANCE
