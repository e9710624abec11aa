"""Every mistake on a command line is one line that says what to do."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import ml_collections
import pytest

from homae_jax import config_flags
from homae_jax.config_flags import Override
from homae_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


def small_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            "name": "toy",
            "model": {"depth": 2, "dropout": 0.1, "widths": (4, 8), "remat": False},
            "train": {"steps": 5, "learning_rate": 1e-3},
            "label": ml_collections.config_dict.placeholder(str),
        }
    )


def overridden(text: str) -> ml_collections.ConfigDict:
    config = small_config()
    _, overrides = config_flags.split_overrides(text.split())
    config_flags.apply_overrides(config, overrides)
    return config


def write_config(folder: Path, text: str) -> Path:
    path = folder / "settings.py"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "group", "key", "value"),
    [
        ("--config.model.depth=3", "model", "depth", 3),
        ("--config.model.depth 3", "model", "depth", 3),
        ("--config.model.dropout=1", "model", "dropout", 1.0),
        ("--config.model.dropout=1e-2", "model", "dropout", 0.01),
        ("--config.model.widths=(1,2,3)", "model", "widths", (1, 2, 3)),
        ("--config.model.widths=1,2", "model", "widths", (1, 2)),
        ("--config.model.widths=16", "model", "widths", (16,)),
        ("--config.model.remat", "model", "remat", True),
        ("--config.model.remat=True", "model", "remat", True),
        ("--config.model.remat=0", "model", "remat", False),
    ],
)
def test_apply_overrides_reads_the_type_of_the_key(text, group, key, value):
    found = overridden(text)[group][key]
    assert found == value
    assert type(found) is type(value)


def test_apply_overrides_fills_a_placeholder():
    assert overridden("--config.label=row=2").label == "row=2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--config.model.depht=3", "did you mean --config.model.depth"),
        ("--config.depth=3", "did you mean --config.model.depth"),
        ("--config.modle.depth=3", "did you mean --config.model.depth"),
        ("--config.zzzzzz=3", "configs/common.py lists them all"),
        ("--config.model=3", "is a group; its keys: depth, dropout"),
        ("--config.model.depth.more=3", "model.depth is a value and has no keys"),
        ("--config.model.depth=abc", "wants a whole number, like 2"),
        ("--config.model.depth=1e3", "wants a whole number, like 2"),
        ("--config.model.dropout=high", "wants a number, like 0.1"),
        ("--config.model.widths=(1,'a')", r"wants a tuple of int, like \(4, 8\)"),
        ("--config.model.widths=(1,", "wants a tuple of int"),
        ("--config.model.remat=maybe", "wants true or false, like False"),
        ("--config.model.depth", "no value; write --config.model.depth=VALUE"),
    ],
)
def test_apply_overrides_names_the_mistake(text, message):
    with pytest.raises(UserError, match=message) as caught:
        overridden(text)
    assert "\n" not in str(caught.value)


def test_load_config_passes_the_argument_after_the_colon(tmp_path):
    path = write_config(
        tmp_path,
        "import ml_collections\n"
        "def get_config(name='small'):\n"
        "    return ml_collections.ConfigDict({'name': name})\n",
    )
    assert config_flags.load_config(str(path)).name == "small"
    assert config_flags.load_config(f"{path}:long").name == "long"


def test_load_config_finds_the_projects_files_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = [Override("data.root", "/data/HO3D_v2")]
    config = config_flags.load_config("configs/common.py", overrides)
    assert config.data.root == "/data/HO3D_v2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = (\n", "settings.py:1: "),
        ("x = 1\ny = 1 / 0\n", "settings.py:2: ZeroDivisionError"),
        ("def get_config():\n    return missing\n", "settings.py:2: NameError"),
        ("x = 1\n", r"defines no get_config\(\)"),
        ("def get_config():\n    return {}\n", "returns no ConfigDict"),
        ("def get_config(size):\n    return size\n", "wants an argument after"),
    ],
)
def test_load_config_names_the_line_of_a_broken_file(tmp_path, text, message):
    path = write_config(tmp_path, text)
    with pytest.raises(UserError, match=message) as caught:
        config_flags.load_config(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("c.train.stesp = 3", "sets train.stesp, .* did you mean train.steps?"),
        ("c.losses.weights.mano_poze = 3.0", "did you mean losses.weights.mano_pose?"),
        ("c.zzzzzz = 3", "sets zzzzzz, .*; configs/common.py lists them all"),
        ("c.train.steps = 'many'", "settings.py:4: TypeError: .*'steps'"),
        ("c.trian.steps = 3", 'settings.py:4: AttributeError: .* mean "train"'),
    ],
)
def test_load_config_names_what_is_mistyped_in_a_file(tmp_path, line, message):
    head = "from configs import synthetic\ndef get_config():\n"
    body = f"    c = synthetic.get_config()\n    {line}\n    return c\n"
    path = write_config(tmp_path, head + body)
    with pytest.raises(UserError, match=message) as caught:
        config_flags.load_config(str(path))
    assert "\n" not in str(caught.value)


def test_load_config_refuses_an_argument_nobody_reads():
    with pytest.raises(UserError, match="takes no argument after the colon"):
        config_flags.load_config("configs/common.py:long")


@pytest.mark.parametrize(
    ("config", "setting"),
    [("synthetic.py", "foo"), ("ablations/table5.py", "nothing")],
)
def test_load_config_names_an_unknown_setting_with_the_file(config, setting):
    with pytest.raises(UserError, match=f'{config}: no setting "{setting}": use '):
        config_flags.load_config(f"configs/{config}:{setting}")


def test_load_config_lists_what_there_is():
    with pytest.raises(UserError, match=r"common\.py.*did you mean common\.py"):
        config_flags.load_config("configs/comon.py")


PROGRAM = """Does nothing.

