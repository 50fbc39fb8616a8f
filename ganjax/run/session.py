"""A sitting of a run in its folder, whoever makes its steps: where it stands, what is due, how it ends."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from ganjax.evals.monitor import Verdict, read_rows
from ganjax.evals.sampler import Sampler
from ganjax.models import revisions
from ganjax.run.callbacks import Boundary, Callback
from ganjax.run.callbacks.checkpoint import Save
from ganjax.run.callbacks.evaluation import Evaluation
from ganjax.run.callbacks.grid import Grid
from ganjax.run.callbacks.log import Log
from ganjax.run.callbacks.monitor import Advise, Monitor
from ganjax.run.callbacks.page import Page
from ganjax.run.clock import Clock, steps_per_call
from ganjax.run.initial import start_from
from ganjax.run.recovery import HEALTHY_FOLDER, Remedies, Remedy
from ganjax.run.setup import Setup
from ganjax.runtime import processes
from ganjax.runtime.checkpoint import Checkpointer
from ganjax.runtime.errors import UserError
from ganjax.runtime.files import atomic_write_json, read_object
from ganjax.runtime.logs import RunWriter
from ganjax.runtime.workdir import lock_record
from ganjax.training import parallel
from ganjax.training.state import GanState


class Session:
    """A run from its newest checkpoint on.

    Attributes:
      step, state: where the run stands; the state is replicated on its devices.
      calls: the number of steps in one call, a divisor of the steps between any two boundaries.
      resumed: True if there was a checkpoint.
      row: the last log line.
      started_from: what was copied from the run that `init.from` names, in words; empty where nothing was.
      callbacks: the tasks of the run, in the order in which they are done.
    """

    def __init__(
        self,
        config: ConfigDict,
        setup: Setup,
        folder: Path,
        checkpoints: Checkpointer,
        *,
        resume_at: int | None = None,
        early_grids: bool = False,
    ) -> None:
        """Restores the newest intact checkpoint, or makes the first state.

        Args:
          config, setup, folder, checkpoints: those of the run; the checkpoints are open.
          resume_at: the step to restore in place of the newest; 0 is the first state.
          early_grids: True for grids at doubling steps until the first regular one.
        """
        self.config, self.setup, self.folder, self.checkpoints = config, setup, folder, checkpoints
        self._lock = lock_record(folder)
        self.remedies = Remedies(folder, config, owned=processes.is_main())
        self.started_from = ""
        self.resumed, metadata = self._restore(resume_at)
        self.clock = Clock(before=metadata.get("seconds", 0.0), last_step=self.step)
        self.clock.skip()
        # Each step of a call has images of its own in a stream: on the devices there are those of few steps.
        self.calls = steps_per_call(config, self.step, setup.scan and not setup.dataset.streams)
        self.row: dict[str, Any] = {}
        self._out_of_time = False
        self.sampler = Sampler(setup.build, setup.dataset, setup.devices, seed=config.seed)
        self.monitor = Monitor(config, setup, read_rows(folder / "metrics.jsonl", self.step))
        log, every = config.log, config.checkpoint.every_steps
        self.page = Page(folder, log.sample_every_steps, enabled=log.report and processes.is_main())
        self.saving = Save(
            folder,
            checkpoints,
            self.monitor,
            every_steps=every,
            action=config.monitor.action,
            family=config.model.name,
        )
        if self.resumed:  # a kill may have come between the checkpoint and its twin
            self.saving.save_healthy(self.step, self.state, metadata)
        self.grid = Grid(
            folder,
            self.sampler,
            setup.dataset,
            every_steps=log.sample_every_steps,
            samples=log.samples,
            calls=self.calls if early_grids else 0,
        )
        self.callbacks: list[Callback] = [
            Evaluation(config, folder, setup, self.sampler),
            self.monitor,
            Log(folder, log.every_steps),
            Advise(config, self.monitor, self.remedies),
            self.grid,
            self.page,
            self.saving,
        ]

    @property
    def ended(self) -> bool:
        """True if the run has all its steps, or all the time that `train.max_seconds` gives it."""
        return self._out_of_time or self.step >= self.config.train.steps

    def check_time(self) -> None:
        """Checks if the run's time is up; at log lines, so that all processes and a resumed run end alike."""
        limit = self.config.train.max_seconds
        self._out_of_time = limit > 0 and processes.from_main(self.clock.seconds >= limit)

    def _restore(self, at: int | None = None, *, anew: bool = False) -> tuple[bool, dict[str, Any]]:
        """Sets step and state as the main process finds them: of the checkpoint `at`, or the newest, or the first.

        It is the first state with `anew`, for 0, and where there is no checkpoint.

        Returns:
          True if there was a checkpoint, and its metadata.
        """
        found, step, state = None, 0, (first := self.setup.build.init())
        metadata: dict[str, Any] = {}
        if processes.is_main():
            if not anew and at != 0:
                name = self.config.model.name
                found = revisions.restore(self.checkpoints, first, at, name, self.folder)
            if found is None and self.config.init["from"]:
                first, self.started_from = start_from(self.config, first, self.setup.dataset)
            step, state, metadata = found or (*self.remedies.first_state(first), {})
        resumed, self.step, metadata, taken = processes.from_main(
            [found is not None, step, metadata, [asdict(remedy) for remedy in self.remedies.taken]]
        )
        self.remedies.taken = [Remedy(**remedy) for remedy in taken]
        self.state: GanState = parallel.replicate(processes.state_from_main(state), self.setup.devices)
        return resumed, metadata

    def recover(self, verdict: Verdict) -> None:
        """Leaves the path that failed: moves its files away, and stands where the recovery goes back to."""
        if processes.is_main():
            self.checkpoints.wait()
            with Checkpointer(self.folder / HEALTHY_FOLDER, keep=0) as healthy:
                steps = [step for step in healthy.steps() if step % self.calls == 0]
            self.remedies.begin(self.step, verdict, steps, dis_ahead=self.monitor.watch.dis_ahead)
        self._restore(anew=True)
        self.resumed = False
        self.clock.last_step = self.step
        self.clock.skip()
        self.monitor.rewind(read_rows(self.folder / "metrics.jsonl", self.step))
        if not self.step:  # the grids of the failed attempt were moved away with it
            self.grid.write_reals(self.config.seed)

    def logs_at(self, step: int) -> bool:
        """Returns True if a log line is due at this step."""
        return step % self.config.log.every_steps == 0 or step >= self.config.train.steps

    def due(self, step: int) -> bool:
        """Returns True if anything is due at this step."""
        last = step >= self.config.train.steps
        return any(callback.due(step, last=last) for callback in self.callbacks)

    def stand(self, step: int, state: GanState) -> None:
        """Takes note of where the run stands."""
        self.step, self.state = step, state

    def reach(
        self,
        writer: RunWriter,
        step: int,
        state: GanState,
        metrics: Sequence[Mapping[str, Any]],
        numbers: Mapping[str, Any],
    ) -> None:
        """Stands at a boundary, and does what is due there.

        Args:
          writer: the writer of the run's logs.
          step, state: where the run stands.
          metrics: the metrics of each call since the last log line, on the devices or the host.
          numbers: more numbers of this log line.

        Raises:
          UserError: the folder is gone.
          DivergedError: a loss or gradient was not finite.
          Relapse: the monitor asks for a recovery.
        """
        self.stand(step, state)
        self._check_folder()
        if step % self.config.log.every_steps == 0:
            self.check_time()
        row = {}
        if self.logs_at(step):
            self.row = row = self._start_row(metrics, numbers)
        last = self.ended
        at = Boundary(step, state, row, last, writer, self.clock)
        for callback in self.callbacks:
            if callback.due(step, last=last):
                callback(at)

    def _check_folder(self) -> None:
        """Raises a UserError if the workdir is gone: writing would make a new one, without its run."""
        if processes.is_main() and lock_record(self.folder) != self._lock:
            raise UserError(
                f"{self.folder} was removed, or is another folder than it was, so the run ends at step {self.step}. "
                "Bring it back and run the same command to resume from its last checkpoint."
            )

    def _start_row(self, metrics: Sequence[Mapping[str, Any]], numbers: Mapping[str, Any]) -> dict[str, Any]:
        """Begins a log line with means since the last one; the only place where the host waits for them."""
        rows, more, control = jax.device_get((metrics, numbers, self.state.control))
        per_step = self.setup.build.images_per_step
        shown = {name: control[name] for name in ("ada/p", "balance/accuracy") if name in control}
        return {
            "images": self.step * per_step,
            "seconds": round(self.clock.seconds, 3),
            "images_per_second": self.clock.rate(self.step) * per_step,
            **{name: sum(float(row[name]) for row in rows) / len(rows) for name in rows[0]},
            **{name: float(value) for name, value in {**more, **shown}.items()},
        }

    def save(self) -> None:
        """Saves a checkpoint of this step, and waits until it is on the disk. Raises a `DivergedError`."""
        self.saving.save(self.step, self.state, self.clock, block=True)

    def leave_diverged(self) -> dict[str, Any]:
        """Keeps the state of a run that diverged, and says so in the summary."""
        with Checkpointer(self.folder / "diverged", keep=1) as saved:
            saved.save(self.step, self.state, metadata=revisions.noted(self.config.model.name), block=True)
        return self.summarise("diverged")

    def completed(self) -> dict[str, Any]:
        """Returns the summary of the run that ended at this very step, empty where there is none."""
        found = read_object(self.folder / "summary.json") if processes.is_main() else {}
        summary: dict[str, Any] = processes.from_main(found)
        return summary if (summary.get("reason"), summary.get("steps")) == ("completed", self.step) else {}

    def summarise(self, reason: str) -> dict[str, Any]:
        """Writes and returns `summary.json`."""
        images, seconds = self.step * self.setup.build.images_per_step, self.clock.seconds
        summary = {
            "reason": reason,
            "steps": self.step,
            "images": images,
            "seconds": round(seconds, 3),
            "images_per_second": round(images / max(seconds, 1e-9), 3),
            "metrics": {
                name: value if isinstance(value, str) or math.isfinite(value) else None
                for name, value in self.row.items()
            },
            "verdicts": [verdict.to_json() for verdict in self.monitor.watch.verdicts],
            "remedies": [asdict(remedy) for remedy in self.remedies.taken],
        }
        if processes.is_main():
            atomic_write_json(self.folder / "summary.json", summary)
            self.page.write(last=True)
        return summary
