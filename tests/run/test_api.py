"""ganjax from Python, and the notebook."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths import ROOT
from small import points_config

import ganjax
from ganjax.run.sample import sample

NOTEBOOK = ROOT / "docs" / "examples" / "five_lines.ipynb"
QUICK = {
    "parallel__devices": 1,
    "train__steps": 4,
    "log__every_steps": 2,
    "log__sample_every_steps": 4,
    "log__tensorboard": False,
    "log__report": False,
    "monitor__samples": 0,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ganjax.Run:
    config = points_config(**QUICK)
    return ganjax.train(config, tmp_path_factory.mktemp("runs") / "ring", {"seed": 3, "gen.depth": 1})


def test_a_run_from_python(run: ganjax.Run) -> None:
    assert run.config.seed == 3 and run.config.gen.depth == 1
    assert [row["step"] for row in run.metrics] == [2, 4] and "loss/gen" in run.metrics[0]
    assert run.summary["reason"] == "completed" and [path.name for path in run.images] == [
        "step_00000000.png",
        "step_00000004.png",
    ]
    assert repr(run).endswith("mlp on ring, completed at step 4>")


def test_samples_are_those_of_the_command(run: ganjax.Run, tmp_path: Path) -> None:
    loaded = ganjax.load(str(run.workdir))
    sample(run.workdir, n=70, out=tmp_path / "s.npz", seed=5, weights="raw")
    with np.load(tmp_path / "s.npz") as file:
        np.testing.assert_array_equal(loaded.sample(70, key=5, weights="raw"), file["samples"])
    first = loaded.sample(3, key=5)
    np.testing.assert_array_equal(first, loaded.sample(9, key=5)[:3])
    assert np.abs(first - loaded.sample(3, key=6)).max() > 1e-3
    assert np.abs(first - loaded.sample(3, key=5, weights="raw")).max() > 1e-7


def test_training_goes_on(run: ganjax.Run) -> None:
    more = ganjax.train(run.config, run.workdir, {"train.steps": 6})
    assert [row["step"] for row in more.metrics] == [2, 4, 6] and run.summary["steps"] == 6
    with pytest.raises(ganjax.UserError, match=r"gen\.width"):
        ganjax.train(run.config, run.workdir, {"gen.width": 5})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n": 0}, "n takes"),
        ({"key": -1}, "A seed is a whole number from 0 to"),
        ({"weights": "best"}, "'ema' or 'raw'"),
        ({"truncation": -0.1}, "truncation takes"),
        ({"classes": [1]}, "this run has no classes"),
        ({"step": 5}, "5"),
    ],
)
def test_bad_arguments(run: ganjax.Run, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ganjax.UserError, match=words):
        run.sample(**options)


def test_more_samples_than_memory_has_are_refused_with_their_size(run: ganjax.Run, tmp_path: Path) -> None:
    with pytest.raises(ganjax.UserError, match=r"--n=10{12} samples would take 8,000\.0 GB"):
        sample(run.workdir, n=10**12, out=tmp_path / "s.npz")
    assert not list(tmp_path.iterdir())


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(ganjax.UserError, match="holds no run"):
        ganjax.load(tmp_path)
    with pytest.raises(ganjax.UserError, match=r"Did you mean 'train\.steps'"):
        ganjax.train(ROOT / "configs" / "quickstart.py", tmp_path / "run", {"train.step": 3})
    with pytest.raises(AttributeError, match="no_such_name"):
        ganjax.no_such_name  # noqa: B018
    assert not list(tmp_path.iterdir())


def test_names_are_there_without_jax_until_they_are_used() -> None:
    code = (
        "import sys, ganjax; assert 'jax' not in sys.modules and 'train' in dir(ganjax); import ganjax.run.train; "
        "assert ganjax.train.__module__ == 'ganjax.run.api'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.slow
def test_the_notebook(tmp_path: Path) -> None:
    """In a kernel of its own, beside a copy of the recipes as in a checkout."""
    folder = tmp_path / "docs" / "examples"
    folder.mkdir(parents=True)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    code = (
        "import nbformat, nbclient; book = nbformat.read(sys.argv[1], 4); "
        "nbclient.NotebookClient(book, timeout=200, kernel_name='python3').execute(); nbformat.write(book, 'out.ipynb')"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JUPYTER_PREFER_ENV_PATH": "1"}
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}", str(NOTEBOOK)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    written = (folder / "out.ipynb").read_text()
    assert '"image/png"' in written and "Completed" in written
