"""The monitor that a config asks for, on the data and devices of a run."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ganjax.config.rules import MIXTURES
from ganjax.data import DATASETS, Dataset, to_float
from ganjax.data.images import at_sides
from ganjax.evals.metrics.ms_ssim import count_scales, ms_ssim
from ganjax.evals.monitor import Probe, Reference, Watch, features_of
from ganjax.evals.monitor.verdicts import Row
from ganjax.run.setup import Setup, batch_unit, load_data
from ganjax.training import parallel
from ganjax.training.build import compared_together

REFERENCE_IMAGES = 4096  # of which the reference is made
JUDGED = 0.25  # share of the fixed batch that D judges: its passes cost most


def make_watch(
    config: ConfigDict,
    setup: Setup,
    rows: Iterable[Row],
    earlier: Watch | None = None,
    *,
    twin: Watch | None = None,
) -> Watch:
    """Makes the monitor of this run; `rows` are those before the step from which the run goes on.

    The probe is taken from an `earlier` monitor of this run. Of a `twin`, the monitor of a run that shares the program,
    only the compiled program is used.
    """
    probe = None
    if config.monitor.samples:
        shared = twin.probe if twin is not None and isinstance(twin.probe, Probe) else None
        probe = make_probe(config, setup, shared) if earlier is None else earlier.probe
    return Watch(
        probe,
        total_steps=config.train.steps,
        every_steps=config.monitor.every_steps,
        log_steps=config.log.every_steps,
        rows=rows,
    )


def make_probe(config: ConfigDict, setup: Setup, twin: Probe | None = None) -> Probe:
    """Makes the probe with its fixed reals, chosen at random once for a seed; a `twin` lends its program.

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

    data = (
        pyramid(dataset.images[chosen[:judged]], dataset.scale),
        None if dataset.labels is None else dataset.labels[chosen],
        None if heldout is None or drawn is None else pyramid(heldout.images[drawn], heldout.scale),
        reference_of(dataset, order),
    )
    if twin is not None:
        return twin.with_data(*data)
    spread = functools.partial(parallel.map_shares, devices=setup.devices)
    return Probe(build.gan, spread, len(setup.devices), wanted, *data, similarity_of(dataset))


def reference_of(dataset: Dataset, order: np.ndarray) -> Reference:
    """Returns the reference that samples are compared with."""
    images = dataset.images[order[:REFERENCE_IMAGES]]
    scaled = images / np.float32(127.5) - 1.0 if images.dtype == np.uint8 else images / dataset.scale
    return Reference.of(features_of(scaled))


def similarity_of(dataset: Dataset) -> Callable[[jax.Array, jax.Array], jax.Array] | None:
    """Returns a function for the MS-SSIM of pairs where the data are images, else None."""
    if dataset.images.ndim != 4:
        return None
    return functools.partial(ms_ssim, scales=count_scales(min(dataset.images.shape[1:3])))


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
