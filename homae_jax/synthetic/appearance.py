"""What hands, sleeves, light and lens look like.

The skin is painted into an atlas with one small block per face of the hand, from the
face's place on the rest pose, so that a hand is drawn like any textured mesh. Rest
pose: the hand's model frame (fingers -x, back of the hand +y, thumb +z), metres.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from homae_jax.synthetic.meshes import DrawMesh, Material, vertex_normals

# Skin from light to dark, and how much lighter the palm is than the back.
SKIN_TONES = np.array(
    [
        (0.93, 0.76, 0.66),
        (0.88, 0.67, 0.55),
        (0.80, 0.58, 0.45),
        (0.69, 0.48, 0.35),
        (0.54, 0.36, 0.26),
        (0.40, 0.26, 0.19),
    ]
)
PALM_LIGHTER = np.array([0.02, 0.04, 0.06, 0.12, 0.22, 0.34])
TIP_REDNESS = np.array([0.06, -0.09, -0.07])

_ATLAS_COLUMNS = 40  # blocks per row of the atlas
_BLOCK = 16  # texels per block side
_MARGIN = 2  # texels between a block's border and its triangle
_FINGERS = ((1, 2, 3), (4, 5, 6), (7, 8, 9), (10, 11, 12), (13, 14, 15))
_PALMAR_FINGER = np.array([0.0, -1.0, 0.0])  # where the pads of the fingers look
_PALMAR_THUMB = np.array([-0.35, -0.55, -0.75])


class Light(NamedTuple):
    """One lamp far away and the brightness of its surroundings."""

    direction: Float[np.ndarray, "3"]  # towards the lamp, camera frame, unit
    strength: float
    ambient: float
    tint: Float[np.ndarray, "3"]


class HandSkin:
    """The painted surface of one hand model, shared by all subjects.

    Args:
      rest_vertices: the template, metres.
      faces: the closed mesh.
      joints: the 16 rest joints.
      tips: the five finger tips: index, middle, little, ring, thumb.
    """

    def __init__(
        self,
        rest_vertices: Float[np.ndarray, "v 3"],
        faces: Int[np.ndarray, "f 3"],
        joints: Float[np.ndarray, "16 3"],
        tips: Float[np.ndarray, "5 3"],
    ):
        self._faces = faces
        self._corner_faces = np.arange(3 * len(faces), dtype=np.int32).reshape(-1, 3)
        self._block_px = _block_origins(len(faces))
        self._uvs = self._corner_uvs()
        normals = vertex_normals(rest_vertices, faces)
        points, texel_normals = self._texel_geometry(rest_vertices, normals)
        self._paint = _paint_layers(points, texel_normals, joints, tips)

    def mesh(self, posed_vertices: Float[np.ndarray, "v 3"]) -> DrawMesh:
        """The hand in a pose, ready to draw."""
        corner = self._faces.ravel()
        normals = vertex_normals(posed_vertices, self._faces)
        return DrawMesh(
            positions=posed_vertices[corner].astype(np.float32),
            normals=normals[corner].astype(np.float32),
            uvs=self._uvs,
            faces=self._corner_faces,
            is_static=False,
        )

    def material(self, tone: float, hue_shift: Float[np.ndarray, "3"]) -> Material:
        """Skin of a tone between 0 (light) and 5 (dark), times a slight shift."""
        low, share = int(np.clip(tone, 0, 4)), np.clip(tone, 0, 5)
        share = share - low
        base = (1 - share) * SKIN_TONES[low] + share * SKIN_TONES[low + 1]
        palm = (1 - share) * PALM_LIGHTER[low] + share * PALM_LIGHTER[low + 1]
        layers = self._paint
        colour = base * hue_shift * (1 + layers["mottle"][..., None])
        colour = colour + (layers["palm"] * palm)[..., None] * (SKIN_TONES[1] - colour)
        colour = colour * (1 + layers["redness"][..., None] * TIP_REDNESS)
        colour = colour * (1 - layers["crease"][..., None] * np.array([0.3, 0.36, 0.4]))
        nail_colour = 0.6 * colour + 0.4 * np.array([0.95, 0.72, 0.68])
        edge_colour = 0.5 * colour + 0.5 * np.array([0.97, 0.93, 0.88])
        colour = _mix(colour, nail_colour, layers["nail"])
        colour = _mix(colour, edge_colour, layers["nail_edge"])
        texture = (np.clip(colour, 0, 1) * 255).astype(np.uint8)
        return Material(texture, gloss=0.06, wrap=0.18, is_tiled=False)

    def _corner_uvs(self) -> Float[np.ndarray, "n 2"]:
        low, high = _MARGIN + 0.5, _BLOCK - _MARGIN - 0.5
        corners = np.array([[low, low], [high, low], [low, high]])
        texels = (self._block_px[:, None] + corners).reshape(-1, 2)
        side = _ATLAS_COLUMNS * _BLOCK
        uvs = texels / side
        uvs[:, 1] = 1 - uvs[:, 1]
        return uvs.astype(np.float32)

    def _texel_geometry(self, vertices, normals):
        """Rest position and normal of every texel, run on past the faces' borders."""
        side = _ATLAS_COLUMNS * _BLOCK
        span = _BLOCK - 2 * _MARGIN - 1
        steps = (np.arange(_BLOCK) - _MARGIN) / span
        second, third = np.meshgrid(steps, steps)
        weights = np.stack([1 - second - third, second, third], axis=-1)
        points = np.zeros((side, side, 3), np.float32)
        texel_normals = np.zeros((side, side, 3), np.float32)
        grid = np.arange(_BLOCK)
        rows = self._block_px[:, 1, None, None] + grid[:, None]
        columns = self._block_px[:, 0, None, None] + grid[None, :]
        corners = self._faces
        points[rows, columns] = np.einsum("hwc,fcd->fhwd", weights, vertices[corners])
        texel_normals[rows, columns] = np.einsum(
            "hwc,fcd->fhwd", weights, normals[corners]
        )
        return points, texel_normals


