"""Runs the units of a study and keeps the result of each run in its folder.

A run that has ended has `result.json`; `results.jsonl` is made of these, in the order of the study, so a study that was
killed ends with the same lines as an unbroken one.
"""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from ganjax.evals.monitor import read_rows
from ganjax.evals.monitor.verdicts import DIVERGED, FINE
from ganjax.run.train import train
from ganjax.runtime.errors import DivergedError, MachineError, UserError, machine_failure
from ganjax.runtime.files import atomic_write_json, atomic_write_text, is_number, read_object
from ganjax.runtime.signals import StopSignals
from ganjax.study.config import RunSpec
from ganjax.study.plan import RESULT, Unit, described, record_of
from ganjax.study.population import Population
from ganjax.training import parallel

COLLAPSES = {"mode collapse", "partial collapse"}
FAILURES = "failures.log"  # in a run's folder: the trace of an error that is not the user's


def prepare_devices(devices: int = 0) -> list[jax.Device]:
    """Returns the devices that units share: all of them, on CPU one per core; or the first `devices`."""
    parallel.prepare_backend(1, 1, devices or os.cpu_count() or 1)
    return jax.devices()[: devices or None]


def run_group(
    group: Sequence[Unit], workdir: Path, devices: Sequence[jax.Device], stop: StopSignals
) -> dict[str, str]:
    """Trains the runs of some units that have not ended, side by side, and writes the result of each run that ends.

    An error in a run is its result. A signal leaves runs without one, and so does what is no fault of theirs: a failure
    of the machine, or a damaged folder.

    Returns:
      folder → reason of the runs that were left out so; the next call tries them again.

    Raises:
      MachineError: of the disk, which the runs that come next would meet too.
    """
    sharing = sum(len(unit.runs) for unit in group)
    for unit in group:
        for run in unit.runs:
            _take_result(run, workdir, sharing)  # a kill between the end of a run and its result
    left = [[None if record_of(run, workdir) else run for run in unit.runs] for unit in group]
    return _train(left, group[0].alone, workdir, devices, stop, sharing)


def _train(
    units: Sequence[Sequence[RunSpec | None]],
    alone: bool,
    workdir: Path,
    devices: Sequence[jax.Device],
    stop: StopSignals,
    sharing: int,
) -> dict[str, str]:
    """Trains the runs in their places, as `run_group`; None is the place of a run that is not to be trained."""
    units = [unit for unit in units if any(unit)]
    if not units or stop:
        return {}
    runs = [run for unit in units for run in unit if run is not None]
    try:
        if alone:
            (run,) = runs
            with contextlib.suppress(DivergedError):  # its summary says so
                train(run.config, workdir / run.folder)
        else:
            placed = [
                [None if run is None else (run.config, workdir / run.folder) for run in unit]
                for unit in units
            ]
            with Population(placed, devices, stop) as population:
                population.run()
    except (
        *(UserError, DivergedError, MemoryError, OSError),
        *(RuntimeError, ValueError, TypeError, ArithmeticError),
    ) as error:
        open_runs = [run for run in runs if not _take_result(run, workdir, sharing)]
        failure = machine_failure(error)
        if isinstance(failure, MachineError):
            raise failure from error
        if isinstance(error, OSError):
            raise
        if len(open_runs) > 1:  # one by one, so that none gets another's error for a result
            found: dict[str, str] = {}
            for run in open_runs:
                own = [[member if member is run else None for member in unit] for unit in units]
                found |= _train(own, alone, workdir, devices, stop, sharing)
            return found
        for run in open_runs:
            if failure is not None:
                return {run.folder: str(failure)}
            record_failure(run, workdir, error)
        return {}
    lost = [run.folder for run in runs if not (_take_result(run, workdir, sharing) or stop)]
    return dict.fromkeys(lost, "the last line of its log is lost; delete its folder to train it anew")


def record_failure(run: RunSpec, workdir: Path, error: Exception) -> None:
    """Writes the result of a run that ended in an error of its own; a result that it has already stays."""
    if record_of(run, workdir) is not None:
        return
    folder = workdir / run.folder
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_text(folder / FAILURES, "".join(traceback.format_exception(error)))
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    _write(
        run,
        workdir,
        {
            "status": "failed",
            "reason": f"{type(error).__name__}: {reason}",
            "steps": 0,
            "images": 0,
            "seconds": 0.0,
        },
    )


def _take_result(run: RunSpec, workdir: Path, sharing: int) -> bool:
    """Writes the result of a run whose summary says that it has ended. Returns True if the run now has one.

    Its cost is the time on its clock divided among the runs that were `sharing` the machine.
    """
    if record_of(run, workdir) is not None:
        return True
    folder = workdir / run.folder
    summary = read_object(folder / "summary.json")
    if not all(is_number(summary.get(name)) for name in ("steps", "images", "seconds")):
        return False
    ended = summary.get("reason") == "completed" and (
        summary["steps"] >= run.config.train.steps or run.config.train.max_seconds
    )
    if not ended and summary.get("reason") != DIVERGED:
        return False
    rows = read_rows(folder / "metrics.jsonl")
    if ended and (not rows or rows[-1]["step"] != summary["steps"]):
        return False
    rows = rows or [{}]
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
    nothing = {"metrics": {}, "verdicts": [], "collapsed": False}
    atomic_write_json(workdir / run.folder / RESULT, {**described(run), **nothing, **result})


def run_units(
    groups: Sequence[Sequence[Unit]],
    workdir: Path,
    devices: Sequence[jax.Device],
    stop: StopSignals,
    ended: Callable[[Sequence[Unit]], None],
) -> dict[str, str]:
    """Runs every group in turn, in this process, and calls `ended` after each.

    Compiled code is dropped with its program. Returns folder → reason of the runs that were left out (`run_group`).
    """
    program, left_out = "", dict[str, str]()
    for group in groups:
        if stop:
            break
        if program and group[0].program != program:
            jax.clear_caches()
        program = group[0].program
        left_out |= run_group(group, workdir, devices, stop)
        ended(group)
    return left_out
