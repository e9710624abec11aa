"""SIGTERM and Ctrl-C: finish the step, save, stop; a second time: stop now."""

import os
import signal
import sys
from types import FrameType, TracebackType

EXIT_INTERRUPTED = 130


class StopRequests:
    """Notes SIGINT and SIGTERM while it is entered; `name` is the first that came."""

    def __init__(self) -> None:
        self.name: str | None = None
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

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.name is not None:
            # Checkpoints appear whole or not at all, so nothing can be broken.
            print("stopped at once; not saved", file=sys.stderr, flush=True)
            os._exit(EXIT_INTERRUPTED)
        self.name = signal.Signals(number).name
        print(
            f"{self.name}: finishing the step and saving (again: stop at once)",
            file=sys.stderr,
            flush=True,
        )
