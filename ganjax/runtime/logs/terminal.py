"""The display of a running run: a live line on a terminal, plain lines in a file."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from ganjax.runtime.errors import printable
from ganjax.runtime.logs.files import Metrics
from ganjax.runtime.logs.stages import Stages

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live
    from rich.text import Text

_SPEED_WINDOW = 10  # log calls: enough to average over evaluations, few enough to follow the machine


def _duration(seconds: float | None) -> str:
    if seconds is None or not math.isfinite(seconds):
        return "-:--:--"
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _number(metrics: Metrics, name: str) -> float | None:
    value = metrics.get(name)
    return None if value is None or isinstance(value, str) else float(value)


def _loss(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.2e}"


@dataclasses.dataclass(frozen=True)
class _Status:
    """Content of the last log line, as far as it is shown."""

    step: int
    images_per_second: float | None = None
    dis: float | None = None
    gen: float | None = None
    verdict: str = ""
    seconds_left: float | None = None

    @classmethod
    def of(cls, step: int, metrics: Metrics, seconds_left: float | None) -> _Status:
        verdict = metrics.get("verdict")
        speed, dis, gen = (_number(metrics, name) for name in ("images_per_second", "loss/dis", "loss/gen"))
        return cls(step, speed, dis, gen, verdict if isinstance(verdict, str) else "", seconds_left)

    @property
    def speed(self) -> str:
        return "-" if self.images_per_second is None else f"{self.images_per_second:,.0f}"

    def plain(self, total_steps: int) -> str:
        parts = [
            f"step {self.step:>{len(str(total_steps))}}/{total_steps}",
            f"{100 * self.step // max(total_steps, 1):3d}%",
            f"{self.speed:>6} img/s",
            f"D {_loss(self.dis):>6}",
            f"G {_loss(self.gen):>6}",
            f"left {_duration(self.seconds_left)}",
            self.verdict,
        ]
        return "  ".join(parts).rstrip()


def _stream_handlers() -> Iterator[logging.StreamHandler[TextIO]]:
    """Returns all handlers in use, absl's included, which hides a stream handler within its own."""
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    for logger in loggers:
        for handler in getattr(logger, "handlers", ()):
            inner = getattr(handler, "python_handler", handler)
            if isinstance(inner, logging.StreamHandler):
                yield inner


@contextlib.contextmanager
def _live(live: Live) -> Iterator[None]:
    """Runs `live`. Meanwhile everything printed or logged goes above it.

    rich sees to `print` and `warnings`; a logging handler that was made earlier holds the old stream and
    would write across the live line.
    """
    before = (sys.stdout, sys.stderr)
    moved = []
    with live:
        for handler in _stream_handlers():
            for old, new in zip(before, (sys.stdout, sys.stderr), strict=True):
                if handler.stream is old and new is not old:
                    handler.setStream(new)
                    moved.append((handler, old))
                    break
        try:
            yield
        finally:
            for handler, old in moved:
                handler.setStream(old)


