"""What the speed benchmarks share: the four games, ganjax's compiled step of one, turns, spread, tables.

A game is a recipe of `configs/` with the changes named here, on random images: what is measured does not depend on
what the images show.
"""

from __future__ import annotations

import functools
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CYCLE = 48
IMAGES = 2048  # random ones that a game draws its batches from


@dataclass(frozen=True)
class Case:
    """A game of the tables: the recipe, its changes, pixels a side, and steps of a turn (a whole lazy cycle)."""

    recipe: str
    changes: dict[str, bool | int | float | str]
    resolution: int
    steps: int


CASES = {
    "dcgan32": Case("own_images.py:resolution=32", {"model.msg": "none", "augment.policy": ""}, 32, 20),
    "msg_dcgan64": Case("own_images.py:resolution=64", {"augment.policy": ""}, 64, 16),
    "sngan32": Case("sngan.py", {"gen.width": 64, "dis.width": 64}, 32, 2),
    "stylegan2_64": Case(
        "stylegan2.py:resolution=64",
        {
            "gen.width": 32,
            "dis.width": 32,
            "gen.max_width": 128,
            "dis.max_width": 128,
            "gen.style_dim": 128,
            "model.latent_dim": 128,
            "train.batch_size": 32,
        },
        64,
        16,
    ),
    # As wide as published, for accelerators; batches that one of them holds.
    "stylegan2_256": Case(
        "stylegan2.py:resolution=256", {"train.batch_size": 32, "train.steps_per_call": 16}, 256, 16
    ),
    "biggan128": Case(
        "biggan.py:resolution=128", {"train.batch_size": 64, "train.steps_per_call": 4}, 128, 4
    ),
    "sngan32_full": Case("sngan.py", {}, 32, 16),
}
SMALL = ("dcgan32", "msg_dcgan64", "sngan32", "stylegan2_64")  # what two cores do in seconds


def load_config(name: str, changes: Sequence[tuple[str, str]] = ()) -> Any:
    """The checked config of a game; `changes` come last. Flips and schedules are off, since no twin has them."""
    from ganjax.config import recipe as configs

    case = CASES[name]
    fixed = {"data.flip": False, "gen.optimizer.schedule": "constant", "dis.optimizer.schedule": "constant"}
    # Calls of several steps, on accelerators, hold whole lazy cycles.
    fixed |= {"train.steps": CYCLE * 1000, "log.every_steps": CYCLE}
    fixed |= {key: CYCLE * 1000 for key in ("log.sample_every_steps", "checkpoint.every_steps")}
    options = [(key, str(value)) for key, value in {**fixed, **case.changes}.items()]
    return configs.resolve(str(ROOT / "configs" / case.recipe), [*options, *changes])


def random_images(side: int) -> Any:
    """[IMAGES, side, side, 3] uint8."""
    import numpy as np

    return np.random.default_rng(0).integers(0, 256, (IMAGES, side, side, 3), dtype=np.uint8)


def random_dataset(side: int, classes: int = 0) -> Any:
    """A `Dataset` of random images, and labels where there are classes."""
    import numpy as np

    from ganjax.data.dataset import Dataset

    labels = np.arange(IMAGES, dtype=np.int32) % classes if classes else None
    return Dataset("random", random_images(side), labels, classes)


