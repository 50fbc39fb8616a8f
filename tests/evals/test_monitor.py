"""The monitor: its signals against direct computation, its verdicts on made-up histories, and the live run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import points_config, small_config, small_dataset

from ganjax.data import load
from ganjax.evals.monitor import (
    HEALTHY,
    Reference,
    Watch,
    class_spreads,
    features_of,
    judge_rows,
    judge_run,
    read_rows,
)
from ganjax.evals.monitor.probe import layer_sigmas, pooled, separation
from ganjax.evals.monitor.reference import least_diverse
from ganjax.evals.monitor.verdicts import ADVICE, SIGNS, SUSTAINED
from ganjax.run.callbacks import monitor as watching
from ganjax.run.callbacks.monitor import held_out, make_probe
from ganjax.run.setup import Setup
from ganjax.training import parallel
from ganjax.training.build import build

if TYPE_CHECKING:
    from conftest import RunCli

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def grid() -> Reference:
    data = load("grid")
    return Reference.of(features_of(data.images[:4096] / data.scale))


def points(modes: list[int], n: int = 512, std: float = 0.05) -> np.ndarray:
    data = load("grid")
    assert data.modes is not None
    chosen = data.modes[RNG.choice(modes, n)]
    return features_of((chosen + std * RNG.standard_normal((n, 2))) / data.scale)


@pytest.mark.parametrize("kept", [25, 20, 10, 3, 1])
def test_coverage_is_the_share_of_modes(grid: Reference, kept: int) -> None:
    found = grid.judge(points(list(range(kept))))
    assert found["coverage"] == pytest.approx(kept / 25, abs=0.03)
    assert found["quality"] > 0.8


def test_bins_of_a_narrow_mode_are_one(grid: Reference) -> None:
    assert len(grid.shares) == 25 and grid.shares.sum() == pytest.approx(1)


def test_samples_off_the_data_are_no_collapse(grid: Reference) -> None:
    scattered = RNG.uniform(-1, 1, (512, 2)).astype(np.float32)
    found = grid.judge(scattered)
    assert found["quality"] < 0.2 and found["coverage"] > 0.9 and found["diversity"] > 0.8


def test_equal_samples_have_no_diversity(grid: Reference) -> None:
    found = grid.judge(np.tile(points([12], 1), (256, 1)))
    assert found["diversity"] == 0 and found["coverage"] < 0.1


def test_diversity_is_the_mean_distance_of_pairs(grid: Reference) -> None:
    x = points([0, 7, 24], 40)
    pairs = [np.linalg.norm(x[i] - x[j]) for i in range(40) for j in range(40) if i != j]
    assert grid.judge(x)["diversity"] * grid.spread == pytest.approx(np.mean(pairs), rel=1e-5)


def test_samples_that_are_not_finite_have_nothing(grid: Reference) -> None:
    assert set(grid.judge(np.full((8, 2), np.nan, np.float32)).values()) == {0.0}


def test_separation_is_the_share_of_ordered_pairs() -> None:
    high, low = RNG.integers(0, 6, 40), RNG.integers(0, 5, 30)
    pairs = [(a > b) + 0.5 * (a == b) for a in high for b in low]
    assert separation(high, low) == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize("side", [8, 28, 32])
def test_features_are_block_means(side: int) -> None:
    images = RNG.uniform(-1, 1, (3, side, side, 2)).astype(np.float32)
    block = side // len(pooled(jnp.asarray(images))[0])
    small = images.reshape(3, side // block, block, side // block, block, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(features_of(images), small.reshape(3, -1), atol=1e-6)
    np.testing.assert_allclose(pooled(jnp.asarray(images)), small, atol=1e-6)


def prepared(config: Any, devices: int = 1) -> Setup:
    dataset = small_dataset(config.model.name == "mlp")
    return Setup(dataset, jax.devices()[:devices], build(config, dataset), scan=False)


def probed(config: Any, devices: int = 1) -> dict[str, Any]:
    setup = prepared(config, devices)
    state = parallel.replicate(setup.build.init(), setup.devices)
    probe = make_probe(config, setup)
    first = probe(state)
    assert probe(state) == first
    return first


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dis__packing": 2, "dis__minibatch_stddev": False},
        {"model__conditional": True, "augment__policy": "ada"},
    ],
    ids=["msg", "packing", "conditional, ada"],
)
def test_signals_of_images(options: dict[str, Any]) -> None:
    found = probed(small_config(monitor__samples=64, **options))
    named = found.pop("least_diverse_class", None)
    assert (
        (named is not None) == ("monitor/class_diversity" in found) == bool(options.get("model__conditional"))
    )
    assert all(np.isfinite(value) for value in found.values())
    assert {"monitor/gradient/4", "monitor/gradient/8", "monitor/ms_ssim"} <= found.keys()
    assert 0 <= found["monitor/ms_ssim"] <= 1 and 0 <= found["monitor/separation"] <= 1
    sigmas = {name for name in found if name.startswith("sigma/dis/")}
    assert "sigma/dis/log_product" in sigmas and len(sigmas) > 2


def test_d_judges_a_share_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signals of G are those of all samples, whatever share of them D judges; D's are those of its share."""
    quarter = probed(points_config(monitor__samples=64))
    monkeypatch.setattr(watching, "JUDGED", 1.0)
    whole = probed(points_config(monitor__samples=64))
    assert quarter.keys() == whole.keys()
    for name in ("coverage", "diversity", "quality"):
        assert quarter[f"monitor/{name}"] == pytest.approx(whole[f"monitor/{name}"], rel=1e-5)
    assert quarter["monitor/real"] != whole["monitor/real"]


