"""Training end to end, through the command line, in child processes that are signalled, killed and started again.

Most runs are one and the same small game, so that one unbroken run can be held against all the broken ones.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from paths import ROOT
from PIL import Image
from trainings import STEPS, Runs, finish, last_step, logged, read_state, summary, wait_until

if TYPE_CHECKING:
    from conftest import RunCli


def assert_same_run(workdir: Path, reference: Path) -> None:
    """Bit for bit the same state, and the same log but for times."""
    found, expected = read_state(workdir), read_state(reference)
    assert found.keys() == expected.keys() and len(found) > 20
    differing = [name for name in expected if found[name].tobytes() != expected[name].tobytes()]
    assert not differing
    times = ("seconds", "images_per_second")
    rows = [
        [{key: value for key, value in row.items() if key not in times} for row in logged(folder)]
        for folder in (workdir, reference)
    ]
    assert rows[0] == rows[1]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def unbroken(runs: Runs) -> Path:
    """Points on two devices, to the end; tests leave it as it is."""
    runs.finish("unbroken")
    return runs.folder / "unbroken"


@pytest.fixture(scope="module")
def images(runs: Runs) -> Path:
    """Digits at two scales, with batch and spectral normalisation, on two devices, to the end."""
    _, err = finish(runs.start("images", arg="images", log_compiles=True))
    (runs.folder / "images.err").write_text(err)
    return runs.folder / "images"


@pytest.fixture
def copy(unbroken: Path, tmp_path: Path) -> Path:
    """A copy of the unbroken run, to go on with."""
    return Path(shutil.copytree(unbroken, tmp_path / "copy"))


def test_a_run_leaves_its_files(images: Path, unbroken: Path) -> None:
    for workdir, steps, every in ((images, 24, 3), (unbroken, STEPS, 5)):
        config = json.loads((workdir / "config.json").read_text())
        assert config["train"]["steps"] == steps and config["gen"]["width"] == 8
        environment = json.loads((workdir / "environment.json").read_text())
        assert environment["versions"]["jax"] and len(environment["devices"]) == 2
        assert "train" in environment["command"]
        assert [line["step"] for line in logged(workdir)] == list(range(every, steps + 1, every))
        assert {int(path.name) for path in (workdir / "checkpoints").iterdir()} == {steps - every, steps}
        assert len(list(workdir.glob("events.out.tfevents.*"))) == 1
        ending = summary(workdir)
        assert ending["reason"] == "completed"
        assert ending["steps"] == steps and ending["images"] == steps * 32
        assert ending["seconds"] > 0 and ending["images_per_second"] > 0
        assert ending["metrics"]["loss/gen"] == pytest.approx(logged(workdir)[-1]["loss/gen"], rel=1e-6)
    names = {path.name for path in (images / "samples").iterdir()}
    grids = {f"step_{step:08d}{kind}.png" for step in (0, 12, 24) for kind in ("", "_scales")}
    assert names == {"reals.png", *grids}
    with Image.open(images / "samples" / "step_00000024.png") as grid:
        assert grid.width == grid.height > 2 * 64


def test_a_run_leaves_its_page(images: Path, unbroken: Path) -> None:
    page = (images / "report.html").read_text()
    assert "Run · dcgan on digits · completed" in page and 'id="scales"' in page
    assert 'id="scales"' not in (unbroken / "report.html").read_text()


def test_nothing_is_compiled_twice(images: Path) -> None:
    lines = [line for line in images.with_name("images.err").read_text().splitlines() if "Compiling" in line]
    sizes = sorted(size for line in lines if (size := line.count("ShapedArray(")) > 5)
    # By their arguments: the sampler (G's weights), σ of layers, the monitor's probe, the step (all of the state); and
    # the weights before a call and how far it moved them (before and after).
    assert len(sizes) == 6 and sizes[-1] > 50, (
        "expected sampler, σ, probe, weights, movement and step, once each"
    )
    assert all(sum(f"jit({name})" in line for line in lines) == 1 for name in ("weights", "movement"))


def test_log_lines_have_the_agreed_keys(images: Path) -> None:
    lines = logged(images)
    required = {"images", "seconds", "images_per_second", "loss/dis", "loss/gen", "lr/dis", "lr/gen"}
    for line in lines:
        assert required <= line.keys()
        assert line["images"] == 32 * line["step"]
        assert all(isinstance(line[key], int | float) for key in required)
        assert line["lr/gen"] == pytest.approx(2e-4) and line["lr/dis"] == pytest.approx(8e-4)
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)


def kill_rounds(runs: Runs, name: str, kills: int, steps: int, seed: int, arg: str = "") -> int:
    """Kills a run `kills` times, once at its start and then somewhere in each part of it, and lets it end.

    Returns:
      How many kills fell after the first step.
    """
    draw = random.Random(seed)
    workdir = runs.folder / name
    late = 0
    for number in range(kills):
        child = runs.start(name, arg=arg)
        if number == 0:
            time.sleep(draw.uniform(0.5, 3.0))
        else:
            low, high = ((number - 1) / kills, (number - 0.2) / kills)
            target = int(draw.uniform(low, high) * steps) + 1
            wait_until(child, lambda target=target: last_step(workdir) >= target)
            time.sleep(draw.uniform(0, 0.03))
            late += 1
        assert child.poll() is None, f"the run ended before kill {number}: {child.communicate()}"
        child.kill()
        child.communicate()
        assert child.returncode == -signal.SIGKILL
    runs.finish(name, arg=arg)
    return late


@pytest.mark.slow
def test_a_killed_run_ends_as_the_unbroken_one(runs: Runs, unbroken: Path) -> None:
    assert kill_rounds(runs, "killed", kills=3, steps=STEPS, seed=1) == 2
    assert_same_run(runs.folder / "killed", unbroken)
    assert summary(runs.folder / "killed")["reason"] == "completed"


@pytest.mark.slow
def test_ten_kills_of_a_run_on_images(runs: Runs, images: Path) -> None:
    assert kill_rounds(runs, "killed_images", kills=11, steps=24, seed=2, arg="images") == 10
    assert_same_run(runs.folder / "killed_images", images)


@pytest.fixture
def hangups() -> Iterator[None]:
    """SIGHUP as a terminal's programs have it: under nohup it is ignored, by children too."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
