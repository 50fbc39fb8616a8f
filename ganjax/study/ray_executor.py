"""Runs a study on a Ray cluster, or on all GPUs of a workstation: each unit is a task that gets one device.

Ray schedules, and starts a task again where its worker died; the runs then go on from their checkpoints. The workers
write to the study's folder, so on several machines it lies on a file system that all of them see.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ganjax.runtime.errors import UserError
from ganjax.runtime.signals import StopSignals
from ganjax.study.plan import Unit, from_task, record_of, to_task

RETRIES = 3  # of a unit whose worker died
POLL_SECONDS = 1.0


def run_units(
    units: Sequence[Unit], workdir: Path, stop: StopSignals, ended: Callable[[Sequence[Unit]], None]
) -> dict[str, str]:
    """Runs every unit as a task of the cluster at `RAY_ADDRESS`, or of one that is started here.

    Returns folder → reason of the runs that were left out (`running.run_group`), or whose worker was lost.

    Raises:
      UserError: Ray is not installed, or no cluster can be reached.
    """
    try:
        import ray
    except ImportError:
        raise UserError("--executor=ray needs Ray: pip install 'ganjax[ray]'") from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent from here
    if not ray.is_initialized():
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError) as error:
            raise UserError(f"--executor=ray found no cluster and could not start one: {error}") from error
    work = ray.remote(max_retries=RETRIES, **_device(ray.cluster_resources()))(_work)
    folder = str(workdir.absolute())
    waiting: dict[Any, Unit] = {}
    left_out: dict[str, str] = {}
    try:
        for unit in units:
            tasks = [to_task(run) for run in unit.runs]
            waiting[work.remote(tasks, unit.program, unit.alone, folder)] = unit
        while waiting and not stop:
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=POLL_SECONDS)
            for reference in ready:
                unit = waiting.pop(reference)
                left_out |= _settle(ray, reference, unit, workdir)
                ended([unit])
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)
    return left_out


def _device(resources: dict[str, float]) -> dict[str, Any]:
    """Returns the resources that a task asks Ray for: a GPU or a TPU chip where the cluster has any, else a core."""
    if resources.get("GPU"):
        return {"num_gpus": 1}
    if resources.get("TPU"):
        return {"num_cpus": 1, "resources": {"TPU": 1}}
    return {"num_cpus": 1}


def _work(tasks: list[dict[str, Any]], program: str, alone: bool, folder: str) -> dict[str, str]:
    """Trains a unit, in a worker, or the part of it that an earlier try has left; returns what was left out."""
    from ganjax.config import plugin_record
    from ganjax.study import running

    plugin_record.restore(plugin_record.read(Path(folder)), trusted=True)  # the driver has run them
    unit = Unit(0, program, tuple(from_task(task) for task in tasks), alone)
    devices = running.prepare_devices(1)
    try:
        return running.run_group([unit], Path(folder), devices, StopSignals())
    except UserError as error:
        return {run.folder: str(error) for run in unit.runs}


def _settle(ray: Any, reference: Any, unit: Unit, workdir: Path) -> dict[str, str]:
    """Ends a task, and returns what it left out: all of its runs without a result where the worker was lost.

    An error of a run is written by the worker as its result; what reaches us here is Ray's own, or the cluster's.
    """
    try:
        found: dict[str, str] = ray.get(reference)
    except ray.exceptions.RayError as error:
        found = {run.folder: f"its task failed: {str(error).strip()}" for run in unit.runs}
    return {
        run.folder: found[run.folder]
        for run in unit.runs
        if run.folder in found and not record_of(run, workdir)
    }
