"""Frames kept decoded: the same crops bit for bit, made anew when the data change."""

import contextlib
import functools
import os
import pickle
import shutil

import numpy as np
import pytest

from configs import common, ho3d
from homae_jax import assembly
from homae_jax.data import cache, crops
from homae_jax.data.ho3d import Ho3dSource
from homae_jax.data.source import Source
from homae_jax.errors import UserError
from homae_jax.objects.ycb import YCB_NAMES
from tests.data.pipeline_test import NUM, ToySource, example_options, take

AUGMENTATION = crops.Augmentation(**common.get_config().data.augment.to_dict())
WIDE = AUGMENTATION._replace(center_jitter=0.3, scale_sigma=0.4)


class Large(ToySource):
    """Hands small in large pictures, so that windows leave much out."""

    def __getitem__(self, index):
        frame = super().__getitem__(index)
        rng = np.random.default_rng(index)
        frame["image"] = rng.integers(0, 255, (480, 640, 3), dtype=np.uint8)
        frame["segmentation"] = rng.integers(0, 3, (120, 160), dtype=np.uint8)
        focal, shift = rng.uniform(200, 900), rng.uniform(-150, 150, 2)
        frame["intrinsics"] = np.array(
            [[focal, 0, 320 + shift[0]], [0, focal, 240 + shift[1]], [0, 0, 1]]
        )
        return frame


def opened(tmp_path, source=None, *, kind="ram", rows=None, settings=0, **changes):
    options = {"augmentation": AUGMENTATION, "with_scene": False, "image_size": 64}
    options |= changes
    (tmp_path / "data").mkdir(exist_ok=True)
    source = source or Large()
    return cache.open_cache(
        source,
        np.arange(len(source)) if rows is None else rows,
        kind=kind,
        window=functools.partial(
            crops.reachable_window, crop="hand_object", crop_scale=1.5, **options
        ),
        settings=settings,
        root=tmp_path / "data",
        others=[tmp_path / "MANO_RIGHT.pkl"],
        folder=tmp_path / "kept",
        threads=2,
    )


def assert_same(first, second):
    assert set(first) == set(second)
    for key in first:
        assert type(first[key]) is type(second[key])
        np.testing.assert_array_equal(first[key], second[key])


@pytest.mark.parametrize("kind", cache.KINDS)
@pytest.mark.parametrize("augmentation", [AUGMENTATION, WIDE], ids=["usual", "wide"])
def test_open_cache_gives_the_same_crops_bit_for_bit(tmp_path, kind, augmentation):
    source = Large()
    kept = opened(tmp_path, source, kind=kind, augmentation=augmentation)
    assert isinstance(kept, Source)
    num_black = 0
    for row in range(NUM):
        frame = kept[row]
        num_black += (frame["image"] == 0).all(axis=-1).mean() > 0.2
        for seed in (None, 1, 2, 3, 4):
            made = []
            for each in (frame, source[row]):
                rng = None if seed is None else np.random.default_rng(seed)
                options = example_options() | {"image_size": 64}
                made.append(
                    crops.make_example(each, rng, augmentation=augmentation, **options)
                )
            assert_same(*made)
    assert augmentation is WIDE or num_black > 0  # windows do leave something out


def test_open_cache_keeps_frames_of_files_as_they_are(tmp_path, tree):
    source = Ho3dSource(tree, "train")
    kept = opened(tmp_path, source, kind="disk", with_scene=True)
    for row in range(len(source)):
        assert_same(kept[row], source[row])
        assert kept.frame_name(row) == source.frame_name(row)


def test_open_cache_trains_on_the_same_batches(tmp_path):
    direct = take(3, source=Large())
    changes = {"image_size": example_options()["image_size"]}
    kept = take(3, source=opened(tmp_path, kind="disk", **changes))
    for first, second in zip(direct, kept, strict=True):
        assert_same(first._asdict(), second._asdict())


class Counting(Large):
    """Counts what is read."""

    def __init__(self):
        super().__init__()
        self.num_read = 0

    def __getitem__(self, index):
        self.num_read += 1
        return super().__getitem__(index)


def reads(tmp_path, **changes):
    source = Counting()
    opened(tmp_path, source, kind="disk", **changes)
    return source.num_read


