"""Puts sample grids of runs side by side: python docs/make_family_pictures.py OUT.png TITLE=WORKDIR …"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

WIDE = 4  # grids in a row


def main(out: str, *named: str) -> None:
    """The newest grid of each run, four to a row, under its title."""
    rows = -(-len(named) // WIDE)
    columns = min(WIDE, len(named))
    figure, axes = plt.subplots(rows, columns, figsize=(3.2 * columns, 3.5 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, entry in zip(axes.flat, named, strict=False):
        title, _, workdir = entry.rpartition("=")
        newest = max(p for p in Path(workdir, "samples").glob("step_*.png") if "scales" not in p.name)
        axis.imshow(np.asarray(Image.open(newest).convert("L")), cmap="gray", interpolation="nearest")
        axis.set_title(title, fontsize=10)
    figure.tight_layout(pad=0.4)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:])
