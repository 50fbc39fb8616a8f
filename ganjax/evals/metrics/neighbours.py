"""Metrics made of distances to nearest neighbours, in blocks of bounded memory; NumPy, float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

BLOCK_BYTES = 64 * 2**20  # of a block of distances
PRECISION_K, DENSITY_K = 3, 5  # neighbours of precision and recall, and of density and coverage


def square_distances(
    x: np.ndarray, y: np.ndarray, block_bytes: int = BLOCK_BYTES
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields ‖xᵢ − yⱼ‖² for one block of rows i at a time, with the slice of those rows.

    Args:
      x: [M, D].
      y: [N, D].
      block_bytes: size of a block [rows, N]; a block has at least one row.
    """
    center = y.mean(axis=0, dtype=np.float64)  # distances stay, and large common offsets lose their rounding
    x, y = x - center, y - center
    lengths = np.square(y).sum(axis=1)
    rows = max(1, block_bytes // (8 * max(1, len(y))))
    for start in range(0, len(x), rows):
        part = x[start : start + rows]
        distances = part @ y.T
        distances *= -2.0
        distances += np.square(part).sum(axis=1)[:, None]
        distances += lengths
        yield slice(start, start + len(part)), np.maximum(distances, 0.0, out=distances)


def squared_radii(x: np.ndarray, *ks: int, block_bytes: int = BLOCK_BYTES) -> np.ndarray:
    """Returns each sample's squared distance to its k-th nearest other sample, float64 [k's, N].

    Here x is [N, D] and N exceeds every k.
    """
    radii = np.empty((len(ks), len(x)))
    for rows, distances in square_distances(x, x, block_bytes):
        own = np.arange(len(distances))
        distances[own, rows.start + own] = 0.0  # rounding aside, which could rank another one first
        radii[:, rows] = np.partition(distances, ks, axis=1)[:, ks].T  # place 0 is the sample itself
    return radii


@dataclass(frozen=True, eq=False)
class Manifolds:
    """The contribution of each sample; the metrics are means of these.

    Attributes:
      precision: [M] bool, the fake lies within the radius of some real (Kynkäänniemi et al. 2019, eq. 1 and 2).
      recall: [N] bool, the real lies within the radius of some fake.
      density: [M] float, number of reals whose radius holds the fake, over k (Naeem et al. 2020, eq. 4).
      coverage: [N] bool, the radius of the real holds some fake (Naeem et al. 2020, eq. 5).
    """

    precision: np.ndarray
    recall: np.ndarray
    density: np.ndarray
    coverage: np.ndarray


def manifolds(
    reals: np.ndarray,
    fakes: np.ndarray,
    *,
    precision_k: int = PRECISION_K,
    density_k: int = DENSITY_K,
    real_radii: np.ndarray | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Manifolds:
    """Returns precision, recall, density and coverage, sample by sample.

    Args:
      reals: [N, D], N > both k.
      fakes: [M, D], M > precision_k.
      precision_k: neighbours that make the radii of precision and recall.
      density_k: neighbours that make the radii of density and coverage.
      real_radii: `squared_radii(reals, precision_k, density_k)` where they are known, [2, N].
      block_bytes: size of a block of distances.

    Raises:
      ValueError: too few samples.
    """
    most = max(precision_k, density_k)
    if len(reals) <= most or len(fakes) <= precision_k:
        raise ValueError(
            f"radii to {most} neighbours need more samples than {len(reals)} reals and {len(fakes)} fakes"
        )
    if real_radii is None:
        real_radii = squared_radii(reals, precision_k, density_k, block_bytes=block_bytes)
    close, wide = real_radii
    (fake_radii,) = squared_radii(fakes, precision_k, block_bytes=block_bytes)
    precision, density = np.zeros(len(fakes), bool), np.zeros(len(fakes))
    recall, coverage = np.zeros(len(reals), bool), np.zeros(len(reals), bool)
    for rows, distances in square_distances(reals, fakes, block_bytes):
        precision |= (distances < close[rows, None]).any(axis=0)
        density += (distances < wide[rows, None]).sum(axis=0)
        recall[rows] = (distances < fake_radii).any(axis=1)
        coverage[rows] = distances.min(axis=1) < wide[rows]
    return Manifolds(precision, recall, density / density_k, coverage)


def nearest_neighbours(
    samples: np.ndarray, training: np.ndarray, block_bytes: int = BLOCK_BYTES
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the training sample closest to each sample: returns its index, int64 [M], and its distance, float64 [M].

    Args:
      samples: [M, D].
      training: [N, D].
      block_bytes: size of a block of distances.
    """
    index, distance = np.empty(len(samples), np.int64), np.empty(len(samples))
    for rows, squares in square_distances(samples, training, block_bytes):
        index[rows] = squares.argmin(axis=1)
        distance[rows] = np.sqrt(squares.min(axis=1))
    return index, distance


def memorised(samples: np.ndarray, training: np.ndarray, share: float = 0.01) -> np.ndarray:
    """Flags the samples that lie suspiciously close to a training sample.

    A sample is flagged if it lies closer to a training sample than the share `share` of the training samples lie to
    another one. A generator of fresh samples has about `share` of its samples flagged, one that copies its data nearly
    all.

    Args:
      samples: [M, D].
      training: [N, D], N ≥ 2.
      share: from 0 to 1.

    Returns:
      The flags, bool [M]. A copy is always flagged, also where the training set holds copies itself.
    """
    limit = float(np.quantile(np.sqrt(squared_radii(training, 1)), share))
    _, distance = nearest_neighbours(samples, training)
    scale = float(np.sqrt(np.square(training - training.mean(axis=0)).sum(axis=1).mean()))
    return distance <= max(limit, 1e-6 * scale)
