"""What every command does alike: exit statuses, mistakes in one line, Ctrl-C, files.

`guard` runs a command, whatever reads its arguments: absl flags where there is a
configuration (config_flags.py), else a `Parser`. Light to import: no JAX.
"""

import argparse
import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from homae_jax.errors import UserError

EXIT_USER_ERROR, EXIT_INTERRUPTED, EXIT_PIPE = 2, 130, 141
PLACES = {  # what the system says of a place that the user chose
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOSPC, errno.EDQUOT),
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
}
STATUSES = (
    "Exit status: 0, done; 2, a mistake in what was given, in one line on stderr;\n"
    "130, interrupted. NO_COLOR=1: plain text."
)
KINDS = {bool: "true or false", int: "a whole number", float: "a number"}


def guard(command: Callable[[], int | None]) -> int:
    """Runs a command; foreseeable mistakes print one line. Returns the exit status."""
    try:
        status = command() or 0
        sys.stdout.flush()
        return status
    except UserError as error:
        return _complain(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return _leave_the_pipe()
    except OSError as error:
        if error.errno not in PLACES:
            raise
        place = f"{error.filename}: " if error.filename else ""
        return _complain(f"{place}{error.strerror.lower()}")


def finish(status: int) -> NoReturn:
    """Ends the process; Ctrl-C while Python takes itself down leaves no traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(status)


class Parser(argparse.ArgumentParser):
    """Its mistakes are a `UserError`; its help ends with the exit statuses.

    It takes no shortened flags, as absl takes none. What must be given is told to
    `require` instead of to `add_argument`: unknown flags are named first.
    """

    def __init__(self, **options: Any) -> None:
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(
            formatter_class=layout, epilog=STATUSES, allow_abbrev=False, **options
        )
        self.register("type", int, _whole_number)

    def require(self, options: argparse.Namespace, *names: str) -> None:
        """Raises UserError for a flag without a value, after all are read."""
        for name in names:
            if not getattr(options, name):
                self.error(f"--{name}=... is missing")

    def error(self, message: str) -> NoReturn:
        """Raises UserError."""
        raise UserError(f"{message} ({self.prog} --help lists the flags)")

    def print_help(self, file: Any = None) -> None:
        """At once, so that a reader who has gone is noticed here."""
        print(self.format_help(), end="", file=file, flush=True)


def check_output(
    flag: str,
    path: str | Path,
    *,
    overwrite: bool,
    suffixes: Sequence[str] = (),
) -> None:
    """Refuses, before any work, to write a file where that would fail or lose one.

    Args:
      flag: that named it, such as --out.
      suffixes: it must have one of; none: any.

    Raises:
      UserError: another ending, no such folder, or a file that is there already.
    """
    path = Path(path)
    if suffixes and path.suffix not in suffixes:
        raise UserError(f"{flag}={path}: must end in {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise UserError(f"{flag}={path}: no folder {path.parent}; make it first")
    if path.is_dir():
        raise UserError(f"{flag}={path}: is a folder; give a file")
    if path.exists() and not overwrite:
        raise UserError(f"{flag}={path} exists already: pass --overwrite to replace it")


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        message = f"{text!r}: wants {KINDS[int]}"
        raise argparse.ArgumentTypeError(message) from error


def _leave_the_pipe() -> int:
    """Whoever reads has gone, as `head` does: what is left to say goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_PIPE


def _complain(error: object) -> int:
    print(f"error: {error}", file=sys.stderr)
    return EXIT_USER_ERROR
