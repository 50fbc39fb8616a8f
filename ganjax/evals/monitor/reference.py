"""The monitor's reference of the real data: bins of its features, and the distances of its samples.

Features are the pixels themselves at 8×8 or fewer (points as they are), as in the test for the number of statistically
different bins (Richardson & Weiss 2018). They need no network, fit any data, and do not change in training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

SIDE = 8  # pixels a side that images are averaged to
BINS = 32
REALS = 2048  # that the bins are made of
KNOWN = 1024  # of them that a sample's nearest is looked for in
NEAR = 0.1  # bins closer than this share of the spread are one: parts of a narrow mode
COVERED = 0.1  # share of its due that a bin must get to count as reached
SUPPORT = 95  # percentile of the reals' distances to their nearest that is still on the data, times SLACK
SLACK = 1.5
OF_CLASS = 8  # fakes of a class below which its variety is not judged


def features_of(samples: np.ndarray) -> np.ndarray:
    """Returns rows [N, F] of points [N, 2], or of float images [N, H, W, C] in [-1, 1].

    An image's sides are halved down to `SIDE` or fewer.
    """
    x = np.asarray(samples, np.float32)
    while x.ndim == 4 and min(x.shape[1:3]) > SIDE:
        n, h, w, c = x.shape
        x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))
    return x.reshape(len(x), -1)


@dataclass(frozen=True, eq=False)
class Reference:
    """The reference of the real data that the monitor compares samples with.

    Attributes:
      centres: [K, F], centres of the bins.
      group: [K] the bin that a centre belongs to, since several may lie in one narrow mode.
      shares: share of the reals in each bin.
      known: [M, F] reals; a sample's distance to the nearest says if it lies on the data.
      radius: the distance up to which a sample lies on the data.
      spread: mean distance of two reals.
    """

    centres: np.ndarray
    group: np.ndarray
    shares: np.ndarray
    known: np.ndarray
    radius: float
    spread: float

    @classmethod
    def of(cls, features: np.ndarray, *, seed: int = 0) -> Reference:
        """Makes the reference from the features [N, F] of the data's samples; it draws `REALS` of them."""
        from scipy.cluster.vq import kmeans2

        rng = np.random.default_rng(seed)
        chosen = features[rng.permutation(len(features))[:REALS]].astype(np.float32)
        spread = mean_distance(chosen[:512])
        tries = [
            kmeans2(chosen, min(BINS, len(chosen)), minit="++", seed=seed + i, missing="warn")
            for i in range(3)
        ]
        centres, assigned = min(tries, key=lambda t: float(np.square(chosen - t[0][t[1]]).sum()))
        group = _merged(centres, NEAR * spread)
        shares = np.bincount(group[assigned], minlength=group.max() + 1) / len(chosen)
        half = min(KNOWN, len(chosen) // 2) or 1
        known, others = chosen[:half], chosen[half:]
        near = distances(others if len(others) else known, known).min(axis=1)
        radius = SLACK * float(np.percentile(near, SUPPORT))
        return cls(centres, group, shares, known, max(radius, 1e-6), max(spread, 1e-6))

    def judge(self, fakes: np.ndarray) -> dict[str, float]:
        """Compares the features [N, F] of generated samples with the reference. 1 is as in the data, 0 is the worst.

        `coverage` is the share of the data whose bins the fakes reach. `quality` is the share of fakes that lie on the
        data. `diversity` is the mean distance of two fakes as a share of that of two reals.
        """
        if not np.isfinite(fakes).all():
            return {"coverage": 0.0, "quality": 0.0, "diversity": 0.0}
        bins = self.group[distances(fakes, self.centres).argmin(axis=1)]
        due = self.shares * len(fakes)
        counts = np.bincount(bins, minlength=len(due))
        reached = counts >= np.maximum(1, COVERED * due)
        return {
            "coverage": float(self.shares[reached].sum()),
            "quality": float((distances(fakes, self.known).min(axis=1) <= self.radius).mean()),
            "diversity": mean_distance(fakes) / self.spread,
        }


def class_spreads(features: np.ndarray, labels: np.ndarray, *, most: int = 256) -> dict[int, float]:
    """Returns the mean distance of two reals of each class, of features [N, F] and labels [N].

    Classes of one real, or of equal ones, are left out; of large ones the first `most` count.
    """
    found = {int(label): mean_distance(features[labels == label][:most]) for label in np.unique(labels)}
    return {label: spread for label, spread in found.items() if spread > 0}


def least_diverse(
    fakes: np.ndarray, labels: np.ndarray, spreads: Mapping[int, float]
) -> tuple[int, float] | None:
    """Finds the class whose fakes differ least among themselves, as a share of what its reals do.

    Args:
      fakes, labels: the features [N, F] of generated samples and their classes [N].
      spreads: the result of `class_spreads`.

    Returns:
      (class, share), or None where no class has `OF_CLASS` fakes.
    """
    shares = [
        (mean_distance(fakes[labels == label]) / spread, label)
        for label, spread in spreads.items()
        if np.count_nonzero(labels == label) >= OF_CLASS
    ]
    return min(shares)[::-1] if shares and np.isfinite(fakes).all() else None


def distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns the Euclidean distances [N, M] of rows x [N, F] and y [M, F]."""
    squares = np.square(x).sum(1)[:, None] + np.square(y).sum(1)[None, :] - 2.0 * x @ y.T
    return np.sqrt(np.maximum(squares, 0.0))


def mean_distance(x: np.ndarray) -> float:
    """Returns the mean distance of two different rows of x [N, F]; 0 for one row."""
    if len(x) < 2:
        return 0.0
    centred = (x - x.mean(axis=0)).astype(np.float64)  # equal rows give 0, not a rounding error
    return float(distances(centred, centred).sum() / (len(x) * (len(x) - 1)))


def _merged(centres: np.ndarray, near: float) -> np.ndarray:
    """Returns the bin of each centre. Centres that are joined by a chain of steps shorter than `near` share one bin."""
    from scipy.sparse.csgraph import connected_components

    _, group = connected_components(distances(centres, centres) < near, directed=False)
    return np.asarray(group)