def test_open_cache_on_disk_is_kept_until_data_or_settings_change(tmp_path):
    (tmp_path / "data" / "rgb").mkdir(parents=True)
    picture = tmp_path / "data" / "rgb" / "0.png"
    picture.write_bytes(b"one")
    assert reads(tmp_path) > 0
    assert reads(tmp_path) == 0
    assert reads(tmp_path, settings=1) > 0
    assert reads(tmp_path, rows=np.arange(5)) > 0
    picture.write_bytes(b"another")
    assert reads(tmp_path) > 0
    assert reads(tmp_path) == 0
    os.utime(picture, (0, 0))
    assert reads(tmp_path) > 0
    (tmp_path / "MANO_RIGHT.pkl").write_bytes(b"another hand")
    assert reads(tmp_path) > 0
    assert reads(tmp_path) == 0


def test_open_cache_on_disk_is_made_anew_when_damaged(tmp_path):
    reads(tmp_path)
    (folder,) = (tmp_path / "kept").iterdir()
    pixels = folder / cache.PIXELS
    pixels.write_bytes(pixels.read_bytes()[:-1])
    shutil.copy(folder / cache.LABELS, tmp_path / "labels")
    assert reads(tmp_path) > 0
    assert reads(tmp_path) == 0
    (folder / cache.LABELS).write_bytes(b"nothing")
    assert reads(tmp_path) > 0


def test_a_cache_on_disk_travels_to_other_processes_by_name(tmp_path):
    kept = opened(tmp_path, kind="disk")
    packed = pickle.dumps(kept)
    assert len(packed) < 100_000  # the pictures are 10 MB
    assert_same(pickle.loads(packed)[3], kept[3])


def test_open_cache_leaves_bad_frames_and_other_rows_to_the_source(tmp_path):
    kept = opened(tmp_path, ToySource(broken=(4,)), rows=np.arange(2, NUM))
    with pytest.raises(UserError, match="truncated at 7 bytes"):
        kept[4]
    assert_same(kept[0], ToySource()[0])


def test_open_cache_says_first_what_it_takes(tmp_path, capsys):
    opened(tmp_path)
    out = capsys.readouterr().out
    assert out.startswith(f"data.cache=ram: {NUM} frames take 0.0")
    assert " GB of memory; " in out


@pytest.mark.parametrize("kind", cache.KINDS)
def test_open_cache_refuses_what_does_not_fit(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(cache, "_free_memory", lambda: 10**6)
    monkeypatch.setattr(cache, "_free_disk", lambda folder: 10**6)
    with pytest.raises(UserError, match=f"data.cache={kind}: {NUM} frames take") as e:
        opened(tmp_path, kind=kind)
    assert "use data.max_train_frames" in str(e.value)
    assert not (tmp_path / "kept").exists()


def test_open_cache_refuses_another_kind(tmp_path):
    with pytest.raises(UserError, match=r'data\.cache="tape": use'):
        opened(tmp_path, kind="tape")


def test_open_cache_says_when_the_disk_does_not_let_it(tmp_path):
    (tmp_path / "kept").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="the cache of frames cannot be written"):
        opened(tmp_path, kind="disk")


def first_batches(tree, **changes):
    """Of a configuration's training."""
    config = ho3d.get_config()
    config.data.update(root=str(tree), image_size=32, threads=1, **changes)
    config.train.batch_size = 2
    source = Ho3dSource(tree, "train")
    names = sorted(YCB_NAMES.values())
    batches = assembly.build_train_iterator(config, source, names)
    with contextlib.closing(batches):
        return [next(batches) for _ in range(3)]


@pytest.mark.parametrize("kind", cache.KINDS)
def test_training_of_a_configuration_does_not_depend_on_its_cache(
    tree, tmp_path, monkeypatch, capsys, kind
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    direct, kept = first_batches(tree), first_batches(tree, cache=kind)
    for first, second in zip(direct, kept, strict=True):
        assert_same(first._asdict(), second._asdict())
    assert capsys.readouterr().out.startswith(f"data.cache={kind}: ")


def test_a_configuration_with_copies_in_every_worker_is_refused(tree):
    with pytest.raises(UserError, match="would hold a copy"):
        first_batches(tree, cache="ram", workers=1)
