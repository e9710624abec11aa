"""Procedural stand-ins for the YCB objects, in the files that readers expect.

Shapes are solids by constructive geometry (manifold3d: watertight, thin walls too),
scaled to the published extents and moved to the published box centres; the model frame
is the PoseCNN one, z up for standing objects. Nothing here derives from YCB's scans.
Per object: textured_simple.obj with its .mtl and texture_map.png, points.xyz, and
textured_simple_2000.obj with exactly 1,000 vertices. Deterministic.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import manifold3d
import numpy as np
import trimesh
from jaxtyping import Float
from manifold3d import CrossSection, Manifold

from homae_jax.objects.simplify import simplify_exactly
from homae_jax.objects.ycb import BOX_CENTRES, EXTENTS, YCB_NAMES
from homae_jax.progress import progress_bar
from homae_jax.whole_file import replacing

SEGMENTS = 48  # of a full turn
MIN_TOLERANCE = 2e-5  # metres, of the first round of simplification
NUM_DENSE_VERTICES = 2600  # of textured_simple.obj and points.xyz, about
TEXTURE_SIDE = 512
CELL = TEXTURE_SIDE // 2  # the texture is an atlas of 2 x 2: sides x, y, z and lid

Point = Sequence[float | int] | np.ndarray


def _ball(centre: Point, radius: float, segments: int = 24) -> Manifold:
    return Manifold.sphere(radius, segments).translate(list(centre))


def _limb(
    a: Point, b: Point, ra: float, rb: float | None = None, segments: int = 24
) -> Manifold:
    """A round bar from a to b."""
    rb = ra if rb is None else rb
    return Manifold.batch_hull([_ball(a, ra, segments), _ball(b, rb, segments)])


def _lathe(profile: Sequence[Point]) -> Manifold:
    """A solid of revolution about z from (radius, z) pairs, counter-clockwise."""
    return Manifold.revolve(CrossSection([np.array(profile, float)]), SEGMENTS)


def _torus(ring: float, tube: float) -> Manifold:
    return Manifold.revolve(
        CrossSection.circle(tube, 20).translate([ring, 0]), SEGMENTS
    )


def _rounded_box(size: Point, radius: float) -> Manifold:
    half = np.array(size) / 2 - radius
    signs = np.array(list(np.ndindex(2, 2, 2))) * 2 - 1
    return Manifold.batch_hull([_ball(s * half, radius, 8) for s in signs])


def _join(parts: Sequence[Manifold]) -> Manifold:
    return Manifold.batch_boolean(list(parts), manifold3d.OpType.Add)


def _can() -> Manifold:
    rim, body = 1.0, 0.965
    return _lathe(
        [(0, -1), (rim, -1), (rim, -0.96), (body, -0.94), (body, 0.94), (rim, 0.96),
         (rim, 1), (0.93, 1), (0.93, 0.97), (0, 0.97)]
    )  # fmt: skip


def _potted_meat() -> Manifold:
    posts = [
        Manifold.cylinder(0.0836, 0.016, 0.016, 32, True).translate([x, y, 0])
        for x in (-0.035, 0.035)
        for y in (-0.0141, 0.0141)
    ]
    return Manifold.batch_hull(posts)


def _bottle(shoulder: float, neck: float, cap: float) -> Manifold:
    """A bottle of unit height and radius; heights of its parts as fractions."""
    return _lathe(
        [(0, 0), (0.9, 0), (1, 0.03), (1, shoulder), (0.80, shoulder + 0.08),
         (0.42, neck), (0.36, neck + 0.01), (0.36, cap), (0.40, cap),
         (0.34, 1), (0, 1)]
    )  # fmt: skip


def _bleach() -> Manifold:
    body = _bottle(0.55, 0.82, 0.86).scale([0.051, 0.034, 0.25])
    grip = _limb((-0.03, 0, 0.145), (-0.03, 0, 0.185), 0.016)
    handle = _limb((-0.047, 0, 0.135), (-0.022, 0, 0.215), 0.009, 0.008)
    return (body - grip) + handle


def _banana() -> Manifold:
    angle = np.linspace(-0.66, 0.66, 13)
    radius = 1e-3 * np.array(
        [4, 10.5, 14.5, 16.5, 17.5, 18, 18, 18, 17.5, 16.5, 14, 8, 5.5]
    )
    x = 0.13 * (np.cos(angle) - 1)
    centres = np.stack([x, 0.13 * np.sin(angle), 0 * x], axis=1)
    return _join(
        [_limb(centres[i], centres[i + 1], *radius[i : i + 2]) for i in range(12)]
    )


def _pitcher() -> Manifold:
    walls = _lathe(
        [(0, -0.115), (0.045, -0.115), (0.054, 0.10), (0.060, 0.115),
         (0.0565, 0.115), (0.050, 0.10), (0.041, -0.11), (0, -0.11)]
    )  # fmt: skip
    ring = _torus(0.032, 0.007).scale([1, 1.8, 1]).rotate([90, 0, 0])
    inside = Manifold.cylinder(0.3, 0.0475, 0.058, SEGMENTS, True)
    return walls + (ring.translate([0.055, 0, 0.01]) - inside)


def _bowl() -> Manifold:
    t = np.linspace(np.pi / 2, 0.32, 14)
    outer = np.stack([0.0800 * np.sin(t), -0.0541 * np.cos(t)], axis=1)
    inner = np.stack([0.0765 * np.sin(t), -0.0513 * np.cos(t)], axis=1)
    profile = [(0, outer[-1, 1]), *outer[::-1], *inner, (0, inner[-1, 1])]
    return _lathe(profile)


def _mug() -> Manifold:
    walls = _lathe(
        [(0, -0.041), (0.041, -0.041), (0.041, 0.041), (0.037, 0.041),
         (0.037, -0.035), (0, -0.035)]
    )  # fmt: skip
    ring = _torus(0.024, 0.0055).rotate([90, 0, 0]).translate([0.045, 0, 0])
    return walls + (ring - Manifold.cylinder(0.1, 0.039, 0.039, SEGMENTS, True))


def _drill() -> Manifold:
    body = _limb((-0.055, 0.05, 0), (0.035, 0.05, 0), 0.0285)
    chuck = _limb((0.05, 0.05, 0), (0.088, 0.05, 0), 0.020, 0.010)
    grip = _limb((-0.022, 0.035, 0), (-0.045, -0.06, 0), 0.019, 0.021)
    battery = _rounded_box((0.095, 0.045, 0.057), 0.008)
    return _join([body, chuck, grip, battery.translate([-0.035, -0.085, 0])])


def _scissors() -> Manifold:
    def half(side: float) -> Manifold:
        blade = Manifold.cube([0.016, 0.13, 0.003], True).rotate([0, 0, 6 * side])
        ring = _torus(0.022, 0.0055).scale([1, 1.25, 1])
        return blade.translate([0, 0.035, 0.002 * side]) + ring.translate(
            [0.026 * side, -0.055, 0.0015 * side]
        )

    return half(1.0) + half(-1.0)


def _marker() -> Manifold:
    profile = [(0, -1), (0.85, -1), (0.9, -0.2), (1, -0.2), (1, 0.9), (0.7, 1), (0, 1)]
    return _lathe(profile).rotate([90, 0, 0])


def _clamp() -> Manifold:
    """Two crossed levers, handles down, and the axle they turn on."""

    def lever(side: float) -> Manifold:
        z = 0.004 * side
        path = [(0.05 * side, -0.08, z), (0.018 * side, 0, z),
                (-0.022 * side, 0.03, z), (-0.004 * side, 0.085, z)]  # fmt: skip
        radii = [(0.011, 0.011), (0.012, 0.012), (0.010, 0.006)]
        # Coarse limbs: slivers where they meet would trip the decimation.
        bars = [_limb(path[i], path[i + 1], *radii[i], segments=16) for i in range(3)]
        return _join(bars)

    axle = Manifold.cylinder(0.038, 0.011, 0.011, 24, True).translate([0, 0.014, 0])
    return _join([lever(1.0), lever(-1.0), axle])


SHAPES: dict[str, Callable[[], Manifold]] = {
    "002_master_chef_can": _can,
    "003_cracker_box": lambda: _rounded_box(EXTENTS["003_cracker_box"], 0.002),
    "004_sugar_box": lambda: _rounded_box(EXTENTS["004_sugar_box"], 0.002),
    "005_tomato_soup_can": _can,
    "006_mustard_bottle": lambda: _bottle(0.62, 0.80, 0.86),
    "007_tuna_fish_can": _can,
    "008_pudding_box": lambda: _rounded_box(EXTENTS["008_pudding_box"], 0.002),
    "009_gelatin_box": lambda: _rounded_box(EXTENTS["009_gelatin_box"], 0.002),
    "010_potted_meat_can": _potted_meat,
    "011_banana": _banana,
    "019_pitcher_base": _pitcher,
    "021_bleach_cleanser": _bleach,
    "024_bowl": _bowl,
    "025_mug": _mug,
    "035_power_drill": _drill,
    "036_wood_block": lambda: _rounded_box(EXTENTS["036_wood_block"], 0.002),
    "037_scissors": _scissors,
    "040_large_marker": _marker,
    "051_large_clamp": _clamp,
    "052_extra_large_clamp": _clamp,
    "061_foam_brick": lambda: _rounded_box(EXTENTS["061_foam_brick"], 0.003),
}


def build_object(name: str) -> trimesh.Trimesh:
    """A watertight mesh of about 2,600 vertices in the object's model frame."""
    solid = _fitted(SHAPES[name](), name)
    tolerance = MIN_TOLERANCE
    while solid.num_vert() > NUM_DENSE_VERTICES / 2:
        solid = solid.simplify(tolerance)
        tolerance *= 1.5
    solid = _fitted(solid, name)
    low, high = 1e-3, 0.2  # metres, the longest edge
    for _ in range(8):
        edge = np.sqrt(low * high)
        num = solid.refine_to_length(edge).num_vert()
        low, high = (edge, high) if num > NUM_DENSE_VERTICES else (low, edge)
    mesh = solid.refine_to_length(high).to_mesh()
    vertices = np.asarray(mesh.vert_properties[:, :3], np.float64)
    return trimesh.Trimesh(vertices, np.asarray(mesh.tri_verts), process=False)


