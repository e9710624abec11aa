"""A tiny DexYCB in the official layout, made from a toy MANO of both sides.

Two subjects of five sequences, so each has one that S0 does not train on; two frames by
eight cameras: the first without a hand, as at most sequences' start.
"""

import functools
import tempfile
from pathlib import Path

import cv2
import numpy as np
import yaml

from homae_jax.data.dexycb_files import SERIALS, SUBJECTS
from homae_jax.hand.joints import MANO_TO_SIMPLE
from homae_jax.hand.mano_files import load_mano
from tests.hand.label_joints import dexycb_label_joints
from tests.hand.toy_files import unpack_hand

USED_SUBJECTS = (SUBJECTS[0], SUBJECTS[2])
NUM_SEQUENCES, NUM_FRAMES = 5, 2
YCB_IDS, GRASPED = [12, 5, 2], 1
BETAS = [0.3, -0.2, 0.1, 0.0, 0.4, -0.1, 0.2, 0.0, 0.1, -0.3]
INTRINSICS = {"fx": 616.6, "fy": 616.2, "ppx": 308.5, "ppy": 248.5}
K = np.array([[616.6, 0, 308.5], [0, 616.2, 248.5], [0, 0, 1.0]])


def side_of(sequence: int) -> str:
    return "left" if sequence % 2 else "right"


def name_of(sequence: int) -> str:
    return f"20200709_14{sequence:02d}42"


def load_hands():
    return {side: toy_hand(side) for side in ("right", "left")}


@functools.cache
def toy_hand(side: str):
    with tempfile.TemporaryDirectory() as folder:
        return load_mano(unpack_hand(side, folder), side=side)


@functools.cache
def frame_labels(side: str, seed: int):
    """Labels as the files have them, in float32."""
    rng = np.random.default_rng(seed)
    pose = np.concatenate([rng.normal(size=3), 0.3 * rng.normal(size=45)])
    trans = np.array([*rng.uniform(-0.05, 0.05, 2), 0.8])
    joints = dexycb_label_joints(
        toy_hand(side),
        pose.astype(np.float32),
        np.float32(BETAS),
        trans.astype(np.float32),
        side=side,
    )
    simple = np.asarray(joints)[MANO_TO_SIMPLE]
    px = simple @ K.T
    poses = np.zeros((len(YCB_IDS), 3, 4), np.float32)
    for row in (0, GRASPED):  # the third has no pose
        poses[row, :, :3] = cv2.Rodrigues(rng.normal(size=3))[0]
        poses[row, :, 3] = [0.02 * row, 0.01, 0.7]
    seg = np.zeros((480, 640), np.uint8)
    seg[200:240, 300:360], seg[260:300, 310:330] = 255, YCB_IDS[GRASPED]
    seg[100:120, 100:120] = YCB_IDS[0]
    return {
        "seg": seg,
        "pose_y": poses,
        "pose_m": np.concatenate([pose, trans])[None].astype(np.float32),
        "joint_3d": simple[None].astype(np.float32),
        "joint_2d": (px[:, :2] / px[:, 2:])[None].astype(np.float32),
    }


def without_hand(labels):
    changed = {
        "pose_m": np.zeros((1, 51), np.float32),
        "joint_3d": np.full((1, 21, 3), -1, np.float32),
        "joint_2d": np.full((1, 21, 2), -1, np.float32),
    }
    return labels | changed


def write_yaml(path: Path, values) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.dump(values))  # tuples get the official tag


def write_tree(root: Path) -> Path:
    (root / "mano").mkdir(parents=True)
    for side in ("right", "left"):
        unpack_hand(side, root / "mano")
    for serial in SERIALS:
        depth_to_color = (1.0, 0, 0, 0, 0, 1.0, 0, 0, 0, 0, 1.0, 0)
        write_yaml(
            root / "calibration" / "intrinsics" / f"{serial}_640x480.yml",
            {
                "color": INTRINSICS,
                "depth": INTRINSICS | {"fx": 596.8},
                "extrinsics": depth_to_color,
            },
        )
    for subject in USED_SUBJECTS:
        for sequence in range(NUM_SEQUENCES):
            _write_sequence(root, subject, sequence)
    return root


def _write_sequence(root: Path, subject: str, sequence: int) -> None:
    side = side_of(sequence)
    calibration = f"20200709_140042_{subject[9:]}_{side}"
    write_yaml(
        root / "calibration" / f"mano_{calibration}" / "mano.yml", {"betas": BETAS}
    )
    folder = root / subject / name_of(sequence)
    meta = {
        "serials": list(SERIALS),
        "num_frames": NUM_FRAMES,
        "extrinsics": "20200702_151821",
        "ycb_ids": YCB_IDS,
        "ycb_grasp_ind": GRASPED,
        "mano_sides": [side],
        "mano_calib": [calibration],
    }
    write_yaml(folder / "meta.yml", meta)
    picture = np.zeros((480, 640, 3), np.uint8)
    picture[:, :100] = 250
    jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
    for camera, serial in enumerate(SERIALS):
        (folder / serial).mkdir()
        for number in range(NUM_FRAMES):
            labels = frame_labels(side, camera)
            if number == 0:
                labels = without_hand(labels)
            np.savez_compressed(folder / serial / f"labels_{number:06d}.npz", **labels)
            (folder / serial / f"color_{number:06d}.jpg").write_bytes(jpeg)
