"""Splits the runs of a study into units of work: the runs that train side by side, on a size of device axis."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from ganjax.config.recipe import flatten, unflatten
from ganjax.evals.monitor.verdicts import DIVERGED
from ganjax.run.dry_run import check_plugins
from ganjax.run.recovery import RESTART, ROLLBACK
from ganjax.run.setup import Setup, load_data
from ganjax.runtime.errors import UserError
from ganjax.runtime.files import is_number, read_object
from ganjax.study.config import BASE, RunSpec, Variant
from ganjax.training.build import build, program_of

RESULT = "result.json"  # in the folder of a run that has ended
STATUSES = ("completed", DIVERGED, "failed")


@dataclasses.dataclass(frozen=True)
class Unit:
    """The runs that one device trains together. They are a pure function of the study, however it is run.

    Attributes:
      number: number of the unit in the study.
      program: the program that its runs share, with runs of other units too.
      runs: runs, at most as many as a device takes.
      alone: True if it is an ordinary run, on as many devices as it asks for.
    """

    number: int
    program: str
    runs: tuple[RunSpec, ...]
    alone: bool


def make_units(runs: Sequence[RunSpec], per_device: int) -> list[Unit]:
    """Splits the runs that share a program into even units of at most `per_device`, in the order of the study."""
    programs: dict[str, list[RunSpec]] = {}
    for run in runs:
        programs.setdefault(program_of(run.config), []).append(run)
    parts: list[tuple[str, tuple[RunSpec, ...], bool]] = []
    for program, members in programs.items():
        alone = not _side_by_side(members[0])
        count = -(-len(members) // (1 if alone else per_device))
        bounds = [len(members) * i // count for i in range(count + 1)]
        parts += [(program, tuple(members[low:high]), alone) for low, high in itertools.pairwise(bounds)]
    return [Unit(number, *part) for number, part in enumerate(parts)]


def in_groups(units: Sequence[Unit], devices: int) -> list[list[Unit]]:
    """Groups units that share a program and a size, at most one a device; a group runs in one call."""
    groups: list[list[Unit]] = []
    for unit in units:
        last = groups[-1] if groups else []
        fits = last and last[0].program == unit.program and not unit.alone and len(last) < devices
        if fits:
            last.append(unit)
        else:
            groups.append([unit])
    return groups


def in_shard(groups: Sequence[list[Unit]], i: int, n: int) -> list[list[Unit]]:
    """Returns the i-th of n even parts.

    Groups of a program lie together, so that a part compiles as few as possible.
    """
    return list(groups[len(groups) * i // n : len(groups) * (i + 1) // n])


def check_sizes(runs: Sequence[RunSpec]) -> None:
    """Builds the networks of every program, without compiling anything.

    Raises:
      UserError: the networks, data or sizes of a variant do not fit; the message names it.
    """
    seen: set[str] = set()
    sets: dict[str, Any] = {}
    for run in runs:
        program = program_of(run.config)
        if program in seen:
            continue
        seen.add(program)
        data = json.dumps(run.config.data.to_dict(), sort_keys=True)
        try:
            if data not in sets:
                sets[data] = load_data(run.config)
            made = build(run.config, sets[data])
            made.shapes()
            check_plugins(run.config, Setup(sets[data], jax.devices()[:1], made, scan=False))
        except UserError as error:
            raise UserError(f"Variant {run.variant.name!r}: {error}") from None


def record_of(run: RunSpec, workdir: Path) -> dict[str, Any] | None:
    """Returns the line of `results.jsonl` of a run that has ended, or None for another, and for a damaged one."""
    found = read_object(workdir / run.folder / RESULT)
    return {**found, **described(run)} if _is_result(found) else None


def described(run: RunSpec) -> dict[str, Any]:
    """Returns what a record says of a run, however it ended."""
    variant = run.variant
    return {
        "variant": variant.name,
        "group": variant.group,
        "seed": run.seed,
        "base": variant.name == BASE,
        "expected": variant.expected,
        "claim": variant.claim,
        "differences": {key: list(pair) for key, pair in run.differences.items()},
        "folder": run.folder,
    }


def _is_result(found: Mapping[str, Any]) -> bool:
    metrics, verdicts = found.get("metrics"), found.get("verdicts")
    return (
        found.get("status") in STATUSES
        and isinstance(found.get("reason"), str)
        and isinstance(found.get("collapsed"), bool)
        and all(is_number(found.get(name)) for name in ("steps", "images", "seconds"))
        and isinstance(metrics, dict)
        and all(value is None or is_number(value) for value in metrics.values())
        and isinstance(verdicts, list)
        and all(isinstance(verdict, str) for verdict in verdicts)
    )


def forget_failures(runs: Sequence[RunSpec], workdir: Path) -> None:
    """Removes the results of failed runs, so that these are tried again. Results of diverged runs stay."""
    for run in runs:
        record = record_of(run, workdir)
        if record is not None and record["status"] == "failed":
            (workdir / run.folder / RESULT).unlink()


def to_task(run: RunSpec) -> dict[str, Any]:
    """Returns the run as JSON, for a worker of another process."""
    return {
        "variant": dataclasses.asdict(run.variant),
        "seed": run.seed,
        "config": json.loads(run.config.to_json()),
        "differences": {key: list(pair) for key, pair in run.differences.items()},
    }


def from_task(task: dict[str, Any]) -> RunSpec:
    """Returns the run that `to_task` was given."""
    config = unflatten(flatten(task["config"]))
    differences = {key: (was, now) for key, (was, now) in task["differences"].items()}
    return RunSpec(Variant(**task["variant"]), task["seed"], config, differences)


def _side_by_side(run: RunSpec) -> bool:
    """Returns True if runs of this kind can share a device.

    Then nothing acts on one of them alone, and none asks for more.
    """
    config = run.config
    acts = config.monitor.action in (RESTART, ROLLBACK)
    streams = config.data.delivery == "streaming"
    return not (acts or streams or config.train.max_seconds) and config.parallel.devices in (0, 1)
