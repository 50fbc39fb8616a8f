"""Draws docs/images/lesson2.png, FID over a run above its losses: python docs/make_lesson2.py --workdir=RUN

The run needs evaluations, for example
    ganjax train --config=configs/fashion_mnist.py --workdir=RUN --config.eval.every_kimg=8 --config.eval.samples=5000
Prints the rank correlation of each loss with FID.
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
    above.set_yscale("log")
    above.set_title("What gets better is seen in the samples …", loc="left", fontsize=11)
    for name, colour in COLOURS.items():
        below.plot(
            [row["images"] / 1000 for row in rows],
            [row[name] for row in rows],
            color=colour,
            lw=1,
            label=NAMES[name],
        )
    below.set_title("… and not in the losses", loc="left", fontsize=11)
    below.set_ylabel("loss")
    below.set_xlabel("thousand images that D was shown")
    below.legend(frameon=False)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
    figure.savefig(PICTURE, dpi=110)
    at = {row["step"]: row for row in rows}
    for name in COLOURS:
        rank = spearmanr([at[int(step)][name] for step in steps], values).statistic
        print(f"{NAMES[name]}: rank correlation with FID {rank:+.2f} over {len(values)} evaluations")


if __name__ == "__main__":
    main()
