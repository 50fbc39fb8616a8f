"""Kills a run with SIGKILL at random moments, starts it again each time, and compares the end with an unbroken run.

    python tests/stress/kill_rounds.py --rounds=20
    python tests/stress/kill_rounds.py --rounds=50 --config=configs/quickstart.py --config.train.steps=300
    python tests/stress/kill_rounds.py --rounds=50 --processes=2

A moment is drawn over the whole life of the process, so some kills fall into imports, compilation, restoring,
saving and logging. With several processes one of them or all, by chance, are killed; those that are left have to end
by themselves within PATIENCE seconds. The parameters, optimiser states and all else that the last checkpoint holds
must agree bit for bit; the log must hold each step once. Exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
TINY = ("gen.width=8", "dis.width=8", "train.batch_size=32", "train.steps=200", "parallel.devices=2")
PEER_TIMEOUT, PATIENCE = 20, 100  # seconds
LEFT = (0, 4, -signal.SIGABRT)  # how a process whose peer died may end: it was done, our way, the way of JAX
OFTEN = ("checkpoint.every_steps=5", "log.every_steps=5", "log.sample_every_steps=50")


class Run:
    """A training run in child processes that write to `workdir`.log, or `workdir`.1.log and so on."""

    def __init__(self, config: str, workdir: Path, overrides: list[str], processes: int) -> None:
        command = [sys.executable, "-m", "ganjax", "train", f"--config={config}", f"--workdir={workdir}"]
        self.children: list[subprocess.Popen[bytes]] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            coordinator = f"127.0.0.1:{free.getsockname()[1]}"
        for i in range(processes):
            several = {
                "GANJAX_COORDINATOR": coordinator,
                "GANJAX_NUM_PROCESSES": str(processes),
                "GANJAX_PROCESS_ID": str(i),
                "GANJAX_PEER_TIMEOUT": str(PEER_TIMEOUT),
            }
            environment = {**os.environ, **(several if processes > 1 else {})}
            with open(f"{workdir}{f'.{i}' if i else ''}.log", "ab") as log:
                self.children.append(
                    subprocess.Popen(
                        [*command, *overrides], cwd=ROOT, env=environment, stdout=log, stderr=log
                    )
                )

    def wait(self, seconds: float | None = None) -> list[int]:
        """The exit codes. Raises `subprocess.TimeoutExpired` if some process still lives after that time."""
        deadline = None if seconds is None else time.monotonic() + seconds
        return [
            child.wait(None if deadline is None else max(deadline - time.monotonic(), 0))
            for child in self.children
        ]

    def wait_for_steps(self, workdir: Path) -> None:
        """Until the log grows, or a process ends."""
        log = workdir / "metrics.jsonl"
        size = log.stat().st_size if log.exists() else 0
        while all(child.poll() is None for child in self.children):
            if (log.stat().st_size if log.exists() else 0) > size:
                return
            time.sleep(0.01)

    def kill(self, draw: random.Random) -> str:
        """Kills one process or all, and waits for the rest; what happened, in words. Raises as `wait`."""
        count = len(self.children)
        chosen = draw.choice([[i] for i in range(count)] + [list(range(count))])
        for i in chosen:
            self.children[i].kill()
        begun = time.monotonic()
        try:
            codes = self.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            for child in self.children:
                child.kill()
            raise
        left = [code for i, code in enumerate(codes) if i not in chosen]
        if wrong := [code for code in left if code not in LEFT]:
            raise RuntimeError(f"processes left alone ended with {wrong}")
        if count == 1:
            return ""
        rest = f", the rest ended after {time.monotonic() - begun:.1f} s with {left}" if left else ""
        return f"killed {chosen}{rest}"


def finish(config: str, workdir: Path, overrides: list[str], processes: int) -> float:
    """Runs to the end; returns the seconds it took."""
    begun = time.monotonic()
    if any(codes := Run(config, workdir, overrides, processes).wait()):
        sys.exit(f"The run ended with exit codes {codes}; see {workdir}.log")
    return time.monotonic() - begun


def newest_step(workdir: Path) -> int:
    """The last committed checkpoint, 0 where there is none."""
    folder = workdir / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return max((int(name) for name in names if name.isdigit()), default=0)


def read_state(workdir: Path) -> dict[str, np.ndarray]:
    """Every array of the newest checkpoint."""
    import jax
    from orbax.checkpoint import v1 as ocp

    tree = ocp.load(workdir / "checkpoints" / str(newest_step(workdir)))
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def read_log(workdir: Path) -> list[dict[str, float]]:
    """The log lines without their times."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]


