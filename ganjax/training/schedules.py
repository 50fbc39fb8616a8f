"""What follows the schedule of a learning rate: how far it has come, and β₂."""

from __future__ import annotations

from collections.abc import Callable

import jax
from ml_collections import ConfigDict

from ganjax.training.optim import make_progress


def progress_of(config: ConfigDict, net: str) -> Callable[[jax.Array], jax.Array]:
    """step → how far the schedule of the learning rate of `gen` or `dis` has come, 0 to 1."""
    options = config[net].optimizer
    return make_progress(
        options.schedule,
        steps=config.train.steps,
        warmup_steps=options.warmup_steps,
        end=options.schedule_end,
    )


def make_beta2(config: ConfigDict, net: str) -> Callable[[jax.Array], jax.Array] | None:
    """β₂ from `beta2` to `final_beta2` as the rate goes to its end (Huang et al. 2024); None where it stays."""
    options = config[net].optimizer
    if not options.final_beta2:
        return None
    progress = progress_of(config, net)
    return lambda step: options.beta2 + (options.final_beta2 - options.beta2) * progress(step)
