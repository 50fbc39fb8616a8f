"""Samples of a generator: fixed latents by index, on any number of devices, from raw or averaged weights."""

from __future__ import annotations

import copy
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ganjax.data import Dataset
from ganjax.data.images import to_uint8
from ganjax.evals.metrics.modes import count_modes
from ganjax.evals.metrics.neighbours import nearest_neighbours
from ganjax.models import revisions
from ganjax.models.latents import make_latents
from ganjax.runtime import processes
from ganjax.runtime.checkpoint import Checkpointer
from ganjax.runtime.errors import UserError
from ganjax.runtime.files import write_atomically
from ganjax.runtime.keys import Stream, fold_each, stream_key
from ganjax.runtime.logs import write_grid, write_pyramid_grid, write_scatter
from ganjax.training import parallel
from ganjax.training.build import Build
from ganjax.training.state import GanState

Tree = Any
CHUNK = 64  # images a device makes in one call
BEST = "best"  # folder, beside `checkpoints`, of those kept for their measures
NEAREST_BLOCK = 4096  # training images compared at a time
SCATTER_POINTS = 2500  # as the protocols for mixtures judge


class Sampler:
    """A sampler by index: image i of a seed is the same, whichever other images and devices are used."""

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
        self._classes = np.asarray(classes or range(build.classes), np.int32)
        self.seed: int = config.seed if seed is None else seed
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
        self._count = len(devices)
        self._call = parallel.make_generator(self._apply, devices, CHUNK)

    def for_seed(self, seed: int) -> Sampler:
        """Returns the same program for the latents of another seed."""
        other = copy.copy(self)
        other.seed = seed
        return other

    def _apply(self, variables: Tree, seed: jax.Array, index: jax.Array) -> Tree:
        key = stream_key(seed, Stream.SAMPLE)
        latents = self._latents(fold_each(key, index))
        labels = jnp.asarray(self._classes)[index % len(self._classes)] if len(self._classes) else None
        scales: Any = self._build.gan.gen.net.apply(variables, latents, labels, train=False, **self._styles)
        return tuple(to_uint8(image) if self._images else image * self._scale for image in scales)

    def __call__(self, variables: Tree, n: int) -> tuple[np.ndarray, ...]:
        """Returns samples 0 … n - 1 at every scale: uint8 [n, r, r, C] each, or float32 [n, 2] in the data's units."""
        parts = list(self._chunks(variables, n))
        return tuple(np.concatenate(scale)[:n] for scale in zip(*parts, strict=True))

    def labels(self, n: int) -> np.ndarray | None:
        """Returns the classes of samples 0 … n - 1, [n] int32, or None without classes.

        They come in turn, so a grid has a class per column.
        """
        return self._classes[np.arange(n) % len(self._classes)] if len(self._classes) else None

    def columns(self, n: int) -> int | None:
        """Returns the number of columns of a grid of n samples with a class in each, or None without classes.

        The grid is as nearly square as possible.
        """
        if not len(self._classes):
            return None
        repeats = max(1, round(n**0.5 / len(self._classes)))
        return min(n, repeats * len(self._classes))

    def blocks(self, variables: Tree, n: int) -> Iterator[np.ndarray]:
        """Yields samples 0 … n - 1 at full resolution, some at a time."""
        left = n
        for scales in self._chunks(variables, n):
            yield scales[-1][:left]
            left -= len(scales[-1])

    def _chunks(self, variables: Tree, n: int) -> Iterator[tuple[np.ndarray, ...]]:
        return (self._call(variables, self.seed, start) for start in range(0, n, CHUNK * self._count))


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
      dataset: data set that it was trained on.
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
    classes: Sequence[int] = (),
    truncation: float = 1.0,
) -> Run:
    """Opens the run in `workdir`, ready to make `n` samples; the arguments are those of `sample`.

    Raises:
      UserError: the folder has no run or checkpoint, or the networks do not know the classes.
    """
    from ganjax.config import plugin_record
    from ganjax.config.recipe import flatten, from_workdir, to_json, unflatten
    from ganjax.run.setup import prepare

    plugin_record.restore_run(workdir)
    # The main process reads the workdir: the others may not see it.
    stored = processes.from_main(to_json(from_workdir(workdir)) if processes.is_main() else None)
    config = unflatten(flatten(stored))
    setup = prepare(config, choose_devices(n, devices))
    known = setup.build.classes
    if any(not 0 <= label < known for label in classes):
        allowed = f"numbers from 0 to {known - 1}" if known else "nothing: this run has no classes"
        raise UserError(f"--classes takes {allowed}, and got {','.join(map(str, classes))}.")
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
            classes=classes,
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


