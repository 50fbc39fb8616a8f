"""Chooses the number of runs per device, by trial on the study's base. The choice is kept in the study's folder."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ganjax.run.setup import load_data, scans
from ganjax.runtime.files import atomic_write_json, read_object
from ganjax.study.config import RunSpec
from ganjax.training import parallel
from ganjax.training.build import build

FILE = "calibration.json"
SIZES = (1, 2, 3, 4, 6, 8)
GAIN = 1.05  # that a larger size must bring, else the smaller one, which needs less memory, is taken
CALLS = 5
SECONDS = 30.0  # a size that needs more than this for one call is out of the question


def per_device(base: Sequence[RunSpec], devices: Sequence[jax.Device], workdir: Path) -> int:
    """Returns the number of base runs that a device trains at once.

    It is the earlier choice in this folder, or the best by trial.
    """
    path = workdir / FILE
    chosen = read_object(path).get("per_device")
    if chosen in SIZES and isinstance(chosen, int):
        return chosen
    most = -(-len(base) // len(devices))
    rates: dict[int, float] = {}
    best = 1
    for size in (size for size in SIZES if size <= most):
        rates[size] = steps_per_second(base[0], devices, size)
        if size > best and rates[size] <= rates[best] * GAIN:
            break
        best = size
    atomic_write_json(
        path,
        {
            "per_device": best,
            "devices": [str(device) for device in devices],
            "steps_per_second": {str(size): round(rate, 2) for size, rate in rates.items()},
        },
    )
    return best


def steps_per_second(run: RunSpec, devices: Sequence[jax.Device], size: int) -> float:
    """Returns the steps per second of all runs, with `size` copies of the run on each device.

    It is the median of some calls.
    """
    config = run.config
    dataset = load_data(config)
    made = build(config, dataset, axis_name=None)
    scan = scans(config, devices[0])
    steps = min(config.log.every_steps, 50) if scan else 1
    update = parallel.make_population_update(
        made.gan,
        made.make_batch,
        devices,
        batch_size=config.train.batch_size,
        steps=steps,
        scan=scan,
        several=size > 1,
        own_data=False,
    )
    data = parallel.replicate((dataset.images, dataset.labels), devices)
    first = jax.device_get(made.init())
    shape = (len(devices), size) if size > 1 else (len(devices),)
    state = jax.tree.map(lambda x: np.broadcast_to(x, shape + np.shape(x)), first)
    step = np.broadcast_to(first.step, (len(devices),))
    states: Any = parallel.divide(dataclasses.replace(state, step=step), devices)
    times: list[float] = []
    for _ in range(1 + CALLS):
        begin = time.perf_counter()
        states, _ = update(states, data)
        jax.block_until_ready(states)
        times.append(time.perf_counter() - begin)
        if sum(times[1:]) > SECONDS:
            break
    return len(devices) * size * steps / statistics.median(times[1:])
