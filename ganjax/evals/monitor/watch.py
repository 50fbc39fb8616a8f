"""The monitor of a live run: it probes at log lines, keeps the rows, and reports a change of the verdict."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ganjax.evals.monitor.verdicts import HEALTHY, Row, Verdict, judge_rows, not_finite
from ganjax.runtime.logs.files import LogWarning, left_out, parse_log

RECENT, AHEAD = 8, 0.9  # measurements, and the share of pairs that a D which is far ahead orders right


class Watch:
    """A monitor that follows a run by its log lines.

    Args:
      probe: state → signals, or None where only the losses are to be watched.
      total_steps: length of the run.
      every_steps: least steps between two probes.
      log_steps: steps between log lines.
      rows: log lines of the run's earlier sittings.
    """

    def __init__(
        self,
        probe: Callable[[Any], dict[str, float | str]] | None,
        *,
        total_steps: int,
        every_steps: int,
        log_steps: int,
        rows: Iterable[Row] = (),
    ) -> None:
        self.probe, self._total_steps = probe, total_steps
        self._every, self._log = every_steps, log_steps
        self.rows: list[Row] = list(rows)
        self.verdicts: list[Verdict] = judge_rows(self.rows, total_steps)

    def due(self, step: int, *, last: bool) -> bool:
        """Returns True if a probe is due at this log line.

        It is due at the first after each multiple of `every_steps`, and at the last.
        """
        return last or step // self._every > max(0, step - self._log) // self._every

    def __call__(self, step: int, state: Any, row: Row, *, last: bool = False) -> dict[str, Any]:
        """Returns the monitor's additions to the log line `row` of `step`: its signals and its verdict."""
        found: dict[str, Any] = {}
        if self.probe is not None and self.due(step, last=last):
            found |= self.probe(state)
        self.rows.append({"step": step, **row, **found})
        if found or self.probe is None or not_finite(row):
            self.verdicts = judge_rows(self.rows, self._total_steps)
        return {**found, "verdict": shown(self.verdicts)}

    @property
    def bad(self) -> list[Verdict]:
        """The verdicts that call for an action."""
        return [verdict for verdict in self.verdicts if verdict.severity == "bad"]

    @property
    def dis_ahead(self) -> bool:
        """True if D separated nearly all fakes from reals in most of the last measurements."""
        values = [row["monitor/separation"] for row in self.rows if "monitor/separation" in row][-RECENT:]
        return bool(values) and statistics.median(values) > AHEAD


@dataclass(frozen=True)
class Stretch:
    """A stretch of consecutive log lines with the same verdict: steps from `first` to `last`."""

    first: int
    last: int
    verdict: str


def stretches(rows: Sequence[Row]) -> list[Stretch]:
    """Returns the verdicts of log lines, joined where they follow each other."""
    found: list[Stretch] = []
    for row in rows:
        verdict, step = row.get("verdict"), int(row["step"])
        if not isinstance(verdict, str):
            continue
        if found and found[-1].verdict == verdict:
            found[-1] = Stretch(found[-1].first, step, verdict)
        else:
            found.append(Stretch(step, step, verdict))
    return found


def shown(verdicts: Iterable[Verdict]) -> str:
    """Returns the verdicts as one line of text."""
    return ", ".join(verdict.name for verdict in verdicts) or HEALTHY


def read_rows(path: Path, until: int | None = None) -> list[Row]:
    """Reads the rows of a `metrics.jsonl` up to the step `until`; a missing file has none.

    Damaged lines are left out, with a `LogWarning` that counts and names them; so is a torn last line, without one.
    """
    try:
        lines, damaged = parse_log(path.read_bytes() if path.is_file() else b"")
    except OSError:
        return []
    if damaged:
        warnings.warn(left_out(path, damaged), LogWarning, stacklevel=2)
    return [row for _, row in lines if until is None or row["step"] <= until]
