"""A short fuzz of every reader; `bash launch/fuzz.sh` is the long one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from homae_jax.data.pictures import read_picture
from homae_jax.errors import UserError
from tests.reliability import parsers
from tests.reliability.fuzz import Guard
from tests.reliability.parsers import PARSERS

ROOT = Path(__file__).resolve().parents[2]
SLOW = ("mano_pkl", "mano_npz", "weights_npz", "checkpoint")
NUM_INPUTS = 300


def run(names: list[str], folder: Path) -> str:
    done = subprocess.run(
        [
            sys.executable, "-m", "tests.reliability.fuzz", f"--inputs={NUM_INPUTS}",
            f"--parsers={','.join(names)}", "--together",
        ],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "names", [[name for name in PARSERS if name not in SLOW], *([n] for n in SLOW)]
)
def test_readers_refuse_or_read_a_few_hundred_inputs(tmp_path, names):
    out = run(names, tmp_path)
    counts = re.findall(r"^(\w+) +(\d+) inputs: (\d+) read, (\d+) refused", out, re.M)
    assert [name for name, *_ in counts] == names
    for _, *numbers in counts:
        num, num_read, num_refused = map(int, numbers)
        assert num == num_read + num_refused == NUM_INPUTS


def test_guard_sees_what_a_reader_must_not_do(tmp_path):
    guard = Guard(tmp_path)
    guard.is_on = True
    (tmp_path / "inside").write_text("")
    assert guard.events == []
    outside = tmp_path.parent / f"{tmp_path.name}_outside.txt"
    with (tmp_path / "inside").open() as file:
        file.read()
    os.system("true")
    os.rename(tmp_path / "inside", outside)
    guard.is_on = False
    assert [event.partition("(")[0] for event in guard.events] == [
        "os.system",
        "os.rename",
    ]


@pytest.mark.parametrize("name", parsers.hostile_pictures())
def test_read_picture_makes_no_room_for_what_a_header_says(tmp_path, name):
    path = tmp_path / "0001.png"
    path.write_bytes(parsers.hostile_pictures()[name])
    try:
        picture = read_picture(path)
    except UserError as error:
        assert str(path) in str(error)
    else:
        assert picture.size < 2**24


def test_read_picture_reads_every_good_seed(tmp_path):
    path = tmp_path / "0001.png"
    for content in PARSERS["pictures"].seeds():
        path.write_bytes(content)
        picture = read_picture(path)
        assert picture.dtype == np.uint8 and picture.shape[:2] in ((24, 32), (72, 96))
