"""Studies and runs to draw pages of: made-up numbers whose story is known."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ganjax.study.analysis import analyse

METRICS = [{"name": "high_quality", "better": "higher"}, {"name": "kl", "better": "lower"}]
NASTY = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)> & \"q\" %{x}"
# name → group, change, mean and scatter of the primary metric, chance of failing
VARIANTS: dict[str, tuple[str, dict[str, Any], float, float, float]] = {
    "base": ("", {}, 0.82, 0.02, 0.0),
    "G ×½": ("1 capacity", {"gen.width": [64, 32]}, 0.76, 0.02, 0.0),
    "G ×2": ("1 capacity", {"gen.width": [64, 128]}, 0.83, 0.02, 0.0),
    "lr ×4": ("5 learning rate", {"gen.optimizer.learning_rate": [0.002, 0.008]}, 0.45, 0.2, 0.4),
    "lr ×½": ("5 learning rate", {"gen.optimizer.learning_rate": [0.002, 0.001]}, 0.87, 0.015, 0.0),
    "noise .1": ("6 noise", {"noise.std": [0.0, 0.1], "noise.anneal_kimg": [0, 200]}, 0.825, 0.03, 0.0),
    NASTY: ("10 spectral <i>norm</i>", {"dis.norm": ["spectral", NASTY]}, 0.6, 0.1, 0.2),
}


def made_up_study(seeds: int = 10) -> dict[str, Any]:
    """Arguments of `write_study_page` but for `path` and `title`."""
    rng = np.random.default_rng(4)
    records, curves = [], {}
    for name, (group, differences, mean, scatter, failing) in VARIANTS.items():
        curves[name] = {}
        for seed in range(seeds):
            failed = rng.random() < failing
            quality = float(np.clip(rng.normal(mean, scatter), 0, 1))
            images = np.linspace(0, 512_000 * (0.4 if failed else 1), 40)
            rise = quality * (1 - np.exp(-images / 90_000)) + rng.normal(0, 0.012, 40)
            curves[name][seed] = {
                "high_quality": list(zip(images.tolist(), rise.tolist(), strict=True)),
                "kl": [
                    (x, math.exp(-4 * y) + 0.02) for x, y in zip(images.tolist(), rise.tolist(), strict=True)
                ],
            }
            collapsed = not failed and quality < 0.5
            records.append(
                {
                    "variant": name,
                    "group": group,
                    "seed": seed,
                    "base": name == "base",
                    "status": "diverged" if failed else "completed",
                    "reason": f"the loss of D stopped being finite at step 1600 {NASTY}" if failed else "",
                    "differences": differences,
                    "steps": 1600 if failed else 4000,
                    "images": 204_800 if failed else 512_000,
                    "seconds": float(rng.normal(61 if "×2" in name else 40, 1)),
                    "metrics": {}
                    if failed
                    else {"high_quality": quality, "kl": math.exp(-4 * quality) + 0.02},
                    "verdicts": ["mode collapse"] * collapsed + ["harmless oscillation"] * (seed == 3),
                    "collapsed": collapsed,
                    "folder": f"runs/{seed}",
                }
            )
    return {
        "records": records,
        "analysis": analyse(records, METRICS, "base", correct_within="group").to_json(),
        "curves": curves,
        "grids": {name: grid_png(index) for index, name in enumerate(VARIANTS)},
        "planned": len(records) + 12,
        "description": "Which of the ten lessons helps on the grid of 25 Gaussians?",
        "command": "ganjax ablate --config=configs/ablations/ten_lessons.py:grid --workdir=studies/grid",
    }


def grid_png(seed: int, side: int = 300) -> bytes:
    """A picture that does not compress."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def log_line(index: int, lines: int, rng: np.random.Generator) -> dict[str, Any]:
    """Of a run with a mode collapse between 40 and 60 % of its steps."""
    part, step = (index + 1) / lines, (index + 1) * 10
    lost = 0.4 < part < 0.6
    row: dict[str, Any] = {
        "step": step,
        "images": step * 64,
        "seconds": step * 0.05,
        "images_per_second": 1280 + rng.normal(0, 20),
        "loss/dis": None if index == lines // 2 else float(rng.normal(0.7, 0.1)),
        "loss/gen": float(rng.normal(1.5, 0.2)),
        "lr/gen": 5e-4 * (1 - part) + 1e-6,
        "lr/dis": 2e-3 * (1 - part) + 1e-6,
        "grad_norm/gen": float(np.exp(rng.normal(0, 0.3))),
        "grad_norm/dis": float(np.exp(rng.normal(1, 0.3))),
        "monitor/coverage": (0.1 if lost else 0.9) + float(rng.normal(0, 0.01)),
        "monitor/diversity": (0.2 if lost else 0.95) + float(rng.normal(0, 0.01)),
        "monitor/quality": 0.9,
        "monitor/separation": 0.8,
        "verdict": "mode collapse" if lost else "healthy",
        **{f"sigma/dis/layer_{i}": 1 + i + float(rng.normal(0, 0.1)) for i in range(12)},
        **{f"monitor/gradient/{side}": float(np.exp(rng.normal(0, 0.2))) for side in (4, 8)},
    }
    if index % 20 == 0:
        row |= {"eval/fid": 200 * math.exp(-3 * part) + 5, "eval/modes": round(10 * part)}
    return row


def made_up_run(
    folder: Path, lines: int = 300, *, scales: bool = True, grids: int = 30, done: bool = True
) -> Path:
    """A workdir as `ganjax train` leaves it, with a collapse in its middle and a value that was not finite."""
    rng = np.random.default_rng(lines)
    (folder / "samples").mkdir(parents=True)
    steps = lines * 10
    config = {
        "seed": 0,
        "data": {"name": "digits", "path": NASTY},
        "model": {"name": "dcgan", "msg": "simple"},
        "train": {"steps": steps if done else 2 * steps, "batch_size": 64},
        "gen": {"optimizer": {"learning_rate": 0.0005}},
        "log": {"every_steps": 10},
    }
    (folder / "config.json").write_text(json.dumps(config))
    environment = {
        "time": "2026-11-24T12:00:00+00:00",
        "command": ["ganjax", "train", f"--workdir={NASTY}"],
        "versions": {"python": "3.11.7", "jax": "0.10.2"},
        "platform": "Linux",
        "host": "here",
        "devices": ["cpu:0", "cpu:1"],
    }
    (folder / "environment.json").write_text(json.dumps(environment))
    with open(folder / "metrics.jsonl", "w") as file:
        for index in range(lines):
            file.write(json.dumps(log_line(index, lines, rng)) + "\n")
        file.write('{"step": 99')  # torn by a kill
    for index in range(grids):
        step = (index + 1) * max(steps // grids, 1)
        (folder / "samples" / f"step_{step:08d}.png").write_bytes(grid_png(index))
        if scales:
            (folder / "samples" / f"step_{step:08d}_scales.png").write_bytes(grid_png(100 + index, 120))
    (folder / "samples" / f"step_{steps + 10:08d}.png").write_bytes(b"\x89PNG torn")
    if done:
        summary = {"reason": "completed", "steps": steps, "images": steps * 64, "seconds": steps * 0.05}
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder
