"""The monitor's remedies for a run that went wrong: a restart or a rollback, with lower rates and another seed.

Each remedy is written to `WORKDIR/remedies.json` before anything is moved. So the next start finishes one that a crash
cut short, and their number is bounded whatever happens. The files of a failed attempt go to `WORKDIR/attempts/N`.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
from ml_collections import ConfigDict

from ganjax.evals.monitor import Verdict
from ganjax.runtime.checkpoint import Checkpointer
from ganjax.runtime.errors import UserError
from ganjax.runtime.files import atomic_write_json, make_record, read_json
from ganjax.training.state import GanState

RESTART, ROLLBACK = "restart_lower_lr", "rollback_lower_lr"
FILE, ATTEMPTS, HEALTHY_FOLDER = "remedies.json", "attempts", "healthy"
KEEP_HEALTHY = 3
SEED_STRIDE = 1_000_003  # between the randomness of one attempt and of the next
# What a restart takes out of the way; a rollback only the checkpoints, which are newer than what it goes back to.
MOVED = {
    RESTART: ("checkpoints", HEALTHY_FOLDER, "samples", "best", "evaluations"),
    ROLLBACK: ("checkpoints",),
}


@dataclass(frozen=True)
class Remedy:
    """A remedy: one restart or rollback.

    Attributes:
      number: 1, 2, …
      action: `restart_lower_lr` or `rollback_lower_lr`.
      step: the step at which the run was left.
      verdict: the verdict that it was left for.
      evidence: evidence of the verdict.
      to_step: the step from which it goes on; 0 is from scratch.
      rate_gen, rate_dis: factors on the config's learning rates from then on.
      seed: seed of the run from then on.
    """

    number: int
    action: str
    step: int
    verdict: str
    evidence: str
    to_step: int
    rate_gen: float
    rate_dis: float
    seed: int


class Relapse(Exception):
    """A request of the monitor for a remedy; the loop takes it."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.name)
        self.verdict = verdict


