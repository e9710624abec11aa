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
    print("ready", flush=True)
    while not stop.name:
        time.sleep(0.01)
    print("saving", flush=True)
    {then}
print("saved", flush=True)
"""


def start(then: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITER.format(then=then)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    process.stdout.readline()
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stop_requests_let_the_program_finish(number):
    process = start(then="pass")
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, "saving\nsaved\n")
    assert (
        err == f"{number.name}: finishing the step and saving (again: stop at once)\n"
    )


def test_a_second_request_stops_at_once():
    process = start(then="time.sleep(60)")
    process.send_signal(signal.SIGINT)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "saved" not in out
    assert err.endswith("stopped at once; not saved\n")


def test_stop_requests_give_the_signals_back():
    before = signal.getsignal(signal.SIGINT)
    with StopRequests() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.name == "SIGTERM"
    assert signal.getsignal(signal.SIGINT) is before
