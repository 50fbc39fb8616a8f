"""Intervals, tests and verdicts for a handful of seeds. `analysis.py` states the rules."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

ALPHA = 0.05
FEWEST = 5  # seeds, below which no verdict is given
SOLID = 15  # seeds, from which on a single one cannot carry a verdict far
COARSE = 2.0  # standard deviations of the base: a study that could not see even this has too few seeds
POWER = 0.8
RESAMPLES = 9999

BETTER, WORSE, NO_DIFFERENCE, TOO_FEW = "better", "worse", "no difference seen", "too few seeds"

Interval = tuple[float, float]


@dataclass(frozen=True)
class Spread:
    """The distribution of one metric over a variant's runs that ended well and have a value.

    Attributes:
      n: number of values.
      mean, median: None where n = 0.
      std: sample standard deviation, None where n < 2.
      interval: 95 % interval of the mean; None where n < 2.
    """

    n: int
    mean: float | None
    median: float | None
    std: float | None
    interval: Interval | None


def spread(values: Iterable[float]) -> Spread:
    """Describes finite values; there may be none."""
    x = np.asarray(sorted(values), np.float64)
    if not len(x):
        return Spread(0, None, None, None, None)
    std = float(x.std(ddof=1)) if len(x) > 1 else None
    return Spread(len(x), float(x.mean()), float(np.median(x)), std, mean_interval(x))


def alike(x: np.ndarray) -> bool:
    """Returns True if [n] values differ by no more than rounding; also for no value and for one."""
    return not len(x) or bool(np.ptp(x) <= 1e-9 * float(np.abs(x).max()))


def mean_interval(x: np.ndarray) -> Interval | None:
    """Returns the 95 % interval of the mean of float64 [n] values; None where n < 2, a point where all are alike."""
    n = len(x)
    if n < 2:
        return None
    mean = float(x.mean())
    if alike(x):
        return mean, mean
    t = float(stats.t.ppf(0.975, n - 1))
    if n >= FEWEST:
        level = 1 - 2 * float(stats.norm.sf(t * math.sqrt(n / (n - 1))))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where BCa is degenerate it warns and is NaN
            found = stats.bootstrap(
                (x,), np.mean, n_resamples=RESAMPLES, confidence_level=level, method="BCa", rng=0
            ).confidence_interval
        if math.isfinite(found.low) and math.isfinite(found.high):
            return float(found.low), float(found.high)
    half = t * float(x.std(ddof=1)) / math.sqrt(n)
    return mean - half, mean + half


def share_interval(count: int, of: int) -> Interval | None:
    """Returns the 95 % interval of the share count / of (Wilson 1927); None where `of` is 0."""
    if not of:
        return None
    found = stats.binomtest(count, of).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def improvement(ours: np.ndarray, theirs: np.ndarray) -> float | None:
    """Returns the share of pairs of [n] and [m] values in which ours is higher.

    Ties count half. The result is None without values.
    """
    if not len(ours) or not len(theirs):
        return None
    a, b = ours[:, None], theirs[None, :]
    return float(np.mean((a > b) + 0.5 * (a == b)))


def test_pairs(differences: np.ndarray, comparisons: int) -> tuple[float, str] | None:
    """Returns the two-sided p-value of [n] differences that are not alike, and `signs` or `t`; None where n < 2.

    Random signs are used where their smallest p-value, 2^(1 - n), passes the correction for so many comparisons.
    """
    n = len(differences)
    if n < 2:
        return None
    if 2.0 ** (1 - n) * max(comparisons, 1) > ALPHA:
        return float(stats.ttest_1samp(differences, 0.0).pvalue), "t"
    found = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", vectorized=True, n_resamples=RESAMPLES, rng=0
    )
    return float(found.pvalue), "signs"


def test_ranks(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, str] | None:
    """Returns the two-sided p-value of the rank sum of [n] against [m] values, and the test's name.

    Failed runs have the value -inf. The result is None where one side is empty.
    """
    if not len(ours) or not len(theirs):
        return None
    ranks = stats.rankdata(np.concatenate([ours, theirs]))
    if alike(ranks):
        return 1.0, "ranks"

    def gap(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        return np.asarray(a.mean(axis=axis) - b.mean(axis=axis))

    found = stats.permutation_test(
        (ranks[: len(ours)], ranks[len(ours) :]),
        gap,
        permutation_type="independent",
        vectorized=True,
        n_resamples=RESAMPLES,
        rng=0,
    )
    return float(found.pvalue), "ranks"


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Returns p-values corrected for their number (Holm 1979).

    None means nothing to test; it stays and is not counted.
    """
    order = sorted((value, index) for index, value in enumerate(p) if value is not None)
    corrected: list[float | None] = [None] * len(p)
    reached = 0.0
    for rank, (value, index) in enumerate(order):
        reached = max(reached, min(1.0, value * (len(order) - rank)))
        corrected[index] = reached
    return corrected


@functools.cache
def detectable(pairs: int, comparisons: int) -> float | None:
    """Returns the smallest difference that a paired t-test finds with a chance of `POWER`.

    The difference is in standard deviations of one variant. Pairs are taken to be independent, and the correction to be
    the strictest that Holm's has. The result is None where pairs < 2.
    """
    if pairs < 2:
        return None
    limit = float(stats.t.isf(ALPHA / max(comparisons, 1) / 2, pairs - 1))

    def lacking(effect: float) -> float:
        shift = effect * math.sqrt(pairs / 2)  # the standard deviation of a difference of two is √2 of theirs
        return float(stats.nct.sf(limit, pairs - 1, shift)) - POWER

    high = 1.0
    while lacking(high) < 0 and high < 1e4:
        high *= 2
    return float(optimize.brentq(lacking, 1e-6, high, rtol=1e-4)) if high < 1e4 else None


def lasts(differences: np.ndarray) -> bool:
    """Returns True if a t-test of [n ≥ 3] differences finds them without any one of them."""
    for index in range(len(differences)):
        rest = np.delete(differences, index)
        if not alike(rest) and stats.ttest_1samp(rest, 0.0).pvalue >= ALPHA:
            return False
    return True
