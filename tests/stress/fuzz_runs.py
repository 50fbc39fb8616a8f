"""Does any damaged file of a run's folder end in a traceback? Bytes and JSON values changed at random.

    python tests/stress/fuzz_runs.py --count=500 --seed=0

A run is made once, with everything a run may leave: evaluations, best and healthy checkpoints, a remedy. Each attempt
copies it, damages one file, and gives one command in this process: train (to its end, or further), doctor, report,
sample or evaluate. It has to end with 0, 2 or 3, a message where it is not 0, within a minute and a gigabyte. Prints
the counts of each command and every other ending; the exit status is 1 if there was one.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import json
import logging
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz_inputs import damage

STEPS, MOST_SECONDS, MOST_BYTES = 40, 60.0, 1 << 30
OPTIONS = {
    "gen.width": 4,
    "gen.depth": 1,
    "dis.width": 4,
    "dis.depth": 1,
    "train.batch_size": 16,
    "train.steps": STEPS,
    "parallel.devices": 1,
    "checkpoint.every_steps": 10,
    "log.every_steps": 5,
    "log.sample_every_steps": 20,
    "log.samples": 4,
    "monitor.samples": 32,
    "monitor.every_steps": 5,
    "monitor.action": "rollback_lower_lr",
    "monitor.max_actions": 1,
    "eval.every_kimg": 0.3,
    "eval.samples": 40,
    "eval.keep_best": 1,
}
DEEP: list[Any] = []
for _ in range(500):
    DEEP = [DEEP]
NONSENSE: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 0.5, 2**31, 2**63, 10**400, float("nan"), float("inf"), -1e308),
    *("", "x", "\ud800", "\x1b[31m", "=1+1", "../..", "é" * 300, [], {}, [1, "a", None], {"step": -5}, DEEP),
)


def json_damage(content: bytes, rng: random.Random) -> bytes:
    """The JSON, or one line of a JSONL, with a value or a name replaced, removed or added somewhere."""
    lines = content.decode().splitlines() if content.count(b"\n{") else [content.decode()]
    at = rng.randrange(len(lines))
    value = json.loads(lines[at])
    holder, key, node = None, None, value
    while isinstance(node, dict | list) and node and (holder is None or rng.random() < 0.8):
        holder = node
        key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
        node = node[key]
    other = rng.choice(NONSENSE)
    if holder is None or rng.random() < 0.05:
        value = other
    elif rng.random() < 0.2:
        del holder[key]
    elif isinstance(holder, dict) and rng.random() < 0.2:
        holder[str(other)[:50]] = holder.pop(key)
    else:
        holder[key] = other
    text = json.dumps(value)
    if rng.random() < 0.05:
        text = text.replace("null", "[" * 200_000)
    lines[at] = text
    return ("\n".join(lines) + "\n").encode()


def break_file(path: Path, rng: random.Random) -> str:
    """Damages the file in some way, and returns which."""
    content, kind = path.read_bytes(), rng.random()
    if kind < 0.05:
        path.unlink()
        return "missing"
    if kind < 0.1:
        path.unlink()
        path.mkdir()
        return "a folder"
    if path.suffix in (".json", ".jsonl") and kind < 0.7:
        path.write_bytes(json_damage(content, rng))
        return "json"
    path.write_bytes(damage(content or b"\0", rng))
    return "bytes"


def arguments_of(folder: Path, *extra: str, **options: Any) -> list[str]:
    given = [f"--config.{key}={value}" for key, value in {**OPTIONS, **options}.items()]
    return ["train", "--config=ring", f"--workdir={folder}", *given, *extra]


def make_run(folder: Path) -> None:
    """A run with every kind of file; a remedy is made up where it needed none."""
    from ganjax.cli import main as cli
    from ganjax.run.recovery import Remedy

    with contextlib.redirect_stdout(io.StringIO()):
        assert cli.main(arguments_of(folder)) == 0
        assert cli.main(["evaluate", f"--workdir={folder}", "--metrics=fid,modes", "--samples=40"]) == 0
    if (folder / "remedies.json").exists():
        return
    remedy = Remedy(1, "restart_lower_lr", 20, "mode collapse", "made up", 0, 0.25, 0.25, 1_000_003)
    (folder / "remedies.json").write_text(json.dumps([vars(remedy)]))
    (folder / "attempts" / "1").mkdir(parents=True)


def commands(folder: Path, rng: random.Random) -> list[str]:
    """One command on the run in `folder`."""
    name = rng.choice(
        ("train", "train further", "doctor", "doctor --json", "report", "compare", "sample", "evaluate")
    )
    at = f"--workdir={folder}"
    earlier = sorted((folder / "evaluations").glob("*.json"))
    made: dict[str, Callable[[], list[str]]] = {
        "train": lambda: arguments_of(folder),
        "train further": lambda: arguments_of(folder, **{"train.steps": STEPS + 10}),
        "doctor": lambda: ["doctor", at],
        "doctor --json": lambda: ["doctor", at, "--json"],
        "report": lambda: ["report", at],
        "compare": lambda: ["report", "--compare", str(folder), str(folder), f"--out={folder}/compare.html"],
        "sample": lambda: ["sample", at, "--n=4", f"--out={folder}/out.png"],
        "evaluate": lambda: [
            *("evaluate", at, "--metrics=fid,modes", "--samples=40"),
            *(f"--compare={path}" for path in earlier[-1:]),
        ],
    }
    return made[name]()


def attempt(command: list[str]) -> tuple[int | None, str]:
    """The exit code, None for a traceback, and what was said."""
    from ganjax.cli import main as cli

    told = io.StringIO()
    try:
        with (
            contextlib.redirect_stderr(told),
            contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), "utf-8")),
        ):
            code = cli.main(command)
    except (Exception, SystemExit) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return None, f"{error!r:.300} at {Path(where.filename).name}:{where.lineno}"
    return code, told.getvalue()


def by_kind(files: list[Path]) -> dict[str, list[Path]]:
    """Groups files: those of a checkpoint are many, and each is found by its checksum."""
    kinds: dict[str, list[Path]] = collections.defaultdict(list)
    for path in files:
        kinds[path.parts[0] + path.suffix if len(path.parts) > 1 else path.name].append(path)
    return kinds


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no attempt begins later")
    parser.add_argument("--only", type=int, help="the number of one attempt, to see it again")
    parser.add_argument("--file", default="", help="damage only files whose path has this in it")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    broken, start = 0, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ganjax-fuzz-") as name, contextlib.chdir(name):
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{name}/jax-cache")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        os.environ.setdefault("XDG_CACHE_HOME", f"{name}/cache")
        import jax  # only now: it reads the environment

        whole = Path(name) / "whole"
        make_run(whole)
        files = [path.relative_to(whole) for path in sorted(whole.rglob("*")) if path.is_file()]
        files = [path for path in files if arguments.file in str(path) and path.name != ".lock"]
        kinds = by_kind(files)
        numbers = range(arguments.count) if arguments.only is None else [arguments.only]
        for number in numbers:
            if time.monotonic() - start > arguments.seconds:
                break
            rng = random.Random(f"{arguments.seed}/{number}")
            folder = Path(shutil.copytree(whole, Path(name) / "run"))
            path = rng.choice(kinds[rng.choice(sorted(kinds))])
            command = commands(folder, rng)
            kind = break_file(folder / path, rng)
            begun, before = time.monotonic(), memory()
            code, said = attempt(command)
            seconds, grown = time.monotonic() - begun, memory() - before
            fine = code in (0, 2, 3) and seconds < MOST_SECONDS and grown < MOST_BYTES
            fine = fine and "Traceback" not in said and (code == 0 or "ganjax: " in said)
            counts[command[0]][str(code) if fine else "broken"] += 1
            if not fine or arguments.only is not None:
                facts = {
                    "number": number,
                    "file": str(path),
                    "kind": kind,
                    "command": command[0],
                    "code": code,
                }
                print(
                    json.dumps({**facts, "seconds": round(seconds, 1), "bytes": grown, "said": said[-400:]}),
                    flush=True,
                )
            broken += not fine
            shutil.rmtree(folder)
            jax.clear_caches()  # of programs, which grow with each command
    for command_name, found in sorted(counts.items()):
        print(f"{command_name:10} {dict(found)}")
    print(f"{time.monotonic() - start:.0f} s")
    return 1 if broken else 0


def memory() -> int:
    """The most bytes that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
