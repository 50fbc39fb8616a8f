"""Judges the claims a study was made for, and the practice of stopping a run at a loss's first spike (lesson 2)."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ganjax.evals.monitor.verdicts import SPIKE
from ganjax.study.analysis import Analysis

Record = Mapping[str, Any]
Row = Mapping[str, Any]
LOSSES = ("loss/dis", "loss/gen")
BEFORE = 5  # log lines that say what is usual, before one can be a spike
CONFIRMED, REFUTED, UNSEEN = "confirmed", "refuted", "no effect seen"
OPPOSITE = {"better": "worse", "worse": "better"}


@dataclass(frozen=True)
class Claim:
    """A claim about a variant.

    Attributes:
      group, variant: those of the records.
      claim: the claim in a sentence; may be empty.
      expected: `better` or `worse` than the base.
      verdict: `confirmed`, `refuted`, `no effect seen` or `too few seeds`.
    """

    group: str
    variant: str
    claim: str
    expected: str
    verdict: str


def judge_claims(analysis: Analysis, records: Iterable[Record]) -> list[Claim]:
    """Returns the claims of variants with an expectation, in the order of the analysis, by the primary metric."""
    told = {record["variant"]: record for record in records}
    found = []
    for variant in analysis.variants:
        record = told.get(variant.name)
        comparison = variant.comparisons.get(analysis.primary)
        if record is None or comparison is None or not record.get("expected"):
            continue
        expected = record["expected"]
        verdict = {
            expected: CONFIRMED,
            OPPOSITE[expected]: REFUTED,
            "no difference seen": UNSEEN,
        }.get(comparison.verdict, comparison.verdict)
        found.append(Claim(variant.group, variant.name, record.get("claim", ""), expected, verdict))
    return found


@dataclass(frozen=True)
class Stopping:
    """The results of stopping at the first spike of a loss against going on, over all runs that were completed.

    Attributes:
      runs: number of runs with two evaluations or more.
      spiked: number of them in which a loss jumped before the last evaluation.
      lost: number of these that ended better than where they would have been stopped.
      at_spike, at_end: median of the metric at the last evaluation before the spike (the first one where there is none
        before), and at the end, over the runs that spiked; None without any.
      correlation: Spearman's ρ of each loss and the metric, turned so that more is better, over the evaluations of a
        run: the median over runs. A loss to stop by would be near -1.
    """

    runs: int
    spiked: int
    lost: int
    at_spike: float | None
    at_end: float | None
    correlation: dict[str, float | None]


def stopping(runs: Iterable[Sequence[Row]], metric: str, *, higher: bool) -> Stopping:
    """Compares stopping at the first spike of a loss with going on; see `Stopping`.

    Args:
      runs: the rows of `metrics.jsonl` of each run.
      metric: its name without `eval/`.
      higher: True if more of it is better.
    """
    sign = 1.0 if higher else -1.0
    count, ends = 0, []
    correlations: dict[str, list[float]] = {name: [] for name in LOSSES}
    for rows in runs:
        evaluated = [row for row in rows if row.get(f"eval/{metric}") is not None]
        if len(evaluated) < 2:
            continue
        count += 1
        values = [sign * float(row[f"eval/{metric}"]) for row in evaluated]
        for name in LOSSES:
            losses = [row.get(name) for row in evaluated]
            if None not in losses and (rho := spearman(losses, values)) is not None:
                correlations[name].append(rho)
        spike = first_spike(rows)
        if spike is not None and spike < evaluated[-1]["step"]:
            before = [value for row, value in zip(evaluated, values, strict=True) if row["step"] <= spike]
            ends.append((before[-1] if before else values[0], values[-1]))
    return Stopping(
        runs=count,
        spiked=len(ends),
        lost=sum(end > stopped for stopped, end in ends),
        at_spike=sign * statistics.median(stopped for stopped, _ in ends) if ends else None,
        at_end=sign * statistics.median(end for _, end in ends) if ends else None,
        correlation={
            name: statistics.median(found) if found else None for name, found in correlations.items()
        },
    )


def first_spike(rows: Sequence[Row]) -> int | None:
    """Returns the step of the first log line with a spike of a loss.

    A spike is `SPIKE` robust standard deviations off the loss's earlier median.
    """
    for at in range(BEFORE, len(rows)):
        for name in LOSSES:
            earlier = [float(row[name]) for row in rows[:at] if row.get(name) is not None]
            now = rows[at].get(name)
            if now is None or len(earlier) < BEFORE:
                continue
            usual = statistics.median(earlier)
            scatter = 1.4826 * statistics.median(abs(value - usual) for value in earlier)
            if abs(float(now) - usual) > SPIKE * max(scatter, 1e-3 * abs(usual)):
                return int(rows[at]["step"])
    return None


def spearman(x: Sequence[Any], y: Sequence[float]) -> float | None:
    """Returns Spearman's rank correlation; None where one side does not vary, or for fewer than three pairs."""
    if len(x) < 3 or np.ptp(np.asarray(x, np.float64)) == 0 or np.ptp(y) == 0:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(x, y).statistic)


def claims_table(claims: Sequence[Claim], stopped: Stopping | None, metric: str) -> str:
    """Returns the claims and the results of stopping as Markdown."""
    lines = []
    if claims:
        lines += ["| Lesson | Variant | Claim | Expected | Found |", "|---|---|---|---|---|"]
        lines += [
            f"| {c.group} | {c.variant} | {c.claim or '–'} | {c.expected} | {c.verdict} |" for c in claims
        ]
    if stopped is not None and stopped.runs:
        lines += ["", *stopping_words(stopped, metric)]
    return "\n".join(lines) + "\n"


def stopping_words(stopped: Stopping, metric: str) -> list[str]:
    """Returns sentences about stopping at a spike."""
    rho = ", ".join(
        f"{'–' if value is None else f'{value:+.2f}'} for `{name}`"
        for name, value in stopped.correlation.items()
    )
    lines = [f"In {stopped.spiked} of {stopped.runs} runs a loss spiked before the end."]
    if stopped.spiked:
        lines[0] += (
            f" Of these, {stopped.lost} ended better than at the evaluation before the spike: the median of `{metric}` "
            f"there was {stopped.at_spike:.3g}, and {stopped.at_end:.3g} at the end."
        )
    return [
        *lines,
        f"Rank correlation of loss and quality in a run, median of the runs: {rho} (−1 would be a loss to stop by).",
    ]
