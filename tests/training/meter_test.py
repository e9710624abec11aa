"""Averages over an interval, one interval late."""

import time

import jax.numpy as jnp
import numpy as np
import pytest

from homae_jax.training.meter import RUN_AHEAD, IntervalMeter


def terms(loss: float, *, is_skipped: int = 0, **others) -> dict:
    values = {"loss": loss, "is_skipped": is_skipped, **others}
    return {name: jnp.asarray(value) for name, value in values.items()}


def fill(meter: IntervalMeter, losses, first_step: int = 1) -> None:
    for i, loss in enumerate(losses):
        is_skipped = int(np.isnan(loss))
        step = first_step + i
        meter.add(step, terms(loss, is_skipped=is_skipped, lr=step), np.arange(2) + i)


def test_interval_meter_hands_over_one_interval_late():
    meter = IntervalMeter(batch_size=2)
    fill(meter, [1.0, 3.0])
    assert meter.end() is None
    fill(meter, [5.0], first_step=3)
    first = meter.end()
    assert (first.step, first.values["loss"]) == (2, 2.0)
    last = meter.flush()
    assert (last.step, last.values["loss"]) == (3, 5.0)
    assert meter.flush() is None


def test_interval_meter_averages_terms_and_takes_the_last_rate():
    meter = IntervalMeter(batch_size=2)
    fill(meter, [1.0, 2.0, 6.0])
    meter.end()
    values = meter.flush().values
    assert values["loss"] == 3.0
    assert values["lr"] == 3.0
    assert "is_skipped" not in values


def test_interval_meter_leaves_skipped_steps_out_and_names_their_rows():
    meter = IntervalMeter(batch_size=2)
    fill(meter, [1.0, float("nan"), 2.0], first_step=7)
    meter.end()
    found = meter.flush()
    assert found.values["loss"] == 1.5
    assert [s.step for s in found.skipped] == [8]
    assert found.skipped[0].rows.tolist() == [1, 2]


def test_interval_meter_without_an_applied_step_gives_nan():
    meter = IntervalMeter(batch_size=2)
    fill(meter, [float("nan")])
    meter.end()
    assert np.isnan(meter.flush().values["loss"])


def test_interval_meter_times_steps_and_waiting_but_not_the_compilation():
    meter = IntervalMeter(batch_size=10)
    time.sleep(0.2)  # the first step compiles
    fill(meter, [1.0])
    for step in (2, 3):
        with meter.waiting():
            time.sleep(0.03)
        time.sleep(0.01)
        fill(meter, [1.0], first_step=step)
    with meter.pausing():
        time.sleep(0.2)
    meter.end()
    values = meter.flush().values
    assert meter.compile_seconds >= 0.2
    assert 10 < values["steps_per_second"] < 26
    assert values["images_per_second"] == pytest.approx(10 * values["steps_per_second"])
    assert 0.5 < values["data_wait_share"] < 0.9


class SlowTerm:
    """A term on a device whose steps take a time each, one after the other."""

    SECONDS = 0.02
    busy_until = 0.0

    def __init__(self):
        start = max(time.monotonic(), SlowTerm.busy_until)
        self.done = SlowTerm.busy_until = start + self.SECONDS

    def block_until_ready(self):
        time.sleep(max(0.0, self.done - time.monotonic()))
        return self

    def __array__(self, dtype=None, copy=None):
        return np.zeros((), dtype)


def test_interval_meter_does_not_take_dispatched_steps_for_done():
    meter = IntervalMeter(batch_size=1)
    num = 20
    start = time.monotonic()
    for step in range(num):  # the host itself takes no time
        meter.add(step, {"loss": SlowTerm()}, np.arange(1))
    meter.end()
    spent = time.monotonic() - start
    assert spent > (num - RUN_AHEAD - 1) * SlowTerm.SECONDS
    assert meter.flush().values["steps_per_second"] < 1.3 / SlowTerm.SECONDS
