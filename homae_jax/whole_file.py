"""Files that others see whole, as they were or as they are now: `replacing`."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A file beside `path` to write; it takes its place when all went well.

    Otherwise it goes, and `path` is as it was. Makes the folder.

    Raises:
      OSError: of the writing, with `path` in it; a full disk names none.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        part.unlink(missing_ok=True)