def _fitted(solid: Manifold, name: str) -> Manifold:
    """Scaled and moved to fill the object's box."""
    low, high = np.reshape(solid.bounding_box(), (2, 3))
    solid = solid.translate(list(-(low + high) / 2))
    solid = solid.scale(list(np.array(EXTENTS[name]) / (high - low)))
    return solid.translate(list(BOX_CENTRES[name]))


def write_object_models(out: str | Path, names: Sequence[str] | None = None) -> None:
    """Writes a folder per object under `out`; all 21 unless `names` says otherwise."""
    names = tuple(YCB_NAMES.values()) if names is None else tuple(names)
    for name in progress_bar(names, total=len(names), desc="object models"):
        _write_model(Path(out) / name, name)


def _write_model(folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    mesh = build_object(name)
    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
    number = next(i for i, n in YCB_NAMES.items() if n == name)
    texture = _package_art(np.random.default_rng(number), name)
    _, png = cv2.imencode(".png", texture[..., ::-1])
    _replace(folder / "texture_map.png", png.tobytes())
    material = "newmtl material_0\nKd 1 1 1\nmap_Kd texture_map.png\n"
    _replace(folder / "textured_simple.obj.mtl", material.encode())
    _replace(folder / "textured_simple.obj", _textured_obj(mesh, name).encode())
    lines = [f"{x:.6f} {y:.6f} {z:.6f}" for x, y, z in vertices]
    _replace(folder / "points.xyz", ("\n".join(lines) + "\n").encode())
    points, triangles = simplify_exactly(vertices, faces, 1000)
    _replace(
        folder / "textured_simple_2000.obj", _plain_obj(points, triangles).encode()
    )


def _replace(path: Path, content: bytes) -> None:
    with replacing(path) as part:
        part.write_bytes(content)


def _plain_obj(vertices: np.ndarray, faces: np.ndarray) -> str:
    lines = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in vertices]
    lines += [f"f {a} {b} {c}" for a, b, c in faces + 1]
    return "\n".join(lines) + "\n"


