"""Is a study that is killed again and again the same in the end as an unbroken one?

    python tests/stress/kill_study.py --workdir=runs/kill_study --kills=10

A small study of points, once unbroken and once with `kill -9` at random moments. It compares the metrics in
`results.jsonl`, and the parameters of every run, bit by bit.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
STUDY = """
from ganjax.config import load_recipe
from ganjax.study import Study, Variant

def get_study(arg=""):
    base = load_recipe("configs/ring.py")
    for net in (base.gen, base.dis):
        net.width, net.depth = 32, 2
    variants = [
        Variant("slow", {"gen.optimizer.learning_rate": 5e-4}),
        Variant("hinge", {"loss.name": "hinge"}),
    ]
    metrics = {"high_quality": "higher", "kl": "lower"}
    return Study("kills", base, variants, metrics, seeds=(0, 1, 2, 3), kimg=200, evaluations=4, samples=1000)
"""


def command(study: Path, folder: Path, per_device: int) -> list[str]:
    return [
        *(sys.executable, "-m", "ganjax", "ablate"),
        *(f"--config={study}", f"--workdir={folder}", f"--per-device={per_device}"),
    ]


def numbers(folder: Path) -> dict[str, object]:
    """Of every run: metrics, and G's parameters."""
    from ganjax.config.recipe import from_workdir
    from ganjax.run.open import checkpoint_folder
    from ganjax.run.setup import prepare
    from ganjax.runtime.checkpoint import Checkpointer

    found: dict[str, object] = {}
    for line in (folder / "results.jsonl").read_text().splitlines():
        record = json.loads(line)
        run = folder / record["folder"]
        with Checkpointer(checkpoint_folder(run, None), keep=0) as saved:
            step, state, _ = saved.restore(prepare(from_workdir(run)).build.shapes()) or (0, None, {})
        import jax

        leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state.gen.params)]
        found[record["folder"]] = (record["status"], record["metrics"], step, leaves)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--per-device", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    shutil.rmtree(options.workdir, ignore_errors=True)
    options.workdir.mkdir(parents=True)
    study = options.workdir / "study.py"
    study.write_text(STUDY)
    begin = time.monotonic()
    whole = options.workdir / "whole"
    subprocess.run(command(study, whole, options.per_device), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    took = time.monotonic() - begin
    print(f"unbroken: {took:.0f} s")
    broken, rng, kills = options.workdir / "broken", random.Random(options.seed), 0
    while True:
        child = subprocess.Popen(
            command(study, broken, options.per_device), cwd=ROOT, stdout=subprocess.DEVNULL
        )
        wait = rng.uniform(3.0, max(6.0, took / 5)) if kills < options.kills else None
        try:
            code = child.wait(wait)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            kills += 1
            done = len(list(broken.glob("runs/*/*/result.json")))
            print(f"kill {kills} after {wait:.1f} s, {done} runs done", flush=True)
            continue
        if code:
            sys.exit(f"the study ended with {code}")
        break
    ours, theirs = numbers(broken), numbers(whole)
    same = [folder for folder in theirs if ours.get(folder) == theirs[folder]]
    print(
        f"{kills} kills: {len(same)} of {len(theirs)} runs have the same metrics and parameters, bit by bit"
    )
    sys.exit(0 if len(same) == len(theirs) == len(ours) else 1)


if __name__ == "__main__":
    main()