class Progress:
    """Display of how far a run is, how fast, its losses (`loss/dis`, `loss/gen`) and a short text, its `verdict`.

    On a terminal it is a live display of two lines, for which rich respects `NO_COLOR` and the like;
    elsewhere one plain line a log call. Should the terminal go away, the run goes on without it.

    Args:
        total_steps: the step at which the run ends.
        start_step: the step it goes on from.
        console: where the display goes; the default is standard output.
        live: True to use the live display; the default looks whether the console is a terminal that can.
        clock: the function that gives seconds, which only grow.
    """

    def __init__(
        self,
        total_steps: int,
        *,
        start_step: int = 0,
        console: Console | None = None,
        live: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console() if console is None else console
        self._total_steps = total_steps
        self._clock = clock
        self._started = self._logged = clock()
        self._history = deque([(self._started, start_step)], maxlen=_SPEED_WINDOW)
        self._status = _Status(start_step)
        self._gone, self._doing = False, ""
        self._stack = contextlib.ExitStack()
        # FORCE_COLOR, which CI sets, makes rich take a pipe for a terminal: ask the stream itself too.
        terminal = self._console.is_interactive and self._console.file.isatty()
        self._live: Live | None = None
        if terminal if live is None else live:
            # What goes to a file, by 2>errors.log for instance, shall not come to the terminal instead.
            self._live = Live(
                self,
                console=self._console,
                refresh_per_second=2,
                redirect_stdout=sys.stdout.isatty(),
                redirect_stderr=sys.stderr.isatty(),
            )
            self._stack.enter_context(_live(self._live))

    def _seconds_left(self, step: int) -> float | None:
        now = self._clock()
        self._history.append((now, step))
        if len(self._history) == 3 and self._history[0][0] == self._started:
            self._history.popleft()  # it holds the compilation
        then, first = self._history[0]
        return (self._total_steps - step) * (now - then) / (step - first) if step > first else None

    @contextlib.contextmanager
    def _unless_gone(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self._gone = True

    def log(self, step: int, metrics: Metrics) -> None:
        """Shows the images_per_second, loss/dis, loss/gen and the text verdict that `metrics` holds."""
        self._status = _Status.of(step, metrics, self._seconds_left(step))
        self._logged = self._clock()
        if self._live is None:
            self.message(self._status.plain(self._total_steps))
        elif not self._gone:
            with self._unless_gone():
                self._live.refresh()

    @contextlib.contextmanager
    def stage(self, text: str) -> Iterator[None]:
        """Shows what is being prepared in the `with` block, and then how long it took."""
        start, self._doing = self._clock(), text
        try:
            with (
                Stages(self._console.file, live=False)(text)
                if self._live is None
                else contextlib.nullcontext()
            ):
                yield
        finally:
            self._doing = ""
            self._history.clear()  # what it took says nothing of the time left
        if self._live is not None:
            self.message(f"{text}: {self._clock() - start:.1f} s")

    def message(self, text: str) -> None:
        """Prints `text` as it is on lines of its own, above the live display if there is one."""
        if self._gone:
            return
        encoding = self._console.encoding
        text = printable(text).encode(encoding, "replace").decode(encoding)
        with self._unless_gone():
            if self._live is None:
                print(text, file=self._console.file, flush=True)
            else:
                self._console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def close(self) -> None:
        """Leaves the last state on the screen and gives the terminal back. A second call does nothing."""
        with self._unless_gone():
            self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        status, now = self._status, self._clock()
        left = None if status.seconds_left is None else max(0.0, status.seconds_left - (now - self._logged))
        step = Text(f"step {status.step}/{self._total_steps}", style="bold")
        percent = Text(f"{100 * status.step // max(self._total_steps, 1)}%", style="cyan")
        remaining = Text(f"{_duration(left)} left", style="cyan")
        elapsed = Text(f"{_duration(now - self._started)} elapsed", style="dim")
        texts = [step, percent, remaining, elapsed]
        while len(texts) > 1 and sum(len(text) + 2 for text in texts) > options.max_width:
            texts.pop()
        room = options.max_width - sum(len(text) + 2 for text in texts)
        bar = ProgressBar(max(self._total_steps, 1), status.step, width=min(room, 60), complete_style="green")
        cells = [texts[0], bar, *texts[1:]] if room >= 8 else texts
        line = Table.grid(padding=(0, 2, 0, 0))
        for _ in cells:
            line.add_column(no_wrap=True, overflow="crop")
        line.add_row(*cells)
        yield line
        yield self._numbers()

    def _numbers(self) -> Text:
        from rich.text import Text

        status = self._status
        if self._doing:
            return Text(f"{self._doing} …", style="dim", no_wrap=True, overflow="crop")
        numbers = Text(no_wrap=True, overflow="crop")
        numbers.append(f"{status.speed} img/s")
        for name, value in (("D", status.dis), ("G", status.gen)):
            bad = value is not None and not math.isfinite(value)
            numbers.append(f"  {name} ", style="dim").append(_loss(value), style="bold red" if bad else "")
        return numbers.append(f"  {status.verdict}", style="bold") if status.verdict else numbers
