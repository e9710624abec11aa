"""Progress of long work: a bar with the time left, or plain lines in a pipe."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
BAR_WIDTH = 28
REDRAW_SECONDS = 0.1
PIPE_SECONDS = 5.0  # between two lines in a pipe: short work says nothing


def format_seconds(seconds: float) -> str:
    """Formats a duration as ``42s``, ``3m05s`` or ``1h02m``."""
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def notice(text: str) -> None:
    """Says on a terminal what takes a while; in a pipe, nothing."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)


def progress_bar(items: Iterable[T], *, total: int, desc: str) -> Iterator[T]:
    """Yields `items`, reporting on stderr.

    On a terminal one line is redrawn; in a pipe a line is printed for a tenth of the
    work, PIPE_SECONDS after the last one at the earliest. The time left is read off the
    items after the first, which compiles.
    """
    out = sys.stderr
    is_terminal = out.isatty()
    start = last_drawn = time.monotonic()
    last_tenth, first = -1, 0.0
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        first = now - start if done == 1 else first
        each = first if done == 1 else (now - start - first) / (done - 1)
        left = each * max(total - done, 0)
        tenth = 10 * done // max(total, 1)
        is_due = tenth > last_tenth and now - last_drawn >= PIPE_SECONDS
        if is_terminal and (now - last_drawn >= REDRAW_SECONDS or done == total):
            last_drawn = now
            filled = BAR_WIDTH * done // max(total, 1)
            bar = "#" * filled + "-" * (BAR_WIDTH - filled)
            out.write(f"\r{desc} [{bar}] {done}/{total}, {format_seconds(left)} left ")
            out.flush()
        elif not is_terminal and is_due:
            last_tenth, last_drawn = tenth, now
            out.write(f"{desc}: {done}/{total}, {format_seconds(left)} left\n")
            out.flush()
    if is_terminal:
        out.write("\n")
