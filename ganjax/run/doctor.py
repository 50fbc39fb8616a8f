"""`ganjax doctor`: reports the live monitor's verdicts on a run, finished or not, with their evidence and history."""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ganjax.config.recipe import from_workdir
from ganjax.evals.monitor import HEALTHY, Verdict, judge_run, read_rows, stretches
from ganjax.evals.monitor.verdicts import DIVERGED, Row, measured
from ganjax.run.recovery import FILE, Remedy, read_remedies
from ganjax.run.report.run_data import ending
from ganjax.runtime.errors import UserError

WIDTH = 100
# Signals worth a line, what they are, and what one would like to see.
SIGNALS = {
    "monitor/coverage": ("share of the data that samples reach", "near 1"),
    "monitor/diversity": ("variety of samples, against the data's", "near 1"),
    "monitor/quality": ("share of samples that lie on the data", "towards 1"),
    "monitor/ms_ssim": ("similarity of pairs of samples", "far below 1"),
    "monitor/separation": ("share of pairs that D orders right", "above .5, below 1"),
    "monitor/memorised": ("the same, of training reals against unseen ones", "near .5"),
    "dis/accuracy": ("share of D's answers with the right sign", ""),
    "loss/dis": ("D's loss", "no target: see lesson 2"),
    "loss/gen": ("G's loss", "no target: see lesson 2"),
    "grad_norm/gen": ("norm of G's gradient", "neither 0 nor growing"),
    "grad_norm/dis": ("norm of D's gradient", "not growing"),
    "update_ratio/gen": ("change of G's weights in a step", "about .001"),
    "update_ratio/dis": ("change of D's weights in a step", "about .001"),
    "sigma/dis/log_product": ("log of the product of D's σ, before normalisation", "not growing for ever"),
    "sigma/gen/log_product": ("log of the product of G's σ, before normalisation", "not growing for ever"),
}


@dataclass(frozen=True)
class Findings:
    """The findings about a run.

    Attributes:
      workdir: folder of the run.
      state: the state of the run, in words.
      step, total_steps: its last step, and its length.
      verdicts: verdicts at its last measurement; empty where it is healthy.
      history: (first step, last step, verdict) of each stretch of log lines with the same verdict.
      signals: the last known value of each signal.
      remedies: restarts and rollbacks so far.
      measured: True if the run has the monitor's own numbers, not the losses alone.
      asked: True if its config asks for them (`monitor.samples`).
    """

    workdir: Path
    state: str
    step: int
    total_steps: int
    verdicts: list[Verdict]
    history: list[tuple[int, int, str]]
    signals: dict[str, float]
    remedies: list[Remedy]
    measured: bool
    asked: bool

    def to_json(self) -> dict[str, Any]:
        """Returns the findings as JSON, for `--json`."""
        return {
            **asdict(self),
            "workdir": str(self.workdir),
            "verdicts": [verdict.to_json() for verdict in self.verdicts],
        }


def examine(workdir: Path) -> Findings:
    """Reads the log of the run in `workdir`; nothing is computed on a device.

    Raises:
      UserError: there is no run in the folder, or it has logged nothing.
    """
    config = from_workdir(workdir)
    rows = read_rows(workdir / "metrics.jsonl")
    step = int(rows[-1]["step"]) if rows else 0
    reason = ending(workdir, step)
    if not rows and reason != DIVERGED:
        raise UserError(
            f"{workdir} has no log lines yet; they come every {config.log.every_steps} steps "
            "(log.every_steps). Ask again later."
        )
    total = config.train.steps
    return Findings(
        workdir=workdir,
        state=reason or "running or killed",
        step=step,
        total_steps=total,
        verdicts=judge_run(rows, total, reason),
        history=[(part.first, part.last, part.verdict) for part in stretches(rows)],
        signals={name: value for name in SIGNALS if (value := _last(rows, name)) is not None},
        remedies=read_remedies(workdir / FILE),
        measured=any(measured(row) for row in rows),
        asked=config.monitor.samples > 0,
    )


def _last(rows: list[Row], name: str) -> float | None:
    return next((float(row[name]) for row in reversed(rows) if row.get(name) is not None), None)


def told(findings: Findings) -> str:
    """Returns the findings as text for a person."""
    f = findings
    lines = [f"{f.workdir}: {f.state}, step {f.step} of {f.total_steps}", ""]
    if not f.verdicts:
        lines.append(f"Verdict: {HEALTHY}")
    for verdict in f.verdicts:
        mark = "no reason to stop" if verdict.severity == "fine" else f"since step {verdict.since}"
        lines.append(f"Verdict: {verdict.name} ({mark})")
        lines += _wrapped(f"Evidence: {verdict.evidence}.")
        lines += _wrapped(verdict.advice)
        lines += _wrapped(f"Lesson {verdict.lesson}.")
    if not f.measured:
        why = "nothing has been measured yet" if f.asked else "monitor.samples=0"
        lines += _wrapped(f"Only the losses were logged ({why}): collapse cannot be seen in them.")
    lines += ["", "Last measurements"]
    width = max((len(SIGNALS[name][0]) for name in f.signals), default=0)
    for name, value in f.signals.items():
        meaning, wish = SIGNALS[name]
        lines.append(f"  {meaning:<{width}}  {value:>9.4g}  {wish}".rstrip())
    if len(f.history) > 1:
        lines += ["", "History"]
        lines += [f"  steps {first} to {last}: {verdict}" for first, last, verdict in f.history]
    if f.remedies:
        lines += ["", "Remedies"]
        for r in f.remedies:
            where = f"back to step {r.to_step}" if r.to_step else "from scratch"
            rates = f"learning rates × {r.rate_gen:g} (G) and {r.rate_dis:g} (D)"
            lines.append(f"  {r.number}. at step {r.step}, {r.verdict}: {where}, {rates}")
    return "\n".join(lines)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  ")
