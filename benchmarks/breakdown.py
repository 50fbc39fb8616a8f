"""Where does a step's time go? Parts switched off in turn, and the compiled operations by network and kind.

    python benchmarks/breakdown.py --game=sngan32 --repeats=5

First each part's share: the step without it beside the whole step, in turn, each in a process of its own. Then one
traced stretch of the whole step: seconds of all devices by network (the Flax module of the operation) and by kind:
convolutions and products, forward and backward, transposes and copies, exchange between devices, the rest. Last the
rate of a matrix product of 2048² on all cores, for comparison. Prints tables and one JSON line.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import json
import re
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from measure import CASES, Running, Worker, load_config, machine, start, table, timed, turns

HERE = Path(__file__).resolve().parent
# What is switched off to see what it costs; a part that the game does not have is left out.
PARTS = {
    "spectral norm": ("dis.spectral_norm", False),
    "averaging (EMA)": ("ema.half_life_kimg", 0.0),
    "gradient penalty": ("penalty.name", "none"),
    "path lengths": ("loss.path_length", 0.0),
    "minibatch stddev": ("dis.minibatch_stddev", False),
}


def worker(game: str, changes: list[tuple[str, str]]) -> Worker:
    """ganjax's step of a game in a process of its own."""
    options = [f"--set={key}={value}" for key, value in changes]
    return Worker([sys.executable, str(HERE / "train_speed.py"), "--worker", game, *options])


def shares(game: str, repeats: int, steps: int) -> dict[str, dict[str, float]]:
    """Part → its share of the whole step: 1 − (time without it) / (time with it), median and range over rounds."""
    from ganjax.config import flatten

    flat = flatten(load_config(game))
    present = {name: change for name, change in PARTS.items() if flat[change[0]] != change[1]}
    workers = {"whole": worker(game, [])}
    workers |= {name: worker(game, [(key, str(value))]) for name, (key, value) in present.items()}
    calls = {name: (lambda each=each: each.ask(steps=steps)) for name, each in workers.items()}
    turns(calls, 1)
    rounds, _ = turns(calls, repeats, clean=0.15, most=repeats + 3)
    for each in workers.values():
        each.close()
    whole = [row["seconds"] for row in rounds["whole"]]
    found = {}
    for name in present:
        values = [1 - row["seconds"] / full for row, full in zip(rounds[name], whole, strict=True)]
        found[name] = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return found


def kind_of(name: str, scope: str) -> str:
    """The kind of an operation from its name in the trace and its scope in the program."""
    if "psum" in name or "all-reduce" in name:
        return "exchange"
    if re.match(r"(ynn|conv|dot|convolution|cublas|cudnn|custom-call)", name):
        gradient = "transpose(" in scope
        return "products, backward" if gradient else "products, forward"
    return "transposes, copies" if re.match(r"(transpose|copy)", name) else "everything else"


def traced(running: Running, steps: int) -> dict[str, Any]:
    """Seconds a step of all devices together, by (network, kind), from one trace."""
    import jax

    program = jax.jit(running.update).lower(running.state, running.data).compile()
    scopes = dict(re.findall(r"%(\S+) = .*?op_name=\"([^\"]*)\"", program.as_text()))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            seconds = timed(lambda: running.advance(steps))
        path = next(Path(folder).rglob("*.trace.json.gz"))
        with gzip.open(path) as file:
            events = json.load(file)["traceEvents"]
    sums: dict[tuple[str, str], float] = collections.Counter()
    for event in events:
        name = event.get("args", {}).get("hlo_op")
        if event.get("ph") != "X" or not name:
            continue
        scope = scopes.get(name, "")
        net = "D" if "Discriminator" in scope else "G" if "Generator" in scope else "neither"
        sums[net, kind_of(name, scope)] += event["dur"] / 1e6 / steps
    analysis = program.cost_analysis() or {}
    return {
        "seconds": seconds / steps,
        "operations": {f"{net}: {kind}": value for (net, kind), value in sums.items()},
        "flops_a_device": float(analysis.get("flops", 0.0)) / running.per_call,
        "devices": len(running.devices),
    }


def product_rate() -> float:
    """FLOP a second of a product of 2048² matrices, all cores on one device: the best of nine."""
    import jax
    import jax.numpy as jnp

    a = jnp.ones((2048, 2048), jnp.float32)
    multiply = jax.jit(lambda a: a @ a)
    multiply(a).block_until_ready()
    return 2 * 2048**3 / min(timed(lambda: multiply(a).block_until_ready()) for _ in range(9))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--game", default="sngan32", choices=tuple(CASES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=0, help="of a turn; 0 takes the game's own")
    parser.add_argument("--no-parts", action="store_true", help="only the trace")
    options = parser.parse_args()
    steps = options.steps or CASES[options.game].steps
    parts = {} if options.no_parts else shares(options.game, options.repeats, steps)
    running = start(load_config(options.game), CASES[options.game].resolution)
    trace = traced(running, steps)
    trace["product_rate"] = product_rate()
    rows = [[name, f"{s['median']:.1%}", f"{s['min']:.1%} to {s['max']:.1%}"] for name, s in parts.items()]
    if rows:
        print(table(rows, ["part", "share of the step", "range"]), end="\n\n")
    total = sum(trace["operations"].values())
    ordered = sorted(trace["operations"].items(), key=lambda item: -item[1])
    print(
        table([[n, f"{1000 * v:.1f}", f"{v / total:.1%}"] for n, v in ordered], ["operation", "ms", "share"])
    )
    print(
        f"\n{1000 * trace['seconds']:.1f} ms a step; a product runs at {trace['product_rate'] / 1e9:.0f} GFLOP/s"
    )
    print(json.dumps({"machine": machine(), "game": options.game, "parts": parts, **trace}))


if __name__ == "__main__":
    main()
