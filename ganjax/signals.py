"""SIGTERM and Ctrl-C as a request to stop at the next step."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any


class StopSignals:
    """While entered, the first SIGTERM or Ctrl-C makes this object true; a second Ctrl-C leaves at once,
    through a KeyboardInterrupt; should that take its time, a third ends the process.

    Attributes:
      reason: `preempted` after SIGTERM, `interrupted` after Ctrl-C, empty before.
    """

    def __init__(self) -> None:
        self.reason = ""
        self._before: dict[int, Any] = {}
        self._hook_before = sys.unraisablehook

    def __bool__(self) -> bool:
        return bool(self.reason)

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.reason == "interrupted":
            self._before[number] = signal.SIG_DFL
            signal.signal(number, signal.SIG_DFL)
            sys.unraisablehook = self._unraisable
            raise KeyboardInterrupt
        self.reason = "interrupted" if number == signal.SIGINT else "preempted"

    def _unraisable(self, unraisable: Any) -> None:
        # Raised within a callback of the garbage collector or a destructor the interrupt would only be
        # printed, and the program go on.
        if unraisable.exc_type is KeyboardInterrupt:
            signal.raise_signal(signal.SIGINT)
        self._hook_before(unraisable)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        sys.unraisablehook = self._hook_before
