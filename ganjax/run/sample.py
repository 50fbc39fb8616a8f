"""`ganjax sample`: writes samples of a run as a grid, a scatter plot, an array or a folder of pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ganjax.data import Dataset
from ganjax.evals.metrics.modes import count_modes
from ganjax.evals.sampler import Sampler
from ganjax.run.data_facts import data_of
from ganjax.run.nearest import write_nearest
from ganjax.run.open import OpenRun, check_memory, open_run
from ganjax.run.sample_folder import check_arguments, is_folder, write_folder
from ganjax.runtime import processes
from ganjax.runtime.files import write_atomically
from ganjax.runtime.keys import check_seeds
from ganjax.runtime.logs import write_grid, write_pyramid_grid, write_scatter

Tree = Any
SCATTER_POINTS = 2500  # as the protocols for mixtures judge


def write_samples(path: Path, sampler: Sampler, variables: Tree, n: int, dataset: Dataset) -> None:
    """Writes a PNG of `n` samples: a grid, or a scatter plot of 2,500 points over the modes of a mixture.

    With several scales, a second picture, `…_scales.png`, shows each of them. All processes make samples, and the main
    one writes them.
    """
    if dataset.modes is not None:
        assert dataset.std is not None
        (points,) = sampler(variables, SCATTER_POINTS)
        if not processes.is_main():
            return
        write_scatter(path, points, dataset.modes, std=dataset.std, title=mode_title(points, dataset))
        return
    scales = sampler(variables, n)
    if not processes.is_main():
        return
    write_grid(path, scales[-1], columns=sampler.columns(n))
    if len(scales) > 1:
        write_pyramid_grid(path.with_name(f"{path.stem}_scales.png"), scales)


def mode_title(points: np.ndarray, dataset: Dataset) -> str:
    """Returns a title: the number of modes that the points cover, and the share within 3 standard deviations of one."""
    assert dataset.modes is not None and dataset.std is not None
    covered, quality = count_modes(points, dataset.modes, dataset.std)
    return f"{covered} of {len(dataset.modes)} modes, {quality:.1%} high quality"


def sample(
    workdir: Path,
    *,
    out: Path,
    n: int | None = None,
    seed: int | None = None,
    seeds: Sequence[int] = (),
    weights: str = "ema",
    step: int | None = None,
    devices: int = 0,
    classes: Sequence[int | str] = (),
    truncation: float = 1.0,
    nearest: bool = False,
    data: str = "",
) -> str:
    """Writes samples of a run's checkpoint to `out`, and returns a summary of the result.

    Args:
      workdir: folder of the run.
      out: a .png, for a grid; an .npz, with `samples` and where there are classes `labels`; or a folder, for a PNG of
        each sample (`write_folder`).
      n: number of samples (of each of several seeds); by default 64, or of several seeds one in each of `classes`.
      seed: seed of the latents; the run's by default.
      seeds: several different seeds, in place of one.
      weights: `ema` or `raw`.
      step: step of the checkpoint; the newest by default.
      devices: number of devices; 0 chooses.
      classes: names or numbers of classes, taken in turn; all by default, where the run has any.
      truncation: below 1 it trades variety for fidelity; 0 makes the one sample in the middle.
      nearest: True for a .png of each sample beside the closest real image, for which alone the data are read.
      data: path of the data where they lie elsewhere than in training.

    Raises:
      UserError: the folder has no run or checkpoint, an argument is out of range, or `out` cannot be written.
    """
    each = (max(1, len(classes)) if seeds else 64) if n is None else n
    check_arguments(out, n=each, devices=devices, truncation=truncation, nearest=nearest)
    check_seeds(seeds or [seed or 0])
    seeds = tuple(dict.fromkeys(seeds))
    n = each * max(1, len(seeds))
    run = open_run(
        workdir,
        n=n,
        seed=seed,
        weights=weights,
        step=step,
        devices=devices,
        classes=classes,
        truncation=truncation,
        data=data,
    )
    if seeds:
        run = replace(run, sampler=run.sampler.for_seeds(seeds, each))
    if not is_folder(out):
        check_memory("--n", run, n)
    told = f"{n} samples of step {run.step} ({weights} weights) are in {out}"
    if nearest:
        dataset = data_of(workdir, run.config, "--nearest", data) if processes.is_main() else run.dataset
        return f"{told}, each beside the training image nearest to it: {write_nearest(out, run, n, dataset)}"
    return told + _write(out, run, n, {"step": run.step, "weights": weights, "truncation": truncation})


def _write(out: Path, run: OpenRun, n: int, made_by: dict[str, Any]) -> str:
    """Writes samples as `out` says, and returns what else is to be told of them."""
    if is_folder(out):
        before = write_folder(out, run, n, made_by)
        return f", {before} of them from before" if before else ""
    if out.suffix == ".png":
        write_samples(out, run.sampler, run.variables, n, run.dataset)
        return ""
    arrays: dict[str, Any] = {"samples": run.sampler(run.variables, n)[-1], "labels": run.sampler.labels(n)}
    if processes.is_main():
        file = io.BytesIO()
        np.savez_compressed(file, **{name: array for name, array in arrays.items() if array is not None})
        write_atomically(out, file.getvalue(), "samples")
    return ""