class Remedies:
    """The remedies of a run, and the number that it may still take."""

    def __init__(self, folder: Path, config: ConfigDict, *, owned: bool = True) -> None:
        """Reads the remedies taken, and finishes one that a crash cut short.

        A folder that is not `owned` is left alone.

        Raises:
          UserError: `remedies.json` is damaged.
        """
        self._folder, self._seed = folder, int(config.seed)
        self._options = config.monitor
        self._rates = {net: config[net].optimizer.learning_rate for net in ("gen", "dis")}
        self.taken: list[Remedy] = read_remedies(folder / FILE) if owned else []
        if self.taken:
            self._clear_away(self.taken[-1])

    @property
    def active(self) -> bool:
        """True if the config asks for actions."""
        return self._options.action in (RESTART, ROLLBACK)

    @property
    def available(self) -> bool:
        """True if one more remedy may be taken."""
        return self.active and len(self.taken) < self._options.max_actions

    def begin(
        self, step: int, verdict: Verdict, healthy: Sequence[int], *, dis_ahead: bool = False
    ) -> Remedy:
        """Records a remedy and moves away the files of the failed attempt.

        A rollback goes to the newest healthy checkpoint from before `since`, and each further one to an older one, so
        that it leaves the path that failed; without any it is a restart.

        Args:
          step: the run's step.
          verdict: the verdict that calls for the remedy.
          healthy: steps of healthy checkpoints.
          dis_ahead: True if D was far ahead of G. Then the first remedy cuts D's rate alone, by the square of the
            factor, for the balance (lessons 4 and 9).
        """
        back = min((r.to_step for r in self.taken if r.action == ROLLBACK), default=step)
        choices = [at for at in healthy if at < verdict.since and (not self.taken or at < back)]
        rollback = self._options.action == ROLLBACK and bool(choices)
        number, factor = len(self.taken) + 1, self._options.lr_factor
        gen, dis = self._rates_after(factor, dis_only=dis_ahead and verdict.name != "divergence")
        remedy = Remedy(
            number=number,
            action=ROLLBACK if rollback else RESTART,
            step=step,
            verdict=verdict.name,
            evidence=verdict.evidence,
            to_step=max(choices) if rollback else 0,
            rate_gen=gen,
            rate_dis=dis,
            seed=(self._seed + number * SEED_STRIDE) % 2**31,
        )
        self.taken.append(remedy)
        atomic_write_json(self._folder / FILE, [dataclasses.asdict(r) for r in self.taken])
        self._clear_away(remedy)
        return remedy

    def _rates_after(self, factor: float, *, dis_only: bool) -> tuple[float, float]:
        """Returns the next factors on the rates of G and D."""
        gen, dis = (self.taken[-1].rate_gen, self.taken[-1].rate_dis) if self.taken else (1.0, 1.0)
        if dis_only and gen == dis:
            return gen, dis * factor**2
        return gen * factor, dis * factor

    def told(self) -> str:
        """Returns the last remedy in words."""
        last = self.taken[-1]
        start = f"going back to step {last.to_step}" if last.to_step else "starting anew"
        return (
            f"Remedy {last.number} of at most {self._options.max_actions}: {start} with the learning rates times "
            f"{last.rate_gen:g} (G) and {last.rate_dis:g} (D) and seed {last.seed}. What the failed attempt left is in "
            f"{self._folder / ATTEMPTS / str(last.number)}."
        )

    def first_state(self, state: GanState) -> tuple[int, GanState]:
        """Returns (step, state) to go on from where there is no checkpoint.

        The state is the first one, or the one that a remedy goes back to.

        Args:
          state: the config's first state, on the host or a device.

        Raises:
          UserError: the healthy checkpoint is gone.
        """
        if not self.taken:
            return 0, state
        remedy = self.taken[-1]
        if remedy.to_step:
            with Checkpointer(self._folder / HEALTHY_FOLDER, keep=0) as kept:
                found = kept.restore(state, remedy.to_step)
            assert found is not None  # a missing step raises
            state = found[1]
        return remedy.to_step, self._cut(state)

    def _cut(self, state: GanState) -> GanState:
        """Returns the state with the learning rates and the seed of the last remedy."""
        remedy = self.taken[-1]
        factors = {"gen": remedy.rate_gen, "dis": remedy.rate_dis}
        changed = {
            f"{net}/learning_rate": jnp.float32(rate * factors[net]) for net, rate in self._rates.items()
        }
        return dataclasses.replace(
            state, hyper={**state.hyper, **changed, "seed": jnp.asarray(remedy.seed, jnp.uint32)}
        )

    def _clear_away(self, remedy: Remedy) -> None:
        """Moves the files of the attempt to `attempts/N`. The name appears once all files are there."""
        done = self._folder / ATTEMPTS / f"{remedy.number}"
        if done.exists():
            return
        stage = done.with_suffix(".partial")
        stage.mkdir(parents=True, exist_ok=True)
        for name in MOVED[remedy.action]:
            if (self._folder / name).exists():
                os.rename(self._folder / name, stage / name)
        if (self._folder / "metrics.jsonl").exists():  # the new attempt cuts it where it begins
            shutil.copyfile(self._folder / "metrics.jsonl", stage / "metrics.jsonl")
        os.rename(stage, done)


def read_remedies(path: Path) -> list[Remedy]:
    """Reads the remedies that a run has recorded. Raises a `UserError` where the file is damaged."""
    try:
        records = read_json(path)
        if not isinstance(records, list):
            raise ValueError(f"expected a list, got {type(records).__name__}")
        remedies = [make_record(Remedy, record) for record in records]
        for number, remedy in enumerate(remedies, 1):
            counts = (remedy.step, remedy.to_step, remedy.seed)
            fine = remedy.number == number and remedy.action in MOVED and all(0 <= n < 2**31 for n in counts)
            if not fine or not (0 < remedy.rate_gen <= 1 and 0 < remedy.rate_dis <= 1):
                raise ValueError(f"remedy {number} is none that a run takes")
        return remedies
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is damaged: {error}. It should list the restarts and rollbacks of this run. Restore it, or give "
            "another --workdir."
        ) from None