Examples:

  python program.py --config=configs/common.py
"""

PROGRAM_CODE = f'''"""{PROGRAM}"""
from absl import flags
from homae_jax import config_flags

FLAGS = flags.FlagValues()
CONFIG = config_flags.define_config(FLAGS)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", FLAGS)
NUM = flags.DEFINE_integer("num", 1, "How many.", flag_values=FLAGS)
SHARE = flags.DEFINE_float("share", 0.5, "How much.", flag_values=FLAGS)
FAST = flags.DEFINE_bool("fast", False, "Or slow.", flag_values=FLAGS)
INPUT = flags.DEFINE_multi_string("input", None, "Or several.", flag_values=FLAGS)
MODE = flags.DEFINE_enum("mode", "fast", ["fast", "slow"], "How.", FLAGS)

def main(argv):
    print(WORKDIR.value, CONFIG.value.train.steps)

config_flags.run(main, FLAGS)
'''


def run_program(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    program = folder / "program.py"
    program.write_text(PROGRAM_CODE)
    return subprocess.run(
        [sys.executable, program, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def test_run_hands_over_flags_and_configuration(tmp_path):
    arguments = ["--workdir=x", "--config=configs/common.py", "--config.train.steps=7"]
    assert run_program(tmp_path, *arguments).stdout == "x 7\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--wrokdir=x"],
            "Unknown command line flag 'wrokdir'. Did you mean: workdir?",
        ),
        (["--confg.train.steps=1"], "Unknown command line flag 'confg.train.steps'"),
        (["train.steps=3"], "unexpected argument 'train.steps=3'"),
        (["--workdir"], "Missing value for flag --workdir"),
        (["--num=many"], "flag --num=many: wants a whole number (--help"),
        (["--num=: 1.5"], "flag --num=: 1.5: wants a whole number (--help"),
        (["--share=half"], "flag --share=half: wants a number (--help"),
        (["--fast=maybe"], "flag --fast=maybe: wants true or false (--help"),
        (["--mode=best"], "flag --mode=best: value should be one of <fast|slow>"),
        (["--config=none.py"], "--config=none.py: no such file"),
        (
            ["--config=configs/common.py", "--config.train.stesp=1"],
            "--config.train.stesp=1: no such key; did you mean --config.train.steps?",
        ),
    ],
)
def test_run_names_the_mistake_in_one_line(tmp_path, arguments, message):
    done = run_program(tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1


def test_ctrl_c_after_the_end_is_no_traceback(tmp_path):
    """While Python takes itself down, which takes JAX a while."""
    at_exit = "import atexit, os, signal\n" + (
        "atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))\n"
    )
    program = tmp_path / "program.py"
    program.write_text(PROGRAM_CODE.replace("def main", f"{at_exit}def main"))
    done = subprocess.run(
        [sys.executable, program, "--workdir=x", "--config=configs/common.py"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == -signal.SIGINT and done.stderr == ""


def test_run_shows_examples_and_flags_on_help(tmp_path):
    done = run_program(tmp_path, "--help")
    assert done.returncode == 0
    assert PROGRAM in done.stdout
    for flag in ("--config=TEXT", "--workdir=TEXT", "--mode=fast|slow"):
        assert flag in done.stdout
    assert "  --input=TEXT\n      Or several.\n" in done.stdout


def test_differences_lists_changed_and_new_keys():
    config, other = small_config(), small_config()
    config.model.depth = 7
    other.train.extra = 1
    other.model = ml_collections.ConfigDict(json.loads(other.model.to_json()))
    assert list(config_flags.differences(config, other)) == [
        ("model.depth", 7, 2),
        ("train.extra", None, 1),
    ]


def test_config_flags_import_no_jax():
    code = (
        "import sys, homae_jax.config_flags, homae_jax.runtime\n"
        "sys.exit('jax' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
