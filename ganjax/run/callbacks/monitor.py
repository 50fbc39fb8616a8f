"""The monitor of a run: what it adds to log lines, what it says, and the fixed batch that it measures."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import asdict

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ganjax.config.rules import MIXTURES
from ganjax.data import DATASETS, Dataset, to_float
from ganjax.data.images import at_sides
from ganjax.evals.metrics.ms_ssim import count_scales, ms_ssim
from ganjax.evals.monitor import Probe, ProbeProgram, Reference, Verdict, Watch, class_spreads, features_of
from ganjax.evals.monitor.verdicts import Row
from ganjax.run.callbacks import Boundary, Every
from ganjax.run.recovery import Relapse, Remedies
from ganjax.run.setup import Setup, batch_unit, load_data
from ganjax.runtime import processes
from ganjax.training.build import compared_together
from ganjax.training.state import GanState

REFERENCE_IMAGES = 4096  # of which the reference is made
JUDGED = 0.25  # share of the fixed batch that D judges: its passes cost most


class Monitor(Every):
    """Adds the monitor's signals and its verdict to each log line.

    Attributes:
      watch: the monitor's memory and opinion.
      before: the verdicts before the last line.
    """

    def __init__(self, config: ConfigDict, setup: Setup, rows: Iterable[Row]) -> None:
        """Sets up the monitor; `rows` are the log lines before the step from which the run goes on."""
        super().__init__(config.log.every_steps)
        self._config = config
        self._probe = make_probe(config, setup) if config.monitor.samples else None
        self.rewind(rows)

    def compile(self, state: GanState) -> None:
        """Compiles the probe for states like this one, of arrays or of their shapes and shardings."""
        if self._probe is not None:
            self._probe.compile(state)

    def rewind(self, rows: Iterable[Row]) -> None:
        """Forgets all but the log lines `rows`."""
        self.watch = Watch(
            self._probe,
            total_steps=self._config.train.steps,
            every_steps=self._config.monitor.every_steps,
            log_steps=self._config.log.every_steps,
            rows=rows,
        )
        self.before = self.watch.verdicts

    def __call__(self, at: Boundary) -> None:
        """Adds signals, where a probe is due, and the verdict to the log line."""
        self.before = self.watch.verdicts
        at.row.update(self.watch(at.step, at.state, at.row, last=at.last))


class Advise(Every):
    """Tells what the monitor has changed its mind about, and asks for a recovery where the config wants one."""

    def __init__(self, config: ConfigDict, monitor: Monitor, remedies: Remedies) -> None:
        super().__init__(config.log.every_steps)
        self._silent = config.monitor.action == "none"
        self._monitor, self._remedies = monitor, remedies

    def __call__(self, at: Boundary) -> None:
        """Writes new verdicts in words. Raises a `Relapse` for a bad one that a recovery is left for."""
        watch, before = self._monitor.watch, self._monitor.before
        if not self._silent:
            known = {verdict.name for verdict in before}
            for verdict in watch.verdicts:
                if verdict.name not in known:
                    at.writer.message(
                        f"Monitor at step {at.step}: {verdict.name} since step {verdict.since}: {verdict.evidence}. "
                        f"{verdict.advice} (Lesson {verdict.lesson}.)"
                    )
            if before and not watch.verdicts:
                at.writer.message(f"Monitor at step {at.step}: healthy again.")
        if self._remedies.available:
            bad = processes.from_main([asdict(verdict) for verdict in watch.bad[:1]])
            if bad:
                raise Relapse(Verdict(**bad[0]))


def make_probe(config: ConfigDict, setup: Setup) -> Probe:
    """Makes the probe with its fixed reals, chosen at random once for a seed.

    Raises:
      UserError: `monitor.heldout` names no split.
    """
    dataset, build = setup.dataset, setup.build
    rng = np.random.default_rng(config.seed)
    order = rng.permutation(len(dataset))
    unit = len(setup.devices) * math.lcm(batch_unit(config), config.dis.packing * compared_together(config))
    wanted = max(config.monitor.samples // unit, 1) * unit
    judged = max(round(JUDGED * wanted) // unit, 1) * unit
    chosen = np.resize(order, wanted)  # a small data set is gone round again
    heldout = held_out(config)
    drawn = None if heldout is None else rng.integers(0, len(heldout), judged)

    def pyramid(images: np.ndarray, scale: float) -> tuple[np.ndarray, ...]:
        x = to_float(jnp.asarray(images)) if images.dtype == np.uint8 else jnp.asarray(images / scale)
        return tuple(np.asarray(level) for level in jax.device_get(at_sides(x, build.sides)))

    known = order[:REFERENCE_IMAGES]
    features = real_features(dataset, known)
    labels = np.asarray(dataset.labels[known]) if build.classes and dataset.labels is not None else None
    devices, similarity = setup.devices, similarity_scales(dataset)
    program = build.programs.get(
        ("probe", tuple(devices), similarity),
        lambda: ProbeProgram(
            build.gan, devices, functools.partial(ms_ssim, scales=similarity) if similarity else None
        ),
    )
    return Probe(
        program,
        len(devices),
        wanted,
        pyramid(dataset.images[chosen[:judged]], dataset.scale),
        None if dataset.labels is None else dataset.labels[chosen],
        None if heldout is None or drawn is None else pyramid(heldout.images[drawn], heldout.scale),
        Reference.of(features),
        None if labels is None else class_spreads(features, labels),
        dataset.label_names,
    )


def real_features(dataset: Dataset, chosen: np.ndarray) -> np.ndarray:
    """Returns the features [N, F] of the real samples at these places."""
    images = dataset.images[chosen]
    return features_of(
        images / np.float32(127.5) - 1.0 if images.dtype == np.uint8 else images / dataset.scale
    )


def similarity_scales(dataset: Dataset) -> int:
    """Returns the number of scales of MS-SSIM for images of this size; 0 for points, which have none."""
    return count_scales(min(dataset.images.shape[1:3])) if dataset.images.ndim == 4 else 0


def held_out(config: ConfigDict) -> Dataset | None:
    """Returns real samples that D is never trained on.

    They are another draw of a mixture, the split that `monitor.heldout` names, or the held-out split of the training
    split.
    """
    data, split = config.data, config.monitor.heldout
    seed = config.seed
    if split == "auto":
        known = DATASETS[data.name].heldout if data.name in DATASETS else {}
        split = data.split if data.name in MIXTURES else known.get(data.split, "none")
        seed += data.name in MIXTURES
    if split == "none":
        return None
    return load_data(config, split=split, seed=seed)
