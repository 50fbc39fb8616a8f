"""The training loop of a run: it dispatches steps, logs, samples, saves, and ends in good order."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from ganjax.config.recipe import flatten
from ganjax.data.feed import Feed
from ganjax.evals.monitor import Verdict, Watch, read_rows
from ganjax.models import revisions
from ganjax.models.layers import native
from ganjax.run.clock import Clock, steps_per_call
from ganjax.run.evaluation import Evaluator
from ganjax.run.monitoring import make_watch
from ganjax.run.recovery import HEALTHY_FOLDER, KEEP_HEALTHY, ROLLBACK, Relapse, Remedies, Remedy
from ganjax.run.report.live import LivePage
from ganjax.run.sample import Sampler, write_samples
from ganjax.run.setup import Setup
from ganjax.runtime import processes
from ganjax.runtime.checkpoint import Checkpointer
from ganjax.runtime.errors import DivergedError, UserError
from ganjax.runtime.files import atomic_write_json
from ganjax.runtime.logs import RunWriter, trackers
from ganjax.runtime.signals import StopSignals
from ganjax.runtime.workdir import lock_record
from ganjax.training import parallel
from ganjax.training.build import Build
from ganjax.training.divergence import check_faults, faults_of
from ganjax.training.state import GanState
from ganjax.training.update_ratio import movement, weights

IN_FLIGHT = 2  # calls that may wait on the device: enough to keep it busy, few enough to stop soon


class Loop:
    """A sitting of a run: from the newest checkpoint to the end or to a signal."""

    watch: Watch
    sampler: Sampler
    evaluator: Evaluator

    def __init__(
        self,
        config: ConfigDict,
        setup: Setup,
        folder: Path,
        checkpoints: Checkpointer,
        stop: StopSignals,
        *,
        twin: Loop | None = None,
        resume_at: int | None = None,
    ) -> None:
        """Restores the newest intact checkpoint, or makes the first state.

        Args:
          config, setup, folder, checkpoints: those of the run; the checkpoints are open.
          stop: the signals that end the sitting early.
          twin: a loop whose compiled programs this one may use: its config differs in traced values only.
          resume_at: the step to restore in place of the newest; 0 is the first state.
        """
        self.config, self.setup, self.folder, self.stop = config, setup, folder, stop
        self._lock = lock_record(folder)
        self.checkpoints = checkpoints
        self.build: Build = setup.build
        self.remedies = Remedies(folder, config, owned=processes.is_main())
        self.resumed, metadata = self._begin(resume_at)
        self.clock = Clock(before=metadata.get("seconds", 0.0), last_step=self.step)
        self.clock.last_seconds = self.clock.before
        self.last_log: dict[str, Any] = {}
        rows = read_rows(folder / "metrics.jsonl", self.step)
        self.watch = make_watch(config, setup, rows, twin=None if twin is None else twin.watch)
        self.sampler = (
            Sampler(config, self.build, setup.dataset, setup.devices)
            if twin is None
            else twin.sampler.for_seed(config.seed)
        )
        self.evaluator = Evaluator(
            config,
            folder,
            setup.dataset,
            self.sampler,
            self.build.images_per_step,
            twin=None if twin is None else twin.evaluator,
        )
        # Each step of a call has images of its own in a stream: on the devices there are those of few steps.
        self.calls = steps_per_call(config, self.step, setup.scan and not setup.dataset.streams)
        self.page = LivePage(folder, enabled=config.log.report and processes.is_main())
        self.pending: list[dict[str, Any]] = []
        self.moved: dict[str, Any] = {}  # how far the last call before a log line moved the weights
        self._out_of_time = False

    @functools.cached_property
    def update(self) -> parallel.Update:
        """The compiled update: `calls` steps over all devices."""
        return parallel.make_update(
            self.build.gan,
            self.build.make_batch,
            self.setup.devices,
            batch_size=self.config.train.batch_size,
            mode=self.config.parallel.mode,
            steps=self.calls,
            scan=self.setup.scan,
            streams=self.setup.dataset.streams,
        )

    @functools.cached_property
    def feed(self) -> Feed:
        """The feed that the update reads the reals from."""
        return self.setup.feed(self.config, self.calls)

    @property
    def ended(self) -> bool:
        """True if the run has all its steps, or all the time that `train.max_seconds` gives it."""
        return self._out_of_time or self.step >= self.config.train.steps

    def _spend(self) -> None:
        """Checks at a log line if the time is up, and records it."""
        limit = self.config.train.max_seconds
        self._out_of_time = limit > 0 and processes.from_main(self.clock.seconds >= limit)

    def _begin(self, at: int | None = None, *, anew: bool = False) -> tuple[bool, dict[str, Any]]:
        """Sets step and state as the main process finds them: of the checkpoint `at`, or the newest, or the first.

        It is the first state with `anew`, for 0, and where there is no checkpoint.

        Returns:
          True if there was a checkpoint, and its metadata.
        """
        found, step, state = None, 0, (first := self.build.init())
        metadata: dict[str, Any] = {}
        if processes.is_main():
            if not anew and at != 0:
                name = self.config.model.name
                found = revisions.restore(self.checkpoints, first, at, name, self.folder)
            step, state, metadata = found or (*self.remedies.first_state(first), {})
        resumed, self.step, metadata, taken = processes.from_main(
            [found is not None, step, metadata, [asdict(remedy) for remedy in self.remedies.taken]]
        )
        self.remedies.taken = [Remedy(**remedy) for remedy in taken]
        self.state: GanState = parallel.replicate(processes.state_from_main(state), self.setup.devices)
        return resumed, metadata

    def run(self) -> dict[str, Any]:
        """Steps until the end, a signal or a fault; returns the summary, which is on disk as well."""
        while True:
            with self._writer() as writer:
                try:
                    return self._sitting(writer)
                except Relapse as relapse:
                    self._remedy(writer, relapse.verdict)

    def _writer(self) -> RunWriter:
        return RunWriter(
            self.folder,
            total_steps=self.config.train.steps,
            start_step=self.step,
            enabled=processes.is_main(),
            tensorboard=self.config.log.tensorboard,
            trackers=trackers(
                self.folder, flatten(self.config), wandb=self.config.log.wandb, mlflow=self.config.log.mlflow
            ),
        )

    def _sitting(self, writer: RunWriter) -> dict[str, Any]:
        """Runs up to the next remedy, for which it raises `Relapse`."""
        if self.resumed and self.step % self.config.log.every_steps == 0:
            self._spend()
        if self.ended and (summary := self._completed()):
            writer.message(
                f"{self.folder} is complete at step {self.step}; a larger --config.train.steps goes on with it."
            )
            return summary
        if self.resumed:
            writer.message(f"Going on from step {self.step} in {self.folder}")
        if native.MISSING in self.setup.convolutions:
            writer.message(f"Convolutions: {self.setup.convolutions}.")
        try:
            self.advance(writer, self.config.train.steps)
            self.save(block=True)
        except DivergedError as error:
            if self.remedies.available:
                raise Relapse(Verdict("divergence", "bad", self.step, str(error))) from None
            self.leave_diverged()
            raise
        reason = "completed" if self.ended else self.stop.reason
        summary = self.summarise(reason)
        if reason == "completed":
            writer.message(
                f"Completed {self.step} steps. For more samples: "
                f"ganjax sample --workdir={self.folder} --out=grid.png"
            )
        else:
            writer.message(
                f"Stopped ({reason}) at step {self.step}; the state is saved. The same command goes on from here."
            )
        return summary

    def _remedy(self, writer: RunWriter, verdict: Verdict) -> None:
        """Leaves the path that failed, and sets the run up to go on elsewhere."""
        if processes.is_main():
            self.checkpoints.wait()
            with Checkpointer(self.folder / HEALTHY_FOLDER, keep=0) as healthy:
                steps = [step for step in healthy.steps() if step % self.calls == 0]
            self.remedies.begin(self.step, verdict, steps, dis_ahead=self.watch.dis_ahead)
        self._begin(anew=True)
        self.resumed = False
        self.pending.clear()
        self.clock.last_step, self.clock.last_seconds = self.step, self.clock.seconds
        self.watch = make_watch(
            self.config, self.setup, read_rows(self.folder / "metrics.jsonl", self.step), self.watch
        )
        writer.message(self.remedies.told())

    def advance(self, writer: RunWriter, until: int) -> None:
        """Makes the steps up to `until`, or to a signal."""
        seed = int(jax.device_get(self.state.hyper["seed"]))  # a remedy may have drawn another
        update = self.update  # made outside of the guard: it places its own arguments
        with self.feed.start(self.step, until, seed) as feed:
            while self.step < until and not self.ended and not self.stop.due():
                data = next(feed)
                before = weights(self.state) if self.logs_at(self.step + self.calls) else None
                with jax.transfer_guard("disallow"):
                    self.state, metrics = update(self.state, data)
                if before is not None:
                    self.moved = movement(before, self.state, steps=self.calls)
                self.step += self.calls
                self.pending.append(metrics)
                if len(self.pending) > IN_FLIGHT:  # the host may run ahead by so many calls
                    self.pending[-1 - IN_FLIGHT]["loss/gen"].block_until_ready()
                self.boundaries(writer)

    def logs_at(self, step: int) -> bool:
        """Returns True if a log line is due at this step."""
        return step % self.config.log.every_steps == 0 or step >= self.config.train.steps

    def at_boundary(self, step: int) -> bool:
        """Returns True if anything is due at this step."""
        config = self.config
        return self.logs_at(step) or not (
            step % config.log.sample_every_steps and step % config.checkpoint.every_steps
        )

    def boundaries(self, writer: RunWriter) -> None:
        """Does all that is due after this call: a log line, a grid, a checkpoint."""
        config, step = self.config, self.step
        if self.at_boundary(step):
            self._check_folder()
        due = step % config.log.every_steps == 0
        if due:
            self._spend()
        last = self.ended
        if due or last:
            self._log(writer)
        if step % config.log.sample_every_steps == 0 or last:
            check_faults(self.state, self.folder)
            path = self.folder / "samples" / f"step_{step:08d}.png"
            write_samples(path, self.sampler, self.state.ema, config.log.samples, self.setup.dataset)
            writer.image(step, path)
            self.page()
        if step % config.checkpoint.every_steps == 0 and not last:
            self.save()

    def _check_folder(self) -> None:
        """Raises a UserError if the workdir is gone: writing would make a new one, without its run."""
        if processes.is_main() and lock_record(self.folder) != self._lock:
            raise UserError(
                f"{self.folder} was removed, or is another folder than it was, so the run ends at step {self.step}. "
                "Bring it back and give the same command: it goes on from the last checkpoint in there."
            )

    def _log(self, writer: RunWriter) -> None:
        """Averages the metrics since the last line; the only place where the host waits for them."""
        rows, moved = jax.device_get((self.pending, self.moved))
        self.pending.clear()
        self.moved = {}
        metrics = {name: sum(float(row[name]) for row in rows) / len(rows) for name in rows[0]}
        control = jax.device_get(self.state.control)
        steering = {name: control[name] for name in ("ada/p", "balance/accuracy") if name in control}
        metrics |= {name: float(value) for name, value in {**moved, **steering}.items()}
        images = self.step * self.build.images_per_step
        if self.feed.streams:  # share of the time that the loop waited for data
            metrics["data/wait"] = self.feed.waited() / max(
                self.clock.seconds - self.clock.last_seconds, 1e-9
            )
        rate = self.clock.rate(self.step) * self.build.images_per_step
        self.last_log = {
            "images": images,
            "seconds": round(self.clock.seconds, 3),
            "images_per_second": rate,
            **metrics,
        }
        last = self.ended
        if self.evaluator.due(self.step, last=last) and not faults_of(self.state):
            self.last_log |= self.evaluator(self.step, self.state)
            self.clock.last_seconds = self.clock.seconds  # not training time
        before = self.watch.verdicts
        self.last_log |= self.watch(self.step, self.state, self.last_log, last=last)
        writer.log(self.step, self.last_log)
        check_faults(self.state, self.folder)
        self._tell(writer, before)
        if self.remedies.available:
            bad = processes.from_main([asdict(verdict) for verdict in self.watch.bad[:1]])
            if bad:
                raise Relapse(Verdict(**bad[0]))

    def _tell(self, writer: RunWriter, before: list[Verdict]) -> None:
        """Writes the changes in the monitor's opinion in words."""
        if self.config.monitor.action == "none":
            return
        known = {verdict.name for verdict in before}
        for verdict in self.watch.verdicts:
            if verdict.name not in known:
                writer.message(
                    f"Monitor at step {self.step}: {verdict.name} since step {verdict.since}: {verdict.evidence}. "
                    f"{verdict.advice} (Lesson {verdict.lesson}.)"
                )
        if before and not self.watch.verdicts:
            writer.message(f"Monitor at step {self.step}: healthy again.")

    def leave_diverged(self) -> dict[str, Any]:
        """Keeps the state of a run that diverged, and says so in the summary."""
        with Checkpointer(self.folder / "diverged", keep=1) as saved:
            saved.save(self.step, self.state, metadata=revisions.noted(self.config.model.name), block=True)
        return self.summarise("diverged")

    def save(self, *, block: bool = False) -> None:
        """Saves a checkpoint of this step, unless the run has diverged."""
        check_faults(self.state, self.folder)
        metadata = {"seconds": self.clock.seconds, **revisions.noted(self.config.model.name)}
        self.checkpoints.save(self.step, self.state, metadata=metadata, block=block)
        if self.config.monitor.action == ROLLBACK and not self.watch.bad:
            with Checkpointer(self.folder / HEALTHY_FOLDER, keep=KEEP_HEALTHY) as healthy:
                healthy.save(self.step, self.state, metadata=metadata, block=True)

    def _completed(self) -> dict[str, Any]:
        """Returns the summary of the run that ended at this very step, empty where there is none."""
        try:
            summary = json.loads((self.folder / "summary.json").read_text()) if processes.is_main() else {}
        except (OSError, ValueError):
            summary = {}
        summary = processes.from_main(summary)
        return summary if (summary.get("reason"), summary.get("steps")) == ("completed", self.step) else {}

    def summarise(self, reason: str) -> dict[str, Any]:
        """Writes and returns `summary.json`."""
        images, seconds = self.step * self.build.images_per_step, self.clock.seconds
        summary = {
            "reason": reason,
            "steps": self.step,
            "images": images,
            "seconds": round(seconds, 3),
            "images_per_second": round(images / max(seconds, 1e-9), 3),
            "metrics": {
                name: value if isinstance(value, str) or math.isfinite(value) else None
                for name, value in self.last_log.items()
            },
            "verdicts": [verdict.to_json() for verdict in self.watch.verdicts],
            "remedies": [asdict(remedy) for remedy in self.remedies.taken],
        }
        if processes.is_main():
            atomic_write_json(self.folder / "summary.json", summary)
            self.page(last=True)
        return summary
