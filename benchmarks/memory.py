"""How much memory does a game take beside PyTorch? The most that a process of either side has held.

    python benchmarks/memory.py --torch-python=PYTHON_WITH_TORCH --games=dcgan32,msg_dcgan64,sngan32,stylegan2_64

Each start is a new process that makes some steps; the first, which may have to compile, does not count, the others have
their programs from the cache. Prints medians over the starts, what the first one took, and a JSON line for each game.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from measure import CASES, SMALL, machine, spread, table, whole_calls
from train_speed import VARIANTS, Contest


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--games", default=",".join(SMALL), help=", ".join(CASES))
    parser.add_argument("--torch-python", default="", help="a Python with torch; without one, only ganjax")
    parser.add_argument("--variants", default="eager", help=", ".join(VARIANTS))
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of ganjax's config")
    options = parser.parse_args()
    options.twins, options.threads, options.together, options.of_peak = options.games, 2, False, False
    rows = []
    for game in options.games.split(","):
        found = [peaks(game, options) for _ in range(options.starts + 1)]
        first, rest = found[0], found[1:]
        each = {name: spread([of[name] for of in rest]) for name in first}
        for name, held in each.items():
            ratio = f"{each['ganjax']['median'] / held['median']:.2f}" if name != "ganjax" else ""
            middle, ends = f"{held['median']:.0f}", f"{held['min']:.0f}-{held['max']:.0f}"
            rows.append([game, name, middle, ends, f"{first[name]:.0f}", ratio])
        print(json.dumps({"game": game, "peak_mib": each, "first_mib": first}), flush=True)
    print(table(rows, ["game", "side", "MiB", "range", "first start", "ganjax / it"]))
    print(json.dumps({"machine": machine()}))


def peaks(game: str, options: argparse.Namespace) -> dict[str, Any]:
    """MiB at most of one start of each side."""
    contest = Contest.open(game, options.precision, options)
    contest.check()
    held = {}
    for name, worker in contest.workers.items():
        steps = whole_calls(CASES[game].steps, worker.ready.get("per_call", 1))
        held[name] = worker.ask(steps=steps)["peak_mib"]
    contest.close()
    return held


if __name__ == "__main__":
    main()
