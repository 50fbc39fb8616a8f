"""Takes SIGTERM, SIGHUP and Ctrl-C as a request to stop: all processes stop at the same next step."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

from ganjax.runtime import processes

PREEMPTED, INTERRUPTED = "preempted", "interrupted"


class StopSignals:
    """Context in which the first SIGTERM, SIGHUP or Ctrl-C makes this object true.

    SIGHUP, which a terminal sends that is closed, counts as SIGTERM; where it is ignored, as under nohup, it stays so.
    A second Ctrl-C leaves at once, through a KeyboardInterrupt. Should that take its time, a third ends the process.
    With several processes SIGTERM is left to JAX, which informs all of them; Ctrl-C is handed on to it.

    Attributes:
      reason: `preempted` after SIGTERM or SIGHUP, `interrupted` after Ctrl-C, empty before.
    """

    def __init__(self) -> None:
        self.reason = ""
        self._asked = 0
        self._before: dict[int, Any] = {}
        self._hook_before: Any = None

    def __bool__(self) -> bool:
        return bool(self.reason)

    def due(self) -> bool:
        """Returns True if the run is to stop before the next call.

        All processes ask once a call and get the same answer.
        """
        if processes.count() == 1:
            return bool(self)
        from jax.experimental import multihost_utils

        self._asked += 1  # JAX answers yes at exactly one number, one past the farthest process
        if not multihost_utils.reached_preemption_sync_point(self._asked):
            return False
        self.reason = processes.from_main(processes.told(processes.REASON) or PREEMPTED)
        return True

    def __enter__(self) -> StopSignals:
        numbers = {signal.SIGHUP, signal.SIGINT} | ({signal.SIGTERM} if processes.count() == 1 else set())
        if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
            numbers.remove(signal.SIGHUP)
        if threading.current_thread() is threading.main_thread():
            for number in numbers:
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.reason == INTERRUPTED:
            self._before[number] = signal.SIG_DFL
            signal.signal(number, signal.SIG_DFL)
            self._hook_before, sys.unraisablehook = sys.unraisablehook, self._unraisable
            raise KeyboardInterrupt
        self.reason = INTERRUPTED if number == signal.SIGINT else PREEMPTED
        if processes.count() > 1:
            processes.tell(processes.REASON, self.reason)
            os.kill(os.getpid(), signal.SIGTERM)

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
        if sys.unraisablehook == self._unraisable:  # not one that was set since
            sys.unraisablehook = self._hook_before
