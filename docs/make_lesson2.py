"""Draws docs/images/lesson2.png, FID over a run above its losses: python docs/make_lesson2.py --workdir=RUN

The run needs evaluations, for example
    ganjax train --config=configs/fashion_mnist.py --workdir=RUN --config.eval.every_kimg=8 --config.eval.samples=5000
Prints the rank correlation of each loss with FID, and the two evaluations with nearly equal losses whose FIDs are
furthest apart; the legend has them too.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import spearmanr

PICTURE = Path(__file__).resolve().parent / "images" / "lesson2.png"
COLOURS = {"loss/dis": "#c8453a", "loss/gen": "#2f6fb0"}
NAMES = {"loss/dis": "D's loss", "loss/gen": "G's loss"}
EQUAL = 0.02  # losses that differ by no more than this share count as one


def equal_losses(losses: np.ndarray, fids: np.ndarray) -> tuple[int, int]:
    """The pair of evaluations with equal losses [N] whose FIDs [N] have the largest ratio; (0, 0) without one."""
    pairs = [
        (i, j)
        for i in range(len(losses))
        for j in range(len(losses))
        if abs(losses[i] - losses[j]) <= EQUAL * abs(losses[j]) and fids[i] > fids[j]
    ]
    return max(pairs, key=lambda pair: fids[pair[0]] / fids[pair[1]], default=(0, 0))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True)
    workdir = parser.parse_args().workdir
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    images = {row["step"]: row["images"] / 1000 for row in rows}
    fids = []
    for file in sorted((workdir / "evaluations").glob("step_*.json")):
        found = next(result for result in json.loads(file.read_text()) if result["name"] == "fid")
        fids.append((int(file.stem[5:]), found["value"], found["low"], found["high"]))
    steps, values, low, high = map(np.array, zip(*fids, strict=True))
    figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(8, 5.4), layout="constrained")
    kimg = [images[int(step)] for step in steps]
    above.errorbar(
        kimg, values, yerr=[values - low, high - values], fmt="o-", color="#333333", ms=3, capsize=2
    )
    above.set_ylabel("in-domain FID\n(95 % interval)")
    above.set_ylim(bottom=0)
    above.set_title("That the samples get better is seen in FID …", loc="left", fontsize=11)
    at = {row["step"]: row for row in rows}
    for name, colour in COLOURS.items():
        losses = np.array([at[int(step)][name] for step in steps])
        pair = list(equal_losses(losses, values))
        fid = " and ".join(f"{values[i]:.0f}" for i in pair)
        kimgs, both = [row["images"] / 1000 for row in rows], [row[name] for row in rows]
        below.plot(kimgs, both, color=colour, lw=1, label=f"{NAMES[name]}; circles: equal, at FIDs of {fid}")
        below.plot([kimg[i] for i in pair], losses[pair], "o", color=colour, mfc="white", ms=6)
        rank = spearmanr(losses, values).statistic
        print(
            f"{NAMES[name]}: rank correlation with FID {rank:+.2f} over {len(values)} evaluations; {losses[pair]}"
        )
    below.set_title("… and how far they are is not seen in the losses", loc="left", fontsize=11)
    below.set_ylabel("loss")
    below.set_xlabel("thousand images that D was shown")
    below.legend(frameon=False)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()