def kill_rounds(
    config: str,
    workdir: Path,
    overrides: list[str],
    *,
    rounds: int,
    seconds: float,
    draw: random.Random,
    processes: int,
    running: bool,
) -> int:
    """Kills the run `rounds` times, then lets it end; returns how many kills fell on a live process.

    Args:
      seconds: that an unbroken run takes; a moment is drawn from nearly as long.
      running: kill only once the log grows.
    """
    print(f"{'round':>5}  {'alive for':>9}  {'checkpoint before':>17}  {'after':>6}  unfinished")
    killed = 0
    for number in range(1, rounds + 1):
        before = newest_step(workdir)
        run = Run(config, workdir, overrides, processes)
        begun = time.monotonic()
        if running:
            run.wait_for_steps(workdir)
        moment = draw.uniform(0, (0.3 if running else 0.9) * seconds)
        try:
            run.wait(moment)
            print(f"{number:>5}  the run ended before the kill; it is complete")
            break
        except subprocess.TimeoutExpired:
            done = run.kill(draw)
            killed += 1
        folder = workdir / "checkpoints"
        left = sorted(p.name for p in folder.iterdir() if not p.name.isdigit()) if folder.is_dir() else []
        print(
            f"{number:>5}  {time.monotonic() - begun:>8.2f}s  {before:>17}  {newest_step(workdir):>6}  "
            f"{', '.join(left) or '-'}  {done}",
            flush=True,
        )
    finish(config, workdir, overrides, processes)
    return killed


def main() -> int:
    """Runs the comparison as often as it takes to reach the wanted number of kills."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20, help="kills (default: 20)")
    parser.add_argument("--processes", type=int, default=1, help="of the run (default: 1)")
    parser.add_argument(
        "--running", action="store_true", help="only while it steps, for a machine that is slow to start"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument(
        "--config", default="configs/quickstart.py", help="recipe; --config.KEY=VALUE go on to it"
    )
    parser.add_argument("--folder", type=Path, help="where the runs go (default: a temporary folder, kept)")
    arguments, given = parser.parse_known_args()
    # One compilation serves all rounds, so that kills fall on the run and not on the compiler alone.
    folder = (arguments.folder or Path(tempfile.mkdtemp(prefix="ganjax-kill-rounds-"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "jax-cache"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    overrides = [f"--config.{option}" for option in (*TINY, *OFTEN)] + given

    finish(arguments.config, folder / "warm", overrides, arguments.processes)
    seconds = finish(arguments.config, folder / "unbroken", overrides, arguments.processes)
    expected, expected_log = read_state(folder / "unbroken"), read_log(folder / "unbroken")
    print(f"An unbroken run takes {seconds:.1f} s and holds {len(expected)} arrays; runs are in {folder}")
    draw, kills, differing, attempt = random.Random(arguments.seed), 0, 0, 0
    while kills < arguments.rounds:
        attempt += 1
        workdir = folder / f"killed_{attempt}"
        kills += kill_rounds(
            arguments.config,
            workdir,
            overrides,
            rounds=arguments.rounds - kills,
            seconds=seconds,
            draw=draw,
            processes=arguments.processes,
            running=arguments.running,
        )
        found = read_state(workdir)
        wrong = [
            name for name in expected if found.get(name, np.empty(0)).tobytes() != expected[name].tobytes()
        ]
        same_log = read_log(workdir) == expected_log
        differing += bool(wrong) or not same_log or found.keys() != expected.keys()
        print(
            f"run {attempt}: {len(wrong)} of {len(expected)} arrays differ; log {'equal' if same_log else 'DIFFERS'}"
        )
    print(
        f"{kills} kills in {attempt} runs: {'all ends equal' if not differing else f'{differing} ends DIFFER'}"
    )
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
