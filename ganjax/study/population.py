"""Runs that share a program, trained side by side: some on each device, each in a folder as a run of its own.

The members of a population differ in seeds and in values that the step takes as arguments (`factory.make_hyper`), so
one compilation serves all. A member never sees another: its numbers are those of the same unit trained alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from ganjax.config import plugin_record
from ganjax.config.options import BEFORE, RUNTIME
from ganjax.config.recipe import flatten, to_json
from ganjax.config.rules import MIXTURES
from ganjax.models.layers import native
from ganjax.run.loop import IN_FLIGHT, Loop
from ganjax.run.setup import Setup, load_data, scans
from ganjax.runtime.checkpoint import Checkpointer
from ganjax.runtime.errors import DivergedError, UserError
from ganjax.runtime.logs import Progress, RunWriter
from ganjax.runtime.signals import StopSignals
from ganjax.runtime.workdir import Workdir
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

    loop: Loop
    writer: RunWriter
    place: tuple[int, int]
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
        loop = self.members[0].loop
        self._pending: list[dict[str, jax.Array]] = []
        self._moved: dict[str, jax.Array] = {}
        self._own_data = loop.config.data.name in MIXTURES
        self._update = parallel.make_population_update(
            loop.build.gan,
            loop.build.make_batch,
            self._devices,
            batch_size=loop.config.train.batch_size,
            steps=loop.calls,
            scan=loop.setup.scan,
            several=self._size > 1,
            own_data=self._own_data,
        )

    def _open(self, runs: Mapping[tuple[int, int], Run], stack: contextlib.ExitStack) -> list[Member]:
        """Opens all members, at the newest step that all of them have saved."""
        for config, folder in runs.values():
            opened = stack.enter_context(
                Workdir.open(folder, config=to_json(config), allowed=RUNTIME, before=BEFORE)
            )
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
            twin = members[0].loop if members else None
            loop = Loop(config, own, folder, saved, self._stop, twin=twin, resume_at=at)
            console = Console(file=stack.enter_context((folder / LOG).open("a")), width=100)
            writer = RunWriter(
                folder,
                total_steps=config.train.steps,
                start_step=loop.step,
                tensorboard=config.log.tensorboard,
                progress=Progress(config.train.steps, start_step=loop.step, console=console, live=False),
            )
            members.append(Member(loop, stack.enter_context(writer), place))
        return members

    def run(self) -> list[dict[str, Any]]:
        """Trains to the end or a signal. Returns the members' summaries in their order; they are on disk as well."""
        loop = self.members[0].loop
        step = loop.step
        states = self._stacked([member.loop.state for member in self.members], step)
        data = self._data()
        while step < loop.config.train.steps and not self._stop.due():
            before = weights(states) if loop.logs_at(step + loop.calls) else None
            with jax.transfer_guard("disallow"):
                states, metrics = self._update(states, data)
            if before is not None:
                self._moved = movement(before, states, steps=loop.calls, lead=2 if self._size > 1 else 1)
            step += loop.calls
            self._pending.append(metrics)
            if len(self._pending) > IN_FLIGHT:
                self._pending[-1 - IN_FLIGHT]["loss/gen"].block_until_ready()
            if loop.at_boundary(step):
                self._hand_over(step, states, due=True)
        if self._pending:  # stopped between two boundaries
            self._hand_over(step, states, due=False)
        return [self._conclude(member) for member in self.members]

    def _hand_over(self, step: int, states: Tree, *, due: bool) -> None:
        """Gives each member its state and its numbers since the last time, and lets it do its due tasks."""
        host, rows, moved = jax.device_get((states, self._pending, self._moved))
        self._pending.clear()
        self._moved = {}
        for member in self.members:
            if member.summary is not None:
                continue
            loop, (i, j) = member.loop, member.place
            own = lambda x, i=i, j=j: x[i, j] if self._size > 1 else x[i]
            state = jax.tree.map(own, dataclasses.replace(host, step=None))
            state = dataclasses.replace(state, step=np.asarray(step, np.int32))
            loop.step, loop.state = step, parallel.replicate(state, loop.setup.devices)
            loop.moved = jax.tree.map(own, moved)
            loop.pending += [jax.tree.map(own, row) for row in rows]
            if not due:
                continue
            try:
                loop.boundaries(member.writer)
                loop.checkpoints.wait()  # one writer at a time: Orbax is not made for several
            except DivergedError as error:
                self._leave(member, error)

    def _leave(self, member: Member, error: DivergedError) -> dict[str, Any]:
        member.writer.message(str(error))
        member.summary = member.loop.leave_diverged()
        return member.summary

    def _conclude(self, member: Member) -> dict[str, Any]:
        if member.summary is not None:
            return member.summary
        try:
            member.loop.save(block=True)
        except DivergedError as error:
            return self._leave(member, error)
        return member.loop.summarise("completed" if member.loop.ended else self._stop.reason)

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
        sets = [member.loop.setup.dataset for member in self.members]
        if not self._own_data:
            return parallel.replicate((sets[0].images, sets[0].labels), self._devices)
        return parallel.divide(self._grid([(one.images, one.labels) for one in sets]), self._devices)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def _setup(config: ConfigDict, device: jax.Device, twin: Setup | None) -> Setup:
    """Makes the data and build of a member, or takes those of a `twin` where they are the same."""
    if twin is not None and config.data.name not in MIXTURES:
        return dataclasses.replace(twin, build=twin.build.for_config(config))
    dataset = load_data(config)
    if dataset.streams:
        raise UserError(
            f"{dataset.name} is larger than a study keeps in memory; set data.delivery='resident' in its base, or "
            "'streaming', with which its runs are trained one after another."
        )
    if twin is not None:
        return dataclasses.replace(twin, dataset=dataset, build=twin.build.for_config(config))
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
