"""Turns a checked config into data, devices and a build, in the order in which mistakes cost least."""

from __future__ import annotations

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
from ganjax.training import parallel
from ganjax.training.build import Build, batches_per_step, build

PLACES = ("data.path", "data.manual_dir")  # may differ between hosts, as long as the data there do not


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


def prepare(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Setup:
    """Loads the data and builds the step; nothing is compiled.

    Args:
      config: checked.
      devices: those of `choose_devices` by default.

    Raises:
      UserError: data, devices or sizes that do not fit, or differ from those of the main process.
    """
    devices = choose_devices(config) if devices is None else devices
    dataset = load_data(config, devices)
    if processes.count() > 1:
        given = {
            f"--config.{key}": repr(value) for key, value in flatten(config).items() if key not in PLACES
        }
        code = ", ".join(source.sha256 for source in plugin_record.used(flatten(config)))
        same = {"jax": jax.__version__, "data": dataset.fingerprint, "plugins": code}
        processes.check_same({**given, **same})
    return Setup(
        dataset=dataset,
        devices=devices,
        build=build(config, dataset),
        scan=scans(config, devices[0]),
    )


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
