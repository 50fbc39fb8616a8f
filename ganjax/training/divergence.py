"""Divergence: the first step with a loss or gradient that is not finite, noted in the state and read from it."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp

from ganjax.runtime.errors import DivergedError
from ganjax.training.state import GanState


def update_fault(state: GanState, name: str, metrics: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns `control` with the first step at which this network's loss or gradient was not finite."""
    fine = jnp.isfinite(metrics[f"loss/{name}"]) & jnp.isfinite(metrics[f"grad_norm/{name}"])
    before = state.control[f"fault/{name}"]
    return {**state.control, f"fault/{name}": jnp.where(fine | (before >= 0), before, state.step)}


def faults_of(state: GanState) -> dict[str, int]:
    """Returns the first step at which the loss or gradient of `dis` or `gen` was not finite, where it ever was not."""
    control = jax.device_get({name: state.control[name] for name in ("fault/dis", "fault/gen")})
    return {name.split("/")[1]: int(step) for name, step in control.items() if step >= 0}


def check_faults(state: GanState, folder: Path) -> None:
    """Raises a `DivergedError` for the run in `folder` if a loss or gradient was ever not finite."""
    faults = faults_of(state)
    if not faults:
        return
    culprit, step = min(faults.items(), key=lambda item: (item[1], item[0]))
    name = {"dis": "the discriminator", "gen": "the generator"}[culprit]
    raise DivergedError(
        f"The run diverged: the loss or gradient of {name} (loss/{culprit}) stopped being finite at step "
        f"{step}. The state is saved in {folder / 'diverged'}; the checkpoints in {folder / 'checkpoints'} are older "
        "and finite. Try a lower learning rate, spectral normalisation or a gradient penalty in a new workdir."
    )
