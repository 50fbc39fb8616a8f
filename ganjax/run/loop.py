"""The training loop of a run: it dispatches steps, stops at boundaries, and ends in good order."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from ganjax.config.recipe import flatten
from ganjax.data.feed import Feed
from ganjax.evals.monitor import Verdict
from ganjax.models.layers import native
from ganjax.run.recovery import Relapse
from ganjax.run.session import Session
from ganjax.run.setup import Setup
from ganjax.runtime import processes
from ganjax.runtime.checkpoint import Checkpointer
from ganjax.runtime.errors import DivergedError, quoted
from ganjax.runtime.logs import RunWriter, trackers
from ganjax.runtime.signals import StopSignals
from ganjax.training import parallel
from ganjax.training.state import copy_tree
from ganjax.training.update_ratio import movement, weights

IN_FLIGHT = 2  # calls that may wait on the device: enough to keep it busy, few enough to stop soon


class Loop(Session):
    """A session that makes its own steps, to the end or to a signal."""

    def __init__(
        self,
        config: ConfigDict,
        setup: Setup,
        folder: Path,
        checkpoints: Checkpointer,
        stop: StopSignals,
    ) -> None:
        """Restores the run, see `Session`; `stop` holds the signals that end the sitting early."""
        super().__init__(config, setup, folder, checkpoints, early_grids=True)
        self.stop, self._called = stop, False
        self._metrics: list[dict[str, Any]] = []  # of each call since the last log line

    @functools.cached_property
    def update(self) -> parallel.Update:
        """The compiled update: `calls` steps over all devices."""
        return parallel.make_update(
            self.setup.build.gan,
            self.setup.build.make_batch,
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

    def advance(self, writer: RunWriter, until: int) -> None:
        """Makes the steps up to `until`, or to a signal."""
        seed = int(jax.device_get(self.state.hyper["seed"]))  # a recovery may have drawn another
        update = self.update  # made outside of the guard: it places its own arguments
        with self.feed.start(self.step, until, seed) as feed:
            while self.step < until and not self.ended and not self.stop.due():
                data, step = next(feed), self.step + self.calls
                logs = self.logs_at(step)
                before = weights(self.state) if logs else None
                with self._first_call(writer), jax.transfer_guard("disallow"):
                    self.state, metrics = update(self.state, data)
                self.step = step
                self._metrics.append(metrics)
                if len(self._metrics) > IN_FLIGHT:  # the host may run ahead by so many calls
                    self._metrics[-1 - IN_FLIGHT]["loss/gen"].block_until_ready()
                if self.due(step):
                    numbers = {} if before is None else movement(before, self.state, steps=self.calls)
                    self.reach(writer, step, self.state, self._metrics, numbers | self._waiting(logs))
                    if logs:
                        self._metrics.clear()

    @contextlib.contextmanager
    def _first_call(self, writer: RunWriter) -> Iterator[None]:
        """Says that the first call, made in the `with` block, compiles the step. A later call is left alone.

        What the first boundaries need is made beside it: a grid of reals and one of the first state, for something to
        see at once, and the monitor's program.
        """
        if self._called:
            yield
            return
        new, self._called = self.step == 0 and not self.resumed, True
        described = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), self.state
        )
        first = copy_tree(self.state.ema)  # the step takes the state's own arrays

        def beside() -> None:
            if new:
                self.grid.write_reals(self.config.seed)
                self.grid.write(0, first)
            self.monitor.compile(described)

        with writer.stage("Compiling the training step"), ThreadPoolExecutor(1) as pool:
            done = pool.submit(beside)
            if processes.count() > 1:  # programs that exchange between processes must start in one order
                done.result()
            yield
            done.result()
        if not self.logs_at(self.step + self.calls):  # a log line shows the speed without the compilation
            self.clock.rate(self.step + self.calls)

    def _waiting(self, logs: bool) -> dict[str, Any]:
        """Returns the share of the time since the last log line that the loop waited for streamed data."""
        if not logs or not self.feed.streams:
            return {}
        return {"data/wait": self.feed.waited() / max(self.clock.seconds - self.clock.last_seconds, 1e-9)}

    def run(self) -> dict[str, Any]:
        """Steps until the end, a signal or a fault; returns the summary, which is on disk as well."""
        while True:
            with self._writer() as writer:
                try:
                    return self._sitting(writer)
                except Relapse as relapse:
                    self.recover(relapse.verdict)
                    self._metrics.clear()
                    writer.message(self.remedies.told())

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
        """Runs up to the next recovery, for which it raises `Relapse`."""
        if self.resumed and self.step % self.config.log.every_steps == 0:
            self.check_time()
        if self.ended and (summary := self.completed()):
            writer.message(
                f"The run in {self.folder} is complete at step {self.step}. To train it longer, set a larger "
                "--config.train.steps."
            )
            return summary
        if self.resumed:
            writer.message(f"Resuming from step {self.step} in {self.folder}")
        elif self.started_from:
            writer.message(self.started_from)
        if native.MISSING in self.setup.convolutions:
            writer.message(f"Convolutions: {self.setup.convolutions}.")
        try:
            self.advance(writer, self.config.train.steps)
            self.save()
        except DivergedError as error:
            if self.remedies.available:
                raise Relapse(Verdict("divergence", "bad", self.step, str(error))) from None
            self.leave_diverged()
            raise
        reason = "completed" if self.ended else self.stop.reason
        summary = self.summarise(reason)
        if reason == "completed":
            page = f" Page: {self.folder / 'report.html'}." if self.config.log.report else ""
            writer.message(
                f"Completed {self.step} steps.{page} More samples: "
                f"ganjax sample --workdir={quoted(self.folder)} --out=grid.png"
            )
        else:
            writer.message(
                f"Stopped ({reason}) at step {self.step}; a checkpoint is saved. Run the same command to resume."
            )
        return summary
