"""Weights & Biases and MLflow, offline, by what they have on disk; and a service that fails."""

from __future__ import annotations

import io
import json
import struct
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from ganjax.runtime.errors import UserError
from ganjax.runtime.logs import Progress, RunWriter, trackers, write_grid

CONFIG = {"seed": 3, "loss.name": "hinge"}


def log_two_sittings(workdir: Path, wandb: str = "", mlflow: str = "") -> None:
    """Steps 10 and 20, then again from 10 as after a kill."""
    for start, steps in ((0, (10, 20)), (10, (20, 30))):
        opened = trackers(workdir, CONFIG, wandb=wandb, mlflow=mlflow)
        shown = io.StringIO()
        progress = Progress(30, console=Console(file=shown), live=False)
        with RunWriter(
            workdir, total_steps=30, start_step=start, tensorboard=False, trackers=opened, progress=progress
        ) as writer:
            for step in steps:
                writer.log(
                    step, {"loss/gen": step / 10 + start, "verdict": "healthy", "loss/dis": np.float32(1)}
                )
            path = workdir / "grid.png"
            write_grid(path, np.zeros((4, 8, 8, 1), np.uint8))
            writer.image(steps[-1], path)
        assert "failed" not in shown.getvalue()
        time.sleep(1.1 if wandb else 0)  # its offline sittings are told apart by the second


@pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy:DeprecationWarning"
)  # of MLflow's own models
@pytest.mark.parametrize("store", ["default", "files"])
def test_mlflow_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str) -> None:
    """Where nothing is set MLflow makes a SQLite file in the working directory."""
    pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if store == "files":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    log_two_sittings(tmp_path / "run", mlflow="digits")
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("digits")
    (run,) = client.search_runs([experiment.experiment_id])  # both sittings are one run
    assert run.info.status == "FINISHED" and run.info.run_name == "run"
    assert run.data.params == {"seed": "3", "loss.name": "hinge"}
    history = client.get_metric_history(run.info.run_id, "loss/gen")
    assert [(row.step, row.value) for row in history] == [(10, 1), (20, 2), (20, 12), (30, 13)]
    assert any("samples" in file.path for file in client.list_artifacts(run.info.run_id, "images"))


def wandb_records(path: Path) -> list[Any]:
    """The messages of an offline run: protocol buffers in the log format of LevelDB, behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, records, parts = path.read_bytes(), 7, [], b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # no header is split between two blocks
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            records.append(Record.FromString(parts))
            parts = b""
    return records


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    log_two_sittings(tmp_path / "run", wandb="digits")
    name = json.loads((tmp_path / "run" / "trackers.json").read_text())["wandb"]
    files = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert files and all(name in file.name for file in files)  # both sittings are one run
    rows, settings = [], {}
    for file in files:
        for record in wandb_records(file):
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append({item.key or item.nested_key[0]: json.loads(item.value_json) for item in items})
            if record.WhichOneof("record_type") == "run":
                assert (record.run.project, record.run.run_id, record.run.display_name) == (
                    "digits",
                    name,
                    "run",
                )
                settings |= {item.key: item.value_json for item in record.run.config.update}
    assert [(row["step"], row["loss/gen"]) for row in rows if "loss/gen" in row] == [
        (10, 1),
        (20, 2),
        (20, 12),
        (30, 13),
    ]
    assert [row["step"] for row in rows if "samples" in row] == [20, 30]
    assert json.loads(settings["loss.name"]) == "hinge"


class Broken:
    def scalars(self, step: int, metrics: Any) -> None:
        raise ConnectionError("no route")

    def close(self) -> None:
        raise AssertionError("it is left out")


def test_a_run_goes_on_without_a_service_that_fails(tmp_path: Path) -> None:
    shown = io.StringIO()
    progress = Progress(30, console=Console(file=shown), live=False)
    opened: Any = [Broken]
    with RunWriter(tmp_path, total_steps=30, start_step=0, trackers=opened, progress=progress) as writer:
        writer.log(10, {"loss/gen": 1.0})
        writer.log(20, {"loss/gen": 1.0})
    assert shown.getvalue().count("Broken failed, and the run goes on without it: no route") == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_what_is_not_installed_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for module in [key for key in sys.modules if key.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]
    (opened,) = trackers(tmp_path, CONFIG, **{"wandb": "", "mlflow": "", name: "digits"})
    with pytest.raises(UserError, match=rf"pip install 'ganjax\[{name}\]'"):
        opened()


def test_a_store_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://nowhere")
    (opened,) = trackers(tmp_path, CONFIG, wandb="", mlflow="digits")
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI says where to log"):
        opened()
