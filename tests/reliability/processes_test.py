"""Threads and processes end with the program, however it ends; they are counted."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from homae_jax import lifeline
from homae_jax.errors import UserError
from homae_jax.synthetic import production, scenes
from homae_jax.training.workdir import locked
from tests.data import ho3d_tree
from tests.reliability import loading
from tests.synthetic import toy_world

ROOT = Path(__file__).resolve().parents[2]
SECONDS_TO_END = 30


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("ho3d")
    ho3d_tree.write_tree(root)
    return root


def start(*command: str) -> subprocess.Popen:
    """Starts a program in a session of its own, by which its processes are found."""
    return subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        start_new_session=True,
    )


def members(session: int) -> list[int]:
    """Processes of a session that are alive."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] not in "ZX":
            found.append(int(entry.name))
    return found


def assert_all_end(session: int) -> None:
    deadline = time.monotonic() + SECONDS_TO_END
    while members(session) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = members(session)
    for process in left:
        os.kill(process, signal.SIGKILL)
    assert not left


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("how", ["normal", "error", signal.SIGTERM, signal.SIGKILL])
def test_loaders_end_with_the_program(tree, workers, how):
    is_signal = isinstance(how, signal.Signals)
    end = "wait" if is_signal else how
    process = start("-m", "tests.reliability.loading", str(tree), str(workers), end)
    assert process.stdout.readline() == "reading\n"
    if is_signal:
        assert len(members(process.pid)) >= 1 + workers
        process.send_signal(how)
    out, _ = process.communicate(timeout=600)
    assert_all_end(process.pid)
    if how == "normal" and not workers:
        assert out == "threads 0\n"


SYNTHESIS = """
import sys
from pathlib import Path
from homae_jax.synthetic import production
folder = Path(sys.argv[1])
with production.Crew(folder, 2) as crew:
    chunks = production.missing_frames(folder, production.load_clips(folder))
    for chunk in crew.run(chunks):
        print("made", flush=True)
        if sys.argv[2] == "error":
            raise RuntimeError("on purpose")
"""


@pytest.mark.parametrize("how", ["error", signal.SIGTERM, signal.SIGKILL])
def test_render_processes_end_with_the_program(tmp_path, how):
    folder = toy_production(tmp_path)
    process = start("-c", SYNTHESIS, str(folder), str(how))
    assert process.stdout.readline() == "made\n"
    if how != "error":
        assert len(members(process.pid)) == 3
        process.send_signal(how)
    process.communicate(timeout=600)
    assert_all_end(process.pid)


def toy_production(folder: Path) -> Path:
    """A world folder with many chunks still to be made."""
    toy_world.make_world(folder)
    clips = [
        toy_world.clip(name=f"ABF{i}", num=32)._replace(
            grasps=tuple(j % 8 for j in range(32))
        )
        for i in range(10, 20)
    ]
    world, names = folder / ".world", ("003_cracker_box", "021_bleach_cleanser")
    production.save_world(
        world,
        root=folder / "out",
        models_dir=folder / "models",
        hand=toy_world.hand_shape(),
        grasps=toy_world.grasps(8),
        clips=clips,
        clutter_names={"train": names, "evaluation": names},
        options=scenes.SceneOptions(
            seed=0, view_cone_deg=180.0, roll_deg=15.0, heavy_share=0.3
        ),
        layout="ho3d",
        image_format="jpg",
        renderer="cpu",
    )
    (folder / "backgrounds" / "train_000.png").rename(
        world / "backgrounds" / "train_000.png"
    )
    writer = production.WRITERS["ho3d"](folder / "out", image_format="jpg")
    writer.make_folders(clips)
    return world


CHILD = """
import sys, time
from homae_jax import lifeline
lifeline.end_with_starter()
print("ready", flush=True)
time.sleep(600)
"""
STARTER = f"""
import os, subprocess, sys
from homae_jax import lifeline
env = os.environ | {{lifeline.PARENT: str(os.getpid())}}
subprocess.run([sys.executable, "-c", {CHILD!r}], env=env)
"""


def test_a_program_ends_with_its_starter_when_told_to():
    process = start("-c", STARTER)
    assert process.stdout.readline() == "ready\n"
    assert len(members(process.pid)) == 2
    process.kill()
    process.wait()
    assert_all_end(process.pid)
    assert lifeline.PARENT not in os.environ


@pytest.mark.parametrize("workers", [0, 1])
def test_data_that_vanish_are_named(tmp_path, workers):
    root = tmp_path / "ho3d"
    ho3d_tree.write_tree(root)
    found = loading.batches(str(root), workers)
    next(found)
    root.rename(tmp_path / "gone")
    with pytest.raises(UserError, match=r"frame \w+/\d+: .*(no such|cannot be read)"):
        for _ in range(100):
            next(found)
    found.close()


def test_a_workdir_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "run", Path("/proc/run")):
        with pytest.raises(UserError, match=f"--workdir={folder}: ") as caught:
            locked(folder).__enter__()
        assert "\n" not in str(caught.value)


def test_a_lock_left_by_a_killed_training_is_no_obstacle(tmp_path):
    (tmp_path / ".lock").write_text(json.dumps(os.getpid()))
    with locked(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())
