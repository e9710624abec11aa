"""Feeds the readers of files damaged and hostile input, and watches what they do.

    python -m tests.reliability.fuzz --inputs=100000 [--parsers=ho3d_meta,pictures]

Each reader gets so many inputs: seeds that it accepts, changed at random, and a corpus
of attacks. An outcome is a value or one `UserError` of one line, within `MAX_SECONDS`
and within `MAX_BYTES` of memory on top; no input may start a program, open a
connection, or touch a file outside its own folder. Readers run in a process of their
own, whose death is an outcome too. What fails is kept as `fuzz_failures/<parser>_*`.
"""

import argparse
import math
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

from homae_jax import lifeline
from homae_jax.errors import UserError
from tests.reliability import parsers
from tests.reliability.mutations import mutate
from tests.reliability.parsers import PARSERS, Parser

MAX_SECONDS, MAX_WAIT_SECONDS = 5, 120
MAX_BYTES = 2**30
MAX_MESSAGE = 1000
NUM_KEPT = 10  # different failures per parser before it gives up
FORBIDDEN = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen",
    "socket.connect", "socket.bind", "ctypes.dlopen", "os.remove", "os.rename",
    "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.chmod", "os.truncate",
    "shutil.rmtree",
)  # fmt: skip
PROGRESS_SECONDS = 30


class TooSlow(BaseException):
    """An input took longer than allowed; no reader catches it."""


class Report(NamedTuple):
    """What came of the inputs of one parser."""

    name: str
    num_inputs: int
    num_values: int
    num_refused: int
    failures: list[str]
    slowest_seconds: float
    grown_bytes: int  # most memory on top of what the process had
    seconds: float


class Guard:
    """Notes what a reader does that no reader has to do."""

    def __init__(self, folder: Path):
        self._folder = str(folder)
        self.is_on = False
        self.events: list[str] = []
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple) -> None:
        if not self.is_on:
            return
        if event in FORBIDDEN:
            self.events.append(f"{event}{arguments!r:.80}")
        is_inside = str(arguments[0]).startswith(self._folder) if arguments else False
        if event == "open" and not is_inside and _is_writing(*arguments[1:3]):
            self.events.append(f"writes {arguments[0]!r:.80}")


def _is_writing(mode: Any, flags: Any) -> bool:
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))


class Fuzzer:
    """One parser and its inputs, in this process."""

    def __init__(self, parser: Parser, folder: Path, seed: int):
        self._parser, self._folder = parser, folder
        self._random = random.Random(f"{seed} {parser.name}")
        self._seeds = parser.seeds()
        self._weights = [1 / math.sqrt(len(s) + 100) for s in self._seeds]
        self._guard = Guard(folder)
        self._read = parser.prepare(folder)
        self.file = folder / parser.file_name
        self.num_values = self.num_refused = 0
        self.slowest = 0.0

    def check_seed(self) -> None:
        """Unchanged, the first seed is read: the fuzzing starts from a good file."""
        self.file.write_bytes(self._seeds[0])
        self._read()

    def inputs(self, num: int) -> Any:
        """The corpus, then changed seeds."""
        yield from list(self._parser.corpus().values())[:num]
        for _ in range(num - len(self._parser.corpus())):
            (seed,) = self._random.choices(self._seeds, self._weights)
            yield mutate(self._random, seed, self._seeds, self._parser.words)

    def try_input(self, content: bytes) -> str | None:
        """What is wrong with the outcome, if something is."""
        self.file.write_bytes(content)
        before = set(os.listdir(self._folder))
        self._guard.events.clear()
        _limit_memory(MAX_BYTES)
        start = time.process_time()
        _set_timers(MAX_SECONDS, MAX_WAIT_SECONDS)
        self._guard.is_on = True
        try:
            self._read()
            problem = None
            self.num_values += 1
        except UserError as error:
            problem = _check_message(str(error))
            self.num_refused += 1
        except TooSlow:
            problem = "too slow"
        except BaseException as error:
            frames = traceback.extract_tb(error.__traceback__)
            place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"
            problem = f"{type(error).__name__} at {place}: {str(error)[:120]}"
        finally:
            self._guard.is_on = False
            _set_timers(0, 0)
            _limit_memory(None)
        self.slowest = max(self.slowest, time.process_time() - start)
        if self._guard.events:
            problem = f"did {self._guard.events[0]}"
        if set(os.listdir(self._folder)) != before:
            problem = "left files behind"
        return problem