def _block_origins(num_faces: int) -> Int[np.ndarray, "f 2"]:
    index = np.arange(num_faces)
    return np.stack([index % _ATLAS_COLUMNS, index // _ATLAS_COLUMNS], 1) * _BLOCK


def _paint_layers(points, normals, joints, tips) -> dict[str, np.ndarray]:
    """Everything about the skin that no subject changes, as grey layers."""
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    normals = normals / np.maximum(length, 1e-9)
    shape = points.shape[:2]
    redness, crease = np.zeros(shape), np.zeros(shape)
    nail, nail_edge = np.zeros(shape), np.zeros(shape)
    for finger, chain in enumerate(_FINGERS):
        bones = [*joints[list(chain)], tips[finger]]
        palmar = _PALMAR_THUMB if finger == 4 else _PALMAR_FINGER
        along = _unit(bones[3] - bones[2])
        dorsal = _unit(-palmar + (palmar @ along) * along)
        distance = np.linalg.norm(points - bones[3], axis=-1)
        redness += np.exp(-((distance / 0.015) ** 2))
        for joint in (1, 2):
            crease += _joint_lines(points, normals, bones, joint, dorsal)
        plate, edge = _nail(points, normals, bones[3], along, dorsal)
        nail, nail_edge = np.maximum(nail, plate), np.maximum(nail_edge, edge)
    for joint in (1, 4, 7, 10):  # knuckles
        distance = np.linalg.norm(points - joints[joint], axis=-1)
        redness += 0.6 * np.exp(-((distance / 0.014) ** 2)) * (normals[..., 1] > 0)
    palm = np.clip(-normals[..., 1] * 1.6 + 0.1, 0, 1)
    return {
        "mottle": 0.09 * _mottle(points),
        "palm": palm,
        "redness": np.clip(redness, 0, 1),
        "crease": np.clip(crease + _palm_lines(points, palm, joints), 0, 1),
        "nail": nail,
        "nail_edge": nail_edge,
    }


def _joint_lines(points, normals, bones, joint, dorsal):
    """Dark lines across a finger joint: one deep below, a few shallow above."""
    axis = _unit(bones[joint + 1] - bones[joint - 1])
    offset = (points - bones[joint]) @ axis
    near = np.linalg.norm(points - bones[joint], axis=-1) < 0.020
    below = np.clip(-(normals @ dorsal) + 0.2, 0, 1)
    above = np.clip(normals @ dorsal - 0.3, 0, 1)
    deep = np.exp(-((offset / 0.0008) ** 2)) * below
    fine = (0.5 + 0.5 * np.cos(offset / 0.0022 * 2 * np.pi)) ** 3
    fine = fine * np.exp(-((offset / 0.0045) ** 2)) * above
    return near * (0.75 * deep + 0.45 * fine)


def _nail(points, normals, tip, along, dorsal):
    """Masks of the nail plate and of its free edge."""
    across = np.cross(along, dorsal)
    local = points - (tip - 0.0075 * along)
    x, y = local @ across / 0.0050, local @ along / 0.0060
    radius = (np.abs(x) ** 2.6 + np.abs(y) ** 2.6) ** (1 / 2.6)
    faces_up = (normals @ dorsal > 0.25) & (local @ dorsal > 0.0)
    plate = np.clip((1 - radius) / 0.12, 0, 1) * faces_up
    return plate, plate * np.clip((y - 0.62) / 0.1, 0, 1)


def _palm_lines(points, palm, joints):
    """Two long lines of the palm: round the ball of the thumb, below the fingers."""
    result = np.zeros(palm.shape)
    centres = (joints[13], joints[4] + [-0.062, 0.0, 0.0])
    radii = (0.042, 0.080)
    for centre, radius in zip(centres, radii, strict=True):
        flat = (points - centre)[..., [0, 2]]
        distance = np.linalg.norm(flat, axis=-1) - radius
        result += 0.4 * np.exp(-((distance / 0.0009) ** 2)) * (palm > 0.7)
    inside = (points[..., 0] > joints[1, 0] - 0.002) & (
        points[..., 0] < joints[0, 0] - 0.02
    )
    return result * inside


def _mottle(points: np.ndarray) -> np.ndarray:
    """Smooth uneven colour in [-1, 1]: sines in fixed random directions."""
    rng = np.random.default_rng(5)
    total = np.zeros(points.shape[:2])
    for frequency, share in ((70.0, 0.45), (190.0, 0.3), (600.0, 0.25)):
        for direction in rng.normal(size=(3, 3)):
            phase = rng.uniform(0, 2 * np.pi)
            total += share / 1.7 * np.sin(points @ (direction * frequency) + phase)
    return np.clip(total, -1, 1)


def sleeve_mesh(
    wrist_loop: Float[np.ndarray, "r 3"],
    wrist: Float[np.ndarray, "3"],
    *,
    length: float,
    thickness: float,
    flare: float,
) -> DrawMesh:
    """A sleeve or bare forearm from the wrist on, so that no hand ends in the air.

    Args:
      wrist_loop: the hand's border vertices in order, hand frame.
      wrist: the wrist joint.
      length: metres of forearm.
      thickness: of the cloth, as a share of the wrist's radius.
      flare: how much wider the far end is than the wrist.
    """
    centre = wrist_loop.mean(axis=0)
    axis = _unit(centre - wrist)
    spokes = wrist_loop - centre
    rings = np.concatenate([[-0.003, -0.002], np.linspace(0.02, length, 20)])
    widths = 1 + thickness + (flare - 1) * np.linspace(0, 1, len(rings)) ** 1.5
    widths[0] = 1.005
    around = np.linspace(0, 1, len(wrist_loop) + 1)
    spokes = np.concatenate([spokes, spokes[:1]])
    positions = centre + rings[:, None, None] * axis + widths[:, None, None] * spokes
    uvs = np.stack(np.broadcast_arrays(around * 2, rings[:, None] * 8), axis=-1)
    num = len(around)
    row, column = np.divmod(np.arange((len(rings) - 1) * (num - 1)), num - 1)
    corner = row * num + column
    faces = np.concatenate(
        [
            np.stack([corner, corner + 1, corner + num + 1], axis=1),
            np.stack([corner, corner + num + 1, corner + num], axis=1),
        ]
    )
    flat = positions.reshape(-1, 3)
    return DrawMesh(
        positions=flat.astype(np.float32),
        normals=_tube_normals(flat, faces, num).astype(np.float32),
        uvs=uvs.reshape(-1, 2).astype(np.float32),
        faces=faces.astype(np.int32),
        is_static=False,
    )


def _tube_normals(positions, faces, num_around):
    """Vertex normals of a tube whose first and last columns coincide."""
    grid = vertex_normals(positions, faces).reshape(-1, num_around, 3)
    seam = _unit(grid[:, 0] + grid[:, -1])
    grid[:, 0], grid[:, -1] = seam, seam
    return grid.reshape(-1, 3)


def cloth_material(rng: np.random.Generator) -> Material:
    """A woven cloth: plain, striped or checked."""
    side = 128
    base, second = rng.uniform(30, 220, (2, 3))
    texture = np.tile(base, (side, side, 1))
    stripes = rng.integers(3)
    period = int(rng.choice([8, 16, 32]))
    band = np.arange(side) // (period // 2) % 2 == 0
    if stripes >= 1:
        texture[band] = 0.5 * texture[band] + 0.5 * second
    if stripes == 2:
        texture[:, band] = 0.6 * texture[:, band] + 0.4 * second
    weave = 1 + 0.08 * np.sin(np.arange(side) * np.pi / 2)
    texture = texture * weave[:, None, None] * weave[None, :, None]
    texture = texture * rng.normal(1, 0.05, (side, side, 1))
    return Material(_to_uint8(texture), gloss=0.01, wrap=0.1)


def surface_texture(rng: np.random.Generator, side: int = 512) -> np.ndarray:
    """A table top or a wall: wood, cloth, speckle or plain paint."""
    kind = rng.integers(4)
    base = rng.uniform(60, 225) * rng.uniform(0.82, 1.1, 3)
    rough = sum(
        cv2.resize(
            rng.normal(size=(n, n)).astype(np.float32),
            (side, side),
            interpolation=cv2.INTER_CUBIC,
        )
        * share
        for n, share in ((4, 0.05), (16, 0.03), (128, 0.02))
    )
    texture = base * (1 + rough[..., None])
    if kind == 0:  # wood: noise stretched along the grain
        grain = rng.normal(size=(96, 6)).astype(np.float32)
        grain = cv2.resize(grain, (side, side), interpolation=cv2.INTER_CUBIC)
        brown = np.array([150.0, 105.0, 70.0]) * rng.uniform(0.6, 1.35)
        texture = brown * (1 + 0.10 * grain[..., None] + rough[..., None])
        planks = np.arange(side) % (side // 4) < 2
        texture[planks] *= 0.55
    elif kind == 1:  # checked cloth
        other = rng.uniform(40, 230, 3)
        band = np.arange(side) // (side // 16) % 2 == 0
        texture[band] = 0.55 * texture[band] + 0.45 * other
        texture[:, band] = 0.55 * texture[:, band] + 0.45 * other
    elif kind == 2:  # speckled stone
        speckle = rng.normal(size=(side, side, 1))
        texture = texture * (1 + 0.10 * speckle)
    return _to_uint8(texture)


def sample_light(rng: np.random.Generator) -> Light:
    """A lamp above and in front of the scene, as in a room."""
    direction = rng.normal(size=3) * [0.8, 0.5, 0.4]
    direction += np.array([0.0, -1.0, -0.8])
    return Light(
        direction=_unit(direction),
        strength=float(rng.uniform(0.45, 0.95)),
        ambient=float(rng.uniform(0.28, 0.55)),
        tint=1 + rng.uniform(-0.07, 0.07) * np.array([1.0, 0.1, -1.0]),
    )


def through_lens(
    rgb: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator
) -> UInt8[np.ndarray, "h w 3"]:
    """Softens edges like a small lens and adds the sensor's noise."""
    soft = cv2.GaussianBlur(rgb, (3, 3), rng.uniform(0.45, 0.8))
    strength = int(rng.integers(1, 4))
    height, width = rgb.shape[:2]
    noise = _noise_table()
    start = int(rng.integers(len(noise) - height * width * 3))
    grain = noise[start : start + height * width * 3].reshape(rgb.shape)
    return cv2.addWeighted(soft, 1.0, grain, strength / 16.0, -128 * strength / 16.0)


_NOISE: list[np.ndarray] = []


def _noise_table() -> UInt8[np.ndarray, "n"]:
    """Grain round 128, drawn once per process and read from random places."""
    if not _NOISE:
        rng = np.random.default_rng(17)
        grain = rng.normal(128, 12, size=2_000_000)
        _NOISE.append(np.clip(grain, 0, 255).astype(np.uint8))
    return _NOISE[0]


def _mix(colour: np.ndarray, other: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return colour + mask[..., None] * (other - colour)


def _to_uint8(values: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    return np.clip(values, 0, 255).astype(np.uint8)


def _unit(vector: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vector, axis=-1, keepdims=True)
    return vector / np.maximum(length, 1e-12)
