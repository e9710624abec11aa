"""Writes a small tree in HO-3D v2's or v3's layout, from its description alone.

The writer shares no code with the reader or with the synthetic world. The hand is a
stick figure whose wrist at rest depends on the shape, J0(beta) = J0 + 0.01 beta[:3].
"""

import json
import pickle
import struct
from pathlib import Path

import cv2
import numpy as np

INTRINSICS = np.array([[617.0, 0.0, 312.0], [0.0, 590.0, 241.0], [0.0, 0.0, 1.0]])
C = np.diag([1.0, -1.0, -1.0])
HEIGHT, WIDTH = 480, 640
EXTENT = np.array([0.1, 0.06, 0.16])
TRAIN = ("SM2/0001", "SM2/0003", "MC1/0010")  # the list's order is not the alphabet's
EVALUATION = ("SM1/0002", "AP10/0000")
OBJECTS = {
    "SM1": "006_mustard_bottle",
    "SM2": "006_mustard_bottle",
    "MC1": "003_cracker_box",
    "AP10": "019_pitcher_base",
}


# By the suffix of the pictures, v2's and v3's: that of the masks, colours of hand and
# object there, the vertices that are the finger tips.
MASK_SUFFIX = {".png": ".jpg", ".jpg": ".png"}
COLOURS = {".png": ((255, 0, 0), (0, 0, 255)), ".jpg": ((0, 0, 255), (0, 255, 0))}
TIPS = {".png": (728, 353, 442, 576, 694), ".jpg": (744, 333, 444, 555, 672)}


def rest_wrist(betas):
    return np.array([0.095, 0.006, 0.006]) + 0.01 * np.asarray(betas)[:3]


def corners():
    bits = [[i >> 2 & 1, i >> 1 & 1, i & 1] for i in range(8)]
    return (np.array(bits) - 0.5) * EXTENT + [0.01, 0.0, -0.005]


def rotmat(rotation_aa):
    return cv2.Rodrigues(np.asarray(rotation_aa, np.float64))[0]


def frame_labels(name):
    """Labels of a frame, OpenGL camera frame, drawn from its name."""
    rng = np.random.default_rng(list(name.encode()))
    joints = rng.uniform([-0.08, -0.08, -0.65], [0.08, 0.08, -0.5], size=(21, 3))
    betas = rng.normal(size=10)
    return {
        "camMat": INTRINSICS,
        "camIDList": ["0", "1"],
        "handJoints3D": joints,
        "handPose": rng.normal(size=48),
        "handBeta": betas,
        "handTrans": joints[0] - rest_wrist(betas),
        "objRot": rng.normal(size=(3, 1)),
        "objTrans": rng.uniform([-0.05, -0.05, -0.7], [0.05, 0.05, -0.6]),
        "objName": OBJECTS[name.split("/")[0]],
        "objLabel": 5,
        "vertices": joints[rng.integers(0, 21, 778)]
        + 0.005 * rng.normal(size=(778, 3)),
    }


def posed_corners(labels):
    return corners() @ rotmat(labels["objRot"]).T + labels["objTrans"]


def project_gl(points_gl):
    homogeneous = (points_gl @ C) @ INTRINSICS.T
    return homogeneous[:, :2] / homogeneous[:, 2:]


def train_meta(labels):
    meta = {key: value for key, value in labels.items() if key != "vertices"}
    meta["objCorners3D"] = posed_corners(labels)
    meta["objCorners3DRest"] = corners()
    return meta


def evaluation_meta(labels):
    meta = train_meta(labels)
    for key in ("handPose", "handBeta", "handTrans"):
        del meta[key]
    meta["handJoints3D"] = labels["handJoints3D"][0]
    px = project_gl(labels["handJoints3D"])
    meta["handBoundingBox"] = [*px.min(axis=0), *px.max(axis=0)]
    return meta


def python3_pickle(meta):
    return pickle.dumps(meta, protocol=2)


def python2_pickle(meta):
    """What Python 2 writes at protocol 2: byte strings, also for arrays' contents."""
    return b"\x80\x02" + _python2(meta) + b"."


def _python2(value):
    if isinstance(value, str):
        return b"U" + struct.pack("<B", len(value)) + value.encode()
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, list):
        return b"](" + b"".join(map(_python2, value)) + b"e"
    if isinstance(value, dict):
        items = (_python2(k) + _python2(v) for k, v in value.items())
        return b"}(" + b"".join(items) + b"u"
    array = np.asarray(value, np.float32)  # float32 and float64 both occur
    shape = b"(" + b"".join(map(_python2, array.shape)) + b"t"
    dtype = b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNN"
    dtype += b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    buffer = array.tobytes()
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        + (b"(K\x01" + shape + dtype + b"\x89T" + struct.pack("<i", len(buffer)))
        + (buffer + b"tb")
    )


def picture(name):
    """A smooth picture, so that JPEG keeps it."""
    phase = sum(name.encode()) % 50
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    channels = [x * 255 / WIDTH, y * 255 / HEIGHT, 128 + 100 * np.sin((x + y) / 90)]
    return np.stack(channels, axis=-1).astype(np.uint8) // 2 + np.uint8(phase)


def masks(name):
    """Hand and object masks at full resolution: two discs, the hand in front."""
    del name
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    hand = (x - 260) ** 2 + (y - 240) ** 2 < 90**2
    obj = ((x - 380) ** 2 + (y - 260) ** 2 < 110**2) & ~hand
    return hand, obj


def write_bytes(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def encode(suffix, rgb):
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95] if suffix == ".jpg" else []
    return cv2.imencode(suffix, rgb[..., ::-1], quality)[1].tobytes()


def write_tree(root: Path, *, suffix=".png", dump=python3_pickle):
    """v2, or v3 by its suffix: both splits, the public truth, a blank frame."""
    root.mkdir(parents=True, exist_ok=True)
    truth = [frame_labels(name) for name in EVALUATION]
    for split, names in (("train", TRAIN), ("evaluation", EVALUATION)):
        (root / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        visible = {name: [0.25 * i, 1.0] for i, name in enumerate(names)}
        (root / f"visibility_{split}.json").write_text(json.dumps(visible))
        make_meta = train_meta if split == "train" else evaluation_meta
        for name in names:
            sequence, number = name.split("/")
            folder = root / split / sequence
            rgb = encode(suffix, picture(name))
            write_bytes(folder / "rgb" / (number + suffix), rgb)
            meta = dump(make_meta(frame_labels(name)))
            write_bytes(folder / "meta" / f"{number}.pkl", meta)
            if split == "train":
                mask_path = folder / "seg" / (number + MASK_SUFFIX[suffix])
                write_bytes(mask_path, encoded_masks(name, suffix))
    for labels in truth:
        labels["vertices"][list(TIPS[suffix])] = labels["handJoints3D"][16:]
    for kind, key in (("xyz", "handJoints3D"), ("verts", "vertices")):
        rows = [labels[key].tolist() for labels in truth]
        (root / f"evaluation_{kind}.json").write_text(json.dumps(rows))
    blank = dict.fromkeys(train_meta(truth[0]))
    write_bytes(root / "train" / "MC1" / "meta" / "0011.pkl", python3_pickle(blank))
    return root


def encoded_masks(name, suffix=".png"):
    """In v2 and v3, whose pictures have the suffix."""
    rgb = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for part, colour in zip(masks(name), COLOURS[suffix], strict=True):
        rgb[part] = colour
    if suffix == ".png":
        rgb = cv2.resize(rgb, (160, 120), interpolation=cv2.INTER_NEAREST)
    return encode(MASK_SUFFIX[suffix], rgb)