def test_signals_save_and_the_same_command_goes_on(runs: Runs, unbroken: Path, hangups: None) -> None:
    name = "signalled"
    workdir = runs.folder / name
    for number, reason in (
        (signal.SIGTERM, "preempted"),
        (signal.SIGINT, "interrupted"),
        (signal.SIGHUP, "preempted"),
    ):
        start = last_step(workdir)
        child = runs.start(name)
        wait_until(child, lambda start=start: last_step(workdir) >= start + 50)
        child.send_signal(number)
        out, _ = finish(child)
        ending = summary(workdir)
        assert ending["reason"] == reason and start < ending["steps"] < STEPS
        assert f"Stopped ({reason}) at step {ending['steps']}" in out and "same command to resume" in out
        assert max(int(path.name) for path in (workdir / "checkpoints").iterdir()) == ending["steps"]
        if start:
            assert "Resuming from step" in out
    out, _ = runs.finish(name)
    assert "Completed 400 steps" in out
    assert_same_run(workdir, unbroken)


def test_more_interrupts_leave_at_once(runs: Runs) -> None:
    child = runs.start("impatient", "train.steps=1000000")
    wait_until(child, (runs.folder / "impatient" / "environment.json").exists)
    deadline = time.monotonic() + 60
    while child.poll() is None and time.monotonic() < deadline:
        child.send_signal(signal.SIGINT)
        time.sleep(0.1)
    _, err = child.communicate(timeout=10)
    # A process ended by the third one; a shell calls that 130 too.
    assert child.returncode in (130, -signal.SIGINT), err
    assert "Traceback" not in err


