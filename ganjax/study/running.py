"""Runs the units of a study and keeps the result of each run in its folder.

A run that has ended has `result.json`; `results.jsonl` is made of these, in the order of the study, so a study that was
killed ends with the same lines as an unbroken one.
"""

from __future__ import annotations

import contextlib
import json
import os
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from ganjax.evals.monitor import read_rows
from ganjax.evals.monitor.verdicts import FINE
from ganjax.run.train import train
from ganjax.runtime.errors import DivergedError, UserError
from ganjax.runtime.files import atomic_write_json
from ganjax.runtime.signals import StopSignals
from ganjax.study.config import BASE, RunSpec
from ganjax.study.plan import RESULT, Unit, record_of
from ganjax.study.population import Population
from ganjax.training import parallel

COLLAPSES = {"mode collapse", "partial collapse"}
FAILURES = "failures.log"  # in a run's folder: the trace of an error that is not the user's


def prepare_devices(devices: int = 0) -> list[jax.Device]:
    """Returns the devices that units share: all of them, on CPU one per core; or the first `devices`."""
    parallel.prepare_backend(1, 1, devices or os.cpu_count() or 1)
    return jax.devices()[: devices or None]


def run_group(group: Sequence[Unit], workdir: Path, devices: Sequence[jax.Device], stop: StopSignals) -> None:
    """Trains the runs of some units that have not ended, side by side, and writes the result of each run that ends.

    An error in a run is its result. Only a signal leaves runs without one.
    """
    for unit in group:
        for run in unit.runs:
            _take_result(run, workdir, _sharing(group))  # a kill between the end of a run and its result
    left = [[None if record_of(run, workdir) else run for run in unit.runs] for unit in group]
    left = [unit for unit in left if any(unit)]
    if not left or stop:
        return
    runs = [run for unit in left for run in unit if run is not None]
    try:
        if group[0].alone:
            (run,) = runs
            _alone(run, workdir)
        else:
            units = [
                [None if run is None else (run.config, workdir / run.folder) for run in unit] for unit in left
            ]
            with Population(units, devices, stop) as population:
                population.run()
    except (UserError, DivergedError, RuntimeError, ValueError, TypeError, ArithmeticError) as error:
        for run in runs:
            if not _take_result(run, workdir, _sharing(group)):
                record_failure(run, workdir, error)
        return
    for run in runs:
        _take_result(run, workdir, _sharing(group))


def _sharing(group: Sequence[Unit]) -> int:
    """Returns the number of runs that share the machine while this group trains."""
    return sum(len(unit.runs) for unit in group)


def _alone(run: RunSpec, workdir: Path) -> None:
    with contextlib.suppress(DivergedError):  # its summary says so
        train(run.config, workdir / run.folder)


def record_failure(run: RunSpec, workdir: Path, error: Exception) -> None:
    """Writes the result of a run that ended in an error; a result that it has already stays."""
    if record_of(run, workdir) is not None:
        return
    folder = workdir / run.folder
    folder.mkdir(parents=True, exist_ok=True)
    reason = str(error).strip() or type(error).__name__
    if not isinstance(error, UserError):
        (folder / FAILURES).write_text("".join(traceback.format_exception(error)))
        reason = f"{type(error).__name__}: {reason.splitlines()[0][:300]}"
    _write(run, workdir, {"status": "failed", "reason": reason, "steps": 0, "images": 0, "seconds": 0.0})


def _take_result(run: RunSpec, workdir: Path, sharing: int) -> bool:
    """Writes the result of a run whose summary says that it has ended. Returns True if the run now has one.

    Its cost is the time on its clock divided among the runs that were `sharing` the machine.
    """
    if record_of(run, workdir) is not None:
        return True
    folder = workdir / run.folder
    try:
        summary = json.loads((folder / "summary.json").read_text())
    except (OSError, ValueError):
        return False
    ended = summary.get("reason") == "completed" and (
        summary["steps"] >= run.config.train.steps or run.config.train.max_seconds
    )
    if not ended and summary.get("reason") != "diverged":
        return False
    rows = read_rows(folder / "metrics.jsonl")
    seen = [str(row.get("verdict", "")).split(", ") for row in rows]
    bad = {name for names in seen for name in names} - FINE - {""}
    last = {name.removeprefix("eval/"): value for name, value in rows[-1].items() if name.startswith("eval/")}
    completed = summary["reason"] == "completed"
    result = {
        "status": summary["reason"],
        "reason": "" if completed else "a loss or gradient stopped being finite",
        "steps": summary["steps"],
        "images": summary["images"],
        "seconds": round(summary["seconds"] / sharing, 2),
        "metrics": last if completed else {},
        "verdicts": sorted(bad if completed else bad | {"divergence"}),
        "collapsed": bool(COLLAPSES & set(seen[-1])),
    }
    _write(run, workdir, result)
    return True


def _write(run: RunSpec, workdir: Path, result: dict[str, Any]) -> None:
    variant = run.variant
    record = {
        "variant": variant.name,
        "group": variant.group,
        "seed": run.seed,
        "base": variant.name == BASE,
        "expected": variant.expected,
        "claim": variant.claim,
        "differences": {key: list(pair) for key, pair in run.differences.items()},
        "metrics": {},
        "verdicts": [],
        "collapsed": False,
        **result,
        "folder": run.folder,
    }
    atomic_write_json(workdir / run.folder / RESULT, record)


def run_units(
    groups: Sequence[Sequence[Unit]],
    workdir: Path,
    devices: Sequence[jax.Device],
    stop: StopSignals,
    ended: Callable[[Sequence[Unit]], None],
) -> None:
    """Runs every group in turn, in this process, and calls `ended` after each.

    Compiled code is dropped with its program.
    """
    program = ""
    for group in groups:
        if stop:
            return
        if program and group[0].program != program:
            jax.clear_caches()
        program = group[0].program
        run_group(group, workdir, devices, stop)
        ended(group)
