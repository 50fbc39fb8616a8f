"""A study on a local Ray: the numbers are those of this process, and a worker that is killed is replaced."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from conftest import RunCli
from studies import STUDY


def kill_a_worker(folder: Path, killed: list[int]) -> None:
    """Kills the first process that has opened a run of the study, once the run has a checkpoint."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and not killed:
        for lock in folder.glob("runs/*/*/.lock"):
            saved = any((lock.parent / "checkpoints").glob("*/ganjax_manifest.json"))
            if saved and not (lock.parent / "result.json").exists() and lock.read_text():
                killed.append(json.loads(lock.read_text())["pid"])
                os.kill(killed[0], signal.SIGKILL)
                return
        time.sleep(0.05)


@pytest.mark.slow
def test_a_local_ray_gives_the_same_numbers_though_a_worker_is_killed(
    run_cli: RunCli, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    (tmp_path / "study.py").write_text(STUDY.replace("kimg=5.12", "kimg=150"))
    results = {}
    killed: list[int] = []
    for executor in ("local", "ray"):
        folder = tmp_path / executor
        killer = threading.Thread(target=kill_a_worker, args=(folder, killed), daemon=True)
        if executor == "ray":
            killer.start()
        done = run_cli(
            "ablate",
            f"--config={tmp_path / 'study.py'}",
            f"--workdir={folder}",
            f"--executor={executor}",
            "--per-device=1",
            env={"RAY_TMPDIR": "/tmp"},  # sockets have short paths
        )
        assert done.returncode == 0, done.stderr + done.stdout
        lines = (folder / "results.jsonl").read_text().splitlines()
        results[executor] = [json.loads(line) for line in lines]
    assert len(killed) == 1, "a worker was killed in the midst of a run"
    assert [record["status"] for record in results["ray"]] == ["completed"] * 4
    numbers = {name: [record["metrics"] for record in records] for name, records in results.items()}
    assert numbers["ray"] == numbers["local"]


@pytest.mark.slow
def test_workers_of_ray_load_the_plugins_of_a_study(run_cli: RunCli, tmp_path: Path) -> None:
    """A loss in the study's own file; its runs are sampled from later, without that file."""
    pytest.importorskip("ray")
    study = tmp_path / "study.py"
    loss = "import ganjax\nganjax.register_loss('own', dis=lambda r, f: f - r, gen=lambda r, f: -f)\n"
    changes = '{"loss.name": "own"}'
    text = STUDY.replace('{"gen.optimizer.learning_rate": 8e-3}', changes).replace(
        "seeds=(0, 1)", "seeds=(0,)"
    )
    study.write_text(loss + text)
    folder = tmp_path / "folder"
    where = {"RAY_TMPDIR": "/tmp", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = run_cli(
        "ablate", f"--config={study}", f"--workdir={folder}", "--executor=ray", "--per-device=1", env=where
    )
    assert done.returncode == 0, done.stderr + done.stdout
    records = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert [record["status"] for record in records] == ["completed"] * 2, records
    study.unlink()
    run = next((folder / "runs").glob("lr*/seed_0"))
    assert json.loads((run / "plugins.json").read_text())[0]["names"] == ["loss own"]
    done = run_cli("sample", f"--workdir={run}", "--n=64", f"--out={tmp_path / 's.npz'}", env=where)
    assert done.returncode == 0, done.stderr
