"""Workdirs with a checkpoint of a generator that nobody trained: all that taking a model elsewhere needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from small import points_config, small_config

from ganjax.config.recipe import to_json
from ganjax.models import revisions
from ganjax.run.setup import load_data
from ganjax.runtime.checkpoint import Checkpointer
from ganjax.training.build import Build, build
from ganjax.training.state import GanState

STYLES = {
    "model__name": "stylegan2",
    "model__msg": "none",
    "gen__norm": "none",
    "dis__minibatch_stddev": False,
    "gen__style_dim": 8,
    "gen__mapping_layers": 2,
    "dis__spectral_norm": False,
}
CONFIGS: dict[str, Any] = {
    "classes": lambda: small_config(model__conditional=True, gen__width=4),
    "styles": lambda: small_config(**STYLES, gen__width=4),
    "points": lambda: points_config(model__latent_distribution="uniform", model__latent_dim=3),
}


def make_run(
    folder: Path, name: Any, *, noise: float = 0.5, metadata: Mapping[str, Any] | None = None
) -> tuple[Build, GanState]:
    """A run of `CONFIGS[name]`, or of the config `name`, at step 7, as ganjax made it before runs had a `data.json`.

    Its StyleGAN2 layers have noise of that strength; `metadata` as now.
    """
    config = CONFIGS[name]() if isinstance(name, str) else name
    made = build(config, load_data(config))
    state = jax.device_get(made.init())
    strength = lambda path, x: x + x.dtype.type(noise) if "noise" in jax.tree_util.keystr(path) else x
    state = replace(state, ema=jax.tree_util.tree_map_with_path(strength, state.ema))
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(to_json(config)))
    with Checkpointer(folder / "checkpoints", keep=1) as checkpoints:
        noted = revisions.noted(config.model.name) if metadata is None else metadata
        checkpoints.save(7, state, metadata=noted, block=True)
    return made, state
