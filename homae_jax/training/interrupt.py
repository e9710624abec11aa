"""SIGTERM and Ctrl-C: finish the step, save, stop; a second time: stop now.

Only steps have something to finish. Before the first is under way and after the last,
while data are read, the step is compiled or the table is made, the first signal ends
the program at once; an evaluation on the way is left off.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType, TracebackType

EXIT_AS_ASKED, EXIT_INTERRUPTED = 0, 130


class StopRequests:
    """Handles SIGINT and SIGTERM while it is entered; `name` is the first noted."""

    def __init__(self) -> None:
        self.name: str | None = None
        self._is_stepping = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequests":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def stepping(self) -> Iterator[None]:
        """Within, a first signal is only noted: whoever steps looks at `name`."""
        self._is_stepping = True
        try:
            yield
        finally:
            self._is_stepping = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        # Checkpoints appear whole or not at all, so no exit can break one.
        if not self._is_stepping:
            _tell(f"{signal.Signals(number).name}: stopped; no step was under way")
            os._exit(EXIT_AS_ASKED)
        if self.name is not None:
            _tell("stopped at once; not saved")
            os._exit(EXIT_INTERRUPTED)
        self.name = signal.Signals(number).name
        _tell(f"{self.name}: finishing the step and saving (again: stop at once)")


def _tell(text: str) -> None:
    """Writes a line past the stream's lock, which the interrupted code may hold."""
    with contextlib.suppress(OSError):
        os.write(sys.stderr.fileno(), f"{text}\n".encode())