@dataclass
class Running:
    """A compiled game: its state, and the call that makes `per_call` steps."""

    devices: Sequence[Any]
    update: Callable[[Any, Any], tuple[Any, Any]]
    data: Any
    state: Any
    per_call: int

    def advance(self, steps: int) -> None:
        """So many steps (whole calls), two calls in flight as in `ganjax train`, and waits for them."""
        import jax

        pending: list[Any] = []
        for _ in range(steps // self.per_call):
            self.state, metrics = self.update(self.state, self.data)
            pending.append(metrics["loss/gen"])
            if len(pending) > 2:
                pending.pop(0).block_until_ready()
        jax.block_until_ready((self.state, metrics))


def start(config: Any, side: int) -> Running:
    """ganjax's own step of `config` on random images, as `ganjax train` makes it: devices, mapping, donation."""
    from ganjax.run.clock import steps_per_call
    from ganjax.run.setup import choose_devices, scans
    from ganjax.training import parallel
    from ganjax.training.build import build

    devices = choose_devices(config)
    dataset = random_dataset(side, 10 if config.model.conditional else 0)
    parts = build(config, dataset)
    scan = scans(config, devices[0])
    per_call = steps_per_call(config, 0, scan)
    update = parallel.make_update(
        parts.gan,
        parts.make_batch,
        devices,
        batch_size=config.train.batch_size,
        mode=config.parallel.mode,
        steps=per_call,
        scan=scan,
    )
    data = parallel.replicate((dataset.images, dataset.labels), devices)
    state = parallel.replicate(parts.init(), devices)
    running = Running(devices, update, data, state, per_call)
    running.advance(per_call)  # compiles
    return running


def whole_calls(steps: int, per_call: int) -> int:
    """The least number of steps from `steps` on that whole calls make."""
    return -(-steps // per_call) * per_call


def busy_elsewhere() -> float:
    """Processor seconds so far of everything on this machine (all cores; Linux), 0 where that is not told."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return 0.0
    idle = int(fields[3]) + int(fields[4])
    return (sum(map(int, fields[:8])) - idle) / os.sysconf("SC_CLK_TCK")


def timed(call: Callable[[], Any]) -> float:
    """Seconds of the clock."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


class Worker:
    """A child process that makes steps when told: one line of JSON each way; the turns can so alternate."""

    def __init__(
        self,
        command: Sequence[str],
        env: dict[str, str] | None = None,
        *,
        wait: bool = True,
        name: str = "the worker",
    ) -> None:
        """`wait`: until it is ready, so that no two compile at once."""
        self.name = name
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
        )
        if wait:
            _ = self.ready

    @functools.cached_property
    def ready(self) -> dict[str, Any]:
        """What it said of itself at its start."""
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """The next JSON object that the child prints; other lines pass by."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"{self.name} ended with code {self.process.wait()}: {self.process.args!r}")

    def ask(self, *, limit: float = 600.0, **request: Any) -> dict[str, Any]:
        """The child's answer to one request; a child that takes more than `limit` seconds is ended."""
        assert self.process.stdin is not None
        timer = threading.Timer(limit, self.give_up)
        timer.start()
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            return self.answer()
        except BrokenPipeError:
            raise RuntimeError(f"{self.name} had ended: {self.process.args!r}") from None
        finally:
            timer.cancel()

    def give_up(self) -> None:
        """Ends a child that does not answer; what waits for it gets a `RuntimeError`."""
        self.process.kill()

    def close(self) -> None:
        """Ends the child."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


def serve(advance: Callable[[int], None], **about: Any) -> None:
    """The child's side: says what it is, then makes steps, timed, until its input ends."""
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        others = busy_elsewhere()
        own = time.process_time()
        seconds = timed(lambda: advance(request["steps"]))  # noqa: B023
        own = time.process_time() - own
        elsewhere = max(0.0, busy_elsewhere() - others - own) / seconds
        answer = {"seconds": seconds, "processor": own, "elsewhere": elsewhere, "peak_mib": peak_mib()}
        print(json.dumps(answer), flush=True)


def peak_mib() -> float:
    """The most memory that this process has held, in MiB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def turns(
    contestants: dict[str, Callable[[], Any]], repeats: int, *, clean: float = math.inf, most: int = 40
) -> tuple[dict[str, list[Any]], int]:
    """What each call gives, one after another in turn, so that noise meets all alike; and the rounds thrown away.

    A round in which any answer's `elsewhere` is above `clean` cores is made again, in at most `most` rounds in all; are
    there not enough, the calmest ones count.
    """
    rounds: list[dict[str, Any]] = []
    noise: list[float] = []
    while len(rounds) < most and sum(n <= clean for n in noise) < repeats:
        rounds.append({name: call() for name, call in contestants.items()})
        noise.append(max((row.get("elsewhere", 0.0) for row in rounds[-1].values()), default=0.0))
    calmest = sorted(sorted(range(len(rounds)), key=noise.__getitem__)[:repeats])
    return {name: [rounds[i][name] for i in calmest] for name in contestants}, len(rounds) - len(calmest)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    model = platform.processor()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def table(rows: Sequence[Sequence[Any]], head: Sequence[str]) -> str:
    """Columns set by their widest cell."""
    cells = [[str(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )
