"""Settings of ganjax's config beside each other: images a second in turn, each against the first.

Shared by the benchmarks that compare ganjax with itself. Every setting is a process of its own (`train_speed.py`'s
worker), which waits while another has its turn.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from measure import CASES, Worker, load_config, spread, turns, whole_calls

WORKER = Path(__file__).resolve().with_name("train_speed.py")


@dataclass(frozen=True)
class Setting:
    """A game of `CASES`, and its changes, each KEY=VALUE."""

    game: str
    changes: Sequence[str] = ()


@dataclass(frozen=True)
class Found:
    """What a setting measured.

    Attributes:
      rate: images (reals that D's updates see) a second over rounds: median, min, max.
      to_first: its rate over the first setting's, in the same round: median, min, max.
      peak_mib: the most memory that its process held.
    """

    rate: dict[str, float]
    to_first: dict[str, float]
    peak_mib: float


def compare(settings: Mapping[str, Setting], repeats: int) -> dict[str, Found]:
    """Plays all settings in turn, `repeats` rounds after one that warms up."""
    workers: dict[str, Worker] = {}
    steps: dict[str, int] = {}
    images: dict[str, int] = {}
    try:
        for name, setting in settings.items():
            config = load_config(setting.game, [tuple(change.split("=", 1)) for change in setting.changes])
            own = [f"--set={change}" for change in setting.changes]
            workers[name] = Worker([sys.executable, str(WORKER), "--worker", setting.game, *own], name=name)
            steps[name] = whole_calls(CASES[setting.game].steps, workers[name].ready["per_call"])
            images[name] = steps[name] * config.train.batch_size * config.train.dis_steps
        calls = {
            name: (lambda name=name, worker=worker: worker.ask(steps=steps[name]))
            for name, worker in workers.items()
        }
        turns(calls, 1)  # warms up
        rounds, _ = turns(calls, repeats)
    finally:
        for worker in workers.values():
            worker.close()
    rates = {name: [images[name] / row["seconds"] for row in rows] for name, rows in rounds.items()}
    first = rates[next(iter(rates))]
    return {
        name: Found(
            rate=spread(rates[name]),
            to_first=spread([own / other for own, other in zip(rates[name], first, strict=True)]),
            peak_mib=statistics.median(row["peak_mib"] for row in rows),
        )
        for name, rows in rounds.items()
    }
