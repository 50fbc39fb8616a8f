"""Writes the table of docs/models.md: python docs/make_models.py [RECIPE ...]

For each recipe the step is compiled for one device with images of the right size in place of the data, which need not
be there: parameters, FLOPs of a step and its memory are the compiler's. Large ones take minutes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import numpy as np

from ganjax.config import recipe as configs
from ganjax.data import Dataset
from ganjax.run.dry_run import step_costs
from ganjax.run.setup import Setup
from ganjax.training.build import build

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "models.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
SIZES = {
    "cifar10": (32, 3, 10),
    "digits": (8, 1, 10),
    "fashion_mnist": (28, 1, 10),
    "imagenet2012": (0, 3, 1000),
}
RECIPES = (  # recipe, images an update where the paper's do not fit a compiler on a small machine, source
    ("sngan", "Miyato et al. 2018, table 4"),
    ("sngan:conditional", "Miyato & Koyama 2018"),
    ("sngan:wgan_gp", "Gulrajani et al. 2017, table 3"),
    ("sngan:small,conditional", "the same for digits"),
    ("sagan", "Zhang et al. 2019"),
    ("sagan:small", "the same for digits"),
    ("biggan", "Brock et al. 2019, tables 4 to 6"),
    ("biggan:deep", "Brock et al. 2019, tables 7 to 9"),
    ("biggan:small", "the same for digits"),
    ("biggan:small,deep", "the same for digits"),
    ("msg_progan", "Karnewar & Wang 2019, 256 pixels"),
    ("msg_progan:small", "the same for Fashion-MNIST"),
    ("stylegan2", "Karras et al. 2020b, 256 pixels"),
    ("stylegan2:msg", "Karnewar & Wang 2019, 256 pixels"),
    ("stylegan2:small,conditional", "the same for digits"),
    ("r3gan", "Huang et al. 2024"),
    ("r3gan:small", "the same for digits"),
)


def row(recipe: str, source: str) -> str:
    """One line of the table."""
    name, _, arg = recipe.partition(":")
    config = configs.resolve(f"{ROOT / 'configs' / name}.py:{arg}", [])
    side, channels, classes = SIZES.get(config.data.name, (0, 3, 0))
    side = config.data.resolution or side
    images = np.broadcast_to(np.zeros((), np.uint8), (8, side, side, channels))
    dataset = Dataset(config.data.name, images, np.zeros(8, np.int32) if classes else None, classes)
    setup = Setup(dataset, jax.devices()[:1], build(config, dataset), scan=False)
    costs = step_costs(config, setup)
    count = costs["parameters"]
    gigabytes = (costs["bytes"]["state"] + costs["bytes"]["activations"]) / 1e9
    return (
        f"| `{recipe}` | {side} | {config.train.batch_size} | {count['gen']:,} | {count['dis']:,} "
        f"| {costs['flops_per_step'] / 1e9:,.1f} | {gigabytes:,.2f} | {source} |"
    )


def main(wanted: list[str]) -> None:
    """Renews the rows of `wanted` recipes, or all of them."""
    page = PAGE.read_text()
    start, end = page.index(BEGIN) + len(BEGIN), page.index(END)
    rows = {line.split("`")[1]: line for line in page[start:end].splitlines() if line.startswith("| `")}
    for recipe, source in RECIPES:
        if not wanted or recipe in wanted:
            rows[recipe] = row(recipe, source)
            print(rows[recipe], flush=True)
    head = [
        "",
        "| recipe | pixels | batch | parameters of G | of D | GFLOP a step | GB | source |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines = [*head, *(rows[recipe] for recipe, _ in RECIPES if recipe in rows), ""]
    PAGE.write_text(page[:start] + "\n".join(lines) + page[end:])


if __name__ == "__main__":
    main(sys.argv[1:])
