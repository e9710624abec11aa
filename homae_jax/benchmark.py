"""Measures how fast a part runs on this machine, and what memory it takes.

    python -m homae_jax.benchmark metrics
    python -m homae_jax.benchmark mano --batch 1 24 --json mano.json
    python -m homae_jax.benchmark train --config configs/ho3d.py \\
        --config.data.root=/data/HO3D_v2
    python -m homae_jax.benchmark all --json -

The sections are the modules of homae_jax/benchmarks; `all` runs them one after the
other, each with its own defaults (SECTION --help lists its flags). First the ceiling of
the device: a large matrix product in float32, one in bfloat16, and a large copy. Then
each line gives what was measured with its shapes, the median of the calls after the
first, the first call (compilation included), the processor time of a call, examples per
second, the arithmetic of a call against the ceiling of its dtype (on a CPU by processor
time, which other programs do not add to), and the peak of memory. `--json FILE` writes
the same numbers, over a file that is there; `--json -` prints them instead. `--set
KEY=VALUE ...` is another way to write --config.KEY=VALUE.
"""

import argparse
import contextlib
import importlib
import json
import os
import pkgutil
import platform
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from homae_jax import benchmarks, command_line, config_flags, runtime
from homae_jax.errors import UserError

REPEATS = 5
ALL = "all"
HELP_WIDTH = 80
PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one section; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    return command_line.guard(lambda: _run(arguments))


def sections() -> tuple[str, ...]:
    """Names of what can be measured."""
    found = (module.name for module in pkgutil.iter_modules(benchmarks.__path__))
    return tuple(sorted(name for name in found if not name.startswith("_")))


def _import(name: str) -> Any:
    return importlib.import_module(f"{benchmarks.__name__}.{name}")


def _run(arguments: list[str]) -> int:
    known = sections()
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        print(textwrap.fill(f"Sections: {', '.join((*known, ALL))}", HELP_WIDTH))
        print(f"\n{command_line.STATUSES}")
        return 0 if arguments else command_line.EXIT_USER_ERROR
    if arguments[0] not in (*known, ALL):
        named = ", ".join((*known, ALL))
        raise UserError(f'no section "{arguments[0]}": use one of {named}')
    runtime.prepare()
    chosen = known if arguments[0] == ALL else arguments[:1]
    modules = [_import(name) for name in chosen]
    options = _parse(arguments, modules)
    path = options[0].json
    to_stdout = path == "-"
    if path and not to_stdout:
        command_line.check_output("--json", path, overwrite=True)
    _prepare(options)
    _start_device(modules)
    report: dict[str, Any] = {"section": arguments[0], **_machine()}
    if not to_stdout:
        print(", ".join(f"{k} {v}" for k, v in report.items()), flush=True)
    results = []
    for result in _measured(chosen, modules, options, report):
        results.append(result)
        if not to_stdout:
            print(_line(result), flush=True)
    _write(path, {**report, "results": results})
    return 0


def _prepare(options: Sequence[argparse.Namespace]) -> None:
    """Opens what every section was given; stdout is left to `--json -`."""
    with contextlib.redirect_stdout(sys.stderr):
        for each in options:
            if each.prepare:
                each.prepare(each)


def _start_device(modules: Sequence[Any]) -> None:
    """Settles memory; leaves a GPU's to the processes that sections start.

    JAX reads the variable with its first device, and would take three quarters; the
    processes inherit what the user has set.
    """
    given = os.environ.get(PREALLOCATE)
    if any(_starts_processes(module) for module in modules):
        os.environ[PREALLOCATE] = "false"
    runtime.keep_memory()
    os.environ.pop(PREALLOCATE, None)
    if given is not None:
        os.environ[PREALLOCATE] = given


def _starts_processes(module: Any) -> bool:
    return getattr(module, "STARTS_PROCESSES", False)


