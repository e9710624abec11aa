"""From the command to work: imports, --help, and a training's first step.

Each in a process of its own; processor time is that of the children. The first call of
the training fills the caches of compiled programs and templates, the others find them.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

from homae_jax.benchmarks import _setup
from homae_jax.benchmarks._measure import Measurement
from homae_jax.errors import UserError

STARTS_PROCESSES = True  # which want the device
COMMANDS = ("train", "evaluate", "predict", "benchmark")
FIRST_STEP = "compiled in"  # what the training says after its first step


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this section."""
    _setup.add_config(parser)


def run(options: argparse.Namespace) -> Iterator[Measurement]:
    """Imports, the help of every command, and the first step."""
    repeats = min(options.repeats, 3)
    imports = ["-c", "import homae_jax.assembly, homae_jax.scoring"]
    yield _measure(lambda: _call(imports), "imports", repeats)
    for command in COMMANDS:
        arguments = ["-m", f"homae_jax.{command}", "--help"]
        call = lambda arguments=arguments: _call(arguments)  # noqa: E731
        yield _measure(call, f"{command} --help", repeats)
    yield _measure(lambda: _first_step(options), "train, to its first step", repeats)


def _call(arguments: list[str]) -> None:
    command = [sys.executable, *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _first_step(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as workdir:
        command = [
            *(sys.executable, "-m", "homae_jax.train", f"--workdir={workdir}/run"),
            f"--config={options.config_file}",
            *map(str, options.overrides),
        ]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as training:
            lines = []
            for line in training.stdout:
                lines.append(line)
                if line.startswith(FIRST_STEP):
                    training.kill()
                    return
        raise UserError(f"the training ended early: {lines[-1] if lines else ''}")


def _measure(call: Callable[[], None], name: str, repeats: int) -> Measurement:
    calls = [_time_call(call) for _ in range(repeats + 1)]
    seconds, used = zip(*calls[1:], strict=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return Measurement(
        name=name,
        shapes="a process of its own",
        count=1,
        repeats=repeats,
        first_s=calls[0][0],
        median_s=statistics.median(seconds),
        fastest_s=min(seconds),
        slowest_s=max(seconds),
        processor_s=statistics.fmean(used),
        fastest_processor_s=min(used),
        peak_bytes=peak * (1 if sys.platform == "darwin" else 1024),
        peak_of="process",
    )


def _time_call(call: Callable[[], None]) -> tuple[float, float]:
    """Seconds by the wall, and of the processors by the children."""
    start, before = time.perf_counter(), _children_s()
    call()
    return time.perf_counter() - start, _children_s() - before


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