def test_signals_are_the_same_on_two_devices() -> None:
    config = points_config(monitor__samples=64)
    one, two = probed(config, 1), probed(config, 2)
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert two[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    assert "monitor/heldout" in one


def test_sigma_is_the_largest_singular_value() -> None:
    state = prepared(small_config()).build.init()
    found = layer_sigmas(state.dis)
    kernels = jax.tree_util.tree_leaves_with_path(state.dis.params)
    largest = sorted(
        np.linalg.svd(np.asarray(k).reshape(-1, k.shape[-1]), compute_uv=False)[0]
        for path, k in kernels
        if path[-1].key == "kernel"
    )
    assert sorted(map(float, found.values())) == pytest.approx(largest, rel=1e-2)


def test_held_out_reals_are_others() -> None:
    config = points_config(data__name="grid")
    heldout = held_out(config)
    assert heldout is not None
    assert not set(map(tuple, heldout.images.tolist())) & set(map(tuple, load("grid").images.tolist()))
    assert held_out(small_config()) is None
    test = held_out(small_config(monitor__heldout="test"))
    assert test is not None and len(test) == 355


GOOD = {
    "loss/gen": 1.0,
    "loss/dis": 1.0,
    "logit/real": 0.5,
    "logit/fake": -0.5,
    "grad_norm/gen": 1.0,
    "grad_norm/dis": 1.0,
    "update_ratio/gen": 1e-3,
    "update_ratio/dis": 1e-3,
    "monitor/coverage": 1.0,
    "monitor/diversity": 1.0,
    "monitor/class_diversity": 0.8,
    "least_diverse_class": "cat",
    "monitor/quality": 0.9,
    "monitor/separation": 0.6,
    "monitor/real": 0.5,
    "monitor/heldout": 0.5,
    "monitor/fake": -0.5,
    "monitor/memorised": 0.5,
}


def rows_of(values: list[dict[str, float]]) -> list[dict[str, Any]]:
    return [{"step": 10 * (i + 1), **GOOD, **value} for i, value in enumerate(values)]


BAD: dict[str, dict[str, Any]] = {
    "divergence": {"logit/fake": 1e4},
    "mode collapse": {"monitor/diversity": 0.01, "monitor/coverage": 0.04},
    "partial collapse": {"monitor/coverage": 0.6},
    "class collapse": {"monitor/class_diversity": 0.05, "least_diverse_class": "cat"},
    "D wins": {"monitor/separation": 1.0, "monitor/quality": 0.1},
    "G wins": {"monitor/separation": 0.2, "monitor/quality": 0.1},
    "D memorises": {"monitor/heldout": -0.45, "monitor/memorised": 0.98},
}


def names(rows: list[dict[str, Any]], total: int = 400) -> list[str]:
    return [verdict.name for verdict in judge_rows(rows, total)]


@pytest.mark.parametrize("name", BAD)
def test_a_sign_that_lasts_is_a_verdict(name: str) -> None:
    rows = rows_of([{}] * 30 + [BAD[name]] * SUSTAINED)
    assert names(rows[:-1]) == []
    (verdict,) = judge_rows(rows, 400)
    assert verdict.name == name and verdict.since == 310 and verdict.evidence
    assert verdict.advice and verdict.lesson and verdict.severity == "bad"
    assert names(rows_of([{}] * 30 + [BAD[name]] * SUSTAINED + [{}])) == []


def test_a_collapsed_class_is_named() -> None:
    (verdict,) = judge_rows(rows_of([{}] * 30 + [BAD["class collapse"]] * SUSTAINED), 400)
    assert verdict.evidence == "samples of class cat have 5% of the variety of its real images"


@pytest.mark.parametrize("same", [0, 1, 2])
def test_the_class_with_the_least_variety_is_found(same: int) -> None:
    """Three classes of different spread; the fakes of one are all alike."""
    labels = np.repeat(np.arange(3), 40)
    reals = RNG.normal(size=(120, 6)) * (1 + labels[:, None])
    spreads = class_spreads(reals, labels)
    fakes = RNG.normal(size=(120, 6)) * (1 + labels[:, None])
    found = least_diverse(fakes, labels, spreads)
    assert found is not None and found[1] > 0.8
    fakes[labels == same] = fakes[labels == same][0]
    assert least_diverse(fakes, labels, spreads) == (same, 0.0)
    few = (labels != same) | (np.arange(120) % 40 < 7)  # seven fakes of it say nothing
    found = least_diverse(fakes[few], labels[few], spreads)
    assert found is not None and found[0] != same and found[1] > 0.8


def test_classes_of_equal_reals_are_not_judged() -> None:
    reals = np.concatenate([np.ones((9, 4)), RNG.normal(size=(9, 4))])
    labels = np.repeat([0, 1], 9)
    assert class_spreads(reals, labels).keys() == {1}
    assert least_diverse(reals, np.zeros(18, int), class_spreads(reals, labels)) is None


def test_every_verdict_has_words() -> None:
    assert set(SIGNS) == set(BAD) and set(ADVICE) == {*SIGNS, "harmless oscillation", "still learning"}


@pytest.mark.parametrize(
    "row",
    [
        {"loss/gen": None},
        {"logit/real": float("inf")},
        {"update_ratio/gen": 0.5},
        {"grad_norm/dis": 5e3},
    ],
)
def test_divergence_shows_in_many_numbers(row: dict[str, Any]) -> None:
    assert names(rows_of([{}] * 10 + [row] * 4)) == ["divergence"]


def test_a_number_that_is_not_finite_is_a_verdict_at_once() -> None:
    """Also in a line between two measurements, which alone count for all else."""
    rows = rows_of([{}] * 10)
    last = {"step": 110, "loss/gen": 1.0, "loss/dis": None}
    (verdict,) = judge_rows([*rows, last], 400)
    assert (verdict.name, verdict.since) == ("divergence", 110) and "loss/dis" in verdict.evidence
    watched = Watch(lambda state: {}, total_steps=400, every_steps=100, log_steps=10, rows=rows)
    assert watched(110, None, last)["verdict"] == "divergence"


def test_a_run_that_ended_diverged_is_not_healthy() -> None:
    rows = rows_of([{}] * 10)
    assert judge_run(rows, 400, "completed") == judge_run(rows, 400, None) == []
    assert [(v.name, v.since) for v in judge_run(rows, 400, "diverged")] == [("divergence", 100)]
    assert [v.name for v in judge_run([], 400, "diverged")] == ["divergence"]
    collapsed = rows_of([{}] * 30 + [BAD["mode collapse"]] * SUSTAINED)
    assert [v.name for v in judge_run(collapsed, 400, "diverged")] == ["divergence"]


@pytest.mark.parametrize("name", [key for key in GOOD if key.startswith("monitor/")])
@pytest.mark.parametrize("value", [None, "missing"])
def test_lines_that_lack_a_measurement_are_judged_by_the_rest(name: str, value: Any) -> None:
    rows = rows_of([{}] * 30 + [BAD["mode collapse"]] * 8)
    for row in rows[::3]:
        row.pop(name)
        if value is None:
            row[name] = None
    assert "mode collapse" in names(rows)
    assert names([{**row, name: None} for row in rows]) in ([], ["mode collapse"])


def test_a_vanished_gradient_is_d_winning_wherever_the_samples_lie() -> None:
    row = {"monitor/separation": 1.0, "grad_norm/gen": 1e-5}
    assert names(rows_of([{}] * 20 + [row] * 4)) == ["D wins"]
    assert names(rows_of([{**row, "grad_norm/gen": 0.0}] * 20)) == ["D wins"]
    assert names(rows_of([{}] * 20 + [{"monitor/separation": 1.0}] * 4)) == []


def test_a_generator_that_still_spreads_is_not_collapsed() -> None:
    """Coverage and variety that rise from nothing, as those of every generator do."""
    spreading = [{"monitor/coverage": x, "monitor/diversity": x} for x in np.linspace(0.02, 1, 40)]
    rows = rows_of(spreading)
    assert all(names(rows[:n]) == [] for n in range(1, 41))


def test_a_generator_that_stays_collapsed_from_the_start_is_named_early() -> None:
    rows = rows_of([BAD["mode collapse"]] * 40)
    first = next(n for n in range(1, 41) if names(rows[:n]))
    assert first <= 12 and names(rows[:first]) == ["mode collapse"]


def test_a_rise_late_in_the_run_is_no_excuse() -> None:
    rows = rows_of([{"monitor/coverage": i / 100, "monitor/diversity": i / 100} for i in range(1, 29)])
    assert names(rows, total=400) == [] and names(rows, total=300) == ["mode collapse"]


def test_scattered_samples_that_gather_have_not_lost_a_part() -> None:
    """They reach all of the data by chance, and less on the way to it."""
    early = rows_of([{"monitor/quality": 0.0}] * 4 + [{"monitor/coverage": 0.6}] * 6)
    assert all(names(early[:n]) == [] for n in range(1, 11))
    assert names(rows_of([{}] * 10 + [{"monitor/coverage": 0.6}] * 6)) == ["partial collapse"]


def test_a_loss_that_jumps_while_the_samples_stay_is_harmless() -> None:
    quiet = [{"loss/gen": 1 + 0.01 * (i % 3)} for i in range(20)]
    (verdict,) = judge_rows(rows_of([*quiet, {"loss/gen": 9.0}]), 400)
    assert verdict.name == "harmless oscillation" and verdict.severity == "fine"
    assert verdict.lesson.startswith("2")
    assert names(rows_of(quiet)) == []


def test_samples_off_the_data_late_in_a_run_are_said_to_be() -> None:
    rows = rows_of([{"monitor/quality": 0.3}] * 40)
    assert names(rows[:25]) == [] and names(rows) == ["still learning"]
    assert judge_rows(rows, 400)[0].severity == "fine"


def test_rows_without_the_monitors_numbers_still_show_divergence() -> None:
    rows = [{"step": i, "loss/gen": None, "loss/dis": 1.0} for i in range(1, 6)]
    assert names(rows) == ["divergence"]
    assert judge_rows([], 100) == []


def test_watch_goes_on_from_the_rows_of_the_file(tmp_path: Path) -> None:
    """A resumed run gives the verdicts of the unbroken one, and probes at the same steps."""
    made = [*[{}] * 25, *[BAD["partial collapse"]] * 6]
    signals = [{k: v for k, v in row.items() if k.startswith("monitor/")} for row in rows_of(made)]
    losses = [{k: v for k, v in row.items() if not k.startswith("monitor/")} for row in rows_of(made)]
    path = tmp_path / "metrics.jsonl"

    def watch(rows: Any = ()) -> Watch:
        return Watch(lambda i: signals[i], total_steps=400, every_steps=10, log_steps=10, rows=rows)

    whole, told = watch(), []
    for i, row in enumerate(losses):
        told.append(whole(row["step"], i, row))
    path.write_text(
        "".join(json.dumps({**row, **more}) + "\n" for row, more in zip(losses, told, strict=True)) + '{"st'
    )
    assert told[0]["verdict"] == HEALTHY and told[-1]["verdict"] == "partial collapse"
    resumed = watch(read_rows(path, losses[19]["step"]))
    assert [resumed(row["step"], i + 20, row) for i, row in enumerate(losses[20:])] == told[20:]
    sparse = Watch(None, total_steps=100, every_steps=25, log_steps=10)
    assert [step for step in range(10, 101, 10) if sparse.due(step, last=step == 100)] == [30, 50, 80, 100]


def test_doctor(tmp_path: Path, run_cli: RunCli) -> None:
    folder = tmp_path / "run"
    options = [
        "--config=configs/ring.py",
        f"--workdir={folder}",
        "--config.train.steps=60",
        "--config.log.every_steps=10",
        "--config.monitor.every_steps=10",
        "--config.gen.width=8",
        "--config.dis.width=8",
    ]
    assert run_cli("train", *options).returncode == 0
    shown = run_cli("doctor", f"--workdir={folder}")
    assert shown.returncode == 0 and "Verdict:" in shown.stdout and "variety of samples" in shown.stdout
    found = json.loads(run_cli("doctor", f"--workdir={folder}", "--json").stdout)
    summary = json.loads((folder / "summary.json").read_text())
    assert found["state"] == "completed" and found["step"] == 60 and found["measured"]
    assert found["verdicts"] == summary["verdicts"] and found["signals"]["monitor/coverage"] >= 0
    # A history that went wrong, as the same program tells it.
    rows = rows_of([{}] * 30 + [BAD["mode collapse"]] * 6)
    lines = [
        json.dumps({**row, "verdict": "mode collapse" if i > 32 else HEALTHY}) for i, row in enumerate(rows)
    ]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    told = run_cli("doctor", f"--workdir={folder}").stdout
    assert "Verdict: mode collapse" in told and "Start anew with lower learning rates" in told
    assert "steps 10 to 330: healthy" in told and "steps 340 to 360: mode collapse" in told
    (folder / "metrics.jsonl").unlink()
    refused = run_cli("doctor", f"--workdir={folder}")
    assert refused.returncode == 2 and "no log lines yet" in refused.stderr
    assert run_cli("doctor", f"--workdir={tmp_path}/nothing").returncode == 2
