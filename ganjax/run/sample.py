"""Samples of a generator: fixed latents by index, on any number of devices, from raw or averaged weights."""

from __future__ import annotations

import copy
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ganjax.config.recipe import flatten, from_workdir, to_json, unflatten
from ganjax.data import Dataset
from ganjax.data.dataset import find_classes
from ganjax.data.images import to_uint8
from ganjax.evals.metrics.modes import count_modes
from ganjax.models import revisions
from ganjax.models.latents import make_latents
from ganjax.run.data_facts import data_of, read_facts, stand_in
from ganjax.run.nearest import write_nearest
from ganjax.run.sample_folder import check_arguments, is_folder, write_folder
from ganjax.run.setup import prepare
from ganjax.runtime import processes
from ganjax.runtime.checkpoint import Checkpointer
from ganjax.runtime.errors import UserError
from ganjax.runtime.files import write_atomically
from ganjax.runtime.keys import Stream, check_seeds, stream_key
from ganjax.runtime.logs import write_grid, write_pyramid_grid, write_scatter
from ganjax.training import parallel
from ganjax.training.build import Build
from ganjax.training.state import GanState

Tree = Any
CHUNK = 64  # images a device makes in one call
BEST = "best"  # folder, beside `checkpoints`, of those kept for their measures
ENDLESS = 2**31 - 1  # samples of a seed
SCATTER_POINTS = 2500  # as the protocols for mixtures judge


