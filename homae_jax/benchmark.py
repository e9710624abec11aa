"""Measures how fast a part runs on this machine, and what memory it takes.

    python -m homae_jax.benchmark metrics
    python -m homae_jax.benchmark mano --batch 1 24 --json mano.json

The sections are the modules of homae_jax/benchmarks. Each line gives what was measured
with its shapes, the median of the calls after the first, the first call (compilation
included), the processor time of a call, examples per second, and the peak of memory.
`--json FILE` writes the same numbers; `--json -` prints them instead.
"""

import argparse
import importlib
import json
import os
import pkgutil
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from homae_jax import benchmarks, runtime
from homae_jax.errors import UserError

REPEATS = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one section; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def sections() -> tuple[str, ...]:
    """Names of what can be measured."""
    found = (module.name for module in pkgutil.iter_modules(benchmarks.__path__))
    return tuple(sorted(name for name in found if not name.startswith("_")))


def _run(arguments: list[str]) -> int:
    known = sections()
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"{__doc__}\nSections: {', '.join(known)}")
        return 0 if arguments else 2
    if arguments[0] not in known:
        raise UserError(f'no section "{arguments[0]}": use one of {", ".join(known)}')
    runtime.prepare()
    section = importlib.import_module(f"{benchmarks.__name__}.{arguments[0]}")
    options = _parse(section, arguments)
    to_stdout = options.json == "-"
    if options.json and not to_stdout and not Path(options.json).parent.is_dir():
        raise UserError(f"--json={options.json}: no such folder; make it first")
    report = {"section": arguments[0], **_machine()}
    if not to_stdout:
        print(", ".join(f"{k} {v}" for k, v in report.items()), flush=True)
    results = []
    for result in section.run(options):
        results.append({**result._asdict(), "per_second": result.per_second})
        if not to_stdout:
            print(_line(results[-1]), flush=True)
    _write(options.json, {**report, "results": results})
    return 0


def _parse(section: Any, arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"python -m homae_jax.benchmark {arguments[0]}",
        description=section.__doc__.splitlines()[0],
    )
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--json", default="", metavar="FILE", help="- prints it")
    section.add_arguments(parser)
    options = parser.parse_args(arguments[1:])
    for name, value in vars(options).items():
        numbers = value if isinstance(value, list) else [value]
        if any(isinstance(number, int) and number < 1 for number in numbers):
            raise UserError(f"--{name}={value}: must be 1 or more")
    return options


def _machine() -> dict[str, Any]:
    """What the numbers hold for."""
    import jax

    devices = jax.local_devices()
    return {
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def _line(result: dict[str, Any]) -> str:
    note = f"\n    {result['note']}" if result["note"] else ""
    return (
        f"{result['name']}  [{result['shapes']}]\n"
        f"    median {_time(result['median_s'])} of {result['repeats']}, "
        f"{_time(result['fastest_s'])} to {_time(result['slowest_s'])}, "
        f"first {_time(result['first_s'])}, processor {_time(result['processor_s'])}; "
        f"{result['per_second']:.0f} per second; "
        f"peak memory of the {result['peak_of']} {result['peak_bytes'] / 1e6:.0f} MB"
        + note
    )


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.2f} ms"


def _write(path: str, report: dict[str, Any]) -> None:
    text = json.dumps(report, indent=2)
    if path == "-":
        print(text)
    elif path:
        try:
            Path(path).write_text(text + "\n")
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"--json={path}: cannot be written ({reason})") from error
        print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
