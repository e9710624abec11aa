import contextlib
import multiprocessing
import threading
import time

import jax
import numpy as np
import pytest

from configs import common
from homae_jax.data import pipeline
from homae_jax.data.source import FrameInfo
from homae_jax.errors import UserError
from homae_jax.schema import Batch

NAMES = ("006_mustard_bottle",)
NUM = 11


class ToySource:
    """Small random pictures; a row of `broken` cannot be read."""

    def __init__(self, num=NUM, broken=()):
        self._num, self._broken = num, broken

    def __len__(self):
        return self._num

    def __getitem__(self, index):
        if index in self._broken:
            raise UserError("/somewhere/0003.png: truncated at 7 bytes")
        rng = np.random.default_rng(index)
        joints = rng.uniform([-0.08, -0.08, 0.5], [0.08, 0.08, 0.6], size=(21, 3))
        return {
            "index": index,
            "image": rng.integers(0, 255, (60, 80, 3), dtype=np.uint8),
            "segmentation": None,
            "intrinsics": np.array([[80.0, 0, 40], [0, 80.0, 30], [0, 0, 1]]),
            "wrist": joints[0],
            "joints": joints,
            "hand_pose": rng.normal(size=(16, 3)),
            "hand_betas": rng.normal(size=10),
            "gt_joints": None,
            "hand_box_px": None,
            "object_name": NAMES[0],
            "object_rotmat": np.eye(3),
            "object_trans": np.array([0.0, 0.0, 0.6]),
            "object_corners": 0.05 * np.array(list(np.ndindex(2, 2, 2))),
        }

    def frame_name(self, index):
        return f"TOY/{index:04d}"

    def frame_info(self, index):
        return FrameInfo(
            object_name=NAMES[0],
            sequence="TOY",
            hand_visibility=float("nan"),
            object_visibility=float("nan"),
        )

    def ground_truth(self, index):
        return None


def example_options():
    data = common.get_config().data
    keys = "crop crop_scale hand_box_scale object_box_scale object_center"
    chosen = {key: data[key] for key in [*keys.split(), "object_center_depth"]}
    return chosen | {"object_names": NAMES, "image_size": 16}


def iterator(source=None, **changes):
    options = {
        "rows": np.arange(NUM),
        "batch_size": 3,
        "seed": 5,
        "example_options": example_options(),
        "augment_options": common.get_config().data.augment.to_dict(),
        "threads": 2,
    }
    source = ToySource() if source is None else source
    return contextlib.closing(pipeline.train_iterator(source, **options | changes))


def take(num, **changes):
    with iterator(**changes) as batches:
        return [next(batches) for _ in range(num)]


def assert_same(first, second):
    for name, ours, theirs in zip(Batch._fields, first, second, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=name)


def test_train_iterator_yields_batches_of_numpy():
    (batch,) = take(1)
    assert isinstance(batch, Batch)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(batch))
    assert batch.image.shape == (3, 16, 16, 3) and batch.image.dtype == np.uint8
    assert batch.segmentation.shape == (3, 8, 8)
    assert batch.joints.shape == (3, 21, 3) and batch.joints.dtype == np.float32
    assert batch.is_real.dtype == bool and batch.is_real.shape == (3,)


@pytest.mark.parametrize("threads", [0, 1, 5])
def test_train_iterator_depends_on_the_seed_alone(threads):
    reference = take(9, threads=2)
    for ours, theirs in zip(take(9, threads=threads), reference, strict=True):
        assert_same(ours, theirs)


def test_train_iterator_differs_by_seed():
    first, other = take(4), take(4, seed=6)
    orders = [np.concatenate([b.sample_index for b in run]) for run in (first, other)]
    assert not np.array_equal(*orders)


def test_train_iterator_shows_every_row_once_an_epoch_in_new_order_and_shape():
    batches = take(2 * NUM)  # 3 x 22 crops: six epochs of eleven rows
    shown = np.concatenate([b.sample_index for b in batches]).reshape(6, NUM)
    np.testing.assert_array_equal(
        np.sort(shown, axis=1), np.tile(np.arange(NUM), (6, 1))
    )
    assert len({tuple(epoch) for epoch in shown}) == 6
    wrists = np.concatenate([b.wrist for b in batches]).reshape(6, NUM, 3)
    first_row = np.stack([w[e == 0][0] for w, e in zip(wrists, shown, strict=True)])
    assert len(np.unique(first_row, axis=0)) == 6


def test_train_iterator_reads_the_chosen_rows_only():
    rows = np.array([2, 7, 9])
    shown = np.concatenate([b.sample_index for b in take(5, rows=rows)])
    assert set(shown) == {2, 7, 9}


def test_train_iterator_fills_batches_from_fewer_rows_than_they_hold():
    (batch,) = take(1, rows=np.array([4]), batch_size=5)
    np.testing.assert_array_equal(batch.sample_index, [4] * 5)
    assert len(np.unique(batch.wrist, axis=0)) == 5


