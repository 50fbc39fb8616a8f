"""Studies and runs to draw pages of: made-up numbers whose story is known."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from PIL import Image

from ganjax.study.statistics import analyse

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
