"""Seconds from a command to its first sign of life, its first step, its first picture and its first log line.

    python benchmarks/startup.py --checkouts before=../old after=. --runs=3

Each run is a process of its own in an empty workdir: cold with empty caches of compiled programs, filled right after.
Checkouts take turns. The first step is the end of the compilation where the command says so, else the first log line.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

GAMES = {
    "quickstart": ["--config=configs/quickstart.py"],
    "own pictures 64": ["--config=configs/own_images.py:resolution=64", "--config.data.path={data}"],
    "stylegan2 small": ["--config=configs/stylegan2.py:small"],
}


def watch(checkout: Path, arguments: list[str], cache: Path, limit: float) -> dict[str, float | None]:
    """Starts a run, and returns the seconds of its first events; it is stopped after its first log line."""
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder) / "run"
        environment = {
            **os.environ,
            "PYTHONPATH": str(checkout.resolve()),
            "XDG_CACHE_HOME": str(cache),
            "PYTHONUNBUFFERED": "1",
        }
        command = [sys.executable, "-m", "ganjax", "train", *arguments, f"--workdir={workdir}"]
        start = time.monotonic()
        child = subprocess.Popen(
            command, cwd=checkout, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert child.stdout is not None
        os.set_blocking(child.stdout.fileno(), False)
        seen: dict[str, float | None] = dict.fromkeys(("sign", "step", "picture", "log line"))
        text = ""
        while child.poll() is None and time.monotonic() - start < limit and seen["log line"] is None:
            now = time.monotonic() - start
            text += (child.stdout.read() or b"").decode()
            if text and seen["sign"] is None:
                seen["sign"] = now
            compiled = text.partition("Compiling the training step")[2]
            if seen["step"] is None and ("s\n" in compiled or "\nstep " in f"\n{text}"):
                seen["step"] = now
            if seen["picture"] is None and any(workdir.glob("samples/step_*.png")):
                seen["picture"] = now
            if "\nstep " in f"\n{text}":
                seen["log line"] = now
            time.sleep(0.02)
        child.send_signal(signal.SIGTERM)
        child.communicate()
        return seen


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkouts", nargs="+", default=["here=."], metavar="NAME=DIR")
    parser.add_argument("--games", nargs="+", default=["quickstart"], choices=GAMES)
    parser.add_argument("--data", default="data/mine", help="prepared pictures of 64 pixels")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for a run")
    options = parser.parse_args()
    checkouts = {name: Path(folder) for name, _, folder in (x.partition("=") for x in options.checkouts)}
    found: dict[tuple[str, str, str], list[dict[str, float | None]]] = {}
    for _ in range(options.runs):
        for game in options.games:
            arguments = [part.format(data=Path(options.data).resolve()) for part in GAMES[game]]
            for name, checkout in checkouts.items():
                with tempfile.TemporaryDirectory() as cache:
                    for state in ("cold", "filled"):
                        seen = watch(checkout, arguments, Path(cache), options.limit)
                        found.setdefault((game, name, state), []).append(seen)
                        row: dict[str, Any] = {"game": game, "checkout": name, "caches": state, **seen}
                        print(json.dumps(row), flush=True)
    for (game, name, state), rows in found.items():
        medians = {
            event: statistics.median(times) if (times := [r[event] for r in rows if r[event]]) else None
            for event in rows[0]
        }
        shown = ", ".join(f"{event} {'–' if s is None else f'{s:.1f} s'}" for event, s in medians.items())
        print(f"{game}, {name}, {state}: {shown}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
