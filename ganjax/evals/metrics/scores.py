"""The kernel distance and the Inception score, on features and logits; NumPy, float64."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

SUBSETS, SUBSET_SIZE = 100, 1000  # of KID, as clean-fid takes them
SPLITS = 10  # of the Inception score


def polynomial_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the unbiased squared MMD with the kernel (x·y / D + 1)³. It may be negative.

    The source is Bińkowski et al. 2018, equation 4.

    Args:
      x: [M, D], M ≥ 2.
      y: [N, D], N ≥ 2.
    """
    x, y = x.astype(np.float64), y.astype(np.float64)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        values: np.ndarray = (a @ b.T / a.shape[1] + 1.0) ** 3
        return values

    def within(a: np.ndarray) -> float:  # the mean over pairs of two different samples
        k = kernel(a, a)
        return float((k.sum() - np.trace(k)) / (len(a) * (len(a) - 1)))

    return within(x) + within(y) - 2 * float(kernel(x, y).mean())


def kid_subsets(
    m: int, n: int, *, seed: int, subsets: int = SUBSETS, size: int = SUBSET_SIZE
) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Draws the subsets that KID averages over: indices of [M] and of [N] features, without replacement.

    A subset has `size` members, or half of the smaller set where that is less. Subsets that share most of their members
    would say little about the spread.
    """
    size = max(2, min(size, m // 2, n // 2))
    rng = np.random.default_rng(seed)
    for _ in range(subsets):
        yield rng.choice(m, size, replace=False), rng.choice(n, size, replace=False)


def kid_estimates(
    x: np.ndarray, y: np.ndarray, subsets: Iterable[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """Returns the `polynomial_mmd` of each subset, float64 [S]; KID is their mean (Bińkowski et al. 2018, section 4.1).

    Args:
      x: [M, D].
      y: [N, D].
      subsets: pairs of indices into x and y, as `kid_subsets` gives them.
    """
    return np.array([polynomial_mmd(x[i], y[j]) for i, j in subsets])


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the probabilities, float64 [N, K], of logits [N, K]."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    weights = np.exp(shifted)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def inception_score(logits: np.ndarray, splits: int = SPLITS) -> tuple[float, float]:
    """Returns exp(mean KL(p(y|x) ‖ p(y))): mean and standard deviation over splits (Salimans et al. 2016, section 4).

    Args:
      logits: [N, K], N ≥ splits, in any order that does not go by class: the splits are its consecutive parts.
      splits: number of splits.

    Returns:
      The mean, from 1 to K, and the standard deviation (divisor: splits).
    """
    probabilities, n = softmax(logits), len(logits)
    scores = [score_of(probabilities[i * n // splits : (i + 1) * n // splits]) for i in range(splits)]
    return float(np.mean(scores)), float(np.std(scores))


def score_of(probabilities: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Returns exp of the mean KL divergence of the rows [N, K] from their mean; a row counts `weights` [N] times."""
    marginal = np.average(probabilities, axis=0, weights=weights)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(probabilities > 0, probabilities * np.log(probabilities / marginal), 0.0)
    return float(np.exp(np.average(terms.sum(axis=1), weights=weights)))
