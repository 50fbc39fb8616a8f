"""What the monitor costs: seconds a step of the training loop with it and without it, in turn, in one process.

    python benchmarks/monitor.py --config=configs/quickstart.py --steps=200 --repeats=7

Without it there is no fixed batch, no verdict and no ratio of update to weights. The log lines and the
measurements come as often as the recipe says. Seconds of the clock and of the processor (all cores together), and of
one measurement. The compiled step is the same with the monitor and without, so what it costs is also what is spent in
its calls: their share of the loop's time is the steadier number where other programs run. Prints a line and one JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from ganjax.config import recipe as configs


class Unwatched:
    """Stands for the monitor, and does nothing."""

    verdicts: tuple[()] = ()
    bad: tuple[()] = ()

    def __call__(self, *args: Any, **options: Any) -> dict[str, Any]:
        return {}


class Timed:
    """The monitor, with the time spent in it; what it waits for is waited for here."""

    def __init__(self, watch: Any) -> None:
        self.watch, self.spent = watch, np.zeros(2)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.watch, name)

    def __call__(self, *args: Any, **options: Any) -> dict[str, Any]:
        start = now()
        result = self.watch(*args, **options)
        self.spent += now() - start
        return result

    def ratio(self, state: Any, steps: int) -> None:
        """Adds what one ratio of update to weights takes."""
        from ganjax.training.update_ratio import movement, weights

        for _ in range(2):  # the first may compile
            start = now()
            before = weights(state)
            for value in movement(before, state, steps=steps).values():
                value.block_until_ready()
            once = now() - start
        self.spent += once


def now() -> np.ndarray:
    """[2]: seconds of the clock, and of the processor."""
    return np.array([time.perf_counter(), time.process_time()])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/quickstart.py")
    parser.add_argument("--steps", type=int, default=200, help="of each turn; a multiple of the log interval")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="further options of the config"
    )
    arguments = parser.parse_args()
    total = arguments.steps * (arguments.repeats + 1)
    options = {
        "train.steps": total,
        "log.sample_every_steps": 10 * total,
        "checkpoint.every_steps": 10 * total,
        "log.tensorboard": False,
        "log.report": False,
    }
    changes = [(key, str(value)) for key, value in options.items()]
    config = configs.resolve(arguments.config, [*changes, *(tuple(x.split("=", 1)) for x in arguments.set)])
    from ganjax.run import loop as running
    from ganjax.run.loop import Loop
    from ganjax.run.setup import prepare
    from ganjax.runtime.checkpoint import Checkpointer
    from ganjax.runtime.logs import RunWriter
    from ganjax.runtime.signals import StopSignals

    samples, take_weights = config.monitor.samples, running.weights

    def loop_in(folder: Path, checkpoints: Checkpointer, *, watched: bool) -> Any:
        """A loop that has compiled its step and its probe."""
        config.monitor.samples = samples if watched else 0
        loop = Loop(config, prepare(config), folder, checkpoints, StopSignals())
        if not watched:
            loop.monitor.watch = Unwatched()  # type: ignore[assignment]
        with RunWriter(folder / "first", total_steps=total, start_step=0) as writer:
            loop.advance(writer, until=arguments.steps)
        if watched:
            loop.monitor.watch = Timed(loop.monitor.watch)  # type: ignore[assignment]
        return loop

    seconds: dict[bool, list[np.ndarray]] = {True: [], False: []}
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
                    running.weights = take_weights if watched else lambda state: None  # no ratio without
                    start = now()
                    loop.advance(writer, until=loop.step + arguments.steps)
                    loop.state.step.block_until_ready()
                    seconds[watched].append(1000 * (now() - start) / arguments.steps)
            watched_loop, probes = loops[True], []
            timed: Any = watched_loop.monitor.watch
            for _ in range(arguments.repeats * arguments.steps // config.log.every_steps):
                timed.ratio(watched_loop.state, watched_loop.calls)
            share = timed.spent / (np.array(seconds[True]).sum(axis=0) * arguments.steps / 1000)
            for _ in range(5):
                start = now()
                watched_loop.monitor.watch.probe(watched_loop.state)
                probes.append(1000 * (now() - start))
    with_, without = np.array(seconds[True]), np.array(seconds[False])  # [repeats, 2] in milliseconds a step
    ratios = with_ / without
    row = {
        "config": arguments.config,
        "log_every": config.log.every_steps,
        "probe_ms": [round(float(x), 1) for x in np.median(probes, axis=0)],
        "share": round(float(share[0]), 4),
        "share_processor": round(float(share[1]), 4),
        "with_ms": round(float(np.median(with_[:, 0])), 3),
        "without_ms": round(float(np.median(without[:, 0])), 3),
        "ratio": round(float(np.median(ratios[:, 0])), 4),
        "ratio_spread": [round(float(f(ratios[:, 0])), 4) for f in (min, max)],
        "ratio_processor": round(float(np.median(ratios[:, 1])), 4),
        "ratio_processor_spread": [round(float(f(ratios[:, 1])), 4) for f in (min, max)],
    }
    times = f"{row['without_ms']:.2f} ms a step without the monitor, {row['with_ms']:.2f} with it"
    ratio = f"median ratio {row['ratio']:.3f}, of processor time {row['ratio_processor']:.3f}"
    print(f"{times}, {ratio}; {row['share']:.1%} of the loop is spent in it")
    print(json.dumps(row))


if __name__ == "__main__":
    main()
