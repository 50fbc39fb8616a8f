"""The statistics of a set of samples that metrics need, gathered in a stream.

Those of reference sets are cached on disk.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ganjax.data import Dataset
from ganjax.data.lazy import LazyImages
from ganjax.evals.features import FeatureNetwork
from ganjax.evals.metrics.frechet import Gaussian, Moments
from ganjax.evals.metrics.neighbours import DENSITY_K, PRECISION_K, squared_radii
from ganjax.evals.metrics.protocol import key_of
from ganjax.runtime.errors import UserError
from ganjax.runtime.files import read_npz, replace_file

logger = logging.getLogger(__name__)

KEPT_BYTES = 256 * 2**20  # of features, and of logits; moments take in all samples
KEPT_IMAGES = 1000  # for MS-SSIM
BLOCK = 1024
VERSION = 1  # of the cached files


@dataclass(frozen=True, eq=False)
class Statistics:
    """The statistics of a set of samples.

    Attributes:
      gaussian: the moments of all features.
      features: [n, D] float32, features of the first n samples, n as `KEPT_BYTES` allows (64,000 at D = 1,024).
      logits: [n, K] float32, logits of the same samples, or None.
      images: some of the samples, in the same order.
    """

    gaussian: Gaussian
    features: np.ndarray
    logits: np.ndarray | None
    images: np.ndarray
    _radii: dict[int, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def count(self) -> int:
        """The number of samples."""
        return self.gaussian.count

    def radii(self, count: int) -> np.ndarray:
        """Returns `squared_radii` of the first `count` features, [2, count].

        The first row is for precision and recall, the second for density and coverage. They are computed once: they
        take half the time of these metrics, and training asks for those of a reference often.
        """
        if count not in self._radii:
            self._radii[count] = squared_radii(self.features[:count], PRECISION_K, DENSITY_K)
        return self._radii[count]

    def part(self, rows: slice) -> Statistics:
        """Returns the statistics of the kept samples at `rows`."""
        moments = Moments()
        moments.add(self.features[rows])
        logits = None if self.logits is None else self.logits[rows]
        return Statistics(moments.result(), self.features[rows], logits, self.images[rows])


def gather(blocks: Iterable[np.ndarray], network: FeatureNetwork) -> Statistics:
    """Computes `Statistics` of samples that come in blocks, [n, H, W, C] uint8 or [n, 2]; at least two samples."""
    moments = Moments()
    features: list[np.ndarray] = []
    logits: list[np.ndarray] = []
    images: list[np.ndarray] = []
    kept = 0
    for block in blocks:
        found, classes = network.run(block)
        if not np.isfinite(found).all():
            raise UserError(
                "Some samples are not finite: the generator has diverged, and nothing can be measured."
            )
        moments.add(found)
        room = KEPT_BYTES // (4 * found.shape[1]) - kept
        if room > 0:
            features.append(found[:room].astype(np.float32))
            if classes is not None:
                logits.append(classes[:room].astype(np.float32))
        # points are small, and their modes are counted from all of them
        images.append(block if block.ndim == 2 else block[: max(0, KEPT_IMAGES - kept)])
        kept += len(found)
    return Statistics(
        moments.result(),
        np.concatenate(features),
        np.concatenate(logits) if logits else None,
        np.concatenate(images),
    )


def in_blocks(images: np.ndarray | LazyImages, order: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """Yields the images in blocks: all of them, or those at the indices `order`."""
    count = len(images) if order is None else len(order)
    for start in range(0, count, BLOCK):
        where = slice(start, start + BLOCK)
        yield images[where] if order is None else images[order[where]]


def of_reference(dataset: Dataset, network: FeatureNetwork, split: str, cache: Path | None) -> Statistics:
    """Returns the `Statistics` of a whole data set in a fixed random order, from the cache where it has them.

    Args:
      dataset: the real samples.
      network: the feature network.
      split: split of the data set; a part of the cache's key.
      cache: folder of the cached files; None neither reads nor writes.
    """
    order = np.random.default_rng(0).permutation(len(dataset))
    facts = {
        "version": VERSION,
        "features": network.name,
        "features_sha256": network.sha256,
        "resize": network.resize,
        "reference_sha256": dataset.fingerprint,
        "split": split,
        "count": len(dataset),
    }
    path = None if cache is None else cache / f"{key_of(facts)}.npz"
    kept = dataset.images[order if dataset.images.ndim == 2 else order[:KEPT_IMAGES]]
    if path is not None and (stored := _read(path)) is not None:
        gaussian, features, logits = stored
        return Statistics(gaussian, features, logits, kept)
    found = gather(in_blocks(dataset.images, order), network)
    if path is not None:
        _write(path, found)
    return found


def _read(path: Path) -> tuple[Gaussian, np.ndarray, np.ndarray | None] | None:
    """Reads the file that `_write` wrote.

    Returns None where it is missing or damaged (every member of a .npz has a checksum).
    """
    try:
        file = read_npz(path)
        gaussian = Gaussian(int(file["count"]), file["mean"], file["covariance"])
        return gaussian, file["features"], file.get("logits")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s is damaged (%s) and made anew", path, error)
        return None


def _write(path: Path, found: Statistics) -> None:
    """Writes the statistics to a temporary name first. A cache that cannot be written costs time, not the result."""
    file = io.BytesIO()
    arrays = {
        "count": np.array(found.count),
        "mean": found.gaussian.mean,
        "covariance": found.gaussian.covariance,
        "features": found.features,
    }
    if found.logits is not None:
        arrays["logits"] = found.logits
    np.savez(file, **arrays)  # type: ignore[arg-type]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, file.getvalue())
    except OSError as error:
        logger.warning("The statistics of the reference could not be kept in %s: %s", path.parent, error)
