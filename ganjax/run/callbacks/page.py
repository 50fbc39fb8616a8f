"""The page of a running run, written anew from time to time, at a cost below a hundredth of the run."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from ganjax.run.callbacks import Boundary, Every
from ganjax.run.report.run_page import write_run_page

FIRST_SECONDS = 20.0  # from the start to the first page
LEAST_SECONDS = 120.0  # between two pages
SHARE = 0.01  # of the time, that pages may take


class Page(Every):
    """Writes `report.html` in a run's folder at each multiple of `every_steps`, unless the last was too short ago.

    A page is a courtesy: where it cannot be written, the run goes on and `tell` gets the reason, once.

    Args:
      folder: folder of the run.
      every_steps: steps between two calls.
      enabled: False writes no page.
      tell: takes a line of text.
      clock: returns seconds, never going back.
    """

    def __init__(
        self,
        folder: Path,
        every_steps: int,
        *,
        enabled: bool = True,
        tell: Callable[[str], None] = print,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(every_steps)
        self._folder, self._enabled, self._tell, self._clock = folder, enabled, tell, clock
        self._next = clock() + FIRST_SECONDS

    def __call__(self, at: Boundary) -> None:
        """Writes a page, unless the last one was too short ago."""
        self.write()

    def write(self, *, last: bool = False) -> bool:
        """Writes a page, unless the last one was too short ago and this is not the `last`. Returns True if it did."""
        start = self._clock()
        if not self._enabled or (start < self._next and not last):
            return False
        try:
            write_run_page(self._folder)
        except Exception as error:
            self._enabled = False
            self._tell(f"The run's page could not be written, and is left out from now on: {error}")
            return False
        end = self._clock()
        self._next = end + max(LEAST_SECONDS, (end - start) / SHARE)
        return True
