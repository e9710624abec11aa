"""The data set of one's own in docs/datasets.md: short, and it works as it stands."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from homae_jax.data import pipeline
from homae_jax.data.source import Source, make_frame
from homae_jax.errors import UserError
from tests.data.dexycb_tree import BETAS, K

PAGE = Path(__file__).parents[2] / "docs" / "datasets.md"
MAX_LINES = 30
OPTIONS = {
    "object_names": ("mine",),
    "image_size": 64,
    "crop": "hand_object",
    "crop_scale": 1.5,
    "hand_box_scale": 1.2,
    "object_box_scale": 1.0,
    "object_center": "wrist",
    "object_center_depth": 0.5,
}


def labels_of(row):
    rng = np.random.default_rng(row)
    joints = rng.uniform(-0.05, 0.05, (21, 3)) + np.array([0, 0, 0.6])
    return {
        "intrinsics": K.tolist(),
        "joints": joints.tolist(),
        "hand_pose": (0.1 * rng.normal(size=(16, 3))).tolist(),
        "hand_betas": BETAS,
        "object_name": "mine",
        "object_rotmat": np.eye(3).tolist(),
        "object_trans": [0.0, 0.0, 0.6],
        "object_corners": (0.05 * rng.uniform(-1, 1, (8, 3))).tolist(),
    }


@pytest.fixture
def source(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= MAX_LINES
    scope = {}
    exec(compile(code, str(PAGE), "exec"), scope)
    rows = []
    for row in range(3):
        path = tmp_path / f"{row}.png"
        picture = np.full((480, 640, 3), 60 * row, np.uint8)
        cv2.imwrite(str(path), picture)
        rows.append({"image": str(path), "labels": labels_of(row)})
    (tmp_path / "train.json").write_text(json.dumps(rows))
    return scope["MySource"](tmp_path, "train")


def test_example_of_the_docs_is_a_source_that_trains(source):
    assert isinstance(source, Source) and len(source) == 3
    (batch,) = pipeline.eval_batches(
        source, rows=np.arange(3), batch_size=3, example_options=OPTIONS, threads=0
    )
    assert batch.image.shape == (3, 64, 64, 3) and batch.has_hand.all()
    for row in range(3):
        np.testing.assert_allclose(batch.joints[row], labels_of(row)["joints"])
        assert source.frame_info(row)["object_name"] == "mine"
        truth = source.ground_truth(row)
        np.testing.assert_array_equal(truth.joints, labels_of(row)["joints"])
    middle = batch.image[:, 32, 32, 0].tolist()
    assert middle == [0, 60, 120]


@pytest.mark.parametrize(
    ("key", "value"), [("joints", [[0.0, 0, 1]] * 20), ("object_trans", [0, 0, np.nan])]
)
def test_make_frame_refuses_labels_of_another_kind(key, value):
    image = np.zeros((48, 64, 3), np.uint8)
    with pytest.raises(UserError, match=key):
        make_frame(0, image, **labels_of(0) | {key: value})
