"""Modes and their KL divergence, held to closed forms and to samples whose modes are known."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.stats
from paths import ROOT

import ganjax.data as data
from ganjax.evals.metrics.modes import class_modes, count_modes, kl_divergence, mixture_kl, nearest_modes

if TYPE_CHECKING:
    from conftest import RunCli

SQUARE = np.array([[0, 0], [10, 0], [0, 10], [10, 10]], np.float32)


@pytest.mark.parametrize(
    ("counts", "reference", "expected"),
    [
        ([7, 7, 7, 7], None, 0.0),
        ([5, 0, 0, 0], None, math.log(4)),
        ([1, 1, 0, 0], None, math.log(2)),
        ([3, 1], None, 0.75 * math.log(1.5) + 0.25 * math.log(0.5)),
        ([3, 1], [30, 10], 0.0),
        ([1, 1], [3, 1], 0.5 * math.log(2 / 3) + 0.5 * math.log(2)),
        ([1, 0], [1, 0], 0.0),
        ([1, 1], [1, 0], math.inf),
        ([1, 0], [0.25, 0.75], math.log(4)),
    ],
)
def test_kl_in_closed_form(counts: list[int], reference: list[float] | None, expected: float) -> None:
    q = None if reference is None else np.array(reference)
    assert kl_divergence(np.array(counts), q) == pytest.approx(expected, abs=1e-12)


def test_kl_is_scipys() -> None:
    rng = np.random.default_rng(0)
    p, q = rng.integers(0, 50, 1000), rng.integers(1, 50, 1000)
    assert kl_divergence(p, q) == pytest.approx(scipy.stats.entropy(p, q), rel=1e-12)
    assert kl_divergence(7 * p, 3 * q) == pytest.approx(kl_divergence(p, q), rel=1e-12)


@pytest.mark.parametrize(("n", "k"), [(26_000, 1000), (2500, 8)])
def test_kl_of_the_true_distribution_is_what_the_docstring_says(n: int, k: int) -> None:
    counts = np.random.default_rng(1).multinomial(n, np.full(k, 1 / k), size=200)
    mean = np.mean([kl_divergence(row) for row in counts])
    assert mean == pytest.approx((k - 1) / (2 * n), rel=0.1)


@pytest.mark.parametrize(("counts", "reference"), [([0, 0], None), ([1, 2], [1, 2, 3]), ([1, 2], [0, 0])])
def test_nothing_to_compare_is_an_error(counts: list[int], reference: list[int] | None) -> None:
    with pytest.raises(ValueError, match="expected counts"):
        kl_divergence(np.array(counts), None if reference is None else np.array(reference))


def test_known_points() -> None:
    """Three standard deviations of 1, and what lies just within and just outside of them."""
    points = np.array([[0, 2.99], [0, 3.01], [10, 0], [10.1, 0], [5, 5.1], [np.nan, 0]], np.float32)
    assert count_modes(points, SQUARE, 1.0) == (2, 0.5)
    nearest, distance = nearest_modes(points[:4], SQUARE)
    assert nearest.tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(distance, [2.99, 3.01, 0, 0.1], atol=1e-5)
    # of 5 finite points 2, 2, 0 and 1 are closest to the four modes: the low-quality ones count here, too
    assert mixture_kl(points, SQUARE) == pytest.approx(kl_divergence(np.array([2, 2, 0, 1])))


def test_one_sample_makes_a_mode() -> None:
    points = np.concatenate([np.tile(SQUARE[:1], (99, 1)), SQUARE[3:]])
    assert count_modes(points, SQUARE, 1.0) == (2, 1.0)
    assert count_modes(points + 4, SQUARE, 1.0) == (0, 0.0)


@pytest.mark.parametrize(("name", "modes"), [("ring", 8), ("grid", 25)])
def test_the_data_covers_its_own_modes(name: str, modes: int) -> None:
    """1 − exp(−9/2) of a Gaussian in the plane lies within 3 standard deviations."""
    dataset = data.load(name)
    assert dataset.modes is not None and dataset.std is not None and dataset.labels is not None
    covered, quality = count_modes(dataset.images, dataset.modes, dataset.std)
    assert covered == modes and quality == pytest.approx(1 - math.exp(-4.5), abs=0.002)
    assert mixture_kl(dataset.images, dataset.modes) < 0.001
    one = dataset.images[dataset.labels == 3]
    assert count_modes(one, dataset.modes, dataset.std)[0] == 1
    assert mixture_kl(one, dataset.modes) == pytest.approx(math.log(modes))


def test_classes() -> None:
    assert class_modes(np.array([5, 5, 999]), 1000) == (
        2,
        pytest.approx(math.log(1000) - (math.log(3) - 2 / 3 * math.log(2))),
    )
    assert class_modes(np.array([0, 1, 1]), 2, np.array([1, 2])) == (2, pytest.approx(0.0))


def test_stacked_digits_themselves() -> None:
    """The protocol's 26,000 samples cover all modes; unequal numbers of each digit and chance are what is left."""
    labels = data.load("stacked_digits").labels
    assert labels is not None
    modes, kl = class_modes(labels[:26_000], 1000)
    assert modes == 1000 and 0.015 < kl < 0.025


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "name", "of", "measure"),
    [("ring", "ring", 8, "high_quality"), ("quickstart", "stacked_digits", 1000, "accuracy")],
)
def test_judging_a_run(
    recipe: str, name: str, of: int, measure: str, run_cli: RunCli, tmp_path: Path
) -> None:
    options = [f"--config.data.name={name}", "--config.train.steps=2", "--config.gen.width=8"]
    done = run_cli("train", f"--config=configs/{recipe}.py", f"--workdir={tmp_path / 'run'}", *options)
    assert done.returncode == 0, done.stderr
    command = [sys.executable, "tools/modes.py", "--samples=300", "--workdir"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    judged, missing = (
        subprocess.run(
            [*command, folder], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=200
        )
        for folder in (tmp_path / "run", tmp_path / "nothing")
    )
    assert judged.returncode == 0, judged.stderr
    row = json.loads(judged.stdout)
    assert (row["data"], row["step"], row["samples"], row["of"]) == (name, 2, 300, of)
    assert 0 <= row["modes"] <= min(of, 300) and 0 <= row["kl"] <= math.log(of) and 0 <= row[measure] <= 1
    assert missing.returncode == 2 and missing.stderr.startswith("modes: ") and not missing.stdout
