"""`ganjax ablate`: runs or resumes a study, and writes its findings after every few runs."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from ganjax.config import plugin_record
from ganjax.config.options import BY_KEY
from ganjax.config.recipe import flatten
from ganjax.evals.monitor import read_rows
from ganjax.runtime.errors import UserError, quoted
from ganjax.runtime.files import atomic_write_json, write_atomically
from ganjax.runtime.signals import StopSignals
from ganjax.runtime.workdir import Workdir
from ganjax.study.analysis import analyse
from ganjax.study.claims import claims_table, judge_claims, stopping, stopping_words
from ganjax.study.config import BASE, RunSpec, Study, expand, load_study, resolved
from ganjax.study.page import write_study_page
from ganjax.study.plan import Unit, check_sizes, forget_failures, in_groups, in_shard, make_units
from ganjax.study.results import collect, curves, picture
from ganjax.study.tables import describe, to_csv

STUDY = "study.json"
EXECUTORS = ("local", "ray")
PAGE_EVERY = 120.0  # seconds between two pages while a study runs
MOST_REASONS = 5  # of runs that were left out


@dataclass
class Options:
    """The options for running a study.

    Attributes:
      executor: `local` runs it in this process, `ray` on a Ray cluster.
      per_device: number of runs that a device trains at once; 0 finds the fastest number.
      shard: (i, n): only the i-th of n parts, for an array of jobs. Runs that share a program lie together, so that a
        part compiles few programs.
      devices: number of devices to use in this process; 0 uses all.
      retry_failed: True tries runs again that failed in an earlier sitting.
    """

    executor: str = "local"
    per_device: int = 0
    shard: tuple[int, int] = (0, 1)
    devices: int = 0
    retry_failed: bool = False


@dataclass
class Progress:
    """A report of a study's progress and of the time that is left."""

    total: int
    console: Console = field(default_factory=Console)
    begin: float = field(default_factory=time.monotonic)
    before: int | None = None

    def tell(self, records: Sequence[dict[str, Any]], group: Sequence[Unit]) -> None:
        """Prints a line for the runs that have just ended."""
        done = len(records)
        ran = sum(len(unit.runs) for unit in group)
        self.before = done - ran if self.before is None else self.before
        each = (time.monotonic() - self.begin) / max(1, done - self.before)
        names = ", ".join(dict.fromkeys(run.variant.name for unit in group for run in unit.runs))
        of_these = {run.folder for unit in group for run in unit.runs}
        bad = [r for r in records if r["folder"] in of_these and r["status"] != "completed"]
        fate = "" if not bad else f"  ({len(bad)} {bad[0]['status']}: {bad[0]['reason']})"
        left = each * (self.total - done)
        self.console.print(
            f"{done:>4}/{self.total} runs  {names}{fate}  about {left / 60:.0f} min left",
            highlight=False,
            markup=False,
        )


def ablate(spec: str, workdir: Path, options: Options) -> list[dict[str, Any]]:
    """Runs the rest of the study `spec` in `workdir` and returns the records of all runs that have ended.

    Raises:
      UserError: the study cannot be run (found before any run), the folder holds another study, or runs have no result
        because the machine failed them; what there is has been written then.
    """
    study = load_study(spec)
    runs = expand(study)
    if options.executor not in EXECUTORS:
        raise UserError(f"--executor takes one of {', '.join(EXECUTORS)}, and got {options.executor!r}.")
    i, n = options.shard
    if not 0 <= i < n:
        raise UserError(f"--shard takes I/N with I from 0 to N - 1, and got {i}/{n}.")
    if n > 1 and options.executor == "ray":
        raise UserError("--shard is for the local executor: Ray divides the runs among its workers itself.")
    lock = workdir if n == 1 else workdir / "shards" / f"{i}_of_{n}"
    from ganjax.study import running

    with Workdir.open(lock, config=resolved(study, runs), allowed=_may_change), StopSignals() as stop:
        devices = running.prepare_devices(options.devices if options.executor == "local" else 1)
        check_sizes(runs)
        plugin_record.store(workdir, *(flatten(run.config) for run in runs))
        atomic_write_json(workdir / STUDY, {**resolved(study, runs), "spec": spec, "runs": len(runs)})
        if options.retry_failed:
            forget_failures(runs, workdir)
        left_out = _run(study, runs, workdir, spec, options, devices, stop)
        records = collect(runs, workdir)
        write_pages(study, runs, records, workdir, spec)
        console = Console()
        how_far = f"{len(records)} of {len(runs)} runs have ended"
        if left_out:
            raise UserError(_left_out(left_out, how_far))
        if stop:
            console.print(f"Stopped ({stop.reason}): {how_far}; the same command goes on.", highlight=False)
        else:
            console.print(f"{how_far}; the page is {workdir / 'report.html'}", highlight=False)
    return records


def _left_out(reasons: Mapping[str, str], how_far: str) -> str:
    """Returns the message about runs without a result that is theirs."""
    lines = [f"  {folder}: {reason}" for folder, reason in list(reasons.items())[:MOST_REASONS]]
    if len(reasons) > MOST_REASONS:
        lines.append(f"  and {len(reasons) - MOST_REASONS} more")
    return "\n".join(
        [f"{how_far}; {len(reasons)} were left out for no fault of theirs:", *lines]
        + ["They count as nothing, and the same command tries them again."]
    )


