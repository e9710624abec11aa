"""A world that needs no hand model, no grasps and no JAX: an egg holds a box."""

from pathlib import Path

import cv2
import numpy as np

from homae_jax.synthetic.scenes import (
    Clip,
    Grasps,
    HandShape,
    SceneOptions,
    World,
)

NUM_COLUMNS, NUM_RINGS = 97, 8  # 97 x 8 + 2 = 778 vertices, 1552 faces
INTRINSICS = np.array([[600.0, 0.0, 320.0], [0.0, 605.0, 240.0], [0.0, 0.0, 1.0]])


def egg(radii=(0.08, 0.02, 0.045)):
    """A closed ellipsoid with as many vertices and faces as a closed hand."""
    polar = np.pi * np.arange(1, NUM_RINGS + 1) / (NUM_RINGS + 1)
    around = 2 * np.pi * np.arange(NUM_COLUMNS) / NUM_COLUMNS
    ring = np.stack([np.zeros(NUM_COLUMNS), np.cos(around), np.sin(around)], axis=1)
    middle = np.sin(polar)[:, None, None] * ring
    middle[..., 0] = np.cos(polar)[:, None]
    poles = np.array([[1.0, 0, 0], [-1.0, 0, 0]])
    vertices = np.concatenate([middle.reshape(-1, 3), poles]) * radii
    row, column = np.divmod(np.arange((NUM_RINGS - 1) * NUM_COLUMNS), NUM_COLUMNS)
    here, beside = row * NUM_COLUMNS + column, row * NUM_COLUMNS
    beside = beside + (column + 1) % NUM_COLUMNS
    first = np.arange(NUM_COLUMNS)
    following = (first + 1) % NUM_COLUMNS
    last = (NUM_RINGS - 1) * NUM_COLUMNS
    top, bottom = np.full(NUM_COLUMNS, 776), np.full(NUM_COLUMNS, 777)
    faces = np.concatenate(
        [
            np.stack([here, here + NUM_COLUMNS, beside], axis=1),
            np.stack([beside, here + NUM_COLUMNS, beside + NUM_COLUMNS], axis=1),
            np.stack([top, first, following], axis=1),
            np.stack([bottom, last + following, last + first], axis=1),
        ]
    )
    return vertices, faces


def write_box(folder: Path, size, centre=(0.0, 0.0, 0.0)) -> None:
    """A textured box as an OBJ of quads: left half red, right half green, blue top."""
    folder.mkdir(parents=True)
    corners = np.array([[i >> 2 & 1, i >> 1 & 1, i & 1] for i in range(8)]) - 0.5
    corners = corners * size + centre
    quads = ("0132", "4675", "0451", "2376", "0264", "1573")
    lines = ["mtllib textured_simple.obj.mtl"]
    lines += [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in corners]
    lines += ["vt 0 0", "vt 1 0", "vt 1 1", "vt 0 1"]
    for quad in quads:
        lines.append(
            "f " + " ".join(f"{int(v) + 1}/{i + 1}" for i, v in enumerate(quad))
        )
    (folder / "textured_simple.obj").write_text("\n".join(lines) + "\n")
    (folder / "textured_simple.obj.mtl").write_text(
        "newmtl skin\nmap_Kd texture_map.png\n"
    )
    texture = np.zeros((32, 32, 3), np.uint8)
    texture[:, :16] = (200, 30, 30)
    texture[:, 16:] = (30, 200, 30)
    texture[:8] = (30, 30, 200)
    cv2.imwrite(str(folder / "texture_map.png"), texture[..., ::-1])
    np.savetxt(folder / "points.xyz", corners)


def hand_shape() -> HandShape:
    vertices, faces = egg()
    joints = np.linspace([0.07, 0, 0], [-0.06, 0, 0], 16)
    tips = np.array([700, 705, 710, 715, 720])
    return HandShape(vertices, faces, joints, tips, np.arange(0, 97, 6))


def grasps(num: int) -> Grasps:
    """The same egg, a little longer each time, above a box that turns."""
    hand = hand_shape()
    stretch = 1 + 0.02 * np.arange(num)[:, None, None]
    angle = 0.3 * np.arange(num)
    rotmat = np.tile(np.eye(3), (num, 1, 1))
    rotmat[:, 0, 0] = rotmat[:, 1, 1] = np.cos(angle)
    rotmat[:, 1, 0], rotmat[:, 0, 1] = np.sin(angle), -np.sin(angle)
    rng = np.random.default_rng(1)
    return Grasps(
        hand_vertices=(hand.template_vertices * stretch).astype(np.float32),
        joints=(hand.joints * stretch).astype(np.float32),
        finger_pose=rng.normal(size=(num, 15, 3)).astype(np.float32) * 0.2,
        betas=rng.normal(size=(num, 10)).astype(np.float32),
        object_rotmat=rotmat,
        object_trans=np.tile([-0.01, -0.06, 0.01], (num, 1)),
    )


def write_models(folder: Path, names) -> None:
    for i, name in enumerate(names):
        size = np.array([0.06, 0.07, 0.15]) * (1 + 0.1 * i)
        write_box(folder / name, size, centre=(0.004, -0.002, 0.01))


def clip(name="ABF10", split="train", num=6, object_name="021_bleach_cleanser"):
    return Clip(
        split=split,
        name=name,
        object_name=object_name,
        subject="A",
        camera=0,
        rig=(0, 1),
        numbers=tuple(range(1, num + 1)),
        grasps=tuple(i // 2 for i in range(num)),
        blanks=(0,),
    )


def make_world(folder: Path, kind=World, **changes) -> World:
    """A world of three boxes with grey backgrounds."""
    names = ("003_cracker_box", "019_pitcher_base", "021_bleach_cleanser")
    if not (folder / "models").exists():
        write_models(folder / "models", names)
        (folder / "backgrounds").mkdir()
        picture = np.full((480, 640, 3), 120, np.uint8)
        for split in ("train", "evaluation"):
            cv2.imwrite(str(folder / "backgrounds" / f"{split}_000.png"), picture)
    options = {"seed": 0, "view_cone_deg": 180.0, "roll_deg": 15.0, "heavy_share": 0.3}
    return kind(
        hand_shape(),
        grasps(8),
        models_dir=folder / "models",
        clutter_names={"train": (names[0], names[2]), "evaluation": names},
        backgrounds_dir=folder / "backgrounds",
        options=SceneOptions(**options | changes),
    )
