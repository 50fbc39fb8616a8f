"""How fast does ganjax train beside PyTorch? Images a second of the same game, in turn, on one machine.

    python benchmarks/train_speed.py --torch-python=PYTHON_WITH_TORCH --games=dcgan32,msg_dcgan64,sngan32,stylegan2_64

ganjax and each PyTorch variant run in processes of their own, which wait while another has its turn. The ratio is that
of ganjax to the best PyTorch variant: the median over rounds of the ratio within a round. Parameters are asserted to
be as many on both sides. Rounds in which other programs took more than 0.15 of a core (`elsewhere`) are made again,
`--again` of them at most. Images are reals that a step's D updates see; memory is the most that a process held. Prints
a table and one JSON line. ganjax's side runs unchanged on a GPU; the twins are for CPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from measure import CASES, Worker, load_config, machine, serve, spread, start, table, turns

HERE = Path(__file__).resolve().parent
VARIANTS = {
    "eager": {"compile": False, "channels_last": True},
    "eager_nchw": {"compile": False, "channels_last": False},
    "eager_joined": {"compile": False, "channels_last": True, "joined": True},
    "compile": {"compile": True, "channels_last": True},
    "compile_joined": {"compile": True, "channels_last": True, "joined": True},
    "compile_nchw": {"compile": True, "channels_last": False},
}


def twin_options(config: Any, resolution: int) -> dict[str, Any]:
    """What the twin has to know of a config."""
    return {
        "model": config.model.name,
        "msg": config.model.msg != "none",
        "resolution": resolution,
        "latent": config.model.latent_dim,
        "gen_width": config.gen.width,
        "gen_max": config.gen.max_width,
        "dis_width": config.dis.width,
        "dis_max": config.dis.max_width,
        "style": config.gen.style_dim,
        "mapping": config.gen.mapping_layers,
        "mapping_rate": config.gen.mapping_rate,
        "mixing": config.gen.style_mixing,
        "loss": config.loss.name,
        "r1": config.penalty.weight if config.penalty.name == "r1" else 0.0,
        "r1_every": config.penalty.every,
        "path": config.loss.path_length,
        "path_every": config.loss.path_length_every,
        "batch": config.train.batch_size,
        "dis_steps": config.train.dis_steps,
        "gen_rate": config.gen.optimizer.learning_rate,
        "dis_rate": config.dis.optimizer.learning_rate,
        "beta2": config.gen.optimizer.beta2,
        "ema": 0.999,
    }


def work(game: str, changes: list[tuple[str, str]]) -> None:
    """ganjax's side, in a process of its own."""
    running = start(load_config(game, changes), CASES[game].resolution)
    import jax

    from ganjax.state import count_parameters

    counts = {net: count_parameters(getattr(running.state, net).params) for net in ("gen", "dis")}
    serve(running.advance, **counts, version=jax.__version__, devices=len(running.devices))


def contest(game: str, options: argparse.Namespace, changes: list[tuple[str, str]]) -> dict[str, Any]:
    """Rounds of one game: seconds a step of each side, and the ratios."""
    config, steps = load_config(game, changes), options.steps or CASES[game].steps
    twin = twin_options(config, CASES[game].resolution)
    own = [sys.executable, __file__, "--worker", game, *(f"--set={key}={value}" for key, value in changes)]
    amp = config.train.precision == "bfloat16"
    workers = {"ganjax": Worker(own)}
    for name in options.variants.split(",") if options.torch_python else ():
        request = {"options": twin, "amp": amp, "threads": options.threads, **VARIANTS[name]}
        command = [options.torch_python, str(HERE / "torch_twins.py"), json.dumps(request)]
        workers[f"torch {name}"] = Worker(command)
    for name, worker in workers.items():
        for net in ("gen", "dis"):
            ours, theirs = workers["ganjax"].ready[net], worker.ready[net]
            assert ours == theirs, f"{game}: {net} of {name} has {theirs} parameters, of ganjax {ours}"
    calls = {name: (lambda worker=worker: worker.ask(steps=steps)) for name, worker in workers.items()}
    turns(calls, 1)  # warms up
    rounds, dropped = turns(calls, options.repeats, clean=0.15, most=options.repeats + options.again)
    for worker in workers.values():
        worker.close()
    images = steps * config.train.batch_size * config.train.dis_steps
    rate = {name: [images / row["seconds"] for row in rows] for name, rows in rounds.items()}
    result: dict[str, Any] = {
        "game": game,
        "parameters": {net: workers["ganjax"].ready[net] for net in ("gen", "dis")},
        "devices": workers["ganjax"].ready["devices"],
        "versions": {name: worker.ready["version"] for name, worker in workers.items()},
        "images_per_second": {name: spread(rates) for name, rates in rate.items()},
        "elsewhere": max(row["elsewhere"] for rows in rounds.values() for row in rows),
        "rounds_made_again": dropped,
        "peak_mib": {name: rows[-1]["peak_mib"] for name, rows in rounds.items()},
    }
    others = [name for name in rate if name != "ganjax"]
    if others:
        best = max(others, key=lambda name: statistics.median(rate[name]))
        ratios = [a / b for a, b in zip(rate["ganjax"], rate[best], strict=True)]
        result |= {"best": best, "ratio": spread(ratios)}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--games", default=",".join(CASES))
    parser.add_argument("--torch-python", default="", help="a Python with torch; without one, only ganjax")
    parser.add_argument("--variants", default="eager,compile", help=", ".join(VARIANTS))
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--again", type=int, default=3, help="most rounds made again for noise")
    parser.add_argument("--steps", type=int, default=0, help="of a turn; 0 takes the game's own")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of ganjax's config")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    changes = [("train.precision", options.precision)] + [tuple(item.split("=", 1)) for item in options.set]
    if options.worker:
        work(options.worker, changes)
        return
    results = [contest(game, options, changes) for game in options.games.split(",")]
    rows = []
    for result in results:
        for name, rates in result["images_per_second"].items():
            ratio = result.get("ratio") if name == result.get("best") else None
            rows.append(
                [
                    result["game"],
                    name,
                    f"{rates['median']:.1f}",
                    f"{rates['min']:.1f}-{rates['max']:.1f}",
                    f"{ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f})" if ratio else "",
                ]
            )
    print(table(rows, ["game", "side", "img/s", "range", "ganjax / best"]))
    print(json.dumps({"machine": machine(), "results": results}))


if __name__ == "__main__":
    main()
