"""The hand layer against smplx's on the same files; needs torch and smplx.

Each test prints the largest difference it saw.
"""

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
smplx = pytest.importorskip("smplx")

from scipy.spatial.transform import Rotation
from smplx.vertex_ids import vertex_ids

from homae_jax.hand import mano, mano_files
from tests.hand.toy_files import unpack_hand
from tests.parity import make_mano_reference as reference
from tests.parity.mano_comparison import LENGTH_TOLERANCE, compare, run_ours

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore:Please import `csc_matrix`"),
]


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mano")
    return {side: unpack_hand(side, folder) for side in reference.SIDES}


@pytest.mark.parametrize(("side", "space", "mean"), reference.CASES)
def test_mano_forward_matches_smplx(paths, side, space, mean):
    layer = reference.make_layer(paths[side], side=side, space=space, mean=mean)
    inputs = reference.draw_inputs(space, seed=100, num=8)
    model = mano_files.load_mano(paths[side], side=side)
    ours = run_ours(model, inputs, space=space, mean=mean)
    theirs = reference.run_layer(layer, inputs)
    compare(f"{side} {space} {mean}, 8 poses", ours, theirs)


def test_mano_forward_matches_smplx_at_rest_and_near_it(paths):
    layer = reference.make_layer(paths["right"], side="right", space="aa", mean="flat")
    model = mano_files.load_mano(paths["right"])
    worst = 0.0
    for size in (0.0, 1e-6, 1e-3):
        inputs = {k: v * size for k, v in reference.draw_inputs("aa", seed=0).items()}
        ours = run_ours(model, inputs, space="aa", mean="flat")
        theirs = reference.run_layer(layer, inputs)
        worst = max(worst, np.abs(ours["vertices"] - theirs["vertices"]).max())
    print(f"\nposes of 0, 1e-6, 1e-3: largest difference: vertices {worst:.1e} m")
    assert worst <= LENGTH_TOLERANCE


@pytest.mark.parametrize("name", sorted(mano.FINGERTIPS))
def test_fingertips_match_smplx_vertices(paths, name):
    """Every public list picks its tips out of smplx's vertices."""
    layer = reference.make_layer(paths["right"], side="right", space="aa", mean="flat")
    inputs = reference.draw_inputs("aa", seed=5)
    theirs = reference.run_layer(layer, inputs)
    vertices = theirs["vertices"] - inputs["trans"][:, None]
    rotvec = np.concatenate([inputs["wrist"], inputs["fingers"]], axis=1)
    rotmat = Rotation.from_rotvec(rotvec.reshape(16, 3)).as_matrix()
    model = mano_files.load_mano(paths["right"])
    betas = jnp.asarray(inputs["betas"][0], jnp.float32)
    ours = mano.mano_forward(
        model, jnp.asarray(rotmat, jnp.float32), betas, fingertips=name
    )
    wanted = vertices[0, list(mano.FINGERTIPS[name])]
    worst = np.abs(np.asarray(ours.joints[16:]) - wanted).max()
    print(f"\ntips of {name}: largest difference {worst:.1e} m")
    assert worst <= LENGTH_TOLERANCE


def test_fingertips_of_smplx_are_smplxs():
    names = ("thumb", "index", "middle", "ring", "pinky")
    assert tuple(vertex_ids["mano"][n] for n in names) == mano.FINGERTIPS["smplx"]