def _may_change(key: str) -> bool:
    """Returns True if a study may go on with another value of this key: an option of the base that alters no number."""
    option = BY_KEY.get(key.removeprefix("base."))
    return option is not None and option.runtime and option.key != "train.steps"


def _run(
    study: Study,
    runs: Sequence[RunSpec],
    workdir: Path,
    spec: str,
    options: Options,
    devices: Sequence[Any],
    stop: StopSignals,
) -> dict[str, str]:
    """Runs all groups of this shard by the executor. Returns folder → reason of the runs that were left out."""
    from ganjax.study import calibration, running

    progress, last_page = Progress(len(runs)), time.monotonic()

    def ended(group: Sequence[Unit]) -> None:
        nonlocal last_page
        records = collect(runs, workdir)
        progress.tell(records, group)
        if time.monotonic() - last_page > PAGE_EVERY:
            write_pages(study, runs, records, workdir, spec)
            last_page = time.monotonic()

    base = [run for run in runs if run.variant.name == BASE]
    if options.executor == "ray":
        from ganjax.study import ray_executor  # only now: Ray is an extra

        units = make_units(runs, options.per_device or 1)
        return ray_executor.run_units(units, workdir, stop, ended)
    size = options.per_device or calibration.per_device(base, devices, workdir)
    groups = in_groups(make_units(runs, size), len(devices))
    return running.run_units(in_shard(groups, *options.shard), workdir, devices, stop, ended)


def write_pages(
    study: Study, runs: Sequence[RunSpec], records: Sequence[dict[str, Any]], workdir: Path, spec: str
) -> None:
    """Writes `results.csv`, `results.md` and `report.html` from the records so far."""
    metrics = [{"name": name, "better": better} for name, better in study.metrics.items()]
    grouped = any(variant.group for variant in study.variants)
    analysis = analyse(records, metrics, BASE, correct_within="group" if grouped else "study")
    claims = judge_claims(analysis, records)
    completed = [record for record in records if record["status"] == "completed"]
    logs = [read_rows(workdir / record["folder"] / "metrics.jsonl") for record in completed]
    stopped = stopping(logs, study.primary, higher=study.metrics[study.primary] == "higher")
    write_atomically(workdir / "results.csv", to_csv(records, metrics).encode(), "results")
    ended = {record["folder"] for record in records}
    missing = [f"`{run.folder}`" for run in runs if run.folder not in ended]
    note = f"{len(missing)} of {len(runs)} runs have no result and are left out: {', '.join(missing)}.\n\n"
    table = (
        f"# {study.title}\n\n{note if missing else ''}{describe(analysis)}\n"
        f"{claims_table(claims, stopped, study.primary)}"
    )
    write_atomically(workdir / "results.md", table.encode(), "results")
    middle = {variant.name: variant.median_seed for variant in analysis.variants}
    grids = {
        record["variant"]: path.read_bytes()
        for record in records
        if record["seed"] == middle.get(record["variant"]) and (path := picture(record, workdir)) is not None
    }
    write_study_page(
        workdir / "report.html",
        study.title,
        records,
        analysis.to_json(),
        curves(records, list(study.metrics), workdir),
        grids,
        planned=len(runs),
        description=study.notes,
        command=f"ganjax ablate --config={quoted(spec)} --workdir={quoted(workdir)}",
        claims=claims,
        stopped=stopping_words(stopped, study.primary) if stopped.runs else (),
    )


def dry_run(spec: str, *, as_json: bool) -> str:
    """Returns the runs of a study, checked, with their differences from the base, and the time they will take."""
    from ganjax.run.dry_run import describe
    from ganjax.run.setup import prepare

    study = load_study(spec)
    runs = expand(study)
    base = runs[0].config
    flops = describe(base, prepare(base))["flops_per_step"] * base.train.steps
    check_sizes(runs)
    programs = len({unit.program for unit in make_units(runs, 1)})
    if as_json:
        return json.dumps(
            {
                **resolved(study, runs),
                "runs": [{"folder": run.folder, "differences": run.differences} for run in runs],
                "programs": programs,
                "flops_of_a_base_run": flops,
            }
        )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=study.title)
    for title in ("variant", "group", "differs from the base in", "steps"):
        table.add_column(title)
    for run in runs:
        if run.seed == study.seeds[0]:
            changes = ", ".join(f"{key}={now}" for key, (_, now) in run.differences.items())
            table.add_row(run.variant.name, run.variant.group, changes or "–", str(run.config.train.steps))
    console = Console(width=120, color_system=None)
    with console.capture() as captured:
        console.print(table)
    seeds = len(study.seeds)
    return (
        f"{captured.get().rstrip()}\n"
        f"{len(runs)} runs: {len(runs) // seeds} variants × {seeds} seeds, {programs} programs to compile; a run of "
        f"the base takes {flops / 1e12:.2f} TFLOP, all about {flops * len(runs) / 1e12:.0f}."
    )
