"""Checkpoints that were damaged, and disks that had no room for them."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import chex
import pytest

from homae_jax.errors import UserError
from homae_jax.training import checkpoint
from tests.training.checkpoint_test import make_state, save

ROOT = Path(__file__).resolve().parents[2]
BITS_PER_FILE = 60


@pytest.fixture
def workdir(tmp_path) -> Path:
    save(tmp_path, steps=(1, 2))
    return tmp_path


def files(workdir: Path, step: int) -> list[Path]:
    folder = workdir / "checkpoints" / str(step)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def assert_damage_is_named(workdir: Path, file: Path) -> None:
    """The error has the step and the file; the hashes' own may name one it lists."""
    with pytest.raises(UserError, match=r"checkpoint of step 2 is damaged") as caught:
        checkpoint.choose_step(workdir)
    assert "\n" not in str(caught.value)
    if file.name != checkpoint.HASHES:
        assert str(file) in str(caught.value)
    with pytest.raises(UserError, match="step 2 is damaged"):
        checkpoint.choose_step(workdir, step=2)


def test_any_flipped_bit_of_any_file_is_found(workdir):
    draw = random.Random(0)
    for file in files(workdir, 2):
        content = file.read_bytes()
        for _ in range(BITS_PER_FILE if content else 0):
            changed = bytearray(content)
            place = draw.randrange(8 * len(content))
            changed[place // 8] ^= 1 << place % 8
            file.write_bytes(changed)
            assert_damage_is_named(workdir, file)
        file.write_bytes(content)
    assert checkpoint.choose_step(workdir) == 2


@pytest.mark.parametrize("harm", ["truncate", "lengthen", "remove", "link"])
def test_any_harm_to_any_file_is_found(workdir, harm):
    for file in files(workdir, 2):
        content = file.read_bytes()
        if harm == "truncate" and content:
            file.write_bytes(content[: len(content) // 2])
        elif harm == "lengthen":
            file.write_bytes(content + b"\0")
        elif harm == "remove":
            file.unlink()
        elif harm == "link":
            aside = workdir / "elsewhere"
            shutil.move(file, aside)
            file.symlink_to(aside)
        else:
            continue
        assert_damage_is_named(workdir, file)
        file.unlink(missing_ok=True)
        file.write_bytes(content)
    assert checkpoint.choose_step(workdir) == 2


def test_damage_never_leads_to_another_step_in_silence(workdir, capsys):
    file = max(files(workdir, 2), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[:-1])
    assert checkpoint.choose_step(workdir, step=1) == 1
    assert checkpoint.choose_step(workdir, latest_valid=True) == 1
    assert f"passed over: checkpoint of step 2 is damaged: {file}" in (
        capsys.readouterr().out
    )
    for file in files(workdir, 1):
        file.unlink()
    with pytest.raises(UserError, match="every checkpoint is damaged"):
        checkpoint.choose_step(workdir, latest_valid=True)


NO_ROOM = """
import resource, sys
from homae_jax.errors import UserError
from homae_jax.training import checkpoint
from tests.training import checkpoint_test as t
saver = checkpoint.Checkpointer(sys.argv[1], keep=1)
saver.save(1, t.make_state(1.0, width=9), data={}, config=t.CONFIG)
saver.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
saver.save(2, t.make_state(2.0, width=500_000), data={}, config=t.CONFIG)
try:
    saver.wait()
except UserError as error:
    print(error)
"""


def test_a_disk_without_room_costs_no_checkpoint(tmp_path):
    """The system itself refuses, in the middle of orbax's own writing."""
    done = subprocess.run(
        [sys.executable, "-c", NO_ROOM, tmp_path],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "/2: the checkpoint could not be written" in done.stdout
    assert "File too large" in done.stdout
    assert done.stdout.count("\n") == 1
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["1"]
    checkpoint.verify(tmp_path, 1)
    found = checkpoint.restore(tmp_path, 1, make_state(width=9))
    chex.assert_trees_all_equal(found.state, make_state(1.0, width=9))


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(UserError, match=r"checkpoints: cannot be written"):
        checkpoint.Checkpointer(tmp_path, keep=1)


@pytest.mark.parametrize("text", ["[]", "3", "{}", '{"format_version": 1}', "[" * 9999])
def test_a_strange_meta_file_is_one_line(workdir, text):
    (workdir / "checkpoints" / "2" / "meta.json").write_text(text)
    with pytest.raises(UserError) as caught:
        checkpoint.restore(workdir, 2, make_state())
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError):
        checkpoint.read_config(workdir, 2)


def test_an_array_in_pieces_larger_than_itself_is_refused(workdir):
    class Leaf:
        shape = (2, 3)

        class storage:
            chunk_shape = (2, 3_000_000)

    with pytest.raises(ValueError, match="in pieces"):
        checkpoint._check_chunks({"params": [Leaf]})
