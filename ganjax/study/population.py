"""Runs that share a program, trained side by side: some on each device, each in a folder as a run of its own.

The members of a population differ in seeds and in values that the step takes as arguments
(`training.build.make_hyper`), so one compilation serves all. A member never sees another: its numbers are those of the
same unit trained alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from ganjax.config import plugin_record
from ganjax.config.recipe import flatten
from ganjax.config.rules import MIXTURES
from ganjax.models.layers import native
from ganjax.run.data_facts import open_workdir, settle
from ganjax.run.loop import IN_FLIGHT
from ganjax.run.session import Session
from ganjax.run.setup import Setup, load_data, scans
from ganjax.runtime.checkpoint import Checkpointer
from ganjax.runtime.errors import DivergedError, UserError
from ganjax.runtime.logs import Progress, RunWriter
from ganjax.runtime.signals import StopSignals
from ganjax.training import parallel
from ganjax.training.build import build
from ganjax.training.state import GanState
from ganjax.training.update_ratio import movement, weights

Tree = Any
LOG = "log.txt"  # what a run alone would print


Run = tuple[ConfigDict, Path]


@dataclasses.dataclass
class Member:
    """A run of the population; it has a `summary` once it has ended."""

    session: Session
    writer: RunWriter
    place: tuple[int, int]
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # metrics since the last log line
    summary: dict[str, Any] | None = None


class Population:
    """A population: units of runs, one unit on each device, trained in one program. Use it in a `with` block.

    Args:
      units: (config, folder) of the runs on each device, at most as many units as devices; None keeps the place of a
        run that has ended before. The configs are checked, are for one device, and share a program.
      devices: one for each unit.
      stop: the signals that end the sitting early.

    Raises:
      UserError: a folder cannot be used, or the data cannot be read.
    """

    def __init__(
        self, units: Sequence[Sequence[Run | None]], devices: Sequence[jax.Device], stop: StopSignals
    ) -> None:
        self._stop = stop
        self._devices = list(devices[: len(units)])
        self._size = max(len(unit) for unit in units)
        runs = {(i, j): run for i, unit in enumerate(units) for j, run in enumerate(unit) if run is not None}
        with contextlib.ExitStack() as stack:
            self.members = self._open(runs, stack)
            self._stack = stack.pop_all()
        first = self.members[0].session
        self._metrics: list[dict[str, jax.Array]] = []  # of each call since the last boundary
        self._own_data = first.config.data.name in MIXTURES
        self._update = parallel.make_population_update(
            first.setup.build.gan,
            first.setup.build.make_batch,
            self._devices,
            batch_size=first.config.train.batch_size,
            steps=first.calls,
            scan=first.setup.scan,
            several=self._size > 1,
            own_data=self._own_data,
        )

    def _open(self, runs: Mapping[tuple[int, int], Run], stack: contextlib.ExitStack) -> list[Member]:
        """Opens all members, at the newest step that all of them have saved."""
        for config, folder in runs.values():
            opened = stack.enter_context(open_workdir(folder, config))
            plugin_record.store(folder, flatten(config))
            convolutions = native.describe(config.model.name != "mlp")
            opened.write_environment(map(str, self._devices), convolutions=convolutions)
        checkpoints = [
            stack.enter_context(Checkpointer(folder / "checkpoints", keep=config.checkpoint.keep))
            for config, folder in runs.values()
        ]
        setup = _setup(next(iter(runs.values()))[0], self._devices[0], None)
        at = common_step(checkpoints, setup.build.shapes())
        members: list[Member] = []
        for (place, (config, folder)), saved in zip(runs.items(), checkpoints, strict=True):
            own = _setup(config, self._devices[0], setup) if members else setup
            settle(folder, own.dataset, config)
            session = Session(config, own, folder, saved, resume_at=at)
            console = Console(file=stack.enter_context((folder / LOG).open("a", encoding="utf-8")), width=100)
            writer = RunWriter(
                folder,
                total_steps=config.train.steps,
                start_step=session.step,
                tensorboard=config.log.tensorboard,
                progress=Progress(config.train.steps, start_step=session.step, console=console, live=False),
            )
            members.append(Member(session, stack.enter_context(writer), place))
        return members

    def run(self) -> list[dict[str, Any]]:
        """Trains to the end or a signal. Returns the members' summaries in their order; they are on disk as well."""
        first = self.members[0].session
        step, until, size = first.step, first.config.train.steps, self._size
        states = self._stacked([member.session.state for member in self.members], step)
        data = self._data()
        while step < until and not self._stop.due():
            step += first.calls
            before = weights(states) if first.logs_at(step) else None
            with jax.transfer_guard("disallow"):
                states, metrics = self._update(states, data)
            self._metrics.append(metrics)
            if len(self._metrics) > IN_FLIGHT:
                self._metrics[-1 - IN_FLIGHT]["loss/gen"].block_until_ready()
            if first.due(step):
                numbers = {}
                if before is not None:
                    numbers = movement(before, states, steps=first.calls, lead=2 if size > 1 else 1)
                self._hand_over(step, states, numbers)
        return [self._conclude(member, step, states) for member in self.members]

    def _hand_over(self, step: int, states: Tree, numbers: dict[str, jax.Array]) -> None:
        """Gives each member its state and its numbers since the last boundary, and lets it do its due tasks."""
        host, rows, more = jax.device_get((states, self._metrics, numbers))
        self._metrics.clear()
        for member in self.members:
            if member.summary is not None:
                continue
            own = functools.partial(self._own, member)
            member.rows += map(own, rows)
            session, state = member.session, self._state(member, step, host)
            try:
                session.reach(member.writer, step, state, member.rows, own(more))
                session.checkpoints.wait()  # one writer at a time: Orbax is not made for several
            except DivergedError as error:
                self._leave(member, error)
            if session.logs_at(step):
                member.rows.clear()

    def _own(self, member: Member, tree: Tree) -> Tree:
        """Returns the member's part of leaves [D, K, …], or [D, …] where K is 1."""
        i, j = member.place
        return jax.tree.map(lambda x: x[i, j] if self._size > 1 else x[i], tree)

    def _state(self, member: Member, step: int, host: GanState) -> GanState:
        """Returns the member's state on its device."""
        own: GanState = self._own(member, dataclasses.replace(host, step=None))  # type: ignore[arg-type]
        own = dataclasses.replace(own, step=jnp.asarray(step, jnp.int32))
        return parallel.replicate(own, member.session.setup.devices)

    def _leave(self, member: Member, error: DivergedError) -> dict[str, Any]:
        member.writer.message(str(error))
        member.summary = member.session.leave_diverged()
        return member.summary

    def _conclude(self, member: Member, step: int, states: GanState) -> dict[str, Any]:
        if member.summary is not None:
            return member.summary
        session = member.session
        if session.step != step:  # stopped between two boundaries
            session.stand(step, self._state(member, step, jax.device_get(states)))
        try:
            session.save()
        except DivergedError as error:
            return self._leave(member, error)
        return session.summarise("completed" if session.ended else self._stop.reason)

    def _grid(self, values: Sequence[Tree]) -> Tree:
        """Stacks values to leaves [D, K, …], or [D, …] where K is 1; a free place has the first value."""
        placed = {member.place: value for member, value in zip(self.members, values, strict=True)}
        rows = [[placed.get((i, j), values[0]) for j in range(self._size)] for i in range(len(self._devices))]
        stack = lambda *x: np.stack(x)
        units = [jax.tree.map(stack, *row) if self._size > 1 else row[0] for row in rows]
        return jax.tree.map(stack, *units)

    def _stacked(self, states: Sequence[GanState], step: int) -> GanState:
        host = [dataclasses.replace(state, step=None) for state in jax.device_get(list(states))]
        steps = np.full(len(self._devices), step, np.int32)
        return parallel.divide(dataclasses.replace(self._grid(host), step=steps), self._devices)

    def _data(self) -> Tree:
        """Returns the reals: one copy on each device, or each member's own."""
        sets = [member.session.setup.dataset for member in self.members]
        if not self._own_data:
            return parallel.replicate((sets[0].images, sets[0].labels), self._devices)
        return parallel.divide(self._grid([(one.images, one.labels) for one in sets]), self._devices)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def _setup(config: ConfigDict, device: jax.Device, first: Setup | None) -> Setup:
    """Makes the set-up of a member: that of the `first` one with its own values, and its own points of a mixture."""
    if first is not None and config.data.name not in MIXTURES:
        return dataclasses.replace(first, build=first.build.for_config(config))
    dataset = load_data(config)
    if dataset.streams:
        raise UserError(
            f"{dataset.name} is larger than a study keeps in memory; set data.delivery='resident' in its base, or "
            "'streaming', with which its runs are trained one after another."
        )
    if first is not None:
        return dataclasses.replace(first, dataset=dataset, build=first.build.for_config(config))
    networks = build(config, dataset, axis_name=None)
    return Setup(dataset=dataset, devices=[device], build=networks, scan=scans(config, device))


def common_step(checkpoints: Sequence[Checkpointer], template: Tree) -> int:
    """Returns the newest step that all have intact; 0 where there is none."""
    shared = set.intersection(*(set(saved.steps()) for saved in checkpoints))
    for step in sorted(shared, reverse=True):
        try:
            for saved in checkpoints:
                saved.restore(template, step)
        except UserError:  # damaged: the one before will do
            continue
        return step
    return 0