@pytest.mark.parametrize("steps", [0, 1, 7])
def test_train_iterator_resumes_exactly(steps):
    reference = take(steps + 4)
    with iterator() as batches:
        for _ in range(steps):
            next(batches)
        state = batches.get_state()
    with iterator(threads=0) as resumed:
        next(resumed)
        resumed.set_state(state)
        for theirs in reference[steps:]:
            assert_same(next(resumed), theirs)


def test_train_iterator_processes_share_one_stream():
    """Two processes of 3 see what one of 6 sees: rows, order and augmentation."""
    whole = take(4, batch_size=6)
    parts = [take(4, process_index=i, process_count=2) for i in (0, 1)]
    for step, batch in enumerate(whole):
        for i in (0, 1):
            assert_same(parts[i][step], jax.tree.map(lambda x, i=i: x[i::2], batch))


def test_train_iterator_names_the_frame_that_cannot_be_read():
    with (
        iterator(ToySource(broken=(3,))) as batches,
        pytest.raises(UserError, match=r"frame TOY/0003: /somewhere/0003\.png: trunc"),
    ):
        for _ in range(NUM):
            next(batches)


def test_skipping_is_counted_and_does_not_depend_on_threads(capfd):
    """Other rows stay as they were; the bad one's place is taken, always alike."""
    runs = []
    for threads in (0, 4):
        source = ToySource(broken=(3,))
        with iterator(source, threads=threads, on_bad_sample="skip") as batches:
            runs.append([next(batches) for _ in range(6)])
    for one, other in zip(*runs, strict=True):
        assert_same(one, other)
        assert 3 not in one.sample_index
    lines = [x for x in capfd.readouterr().err.splitlines() if "skipped" in x]
    assert len(lines) == 2 and "(1 so far): frame TOY/0003" in lines[0]


@pytest.mark.parametrize("broken", [range(6), range(NUM)])
def test_skipping_gives_up_where_too_much_is_bad(broken):
    source = ToySource(broken=tuple(broken))
    with (
        iterator(source, on_bad_sample="skip") as batches,
        pytest.raises(UserError, match="over the cap"),
    ):
        for _ in range(3 * NUM):
            next(batches)


def test_train_iterator_refuses_an_unknown_policy():
    with pytest.raises(UserError, match=r"data\.on_bad_sample"):
        take(1, on_bad_sample="ignore")


def test_train_iterator_names_the_frame_whose_object_has_no_model():
    options = example_options() | {"object_names": ("025_mug",)}
    with pytest.raises(UserError, match=r"frame TOY/\d+: no model of the object"):
        take(1, example_options=options)


def test_train_iterator_raises_without_rows():
    with pytest.raises(UserError, match="no frame is left"):
        take(1, rows=np.arange(0))


def test_train_iterator_raises_on_mistyped_options():
    with pytest.raises(TypeError, match="centre_jitter"):
        take(1, augment_options={"centre_jitter": 0.1})


def test_train_iterator_stops_its_threads():
    take(2, threads=3)
    deadline = time.monotonic() + 10  # they are told to stop, not waited for
    while any("grain" in thread.name for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def evaluate(**changes):
    options = {
        "rows": np.arange(NUM),
        "batch_size": 4,
        "example_options": example_options(),
        "threads": 2,
    }
    return list(pipeline.eval_batches(ToySource(), **options | changes))


@pytest.mark.parametrize("threads", [0, 3])
def test_eval_batches_pads_the_last_batch(threads):
    batches = evaluate(threads=threads)
    assert len(batches) == pipeline.num_batches(NUM, 4) == 3
    shown = np.concatenate([b.sample_index for b in batches])
    np.testing.assert_array_equal(shown, [*range(NUM), NUM - 1])
    is_real = np.concatenate([b.is_real for b in batches])
    np.testing.assert_array_equal(is_real, [True] * NUM + [False])


def test_eval_batches_keeps_the_order_of_the_rows_and_augments_nothing():
    rows = np.array([8, 1, 5, 2])
    (batch,) = evaluate(rows=rows)
    np.testing.assert_array_equal(batch.sample_index, rows)
    assert batch.is_real.all()
    for row, wrist in zip(rows, batch.wrist, strict=True):
        np.testing.assert_allclose(wrist, ToySource()[row]["wrist"], rtol=1e-6)


def test_eval_batches_left_early_leave_no_thread():
    before = set(threading.enumerate())
    batches = pipeline.eval_batches(
        ToySource(),
        rows=np.arange(NUM),
        batch_size=2,
        example_options=example_options(),
        threads=2,
    )
    next(batches)
    started = set(threading.enumerate()) - before
    assert started
    batches.close()
    for thread in started:
        thread.join(10)
        assert not thread.is_alive(), thread.name


@pytest.mark.slow
def test_train_iterator_with_worker_processes_reads_every_row():
    batches = take(11, workers=2)
    assert set(np.concatenate([b.sample_index for b in batches])) == set(range(NUM))
    assert not multiprocessing.active_children()
