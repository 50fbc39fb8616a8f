"""Restarts and rollbacks: what is kept, what goes on from where, and that they end."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from small import points_config, small_dataset

from ganjax.evals.monitor import Verdict, watch
from ganjax.run import loop
from ganjax.run.recovery import HEALTHY_FOLDER, Remedies, Remedy, read_remedies
from ganjax.run.setup import Setup
from ganjax.runtime.checkpoint import Checkpointer
from ganjax.runtime.errors import DivergedError, UserError
from ganjax.runtime.signals import StopSignals
from ganjax.training.build import build

STEPS = 60


def config_of(action: str, **options: Any) -> Any:
    every = {"log__every_steps": 10, "monitor__every_steps": 10, "checkpoint__every_steps": 10}
    rest = {
        "train__steps": STEPS,
        "monitor__action": action,
        "log__tensorboard": False,
        "monitor__samples": 32,
    }
    return points_config(**{**every, **rest, **options})


def loop_in(folder: Path, config: Any, checkpoints: Checkpointer) -> loop.Loop:
    dataset = small_dataset(points=True)
    setup = Setup(dataset, jax.devices()[:1], build(config, dataset), scan=False)
    return loop.Loop(config, setup, folder, checkpoints, StopSignals())


def run(folder: Path, config: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    with Checkpointer(folder / "checkpoints", keep=2) as checkpoints:
        return loop_in(folder, config, checkpoints).run()


def trouble(monkeypatch: pytest.MonkeyPatch, steps: list[int], since: int = 0) -> None:
    """Lets the monitor see mode collapse at these steps, once each."""
    left = list(steps)

    def judge(rows: Any, total: int) -> list[Verdict]:
        if rows and left and rows[-1]["step"] == left[0]:
            step = left.pop(0)
            return [Verdict("mode collapse", "bad", since or step - 10, "made up")]
        return []

    monkeypatch.setattr(watch, "judge_rows", judge)


def rates(state: Any) -> tuple[float, float, int]:
    hyper = jax.device_get(state.hyper)
    return float(hyper["gen/learning_rate"]), float(hyper["dis/learning_rate"]), int(hyper["seed"])


def restored(folder: Path, config: Any) -> Any:
    template = build(config, small_dataset(points=True)).shapes()
    with Checkpointer(folder / "checkpoints", keep=0) as checkpoints:
        found = checkpoints.restore(template)
    assert found is not None
    return found[1]


def test_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of("restart_lower_lr")
    trouble(monkeypatch, [30])
    summary = run(tmp_path, config)
    assert summary["reason"] == "completed" and summary["steps"] == STEPS
    (remedy,) = summary["remedies"]
    assert (remedy["step"], remedy["to_step"], remedy["verdict"]) == (30, 0, "mode collapse")
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(10, STEPS + 1, 10))
    failed = [json.loads(line) for line in (tmp_path / "attempts/1/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in failed] == [10, 20, 30] and failed[-1]["verdict"] == "mode collapse"
    assert failed[0]["loss/gen"] != rows[0]["loss/gen"], "the same path again"
    gen, dis, seed = rates(restored(tmp_path, config))
    assert gen == pytest.approx(config.gen.optimizer.learning_rate / 4)
    assert dis == pytest.approx(config.dis.optimizer.learning_rate / 4) and seed != config.seed
    assert sorted(os.listdir(tmp_path / "attempts/1")) == ["checkpoints", "metrics.jsonl", "samples"]


def test_rollbacks_go_further_back_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of("rollback_lower_lr", monitor__max_actions=4)
    trouble(monkeypatch, [50, 50, 50, 50], since=45)
    summary = run(tmp_path, config)
    assert [(r["action"][:8], r["to_step"]) for r in summary["remedies"]] == [
        ("rollback", 40),
        ("rollback", 30),
        ("rollback", 20),
        ("restart_", 0),
    ]
    assert [r["rate_gen"] for r in summary["remedies"]] == [0.25, 0.0625, 0.25**3, 0.25**4]
    assert len({r["seed"] for r in summary["remedies"]}) == 4 and summary["steps"] == STEPS
    gen, _, seed = rates(restored(tmp_path, config))
    assert gen == pytest.approx(config.gen.optimizer.learning_rate * 0.25**4)
    assert seed == summary["remedies"][-1]["seed"]


def test_a_rollback_keeps_the_rows_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trouble(monkeypatch, [50])
    run(tmp_path, config_of("rollback_lower_lr"))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    before = [json.loads(line) for line in (tmp_path / "attempts/1/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(10, STEPS + 1, 10))
    assert rows[:3] == before[:3] and rows[4]["lr/gen"] == pytest.approx(before[4]["lr/gen"] / 4)


def test_they_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trouble(monkeypatch, [20] * 10)
    summary = run(tmp_path, config_of("restart_lower_lr", monitor__max_actions=2))
    assert len(summary["remedies"]) == 2 and summary["steps"] == STEPS


@pytest.mark.parametrize("action", ["none", "warn"])
def test_others_only_say_so(
    action: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    trouble(monkeypatch, [30])
    summary = run(tmp_path, config_of(action))
    said = "Monitor at step 30: mode collapse since step 20: made up." in capsys.readouterr().out
    assert summary["remedies"] == [] and said == (action == "warn")
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[2]["verdict"] == "mode collapse"


def test_a_run_that_diverges_is_restarted_and_fails_in_the_end(tmp_path: Path) -> None:
    config = config_of(
        "restart_lower_lr",
        monitor__max_actions=2,
        gen__optimizer__learning_rate=1e38,
        gen__optimizer__name="sgd",
    )
    with pytest.raises(DivergedError, match="stopped being finite"):
        run(tmp_path, config)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["reason"] == "diverged"
    assert [remedy["verdict"] for remedy in summary["remedies"]] == ["divergence"] * 2
    assert (tmp_path / "diverged").exists()


@pytest.mark.parametrize("moved", [0, 1], ids=["before moving", "between two moves"])
def test_a_crash_in_the_midst_of_a_restart(
    moved: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next start finishes it: the failed path is not walked again."""
    config = config_of("restart_lower_lr")
    rename, calls = os.rename, [0]

    def failing(source: Any, target: Any) -> None:
        if "attempts" in str(target):
            calls[0] += 1
            if calls[0] > moved:
                raise KeyboardInterrupt
        rename(source, target)

    trouble(monkeypatch, [30])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "rename", failing)
        run(tmp_path, config)
    trouble(monkeypatch, [])
    summary = run(tmp_path, config)
    assert summary["steps"] == STEPS and len(summary["remedies"]) == 1
    assert rates(restored(tmp_path, config))[0] == pytest.approx(config.gen.optimizer.learning_rate / 4)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(10, STEPS + 1, 10))


