"""One writer for everything that a training run logs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Self

from ganjax.runtime.logs.files import Metrics, MetricsWriter, TensorBoardWriter
from ganjax.runtime.logs.terminal import Progress
from ganjax.runtime.logs.trackers import Tracker


class RunWriter:
    """Writer that logs to `metrics.jsonl`, TensorBoard and the terminal at once; a context manager.

    Args:
        workdir: the run's folder; made if missing.
        total_steps: the step at which the run ends.
        start_step: the step it goes on from, 0 for a new run. What the logs say of later steps is dropped,
            since the run writes it anew.
        enabled: False on all processes but the first. Every method then does nothing.
        tensorboard: True to write files for TensorBoard.
        trackers: the functions that open other places to log to (`logs.trackers`). One that fails later is left out
            from then on, with a message: no service ends a run.
        progress: the display to use instead of one on standard output; it is closed with the writer.

    Raises:
        UserError: something cannot be written, here or in any method; the message says what, where and what to do.
    """

    def __init__(
        self,
        workdir: str | Path,
        *,
        total_steps: int,
        start_step: int,
        enabled: bool = True,
        tensorboard: bool = True,
        trackers: Sequence[Callable[[], Tracker]] = (),
        progress: Progress | None = None,
    ) -> None:
        self._enabled = enabled
        self._stack = contextlib.ExitStack()
        self._trackers: list[Tracker] = []
        if not enabled:
            return
        with contextlib.ExitStack() as stack:
            folder = Path(workdir)
            self._metrics = stack.enter_context(
                MetricsWriter(folder / "metrics.jsonl", start_step=start_step)
            )
            self._tensorboard = (
                stack.enter_context(TensorBoardWriter(folder, start_step)) if tensorboard else None
            )
            for make in trackers:
                self._trackers.append(make())
                stack.callback(self._tell, self._trackers[-1], "close")
            # Last, so that a folder that cannot be written is told before the display starts.
            self._progress = Progress(total_steps, start_step=start_step) if progress is None else progress
            stack.enter_context(self._progress)
            self._stack = stack.pop_all()

    def log(self, step: int, metrics: Metrics) -> None:
        """Logs the numbers and texts of `step`. Values lie on the host; 0-d arrays are allowed."""
        if self._enabled:
            self._metrics.write(step, metrics)
            if self._tensorboard:
                self._tensorboard.scalars(step, metrics)
            for tracker in list(self._trackers):
                self._tell(tracker, "scalars", step, metrics)
            self._progress.log(step, metrics)

    def image(self, step: int, path: str | Path, *, name: str = "samples") -> None:
        """Shows the PNG file at `path` in TensorBoard and trackers as `name`.

        `write_grid` or its like wrote the file.
        """
        if not self._enabled or not (self._tensorboard or self._trackers):
            return
        png = Path(path).read_bytes()
        if self._tensorboard:
            self._tensorboard.image(step, name, png)
        for tracker in list(self._trackers):
            self._tell(tracker, "image", step, name, png)

    def _tell(self, tracker: Tracker, method: str, *arguments: object) -> None:
        """Calls a method of a tracker that has not failed yet."""
        if tracker not in self._trackers:
            return
        try:
            getattr(tracker, method)(*arguments)
        except Exception as error:  # whatever a service's client raises
            self._trackers.remove(tracker)
            self.message(f"{type(tracker).__name__} failed, and the run goes on without it: {error}")

    def message(self, text: str) -> None:
        """Prints `text` on the terminal, above the live display."""
        if self._enabled:
            self._progress.message(text)

    def stage(self, text: str) -> AbstractContextManager[None]:
        """Shows what is being prepared in a `with` block, and then how long it took."""
        return self._progress.stage(text) if self._enabled else contextlib.nullcontext()

    def close(self) -> None:
        """Closes the files and the display. A second call does nothing."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
