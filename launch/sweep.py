"""Trains every setting of a config's sweep(), and collects their results in a table.

Examples:

  # what would be run
  python launch/sweep.py --config=configs/ablations/table6.py --dry_run

  # on this machine, one GPU each in turn; what is finished is left out
  python launch/sweep.py --config=configs/ablations/table6.py --gpus=0,1 \\
      --out=runs/table6 --config.data.root=/data/HO3D_v2

  # as a SLURM array, one job a setting
  python launch/sweep.py --config=configs/ablations/table6.py --slurm \\
      --sbatch=--gpus=1,--time=48:00:00 --out=runs/table6

  # the table of what has come out so far
  python launch/sweep.py --config=configs/ablations/table6.py --collect

Run it again after an interruption: a training goes on from its checkpoint, and a
setting that has its evaluation is not run again; one that was trained with other keys
is named. Flags of homae_jax.train, such as --config.KEY=VALUE, go to every training.
Exits with 1 where one failed.
"""

import argparse
import collections
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from homae_jax import command_line, config_flags, train
from homae_jax.errors import UserError
from homae_jax.evaluation import report, tables
from homae_jax.evaluation.rendering import render
from homae_jax.progress import format_seconds

POLL_SECONDS = 2.0
PLACES = ("data.root", "data.models", "data.mano")  # where files lie, no setting
MAX_LISTED = 3  # settings in one line
FAILED, INTERRUPTED = 1, 130


class Job(NamedTuple):
    """One setting of a sweep."""

    setting: str
    workdir: Path
    command: list[str]
    config: Any = None  # ConfigDict of the training; None: not compared

    @property
    def is_done(self) -> bool:
        """Whether it has been trained to its end, and scored there."""
        return result_of(self.workdir) is not None


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code."""
    return command_line.guard(lambda: run(argv))


def run(argv: Sequence[str]) -> int:
    """Prints, submits or runs the trainings, or collects their results."""
    options, rest = parse(argv)
    chosen = [name for name in dict.fromkeys(options.settings.split(",")) if name]
    jobs = make_jobs(options.config, Path(options.out), rest, chosen)
    if options.collect:
        return collect(jobs, Path(options.out))
    for job in jobs:
        changes = changes_since(job) if job.is_done else ""
        if changes:
            print(
                f"warning: {job.setting} was trained with {changes}; give another "
                "--out to train it anew"
            )
    if options.slurm:
        return submit(jobs, Path(options.out), options)
    return run_here(jobs, options)


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our own flags, and the rest for the trainings."""
    parser = command_line.Parser(prog="python launch/sweep.py", description=__doc__)
    what = parser.add_argument_group("what to run")
    what.add_argument("--config", help="a file that has sweep(); must be given")
    what.add_argument("--settings", default="", help="only these, with commas")
    what.add_argument("--out", default="", help="folder of the runs")
    here = parser.add_argument_group("on this machine")
    here.add_argument("--gpus", default="", help="numbers of GPUs, such as 0,1,2")
    cluster = parser.add_argument_group("on a cluster")
    cluster.add_argument("--slurm", action="store_true", help="submit a SLURM array")
    cluster.add_argument("--sbatch", default="", help="options of sbatch, with commas")
    look = parser.add_argument_group("only to look")
    look.add_argument("--dry_run", action="store_true", help="print, run nothing")
    look.add_argument("--collect", action="store_true", help="only the table")
    options, rest = parser.parse_known_args(argv)
    parser.require(options, "config")
    options.out = options.out or f"runs/{Path(options.config).stem}"
    return options, rest


def make_jobs(
    config: str, out: Path, rest: Sequence[str], chosen: Sequence[str]
) -> list[Job]:
    """A training for every setting of the file's sweep(), or for the chosen ones.

    Raises:
      UserError: no such file, no sweep() in it, an unknown setting, or in `rest` what
        no training takes.
    """
    settings = list(config_flags.load_sweep(config))
    chosen = chosen or settings
    unknown = sorted(set(chosen) - set(settings))
    if unknown:
        known = ", ".join(settings)
        raise UserError(f"{config}: no setting {unknown[0]}; use one of {known}")
    config_flags.parse(train.FLAGS, ["train", *rest])
    configs = {
        name: config_flags.load_config(f"{config}:{name}", config_flags.overrides())
        for name in chosen
    }
    return [
        Job(
            setting,
            out / setting,
            [
                *("bash", str(ROOT / "launch" / "train.sh")),
                f"--config={config}:{setting}",
                f"--workdir={out / setting}",
                *rest,
            ],
            configs[setting],
        )
        for setting in chosen
    ]


def result_of(workdir: Path) -> report.Result | None:
    """The evaluation that ended a training; others may lie beside it, or before it."""
    for path in sorted((workdir / "eval").glob("*.json")):
        if not path.name.endswith("_frames.json"):
            result = report.read_result(path)
            if result.get("protocol", {}).get("ends_training"):
                return result
    return None


