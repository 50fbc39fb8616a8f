"""How long from the command to the first step? `ganjax train` with empty and with filled caches of what it compiles.

    python benchmarks/compile.py --config=configs/quickstart.py --repeats=3

The clock runs from the start of the process to the first line of `metrics.jsonl`, with a log line at every step:
imports, data, initialisation, compilation (of XLA's programs and, on CPU, of the native convolutions) and one step.
Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import ROOT, machine, spread, table


def first_step(recipe: str, cache: Path, folder: Path) -> float:
    """Seconds until the run in `folder` has logged its first step; the run is ended then."""
    log = folder / "metrics.jsonl"
    command = [sys.executable, "-m", "ganjax", "train", f"--config={recipe}", f"--workdir={folder}"]
    begin = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--config.log.every_steps=1"],
        cwd=ROOT,
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (log.exists() and log.stat().st_size):
        if process.poll() is not None:
            raise RuntimeError(f"{command} ended with code {process.returncode} before its first step")
        time.sleep(0.02)
    seconds = time.perf_counter() - begin
    process.terminate()
    process.wait(timeout=120)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/quickstart.py")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {"empty": [], "filled": []}
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as name:
            for state in ("empty", "filled"):
                seconds[state].append(first_step(options.config, Path(name, "cache"), Path(name, state)))
    found = {state: spread(values) for state, values in seconds.items()}
    rows = [[s, f"{v['median']:.1f}", f"{v['min']:.1f}-{v['max']:.1f}"] for s, v in found.items()]
    print(table(rows, ["cache", "seconds", "range"]))
    print(json.dumps({"machine": machine(), "config": options.config, **found}))


if __name__ == "__main__":
    main()
