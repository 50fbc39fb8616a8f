"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import argparse

from ganjax.runtime import processes


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