def test_a_complete_run_is_left_as_it_is(runs: Runs, copy: Path) -> None:
    before = summary(copy), logged(copy)
    child = subprocess.run(
        [sys.executable, "-m", "ganjax", "train", f"--config={runs.recipe}", f"--workdir={copy}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    assert "is complete at step 400" in child.stdout and "train.steps" in child.stdout
    assert (summary(copy), logged(copy)) == before


@pytest.mark.slow
def test_other_numbers_of_devices_go_on_with_it(runs: Runs, unbroken: Path) -> None:
    """The checkpoint of 2 devices, ten steps further on 1, 2 and 4: the same up to rounding."""
    states = {}
    for devices in (1, 2, 4):
        name = f"devices_{devices}"
        shutil.copytree(unbroken, runs.folder / name)
        out, _ = runs.finish(name, "train.steps=410", f"parallel.devices={devices}")
        assert "Resuming from step 400" in out
        environment = json.loads((runs.folder / name / "environment.json").read_text())
        assert len(environment["devices"]) == devices
        states[devices] = read_state(runs.folder / name)
    start = read_state(unbroken)
    moved = 0
    for name, expected in states[2].items():
        for devices in (1, 4):
            np.testing.assert_allclose(states[devices][name], expected, rtol=1e-4, atol=1e-5, err_msg=name)
        moved += not np.allclose(start[name], expected, rtol=1e-4, atol=1e-5)
    assert moved > 10


def test_a_checkpoint_of_another_architecture(runs: Runs, unbroken: Path) -> None:
    workdir = runs.folder / "other"
    shutil.copytree(unbroken / "checkpoints", workdir / "checkpoints")
    _, err = runs.finish("other", "gen.width=16", code=2)
    assert (
        "checkpoint of another architecture" in err
        and "expected float32[8, 16]" in err
        and "another --workdir" in err
    )
    assert not (workdir / "config.json").exists()


def test_a_diverged_run(runs: Runs) -> None:
    workdir = runs.folder / "diverged"
    options = (
        "gen.optimizer.name=sgd",
        "gen.optimizer.learning_rate=1e38",
        "log.tensorboard=False",
        "log.report=False",
    )
    _, err = runs.finish("diverged", *options, code=3)
    assert "The run diverged" in err and "loss/" in err and "stopped being finite at step" in err
    assert "the generator" in err or "the discriminator" in err
    assert str(workdir / "diverged") in err
    ending = summary(workdir)
    assert ending["reason"] == "diverged" and ending["steps"] <= 10
    assert last_step(workdir) == ending["steps"]
    [saved] = (workdir / "diverged").iterdir()
    assert int(saved.name) == ending["steps"] and (saved / "ganjax_manifest.json").is_file()
    assert not (workdir / "checkpoints").exists(), "there was no finite state to save"
    assert not list(workdir.glob("events.*")) and not (workdir / "report.html").exists()


def samples(run_cli: RunCli, workdir: Path, out: Path, *args: str) -> np.ndarray:
    result = run_cli("sample", f"--workdir={workdir}", f"--out={out}", *args)
    assert result.returncode == 0, result.stderr
    assert str(out) in result.stdout
    with np.load(out) as stored:
        assert stored.files == ["samples"]
        return stored["samples"]


def test_samples_of_points(run_cli: RunCli, unbroken: Path, tmp_path: Path) -> None:
    first = samples(run_cli, unbroken, tmp_path / "deep" / "first.npz", "--n=200", "--devices=1")
    assert first.dtype == np.float32 and first.shape == (200, 2) and np.isfinite(first).all()
    again = samples(run_cli, unbroken, tmp_path / "again.npz", "--n=70", "--devices=2", "--seed=0")
    np.testing.assert_allclose(again, first[:70], rtol=1e-5, atol=1e-6)
    other = samples(run_cli, unbroken, tmp_path / "other.npz", "--n=70", "--seed=1")
    assert np.abs(other - first[:70]).max() > 1e-2
    raw = samples(run_cli, unbroken, tmp_path / "raw.npz", "--n=70", "--weights=raw", "--step=400")
    assert np.abs(raw - first[:70]).max() > 1e-4
    result = run_cli("sample", f"--workdir={unbroken}", f"--out={tmp_path / 'x.png'}", "--step=7")
    assert result.returncode == 2 and "there are: 395, 400" in result.stderr


def test_samples_of_images(run_cli: RunCli, images: Path, tmp_path: Path) -> None:
    found = samples(run_cli, images, tmp_path / "images.npz", "--n=5")
    assert found.dtype == np.uint8 and found.shape == (5, 8, 8, 1) and found.std() > 0
    result = run_cli("sample", f"--workdir={images}", f"--out={tmp_path / 'grid.png'}", "--n=4")
    assert result.returncode == 0, result.stderr
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.width == grid.height > 2 * 64
