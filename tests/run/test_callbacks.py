"""Callbacks: when they are due; what an evaluation logs, and which checkpoints it keeps."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from small import points_config, small_dataset

from ganjax.run.callbacks import Every
from ganjax.run.callbacks import grid as grids
from ganjax.run.callbacks.evaluation import Evaluation
from ganjax.run.callbacks.grid import Grid
from ganjax.run.clock import Clock
from ganjax.run.open import BEST, checkpoint_folder
from ganjax.runtime.checkpoint import Checkpointer
from ganjax.runtime.errors import UserError
from ganjax.runtime.programs import Programs

if TYPE_CHECKING:
    from conftest import RunCli


class FakeSampler:
    seed = 0
    counts: Any = "even"

    def at_shares(self, counts: Any) -> FakeSampler:
        other = FakeSampler()
        other.counts = counts
        return other

    def blocks(self, variables: Any, n: int) -> Any:
        return self.counts


def evaluation(folder: Path, **options: Any) -> Evaluation:
    config = points_config(**{"eval__every_kimg": 1.0, "log__every_steps": 10, **options})
    build = SimpleNamespace(images_per_step=30, programs=Programs())
    setup = SimpleNamespace(build=build, dataset=small_dataset(points=True))
    return Evaluation(config, folder, setup, FakeSampler())  # type: ignore[arg-type]


def test_due_at_the_first_log_line_after_each_multiple(tmp_path: Path) -> None:
    """30 images a step, a log line every 300 images, an evaluation every 1,000."""
    made = evaluation(tmp_path)
    found = [step for step in range(10, 121, 10) if made.due(step, last=False)]
    assert found == [40, 70, 100] and made.due(50, last=True) and not made.due(43, last=False)
    never = evaluation(tmp_path, eval__every_kimg=0.0)
    assert not never.due(40, last=True)


def test_every_multiple_and_the_end() -> None:
    every = Every(10)
    assert [step for step in range(1, 41) if every.due(step, last=step == 37)] == [10, 20, 30, 37, 40]


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        (0, [500, 1000, 1500]),
        (1, [16, 32, 64, 128, 256, 500, 1000, 1500]),
        (10, [20, 40, 80, 160, 320, 500, 1000, 1500]),
        (50, [50, 100, 200, 400, 500, 1000, 1500]),
        (500, [500, 1000, 1500]),
    ],
)
def test_grids_come_at_doubling_steps_first(calls: int, expected: list[int], tmp_path: Path) -> None:
    grid = Grid(tmp_path, FakeSampler(), small_dataset(), every_steps=500, samples=4, calls=calls)  # type: ignore[arg-type]
    steps = range(calls or 1, 1501, calls or 1)
    assert [step for step in steps if grid.due(step, last=step == 1500)] == expected


def test_reals_stand_where_samples_of_their_class_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every image of the data shows its label; one class has no image at all."""
    labels = np.array([0, 1, 3] * 5, np.int32)
    images = np.tile(labels[:, None, None, None], (1, 4, 4, 1)).astype(np.uint8)
    dataset = dataclasses.replace(small_dataset(), images=images, labels=labels, num_classes=4)
    sampler = SimpleNamespace(labels=lambda n: np.arange(n) % 4, columns=lambda n: 4)
    written = dict[str, Any]()
    monkeypatch.setattr(
        grids, "write_grid", lambda path, images, columns: written.update(i=images, c=columns)
    )
    Grid(tmp_path, sampler, dataset, every_steps=10, samples=12).write_reals(seed=3)  # type: ignore[arg-type]
    shown = written["i"][:, 0, 0, 0].reshape(3, 4)
    assert written["c"] == 4 and (shown[:, [0, 1, 3]] == [0, 1, 3]).all()
    sampler.labels = lambda n: None
    Grid(tmp_path, sampler, dataset, every_steps=10, samples=15).write_reals(seed=3)  # type: ignore[arg-type]
    assert sorted(written["i"][:, 0, 0, 0]) == sorted(labels)


def test_programs_are_made_once_a_key() -> None:
    programs, made = Programs(), list[int]()
    for key in (1, 2, 1, 2):
        assert programs.get(key, lambda key=key: made.append(key) or key) == key
    assert made == [1, 2]