def _set_timers(of_work: float, of_waiting: float) -> None:
    """Limits for a reader; on a busy machine it waits much more than it works."""
    signal.setitimer(signal.ITIMER_PROF, of_work)
    signal.setitimer(signal.ITIMER_REAL, of_waiting)


def _check_message(text: str) -> str | None:
    if "\n" in text or len(text) > MAX_MESSAGE:
        return f"a message of {len(text)} letters: {text[:80]!r}"
    return None


def _raise_too_slow(number: int, frame: Any) -> None:
    raise TooSlow


def fuzz(
    name: str, num_inputs: int, *, folder: Path, seed: int, until: float
) -> Report:
    """Runs one parser in this process.

    Args:
      folder: to work in, empty; holds the last input if the process dies.
      until: when to stop, by time.monotonic(), if there are inputs left.
    """
    started = time.monotonic()
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, _raise_too_slow)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders' own complaints
    fuzzer = Fuzzer(PARSERS[name], folder, seed)
    fuzzer.check_seed()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    failures: list[str] = []
    count = 0
    said = started
    for content in fuzzer.inputs(num_inputs):
        problem = fuzzer.try_input(content)
        count += 1
        if problem is not None and problem not in failures:
            failures.append(problem)
            keep(name, len(failures), content)
        if len(failures) >= NUM_KEPT or time.monotonic() > until:
            break
        if time.monotonic() - said > PROGRESS_SECONDS:
            said = time.monotonic()
            print(f"  {name}: {count} of {num_inputs}", flush=True)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return Report(
        name=name,
        num_inputs=count,
        num_values=fuzzer.num_values,
        num_refused=fuzzer.num_refused,
        failures=failures,
        slowest_seconds=fuzzer.slowest,
        grown_bytes=1024 * grown,
        seconds=time.monotonic() - started,
    )


def keep(name: str, number: int, content: bytes) -> None:
    """Saves an input that failed."""
    folder = Path("fuzz_failures")
    folder.mkdir(exist_ok=True)
    (folder / f"{name}_{number}").write_bytes(content)


def _limit_memory(more: int | None) -> None:
    """So many bytes of address space more than now; None: as many as there are."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = resource.RLIM_INFINITY
    if more is not None:
        limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def _fuzz_to(pipe: Any, parent: int, *arguments: Any, **keywords: Any) -> None:
    lifeline.end_with(parent)
    pipe.send(fuzz(*arguments, **keywords))


def fuzz_apart(
    name: str, num_inputs: int, *, folder: Path, seed: int, until: float
) -> Report:
    """`fuzz` in a process of its own; its death is a failure, its last input kept."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(
        target=_fuzz_to,
        args=(theirs, os.getpid(), name, num_inputs),
        kwargs={"folder": folder, "seed": seed, "until": until},
    )
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        process.join()
        last = folder / PARSERS[name].file_name
        if last.exists():
            keep(name, 0, last.read_bytes())
        return Report(
            name, 0, 0, 0, [f"the process died: {process.exitcode}"], 0.0, 0, 0.0
        )
    finally:
        process.join()


def main() -> int:
    parser = argparse.ArgumentParser(prog="launch/fuzz.sh", description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="per parser")
    parser.add_argument("--parsers", default=",".join(PARSERS))
    parser.add_argument("--minutes", type=float, default=1e6, help="per parser, most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--together", action="store_true", help="in one process, which starts once"
    )
    options = parser.parse_args()
    parsers.check_names(options.parsers.split(","))
    has_failed = False
    for name in options.parsers.split(","):
        until = time.monotonic() + 60 * options.minutes
        run = fuzz if options.together else fuzz_apart
        with tempfile.TemporaryDirectory(prefix=f"fuzz_{name}_") as folder:
            report = run(
                name,
                options.inputs,
                folder=Path(folder),
                seed=options.seed,
                until=until,
            )
        has_failed |= bool(report.failures)
        print(
            f"{report.name:12s} {report.num_inputs:7d} inputs: {report.num_values} "
            f"read, {report.num_refused} refused, {len(report.failures)} failures; "
            f"slowest {1e3 * report.slowest_seconds:.0f} ms, memory "
            f"+{report.grown_bytes / 2**20:.0f} MiB, {report.seconds:.0f} s",
            flush=True,
        )
        for failure in report.failures:
            print(f"    {failure}", flush=True)
    return int(has_failed)


if __name__ == "__main__":
    sys.exit(main())
