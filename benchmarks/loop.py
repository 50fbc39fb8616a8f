"""How busy the training loop keeps the device: its step time against that of the bare compiled step.

    python benchmarks/loop.py --config=configs/quickstart.py --steps=200 --repeats=5

Both run the same compiled call in the same process, in turn. The loop is the one of `ganjax train`, with log
lines at its usual interval and without checkpoints or grids in between. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from ganjax.config import recipe as configs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/quickstart.py")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--log-every", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    total = arguments.steps * (arguments.repeats + 1)
    options = {
        "train.steps": total,
        "log.every_steps": arguments.log_every,
        "log.sample_every_steps": 10 * total,
        "checkpoint.every_steps": 10 * total,
    }
    config = configs.resolve(arguments.config, [(key, str(value)) for key, value in options.items()])
    from ganjax.run.clock import steps_per_call
    from ganjax.run.loop import IN_FLIGHT, Loop
    from ganjax.run.setup import prepare
    from ganjax.runtime.checkpoint import Checkpointer
    from ganjax.runtime.logs import RunWriter
    from ganjax.runtime.signals import StopSignals
    from ganjax.training import parallel

    setup = prepare(config)
    calls = steps_per_call(config, 0, setup.scan)
    bare, loops = [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        Checkpointer(Path(folder) / "checkpoints", keep=1) as checkpoints,
    ):
        loop = Loop(config, setup, Path(folder), checkpoints, StopSignals())
        with RunWriter(folder, total_steps=total, start_step=0) as writer:
            update, data = loop.update, loop.feed.data
            state, _ = update(parallel.replicate(setup.build.init(), setup.devices), data)  # compiles
            for i in range(arguments.repeats):
                start = time.perf_counter()
                pending = []
                for _ in range(arguments.steps // calls):
                    state, metrics = update(state, data)
                    pending.append(metrics["loss/gen"])
                    if len(pending) > IN_FLIGHT:  # unbounded, collectives can block all of XLA's threads
                        pending[-1 - IN_FLIGHT].block_until_ready()
                metrics["loss/gen"].block_until_ready()
                bare.append((time.perf_counter() - start) / arguments.steps)
                start = time.perf_counter()
                loop.advance(writer, until=(i + 1) * arguments.steps)
                loop.state.step.block_until_ready()
                loops.append((time.perf_counter() - start) / arguments.steps)
    ratios = [b / a for a, b in zip(bare, loops, strict=True)]
    row = {
        "config": arguments.config,
        "devices": len(setup.devices),
        "bare_ms": 1000 * statistics.median(bare),
        "loop_ms": 1000 * statistics.median(loops),
        "ratio": statistics.median(ratios),
        "ratio_spread": [min(ratios), max(ratios)],
    }
    print(
        f"bare step {row['bare_ms']:.2f} ms, in the loop {row['loop_ms']:.2f} ms, median ratio {row['ratio']:.3f}"
    )
    print(json.dumps(row))


if __name__ == "__main__":
    main()
