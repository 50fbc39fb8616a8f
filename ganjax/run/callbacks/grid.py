"""Grids of samples: the same latents at every one, so that their pictures can be followed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ganjax.data import Dataset
from ganjax.evals.sampler import Sampler
from ganjax.run.callbacks import Boundary, Every
from ganjax.run.sample import write_samples
from ganjax.runtime import processes
from ganjax.runtime.logs import write_grid
from ganjax.training.divergence import check_faults

Tree = Any
FIRST_STEPS = 16  # before these a network has hardly moved


class Grid(Every):
    """Writes a grid of samples, or a scatter plot of points, into the run's `samples`.

    Args:
      folder: folder of the run.
      sampler: makes the samples.
      dataset: the data of the run.
      every_steps: steps between two grids.
      samples: number of images in a grid.
      calls: steps in a call. With it grids come at doubling steps until the first regular one; 0 leaves them out.
    """

    def __init__(
        self,
        folder: Path,
        sampler: Sampler,
        dataset: Dataset,
        *,
        every_steps: int,
        samples: int,
        calls: int = 0,
    ) -> None:
        super().__init__(every_steps)
        self._folder, self._sampler, self._dataset, self._samples = folder, sampler, dataset, samples
        self._calls = calls

    def due(self, step: int, *, last: bool) -> bool:
        """Returns True if a grid is due at this step."""
        early = self._calls and FIRST_STEPS <= step < self.steps and (step // self._calls).bit_count() == 1
        return bool(early) or super().due(step, last=last)

    def __call__(self, at: Boundary) -> None:
        """Writes the grid. Raises a `DivergedError` where a loss or gradient was not finite."""
        check_faults(at.state, self._folder)
        at.writer.image(at.step, self.write(at.step, at.state.ema))

    def write(self, step: int, variables: Tree) -> Path:
        """Writes the grid of these weights of G, and returns its path."""
        path = self._folder / "samples" / f"step_{step:08d}.png"
        write_samples(path, self._sampler, variables, self._samples, self._dataset)
        return path

    def write_reals(self, seed: int) -> None:
        """Writes `reals.png`: real images in the form of a grid, each of the class of the sample in its place.

        The main process writes it; points have none.
        """
        dataset, labels = self._dataset, self._sampler.labels(self._samples)
        if dataset.images.ndim != 4 or not processes.is_main():
            return
        order = np.random.default_rng(seed).permutation(len(dataset))
        chosen = np.resize(order, self._samples)
        if labels is not None and dataset.labels is not None:
            own = dataset.labels[order]
            of_class = {label: order[own == label] for label in np.unique(labels)}
            places = [np.flatnonzero(labels == label) for label in of_class]
            for place, members in zip(places, of_class.values(), strict=True):
                chosen[place] = np.resize(members if len(members) else order, len(place))
        columns = self._sampler.columns(self._samples)
        write_grid(self._folder / "samples" / "reals.png", dataset.images[chosen], columns=columns)
