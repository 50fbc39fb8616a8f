"""Log lines."""

from __future__ import annotations

from pathlib import Path

from ganjax.run.callbacks import Boundary, Every
from ganjax.training.divergence import check_faults


class Log(Every):
    """Writes the log line that the callbacks before it have filled."""

    def __init__(self, folder: Path, every_steps: int) -> None:
        super().__init__(every_steps)
        self._folder = folder

    def __call__(self, at: Boundary) -> None:
        """Writes the line. Raises a `DivergedError` where a loss or gradient was not finite."""
        at.writer.log(at.step, at.row)
        check_faults(at.state, self._folder)
