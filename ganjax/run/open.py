"""Opens a run's folder to sample from: its config, its networks, the weights of a checkpoint."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from ganjax.config import plugin_record
from ganjax.config.recipe import flatten, from_workdir, to_json, unflatten
from ganjax.data import Dataset
from ganjax.data.dataset import find_classes
from ganjax.evals.sampler import CHUNK, Sampler
from ganjax.models import revisions
from ganjax.run.data_facts import read_facts, stand_in
from ganjax.run.setup import prepare
from ganjax.runtime import processes
from ganjax.runtime.allocator import memory
from ganjax.runtime.checkpoint import Checkpointer
from ganjax.runtime.errors import UserError, quoted
from ganjax.training import parallel
from ganjax.training.build import Build
from ganjax.training.state import GanState

Tree = Any
BEST = "best"  # folder, beside `checkpoints`, of those kept for their measures


def choose_devices(n: int, wanted: int) -> list[jax.Device]:
    """Returns the devices to make `n` samples on: `wanted`, or as many as have a chunk to do."""
    chunks, several = -(-n // CHUNK), processes.count()
    most = wanted or min(chunks, os.cpu_count() or 1)
    parallel.prepare_backend(n, 1, -(-most // several) * several)
    count = wanted or -(-min(chunks, len(jax.devices())) // several) * several
    return parallel.choose_devices(CHUNK * count, 1, count)


@dataclass(frozen=True)
class OpenRun:
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
) -> OpenRun:
    """Opens the run in `workdir`, ready to make `n` samples; the arguments are those of `sample`.

    The data are not read, unless an earlier ganjax trained the run, which kept no `data.json`: then from `data`.

    Raises:
      UserError: the folder has no run or checkpoint, or the networks do not know the classes.
    """
    plugin_record.restore_run(workdir)
    # The main process reads the workdir: the others may not see it.
    read = lambda: [to_json(from_workdir(workdir)), read_facts(workdir)]
    stored, facts = processes.from_main(read() if processes.is_main() else None)
    config = unflatten({**flatten(stored), **({"data.path": data} if data and not facts else {})})
    setup = prepare(config, choose_devices(n, devices), None if facts is None else stand_in(facts))
    labels = find_classes(classes, setup.dataset.label_names, setup.build.classes)
    at, state = _restored(workdir, config.model.name, setup.build, step)
    variables = state.ema if weights == "ema" else state.gen.variables
    return OpenRun(
        step=at,
        dataset=setup.dataset,
        split=config.data.split,
        sampler=Sampler(
            setup.build,
            setup.dataset,
            setup.devices,
            seed=config.seed if seed is None else seed,
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
            f"{workdir} holds no checkpoint yet; train it first: ganjax train --workdir={quoted(workdir)} …"
        )
    return processes.from_main(found[0]), processes.state_from_main(found[1])


def check_memory(name: str, run: OpenRun, n: int) -> None:
    """Raises a `UserError` where `n` samples, which are held at once, would take more than a quarter of the memory."""
    each, most = math.prod(run.dataset.images.shape[1:]) * run.dataset.images.dtype.itemsize, memory() // 4
    if n * each > most:
        raise UserError(
            f"{name}={n} samples would take {n * each / 1e9:,.1f} GB, more than a quarter of this machine's memory. "
            f"Ask for {most // each:,} at most, and for more with other seeds, or write them to a folder."
        )
