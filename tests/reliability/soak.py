"""Trains for a long time and watches memory, file handles, threads and processes.

    python -m tests.reliability.soak --minutes=120 --out=docs/pictures
    python -m tests.reliability.soak --config=configs/synthetic.py:long --workdir=DIR

The training is the whole network, shrunk, without end; or that of `--config`, which may
end before the time is over.
Writes `soak.csv` and the plot `soak.png`. What is kept of a run per step, however
little, is seen as a slope: the second half must not be above the first by more than
`MAX_GROWTH`. The first `WARM_SHARE` of the time, in which programs are compiled and
caches filled, does not count.
"""

import argparse
import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from homae_jax.viz import curves, figures
from tests.reliability.tiny_training import PAUSE

ROOT = Path(__file__).resolve().parents[2]
SAMPLE_SECONDS = 10
WARM_SHARE = 0.1
MAX_GROWTH = 0.02


class Sample(NamedTuple):
    """The training at a moment."""

    minutes: float
    step: int
    memory_mib: float  # resident
    handles: int
    threads: int
    children: int


def watch(
    process: subprocess.Popen, workdir: Path, minutes: float, table: Path
) -> list[Sample]:
    """Samples until the time is over; the first when the first step is done.

    Each is in the table at once, so that none is lost with this program.
    """
    table.write_text(",".join(Sample._fields) + "\n")
    samples: list[Sample] = []
    started = 0.0
    while process.poll() is None:
        step = last_step(workdir)
        started = started or (time.monotonic() if step else 0.0)
        passed = (time.monotonic() - started) / 60 if started else 0.0
        if passed > minutes:
            break
        if step:
            samples.append(_sample(process.pid, passed, step))
            with table.open("a", newline="") as file:
                csv.writer(file, lineterminator="\n").writerow(samples[-1])
        time.sleep(SAMPLE_SECONDS)
    return samples


def last_step(workdir: Path) -> int:
    """The step of the newest line of the log, 0 without one."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    try:
        return json.loads(lines[-1])["step"] if lines else 0
    except ValueError:  # half a line
        return 0


def _sample(pid: int, minutes: float, step: int) -> Sample:
    status = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    children = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has ended since
            children += len((task / "children").read_text().split())
    return Sample(
        minutes=round(minutes, 3),
        step=step,
        memory_mib=round(int(status["VmRSS"].split()[0]) / 1024, 1),
        handles=len(os.listdir(f"/proc/{pid}/fd")),
        threads=int(status["Threads"]),
        children=children,
    )


def growth(samples: list[Sample], name: str) -> float:
    """Share by which the second half's median is above the first half's."""
    values = np.array([getattr(sample, name) for sample in samples], float)
    values = values[int(WARM_SHARE * len(values)) :]
    first, second = np.array_split(values, 2)
    return float(np.median(second) / max(np.median(first), 1) - 1)


def draw(samples: list[Sample], path: Path) -> None:
    """The plot: memory beside handles and threads."""
    x = np.array([sample.minutes for sample in samples])
    panels = []
    for title, names in (
        ("memory, MiB", ("memory_mib",)),
        ("file handles, threads", ("handles", "threads")),
    ):
        lines = [
            curves.Curve(name, x, np.array([getattr(s, name) for s in samples], float))
            for name in names
        ]
        panels.append(
            curves.plot(lines, title=title, x_label="minutes", from_zero=True)
        )
    figures.write_png(path, np.concatenate(panels, axis=1))


def training(config: str | None, workdir: Path, folder: Path) -> list[str]:
    """The arguments of python that start the training; `folder` is for its data."""
    if config:
        return ["-m", "homae_jax.train", f"--config={config}", f"--workdir={workdir}"]
    return [
        "-m", "tests.reliability.tiny_training",
        "--config=tests/reliability/tiny_training.py", f"--workdir={workdir}",
        f"--config.data.root={folder}/world", "--config.train.steps=100000000",
        "--config.train.checkpoint_every=50",
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="launch/soak.sh", description=__doc__)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds after a step")
    parser.add_argument("--out", default="docs/pictures")
    parser.add_argument("--config", help="a training of its own, as train takes it")
    parser.add_argument("--workdir", help="with --config: where it trains; kept")
    options = parser.parse_args()
    if bool(options.config) != bool(options.workdir):
        parser.error("--config and --workdir go together")
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="soak_") as folder:
        workdir = Path(options.workdir or f"{folder}/run").absolute()
        log = (Path(folder) / "log").open("w+")
        seen = None if options.config else log  # its own training may be read along
        process = subprocess.Popen(
            [sys.executable, *training(options.config, workdir, Path(folder))],
            cwd=ROOT,
            env=os.environ | {PAUSE: str(options.pause)},
            stdout=seen,
            stderr=seen,
        )
        samples = watch(process, workdir, options.minutes, out / "soak.csv")
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        status = process.wait(600)
        if not samples or status:
            log.seek(0)
            print(log.read())
            return 1
    draw(samples, out / "soak.png")
    last = samples[-1]
    grown = {n: growth(samples, n) for n in ("memory_mib", "handles", "threads")}
    print(
        f"{last.minutes:.0f} minutes, {last.step} steps: "
        + ", ".join(
            f"{name} {getattr(last, name)} ({100 * share:+.2f} %)"
            for name, share in grown.items()
        )
    )
    return int(max(grown.values()) > MAX_GROWTH)


if __name__ == "__main__":
    sys.exit(main())
