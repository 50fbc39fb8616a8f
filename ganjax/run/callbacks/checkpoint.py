"""Checkpoints: the newest ones, and with `monitor.action=rollback_lower_lr` those that the monitor called healthy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ganjax.models import revisions
from ganjax.run.callbacks import Boundary
from ganjax.run.callbacks.monitor import Monitor
from ganjax.run.clock import Clock
from ganjax.run.recovery import HEALTHY_FOLDER, KEEP_HEALTHY, ROLLBACK
from ganjax.runtime.checkpoint import Checkpointer
from ganjax.training.divergence import check_faults
from ganjax.training.state import GanState


class Save:
    """Saves a checkpoint at each multiple of `every_steps`; the last one is saved by whoever ends the run."""

    def __init__(
        self,
        folder: Path,
        checkpoints: Checkpointer,
        monitor: Monitor,
        *,
        every_steps: int,
        action: str,
        family: str,
    ) -> None:
        self._folder, self._checkpoints, self._monitor = folder, checkpoints, monitor
        self._every, self._action, self._family = every_steps, action, family

    def due(self, step: int, *, last: bool) -> bool:
        """Returns True if a checkpoint is due at this step."""
        return step % self._every == 0 and not last

    def __call__(self, at: Boundary) -> None:
        """Saves a checkpoint in the background; see `save`."""
        self.save(at.step, at.state, at.clock)

    def save(self, step: int, state: GanState, clock: Clock, *, block: bool = False) -> None:
        """Saves a checkpoint of this step; with `block` it is on the disk when this returns.

        Raises:
          DivergedError: a loss or gradient was not finite; nothing is saved.
        """
        check_faults(state, self._folder)
        metadata = {"seconds": clock.seconds, **revisions.noted(self._family)}
        self._checkpoints.save(step, state, metadata=metadata, block=block)
        self.save_healthy(step, state, metadata)

    def save_healthy(self, step: int, state: GanState, metadata: Mapping[str, Any]) -> None:
        """Saves the twin of a checkpoint that a rollback may go back to; does nothing if it is there already."""
        if self._action == ROLLBACK and not self._monitor.watch.bad:
            with Checkpointer(self._folder / HEALTHY_FOLDER, keep=KEEP_HEALTHY) as healthy:
                healthy.save(step, state, metadata=metadata, block=True)
