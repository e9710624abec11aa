"""Kills a training again and again; what comes out must be what would have come out.

    python -m tests.reliability.torture --kills=50 [--training=toy] [--engine=pmap]

A training is started, killed at a random moment by a random signal, and started again
until it is done; then its last checkpoint is compared with that of a training nobody
touched: parameters, optimiser, random numbers, step and place in the data, by hash.
Moments are drawn from three kinds: while it starts (reads, compiles, restores), while
it steps, and within a save. Between two kills every checkpoint there must be whole.
"""

import argparse
import atexit
import collections
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from homae_jax.training import checkpoint

ROOT = Path(__file__).resolve().parents[2]
TRAININGS = {
    "toy": [
        "-m", "tests.toy_training", "--config=tests/toy_config.py",
        "--config.train.steps=120",
    ],
    "tiny": [
        "-m", "tests.reliability.tiny_training",
        "--config=tests/reliability/tiny_training.py",
    ],
}  # fmt: skip
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
KINDS = ("start", "step", "step", "save", "save")
SECOND_SIGNAL_SHARE = 0.2  # of the polite ones
# Stopped as asked; a second Ctrl-C; a signal before Python has read this program.
POLITE_ENDS = (0, 130, -signal.SIGTERM, -signal.SIGINT)
COMPILED = "compiled in"
SAVE_SECONDS = 0.15
LAST_SECONDS = 10.0  # that processes may outlive the training, on a busy machine
TIMEOUT = 600


class Kill(NamedTuple):
    """When and how a training is ended."""

    kind: str  # of moment
    signal: signal.Signals
    delay: float  # seconds after the moment's begin
    is_twice: bool


class Child:
    """A training under way: its lines as they come, its end."""

    def __init__(self, command: list[str]):
        self.started = time.monotonic()
        atexit.register(self._kill)
        self.process = subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )
        self.lines: dict[str, list[str]] = {"out": [], "err": []}
        self._stepping = threading.Event()
        self.seconds_to_step = 0.0
        self._readers = [
            threading.Thread(target=self._read, args=item, daemon=True)
            for item in (("out", self.process.stdout), ("err", self.process.stderr))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str, stream) -> None:
        for line in stream:
            self.lines[name].append(line.rstrip())
            if line.startswith(COMPILED):
                self.seconds_to_step = time.monotonic() - self.started
                self._stepping.set()
        self._stepping.set()

    def wait_for_steps(self) -> None:
        self._stepping.wait(TIMEOUT)

    def wait_for_save(self, workdir: Path) -> None:
        """Returns while a checkpoint is being written, or when the program is done."""
        self.wait_for_steps()
        folder = workdir / checkpoint.FOLDER
        while self.process.poll() is None:
            if any(folder.glob(f"*{checkpoint.PART}")):
                return
            time.sleep(0.001)

    def end(self) -> int:
        code = self.process.wait(TIMEOUT)
        for reader in self._readers:
            reader.join(10)
        atexit.unregister(self._kill)
        return code

    def _kill(self) -> None:
        """For the end of this program in the middle."""
        if self.process.poll() is None:
            self.process.kill()


