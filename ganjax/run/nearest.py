"""Shows each sample beside the training image nearest to it: a generator that copies shows pairs of equals."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ganjax.data import Dataset
from ganjax.evals.metrics.neighbours import nearest_neighbours
from ganjax.run.open import OpenRun
from ganjax.runtime import processes
from ganjax.runtime.errors import UserError
from ganjax.runtime.logs import write_grid

BLOCK = 4096  # training images compared at a time


def write_nearest(path: Path, run: OpenRun, n: int, dataset: Dataset) -> str:
    """Writes a PNG of `n` pairs: a sample and the image of `dataset` closest to it in pixels, the closest pairs first.

    Returns their distances in words. Raises `UserError` for a run on points.
    """
    if dataset.images.ndim == 2:
        raise UserError("--nearest compares images, and this run makes points.")
    samples, training = run.sampler(run.variables, n)[-1], dataset.images
    if not processes.is_main():
        return ""
    closest, distance = np.zeros(n, np.int64), np.full(n, np.inf)
    for start in range(0, len(training), BLOCK):
        block = training[start : start + BLOCK]
        index, far = nearest_neighbours(samples.reshape(n, -1), block.reshape(len(block), -1))
        better = far < distance
        closest, distance = np.where(better, start + index, closest), np.where(better, far, distance)
    order = np.argsort(distance)
    pairs = np.stack([samples[order], training[closest[order]]], axis=1)
    write_grid(path, pairs.reshape(2 * n, *samples.shape[1:]), columns=2 * max(1, round((n / 2) ** 0.5)))
    apart = distance / samples[0].size ** 0.5
    return f"{apart.min():.1f} to {apart.max():.1f} of 255 apart (root mean square)"