def write_nearest(path: Path, run: Run, n: int) -> str:
    """Writes a PNG of `n` pairs: a sample and the training image closest to it in pixels, the closest pairs first.

    Returns their distances in words. Raises `UserError` for a run on points.
    """
    if run.dataset.images.ndim == 2:
        raise UserError("--nearest compares images, and this run makes points.")
    samples, training = run.sampler(run.variables, n)[-1], run.dataset.images
    closest, distance = np.zeros(n, np.int64), np.full(n, np.inf)
    for start in range(0, len(training), NEAREST_BLOCK):
        block = training[start : start + NEAREST_BLOCK]
        index, far = nearest_neighbours(samples.reshape(n, -1), block.reshape(len(block), -1))
        better = far < distance
        closest, distance = np.where(better, start + index, closest), np.where(better, far, distance)
    order = np.argsort(distance)
    pairs = np.stack([samples[order], training[closest[order]]], axis=1)
    if processes.is_main():
        columns = 2 * max(1, round((n / 2) ** 0.5))
        write_grid(path, pairs.reshape(2 * n, *samples.shape[1:]), columns=columns)
    apart = distance / samples[0].size ** 0.5
    return f"{apart.min():.1f} to {apart.max():.1f} of 255 apart (root mean square)"


def sample(
    workdir: Path,
    *,
    n: int,
    out: Path,
    seed: int | None = None,
    weights: str = "ema",
    step: int | None = None,
    devices: int = 0,
    classes: Sequence[int] = (),
    truncation: float = 1.0,
    nearest: bool = False,
) -> str:
    """Writes `n` samples of a run's checkpoint to `out` (.png or .npz), and returns a summary of the result.

    `truncation` below 1 trades variety for fidelity. `classes` are taken in turn; without them all classes are, where
    the run has any, and an .npz holds `labels`. With `nearest` a PNG shows each sample beside the closest real image.

    Raises:
      UserError: the folder has no run or checkpoint, or `out` is of another kind.
    """
    if out.suffix not in (".png", ".npz"):
        raise UserError(f"--out takes a file ending in .png or .npz, and got {out.name!r}.")
    if nearest and out.suffix != ".png":
        raise UserError(f"--nearest makes a picture: --out takes a .png with it, and got {out.name!r}.")
    if n < 1:
        raise UserError(f"--n takes an integer of at least 1, and got {n}.")
    if not 0 < truncation <= 1:
        raise UserError(f"--truncation takes a number above 0 and at most 1, and got {truncation}.")
    if devices < 0:
        raise UserError(f"--devices takes an integer of at least 0, and got {devices}.")
    run = open_run(
        workdir,
        n=n,
        seed=seed,
        weights=weights,
        step=step,
        devices=devices,
        classes=classes,
        truncation=truncation,
    )
    if nearest:
        apart = write_nearest(out, run, n)
        return (
            f"{n} samples of step {run.step} ({weights} weights) are in {out}, each beside the training image nearest "
            f"to it: {apart}"
        )
    if out.suffix == ".png":
        write_samples(out, run.sampler, run.variables, n, run.dataset)
    else:
        file = io.BytesIO()
        samples, labels = run.sampler(run.variables, n)[-1], run.sampler.labels(n)
        if not processes.is_main():
            return ""
        if labels is None:
            np.savez_compressed(file, samples=samples)
        else:
            np.savez_compressed(file, samples=samples, labels=labels)
        write_atomically(out, file.getvalue(), "samples")
    return f"{n} samples of step {run.step} ({weights} weights) are in {out}"