class Torture:
    """Rounds of one training, killed until enough kills are done."""

    def __init__(
        self, training: str, folder: Path, *, seed: int, arguments: Sequence[str] = ()
    ):
        self._folder, self._random = folder, random.Random(seed)
        self._command = [*TRAININGS[training], *arguments]
        self.counts: collections.Counter[str] = collections.Counter()
        self.ends: collections.Counter[str] = collections.Counter()
        self.num_halves = 0  # kills that left half a checkpoint beside the others
        self._start_seconds = 10.0
        self._step_seconds = 2.0
        self.wanted: dict[str, str] = {}

    def prepare(self) -> None:
        """Makes the data and the compiled programs, so that starts are of a length."""
        self._finish(self._folder / "first")

    def reference(self) -> None:
        """The run that nobody touches."""
        workdir = self._folder / "whole"
        child = self._finish(workdir)
        total = time.monotonic() - child.started
        self._start_seconds = child.seconds_to_step
        self._step_seconds = max(0.3 * (total - child.seconds_to_step), 0.5)
        self.wanted = digest(workdir)

    def run(self, num_kills: int, *, until: float) -> int:
        """Kills until enough or until a time; returns the number of rounds compared."""
        num_rounds = 0
        while self.num_kills < num_kills and time.monotonic() < until:
            workdir = self._folder / f"round_{num_rounds}"
            self._round(workdir, num_kills, until)
            found = digest(workdir)
            if found != self.wanted:
                raise SystemExit(f"{workdir}: differs\n{self.wanted}\n{found}")
            num_rounds += 1
            print(f"round {num_rounds}: same to the bit; {self.figures}", flush=True)
            shutil.rmtree(workdir)
        return num_rounds

    @property
    def num_kills(self) -> int:
        return self.counts.total()

    @property
    def figures(self) -> str:
        kinds = ", ".join(f"{n} {name}" for name, n in sorted(self.counts.items()))
        ends = ", ".join(f"{n} x {name}" for name, n in sorted(self.ends.items()))
        return (
            f"{self.num_kills} kills ({kinds}), {self.num_halves} left half a "
            f"checkpoint; exit status {ends}"
        )

    def _round(self, workdir: Path, num_kills: int, until: float) -> None:
        while True:
            if self.num_kills >= num_kills or time.monotonic() > until:
                self._finish(workdir)
                return
            if self._kill_once(workdir):
                return

    def _kill_once(self, workdir: Path) -> bool:
        """Starts the training and ends it; True if it was done before."""
        kill = self._draw()
        child = self._start(workdir)
        if kill.kind == "step":
            child.wait_for_steps()
        elif kill.kind == "save":
            child.wait_for_save(workdir)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.process.wait(kill.delay)
        is_done = child.process.poll() is not None
        if not is_done:
            child.process.send_signal(kill.signal)
            if kill.is_twice:
                time.sleep(self._random.uniform(0, 0.2))
                child.process.send_signal(kill.signal)
            self.counts[f"{kill.kind} {kill.signal.name}"] += 1
        code = child.end()
        self._check(child, code, kill, workdir, is_done=is_done)
        return is_done

    def _draw(self) -> Kill:
        draw = self._random
        kind, number = draw.choice(KINDS), draw.choice(SIGNALS)
        longest = {
            "start": self._start_seconds,
            "step": self._step_seconds,
            "save": SAVE_SECONDS,
        }[kind]
        is_twice = number != signal.SIGKILL and draw.random() < SECOND_SIGNAL_SHARE
        return Kill(kind, number, draw.uniform(0, longest), is_twice)

    def _check(
        self, child: Child, code: int, kill: Kill, workdir: Path, *, is_done: bool
    ) -> None:
        """The end was one that was promised, and what is on disk is whole."""
        allowed = (0,) if is_done else POLITE_ENDS
        if not is_done and kill.signal == signal.SIGKILL:
            allowed = (-signal.SIGKILL,)
        errors = "\n".join(child.lines["err"])
        has_begun = bool(child.lines["out"])
        if code not in allowed or (has_begun and "Traceback" in errors):
            raise SystemExit(f"{kill}: ended with {code}\n{errors}")
        if not _all_end(child.process.pid):
            raise SystemExit(f"{kill}: processes are left behind")
        self.ends[str(code)] += not is_done
        halves = (workdir / checkpoint.FOLDER).glob(f"*{checkpoint.PART}")
        self.num_halves += any(halves)
        for step in checkpoint.finished_steps(workdir):
            checkpoint.verify(workdir, step)

    def _start(self, workdir: Path) -> Child:
        data = f"--config.data.root={self._folder / 'world'}"
        return Child([*self._command, f"--workdir={workdir}", data])

    def _finish(self, workdir: Path) -> Child:
        child = self._start(workdir)
        code = child.end()
        if code:
            raise SystemExit("\n".join(child.lines["err"]))
        return child


def _all_end(group: int) -> bool:
    """Whether a group's processes are gone soon; they look once a second."""
    until = time.monotonic() + LAST_SECONDS
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def digest(workdir: Path) -> dict[str, str]:
    """A hash of each part of the newest checkpoint."""
    step = checkpoint.choose_step(workdir)
    folder = workdir.absolute() / checkpoint.FOLDER / str(step)
    with ocp.PyTreeCheckpointer() as reader:
        state = reader.restore(folder / checkpoint.STATE)
    meta = json.loads((folder / checkpoint.META).read_text())
    hashes = {name: _hash(tree) for name, tree in state.items()}
    data = json.dumps(meta["data"], sort_keys=True).encode()
    return hashes | {"data": hashlib.sha256(data).hexdigest(), "step": str(step)}


def _hash(tree: object) -> str:
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        total.update(f"{path}{array.dtype}{array.shape}".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(prog="launch/torture.sh", description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=1e6, help="stop after these")
    parser.add_argument("--training", choices=list(TRAININGS), default="tiny")
    parser.add_argument("--engine", choices=("mesh", "pmap"), default="mesh")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    until = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory(prefix="torture_") as folder:
        torture = Torture(
            options.training,
            Path(folder),
            seed=options.seed,
            arguments=[f"--config.parallel.engine={options.engine}"],
        )
        torture.prepare()
        torture.reference()
        num_rounds = torture.run(options.kills, until=until)
    print(f"{options.training}, {options.engine}: {torture.figures}")
    print(f"{num_rounds} runs finished, each equal to the uninterrupted one")


if __name__ == "__main__":
    main()
