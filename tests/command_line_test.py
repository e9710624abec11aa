"""Every command's --help, exit statuses, and what it says in a pipe."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from homae_jax import command_line
from homae_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
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
    assert "Exit status: 0, done; 2, " in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 88
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("command", GROUPED)
def test_help_shows_every_flag_once_in_a_group(command):
    text = run(command, "--help").stdout
    flags = re.findall(r"^  --(\w+)", text, re.M)
    assert len(flags) == len(set(flags)) > 3
    assert "Other flags:" not in text and "Exit status: 0" in text
    assert text.count(":\n  --") >= 2  # groups


@pytest.mark.parametrize(
    "words",
    [
        *((command,) for command in COMMANDS),
        *(("benchmark", section) for section in ("train", "mano", "all")),
        *(("convert", "mano"), ("doctor", "data")),
    ],
    ids=" ".join,
)
def test_a_mistyped_flag_is_one_line_and_status_2(words):
    done = run(*words, "--no_such_flag=1")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "no_such_flag" in done.stderr


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (UserError("what, where"), 2, "error: what, where\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (PermissionError(13, "Permission denied", "/x"), 2, "error: /x: permission"),
    ],
)
def test_guard_ends_in_one_line(error, status, text, capsys):
    def command():
        raise error

    assert command_line.guard(command) == status
    printed = capsys.readouterr().err
    assert printed.startswith(text) and printed.count("\n") == 1


def test_guard_lets_a_defect_through():
    with pytest.raises(ZeroDivisionError):
        command_line.guard(lambda: 1 // 0)
    with pytest.raises(TimeoutError):
        command_line.guard(lambda: (_ for _ in ()).throw(TimeoutError(110, "slow")))


def test_parser_names_unknown_flags_before_missing_ones():
    parser = command_line.Parser(prog="it")
    parser.add_argument("--out")
    with pytest.raises(UserError, match=r"unrecognized arguments: --no \(it --help"):
        parser.parse_args(["--no"])
    with pytest.raises(UserError, match=r"--out=\.\.\. is missing \(it --help"):
        parser.require(parser.parse_args([]), "out")


@pytest.mark.parametrize("command", ["predict", "convert"])
def test_a_reader_that_leaves_early_is_no_mistake(command):
    """What `... --help | head -1` does."""
    command = f"{sys.executable} -m homae_jax.{command} --help | head -n 1"
    script = ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"]
    done = subprocess.run(script, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode in (0, 141) and done.stderr == ""
    assert done.stdout.count("\n") == 1


PICTURE = ROOT / "notebooks" / "photo.jpg"


@pytest.mark.parametrize(
    "arguments", [("predict", f"--input={PICTURE}"), ("synthesize", "--num_eval=1")]
)
@pytest.mark.parametrize("place", ["{folder}/file/out", "/proc/out"])
def test_a_place_that_cannot_be_written_is_one_line(arguments, place, tmp_path):
    (tmp_path / "file").touch()
    done = run(*arguments, f"--out={place.format(folder=tmp_path)}")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["predict", "report", "synthesize", "score_ho3d"])
def test_a_key_of_no_configuration_is_refused(command):
    done = run(command, "--config.train.steps=1")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --config.train.steps=1: this command")


def test_completion_knows_commands_flags_and_keys():
    """What bash would offer after a tabulator."""

    def offered(*words):
        line = " ".join(f"'{word}'" for word in words)
        script = (
            f"source {ROOT}/launch/completion.bash; COMP_WORDS=({line}); "
            f"COMP_CWORD={len(words) - 1}; _homae_jax; echo ${{COMPREPLY[@]}}"
        )
        done = subprocess.run(
            ["bash", "-c", script],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
            check=False,
        )
        return done.stdout.split()

    assert offered("python", "-m", "homae_jax.pred") == ["homae_jax.predict"]
    flags = offered("python", "-m", "homae_jax.predict", "--ha")
    assert flags == ["--hand_box="]
    keys = offered("python", "-m", "homae_jax.train", "--config.train.ba")
    assert keys == ["--config.train.batch_size="]
