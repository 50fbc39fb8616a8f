"""What a run does besides its steps: at a boundary it calls what is due, in one order, with what is known there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from ganjax.run.clock import Clock
from ganjax.runtime.logs import RunWriter
from ganjax.training.state import GanState


@dataclass(frozen=True)
class Boundary:
    """A step at which the host looks at the run.

    Attributes:
      step: the number of steps made.
      state: the state after them, replicated on the run's devices.
      row: the log line of this step, to which callbacks add before it is written; empty where no line is due.
      last: True if the run ends here.
      writer: the writer of the run's logs and messages.
      clock: the clock of the run.
    """

    step: int
    state: GanState
    row: dict[str, Any]
    last: bool
    writer: RunWriter
    clock: Clock


class Callback(Protocol):
    """A task of a run that comes back at regular steps."""

    def due(self, step: int, *, last: bool) -> bool:
        """Returns True if the task is due at this step; `last` is True where the run ends."""
        ...

    def __call__(self, at: Boundary) -> None:
        """Does the task. All processes call it, and the main one writes."""
        ...


@dataclass(frozen=True)
class Every:
    """A rule for when a task is due: at each multiple of `steps`, and at the end."""

    steps: int

    def due(self, step: int, *, last: bool) -> bool:
        """Returns True if the task is due at this step."""
        return last or step % self.steps == 0
