"""Processes that end with the one that started them, however that one ended.

A program that is killed outright cannot tell the processes that it started. So they
look for themselves, once a second, on any system.
"""

import os
import threading
import time

SECONDS = 1.0
PARENT = "HOMAE_JAX_PARENT"  # variable: whom a program is to end with


def end_with(parent: int) -> None:
    """Ends this process, from a thread, when its parent is another one than that."""
    watcher = threading.Thread(target=_watch, args=(parent,), daemon=True)
    watcher.start()


def end_with_starter() -> None:
    """`end_with` whoever set `PARENT`; nothing without it."""
    if (text := os.environ.get(PARENT, "")).isdecimal():
        end_with(int(text))


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(SECONDS)
    os._exit(1)
