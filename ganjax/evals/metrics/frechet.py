"""Mean and covariance of features in a stream, and the Fréchet distance between two sets of features; NumPy, float64.

Feature blocks are [n, D] and are forgotten once added, so 50,000 × 2,048 features cost two D × D matrices.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import linalg
from threadpoolctl import threadpool_limits

ROWS = 4096  # features turned into float64 at a time: 67 MB at 2,048 dimensions


@dataclass(frozen=True, eq=False)
class Gaussian:
    """The first two moments of a set of features.

    Attributes:
      count: number of features that were added.
      mean: [D] float64.
      covariance: [D, D] float64, with divisor count − 1.
    """

    count: int
    mean: np.ndarray
    covariance: np.ndarray


class Moments:
    """An accumulator of a `Gaussian`: `moments.add(block)` for every block, then `moments.result()`.

    Sums are taken about the first block's mean, which keeps the digits that Σxxᵀ − n·μμᵀ loses where the mean is
    large against the spread.
    """

    def __init__(self) -> None:
        self._count = 0
        self._shift = self._sum = self._products = np.zeros(0)

    @property
    def count(self) -> int:
        """The number of features added so far."""
        return self._count

    def add(self, features: np.ndarray, weights: np.ndarray | None = None) -> None:
        """Adds a block of features.

        Args:
          features: [n, D] real numbers.
          weights: [n] the times that each feature counts, integers of at least 0; 1 by default.

        Raises:
          ValueError: features that are not two-dimensional, of another D than before, or not finite.
        """
        if features.ndim != 2 or (self._count and features.shape[1] != len(self._sum)):
            raise ValueError(
                f"expected features of shape [n, {len(self._sum) or 'D'}], and got {features.shape}"
            )
        for start in range(0, len(features), ROWS):
            part = None if weights is None else weights[start : start + ROWS]
            self._add(features[start : start + ROWS].astype(np.float64), part)

    def _add(self, block: np.ndarray, weights: np.ndarray | None) -> None:
        if not np.isfinite(block).all():
            raise ValueError("expected finite features, and some are not")
        if self._count == 0:
            self._shift = block.mean(axis=0)
            self._sum = np.zeros(block.shape[1])
            self._products = np.zeros((block.shape[1], block.shape[1]), order="F")
        block -= self._shift
        if weights is not None:
            self._sum += weights @ block
            block *= np.sqrt(weights)[:, None]
        else:
            self._sum += block.sum(axis=0)
        # dsyrk fills one triangle: half the work of a general product. blockᵀ is Fortran-ordered, so nothing is copied.
        self._products = linalg.blas.dsyrk(1.0, block.T, beta=1.0, c=self._products, overwrite_c=1)
        self._count += len(block) if weights is None else int(weights.sum())

    def result(self) -> Gaussian:
        """Returns the moments of all features that were added.

        Raises:
          ValueError: fewer than two features.
        """
        if self._count < 2:
            raise ValueError(f"a covariance needs at least two features, and got {self._count}")
        upper = np.triu(self._products)
        products = upper + np.triu(upper, 1).T
        mean = self._sum / self._count
        covariance = (products - self._count * np.outer(mean, mean)) / (self._count - 1)
        return Gaussian(self._count, self._shift + mean, covariance)


def gaussian(features: np.ndarray | Iterable[np.ndarray]) -> Gaussian:
    """Returns the `Gaussian` of [N, D] features, or of blocks of them."""
    moments = Moments()
    for block in [features] if isinstance(features, np.ndarray) else features:
        moments.add(block)
    return moments.result()


def frechet_distance(p: Gaussian, q: Gaussian) -> float:
    """Returns ‖μ₁ − μ₂‖² + Tr(C₁ + C₂ − 2 (C₁^½ C₂ C₁^½)^½), at least 0 (Heusel et al. 2017, equation 6).

    C₁^½ C₂ C₁^½ has the eigenvalues of C₁C₂ and is symmetric, so both roots come from `eigh`: real at any rank,
    without the added ε·I that SciPy's `sqrtm` of C₁C₂ may want.

    Raises:
      ValueError: features of different dimensions.
    """
    if p.mean.shape != q.mean.shape:
        raise ValueError(f"expected features of one dimension, and got {p.mean.shape} and {q.mean.shape}")
    return FrechetTo(p)(q)


class FrechetTo:
    """The Fréchet distance to one reference, whose square root is computed once; see `frechet_distance`."""

    def __init__(self, reference: Gaussian) -> None:
        self._reference = reference
        with threadpool_limits(1, "blas"):  # threads that share a core make it ten times slower
            values, vectors = linalg.eigh(reference.covariance, driver="evd")
        self._root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T

    def __call__(self, other: Gaussian) -> float:
        """Returns the distance of `other` to the reference."""
        inner = self._root @ other.covariance @ self._root
        with threadpool_limits(1, "blas"):
            values = linalg.eigvalsh((inner + inner.T) / 2, driver="evd")
        trace = np.sqrt(np.maximum(values, 0.0)).sum()
        reference = self._reference
        gap = np.square(reference.mean - other.mean).sum()
        spread = np.trace(reference.covariance) + np.trace(other.covariance) - 2 * trace
        return float(max(0.0, gap + spread))

    def standard_error(self, features: np.ndarray, other: Gaussian) -> float:
        """Returns the distance's standard error, to first order in the weights of the samples.

        This is the infinitesimal jackknife (Efron 1982). With T = C₁^½ (C₁^½ C₂ C₁^½)^-½ C₁^½ the distance's derivative
        by the weight of a sample x is 2 (μ₂ − μ₁)·(x − μ₂) + (x − μ₂)ᵀ (1 − T) (x − μ₂), up to a constant. It takes one
        pass where a bootstrap takes many. The error is too small where the samples are as good as real ones, since the
        first order is zero there.

        Args:
          features: [n, D], n ≥ 2, the features that `other` was made of.
          other: their moments.
        """
        inner = self._root @ other.covariance @ self._root
        with threadpool_limits(1, "blas"):
            values, vectors = linalg.eigh((inner + inner.T) / 2, driver="evd")
        kept = values > 1e-12 * max(float(values[-1]), 1e-300)  # directions in which either set does not vary
        half = self._root @ vectors[:, kept] / values[kept] ** 0.25  # T = half halfᵀ
        direction = 2 * (other.mean - self._reference.mean)
        influence = np.empty(len(features))
        for start in range(0, len(features), ROWS):
            x = features[start : start + ROWS].astype(np.float64) - other.mean
            squares = np.square(x).sum(axis=1) - np.square(x @ half).sum(axis=1)
            influence[start : start + ROWS] = x @ direction + squares
        return float(influence.std(ddof=1) / np.sqrt(len(features)))