class Sampler:
    """A sampler by index: image i of a seed is the same, whichever other images and devices are used.

    Attributes:
      classes: the classes that samples have in turn, [k] int32.
      size: the number of samples that one call of the program makes.
    """

    def __init__(
        self,
        config: ConfigDict,
        build: Build,
        dataset: Dataset,
        devices: Sequence[jax.Device],
        *,
        seed: int | None = None,
        classes: Sequence[int] = (),
        truncation: float = 1.0,
    ) -> None:
        """Sets up the sampler.

        Args:
          config, build, dataset, devices: those of the run.
          seed: seed of the latents; the config's by default.
          classes: classes of the samples, see `labels`; all of them by default.
          truncation: truncation of the latents or styles (`make_latents`, StyleGAN2's ψ); 1 leaves them.
        """
        self.classes = np.asarray(classes or range(build.classes), np.int32)
        self._shares: np.ndarray | None = None
        self._seeds = check_seeds([config.seed if seed is None else seed])
        self._each = ENDLESS
        self._scale = dataset.scale
        self._images = dataset.images.ndim == 4
        self._build = build
        self._styles: dict[str, Any] = (
            {"truncation": truncation} if build.truncates and truncation != 1.0 else {}
        )
        model = config.model
        self._latents = make_latents(
            model.latent_dim, model.latent_distribution, 1.0 if build.truncates else truncation
        )
        self.size = CHUNK * len(devices)
        self._call = build.programs.get(
            ("samples", tuple(devices), truncation, self._scale),
            lambda: parallel.map_shares(self._apply, devices),
        )

    @property
    def seed(self) -> int:
        """The seed of the latents, or the first of several."""
        return int(self._seeds[0])

    def for_seed(self, seed: int) -> Sampler:
        """Returns the same program for the latents of another seed."""
        return self.for_seeds([seed], ENDLESS)

    def for_seeds(self, seeds: Sequence[int], each: int) -> Sampler:
        """Returns the same program for samples 0 … each - 1 of the first seed, then of the next, and so on."""
        other = copy.copy(self)
        other._seeds, other._each = check_seeds(seeds), each
        return other

    def at_shares(self, counts: Sequence[int]) -> Sampler:
        """Returns the same program with the classes in the shares of `counts`, a number of images for each class.

        Sample i has the class of a fixed sequence whose first n hold each class n times its share, but for a few.
        """
        other = copy.copy(self)
        if len(self.classes):
            other._shares = np.cumsum(np.asarray(counts, np.uint64))
        return other

    def _apply(self, variables: Tree, rows: tuple[jax.Array, ...]) -> Tree:
        """Returns the samples of `rows`: seeds, indices and labels, [n] each, at every scale."""
        seeds, index, labels = rows
        keys = jax.vmap(lambda seed, i: jax.random.fold_in(stream_key(seed, Stream.SAMPLE), i))(seeds, index)
        told = labels if self._build.classes else None
        scales: Any = self._build.gan.gen.net.apply(
            variables, self._latents(keys), told, train=False, **self._styles
        )
        return tuple(to_uint8(image) if self._images else image * self._scale for image in scales)

    def __call__(self, variables: Tree, n: int) -> tuple[np.ndarray, ...]:
        """Returns samples 0 … n - 1 at every scale: uint8 [n, r, r, C] each, or float32 [n, 2] in the data's units."""
        parts = [self.part(variables, start) for start in range(0, n, self.size)]
        return tuple(np.concatenate(scale)[:n] for scale in zip(*parts, strict=True))

    def places(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the seed, uint32, and the index in it, int32, of each of the samples `numbers` [n]."""
        seeds = self._seeds[numbers // self._each % len(self._seeds)]
        return seeds, (numbers % self._each).astype(np.int32)

    def labels(self, n: int) -> np.ndarray | None:
        """Returns the classes of samples 0 … n - 1, [n] int32, or None without classes.

        They come in turn, so a grid has a class per column, or as `at_shares` says.
        """
        return self._labels(np.arange(n)) if len(self.classes) else None

    def _labels(self, numbers: np.ndarray) -> np.ndarray:
        _, index = self.places(numbers)
        if self._shares is not None:
            # Multiples of the golden ratio, here of 2³², fall evenly into any interval (Weyl; Knuth, vol. 3, 6.4).
            spread = index.astype(np.uint64) * np.uint64(2654435769) % np.uint64(2**32)
            drawn = spread * self._shares[-1] >> np.uint64(32)
            return np.searchsorted(self._shares, drawn, side="right").astype(np.int32)
        return self.classes[index % max(len(self.classes), 1)] if len(self.classes) else index

    def columns(self, n: int) -> int | None:
        """Returns the number of columns of a grid of n samples with a class in each, or None for as square a grid.

        The grid is as nearly square as possible. Where there are too many classes for that, a column has those of every
        so many. Of several seeds, each begins a row.
        """
        classes, side = len(self.classes), max(1, round(n**0.5))
        if self._each < n:
            return self._each if 1 < self._each <= 2 * side else None
        if classes > 2 * side:
            return next((i for i in range(side, 2 * side + 1) if classes % i == 0), None)
        return min(n, max(1, round(n**0.5 / classes)) * classes) if classes else None

    def blocks(self, variables: Tree, n: int) -> Iterator[np.ndarray]:
        """Yields samples 0 … n - 1 at full resolution, some at a time."""
        for start in range(0, n, self.size):
            yield self.part(variables, start)[-1][: n - start]

    def part(self, variables: Tree, start: int) -> tuple[np.ndarray, ...]:
        """Returns samples start … start + size - 1 at every scale: what one call of the program makes."""
        numbers = np.arange(start, start + self.size)
        made: tuple[np.ndarray, ...] = self._call(variables, (*self.places(numbers), self._labels(numbers)))
        return made


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


def choose_devices(n: int, wanted: int) -> list[jax.Device]:
    """Returns the devices to make `n` samples on: `wanted`, or as many as have a chunk to do."""
    chunks, several = -(-n // CHUNK), processes.count()
    most = wanted or min(chunks, os.cpu_count() or 1)
    parallel.prepare_backend(n, 1, -(-most // several) * several)
    count = wanted or -(-min(chunks, len(jax.devices())) // several) * several
    return parallel.choose_devices(CHUNK * count, 1, count)


@dataclass(frozen=True)
class Run:
    """A run with a checkpoint to sample from.

    Attributes:
      step: step of the checkpoint.
      dataset: data set that it was trained on, without its images and labels (`data_facts.stand_in`).
      split: split of the data set.
      config, build: config and build of the run.
      sampler: makes the samples: `run.sampler(run.variables, n)`.
      variables: weights of the generator, on the devices.
    """

    step: int
    dataset: Dataset
    split: str
    sampler: Sampler
    variables: Tree
    config: ConfigDict
    build: Build


def checkpoint_folder(workdir: Path, step: int | None) -> Path:
    """Returns the folder of this step's checkpoint.

    It is the folder of the newest checkpoints, or that of the best ones where the step is only there.
    """
    usual, best = workdir / "checkpoints", workdir / BEST
    with Checkpointer(usual, keep=0) as newest, Checkpointer(best, keep=0) as kept:
        return best if step is not None and step not in newest.steps() and step in kept.steps() else usual


def open_run(
    workdir: Path,
    *,
    n: int,
    seed: int | None = None,
    weights: str = "ema",
    step: int | None = None,
    devices: int = 0,
    classes: Sequence[int | str] = (),
    truncation: float = 1.0,
    data: str = "",
) -> Run:
    """Opens the run in `workdir`, ready to make `n` samples; the arguments are those of `sample`.

    The data are not read, unless an earlier ganjax trained the run, which kept no `data.json`: then from `data`.

    Raises:
      UserError: the folder has no run or checkpoint, or the networks do not know the classes.
    """
    # The main process reads the workdir: the others may not see it.
    read = lambda: [to_json(from_workdir(workdir)), read_facts(workdir)]
    stored, facts = processes.from_main(read() if processes.is_main() else None)
    config = unflatten({**flatten(stored), **({"data.path": data} if data and not facts else {})})
    setup = prepare(config, choose_devices(n, devices), None if facts is None else stand_in(facts))
    labels = find_classes(classes, setup.dataset.label_names, setup.build.classes)
    at, state = _restored(workdir, config.model.name, setup.build, step)
    variables = state.ema if weights == "ema" else state.gen.variables
    return Run(
        step=at,
        dataset=setup.dataset,
        split=config.data.split,
        sampler=Sampler(
            config,
            setup.build,
            setup.dataset,
            setup.devices,
            seed=seed,
            classes=labels,
            truncation=truncation,
        ),
        variables=parallel.replicate(variables, setup.devices),
        config=config,
        build=setup.build,
    )


def _restored(workdir: Path, family: str, build: Build, step: int | None) -> tuple[int, GanState]:
    """Returns (step, state) of a checkpoint, which the main process reads for all processes."""
    if not processes.is_main():
        return processes.from_main(None), processes.state_from_main(build.init())
    with Checkpointer(checkpoint_folder(workdir, step), keep=0) as checkpoints:
        found = revisions.restore(checkpoints, build.shapes(), step, family, workdir)
    if found is None:
        raise UserError(
            f"{workdir} holds no checkpoint yet; train it first: ganjax train --workdir={workdir} …"
        )
    return processes.from_main(found[0]), processes.state_from_main(found[1])


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
      n: number of samples, of each of several seeds; by default 64, or of several seeds one in each of `classes`.
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
    told = f"{n} samples of step {run.step} ({weights} weights) are in {out}"
    if nearest:
        dataset = data_of(workdir, run.config, "--nearest", data) if processes.is_main() else run.dataset
        return f"{told}, each beside the training image nearest to it: {write_nearest(out, run, n, dataset)}"
    return told + _write(out, run, n, {"step": run.step, "weights": weights, "truncation": truncation})


def _write(out: Path, run: Run, n: int, made_by: dict[str, Any]) -> str:
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
