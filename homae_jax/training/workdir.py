"""One training per folder."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from homae_jax.errors import UserError

LOCK = ".lock"


@contextlib.contextmanager
def locked(workdir: str | Path) -> Iterator[None]:
    """Makes the folder and keeps other trainings out of it while this one runs.

    The system lets go of the lock when the process ends, however it ends.

    Raises:
      UserError: another training is there, or the folder cannot be written.
    """
    workdir = Path(workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--workdir={workdir}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise UserError(
                f"--workdir={workdir}: a training runs here already (process "
                f"{file.read().strip()}); stop it or choose another --workdir"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