def _textured_obj(mesh: trimesh.Trimesh, name: str) -> str:
    """Normals before vertices and one normal per vertex, as in the YCB files."""
    uvs = _corner_uvs(mesh, name).reshape(-1, 2)
    unique, index = np.unique(np.round(uvs, 5), axis=0, return_inverse=True)
    index = index.reshape(-1, 3) + 1
    lines = ["mtllib textured_simple.obj.mtl", "usemtl material_0"]
    lines += [f"vn {x:.5f} {y:.5f} {z:.5f}" for x, y, z in mesh.vertex_normals]
    lines += [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in mesh.vertices]
    lines += [f"vt {u:.5f} {v:.5f}" for u, v in unique]
    for face, vt in zip(mesh.faces + 1, index, strict=True):
        corners = (f"{v}/{t}/{v}" for v, t in zip(face, vt, strict=True))
        lines.append("f " + " ".join(corners))
    return "\n".join(lines) + "\n"


def _corner_uvs(mesh: trimesh.Trimesh, name: str) -> Float[np.ndarray, "f 3 2"]:
    """Texture coordinates: each face is seen along its main axis, print not mirrored.

    The atlas holds a cell for faces along x, y and z, and a lid (upward z). Round
    things wear the first cell as a label, twice round.
    """
    low, high = mesh.bounds
    local = (mesh.vertices[mesh.faces] - low) / (high - low)
    axis = np.abs(mesh.face_normals).argmax(axis=1)
    planes = np.array([[1, 2], [0, 2], [0, 1]])[axis]
    uv = np.take_along_axis(local, planes[:, None, :].repeat(3, axis=1), axis=2)
    facing = np.take_along_axis(mesh.face_normals, axis[:, None], axis=1)[:, 0]
    is_mirrored = ((facing > 0) == (axis == 1)) & (name in PRINTED)
    uv[is_mirrored, :, 0] = 1 - uv[is_mirrored, :, 0]
    cell = np.where((axis == 2) & (facing > 0), 3, axis)
    if name in ROUND:
        is_side = axis != 2
        uv[is_side, :, 0] = _turns(local[is_side][..., :2] - 0.5)
        cell[is_side] = 0
    corner = np.stack([cell % 2, cell // 2], axis=1) / 2
    return corner[:, None] + (0.01 + 0.98 * uv) / 2


def _turns(points: Float[np.ndarray, "f 3 2"]) -> Float[np.ndarray, "f 3"]:
    """Half turns round z, from 0 to 1; a face across the seam ends at it."""
    turns = np.arctan2(points[..., 1], points[..., 0]) / np.pi
    middle = points.mean(axis=1, keepdims=True)
    middle = np.arctan2(middle[..., 1], middle[..., 0]) / np.pi
    beside = (turns - middle + 1) % 2 - 1
    return np.clip(middle % 1 + beside, 0, 1)


COLOURS = {  # the look of the real product's class: base and accent, RGB
    "011_banana": ((225, 195, 60), (150, 120, 40)),
    "019_pitcher_base": ((60, 110, 190), (70, 120, 200)),
    "024_bowl": ((190, 60, 55), (200, 70, 60)),
    "025_mug": ((185, 45, 45), (200, 60, 55)),
    "035_power_drill": ((225, 120, 40), (45, 45, 48)),
    "036_wood_block": ((196, 154, 104), (160, 118, 74)),
    "037_scissors": ((180, 184, 190), (200, 70, 50)),
    "040_large_marker": ((240, 240, 236), (30, 60, 150)),
    "051_large_clamp": ((40, 40, 44), (220, 120, 40)),
    "052_extra_large_clamp": ((40, 40, 44), (220, 120, 40)),
    "061_foam_brick": ((180, 80, 70), (170, 74, 64)),
}
TRIM = {  # where the accent goes: an axis, and shares of the box along it
    "011_banana": (1, 0.0, 0.04),
    "035_power_drill": (1, 0.0, 0.26),
    "037_scissors": (1, 0.0, 0.42),
    "040_large_marker": (1, 0.55, 1.0),
    "051_large_clamp": (1, 0.88, 1.0),
    "052_extra_large_clamp": (1, 0.88, 1.0),
}
ROUND = (
    "002_master_chef_can",
    "005_tomato_soup_can",
    "006_mustard_bottle",
    "007_tuna_fish_can",
    "021_bleach_cleanser",
)
FLAT = ("008_pudding_box", "009_gelatin_box")  # with print on the lid
PRINTED = tuple(name for name in YCB_NAMES.values() if name not in COLOURS)


def _package_art(rng: np.random.Generator, name: str) -> np.ndarray:
    """An atlas of four pictures: printed packaging, or a plain colour with wear."""
    if name in PRINTED:
        base, accent = rng.uniform(40, 230, (2, 3))
        cells = [_print(rng, base, accent) for _ in range(3)]
        paler = 0.5 * base + 100
        cells.append(_print(rng, paler, accent) if name in FLAT else _plain(rng, paler))
    else:
        cells = _trimmed(rng, name)
    # Row 0 of the picture is the top: v = 1.
    rows = [np.hstack([cells[2], cells[3]]), np.hstack([cells[0], cells[1]])]
    return np.vstack(rows)


def _trimmed(rng: np.random.Generator, name: str) -> list[np.ndarray]:
    """Views along x, y, z and down on the lid, in base colour and accent."""
    base, accent = np.array(COLOURS[name], float)
    axis, start, end = TRIM.get(name, (0, 0.0, 0.0))
    share = (np.arange(CELL) + 0.5) / CELL
    cells = []
    for horizontal, vertical in ((1, 2), (0, 2), (0, 1), (0, 1)):
        across, up = np.meshgrid(share, share[::-1])
        along = {horizontal: across, vertical: up}.get(axis, np.ones_like(up))
        is_accent = (along >= start) & (along < end)
        cells.append(_plain(rng, np.where(is_accent[..., None], accent, base)))
    return cells


def _plain(rng: np.random.Generator, colour: np.ndarray) -> np.ndarray:
    shade = rng.normal(size=(8, 8, 1)).astype(np.float32)
    shade = cv2.resize(shade, (CELL, CELL), interpolation=cv2.INTER_CUBIC)[..., None]
    grain = rng.normal(size=(CELL, CELL, 1))
    return np.clip(colour + 7 * shade + 3 * grain, 0, 255).astype(np.uint8)


def _print(
    rng: np.random.Generator, base: np.ndarray, accent: np.ndarray
) -> np.ndarray:
    """Bands, a badge and words on the base colour."""
    image = _plain(rng, base).copy()
    white = np.array([245.0, 242, 235])
    for colour in (accent, white, rng.uniform(0, 255, 3)):
        top, height = rng.integers(0, CELL - 40), rng.integers(12, 70)
        cv2.rectangle(
            image, (0, int(top)), (CELL, int(top + height)), colour.tolist(), -1
        )
    centre = rng.integers(70, CELL - 70, 2)
    cv2.circle(image, centre.tolist(), int(rng.integers(30, 62)), accent.tolist(), -1)
    letters = np.array(list("ABCDEFGHKLMNOPRSTUVWXYZ"))
    for line in range(4):
        word = "".join(rng.choice(letters, rng.integers(4, 9)))
        position = (int(rng.integers(4, 60)), 40 + 58 * line)
        ink = white if line % 2 else rng.uniform(0, 110, 3)
        scale = float(rng.uniform(0.8, 1.7))
        font = cv2.FONT_HERSHEY_DUPLEX
        cv2.putText(image, word, position, font, scale, ink.tolist(), 3, cv2.LINE_AA)
    return image
