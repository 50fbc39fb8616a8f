"""What a command is busy with before it has numbers to show: loading, compiling."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import IO


class Stages:
    """Says what is being prepared, and how long it took: a line a stage.

    On a terminal a stage shows its seconds as they go by; elsewhere its line ends when the stage ends.

    Args:
      stream: where it goes; standard output by default.
      live: True to show seconds as they go by; the default looks whether the stream is a terminal.
      enabled: False on all processes but the first; then nothing is shown.
      clock: the function that gives seconds, which only grow.
    """

    def __init__(
        self,
        stream: IO[str] | None = None,
        *,
        live: bool | None = None,
        enabled: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream, self._enabled, self._clock = stream or sys.stdout, enabled, clock
        self._live = self._stream.isatty() if live is None else live

    @contextlib.contextmanager
    def __call__(self, text: str) -> Iterator[None]:
        """Shows `text`, what is done in the `with` block, a participle first: "Loading digits"."""
        if not self._enabled:
            yield
            return
        start, ended = self._clock(), "\n"
        if not self._live:
            self._write(f"{text} ... ")
        try:
            with self._spinner(text) if self._live else contextlib.nullcontext():
                yield
            ended = f"{self._clock() - start:.1f} s\n"
            if self._live:
                ended = f"{text}: {ended}"
        finally:
            self._write(ended)

    def _write(self, text: str) -> None:
        """Writes; the command goes on without it where the stream is gone."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()

    @contextlib.contextmanager
    def _spinner(self, text: str) -> Iterator[None]:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        with Progress(*columns, console=Console(file=self._stream), transient=True) as shown:
            shown.add_task(text, total=None)
            yield
