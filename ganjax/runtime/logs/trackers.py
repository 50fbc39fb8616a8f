"""Trackers for Weights & Biases and MLflow, behind the same small interface as TensorBoard's writer.

Each is an optional extra.
"""

from __future__ import annotations

import io
import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ganjax.runtime.errors import UserError
from ganjax.runtime.files import atomic_write_json, read_object
from ganjax.runtime.logs.files import Metrics

IDS = "trackers.json"  # in the folder of a run: what each service calls it, so that it goes on there
BATCH = 100  # parameters that MLflow takes at once


class Tracker(Protocol):
    """Interface of a place to log to. Each method may raise, and the run then goes on without the tracker."""

    def scalars(self, step: int, metrics: Metrics) -> None:
        """Logs the numbers of `step`."""

    def image(self, step: int, name: str, png: bytes) -> None:
        """Logs a picture, given as the bytes of a PNG file."""

    def close(self) -> None:
        """Ends the session."""


def trackers(
    folder: Path, config: Mapping[str, Any], *, wandb: str, mlflow: str
) -> list[Callable[[], Tracker]]:
    """Returns functions that open the trackers that are asked for.

    Args:
      folder: the run's folder.
      config: the run's config, by dotted names.
      wandb: project at Weights & Biases; empty is none. Its own variables apply: `WANDB_MODE=offline`.
      mlflow: experiment of the MLflow server or store that `MLFLOW_TRACKING_URI` names; empty is none.
    """
    wanted: list[Callable[[], Tracker]] = []
    if wandb:
        wanted.append(partial(WandbTracker, folder, wandb, config))
    if mlflow:
        wanted.append(partial(MlflowTracker, folder, mlflow, config))
    return wanted


def numbers(metrics: Metrics) -> dict[str, float]:
    """Returns the metrics that are numbers."""
    return {
        name: float(value)
        for name, value in metrics.items()
        if name != "step" and value is not None and not isinstance(value, str)
    }


def known_id(folder: Path, service: str) -> str:
    """Returns the name that `service` has for the run in `folder`; empty where it does not know the run yet."""
    found = read_object(folder / IDS).get(service)
    return found if isinstance(found, str) else ""


def remember_id(folder: Path, service: str, name: str) -> None:
    """Notes the name that `service` has for the run in `folder`."""
    others = {other: known_id(folder, other) for other in ("wandb", "mlflow")}
    atomic_write_json(folder / IDS, {**others, service: name})


class WandbTracker:
    """Run at Weights & Biases, or with `WANDB_MODE=offline` a run kept in the folder until `wandb sync`."""

    def __init__(self, folder: Path, project: str, config: Mapping[str, Any]) -> None:
        """Raises `UserError` where wandb is not installed, or does not start."""
        try:
            import wandb
        except ImportError as error:
            raise UserError(
                f"log.wandb needs Weights & Biases: pip install 'ganjax[wandb]' ({error})."
            ) from None
        self._wandb = wandb
        name = known_id(folder, "wandb") or uuid.uuid4().hex
        try:
            self._run: Any = wandb.init(
                project=project,
                dir=str(folder),
                id=name,
                name=folder.resolve().name,
                resume="allow",
                config=dict(config),
                settings=wandb.Settings(console="off"),  # the terminal is the progress line's
            )
        except wandb.errors.Error as error:
            raise UserError(
                f"log.wandb={project!r}: {error} Without a network: WANDB_MODE=offline, and `wandb sync` later."
            ) from error
        remember_id(folder, "wandb", name)
        # An axis of our own: a run that goes back to an earlier checkpoint logs those steps again.
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, metrics: Metrics) -> None:
        """Logs the numbers of `step`; see `Tracker`."""
        self._run.log({"step": step, **numbers(metrics)})

    def image(self, step: int, name: str, png: bytes) -> None:
        """Logs a picture, the bytes of a PNG file; see `Tracker`."""
        from PIL import Image

        with Image.open(io.BytesIO(png)) as picture:
            self._run.log({"step": step, name: self._wandb.Image(picture)})

    def close(self) -> None:
        """Ends the session; see `Tracker`."""
        self._run.finish()


class MlflowTracker:
    """Run of an MLflow experiment."""

    def __init__(self, folder: Path, experiment: str, config: Mapping[str, Any]) -> None:
        """Raises `UserError` where MLflow is not installed, or its server or store is not there."""
        try:
            from mlflow.entities import Param
            from mlflow.exceptions import MlflowException
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise UserError(f"log.mlflow needs MLflow: pip install 'ganjax[mlflow]' ({error}).") from None
        self._id = known_id(folder, "mlflow")
        try:
            self._client: Any = MlflowClient()
            if self._id:
                self._client.update_run(self._id, status="RUNNING")
                return
            found = self._client.get_experiment_by_name(experiment)
            number = found.experiment_id if found else self._client.create_experiment(experiment)
            self._id = self._client.create_run(number, run_name=folder.resolve().name).info.run_id
            params = [Param(name, str(value)) for name, value in config.items()]
            for start in range(0, len(params), BATCH):
                self._client.log_batch(self._id, params=params[start : start + BATCH])
        except MlflowException as error:
            raise UserError(
                f"log.mlflow={experiment!r}: {error} MLFLOW_TRACKING_URI says where to log."
            ) from error
        remember_id(folder, "mlflow", self._id)

    def scalars(self, step: int, metrics: Metrics) -> None:
        """Logs the numbers of `step`; see `Tracker`."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        rows = [Metric(name, value, now, step) for name, value in numbers(metrics).items()]
        self._client.log_batch(self._id, metrics=rows)

    def image(self, step: int, name: str, png: bytes) -> None:
        """Logs a picture, the bytes of a PNG file; see `Tracker`."""
        from PIL import Image

        with Image.open(io.BytesIO(png)) as picture:
            self._client.log_image(self._id, picture, key=name, step=step)

    def close(self) -> None:
        """Ends the session; see `Tracker`."""
        self._client.set_terminated(self._id)
