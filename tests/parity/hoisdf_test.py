"""HOISDF's work, as the benchmarks time it: the arithmetic of the original.

Of the original ("dexycb" setting) were measured elsewhere 131 GFLOP a picture of a
training step, and 163 of an inference, 123 of them in the search.
"""

import pytest

torch = pytest.importorskip("torch")

from torch.utils.flop_counter import FlopCounterMode

from homae_jax.benchmarks import _peer_hoisdf as peer

pytestmark = pytest.mark.parity

CAMERA = [[700.0, 0.0, 128.0], [0.0, 700.0, 128.0], [0.0, 0.0, 1.0]]
BOXES = {"hand": [60.0, 60.0, 190.0, 180.0], "object": [90.0, 70.0, 220.0, 220.0]}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return peer.Hoisdf()


def make_scene(num):
    return peer.read_scene(
        {
            "intrinsics": [CAMERA] * num,
            "hand_origin": [[0.0, 0.0, 0.6]] * num,
            "object_origin": [[0.02, 0.03, 0.6]] * num,
            "hand_box": [BOXES["hand"]] * num,
            "object_box": [BOXES["object"]] * num,
        }
    )


def count_gflop(function):
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops() / 1e9


def test_an_inference_has_the_arithmetic_of_the_original(model):
    image, scene, held = torch.rand(1, 3, peer.SIDE, peer.SIDE), make_scene(1), []
    model.eval()
    total = count_gflop(lambda: held.append(peer.infer(model, image, scene)))
    # A point: 992-512-256, then 289-512-223, 512-512-512-1, multiplied and added.
    layers = (
        (992, 512),
        (512, 256),
        (289, 512),
        (512, 223),
        *[(512, 512)] * 2,
        (512, 1),
    )
    search = held[0] * 2e-9 * sum(a * b for a, b in layers)
    assert total - search == pytest.approx(163 - 123, rel=0.06)


def test_a_training_step_has_the_arithmetic_of_the_original(model):
    training = peer.Training(
        model, torch.rand(1, 3, peer.SIDE, peer.SIDE), make_scene(1)
    )
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    total = count_gflop(lambda: training.step(own_points=False))
    assert total == pytest.approx(131, rel=0.01)
    still = [name for name, p in model.named_parameters() if p.equal(before[name])]
    assert not still  # what no answer depends on would stay


@torch.no_grad()
def test_the_search_finds_the_lattice_points_nearest_to_the_surface(model):
    model.eval()
    scene = make_scene(1)
    levels, _ = model.levels(torch.rand(1, 3, peer.SIDE, peer.SIDE))
    axis = torch.linspace(-1, 1, peer.GRID)
    lattice = torch.cartesian_prod(axis, axis, axis)[None]
    for target, (left, top, right, bottom) in BOXES.items():
        x, y = peer.project(target, lattice, scene)[0].unbind(-1)
        inside = (left < x) & (x < right) & (top < y) & (y < bottom)
        every = model.distances(target, levels, scene, lattice[:, inside])
        nearest = every.abs().flatten().sort().values[: peer.POINTS[target]]
        points, distances, held = model.search(target, levels, scene)
        assert held == int(inside.sum())
        options = {"rtol": 1e-3, "atol": 1e-5}
        torch.testing.assert_close(distances.abs().flatten(), nearest, **options)
        again = model.distances(target, levels, scene, points)
        torch.testing.assert_close(again, distances, **options)
