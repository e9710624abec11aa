import hashlib
import json

import jax.numpy as jnp
import numpy as np
import pytest

from homae_jax import synthesize as entry
from homae_jax.errors import UserError
from homae_jax.geometry.rotations import aa_to_rotmat
from homae_jax.hand.mano import mano_forward
from homae_jax.hand.mano_files import load_mano
from homae_jax.hand.safe_pickle import load_pickle
from homae_jax.objects.ycb import HO3D_OBJECTS
from homae_jax.synthesize import synthesize
from homae_jax.synthetic import production
from tests.synthetic import toy_world

MODELS = ("003_cracker_box", "006_mustard_bottle", "019_pitcher_base")


@pytest.fixture
def toy_parts(tmp_path, monkeypatch):
    """Boxes for objects and eggs for hands: a run takes a second or two."""
    toy_world.write_models(tmp_path / "models", MODELS)
    monkeypatch.setattr(entry, "_write_hand", lambda folder: {})
    monkeypatch.setattr(entry, "_hand_shape", lambda model: toy_world.hand_shape())
    monkeypatch.setattr(
        entry,
        "_make_grasps",
        lambda mano_file, models_dir, clips, **options: toy_world.grasps(
            1 + max(grasp for clip in clips for grasp in clip.grasps)
        ),
    )
    return tmp_path / "models"


def run(out, models, num_train=5, num_eval=3, **options):
    options = {"models": str(models), "workers": 0, "image_format": "jpg"} | options
    return synthesize(out, num_train, num_eval, **options)


