"""The documented example of an architecture of one's own, in a copy of the package, from the command line."""

from __future__ import annotations

import json
import shutil

import numpy as np
from paths import ROOT

EXAMPLES = ROOT / "docs" / "examples"


def test_a_new_architecture_is_one_file_and_one_recipe(run_cli, tmp_path):
    assert len((EXAMPLES / "shallow.py").read_text().splitlines()) <= 40
    shutil.copytree(ROOT / "ganjax", tmp_path / "ganjax", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(EXAMPLES / "shallow.py", tmp_path / "ganjax" / "models")
    environment = {"PYTHONPATH": str(tmp_path)}
    done = run_cli(
        "train",
        f"--config={EXAMPLES / 'shallow_recipe.py'}",
        f"--workdir={tmp_path / 'run'}",
        "--config.train.steps=20",
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 20
    done = run_cli(
        "sample",
        f"--workdir={tmp_path / 'run'}",
        "--n=20",
        f"--out={tmp_path / 's.npz'}",
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "s.npz") as made:
        assert made["samples"].shape == (20, 8, 8, 1)
        np.testing.assert_array_equal(made["labels"], np.arange(20) % 10)