@pytest.mark.parametrize(
    ("options", "blocks", "named"),
    [
        ({}, "even", ""),  # of networks that know no classes
        ({"model__conditional": True}, (512,), "data"),
        ({"model__conditional": True, "eval__class_shares": "even"}, "even", "even"),
    ],
)
def test_best_checkpoints_are_judged_at_the_shares_of_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], blocks: Any, named: str
) -> None:
    seen: list[Any] = []
    made = evaluation(tmp_path, eval__keep_best=0, **options)
    judge = lambda given, names, **said: seen.append((given, said["class_shares"])) or []
    monkeypatch.setattr(Evaluation, "judge", property(lambda self: judge))
    monkeypatch.setattr("ganjax.run.callbacks.evaluation.faults_of", lambda state: "")
    made(SimpleNamespace(state=SimpleNamespace(ema=None), step=10, row={}, clock=Clock()))  # type: ignore[arg-type]
    assert seen == [(blocks, named)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"eval__metrics": "fidd"}, "eval.metrics takes some of"),
        ({"eval__best": "coverage"}, "eval.best='coverage' needs 'prdc'"),
    ],
)
def test_refused_before_anything_is_compiled(options: dict[str, Any], expected: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=expected):
        evaluation(tmp_path, **options)
    evaluation(tmp_path, **options, eval__every_kimg=0.0)


@pytest.mark.parametrize(
    ("best", "expected"), [("fid", [20, 40]), ("modes", [10, 50])], ids=["low is good", "high is good"]
)
def test_the_best_are_kept(best: str, expected: list[int], tmp_path: Path) -> None:
    values = {10: 9.0, 20: 1.0, 30: 5.0, 40: 2.0, 50: 9.5, 60: float("nan")}
    for step, value in values.items():  # each in a sitting of its own
        made = evaluation(tmp_path, eval__best=best, eval__keep_best=2, eval__metrics="fid,modes")
        made._keep(step, {"w": np.full(3, step, np.float32)}, {best: value})  # type: ignore[arg-type]
    with Checkpointer(tmp_path / BEST, keep=0) as kept:
        assert kept.steps() == expected
        found = kept.restore({"w": np.zeros(3, np.float32)}, expected[0])
    assert found is not None and found[1]["w"][0] == expected[0] and found[2][best] == values[expected[0]]
    index = json.loads((tmp_path / BEST / "index.json").read_text())
    assert index["measure"] == best and sorted(map(int, index["steps"])) == expected
    assert checkpoint_folder(tmp_path, expected[0]) == tmp_path / BEST
    assert checkpoint_folder(tmp_path, None) == checkpoint_folder(tmp_path, 30) == tmp_path / "checkpoints"


@pytest.mark.parametrize("index", ["", '{"measure": "fid", "steps": {"99": 0.5}}', "[]"])
def test_a_damaged_index_loses_no_checkpoint(index: str, tmp_path: Path) -> None:
    for step, value in {10: 1.0, 20: 3.0, 30: 2.0}.items():
        made = evaluation(tmp_path, eval__keep_best=2)
        made._keep(step, {"w": np.full(3, step, np.float32)}, {"fid": value})  # type: ignore[arg-type]
        (tmp_path / BEST / "index.json").write_text(index)
    with Checkpointer(tmp_path / BEST, keep=0) as kept:
        assert kept.steps() == [10, 30]


def test_removing_a_step(tmp_path: Path) -> None:
    with Checkpointer(tmp_path / "x", keep=0) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, {"w": np.zeros(2, np.float32)}, block=True)
        checkpoints.remove(1)
        checkpoints.remove(7)
        assert checkpoints.steps() == [2] and sorted(p.name for p in (tmp_path / "x").iterdir()) == ["2"]


@pytest.mark.slow
def test_a_run_that_evaluates(run_cli: RunCli, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    options = [
        "train.steps=60",
        "log.every_steps=10",
        "log.sample_every_steps=60",
        "gen.width=8",
        "dis.width=8",
    ]
    options += ["eval.every_kimg=2.5", "eval.samples=500", "eval.metrics=fid,modes", "eval.keep_best=2"]
    options += ["parallel.devices=1"]
    command = [f"--workdir={workdir}", *(f"--config.{option}" for option in options)]
    done = run_cli("train", "--config=configs/ring.py", *command)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    measured = {row["step"]: row["eval/fid"] for row in rows if "eval/fid" in row}
    batch = rows[0]["images"] // 10
    crossed = [s for s in range(10, 61, 10) if s * batch // 2500 > (s - 10) * batch // 2500]
    assert sorted(measured) == sorted({*crossed, 60}) and len(rows) == 6 and len(measured) >= 2
    assert {"eval/modes", "eval/kl", "eval/high_quality"} <= rows[-1].keys()
    for result in json.loads((workdir / "evaluations" / "step_00000060.json").read_text()):
        assert result["name"] != "fid" or result["low"] < result["value"] < result["high"]
    with Checkpointer(workdir / BEST, keep=0) as kept:
        assert kept.steps() == sorted(sorted(measured, key=lambda s: measured[s])[:2])
    assert json.loads((workdir / "summary.json").read_text())["metrics"]["eval/fid"] == pytest.approx(
        measured[60], rel=1e-6
    )
