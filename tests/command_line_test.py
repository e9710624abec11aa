"""Every command's --help, exit statuses, and what it says in a pipe."""

import re
import subprocess
import sys

import pytest

GROUPED = ("train", "evaluate", "predict", "synthesize", "export")
COMMANDS = (*GROUPED, "report", "doctor", "score_ho3d", "convert", "benchmark")


def run(command, *arguments):
    return subprocess.run(
        [sys.executable, "-m", f"homae_jax.{command}", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_and_fits_a_terminal(command):
    done = run(command, "--help")
    assert done.returncode == 0 and done.stderr == ""
    assert f"python -m homae_jax.{command} " in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 88
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("command", GROUPED)
def test_help_shows_every_flag_once_in_a_group(command):
    text = run(command, "--help").stdout
    flags = re.findall(r"^  --(\w+)", text, re.M)
    assert len(flags) == len(set(flags)) > 3
    assert "Other flags:" not in text and "Exit status: 0" in text
    assert text.count(":\n  --") >= 2  # groups


@pytest.mark.parametrize("command", COMMANDS)
def test_a_mistyped_flag_is_one_line_and_status_2(command):
    done = run(command, "--no_such_flag=1")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
