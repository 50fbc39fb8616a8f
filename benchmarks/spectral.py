"""What does spectral normalisation cost? Each game without it, in D, in G, in both, and in both with more iterations.

    python benchmarks/spectral.py --games=dcgan32,msg_dcgan64,sngan32

Five settings take turns, each a process of its own. The cost is the share of the step that normalising takes: 1 less
the seconds of a step without it over those of a step with it, the median over rounds; the noise of the machine makes it
a negative one now and then. Power iterations are one each time that D (or G) is updated, unless a row says otherwise.
Prints a table per game and one JSON line. `breakdown.py` tells the same share from a trace of a single run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json

from measure import machine, table
from settings import Found, Setting, compare

GAMES = ("dcgan32", "msg_dcgan64", "sngan32", "sngan32_full", "biggan128")  # StyleGAN2's layers have none
NETWORKS = {"in none": (), "in D": ("dis",), "in G": ("gen",), "in both": ("dis", "gen")}


def settings_of(game: str, iterations: int) -> dict[str, Setting]:
    """Spectral normalisation in every pair of networks; the last row has more iterations."""
    rows = {}
    for name, having in NETWORKS.items():
        rows[name] = Setting(game, [f"{net}.spectral_norm={net in having}" for net in ("dis", "gen")])
    more = [f"{net}.spectral_iterations={iterations}" for net in ("dis", "gen")]
    rows[f"in both, {iterations} iterations"] = Setting(game, [*rows["in both"].changes, *more])
    return rows


def cost(found: Found) -> str:
    """The share of the step that is not there without it, in per cent."""
    low, middle, high = (100 * (1 - found.to_first[key]) for key in ("max", "median", "min"))
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--games", default=",".join(GAMES[:3]), help=f"of {', '.join(GAMES)}")
    parser.add_argument("--iterations", type=int, default=5, help="of the last row")
    parser.add_argument("--repeats", type=int, default=7, help="rounds")
    options = parser.parse_args()
    games = options.games.split(",")
    if unknown := set(games) - set(GAMES):
        parser.error(f"--games takes {', '.join(GAMES)}; {', '.join(sorted(unknown))} is none of them")
    results = {}
    for game in games:
        found = compare(settings_of(game, options.iterations), options.repeats)
        results[game] = {name: dataclasses.asdict(each) for name, each in found.items()}
        rows = [
            [name, f"{each.rate['median']:.0f}", "" if name == "in none" else cost(each)]
            for name, each in found.items()
        ]
        print(table(rows, [game, "img/s", "cost, % of the step"]), flush=True)
        print()
    print(json.dumps({"machine": machine(), "games": results}))


if __name__ == "__main__":
    main()
