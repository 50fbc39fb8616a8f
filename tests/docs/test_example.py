"""The documented examples of a loss, network, data set and metric of one's own, from files, from the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import RunCli
from paths import ROOT

EXAMPLES = ROOT / "docs" / "examples"


def test_a_new_architecture_is_one_file(run_cli: RunCli, tmp_path: Path) -> None:
    text = (EXAMPLES / "shallow.py").read_text()
    assert text.partition("class Generator")[2].partition("def get_config")[0].count("\n") <= 40
    done = run_cli(
        "train",
        f"--config={EXAMPLES / 'shallow.py'}",
        f"--workdir={tmp_path / 'run'}",
        "--config.train.steps=20",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 20
    done = run_cli("sample", f"--workdir={tmp_path / 'run'}", "--n=20", f"--out={tmp_path / 's.npz'}")
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "s.npz") as made:
        assert made["samples"].shape == (20, 8, 8, 1)
        np.testing.assert_array_equal(made["labels"], np.arange(20) % 10)


@pytest.mark.slow
def test_one_file_with_everything_trains_and_goes_on_and_is_used(run_cli: RunCli, tmp_path: Path) -> None:
    """Every command finds the file again; the run keeps a copy, and says so when the file has changed."""
    mine, run = tmp_path / "mine.py", tmp_path / "run"
    shutil.copy(EXAMPLES / "mine.py", mine)
    few = ["--config.train.steps=40", "--config.eval.every_kimg=0.6", "--config.eval.samples=100"]
    train = ["train", f"--config={mine}", f"--workdir={run}", "--config.log.every_steps=20", *few]
    where = {"XDG_CACHE_HOME": str(tmp_path / "cache")}

    def call(*arguments: str) -> str:
        done = run_cli(*arguments, env=where)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(*arguments: str) -> str:
        done = run_cli(*arguments, env=where)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        return done.stderr

    call(*train)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["eval/brightness"] >= 0 and rows[-1]["eval/fid"] > 0
    (record,) = json.loads((run / "plugins.json").read_text())
    assert record["names"] == [
        "loss pearson",
        "model dense",
        "dataset stripes",
        "feature_network stripes",
        "metric brightness",
    ]
    assert (run / "plugins" / record["copy"]).read_text() == mine.read_text()
    call(*train, "--config.train.steps=60")  # it goes on
    assert json.loads((run / "summary.json").read_text())["steps"] == 60
    call("sample", f"--workdir={run}", "--n=4", f"--out={tmp_path / 's.png'}")
    mine.write_text(mine.read_text().replace("0.5 * jnp.square(fake_logits)\n", "jnp.square(fake_logits)\n"))
    assert "another" in refused(*train) and str(run / "plugins") in refused(*train)
    mine.unlink()  # the copy, which was run here before, is enough
    table = call("evaluate", f"--workdir={run}", "--metrics=fid,brightness", "--samples=100")
    assert "brightness" in table
    call("export", f"--workdir={run}", f"--out={tmp_path / 'm.jaxexport'}")
    where["XDG_CACHE_HOME"] = str(tmp_path / "of another user")
    message = refused("sample", f"--workdir={run}", "--n=4", f"--out={tmp_path / 't.png'}")
    copy = run / "plugins" / record["copy"]
    assert f"--plugin={copy}" in message
    call("sample", f"--workdir={run}", "--n=4", f"--out={tmp_path / 't.png'}", f"--plugin={copy}")
    assert (tmp_path / "t.png").read_bytes() == (tmp_path / "s.png").read_bytes()
