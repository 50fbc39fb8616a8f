"""Grids of samples: the same latents at every one, so that their pictures can be followed."""

from __future__ import annotations

from pathlib import Path

from ganjax.data import Dataset
from ganjax.run.callbacks import Boundary, Every
from ganjax.run.sample import Sampler, write_samples
from ganjax.training.divergence import check_faults


class Grid(Every):
    """Writes a grid of `samples` images, or a scatter plot of points, into the run's `samples`."""

    def __init__(
        self, folder: Path, sampler: Sampler, dataset: Dataset, *, every_steps: int, samples: int
    ) -> None:
        super().__init__(every_steps)
        self._folder, self._sampler, self._dataset, self._samples = folder, sampler, dataset, samples

    def __call__(self, at: Boundary) -> None:
        """Writes the grid. Raises a `DivergedError` where a loss or gradient was not finite."""
        check_faults(at.state, self._folder)
        path = self._folder / "samples" / f"step_{at.step:08d}.png"
        write_samples(path, self._sampler, at.state.ema, self._samples, self._dataset)
        at.writer.image(at.step, path)
