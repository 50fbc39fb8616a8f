"""Runs side by side in one program against the same runs one after another.

    python benchmarks/population.py --config=configs/grid.py --seeds=8 --steps=2000
    python benchmarks/population.py --config=configs/sngan.py:data=fashion_mnist --sizes=1,8

Both ways start in a process of their own with an empty compilation cache, and train, log and evaluate as a study does.
Prints seconds, the ratio, and the metrics of each seed by both ways; `--json` for one JSON object. With `--sizes` only
compiled steps are timed: so many runs on one device in one program, against one run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
STUDY = """
from ganjax.config import load_recipe
from ganjax.study import Study

def get_study(arg=""):
    base = load_recipe({config!r})
    kimg = {steps} * base.train.batch_size * base.train.dis_steps / 1000
    return Study("population", base, [], {metrics!r}, seeds=tuple(range({seeds})), kimg=kimg, evaluations=1,
                 samples={samples})
"""
POINTS = {"modes": "higher", "high_quality": "higher"}
IMAGES = {"fid": "lower", "kl": "lower"}


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}


def together(study: Path, folder: Path, per_device: int) -> tuple[float, dict[int, dict[str, float]]]:
    """Seconds and metrics by seed of the study."""
    command = [sys.executable, "-m", "ganjax", "ablate", f"--config={study}", f"--workdir={folder}"]
    begin = time.monotonic()
    subprocess.run(
        [*command, f"--per-device={per_device}"],
        cwd=ROOT,
        env=environment(folder),
        check=True,
        stdout=subprocess.DEVNULL,
    )
    seconds = time.monotonic() - begin
    lines = (folder / "results.jsonl").read_text().splitlines()
    return seconds, {record["seed"]: record["metrics"] for record in map(json.loads, lines)}


def in_turn(folders: Path, folder: Path, seeds: int) -> tuple[float, dict[int, dict[str, float]]]:
    """Seconds and metrics by seed of ordinary runs with the configs of the study's runs, one after another.

    They share one process and its compilation cache on disk, and may use every device.
    """
    code = (
        "import json, sys, pathlib\n"
        "from ganjax.config.recipe import from_workdir\n"
        "from ganjax.run.train import train\n"
        "for seed in range(int(sys.argv[3])):\n"
        "    config = from_workdir(pathlib.Path(sys.argv[1]) / f'seed_{seed}')\n"
        "    config.parallel.devices = int(sys.argv[4])\n"
        "    train(config, pathlib.Path(sys.argv[2]) / f'seed_{seed}')\n"
    )
    points = json.loads((folders / "seed_0" / "config.json").read_text())["model"]["name"] == "mlp"
    devices = "1" if points else "0"  # a small game is faster on one device than split over two
    begin = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", code, str(folders), str(folder), str(seeds), devices],
        cwd=ROOT,
        env=environment(folder),
        check=True,
        stdout=subprocess.DEVNULL,
    )
    seconds = time.monotonic() - begin
    found: dict[int, dict[str, float]] = {}
    for seed in range(seeds):
        summary = json.loads((folder / f"seed_{seed}" / "summary.json").read_text())
        found[seed] = {
            name.removeprefix("eval/"): value
            for name, value in summary["metrics"].items()
            if name.startswith("eval/")
        }
    return seconds, found


def steps_only(config: str, changes: list[tuple[str, str]], sizes: list[int]) -> None:
    """Steps a second of all runs together, with so many on one device."""
    import types

    import jax

    from ganjax.config.recipe import resolve
    from ganjax.study.calibration import steps_per_second

    run: Any = types.SimpleNamespace(config=resolve(config, changes))
    device = jax.local_devices()[0]
    rates = {size: steps_per_second(run, [device], size) for size in sizes}
    for size, rate in rates.items():
        print(
            f"{size} runs of {config} on {device.device_kind}: {rate:.1f} steps a second, {rate / rates[sizes[0]]:.2f}"
        )
    print(json.dumps({"steps_per_second": rates, "device": device.device_kind}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", default="configs/grid.py")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument(
        "--per-device", type=int, default=0, help="0 finds out, which takes a while of its own"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--sizes", default="", help="time only compiled steps of so many runs, for instance 1,8"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="with --sizes: of the config"
    )
    options = parser.parse_args()
    if options.sizes:
        changes = [tuple(item.split("=", 1)) for item in options.set]
        steps_only(options.config, changes, [int(size) for size in options.sizes.split(",")])
        return
    from ganjax.config.recipe import load_recipe

    metrics = POINTS if load_recipe(options.config).model.name == "mlp" else IMAGES
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study = folder / "study.py"
        study.write_text(STUDY.format(metrics=metrics, **vars(options)))
        fast, ours = together(study, folder / "together", options.per_device)
        slow, theirs = in_turn(folder / "together" / "runs" / "base", folder / "in_turn", options.seeds)
        chosen: Any = options.per_device
        if not chosen:
            chosen = json.loads((folder / "together" / "calibration.json").read_text())
    result = {"together": fast, "in_turn": slow, "ratio": slow / fast, "per_device": chosen}
    if options.json:
        print(json.dumps({**result, "metrics": {"together": ours, "in_turn": theirs}}))
        return
    print(
        f"{options.seeds} runs of {options.config}, {options.steps} steps: {slow:.1f} s one after another, {fast:.1f} s"
    )
    print(f"side by side ({chosen} a device): {slow / fast:.2f} times as fast")
    for seed in sorted(ours):
        for metric in metrics:
            print(
                f"  seed {seed}: {metric} {theirs[seed][metric]:.4g} in turn, {ours[seed][metric]:.4g} side by side"
            )


if __name__ == "__main__":
    main()
