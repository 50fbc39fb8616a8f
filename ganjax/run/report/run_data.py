"""Reads a run's folder for a page. The reading is lenient, since the run may be going on or have been killed."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ganjax.config.options import BY_KEY
from ganjax.evals.monitor import HEALTHY, Stretch, Verdict, judge_run, read_rows, stretches
from ganjax.evals.monitor.verdicts import Row
from ganjax.run.recovery import FILE, Remedy, read_remedies
from ganjax.runtime.errors import UserError
from ganjax.runtime.files import is_number, read_json, read_object
from ganjax.runtime.workdir import flatten_config

RECENT = 20  # log lines, of which the speed now is taken
ALL_POINTS, MOST_POINTS = 60_000, 1000  # of all curves, and of one
_GRID = re.compile(r"step_(\d+)\.png")

Series = dict[str, dict[str, list[Any]]]


@dataclass(frozen=True)
class RunData:
    """The data of a run.

    Attributes:
      folder: folder of the run.
      config: dotted key → value.
      environment: contents of `environment.json`; empty where it is missing.
      rows: its log lines.
      reason: the reason of its end, in words; None where it runs or was killed.
      verdicts: verdicts at the last log line.
      stretches: the verdicts of all log lines.
      remedies: restarts and rollbacks.
      grids: (step, picture of samples, picture of the scales or None), in order.
    """

    folder: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    rows: list[Row]
    reason: str | None
    verdicts: list[Verdict]
    stretches: list[Stretch]
    remedies: list[Remedy]
    grids: list[tuple[int, Path, Path | None]]

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.absolute().name

    @property
    def step(self) -> int:
        """The step of the last log line, 0 before the first."""
        return int(self.rows[-1]["step"]) if self.rows else 0

    @property
    def total_steps(self) -> int:
        """The step at which the run ends."""
        steps = self.config.get("train.steps", 0)
        return int(steps) if is_number(steps) else 0

    @property
    def verdict(self) -> str:
        """The last verdict, in words."""
        return ", ".join(verdict.name for verdict in self.verdicts) or HEALTHY

    def last(self, name: str) -> float | None:
        """Returns the last known value of a series."""
        return next((v for row in reversed(self.rows) if (v := _number(row.get(name))) is not None), None)

    def steps_per_second(self) -> float | None:
        """Returns the speed over the last log lines, evaluations and saving included; None where it cannot be known."""
        recent = [row for row in self.rows[-RECENT:] if _number(row.get("seconds")) is not None]
        if len(recent) < 2:
            return None
        steps = recent[-1]["step"] - recent[0]["step"]
        seconds = float(recent[-1]["seconds"]) - float(recent[0]["seconds"])
        return steps / seconds if steps > 0 and seconds > 0 else None

    def images_per_second(self) -> float | None:
        """Returns the median speed of the last log lines."""
        values = [
            v for row in self.rows[-RECENT:] if (v := _number(row.get("images_per_second"))) is not None
        ]
        return statistics.median(values) if values else None

    def seconds_left(self) -> float | None:
        """Returns the time left at the present speed; None where the run has ended or the speed is unknown."""
        rate = self.steps_per_second()
        if self.reason is not None or not rate:
            return None
        return max(0, self.total_steps - self.step) / rate

    def changes(self) -> list[tuple[str, Any, Any]]:
        """Returns (option, the default, its value) where they differ.

        An option unknown to this version has None as default.
        """
        found = []
        for key, value in self.config.items():
            default = BY_KEY[key].default if key in BY_KEY else None
            if not _same(default, value):
                found.append((key, default, value))
        return found


def read_run(folder: Path) -> RunData:
    """Reads the folder of a run.

    Raises:
      UserError: the folder has no run.
    """
    try:
        config = read_json(folder / "config.json")
        if not isinstance(config, dict):
            raise ValueError("it is not a JSON object")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} holds no run: its config.json cannot be read ({error}). Give the folder of a run."
        ) from None
    flat = flatten_config(config)
    rows = read_rows(folder / "metrics.jsonl")
    total, step = flat.get("train.steps"), int(rows[-1]["step"]) if rows else 0
    reason = ending(folder, step)
    return RunData(
        folder=folder,
        config=flat,
        environment=read_object(folder / "environment.json"),
        rows=rows,
        reason=reason,
        verdicts=judge_run(rows, int(total), reason) if is_number(total) else [],
        stretches=stretches(rows),
        remedies=read_remedies(folder / FILE),
        grids=_grids(folder / "samples"),
    )


def ending(folder: Path, step: int) -> str | None:
    """Returns the reason of the end of the run in `folder`, whose last log line is of `step`, as its summary has it.

    A summary older than the last log line is one of an earlier sitting and gives None, as does a damaged one.
    """
    summary = read_object(folder / "summary.json")
    reason, steps = summary.get("reason"), summary.get("steps")
    return reason if isinstance(reason, str) and is_number(steps) and steps >= step else None


def _grids(folder: Path) -> list[tuple[int, Path, Path | None]]:
    found = []
    for path in sorted(folder.glob("step_*.png")):
        if match := _GRID.fullmatch(path.name):
            scales = path.with_name(f"{path.stem}_scales.png")
            found.append((int(match[1]), path, scales if scales.exists() else None))
    return sorted(found)


def _same(default: Any, value: Any) -> bool:
    return (list(default) if isinstance(default, tuple) else default) == value


def _number(value: Any) -> float | None:
    """Returns a finite number, or None."""
    return float(value) if is_number(value) else None


def series_of(rows: Sequence[Row], *, points: int = ALL_POINTS) -> Series:
    """Returns name → {"x": steps, "y": values} of all numbers in the rows, thinned; None where a value was not finite.

    Args:
      rows: log lines.
      points: approximate number of points of all series together.
    """
    columns: dict[str, tuple[list[int], list[float]]] = {}
    for row in rows:
        for name, value in row.items():
            if name != "step" and (value is None or (isinstance(value, int | float) and value is not True)):
                x, y = columns.setdefault(name, ([], []))
                x.append(row["step"])
                y.append(math.nan if value is None else float(value))
    most = min(MOST_POINTS, max(100, points // max(len(columns), 1)))
    return {name: thinned(np.array(x), np.array(y), most) for name, (x, y) in sorted(columns.items())}


def thinned(x: np.ndarray, y: np.ndarray, most: int) -> dict[str, list[Any]]:
    """Returns at most `most` points of a series [n].

    They are the lowest and the highest of each stretch, so that no spike is lost.

    Args:
      x: [n] integers, rising.
      y: [n] float64; NaN stands for a value that was not finite, and one of each stretch is kept, as None.
      most: number of points, at least 6.
    """
    if len(x) > most:
        keep: set[int] = {0, len(x) - 1}
        for part in np.array_split(np.arange(len(x)), max(most // 3, 1)):
            values = y[part]
            holes = np.isnan(values)
            if holes.any():
                keep.add(int(part[int(np.argmax(holes))]))
            if not holes.all():
                keep |= {int(part[int(np.nanargmin(values))]), int(part[int(np.nanargmax(values))])}
        chosen = np.array(sorted(keep))
        x, y = x[chosen], y[chosen]
    digits = [float(f"{value:.5g}") if math.isfinite(value) else None for value in y.tolist()]
    return {"x": x.tolist(), "y": digits}
