"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import argparse
import re

from ganjax.runtime import processes
from ganjax.runtime.errors import UserError

MOST_SEEDS = 1_000_000


def add_processes(command: argparse.ArgumentParser) -> None:
    """Adds the options of a command that several processes run together."""
    group = command.add_argument_group(
        "several processes", "found by themselves under SLURM, Open MPI and on TPU pods"
    )
    group.add_argument(
        "--coordinator", metavar="HOST:PORT", help="of process 0, or `auto` (default: GANJAX_COORDINATOR)"
    )
    group.add_argument(
        "--num-processes", type=int, metavar="N", help="in all (default: GANJAX_NUM_PROCESSES)"
    )
    group.add_argument(
        "--process-id", type=int, metavar="I", help="of this one, from 0 (default: GANJAX_PROCESS_ID)"
    )


def join(arguments: argparse.Namespace, *, stops: bool = False) -> None:
    """Meets the other processes of this command, if there are any; for `stops` see `processes.join`."""
    found = processes.detect(arguments.coordinator, arguments.num_processes, arguments.process_id)
    processes.join(found, stops=stops)


def seed_list(text: str) -> tuple[int, ...]:
    """Reads `"0,3"` as (0, 3) and `"5-7,9"` as (5, 6, 7, 9)."""
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*([0-9]+)(?:-([0-9]+))?\s*", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if last < first:
            raise UserError(f"--seeds takes numbers and ranges such as 0,3,8-15, and got {text!r}.")
        if len(seeds) + last - first >= MOST_SEEDS:
            raise UserError(f"--seeds takes at most {MOST_SEEDS:,} seeds, and got more: {text!r}.")
        seeds += range(first, last + 1)
    return tuple(seeds)


def class_list(text: str) -> tuple[str, ...]:
    """Reads `"cat,3"` as the names or numbers ("cat", "3")."""
    return tuple(part.strip() for part in text.split(","))
