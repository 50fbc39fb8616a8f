"""Small games that tests build steps from."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from ganjax.config import recipe as configs
from ganjax.data import Dataset
from ganjax.training import parallel
from ganjax.training.build import Build, build

IMAGES = np.random.default_rng(0).integers(0, 256, (96, 8, 8, 1), dtype=np.uint8)
POINTS = np.random.default_rng(1).normal(size=(512, 2)).astype(np.float32)


def small_dataset(points: bool = False) -> Dataset:
    """96 noise images of 8×8 with labels, or 512 points about one mode."""
    if points:
        modes = np.zeros((1, 2), np.float32)
        return Dataset("ring", POINTS, np.zeros(512, np.int32), 1, modes=modes, std=1.0)
    return Dataset("digits", IMAGES, (np.arange(96) % 10).astype(np.int32), 10)


def small_config(**options: Any) -> Any:
    """A game that compiles quickly; keys with `__` for the dots."""
    settings: dict[str, Any] = {
        "model.latent_dim": 8,
        "gen.width": 8,
        "dis.width": 8,
        "train.batch_size": 16,
        "model.msg": "simple",
        "dis.minibatch_stddev": True,
        **{key.replace("__", "."): value for key, value in options.items()},
    }
    config = configs.default_config()
    for key, value in settings.items():
        configs.set_option(config, key, value)
    configs.check(config)
    return config


def points_config(**options: Any) -> Any:
    """As `small_config`, for points."""
    base = {
        "data__name": "ring",
        "model__name": "mlp",
        "model__msg": "none",
        "dis__minibatch_stddev": False,
        "gen__norm": "none",
    }
    return small_config(**{**base, **options})


def run_steps(
    config: Any,
    *,
    devices: int = 1,
    steps: int = 3,
    mode: str = "pmap",
    per_call: int = 1,
    scan: bool = False,
    state: Any = None,
    transfer_guard: bool = True,
) -> tuple[Build, Any, list[dict[str, float]]]:
    """Runs a game from its first state, or `state`; returns build, host state and metrics of each call."""
    dataset = small_dataset(config.model.name == "mlp")
    made = build(config, dataset)
    used = jax.devices()[:devices]
    update = parallel.make_update(
        made.gan,
        made.make_batch,
        used,
        batch_size=config.train.batch_size,
        mode=mode,
        steps=per_call,
        scan=scan,
    )
    state = parallel.replicate(made.init() if state is None else state, used)
    data = parallel.replicate((dataset.images, dataset.labels), used)
    rows = []
    for _ in range(steps // per_call):
        with jax.transfer_guard("disallow" if transfer_guard else "allow"):
            state, metrics = update(state, data)
        rows.append({name: float(value) for name, value in jax.device_get(metrics).items()})
    return made, jax.device_get(state), rows
