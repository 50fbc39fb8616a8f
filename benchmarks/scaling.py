"""How does a step scale? Images a second by devices, by batch and by resolution.

    python benchmarks/scaling.py --devices=1,2,4 --batches=16,32,64 --resolutions=32,64

ganjax's own step of `configs/own_images.py`, each size in a process of its own, in turn. On a CPU the devices are
shares of its cores, so that 4 of them on 2 cores show the cost of dividing. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json

from breakdown import worker
from measure import load_config, machine, spread, table, turns

GAMES = {32: "dcgan32", 64: "msg_dcgan64"}
Size = tuple[int, int, int]  # resolution, batch, devices


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", default="1,2,4")
    parser.add_argument("--batches", default="32")
    parser.add_argument("--resolutions", default="32,64", help="of 32 (one scale) and 64 (all scales)")
    parser.add_argument("--steps", type=int, default=10, help="of a turn")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    numbers = lambda text: [int(part) for part in text.split(",")]
    sizes: list[Size] = [
        (side, batch, devices)
        for side in numbers(options.resolutions)
        for batch in numbers(options.batches)
        for devices in numbers(options.devices)
    ]
    workers = {}
    for side, batch, devices in sizes:
        changes = [("train.batch_size", str(batch)), ("parallel.devices", str(devices))]
        load_config(GAMES[side], changes)  # refuses what does not fit before anything starts
        workers[side, batch, devices] = worker(GAMES[side], changes)
    calls = {str(size): (lambda each=each: each.ask(steps=options.steps)) for size, each in workers.items()}
    turns(calls, 1)
    rounds, _ = turns(calls, options.repeats, clean=0.15, most=options.repeats + 3)
    for each in workers.values():
        each.close()
    found = []
    for side, batch, devices in sizes:
        rates = [batch * options.steps / row["seconds"] for row in rounds[str((side, batch, devices))]]
        found.append({"resolution": side, "batch": batch, "devices": devices, **spread(rates)})
    rows = [
        [r["resolution"], r["batch"], r["devices"], f"{r['median']:.1f}", f"{r['min']:.1f}-{r['max']:.1f}"]
        for r in found
    ]
    print(table(rows, ["side", "batch", "devices", "img/s", "range"]))
    print(json.dumps({"machine": machine(), "sizes": found}))


if __name__ == "__main__":
    main()