def changes_since(job: Job) -> str:
    """What is asked for and was not trained with, in a line; "": nothing is known."""
    from homae_jax.training import checkpoint

    steps = checkpoint.finished_steps(job.workdir)
    if job.config is None or not steps:
        return ""
    stored = checkpoint.read_config(job.workdir, steps[-1])
    found = config_flags.differences(job.config, ml_collections.ConfigDict(stored))
    lines = [
        f"{key}={then}, not {now}" for key, now, then in found if key not in PLACES
    ]
    more = f"; and {len(lines) - MAX_LISTED} more" if len(lines) > MAX_LISTED else ""
    return "; ".join(lines[:MAX_LISTED]) + more


class Running(NamedTuple):
    """A training under way."""

    job: Job
    gpu: str
    started: float  # time.monotonic()


def run_here(jobs: Sequence[Job], options: argparse.Namespace) -> int:
    """Runs what is not done, a job per GPU at a time (without GPUs one by one).

    Ctrl-C or SIGTERM is passed on once: every training saves, and ends.
    """
    waiting = collections.deque(job for job in jobs if not job.is_done)
    for job in jobs:
        mark = "done   " if job.is_done else "to run "
        print(f"{mark} {job.setting}: {shlex.join(job.command)}", flush=True)
    if options.dry_run:
        return 0
    free = [gpu for gpu in options.gpus.split(",") if gpu] or [""]
    running: dict[subprocess.Popen, Running] = {}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        failed = run_all(waiting, free, running)
    except KeyboardInterrupt:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    collect(jobs, Path(options.out))
    return FAILED if failed else 0


def run_all(
    waiting: collections.deque[Job],
    free: list[str],
    running: dict[subprocess.Popen, Running],
) -> list[str]:
    """Runs jobs until none waits; returns the settings that failed.

    Args:
      free: GPUs, each for one job at a time.
      running: filled and emptied while it goes; what is in it after an interruption is
        still under way.
    """
    failed, seconds, num_slots = [], [], len(free)
    while waiting or running:
        while waiting and free:
            job, gpu = waiting.popleft(), free.pop(0)
            running[start(job, gpu)] = Running(job, gpu, time.monotonic())
        for process in [p for p in running if p.poll() is not None]:
            job, gpu, started = running.pop(process)
            free.append(gpu)
            seconds.append(time.monotonic() - started)
            print(_ended(job, process.returncode, seconds), end="")
            left = len(waiting) + len(running)
            mean = sum(seconds) / len(seconds)
            print(
                f"; {left} left, {format_seconds(mean * left / num_slots)}", flush=True
            )
            if process.returncode:
                failed.append(job.setting)
        time.sleep(POLL_SECONDS if running else 0)
    return failed


def _ended(job: Job, status: int, seconds: Sequence[float]) -> str:
    if status:
        return f"failed: {job.setting}, see {job.workdir}/log.txt"
    return f"finished: {job.setting} in {format_seconds(seconds[-1])}"


def start(job: Job, gpu: str) -> subprocess.Popen:
    """Starts a training on one GPU ("": whatever there is); its words go to log.txt."""
    job.workdir.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ)
    if gpu:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    with (job.workdir / "log.txt").open("ab") as log:
        print(f"start: {job.setting}" + (f" on GPU {gpu}" if gpu else ""), flush=True)
        return subprocess.Popen(
            job.command,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches us alone; we pass it on once
        )


def submit(jobs: Sequence[Job], out: Path, options: argparse.Namespace) -> int:
    """Writes the array's script and hands it to sbatch."""
    todo = [job for job in jobs if not job.is_done]
    if not todo:
        print("nothing is left to run")
        return collect(jobs, out)
    script = array_script(todo, [word for word in options.sbatch.split(",") if word])
    if options.dry_run:
        print(script)
        return 0
    out.mkdir(parents=True, exist_ok=True)
    path = out / "array.sh"
    path.write_text(script)
    try:
        return subprocess.run(["sbatch", str(path)], check=False).returncode
    except FileNotFoundError as error:
        raise UserError(f"sbatch is not here; submit {path} where it is") from error


def array_script(jobs: Sequence[Job], sbatch: Sequence[str]) -> str:
    """A SLURM array with a case for each setting."""
    cases = [
        f"  {index})\n    exec {shlex.join(job.command)}\n    ;;"
        for index, job in enumerate(jobs)
    ]
    return "\n".join(
        [
            "#!/usr/bin/env bash",
            "#SBATCH --job-name=homae_sweep",
            f"#SBATCH --array=0-{len(jobs) - 1}",
            "#SBATCH --signal=B:TERM@120",  # to the script itself: it has no step
            *(f"#SBATCH {option}" for option in sbatch),
            "set -euo pipefail",
            f"cd {shlex.quote(str(Path.cwd()))}",
            'case "$SLURM_ARRAY_TASK_ID" in',
            *cases,
            "esac",
            "",
        ]
    )


def collect(jobs: Sequence[Job], out: Path) -> int:
    """Prints one table of all results there are; writes it as results.md."""
    found = {job.setting: result_of(job.workdir) for job in jobs}
    results = {name: result for name, result in found.items() if result is not None}
    missing = [name for name, result in found.items() if result is None]
    if missing:
        print(f"no result yet: {', '.join(missing)}")
    if not results:
        return 0
    table = tables.runs_table(results, title=f"Sweep {out.name}, mm")
    print(render(table))
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.md").write_text(render(table, "markdown") + "\n")
    print(f"-> {out / 'results.md'}")
    return 0


if __name__ == "__main__":
    command_line.finish(main(sys.argv[1:]))