def _measured(
    names: Sequence[str],
    modules: Sequence[Any],
    options: Sequence[argparse.Namespace],
    report: dict[str, Any],
) -> Iterator[dict[str, Any]]:
    """The ceiling, kept in the report too, then every section's results.

    Sections that start processes come first, while this one holds no memory of a GPU;
    they count no arithmetic.
    """
    from homae_jax.benchmarks import _measure

    parts = list(zip(names, modules, options, strict=True))
    for name, module, chosen in parts:
        if _starts_processes(module):
            for result in module.run(chosen):
                yield _record(name, result, 0.0)
    *found, copy = _measure.ceiling(repeats=options[0].repeats)
    products = dict(zip(_measure.DTYPES, found, strict=True))
    for dtype, product in products.items():
        report[f"ceiling_{dtype}_gflop_per_s"] = product.flops_per_s / 1e9
    report["ceiling_gb_per_s"] = _measure.copied_bytes_per_s(copy) / 1e9
    for result in (*found, copy):
        yield _record("ceiling", result, _measure.share_of_ceiling(result, products))
    for name, module, chosen in parts:
        if not _starts_processes(module):
            for result in module.run(chosen):
                share = _measure.share_of_ceiling(result, products)
                yield _record(name, result, share)


def _record(section: str, result: Any, share_of_ceiling: float) -> dict[str, Any]:
    """A measurement with its rates."""
    return {
        "section": section,
        **result._asdict(),
        "per_second": result.per_second,
        "flops_per_s": result.flops_per_s,
        "share_of_ceiling": share_of_ceiling,
    }


def _parse(arguments: list[str], modules: Sequence[Any]) -> list[argparse.Namespace]:
    """One namespace per section; `all` takes what every section that has it gets."""
    given = _parser(arguments[0], None if arguments[0] == ALL else modules[0])
    options = config_flags.parse_arguments(given, arguments[1:])
    for name, value in vars(options).items():
        numbers = value if isinstance(value, list) else [value]
        if any(type(number) is int and number < 1 for number in numbers):
            raise UserError(f"--{name}={value}: must be 1 or more")
    if arguments[0] != ALL:
        return [options]
    wanted = {k: v for k, v in vars(options).items() if v is not None}
    found = []
    for module in modules:
        defaults = vars(_parser(module.__name__, module).parse_args([]))
        own = {k: v for k, v in wanted.items() if k in defaults}
        found.append(argparse.Namespace(**(defaults | own)))
    return found


def _parser(name: str, section: Any | None) -> command_line.Parser:
    about = section.__doc__.splitlines()[0] if section else "Every section in turn."
    parser = command_line.Parser(
        prog=f"python -m homae_jax.benchmark {name}", description=about
    )
    parser.set_defaults(prepare=None)
    parser.add_argument(
        "--repeats", type=int, default=REPEATS, help="calls after the first"
    )
    parser.add_argument(
        "--json",
        default="",
        metavar="FILE",
        help="the numbers, over a file that is there; - prints them instead",
    )
    if section:
        section.add_arguments(parser)
    else:
        parser.add_argument(
            "--config", dest="config_file", metavar="FILE", help="configuration file"
        )
        config_flags.add_overrides(parser)
        from homae_jax.benchmarks import _peer

        _peer.add_arguments(parser)
    return parser


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
    notes = [f"{k} {v:.6g}" for k, v in (result["figures"] or {}).items()]
    note = "".join(f"\n    {text}" for text in (*notes, result["note"]) if text)
    counted = ""
    if result["flops"]:
        counted = (
            f"\n    {result['flops'] / 1e9:.3g} GFLOP a call "
            f"({result['matrix_flops'] / max(result['flops'], 1):.0%} in products) at "
            f"{result['flops_per_s'] / 1e9:.3g} GFLOP/s, "
            f"{result['share_of_ceiling']:.0%} of the ceiling; "
            f"planned memory {result['planned_bytes'] / 1e6:.0f} MB"
        )
    return (
        f"{result['section']}: {result['name']}  [{result['shapes']}]\n"
        f"    median {_time(result['median_s'])} of {result['repeats']}, "
        f"{_time(result['fastest_s'])} to {_time(result['slowest_s'])}, "
        f"first {_time(result['first_s'])}, processor {_time(result['processor_s'])} "
        f"(best {_time(result['fastest_processor_s'])}); "
        f"{result['per_second']:.3g} per second; "
        f"peak memory of the {result['peak_of']} {result['peak_bytes'] / 1e6:.0f} MB"
        + counted
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
    command_line.finish(main())
