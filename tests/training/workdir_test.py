"""One training per folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from homae_jax.errors import UserError
from homae_jax.training.workdir import locked

ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import sys
from homae_jax.training.workdir import locked
with locked(sys.argv[1]):
    print("in", flush=True)
    sys.stdin.read()
"""


def hold(workdir: Path) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, workdir],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    process.stdout.readline()
    return process


def test_locked_refuses_a_second_training_and_names_the_first(tmp_path):
    workdir = tmp_path / "runs" / "a"
    process = hold(workdir)
    with pytest.raises(UserError, match=rf"process {process.pid}\)"), locked(workdir):
        pass
    process.kill()
    process.wait()
    with locked(workdir):
        assert (workdir / ".lock").read_text() == str(os.getpid())


def test_locked_says_why_a_folder_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"--workdir=.*Not a directory"),
        locked(tmp_path / "file" / "run"),
    ):
        pass