def label_digests(root):
    files = [*root.rglob("*.pkl"), *root.rglob("*.json"), *root.glob("*.txt")]
    files = [f for f in files if f.name != "synthetic.json"]
    return {
        str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


def test_synthesize_writes_a_complete_tree(tmp_path, toy_parts):
    root = run(tmp_path / "out", toy_parts)
    for split, num, kinds in (
        ("train", 5, {"rgb", "depth", "meta", "seg"}),
        ("evaluation", 3, {"rgb", "depth", "meta"}),
    ):
        frames = (root / f"{split}.txt").read_text().split()
        assert len(frames) == num
        for frame in frames:
            sequence, number = frame.split("/")
            folder = root / split / sequence
            assert {path.name for path in folder.iterdir()} == kinds
            for kind in kinds:
                assert list((folder / kind).glob(f"{number}.*"))
            meta = load_pickle(folder / "meta" / f"{number}.pkl")
            assert meta["objTrans"].shape == (3,)
        shares = json.loads((root / f"visibility_{split}.json").read_text())
        assert list(shares) == frames
    truth = json.loads((root / "evaluation_xyz.json").read_text())
    frames = (root / "evaluation.txt").read_text().split()
    for frame, joints in zip(frames, truth, strict=True):
        sequence, number = frame.split("/")
        meta = load_pickle(root / "evaluation" / sequence / "meta" / f"{number}.pkl")
        np.testing.assert_allclose(meta["handJoints3D"], joints[0], atol=1e-6)
    record = json.loads((root / "synthetic.json").read_text())
    assert record["is_complete"] and record["settings"]["num_train"] == 5
    assert not (root / ".world").exists()
    assert (root / "models" / "003_cracker_box" / "texture_map.png").is_file()


def test_synthesize_leaves_unlisted_frames_without_labels(tmp_path, toy_parts):
    root = run(tmp_path / "out", toy_parts)
    listed = set((root / "train.txt").read_text().split())
    on_disk = {f"{p.parts[-3]}/{p.stem}" for p in (root / "train").rglob("*.pkl")}
    extra = on_disk - listed
    assert extra
    for frame in extra:
        sequence, number = frame.split("/")
        meta = load_pickle(root / "train" / sequence / "meta" / f"{number}.pkl")
        assert meta["handPose"] is None and meta["objTrans"] is None


def test_synthesize_gives_the_same_labels_for_any_number_of_workers(
    tmp_path, toy_parts
):
    alone = run(tmp_path / "alone", toy_parts)
    many = run(tmp_path / "many", toy_parts, workers=2)
    assert label_digests(alone) == label_digests(many)


def test_synthesize_differs_by_seed(tmp_path, toy_parts):
    one = label_digests(run(tmp_path / "one", toy_parts))
    other = label_digests(run(tmp_path / "other", toy_parts, seed=1))
    assert one.keys() == other.keys()
    assert not any(
        one[name] == other[name] for name in one if name.endswith("0001.pkl")
    )


def test_synthesize_resumes_where_it_stopped(tmp_path, toy_parts, monkeypatch):
    expected = label_digests(run(tmp_path / "whole", toy_parts))
    made, make = [], production.Workshop.make

    def make_three(self, chunk):
        if chunk.kind == "frames":
            made.append(chunk)
        if len(made) == 4:
            raise KeyboardInterrupt
        make(self, chunk)

    monkeypatch.setattr(production.Workshop, "make", make_three)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", toy_parts)
    root = run(tmp_path / "broken", toy_parts)
    assert len(set(made)) == len(made) - 1  # only the interrupted one came again
    assert label_digests(root) == expected


def test_synthesize_returns_at_once_when_finished(tmp_path, toy_parts, monkeypatch):
    run(tmp_path / "out", toy_parts)
    monkeypatch.setattr(entry, "_prepare", None)
    monkeypatch.setattr(entry, "_produce", None)
    run(tmp_path / "out", toy_parts)


def test_worlds_from_before_grips_could_be_chosen_are_taken_as_they_are(
    tmp_path, toy_parts
):
    out = tmp_path / "out"
    run(out, toy_parts)
    record = json.loads((out / "synthetic.json").read_text())
    del record["settings"]["grips"]
    (out / "synthetic.json").write_text(json.dumps(record))
    run(out, toy_parts)
    with pytest.raises(UserError, match="grips=any, not above"):
        run(out, toy_parts, grips="above")


def test_synthesize_raises_on_other_settings_in_the_same_folder(tmp_path, toy_parts):
    run(tmp_path / "out", toy_parts)
    with pytest.raises(UserError, match=r"seed=0, not 7"):
        run(tmp_path / "out", toy_parts, seed=7)


def test_synthesize_raises_on_a_foreign_folder(tmp_path, toy_parts):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("dear reader")
    with pytest.raises(UserError, match="not empty"):
        run(tmp_path / "home", toy_parts)


def test_synthesize_raises_on_models_without_ycb_names(tmp_path, toy_parts):
    toy_world.write_models(tmp_path / "other", ("teapot",))
    with pytest.raises(UserError, match="003_cracker_box"):
        run(tmp_path / "out", tmp_path / "other")


def test_synthesize_frees_a_folder_where_nothing_was_drawn(tmp_path, toy_parts):
    with pytest.raises(UserError, match="no such folder"):
        run(tmp_path / "out", tmp_path / "modles")
    assert (run(tmp_path / "out", toy_parts) / "train.txt").is_file()


@pytest.mark.parametrize(
    "wrong",
    [
        {"layout": "coco"},
        {"image_format": "gif"},
        {"objects": "some"},
        {"grips": "below"},
        {"heavy_share": 1.5},
        {"view_cone_deg": -1.0},
        {"num_train": -5},
    ],
)
def test_synthesize_raises_on_impossible_settings(tmp_path, wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        run(tmp_path / "out", tmp_path, **wrong)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_synthesize_labels_are_those_of_its_hand(tmp_path):
    """The real parts: MANO's layer gives back the joints from pose, shape, shift."""
    root = synthesize(tmp_path, 4, 1, objects="ho3d", workers=0)
    mano = load_mano(root / "mano" / "MANO_RIGHT.pkl")
    for frame in (root / "train.txt").read_text().split():
        sequence, number = frame.split("/")
        meta = load_pickle(root / "train" / sequence / "meta" / f"{number}.pkl")
        pose = aa_to_rotmat(jnp.asarray(meta["handPose"].reshape(16, 3)))
        hand = mano_forward(mano, pose, meta["handBeta"], fingertips="ho3d")
        joints = np.asarray(hand.joints) + meta["handTrans"]
        np.testing.assert_allclose(joints, meta["handJoints3D"], atol=1e-5)
        assert meta["objName"] in HO3D_OBJECTS


def test_main_refuses_to_make_nothing(tmp_path):
    entry.FLAGS(["synthesize", f"--out={tmp_path}", "--num_train=0", "--num_eval=0"])
    with pytest.raises(UserError, match="num_train and num_eval are both 0"):
        entry.main(["synthesize"])
