"""Which techniques cover the 25 modes of the grid: every method with several seeds, as a Markdown table.

    python tools/grid_table.py --workdir=runs/grid_table --seeds=5

Every method is the recipe `configs/grid.py` with the changes below, so networks, latents, batch, number of steps and,
but for TTUR, learning rates are the same. A run that has its result is not repeated: stop and start as you like.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
NS = ("loss.name=non_saturating", "penalty.name=none")
METHODS: dict[str, tuple[str, ...]] = {
    "NS (plain GAN)": NS,
    "NS + SN in D": (*NS, "dis.spectral_norm=True"),
    "NS + R1": ("loss.name=non_saturating", "penalty.name=r1"),
    "WGAN-GP, 5 D steps": (
        "loss.name=wasserstein",
        "penalty.name=wgan_gp",
        "penalty.weight=0.1",  # what Gulrajani et al. 2017 take for 2-D data
        "train.dis_steps=5",
    ),
    "RpGAN + R1 + R2 (the recipe)": (),
    "NS + packing 2": (*NS, "dis.packing=2"),
    "NS + noise .1 → 0": (*NS, "noise.std=0.1"),
    "NS + smoothing .1": (*NS, "loss.label_smoothing=0.1"),
    "NS + TTUR (D 4e-3, G 1e-3)": (
        *NS,
        "gen.optimizer.learning_rate=1e-3",
        "dis.optimizer.learning_rate=4e-3",
    ),
}
SAMPLES = 10_000


def run(method: str, seed: int, workdir: Path) -> dict[str, float]:
    """Modes, share of high quality and seconds of one run; trained unless that was done before."""
    name = f"{list(METHODS).index(method)}-{seed}"
    result = workdir / f"{name}.json"
    if result.exists():
        return dict(json.loads(result.read_text()))
    overrides = [f"--config.{change}" for change in (*METHODS[method], f"seed={seed}")]
    ganjax = [sys.executable, "-m", "ganjax"]
    folder, samples = workdir / name, workdir / f"{name}.npz"
    for command in (
        [*ganjax, "train", "--config=configs/grid.py", f"--workdir={folder}", *overrides],
        [*ganjax, "sample", f"--workdir={folder}", f"--n={SAMPLES}", f"--out={samples}"],
    ):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode == 3:  # diverged: an answer, too
            return _keep(result, {"modes": 0, "quality": 0.0, "seconds": 0.0})
        if done.returncode:
            sys.exit(f"{' '.join(command)}\n{done.stderr}")
    modes, quality = _judge(samples)
    seconds = json.loads((folder / "summary.json").read_text())["seconds"]
    return _keep(result, {"modes": modes, "quality": quality, "seconds": seconds})


def _judge(samples: Path) -> tuple[int, float]:
    from ganjax.data import load
    from ganjax.evals.metrics.modes import count_modes

    grid = load("grid")
    assert grid.modes is not None and grid.std is not None
    with np.load(samples) as stored:
        return count_modes(stored["samples"], grid.modes, grid.std)


def _keep(path: Path, result: dict[str, float]) -> dict[str, float]:
    path.write_text(json.dumps(result))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side; each uses one core")
    options = parser.parse_args()
    options.workdir = options.workdir.resolve()
    options.workdir.mkdir(parents=True, exist_ok=True)
    pairs = [(method, seed) for seed in range(options.seeds) for method in METHODS]
    with ThreadPoolExecutor(options.jobs) as pool:
        results = dict(zip(pairs, pool.map(lambda p: run(*p, options.workdir), pairs), strict=True))
    print("| method | modes (mean; of each seed) | high quality, % (mean; worst to best) | seconds a run |")
    print("|---|---|---|---|")
    for method in METHODS:
        rows = [results[method, seed] for seed in range(options.seeds)]
        modes = [int(row["modes"]) for row in rows]
        quality = [100 * row["quality"] for row in rows]
        seconds = statistics.median(row["seconds"] for row in rows)
        print(
            f"| {method} | {statistics.mean(modes):.1f}; {' '.join(map(str, modes))} "
            f"| {statistics.mean(quality):.1f}; {min(quality):.1f} to {max(quality):.1f} | {seconds:.0f} |"
        )


if __name__ == "__main__":
    main()
