"""How does training speed go with devices, batch and resolution? Images a second, in turn, each against the first row.

    python benchmarks/scaling.py --game=dcgan32 --devices=1,2 --batches=16,32,64 --recipe-resolutions=32,64
    python benchmarks/scaling.py --game=dcgan32 --set=train.shared_forward=True

Devices and batches are those of the game; resolutions are `own_images.py` at that resolution, with MSG. With `--set`
the rows are the game as it is, and with each of the options. On CPU several devices share the machine's cores. Prints a
table and one JSON line.
"""

from __future__ import annotations

import argparse
import dataclasses
import json

from measure import CASES, machine, table
from settings import Setting, compare

RESOLUTIONS = {"32": Setting("dcgan32", ["model.msg=simple"]), "64": Setting("msg_dcgan64")}


def rows_of(options: argparse.Namespace) -> dict[str, Setting]:
    """The settings that the command line asks for."""
    listed = lambda text: [item for item in text.split(",") if item]
    game = options.game
    if options.set:
        return {"as it is": Setting(game)} | {change: Setting(game, [change]) for change in options.set}
    devices = {f"{n} devices": Setting(game, [f"parallel.devices={n}"]) for n in listed(options.devices)}
    batches = {f"batch {n}": Setting(game, [f"train.batch_size={n}"]) for n in listed(options.batches)}
    sides = {f"{side} pixels, MSG": RESOLUTIONS[side] for side in listed(options.recipe_resolutions)}
    return devices | batches | sides


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--game", default="dcgan32", choices=CASES)
    parser.add_argument("--devices", default="1,2")
    parser.add_argument("--batches", default="16,32,64")
    parser.add_argument("--recipe-resolutions", default="32,64", help=f"of {', '.join(RESOLUTIONS)}")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="instead of the others"
    )
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    found = compare(rows_of(options), options.repeats)
    rows = [
        [
            name,
            f"{each.rate['median']:.0f}",
            f"{each.rate['min']:.0f}-{each.rate['max']:.0f}",
            f"{each.to_first['median']:.2f} ({each.to_first['min']:.2f}-{each.to_first['max']:.2f})",
            f"{each.peak_mib:.0f}",
        ]
        for name, each in found.items()
    ]
    print(table(rows, ["setting", "img/s", "range", "to the first", "peak MiB"]))
    settings = {name: dataclasses.asdict(each) for name, each in found.items()}
    print(json.dumps({"machine": machine(), "game": options.game, "settings": settings}))


if __name__ == "__main__":
    main()
