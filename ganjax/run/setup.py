"""Turns a checked config into data, devices and a build, in the order in which mistakes cost least."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Sequence
from dataclasses import dataclass

import jax
from ml_collections import ConfigDict

from ganjax.config import plugin_record
from ganjax.config.recipe import flatten
from ganjax.data import Dataset, load
from ganjax.data.feed import Feed, Resident, Share, Stream
from ganjax.data.lazy import LazyImages
from ganjax.models.layers import native
from ganjax.runtime import processes
from ganjax.runtime.version import __version__
from ganjax.training import parallel
from ganjax.training.build import Build, batches_per_step, build

PLACES = (
    "data.path",
    "data.manual_dir",
    "init.from",
)  # may differ between hosts, as long as the data there do not
COMPUTING = ("jax", "jaxlib", "flax", "optax")
SETTINGS = (  # of JAX, that change numbers
    "jax_default_dtype_bits",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_enable_x64",
    "jax_numpy_dtype_promotion",
    "jax_random_seed_offset",
    "jax_softmax_custom_jvp",
    "jax_threefry_partitionable",
)


@dataclass(frozen=True)
class Setup:
    """A config ready to run on this machine.

    Attributes:
      dataset: the whole data set, on the host or, where it streams, on the disk.
      devices: devices to run on.
      build: networks, step, first state.
      scan: True if several steps of a call are a loop on the device.
    """

    dataset: Dataset
    devices: Sequence[jax.Device]
    build: Build
    scan: bool

    @property
    def convolutions(self) -> str:
        """The kind of convolutions that the networks have here; networks of points have none."""
        return native.describe(self.dataset.images.ndim == 4)

    def feed(self, config: ConfigDict, steps: int) -> Feed:
        """Returns the data of the run, for calls of `steps` steps."""
        images, labels = self.dataset.images, self.dataset.labels
        if not isinstance(images, LazyImages):
            return Resident(parallel.replicate((images, labels), self.devices))
        count = processes.count()
        share = Share(
            config.train.batch_size,
            batches_per_step(config),
            steps,
            len(self.devices) // count,
            processes.index(),
            count,
        )
        return Stream(
            images.reader,
            share,
            lambda data: parallel.divide(data, self.devices),
            labelled=labels is not None,
            threads=config.data.threads or len(os.sched_getaffinity(0)),
        )


def batch_unit(config: ConfigDict) -> int:
    """Returns the number of which a device's share of the batch must be a multiple."""
    return config.train.accumulate * config.dis.packing


def choose_devices(config: ConfigDict) -> list[jax.Device]:
    """Returns the devices to train on.

    Raises:
      UserError: fewer than asked for, or a batch that does not divide among them.
    """
    unit = batch_unit(config)
    parallel.prepare_backend(config.train.batch_size, unit, config.parallel.devices)
    return parallel.choose_devices(config.train.batch_size, unit, config.parallel.devices)


def prepare(
    config: ConfigDict, devices: Sequence[jax.Device] | None = None, dataset: Dataset | None = None
) -> Setup:
    """Loads the data and builds the step; nothing is compiled.

    Args:
      config: checked.
      devices: those of `choose_devices` by default.
      dataset: a stand-in for data that are not to be read (`data_facts.stand_in`).

    Raises:
      UserError: data, devices or sizes that do not fit, or differ from those of the main process.
    """
    devices = choose_devices(config) if devices is None else devices
    same: dict[str, str] = {}
    if dataset is None:
        dataset = load_data(config, devices)
        same["data"] = dataset.fingerprint if processes.count() > 1 else ""
    if processes.count() > 1:
        given = {
            f"--config.{key}": repr(value) for key, value in flatten(config).items() if key not in PLACES
        }
        code = ", ".join(source.sha256 for source in plugin_record.used(flatten(config)))
        processes.check_same({**given, **numerics(dataset), **same, "plugins": code})
    return Setup(
        dataset=dataset,
        devices=devices,
        build=build(config, dataset),
        scan=scans(config, devices[0]),
    )


def numerics(dataset: Dataset) -> dict[str, str]:
    """Returns what changes a run's numbers besides its options and data: versions, and settings of JAX and XLA."""
    flags = (flag for flag in os.environ.get("XLA_FLAGS", "").split() if "dump" not in flag)
    return {
        "ganjax": __version__,
        **{name: importlib.metadata.version(name) for name in COMPUTING},
        **{name: str(jax.config.values.get(name)) for name in SETTINGS},
        "XLA_FLAGS": " ".join(sorted(flags)),
        "platform": jax.default_backend(),
        "convolutions": native.describe(dataset.images.ndim == 4).partition(",")[0],
    }


def load_data(
    config: ConfigDict,
    devices: Sequence[jax.Device] = (),
    *,
    split: str | None = None,
    seed: int | None = None,
) -> Dataset:
    """Loads the data set that `config` names; another split or seed is used where these are given.

    With `data.delivery=auto`, the memory of the `devices`, all by default, decides if the data are held in memory.

    Raises:
      UserError: see `ganjax.data.load`.
    """
    options = config.data
    limits = {"resident": None, "streaming": 0, "auto": parallel.resident_budget(devices or jax.devices())}
    return load(
        options.name,
        path=options.path,
        manual_dir=options.manual_dir,
        split=options.split if split is None else split,
        resolution=options.resolution,
        seed=config.seed if seed is None else seed,
        max_bytes=limits[options.delivery],
        max_corrupt=options.max_corrupt,
    )


def scans(config: ConfigDict, device: jax.Device) -> bool:
    """Returns True if several steps are a loop on the device.

    On CPU, convolutions in a loop crawl, matrix products do not.
    """
    return device.platform != "cpu" or config.model.name == "mlp"
