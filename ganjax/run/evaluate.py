"""`ganjax evaluate`: compares samples of a run's checkpoint, or images of any origin, with real images."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ganjax.config import plugin_record
from ganjax.data import DATASETS, Dataset, load
from ganjax.data.sources.folder import image_folder
from ganjax.evals.features import FeatureNetwork, choose
from ganjax.evals.metrics.measures import Case, check_names, measure
from ganjax.evals.metrics.protocol import Measurement, Protocol, code_version
from ganjax.evals.metrics.statistics import gather, in_blocks, of_reference
from ganjax.run.sample import open_run
from ganjax.runtime import processes
from ganjax.runtime.errors import UserError
from ganjax.runtime.files import atomic_write_json, cache_dir
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
) -> list[Measurement]:
    """Measures `n` samples of a run's checkpoint against the data that it was trained on.

    All processes make samples. The main process evaluates them, and the others return nothing.

    Args:
      workdir: folder of the run.
      names: names of the metrics.
      n: number of samples.
      seed, weights, step, devices: as in `ganjax.run.sample.sample`.
      features: see `metrics.features.choose`.

    Raises:
      UserError: the folder has no run, names are unknown, or metrics do not fit the data.
    """
    plugin_record.restore_run(workdir)
    _check(names, n)
    run = open_run(workdir, n=n, seed=seed, weights=weights, step=step, devices=devices)
    blocks = run.sampler.blocks(run.variables, n)
    if not processes.is_main():
        for _ in blocks:
            pass
        return []
    judge = Judge(run.dataset, run.split, features)
    return judge(
        blocks,
        names,
        weights=weights,
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
    judge = Judge(dataset, split, features)
    blocks = in_blocks(judged.images, order)
    return judge(blocks, names, weights="images", seed=seed, step=-1, origin=str(images))


def read_reference(reference: str) -> tuple[Dataset, str]:
    """Reads the real images of a name or a folder, and their split (empty for a folder)."""
    name, _, split = reference.partition(":")
    if name not in DATASETS and Path(reference).exists():
        return image_folder(Path(reference)), ""
    return load(name, split=split or "train"), split or "train"


class Judge:
    """An evaluator that compares samples with one reference. Training makes it once and calls it often."""

    def __init__(self, dataset: Dataset, split: str, features: str = "") -> None:
        """Sets up the evaluator. `dataset` holds the real samples; for `features` see `metrics.features.choose`."""
        self.dataset, self.split = dataset, split
        self.network: FeatureNetwork = choose(features, dataset)
        self.reals = of_reference(dataset, self.network, split, cache_dir("metrics"))

    def __call__(
        self,
        blocks: Iterable[np.ndarray],
        names: Sequence[str],
        *,
        weights: str,
        seed: int,
        step: int,
        origin: str,
        quick: bool = False,
    ) -> list[Measurement]:
        """Measures samples that come in blocks; `quick` leaves out floors, and makes rougher intervals."""
        fakes = gather(blocks, self.network)
        case = Case(self.reals, fakes, self.dataset, self.network, seed, rough=quick)
        protocol = Protocol(
            features=self.network.name,
            features_sha256=self.network.sha256,
            resize=self.network.resize,
            reference=self.dataset.name,
            split=self.split,
            reference_sha256=self.dataset.fingerprint,
            reference_count=self.reals.count,
            sample_count=fakes.count,
            weights=weights,
            seed=seed,
            commit=code_version(),
            step=step,
            origin=origin,
        )
        return measure(names, case, protocol, floor=not quick)


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
        records: Any = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: expected the results of `ganjax evaluate` as JSON, came: {error}."
        ) from None
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise UserError(f"{path}: expected the results of `ganjax evaluate`, a JSON list of objects.")
    return [Measurement.from_json(record) for record in records]


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
    return (
        f"{p['sample_count']} samples ({p['weights']}{step}, seed {p['seed']}) against {p['reference_count']} of "
        f"{p['reference']}{split}; features {network}, resize {p['resize']}; ganjax {p['commit']}"
    )


def _check(names: Sequence[str], n: int) -> None:
    check_names(names)
    if n < LEAST:
        raise UserError(f"--samples takes an integer of at least {LEAST}, and got {n}.")
