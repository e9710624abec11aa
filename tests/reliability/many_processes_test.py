"""One training in two processes, on one machine, by gloo."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import chex
import numpy as np
import pytest

from homae_jax import config_flags, runtime
from homae_jax.training import checkpoint
from tests import toy_training

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 300
QUIET = {toy_training.QUIET: "1", "JAX_PLATFORMS": "cpu"}


def train_alone(workdir: Path) -> None:
    done = subprocess.run(
        command(workdir),
        env=os.environ | QUIET,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def command(workdir: Path, *arguments: str) -> list[str]:
    return [
        sys.executable, "-m", "tests.toy_training", f"--config={toy_training.CONFIG}",
        f"--workdir={workdir}", *arguments,
    ]  # fmt: skip


def start_both(workdir: Path, *arguments: str) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        subprocess.Popen(
            command(workdir, "--distributed", *arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ
            | QUIET
            | {
                "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": str(index),
            },
        )
        for index in range(2)
    ]


def end(processes: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """Exit status, output and errors of each."""
    found = []
    for process in processes:
        out, err = process.communicate(timeout=TIMEOUT)
        found.append((process.returncode, out, err))
    return found


def wait_for(process: subprocess.Popen, text: str) -> None:
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(process.stderr.read())


def losses(workdir: Path) -> dict[int, float]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def final(workdir: Path) -> checkpoint.Restored:
    config = config_flags.load_config(str(toy_training.CONFIG))
    step = checkpoint.choose_step(workdir)
    return checkpoint.restore(workdir, step, toy_training.template(config))


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> Path:
    """A run of 24 steps in two processes."""
    workdir = tmp_path_factory.mktemp("both")
    first, second = end(start_both(workdir))
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    return workdir


def test_two_processes_give_the_losses_of_one(both, tmp_path):
    train_alone(tmp_path)
    one, two = losses(tmp_path), losses(both)
    assert sorted(one) == sorted(two) == list(range(4, 25, 4))
    np.testing.assert_allclose(
        [two[step] for step in sorted(two)], [one[step] for step in sorted(one)], 1e-5
    )
    chex.assert_trees_all_close(
        final(both).state.params, final(tmp_path).state.params, rtol=1e-3, atol=1e-5
    )


def test_only_the_first_process_writes_checkpoints(both):
    assert checkpoint.finished_steps(both)
    assert sorted(p.name for p in (both / "process_1").iterdir()) == [
        ".lock",
        "metrics.jsonl",
        "tensorboard",
    ]


@pytest.mark.parametrize("lost", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_lost_process_ends_the_other_and_both_go_on(both, tmp_path, lost):
    processes = start_both(tmp_path)
    wait_for(processes[0], "step 8/24")
    processes[lost].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    status, _, err = end(processes)[1 - lost]
    assert time.monotonic() - killed < 2 * runtime.LOST_SECONDS
    assert status != 0
    assert "lost another one" in err or "another task died" in err, err
    for code, _, err in end(start_both(tmp_path)):
        assert code == 0, err
    chex.assert_trees_all_equal(final(tmp_path).state, final(both).state)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_after_the_same_step(tmp_path):
    processes = start_both(tmp_path, "--config.train.steps=100000")
    wait_for(processes[0], "step 4/")
    processes[1].send_signal(signal.SIGTERM)
    (code, out, err), (other_code, other_out, other_err) = end(processes)
    assert (code, other_code) == (0, 0), err + other_err
    assert out.splitlines()[-1] == other_out.splitlines()[-1]
    assert "is saved in" in out.splitlines()[-1]


@pytest.mark.slow
def test_one_process_goes_on_where_two_were(both, tmp_path):
    processes = start_both(tmp_path, "--config.train.steps=10")
    assert [code for code, _, _ in end(processes)] == [0, 0]
    train_alone(tmp_path)
    assert final(tmp_path).data == {"next_index": 24 * 8}
    chex.assert_trees_all_close(
        final(tmp_path).state.params, final(both).state.params, rtol=1e-3, atol=1e-5
    )


def test_an_uneven_batch_is_refused_at_the_start(tmp_path):
    for code, _, err in end(start_both(tmp_path, "--config.train.batch_size=7")):
        assert code == 2
        assert "error: train.batch_size=7 does not divide among 2 devices" in err
