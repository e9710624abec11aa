"""Makes tests/parity/data/sdf_reference.npz with libigl.

Run with libigl installed, from the repository root:
`python -m tests.parity.make_sdf_reference`. Hands are those that smplx posed
(mano_reference.npz), in the camera frame; all inputs are float32. Per case: `vertices`,
`faces`, `points`; `distance` (unsigned, exact in float64) and `winding`, libigl's
generalised winding number.
"""

import tempfile
from pathlib import Path

import igl
import numpy as np

from homae_jax.hand.mano_files import load_mano
from tests.hand.toy_files import SIDES, unpack_hand

FOLDER = Path(__file__).parent / "data"
PATH = FOLDER / "sdf_reference.npz"
CLOSED = ("capped_hand", "capped_left_hand", "overlapping_hands", "overlapping_balls")
OPEN = ("open_hand", "holed_hand", "open_overlapping_hands")
CASES = CLOSED + OPEN


def make_meshes() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Vertices (metres) and faces of every case."""
    with tempfile.TemporaryDirectory() as folder:
        hands = {s: load_mano(unpack_hand(s, folder), side=s) for s in SIDES}
    with np.load(FOLDER / "mano_reference.npz") as file:
        right, left, other = (
            file[f"{case}/vertices"][0]
            for case in ("right/aa/flat", "left/aa/mean", "right/pca/mean")
        )
    closed, open_faces = hands["right"].closed_faces, hands["right"].faces
    other = other - other.mean(axis=0) + right.mean(axis=0) + np.float32(0.01)
    kept = np.random.default_rng(0).permutation(len(closed))[60:]
    ball, ball_faces = _ball(24, 0.04)
    shift = np.array([0.03, 0.01, 0.0], np.float32)
    return {
        "capped_hand": (right, closed),
        "capped_left_hand": (left, hands["left"].closed_faces),
        "overlapping_hands": _joined((right, closed), (other, closed)),
        "overlapping_balls": _joined((ball, ball_faces), (ball + shift, ball_faces)),
        "open_hand": (right, open_faces),
        "holed_hand": (right, closed[np.sort(kept)]),
        "open_overlapping_hands": _joined((right, open_faces), (other, open_faces)),
    }


def draw_points(vertices: np.ndarray, num: int, seed: int) -> np.ndarray:
    """Half of them within millimetres of vertices, half anywhere round the mesh."""
    rng = np.random.default_rng(seed)
    near = vertices[rng.integers(len(vertices), size=num // 2)]
    near = near + rng.normal(scale=3e-3, size=near.shape)
    low, high = vertices.min(axis=0) - 0.05, vertices.max(axis=0) + 0.05
    return np.concatenate([near, rng.uniform(low, high, near.shape)]).astype(np.float32)


def run_igl(
    points: np.ndarray, vertices: np.ndarray, faces: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Unsigned distance and winding number of each point, in float64."""
    points, vertices = (np.asarray(x, np.float64, "C") for x in (points, vertices))
    faces = np.asarray(faces, np.int64, "C")
    squared = igl.point_mesh_squared_distance(points, vertices, faces)[0]
    return np.sqrt(squared), igl.winding_number(vertices, faces, points)


def _ball(num: int, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """A sphere of rings and two poles."""
    angle = np.pi * np.arange(1, num) / num
    turn = 2 * np.pi * np.arange(2 * num) / (2 * num)
    ring = np.stack([np.cos(turn), np.sin(turn)], axis=-1)
    rings = np.concatenate(
        [
            np.column_stack([np.sin(a) * ring, np.full(len(ring), np.cos(a))])
            for a in angle
        ]
    )
    vertices = np.concatenate([rings, [[0, 0, 1], [0, 0, -1]]]) * radius
    index = np.arange(len(rings)).reshape(len(angle), -1)
    a, b = index[:-1], index[1:]
    c, d = np.roll(b, -1, axis=1), np.roll(a, -1, axis=1)
    north, south = (
        np.full_like(index[0], len(rings)),
        np.full_like(index[0], len(rings) + 1),
    )
    faces = np.concatenate(
        [
            np.stack(corners, axis=-1).reshape(-1, 3)
            for corners in (
                (a, b, c),
                (a, c, d),
                (north, index[0], np.roll(index[0], -1)),
                (south, np.roll(index[-1], -1), index[-1]),
            )
        ]
    )
    return vertices.astype(np.float32), faces.astype(np.int32)


def _joined(*meshes: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    first, second = meshes
    faces = np.concatenate([first[1], second[1] + len(first[0])])
    return np.concatenate([first[0], second[0]]), faces


def make_reference(num: int, seed: int) -> dict[str, np.ndarray]:
    """All arrays of the file, or of another draw."""
    arrays: dict[str, np.ndarray] = {}
    for name, (vertices, faces) in make_meshes().items():
        points = draw_points(vertices, num, seed)
        distance, winding = run_igl(points, vertices, faces)
        arrays |= {
            f"{name}/vertices": vertices.astype(np.float32),
            f"{name}/faces": faces.astype(np.int32),
            f"{name}/points": points,
            f"{name}/distance": distance,
            f"{name}/winding": winding,
        }
    return arrays


if __name__ == "__main__":
    np.savez_compressed(PATH, **make_reference(num=400, seed=0))
    print(f"{PATH}: {PATH.stat().st_size / 1e3:.0f} kB")
