"""What the monitor costs: seconds a step of the training loop with it and without it, in turn, in one process.

    python benchmarks/monitor.py --config=configs/quickstart.py --steps=200 --repeats=7

Without it there is no fixed batch, no verdict and no ratio of update to weights in the step. The log lines and the
measurements come as often as the recipe says. Prints a line and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from ganjax import config as configs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/quickstart.py")
    parser.add_argument("--steps", type=int, default=200, help="of each turn; a multiple of the log interval")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    total = arguments.steps * (arguments.repeats + 1)
    options = {
        "train.steps": total,
        "log.sample_every_steps": 10 * total,
        "checkpoint.every_steps": 10 * total,
        "log.tensorboard": False,
    }
    config = configs.resolve(arguments.config, [(key, str(value)) for key, value in options.items()])
    import jax.numpy as jnp

    from ganjax import step
    from ganjax.checkpoint import Checkpointer
    from ganjax.setup import prepare
    from ganjax.signals import StopSignals
    from ganjax.training import Loop
    from ganjax.writers import RunWriter

    ratio = step.relative_change

    def loop_in(folder: Path, checkpoints: Checkpointer, *, watched: bool) -> Any:
        """A loop that has compiled its step and its probe."""
        config.monitor.samples = 256 if watched else 0
        step.relative_change = ratio if watched else lambda old, new: jnp.zeros(())
        loop = Loop(config, prepare(config), folder, checkpoints, StopSignals())
        if not watched:
            loop.watch.due = lambda step, last: False  # type: ignore[method-assign]
        with RunWriter(folder / "first", total_steps=total, start_step=0) as writer:
            loop.advance(writer, until=arguments.steps)
        return loop

    seconds: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            Checkpointer(folder / "checkpoints", keep=1) as checkpoints,
            RunWriter(folder, total_steps=total, start_step=0) as writer,
        ):
            loops = {watched: loop_in(folder, checkpoints, watched=watched) for watched in (True, False)}
            for i in range(arguments.repeats):
                for watched in (True, False) if i % 2 else (False, True):
                    loop = loops[watched]
                    start = time.perf_counter()
                    loop.advance(writer, until=loop.step + arguments.steps)
                    loop.state.step.block_until_ready()
                    seconds[watched].append((time.perf_counter() - start) / arguments.steps)
    ratios = [a / b for a, b in zip(seconds[True], seconds[False], strict=True)]
    row = {
        "config": arguments.config,
        "log_every": config.log.every_steps,
        "with_ms": 1000 * statistics.median(seconds[True]),
        "without_ms": 1000 * statistics.median(seconds[False]),
        "ratio": statistics.median(ratios),
        "ratio_spread": [min(ratios), max(ratios)],
    }
    times = f"{row['without_ms']:.2f} ms a step without the monitor, {row['with_ms']:.2f} with it"
    print(f"{times}, median ratio {row['ratio']:.3f}")
    print(json.dumps(row))


if __name__ == "__main__":
    main()
