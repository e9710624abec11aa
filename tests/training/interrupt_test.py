"""SIGTERM and Ctrl-C."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from homae_jax.training.interrupt import StopRequests

ROOT = Path(__file__).resolve().parents[2]
WAITER = """
import time
from homae_jax.training.interrupt import StopRequests
with StopRequests() as stop:
    with stop.stepping():
        print("ready", flush=True)
        while not stop.name:
            time.sleep(0.01)
        print("saving", flush=True)
        {then}
    print("saved", flush=True)
    {after}
"""


def start(then: str = "pass", after: str = "pass") -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITER.format(then=then, after=after)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    process.stdout.readline()
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stop_requests_let_the_program_finish(number):
    process = start()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "saving\nsaved\n")
    assert (
        err == f"{number.name}: finishing the step and saving (again: stop at once)\n"
    )


def test_a_second_request_stops_at_once():
    process = start(then="time.sleep(60)")
    process.send_signal(signal.SIGINT)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "saved" not in out
    assert err.endswith("stopped at once; not saved\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_outside_the_steps_ends_the_program_at_once(number):
    process = start(after="print(1, flush=True); time.sleep(60)")
    process.send_signal(signal.SIGTERM)
    assert [process.stdout.readline() for _ in range(3)][-1] == "1\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert err.splitlines()[-1] == f"{number.name}: stopped; no step was under way"


def test_stop_requests_give_the_signals_back():
    before = signal.getsignal(signal.SIGINT)
    with StopRequests() as stop, stop.stepping():
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.name == "SIGTERM"
    assert signal.getsignal(signal.SIGINT) is before
