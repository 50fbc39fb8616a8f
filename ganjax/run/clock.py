"""The clock of a run: its speed, and the number of steps in one call."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from ml_collections import ConfigDict


@dataclass
class Clock:
    """A counter of the seconds and images of a run, those of its earlier sittings included."""

    before: float = 0.0
    start: float = field(default_factory=time.monotonic)
    last_seconds: float = 0.0
    last_step: int = 0

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.start

    def rate(self, step: int) -> float:
        """Returns the steps per second since the last call."""
        now = self.seconds
        rate = (step - self.last_step) / max(now - self.last_seconds, 1e-9)
        self.last_seconds, self.last_step = now, step
        return rate

    def skip(self) -> None:
        """Leaves the time since the last `rate` out of the next: it was not spent on steps."""
        self.last_seconds = self.seconds


def steps_per_call(config: ConfigDict, start: int, scan: bool) -> int:
    """Returns the largest number of steps in a call that meets every boundary: log, grid, checkpoint, end."""
    boundaries = math.gcd(
        config.train.steps,
        config.log.every_steps,
        config.log.sample_every_steps,
        config.checkpoint.every_steps,
        start,
    )
    # A scanned call of 50 small steps hides the cost of dispatch; unrolled steps only cost compile time.
    most = config.train.steps_per_call or (50 if scan else 1)
    return max(n for n in range(1, min(boundaries, most) + 1) if boundaries % n == 0)
