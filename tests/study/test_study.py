"""Studies: what is refused before it starts, what shares a program, and that how a study is run changes no number."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from conftest import RunCli
from small import points_config
from studies import STUDY

from ganjax.config import to_json
from ganjax.runtime.checkpoint import Checkpointer
from ganjax.runtime.errors import MachineError, UserError
from ganjax.runtime.signals import StopSignals
from ganjax.study import Study, Variant, grid, one_at_a_time, running
from ganjax.study.ablate import Options, ablate
from ganjax.study.analysis import analyse
from ganjax.study.claims import first_spike, judge_claims, spearman, stopping
from ganjax.study.config import BASE, expand, load_study, slug
from ganjax.study.plan import (
    Unit,
    check_sizes,
    from_task,
    in_groups,
    in_shard,
    make_units,
    record_of,
    to_task,
)
from ganjax.study.population import Population, common_step
from ganjax.study.results import collect
from ganjax.study.running import run_group
from ganjax.training.build import program_of


def study(**changes: Any) -> Study:
    """A small one of points; `variants` and the like by name."""
    given: dict[str, Any] = {
        "title": "small",
        "base": points_config(),
        "variants": [Variant("fast", {"gen.optimizer.learning_rate": 1e-2})],
        "metrics": {"high_quality": "higher"},
        "seeds": (0, 1, 2),
        "kimg": 2.56,
        "samples": 100,
    }
    return Study(**{**given, **changes})


def test_a_study_is_all_variants_with_all_seeds_and_the_budget() -> None:
    runs = expand(study())
    assert [(run.variant.name, run.seed) for run in runs] == [
        (n, s) for n in (BASE, "fast") for s in (0, 1, 2)
    ]
    assert all(run.config.seed == run.seed for run in runs)
    images = [run.config.train.steps * run.config.train.batch_size for run in runs]
    assert all(abs(n - 2560) <= 0.1 * 2560 for n in images)
    assert runs[-1].differences == {
        "gen.optimizer.learning_rate": (runs[0].config.gen.optimizer.learning_rate, 0.01)
    }
    assert runs[-1].folder == "runs/fast/seed_2"


def test_more_updates_of_dis_are_paid_for_in_images() -> None:
    runs = expand(study(variants=[Variant("5:1", {"train.dis_steps": 5})]))
    base, other = runs[0].config, runs[-1].config
    assert base.train.steps == pytest.approx(5 * other.train.steps, rel=0.1)


def test_expansions() -> None:
    assert [v.changes for v in one_at_a_time({"noise.std": (0.1, 0.2), "seed": (1,)})] == [
        {"noise.std": 0.1},
        {"noise.std": 0.2},
        {"seed": 1},
    ]
    crossed = grid({"noise.std": (0.1, 0.2), "loss.name": ("hinge", "minimax")})
    assert len(crossed) == 4 and crossed[-1].changes == {"noise.std": 0.2, "loss.name": "minimax"}
    assert len({slug(v.name) for v in crossed}) == 4


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"variants": [Variant("bad", {"los.name": "hinge"})]}, "'bad'.*loss.name"),
        (
            {"variants": [Variant("bad", {"loss.label_smoothing": 0.1, "loss.name": "hinge"})]},
            "'bad'.*smoothing",
        ),
        ({"variants": [Variant("idle", {"seed": 3})]}, "set by the study"),
        ({"variants": [Variant("same", {"loss.scale": 1.0})]}, "does not differ"),
    ],
)
def test_impossible_variants_are_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        expand(study(**changes))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("kimg=5.12", "kimg=0.0"),
        ("seeds=(0, 1)", "seeds=()"),
        ("seeds=(0, 1)", "seeds=(1, 1)"),
        ('{"high_quality": "higher"}', '{"high_quality": "up"}'),
        ('"lr ×4"', '"BASE"'),
        ("base.monitor.samples = 64", 'base.log.wandb = "project"'),
    ],
)
def test_what_is_no_study_is_refused(text: str, named: str, tmp_path: Path) -> None:
    assert text in STUDY
    (tmp_path / "study.py").write_text(STUDY.replace(text, named))
    with pytest.raises(UserError, match="cannot be run"):
        load_study(str(tmp_path / "study.py"))


def test_ray_takes_no_shard(tmp_path: Path) -> None:
    (tmp_path / "study.py").write_text(STUDY)
    with pytest.raises(UserError, match="--shard is for the local executor"):
        ablate(str(tmp_path / "study.py"), tmp_path / "w", Options(executor="ray", shard=(0, 2)))


@pytest.mark.parametrize("n", [1, 2, 3, 5, 20])
def test_shards_are_all_of_a_study_and_split_few_programs(n: int) -> None:
    losses = [Variant(name, {"loss.name": name}) for name in ("wasserstein", "minimax", "least_squares")]
    groups = in_groups(make_units(expand(study(variants=losses)), 1), 1)
    assert len(groups) == 12
    parts = [in_shard(groups, i, n) for i in range(n)]
    assert [group for part in parts for group in part] == groups
    compiled = sum(len({group[0].program for group in part}) for part in parts)
    assert compiled <= 4 + n - 1  # no split but between neighbours


def test_networks_that_cannot_be_are_refused_before_anything_is_trained() -> None:
    base = points_config()
    base.data.name, base.model.name, base.gen.norm = "digits", "dcgan", "batch"
    wrong = study(base=base, variants=[Variant("huge", {"data.resolution": 24})])
    with pytest.raises(UserError, match="'huge'"):
        check_sizes(expand(wrong))


def test_programs_are_shared_where_only_traced_values_differ() -> None:
    runs = {
        run.variant.name: run.config
        for run in expand(
            study(
                variants=[
                    Variant("rate", {"dis.optimizer.learning_rate": 1e-3}),
                    Variant("noise", {"noise.std": 0.1}),
                    Variant("more noise", {"noise.std": 0.3}),
                    Variant("loss", {"loss.name": "minimax"}),
                ]
            )
        )
    }
    programs = {name: program_of(config) for name, config in runs.items()}
    assert programs[BASE] == programs["rate"]
    assert programs["noise"] == programs["more noise"] != programs[BASE] != programs["loss"]


def test_units_are_even_and_groups_are_of_one_program() -> None:
    runs = expand(study(variants=[Variant("loss", {"loss.name": "minimax"})], seeds=tuple(range(7))))
    units = make_units(runs, 3)
    assert [len(unit.runs) for unit in units] == [2, 2, 3] * 2
    groups = in_groups(units, 2)
    assert [len(group) for group in groups] == [2, 1, 2, 1]
    assert [run for group in groups for unit in group for run in unit.runs] == runs
    assert all(len({unit.program for unit in group}) == 1 for group in groups)
    timed = make_units(expand(study(kimg=0.0, seconds=5.0)), 3)
    assert all(unit.alone and len(unit.runs) == 1 for unit in timed)


def test_a_run_goes_to_a_worker_and_back() -> None:
    run = expand(study())[-1]
    back = from_task(json.loads(json.dumps(to_task(run))))
    assert to_json(back.config) == to_json(run.config) and back.variant == run.variant
    assert back.differences == run.differences and back.folder == run.folder


def rows_of(losses: list[float], values: dict[int, float]) -> list[dict[str, Any]]:
    return [
        {"step": i, "loss/dis": 1.0, "loss/gen": loss, **({"eval/fid": values[i]} if i in values else {})}
        for i, loss in enumerate(losses)
    ]


def test_stopping_at_a_spike_against_going_on() -> None:
    calm = [1.0, 1.1, 0.9, 1.0, 1.1, 0.9, 1.0, 1.05]
    jumped = [*calm[:6], 9.0, 1.0]
    assert first_spike(rows_of(calm, {})) is None and first_spike(rows_of(jumped, {})) == 6
    better = rows_of(jumped, {3: 50.0, 5: 40.0, 7: 10.0})
    worse = rows_of(jumped, {3: 50.0, 5: 40.0, 7: 60.0})
    found = stopping([rows_of(calm, {3: 5.0, 7: 4.0}), better, worse], "fid", higher=False)
    assert (found.runs, found.spiked, found.lost) == (3, 2, 1)
    assert found.at_spike == 40.0 and found.at_end == 35.0
    assert (
        spearman([1, 2, 3], [3.0, 2.0, 1.0]) == pytest.approx(-1.0) and spearman([1, 1, 1], [1, 2, 3]) is None
    )


def test_claims_are_judged_by_the_direction_of_the_effect() -> None:
    rng = np.random.default_rng(0)

    def records(variant: str, shift: float, expected: str) -> list[dict[str, Any]]:
        return [
            {
                "variant": variant,
                "group": "g",
                "seed": seed,
                "base": variant == BASE,
                "status": "completed",
                "reason": "",
                "differences": {},
                "seconds": 1.0,
                "metrics": {"fid": 10.0 + shift + rng.normal(0, 0.5)},
                "verdicts": [],
                "collapsed": False,
                "expected": expected,
                "claim": "c",
            }
            for seed in range(12)
        ]

    lines = [
        *records(BASE, 0, ""),
        *records("a", -5, "better"),
        *records("b", 5, "better"),
        *records("c", 0, "worse"),
    ]
    analysis = analyse(lines, [{"name": "fid", "better": "lower"}], BASE)
    verdicts = {claim.variant: claim.verdict for claim in judge_claims(analysis, lines)}
    assert verdicts == {"a": "confirmed", "b": "refuted", "c": "no effect seen"}


def small_runs() -> list[Any]:
    """Two variants of one program, two seeds."""
    base = points_config(monitor__samples=0)
    variants = [Variant("fast", {"gen.optimizer.learning_rate": 1e-2})]
    return expand(study(base=base, variants=variants, seeds=(0, 1)))


def finished(folder: Path, runs: list[Any]) -> dict[str, dict[str, Any]]:
    return {run.folder: json.loads((folder / run.folder / "result.json").read_text()) for run in runs}


@pytest.mark.slow
def test_members_of_a_population_are_the_runs_that_they_are_alone(tmp_path: Path) -> None:
    """Units of two and of one, on one and on two devices; a population cut short goes on where all members are."""
    runs, stop = small_runs(), StopSignals()
    devices = jax.devices()[:2]
    (alone,) = [make_units(runs, 1)]
    for group in in_groups(alone, 2):
        run_group(group, tmp_path / "alone", devices, stop)
    pairs = make_units(runs, 2)
    run_group(pairs, tmp_path / "pairs", devices, stop)
    ours, theirs = finished(tmp_path / "pairs", runs), finished(tmp_path / "alone", runs)
    for run in runs:
        assert ours[run.folder]["status"] == "completed"
        rows = [
            [json.loads(line) for line in (folder / run.folder / "metrics.jsonl").read_text().splitlines()]
            for folder in (tmp_path / "pairs", tmp_path / "alone")
        ]
        assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]]
        for mine, other in zip(*rows, strict=True):
            assert mine["loss/gen"] == pytest.approx(other["loss/gen"], rel=1e-3)
        assert ours[run.folder]["metrics"] == pytest.approx(theirs[run.folder]["metrics"], rel=0.05, abs=0.02)
    # Not by a metric: two members that collapsed to one mode of eight have the same KL divergence, ln 8.
    logs = [(tmp_path / "pairs" / run.folder / "metrics.jsonl").read_text().splitlines()[-1] for run in runs]
    assert len({json.loads(line)["loss/gen"] for line in logs}) == len(runs), "members differ"


@pytest.mark.slow
def test_a_study_that_is_killed_ends_with_the_numbers_of_an_unbroken_one(
    run_cli: RunCli, tmp_path: Path
) -> None:
    """The kills and an interruption are in tests/stress/kill_study.py; here one run is undone by half."""
    (tmp_path / "study.py").write_text(STUDY)
    arguments = (
        "ablate",
        f"--config={tmp_path / 'study.py'}",
        f"--workdir={tmp_path / 'study'}",
        "--per-device=2",
    )
    done = run_cli(*arguments)
    assert done.returncode == 0, done.stderr
    results = tmp_path / "study" / "results.jsonl"
    whole = [json.loads(line) for line in results.read_text().splitlines()]
    assert [record["status"] for record in whole] == ["completed"] * 4
    assert (tmp_path / "study" / "report.html").stat().st_size > 10_000
    assert "lr ×4" in (tmp_path / "study" / "results.md").read_text()
    folders = [tmp_path / "study" / record["folder"] for record in whole]
    for folder in folders[:3]:  # as a kill leaves it between two checkpoints
        (folder / "result.json").unlink()
        (folder / "summary.json").unlink()
        with Checkpointer(folder / "checkpoints", keep=0) as saved:
            saved.remove(max(saved.steps()))
    again = run_cli(*arguments)
    assert again.returncode == 0, again.stderr
    after = [json.loads(line) for line in results.read_text().splitlines()]
    assert [record["metrics"] for record in after] == [record["metrics"] for record in whole]
    refused = run_cli(*arguments[:1], f"--config={tmp_path / 'study.py'}:two", *arguments[2:])
    assert refused.returncode == 2 and "another config" in refused.stderr


def test_common_step_is_the_newest_that_all_have(tmp_path: Path) -> None:
    state = {"x": np.zeros(3, np.float32)}
    opened = [Checkpointer(tmp_path / name, keep=0) for name in ("a", "b")]
    assert common_step(opened, state) == 0
    for saved, steps in zip(opened, ((1, 2, 3), (1, 2)), strict=True):
        for step in steps:
            saved.save(step, state, block=True)
    assert common_step(opened, state) == 2
    for file in (tmp_path / "b" / "2").rglob("*"):
        if file.is_file() and file.stat().st_size:
            file.write_bytes(b"")
    assert common_step(opened, state) == 1


class FakePopulation:
    """Ends its runs as if trained, but for those in `FAILING` or with `error`."""

    error: BaseException | None = None
    failing = ""

    def __init__(self, units: Any, devices: Any, stop: Any) -> None:
        self.runs = [run for unit in units for run in unit if run is not None]

    def __enter__(self) -> FakePopulation:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def run(self) -> None:
        if self.error is not None and any(self.failing in str(folder) for _, folder in self.runs):
            raise self.error
        for config, folder in self.runs:
            folder.mkdir(parents=True, exist_ok=True)
            ending = {"reason": "completed", "steps": config.train.steps, "images": 1, "seconds": 1.0}
            (folder / "summary.json").write_text(json.dumps(ending))
            (folder / "metrics.jsonl").write_text(
                json.dumps({"step": config.train.steps, "eval/kl": 0.5}) + "\n"
            )


def fake_population(monkeypatch: pytest.MonkeyPatch, error: BaseException | None, failing: str = "") -> None:
    monkeypatch.setattr(FakePopulation, "error", error)
    monkeypatch.setattr(FakePopulation, "failing", failing)
    monkeypatch.setattr(running, "Population", FakePopulation)


def results_in(folder: Path, runs: list[Any]) -> list[str]:
    found = [record_of(run, folder) for run in runs]
    return ["" if record is None else record["status"] for record in found]


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), MachineError("disk"), OSError(errno.EIO, "I/O")],
)
def test_a_full_disk_is_no_result_and_ends_the_study(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = small_runs()
    groups = [[Unit(i, "p", tuple(runs[i : i + 2]), False)] for i in (0, 2)]
    fake_population(monkeypatch, error, "fast")
    told: list[Any] = []
    with pytest.raises(MachineError):
        running.run_units(groups, tmp_path, jax.devices()[:1], StopSignals(), told.append)
    assert results_in(tmp_path, runs) == ["completed", "completed", "", ""] and len(told) == 1
    fake_population(monkeypatch, None)  # there is room again
    assert not running.run_units(groups, tmp_path, jax.devices()[:1], StopSignals(), told.append)
    assert results_in(tmp_path, runs) == ["completed"] * 4


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: 8 bytes"), UserError("checkpoints are damaged")],
)
def test_what_is_no_fault_of_a_run_is_left_out_and_told(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = small_runs()
    groups = [[Unit(i, "p", tuple(runs[i : i + 2]), False)] for i in (0, 2)]
    fake_population(monkeypatch, error, "base/seed_1")
    left = running.run_units(groups, tmp_path, jax.devices()[:1], StopSignals(), lambda group: None)
    assert list(left) == ["runs/base/seed_1"] and results_in(tmp_path, runs) == [
        "completed",
        "",
        *["completed"] * 2,
    ]
    assert collect(runs, tmp_path)[1]["folder"] == "runs/fast/seed_0"


def test_a_study_says_what_it_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "study.py").write_text(STUDY)
    fake_population(monkeypatch, MemoryError(), "base/seed_1")
    monkeypatch.setattr(running, "prepare_devices", lambda count: jax.devices()[:1])
    options = Options(per_device=2)
    with pytest.raises(
        UserError, match=r"(?s)3 of 4 runs have ended; 1 were left out.*seed_1: There is not enough"
    ):
        ablate(str(tmp_path / "study.py"), tmp_path / "w", options)
    assert (
        "1 of 4 runs have no result and are left out: `runs/base/seed_1`."
        in (tmp_path / "w/results.md").read_text()
    )
    fake_population(monkeypatch, None)
    assert len(ablate(str(tmp_path / "study.py"), tmp_path / "w", options)) == 4
    assert "have no result" not in (tmp_path / "w/results.md").read_text()


def test_an_error_of_one_run_is_no_result_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = small_runs()
    fake_population(monkeypatch, ValueError("mine"), "base/seed_1")
    unit = Unit(0, "p", tuple(runs), False)
    assert not run_group([unit], tmp_path, jax.devices()[:1], StopSignals())
    assert results_in(tmp_path, runs) == ["completed", "failed", "completed", "completed"]


@pytest.mark.parametrize(
    "changed",
    [
        {"status": "other"},
        {"seconds": "1"},
        {"metrics": {"kl": "x"}},
        {"metrics": []},
        {"verdicts": [1]},
        {"steps": None},
    ],
)
def test_a_damaged_result_is_made_anew(
    changed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = small_runs()
    unit = Unit(0, "p", tuple(runs), False)
    fake_population(monkeypatch, None)
    run_group([unit], tmp_path, jax.devices()[:1], StopSignals())
    whole = collect(runs, tmp_path)
    file = tmp_path / runs[0].folder / "result.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))
    assert results_in(tmp_path, runs)[0] == ""
    run_group([unit], tmp_path, jax.devices()[:1], StopSignals())
    assert collect(runs, tmp_path) == whole


def test_a_completed_run_whose_log_is_damaged_has_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = small_runs()[:1]
    fake_population(monkeypatch, None)
    run_group([Unit(0, "p", tuple(runs), False)], tmp_path, jax.devices()[:1], StopSignals())
    (tmp_path / runs[0].folder / "result.json").unlink()
    (tmp_path / runs[0].folder / "metrics.jsonl").write_text("")
    monkeypatch.setattr(FakePopulation, "run", lambda self: None)
    left = run_group([Unit(0, "p", tuple(runs), False)], tmp_path, jax.devices()[:1], StopSignals())
    assert "last line of its log" in left[runs[0].folder] and results_in(tmp_path, runs) == [""]


def test_errors_of_a_run_are_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise ValueError("no such thing\nsecond line")

    monkeypatch.setattr(Population, "__init__", broken)
    runs = small_runs()
    unit = Unit(0, "p", tuple(runs[:2]), False)
    run_group([unit], tmp_path, jax.devices()[:1], StopSignals())
    found = finished(tmp_path, runs[:2])
    assert {record["status"] for record in found.values()} == {"failed"}
    assert all(record["reason"] == "ValueError: no such thing" for record in found.values())
    assert "Traceback" in (tmp_path / runs[0].folder / "failures.log").read_text()
