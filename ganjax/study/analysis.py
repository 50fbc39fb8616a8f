"""Analyses the finished runs of a study: the conclusions they support, and those they do not.

Runs of the same seed are pairs. The rules behind `Comparison.verdict`:

- A variant is *better* or *worse* than the base when the p-value of its differences, corrected for the number of
  comparisons (Holm 1979), is below .05, and their 95 % interval leaves out zero, and, with fewer than 15 seeds, no
  single seed carries it: without any one of them an uncorrected t-test still finds it. (Where nothing is there, a plain
  bootstrap of ten values leaves out zero once in ten studies; a single seed decides many of these.)
- Otherwise it is *no difference seen* if such a study finds a difference of two standard deviations of the base four
  times out of five, and *too few seeds* if it does not. Fewer than five seeds are always too few.

The test is that of random signs, which assumes no more than that the two runs of a pair could be exchanged. With few
seeds its smallest p-value, 2^(1 - n), cannot pass the correction; a paired t-test takes its place, which trusts the
differences to be about normal. A failed run has no difference. Where runs failed, all runs are ranked, failed ones
below all others, and the ranks exchanged at random between the two variants (Lachin 1999). The same test is used where
all differences are alike. With failed runs, a verdict needs the ranks, and the interval of the other pairs not to say
the opposite; and a variant with more failures than the base is never better.

Intervals are bootstraps over seeds (BCa, Efron 1987), widened for small n as by Hesterberg (2015) to the level
1 - 2 Φ(-t √(n / (n - 1))). Below five values they are Student's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ganjax.study import inference
from ganjax.study.inference import ALPHA, BETTER, COARSE, FEWEST, NO_DIFFERENCE, SOLID, TOO_FEW, WORSE
from ganjax.study.inference import Interval as Interval
from ganjax.study.inference import Spread as Spread

Record = Mapping[str, Any]
Metric = Mapping[str, str]


@dataclass(frozen=True)
class Comparison:
    """A comparison of a variant with the base in one metric, on the seeds that both have.

    Attributes:
      pairs: seeds at which both have a value.
      failed: seeds at which either run failed; they count in `improvement` and `p`, not in `difference`.
      difference: mean of variant - base, in the metric's unit; None where there are no pairs.
      interval: 95 % interval of `difference`; None where pairs < 2.
      effect, effect_interval: the same in standard deviations of the base, positive is better; None where the base
        does not vary.
      improvement: the chance that a run of the variant beats one of the base, a failed run beaten by all that did not
        fail and ties counting half (Mann & Whitney's area; Agarwal et al. 2021); None without runs.
      p: two-sided p-value, uncorrected; None where there is nothing to test.
      p_corrected: p-value after Holm, over the comparisons of this metric.
      test: `signs`, `t` or `ranks`; empty where there is nothing to test.
      detectable: the difference, in standard deviations of the base, that so many independent pairs show four times out
        of five after correction; None where pairs < 2.
      verdict: one of `better`, `worse`, `no difference seen`, `too few seeds`.
    """

    pairs: int
    failed: int
    difference: float | None
    interval: Interval | None
    effect: float | None
    effect_interval: Interval | None
    improvement: float | None
    p: float | None
    p_corrected: float | None
    test: str
    detectable: float | None
    verdict: str


@dataclass(frozen=True)
class Variant:
    """The findings about one variant.

    Attributes:
      name, group: those of the records.
      base: True if it is the base.
      differences: option → (the base's value, its own).
      runs, completed, diverged, failed, collapsed: counts; `failed` are those that ended with an error.
      failure_interval, collapse_interval: 95 % intervals (Wilson 1927) of the share of runs that diverged or failed,
        and of those that collapsed; None without runs.
      seconds: median time of completed runs, None without any.
      cost: `seconds` as a multiple of the base's.
      metrics: name → spread.
      comparisons: name → comparison; empty for the base.
      median_seed: seed of the run in the middle of the primary metric, for pictures; None without one.
    """

    name: str
    group: str
    base: bool
    differences: dict[str, Any]
    runs: int
    completed: int
    diverged: int
    failed: int
    collapsed: int
    failure_interval: Interval | None
    collapse_interval: Interval | None
    seconds: float | None
    cost: float | None
    metrics: dict[str, Spread]
    comparisons: dict[str, Comparison]
    median_seed: int | None


@dataclass(frozen=True)
class Analysis:
    """The analysis of a study.

    Attributes:
      metrics: `{"name": …, "better": "higher" | "lower"}`, the primary one first.
      base: name of the base.
      variants: the base first, then in the order of the records.
      comparisons: number of comparisons that a metric's p-values are corrected for; of the largest group, where each
        group is a family of its own.
      corrected_within: `study` or `group`.
    """

    metrics: list[dict[str, str]]
    base: str
    variants: list[Variant]
    comparisons: int
    corrected_within: str

    @property
    def primary(self) -> str:
        """The metric that the study was made for."""
        return self.metrics[0]["name"]

    def to_json(self) -> dict[str, Any]:
        """Returns the analysis as dicts, lists, numbers and None."""
        return asdict(self)


@dataclass(frozen=True)
class _Runs:
    """The runs of one variant by seed."""

    by_seed: Mapping[int, Record]

    @property
    def records(self) -> list[Record]:
        return list(self.by_seed.values())

    @property
    def group(self) -> str:
        return next((str(record.get("group", "")) for record in self.records), "")

    @property
    def failed_seeds(self) -> set[int]:
        return {seed for seed, record in self.by_seed.items() if record["status"] != "completed"}

    def values(self, metric: str) -> dict[int, float]:
        """Returns seed → value, of the completed runs that have a finite value."""
        found = {
            seed: (record.get("metrics") or {}).get(metric)
            for seed, record in self.by_seed.items()
            if record["status"] == "completed"
        }
        return {s: float(v) for s, v in found.items() if v is not None and math.isfinite(float(v))}

    def ranked(self, metric: str, sign: float) -> np.ndarray:
        """Returns the values turned so that higher is better, -inf for each failed run."""
        values = [sign * value for value in self.values(metric).values()]
        return np.array(values + [-math.inf] * len(self.failed_seeds))

    def seconds(self) -> float | None:
        values = [
            float(r["seconds"]) for r in self.records if r["status"] == "completed" and r.get("seconds")
        ]
        return float(np.median(values)) if values else None


def analyse(
    records: Iterable[Record], metrics: Sequence[Metric], base: str, *, correct_within: str = "study"
) -> Analysis:
    """Compares each variant with the base.

    Args:
      records: records of finished runs, as in `results.jsonl`; of two with one variant and seed the later one counts.
        Values that are None or not finite are missing.
      metrics: name and direction (`higher` or `lower`), the primary one first; at least one.
      base: the variant that the others are compared with. It may have no runs yet.
      correct_within: p-values are corrected over all comparisons of a metric in the `study`, or over those of a
        `group`, where each group is a question of its own.
    """
    runs: dict[str, dict[int, Record]] = {base: {}}
    for record in records:
        runs.setdefault(str(record["variant"]), {})[int(record["seed"])] = record
    of = {name: _Runs(by_seed) for name, by_seed in runs.items()}
    families: dict[str, list[str]] = {}
    for name, variant in of.items():
        if name != base:
            families.setdefault(variant.group if correct_within == "group" else "", []).append(name)
    compared: dict[str, dict[str, Comparison]] = {name: {} for name in of}
    for family in families.values():
        for metric in metrics:
            found = _compare_all([of[name] for name in family], of[base], metric)
            for name, comparison in zip(family, found, strict=True):
                compared[name][metric["name"]] = comparison
    return Analysis(
        metrics=[dict(metric) for metric in metrics],
        base=base,
        variants=[_variant(name, of[name], of[base], metrics, compared[name]) for name in of],
        comparisons=max((len(family) for family in families.values()), default=0),
        corrected_within=correct_within,
    )


def _variant(
    name: str, runs: _Runs, base: _Runs, metrics: Sequence[Metric], comparisons: dict[str, Comparison]
) -> Variant:
    counts = [record["status"] for record in runs.records]
    collapsed = sum(bool(record.get("collapsed")) for record in runs.records)
    seconds, usual = runs.seconds(), base.seconds()
    primary = runs.values(metrics[0]["name"])
    ordered = sorted(primary, key=lambda seed: (primary[seed], seed))
    first: Record = next(iter(runs.records), {})
    return Variant(
        name=name,
        group=runs.group,
        base=runs is base,
        differences=dict(first.get("differences") or {}),
        runs=len(counts),
        completed=counts.count("completed"),
        diverged=counts.count("diverged"),
        failed=counts.count("failed"),
        collapsed=collapsed,
        failure_interval=inference.share_interval(len(runs.failed_seeds), len(counts)),
        collapse_interval=inference.share_interval(collapsed, len(counts)),
        seconds=seconds,
        cost=seconds / usual if seconds is not None and usual else None,
        metrics={
            metric["name"]: inference.spread(runs.values(metric["name"]).values()) for metric in metrics
        },
        comparisons=comparisons,
        median_seed=ordered[(len(ordered) - 1) // 2] if ordered else None,
    )


@dataclass(frozen=True)
class _Evidence:
    """A comparison before correction; signs are turned so that positive is better."""

    differences: np.ndarray
    failed: set[int]
    more_failures: bool
    improvement: float | None
    p: float | None
    test: str
    sign: float
    std: float | None


def _compare_all(variants: Sequence[_Runs], base: _Runs, metric: Metric) -> list[Comparison]:
    """Compares all variants with the base in one metric; the comparisons are corrected together."""
    evidence = [_evidence(runs, base, metric, len(variants)) for runs in variants]
    corrected = inference.holm([found.p for found in evidence])
    return [_comparison(found, p, len(variants)) for found, p in zip(evidence, corrected, strict=True)]


def _evidence(runs: _Runs, base: _Runs, metric: Metric, comparisons: int) -> _Evidence:
    name, sign = metric["name"], 1.0 if metric["better"] == "higher" else -1.0
    ours, theirs = runs.values(name), base.values(name)
    seeds = sorted(ours.keys() & theirs.keys())
    differences = sign * np.array([ours[seed] - theirs[seed] for seed in seeds], np.float64)
    rounding = 1e-9 * max((abs(value) for value in [*ours.values(), *theirs.values()]), default=0.0)
    differences[np.abs(differences) <= rounding] = 0.0
    failed = (runs.failed_seeds | base.failed_seeds) & runs.by_seed.keys() & base.by_seed.keys()
    ranked = runs.ranked(name, sign), base.ranked(name, sign)
    if not failed and len(seeds) and not differences.any():
        tested: tuple[float, str] | None = (1.0, "signs")
    elif failed or (len(seeds) > 1 and inference.alike(differences)):
        tested = inference.test_ranks(*ranked)
    else:
        tested = inference.test_pairs(differences, comparisons)
    values = np.array(list(theirs.values()))
    return _Evidence(
        differences=differences,
        failed=failed,
        more_failures=len(runs.failed_seeds & failed) > len(base.failed_seeds & failed),
        improvement=inference.improvement(*ranked),
        p=tested[0] if tested else None,
        test=tested[1] if tested else "",
        sign=sign,
        std=None if inference.alike(values) else float(values.std(ddof=1)),
    )


def _comparison(found: _Evidence, p_corrected: float | None, comparisons: int) -> Comparison:
    interval = inference.mean_interval(found.differences)
    mean = float(found.differences.mean()) if len(found.differences) else None
    bounds = None if interval is None else sorted((found.sign * interval[0], found.sign * interval[1]))
    within = found.std and interval and (interval[0] / found.std, interval[1] / found.std)
    visible = inference.detectable(len(found.differences), comparisons)
    return Comparison(
        pairs=len(found.differences),
        failed=len(found.failed),
        difference=None if mean is None else found.sign * mean,
        interval=None if bounds is None else (bounds[0], bounds[1]),
        effect=mean / found.std if found.std and mean is not None else None,
        effect_interval=within or None,
        improvement=found.improvement,
        p=found.p,
        p_corrected=p_corrected,
        test=found.test,
        detectable=visible,
        verdict=_verdict(found, interval, p_corrected, visible),
    )


def _verdict(found: _Evidence, interval: Interval | None, p: float | None, visible: float | None) -> str:
    """Returns the verdict by the rules at the head of this module."""
    pairs = len(found.differences)
    if pairs + len(found.failed) < FEWEST:
        return TOO_FEW
    if p is not None and p < ALPHA:
        above, below = (interval[0] > 0, interval[1] < 0) if interval else (False, False)
        if found.failed and found.improvement is not None:
            if found.improvement > 0.5 and not below and not found.more_failures:
                return BETTER
            if found.improvement < 0.5 and not above:
                return WORSE
        elif (above or below) and (pairs >= SOLID or inference.lasts(found.differences)):
            return BETTER if above else WORSE
    return NO_DIFFERENCE if pairs >= FEWEST and visible is not None and visible <= COARSE else TOO_FEW
