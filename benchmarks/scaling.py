"""How does training speed go with devices, batch and resolution? Images a second, in turn, each against the first row.

    python benchmarks/scaling.py --game=dcgan32 --devices=1,2 --batches=16,32,64 --recipe-resolutions=32,64
    python benchmarks/scaling.py --game=dcgan32 --set=train.shared_forward=True

Every row is a process of its own (`train_speed.py`'s worker), which waits while another has its turn. Devices and
batches are those of the game; resolutions are `own_images.py` at that resolution, with MSG. With `--set` the rows are
the game as it is, and with each of the options. On CPU several devices share the machine's cores. Prints a table and
one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

from measure import CASES, Worker, load_config, machine, spread, table, turns, whole_calls

WORKER = Path(__file__).resolve().with_name("train_speed.py")
RESOLUTIONS = {"32": ("dcgan32", ["model.msg=simple"]), "64": ("msg_dcgan64", [])}


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
    listed = lambda text: [item for item in text.split(",") if item]
    rows = {f"{n} devices": (options.game, [f"parallel.devices={n}"]) for n in listed(options.devices)}
    if options.set:
        rows = {"as it is": (options.game, [])} | {change: (options.game, [change]) for change in options.set}
        options.batches = options.recipe_resolutions = ""
    rows |= {f"batch {n}": (options.game, [f"train.batch_size={n}"]) for n in listed(options.batches)}
    rows |= {f"{side} pixels, MSG": RESOLUTIONS[side] for side in listed(options.recipe_resolutions)}
    workers, images, steps = {}, {}, {}
    for name, (game, changes) in rows.items():
        config = load_config(game, [tuple(change.split("=", 1)) for change in changes])
        command = [sys.executable, str(WORKER), "--worker", game, *(f"--set={change}" for change in changes)]
        workers[name] = Worker(command)
        steps[name] = whole_calls(CASES[game].steps, workers[name].ready["per_call"])
        images[name] = steps[name] * config.train.batch_size * config.train.dis_steps
    calls = {name: (lambda name=name, w=worker: w.ask(steps=steps[name])) for name, worker in workers.items()}
    turns(calls, 1)  # warms up
    rounds, _ = turns(calls, options.repeats)
    for worker in workers.values():
        worker.close()
    rate = {
        name: spread([images[name] / row["seconds"] for row in answers]) for name, answers in rounds.items()
    }
    peaks = {name: answers[-1]["peak_mib"] for name, answers in rounds.items()}
    first, *_ = rounds
    gains = {
        name: statistics.median(
            images[name] / row["seconds"] / (images[first] / of["seconds"])
            for row, of in zip(rounds[name], rounds[first], strict=True)
        )
        for name in rounds
    }
    print(
        table(
            [
                [
                    name,
                    f"{r['median']:.0f}",
                    f"{r['min']:.0f}-{r['max']:.0f}",
                    f"{gains[name]:.2f}",
                    f"{peaks[name]:.0f}",
                ]
                for name, r in rate.items()
            ],
            ["setting", "img/s", "range", "to the first", "peak MiB"],
        )
    )
    print(
        json.dumps({"machine": machine(), "game": options.game, "images_per_second": rate, "peak_mib": peaks})
    )


if __name__ == "__main__":
    main()
