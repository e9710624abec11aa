"""HO-3D's index: every frame of the folders, its reason, kept until a file changes."""

import shutil

import pytest

from homae_jax.data import ho3d_index, index
from homae_jax.data.ho3d import Ho3dSource
from homae_jax.errors import UserError
from tests.data import ho3d_tree


def open_index(root, split="train", **options):
    options = {"cache_dir": root.parent / "cache", "workers": 0} | options
    return ho3d_index.open_index(root, split, **options)


def test_index_lists_the_split_in_its_order_and_what_else_lies_there(tree, tmp_path):
    table = open_index(tree, cache_dir=tmp_path)
    assert table.names == (*ho3d_tree.TRAIN, "MC1/0011")
    assert table.is_listed.tolist() == [True, True, True, False]
    assert ho3d_index.excluded(table) == {"not annotated": 1}
    assert ho3d_index.unusable(table) == {}
    assert table.object_id.tolist() == [5, 5, 2, 0]
    evaluation = open_index(tree, "evaluation", cache_dir=tmp_path)
    assert evaluation.names == ho3d_tree.EVALUATION
    assert ho3d_index.unusable(evaluation) == {}


def break_label(root):
    (root / "train/SM2/meta/0001.pkl").write_bytes(b"\x80\x02}")


def blank_label(root):
    blank = ho3d_tree.python3_pickle(dict.fromkeys(("handJoints3D", "objRot")))
    (root / "train/SM2/meta/0001.pkl").write_bytes(blank)


def lose(kind):
    def remove(root):
        next((root / "train/SM2" / kind).glob("0001.*")).unlink()

    return remove


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (break_label, "label file damaged or incomplete"),
        (blank_label, "not annotated"),
        (lose("meta"), "label file missing"),
        (lose("rgb"), "picture missing"),
        (lose("seg"), "mask missing"),
    ],
)
def test_index_is_made_anew_and_says_what_is_wrong(own_tree, change, reason):
    assert ho3d_index.unusable(open_index(own_tree)) == {}
    change(own_tree)
    assert ho3d_index.unusable(open_index(own_tree)) == {"SM2/0001": reason}


def test_a_sequence_without_masks_lacks_none(own_tree):
    for path in (own_tree / "train/SM2/seg").iterdir():
        path.unlink()
    (own_tree / "train/SM2/seg").rmdir()
    assert ho3d_index.unusable(open_index(own_tree)) == {}


def test_frames_beyond_the_list_are_counted(own_tree):
    (own_tree / "train.txt").write_text("MC1/0010\n")
    table = open_index(own_tree)
    assert ho3d_index.excluded(table) == {"not annotated": 1, "not in the list": 2}


def test_index_is_kept_while_nothing_changes(own_tree, monkeypatch):
    first = open_index(own_tree)
    monkeypatch.setattr(index, "run", lambda *_, **__: pytest.fail("built again"))
    assert open_index(own_tree).names == first.names


def test_index_by_processes_is_the_same(tree, tmp_path):
    alone, shared = (
        open_index(tree, cache_dir=tmp_path / str(num), workers=num) for num in (0, 2)
    )
    assert alone.names == shared.names
    assert (alone.reason == shared.reason).all()


def test_source_says_what_is_out_and_what_cannot_be_read(own_tree, tmp_path):
    source = Ho3dSource(own_tree, "train", cache_dir=tmp_path / "cache")
    assert source.describe() == (
        "HO-3D train: 3 frames (v2: 66034); left out: not annotated 1"
    )
    blank_label(own_tree)
    source = Ho3dSource(own_tree, "train", cache_dir=tmp_path / "cache")
    assert len(source) == 3  # a benchmark's list is not shortened
    assert source.describe().endswith("unusable: 1, the first SM2/0001 (not annotated)")
    with pytest.raises(UserError, match=r"SM2/meta/0001\.pkl"):
        source[0]


def test_source_knows_objects_without_reading_labels(own_tree, tmp_path):
    plain = Ho3dSource(own_tree, "train")
    source = Ho3dSource(own_tree, "train", cache_dir=tmp_path / "cache")
    wanted = [plain.frame_info(row)["object_name"] for row in range(3)]
    shutil.rmtree(own_tree / "train" / "SM2" / "meta")
    assert [source.frame_info(row)["object_name"] for row in range(3)] == wanted
