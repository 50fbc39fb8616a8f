"""Intervals by the bootstrap (Efron 1979): the range in which a metric would move had other samples been drawn.

All intervals are value ± 1.96 standard errors. Resampled sets hold copies, which move metrics such as FID upwards, so
the percentiles of the resampled values need not even contain the value. The reference set is fixed: it is a part of the
protocol, not of the chance. An interval covers the normal distribution from 2.5 to 97.5 %, for each number alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Z = 1.959964  # standard errors on either side of 95 %
REPEATS = 200
Interval = tuple[float, float]


def bootstrap(
    statistic: Callable[[np.ndarray], float], n: int, value: float, *, seed: int, repeats: int = REPEATS
) -> Interval:
    """Returns the 95 % interval of a statistic of n samples.

    Args:
      statistic: takes the number of times each sample was drawn, integers [n] of sum n; returns the statistic.
      n: number of samples.
      value: value of the statistic with each sample once.
      seed: seed of the draws.
      repeats: number of sets to draw, at least 2.
    """
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(n, np.full(n, 1 / n), size=repeats)
    return around(value, float(np.std([statistic(counts) for counts in draws], ddof=1)))


def mean_interval(values: np.ndarray, *, seed: int, repeats: int = REPEATS) -> Interval:
    """Returns the `bootstrap` interval of the mean of [n] values."""
    floats = np.asarray(values, np.float64)

    def mean(counts: np.ndarray) -> float:
        return float(counts @ floats) / len(floats)

    return bootstrap(mean, len(floats), float(floats.mean()), seed=seed, repeats=repeats)


def subsampling_interval(estimates: np.ndarray, size: int, n: int) -> Interval:
    """Returns the 95 % interval of the mean of estimates from subsets of n samples (Politis & Romano 1994).

    Its error has two parts: the spread among subsets, scaled by √(size / n) to that of the whole set, and the error of
    an average of so few subsets.

    Args:
      estimates: [S], S ≥ 2.
      size: size of each subset.
      n: size of the whole set, at least `size`.
    """
    spread = float(np.std(estimates, ddof=1))
    return around(float(np.mean(estimates)), spread * float(np.sqrt(size / n + 1 / len(estimates))))


def around(value: float, error: float) -> Interval:
    """Returns the interval value ± 1.96 errors."""
    return value - Z * error, value + Z * error