def test_a_discriminator_that_is_ahead_is_slowed_first(tmp_path: Path) -> None:
    remedies = Remedies(tmp_path, config_of("restart_lower_lr"))
    collapse = Verdict("mode collapse", "bad", 10, "made up")
    found = [remedies.begin(30, collapse, [], dis_ahead=True) for _ in range(2)]
    assert [(r.rate_gen, r.rate_dis) for r in found] == [(1.0, 0.0625), (0.25, 0.015625)]
    other = Remedies(tmp_path / "other", config_of("restart_lower_lr"))
    (tmp_path / "other").mkdir()
    first = other.begin(30, Verdict("divergence", "bad", 10, "made up"), [], dis_ahead=True)
    assert (first.rate_gen, first.rate_dis) == (0.25, 0.25)
    assert Remedies(tmp_path, config_of("warn")).taken == found


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "remedies.json").write_text('[{"nope": 1}]')
    with pytest.raises(UserError, match=r"remedies\.json is damaged"):
        Remedies(tmp_path, config_of("warn"))


@pytest.mark.parametrize(
    "changed", [{"rate_gen": "x"}, {"rate_gen": 0}, {"to_step": None}, {"number": 2}, {"step": 1e9}]
)
def test_odd_values_in_the_record_are_refused(changed: dict[str, Any], tmp_path: Path) -> None:
    record = vars(Remedy(1, "restart_lower_lr", 20, "mode collapse", "made up", 0, 0.25, 0.25, 7))
    (tmp_path / "remedies.json").write_text(json.dumps([record]))
    assert read_remedies(tmp_path / "remedies.json")[0].rate_gen == 0.25
    (tmp_path / "remedies.json").write_text(json.dumps([{**record, **changed}]))
    with pytest.raises(UserError, match="should list the restarts"):
        read_remedies(tmp_path / "remedies.json")


@pytest.mark.parametrize("well", [True, False])
def test_the_twin_that_a_kill_lost_is_made_at_the_next_start(
    well: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a checkpoint and its twin; none of a state that was not judged healthy."""
    config = config_of("rollback_lower_lr", monitor__samples=0, monitor__max_actions=0)
    state = build(config, small_dataset(points=True)).init()
    with Checkpointer(tmp_path / "checkpoints", keep=2) as checkpoints:
        checkpoints.save(20, state, metadata={"seconds": 1.5, "networks": 1}, block=True)
        bad = [] if well else [Verdict("mode collapse", "bad", 10, "made up")]
        monkeypatch.setattr(watch, "judge_rows", lambda rows, total: bad)
        made = loop_in(tmp_path, config, checkpoints)
    assert made.step == 20
    with Checkpointer(tmp_path / HEALTHY_FOLDER, keep=0) as healthy:
        assert healthy.steps() == ([20] if well else [])
        if well:
            found = healthy.restore(state)
            assert found is not None and found[2]["seconds"] == 1.5
            assert all(map(np.array_equal, jax.tree.leaves(found[1]), jax.tree.leaves(jax.device_get(state))))


def test_healthy_checkpoints_are_kept_for_rollbacks_alone(tmp_path: Path) -> None:
    run(tmp_path / "a", config_of("warn"))
    run(tmp_path / "b", config_of("rollback_lower_lr"))
    assert not (tmp_path / "a" / HEALTHY_FOLDER).exists()
    with Checkpointer(tmp_path / "b" / HEALTHY_FOLDER, keep=0) as healthy:
        assert healthy.steps() == [40, 50, 60]
