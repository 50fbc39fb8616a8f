"""`ganjax evaluate`: compares samples of a run's checkpoint, or images of any origin, with real images."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ganjax.config import plugin_record
from ganjax.data import DATASETS, Dataset, load
from ganjax.data.sources.folder import image_folder
from ganjax.evals.evaluator import Evaluator
from ganjax.evals.metrics.measures import check_names
from ganjax.evals.metrics.protocol import Measurement, Protocol
from ganjax.evals.metrics.statistics import in_blocks
from ganjax.run.data_facts import data_of
from ganjax.run.open import open_run
from ganjax.runtime import processes
from ganjax.runtime.errors import UserError
from ganjax.runtime.files import atomic_write_json, read_json
from ganjax.runtime.keys import check_seeds
from ganjax.runtime.logs import Stages
from ganjax.training import parallel

LEAST = 20  # samples


def evaluate_run(
    workdir: Path,
    names: Sequence[str],
    *,
    n: int,
    seed: int | None = None,
    weights: str = "ema",
    step: int | None = None,
    devices: int = 0,
    features: str = "",
    data: str = "",
    class_shares: str = "",
) -> list[Measurement]:
    """Measures `n` samples of a run's checkpoint against the data that it was trained on.

    All processes make samples. The main process evaluates them, and the others return nothing.

    Args:
      workdir: folder of the run.
      names: names of the metrics.
      n: number of samples.
      seed, weights, step, devices: as in `ganjax.run.sample.sample`.
      features: see `metrics.features.choose`.
      data: path of the data where they lie elsewhere than in training.
      class_shares: `data` or `even`, in place of the config's `eval.class_shares`.

    Raises:
      UserError: the folder has no run, names are unknown, the data are gone, or metrics do not fit them.
    """
    plugin_record.restore_run(workdir)
    _check(names, n)
    stages = Stages(sys.stderr, enabled=processes.is_main())
    with stages("Opening the run and its data"):
        run = open_run(workdir, n=n, seed=seed, weights=weights, step=step, devices=devices, data=data)
        dataset = data_of(workdir, run.config, "evaluate", data) if processes.is_main() else run.dataset
    shares = class_shares or run.config.eval.class_shares
    sampler = run.sampler
    if run.build.classes and shares == "data":
        known = run.dataset.counts or (dataset.class_counts if processes.is_main() else ())
        sampler = sampler.at_shares(processes.from_main(known))
    blocks = sampler.blocks(run.variables, n)
    if not processes.is_main():
        for _ in blocks:
            pass
        return []
    judge = Evaluator(dataset, run.split, features, stages)
    return judge(
        blocks,
        names,
        weights=weights,
        class_shares=shares if run.build.classes else "",
        seed=run.sampler.seed,
        step=run.step,
        origin=str(workdir),
    )


def evaluate_images(
    images: Path, reference: str, names: Sequence[str], *, n: int = 0, seed: int = 0, features: str = ""
) -> list[Measurement]:
    """Measures the pictures of a folder, or of an .npz, against a data set or another folder.

    Args:
      images: folder or .npz.
      reference: a name of `ganjax.data.load`, with `:SPLIT` where it is not `train`; or a folder or .npz.
      names: names of the metrics.
      n: number of images to take; 0 takes all.
      seed: seed of their choice and of the draws.
      features: see `metrics.features.choose`.

    Raises:
      UserError: as for `evaluate_run`, or images that cannot be read.
    """
    check_seeds([seed])
    with Stages(sys.stderr)(f"Reading {images}"):
        judged = image_folder(images)
    count = n or len(judged)
    _check(names, count)
    if count > len(judged):
        raise UserError(f"--samples={n}, and {images} has {len(judged)} images.")
    dataset, split = read_reference(reference)
    if judged.images.shape[3:] != dataset.images.shape[3:]:
        raise UserError(
            f"{images} has samples of shape {judged.images.shape[1:]}, and {reference} of {dataset.images.shape[1:]}."
        )
    parallel.prepare_backend(count, 1, 0)
    order = np.random.default_rng(seed).permutation(len(judged))[:count]
    judge = Evaluator(dataset, split, features, Stages(sys.stderr))
    blocks = in_blocks(judged.images, order)
    return judge(blocks, names, weights="images", seed=seed, step=-1, origin=str(images))


def read_reference(reference: str) -> tuple[Dataset, str]:
    """Reads the real images of a name or a folder, and their split (empty for a folder)."""
    name, _, split = reference.partition(":")
    if name not in DATASETS and Path(reference).exists():
        return image_folder(Path(reference)), ""
    return load(name, split=split or "train"), split or "train"


def write_results(path: Path, results: Sequence[Measurement]) -> None:
    """Writes the results as a JSON list."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_json(path, [result.to_json() for result in results])
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from error


def read_results(path: Path) -> list[Measurement]:
    """Reads the results that `write_results` wrote. Raises a `UserError` where the file holds something else."""
    try:
        records = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} holds no results of `ganjax evaluate`: {error}.") from None
    if not isinstance(records, list):
        raise UserError(f"{path} holds no results of `ganjax evaluate`, which are a JSON list of objects.")
    try:
        return [Measurement.from_json(record) for record in records]
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def compare(results: Sequence[Measurement], earlier: Sequence[Measurement]) -> dict[str, float]:
    """Returns the difference of each number from the earlier one of its name, new minus earlier.

    Raises:
      UserError: a protocol differs, or the two lists have no name in common.
    """
    before = {result.name: result for result in earlier}
    shared = [result for result in results if result.name in before]
    if not shared:
        raise UserError(f"Nothing to compare: the earlier results have {', '.join(before) or 'nothing'}.")
    return {result.name: result - before[result.name] for result in shared}


def table(results: Sequence[Measurement], changes: dict[str, float] | None = None) -> str:
    """Returns the results as text for a person: value, interval, floor, and the protocol they share."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("measure", "value", "95 % interval", "real vs real", *(["change"] if changes else [])):
        grid.add_column(title, justify="left" if title == "measure" else "right", no_wrap=True)
    for result in results:
        cells = [
            result.name,
            f"{result.value:.4g}",
            f"{result.low:.4g} … {result.high:.4g}",
            "–" if result.floor is None else f"{result.floor:.4g}",
        ]
        if changes:
            cells.append(f"{changes[result.name]:+.4g}" if result.name in changes else "–")
        grid.add_row(*cells)
    console = Console(width=100, color_system=None)
    with console.capture() as captured:
        console.print(grid)
    return captured.get().rstrip() + "\n" + _protocol_lines(results[0].protocol)


def _protocol_lines(protocol: Protocol) -> str:
    p = dataclasses.asdict(protocol)
    network = p["features"] + (f" (sha256 {p['features_sha256'][:12]})" if p["features_sha256"] else "")
    step = f" of step {p['step']}" if p["step"] >= 0 else ""
    split = f", split {p['split']}" if p["split"] else ""
    shares = f", class shares: {p['class_shares']}" if p["class_shares"] else ""
    return (
        f"{p['sample_count']} samples ({p['weights']}{step}, seed {p['seed']}{shares}) against "
        f"{p['reference_count']} of {p['reference']}{split}; features {network}, resize {p['resize']}; "
        f"ganjax {p['commit']}"
    )


def _check(names: Sequence[str], n: int) -> None:
    check_names(names)
    if n < LEAST:
        raise UserError(f"--samples takes an integer of at least {LEAST}, and got {n}.")
