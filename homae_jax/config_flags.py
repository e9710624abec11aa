"""The --config flag, and errors that fit in a line, for every entry point (absl).

Light to import: no JAX, so that --help is quick and touches no device.
"""

import difflib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import ml_collections
from absl import app, flags
from ml_collections import config_flags as ml_flags

from homae_jax.errors import UserError

EXIT_USER_ERROR = 2


def define_config(default: str | None = None) -> flags.FlagHolder:
    """Defines --config=FILE[:ARGUMENT] and its --config.key=value overrides."""
    return ml_flags.DEFINE_config_file(
        "config",
        default,
        "Configuration file, such as configs/ho3d.py; --config.a.b=value overrides a "
        "key (configs/common.py lists them all).",
        lock_config=True,
    )


def run(main: Callable[[Sequence[str]], int | None]) -> None:
    """Runs an entry point: foreseeable mistakes print one line and exit with 2."""

    def guarded(argv: Sequence[str]) -> int | None:
        try:
            if argv[1:]:
                raise UserError(
                    f"unexpected argument {argv[1]!r}: options start with --, as in "
                    "--config.train.steps=100"
                )
            return main(argv)
        except UserError as error:
            return _complain(error)
        except KeyboardInterrupt:
            return _complain("interrupted") and 130

    app.run(guarded, flags_parser=_parse)


def _parse(argv: Sequence[str]) -> list[str]:
    if any(a in ("--help", "-h", "--helpshort") for a in argv[1:]):
        print(sys.modules["__main__"].__doc__)
        print(flags.FLAGS.main_module_help())
        sys.exit(0)
    try:
        _check_config_file(argv)
        return flags.FLAGS(argv)
    except UserError as error:
        sys.exit(_complain(error))
    except flags.Error as error:
        sys.exit(_complain(f"{str(error).splitlines()[0]} (see --help)"))
    except (AttributeError, KeyError) as error:
        sys.exit(_complain(_unknown_key(argv, error)))
    except (TypeError, ValueError, OSError, SyntaxError, ImportError) as error:
        sys.exit(_complain(f"--config={_config_argument(argv)}: {error}"))


def _complain(error: object) -> int:
    print(f"error: {error}", file=sys.stderr)
    return EXIT_USER_ERROR


def _config_argument(argv: Sequence[str]) -> str | None:
    for i, argument in enumerate(argv):
        if argument in ("--config", "-config") and i + 1 < len(argv):
            return argv[i + 1]
        if argument.startswith(("--config=", "-config=")):
            return argument.partition("=")[2]
    return None


def _check_config_file(argv: Sequence[str]) -> None:
    """A missing file is named before anything else fails on it."""
    value = _config_argument(argv)
    if value is None:
        return
    path = Path(value.split(":")[0])
    if path.is_file():
        return
    near = sorted(str(p) for p in Path("configs").glob("*.py") if p.stem != "common")
    there = f"; there are {', '.join(near)}" if near else ""
    raise UserError(f"--config={path}: no such file{there}")


def _unknown_key(argv: Sequence[str], error: Exception) -> str:
    """Names the mistyped key and the nearest one that exists."""
    overrides = [a.lstrip("-").partition("=")[0] for a in argv if "config." in a]
    value = _config_argument(argv)
    flags.FLAGS.unparse_flags()
    flags.FLAGS([argv[0], f"--config={value}"])
    known = _known_keys(flags.FLAGS["config"].value)
    for override in overrides:
        key = override.removeprefix("config.")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean --config.{near[0]}?" if near else ""
            return f"--{override}: no such key{hint}"
    return f"--config={value}: {error}"


def _known_keys(config: ml_collections.ConfigDict, prefix: str = "") -> list[str]:
    keys = []
    for name, value in config.items():
        is_group = isinstance(value, ml_collections.ConfigDict)
        keys += _known_keys(value, f"{prefix}{name}.") if is_group else [prefix + name]
    return keys
