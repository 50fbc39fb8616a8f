"""Makes several processes one run: they find each other, agree, write only once, and end together.

Process 0 is the main one: it alone reads and writes the workdir and prints. The others compute their share and get
what it found. With one process every function here does nothing, or the obvious.

When a process fails, it tells the others, and all end with its exit code. When one dies without a word (killed, or
its machine is gone), the others end with exit code 4: at once where the network says so, else when no sign of life
has come for `GANJAX_PEER_TIMEOUT` seconds (default: 100).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np

from ganjax.runtime.errors import PeerError, UserError
from ganjax.runtime.meeting import introduce

Tree = Any
AUTO = "auto"
VARIABLES = ("GANJAX_COORDINATOR", "GANJAX_NUM_PROCESSES", "GANJAX_PROCESS_ID")
FAILED, REASON = "ganjax/failed", "ganjax/reason"
GRACE = 2.0  # seconds that the main process, through which all hear of each other, stays after a failure
FOREVER = 30 * 24 * 3600 * 1000  # milliseconds; who is dead is known long before


@dataclass(frozen=True)
class Cluster:
    """Description of how this process finds the others.

    Attributes:
      coordinator: HOST:PORT of process 0; None where JAX finds it by itself.
      count: the number of processes; None where JAX finds it.
      index: the index of this process, counted from 0; None where JAX finds it.
    """

    coordinator: str | None = None
    count: int | None = None
    index: int | None = None


_counter = itertools.count()
_cluster: Cluster | None = None  # of a run that has been joined: count and index are known
_leaving = threading.Event()


def detect(
    coordinator: str | None = None,
    count: int | None = None,
    index: int | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Cluster | None:
    """Returns what the command line, then the environment, say of other processes; None where there are none.

    Args:
      coordinator, count, index: the flags `--coordinator` (`auto`: as JAX finds it), `--num-processes` and
        `--process-id`; `GANJAX_COORDINATOR`, `GANJAX_NUM_PROCESSES` and `GANJAX_PROCESS_ID` stand in for them.
      environment: the environment variables. Those of SLURM, Open MPI and TPU pods count where they set up more than
        one process.

    Raises:
      UserError: some of the three are missing, or make no sense.
    """
    given = coordinator or environment.get(VARIABLES[0]) or None
    count = _number("--num-processes", count, environment.get(VARIABLES[1]))
    index = _number("--process-id", index, environment.get(VARIABLES[2]))
    if given == AUTO:
        return Cluster()
    found = _launcher(environment)
    if given is None and count is None and index is None:
        return found
    if found is not None:  # a launcher counts; the coordinator may be named
        count = found.count if count is None else count
        index = found.index if index is None else index
    if given is None or count is None or index is None:
        raise UserError(
            "several processes need --coordinator=HOST:PORT, --num-processes=N and --process-id=I (or "
            f"{', '.join(VARIABLES)}), and got coordinator={given}, num-processes={count}, process-id={index}. "
            "--coordinator=auto leaves all three to JAX."
        )
    host, _, port = given.rpartition(":")
    if not host or not port.isdigit() or count < 1 or not 0 <= index < count:
        raise UserError(
            f"expected --coordinator=HOST:PORT and --process-id from 0 to --num-processes - 1, and got "
            f"coordinator={given}, num-processes={count}, process-id={index}."
        )
    return Cluster(given, count, index) if count > 1 else None


def _number(flag: str, given: int | None, variable: str | None) -> int | None:
    try:
        return given if given is not None or not variable else int(variable)
    except ValueError:
        raise UserError(f"{flag} takes an integer, and the environment has {variable!r}.") from None


def _launcher(environment: Mapping[str, str]) -> Cluster | None:
    """Returns the cluster of SLURM, Open MPI or a TPU pod that has more than one process."""

    def several(name: str) -> bool:
        return environment.get(name, "").isdigit() and int(environment[name]) > 1

    if several("SLURM_NTASKS") and {"SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NODELIST"} <= set(
        environment
    ):
        return Cluster(None, int(environment["SLURM_NTASKS"]), int(environment["SLURM_PROCID"]))
    if several("OMPI_COMM_WORLD_SIZE"):
        return Cluster(
            None, int(environment["OMPI_COMM_WORLD_SIZE"]), int(environment["OMPI_COMM_WORLD_RANK"])
        )
    return Cluster() if "," in environment.get("TPU_WORKER_HOSTNAMES", "") else None


def join(cluster: Cluster | None, *, stops: bool = False) -> None:
    """Meets the other processes of `cluster`; does nothing for None. Call it before JAX touches a device.

    Args:
      cluster: the result of `detect`.
      stops: True if SIGTERM is left to JAX, for a loop that asks it at every step (`runtime.signals`); otherwise it
        ends this process, as usual.

    Raises:
      UserError: this environment is not one that JAX knows, or two processes have one index (`meeting.introduce`).
      PeerError: not all of them came, within three times `GANJAX_PEER_TIMEOUT`.
    """
    global _cluster
    if cluster is None:
        return
    import jax

    seconds = _peer_timeout()
    if cluster.coordinator and cluster.count and cluster.index is not None:
        introduce(cluster.coordinator, cluster.count, cluster.index, 3 * seconds)
    jax.config.update("jax_enable_preemption_service", stops)
    # Passed on only where known: what is None, JAX looks for in the environment.
    try:
        jax.distributed.initialize(
            cluster.coordinator,
            cluster.count if cluster.coordinator else None,
            cluster.index if cluster.coordinator else None,
            heartbeat_timeout_seconds=seconds,
            initialization_timeout=3 * seconds,
            shutdown_timeout_seconds=seconds,
        )
    except ValueError as error:
        raise UserError(
            f"JAX finds no coordinator by itself here ({error}); give --coordinator=HOST:PORT, --num-processes=N "
            "and --process-id=I."
        ) from None
    except (RuntimeError, OSError) as error:
        raise PeerError(f"the processes of this run did not all meet: {_first_line(error)}") from None
    state = _global_state()
    _cluster = replace(cluster, count=state.num_processes, index=state.process_id)
    if count() > 1:
        threading.Thread(target=_listen, name="peers", daemon=True).start()


def _peer_timeout() -> int:
    text = os.environ.get("GANJAX_PEER_TIMEOUT", "100")
    if not text.isdigit() or int(text) < 5:
        raise UserError(f"GANJAX_PEER_TIMEOUT takes seconds, 5 or more, and got {text!r}.")
    return int(text)


def _global_state() -> Any:
    # JAX has no public name for its key-value store; Orbax and Flax reach it in the same way.
    from jax._src import distributed

    return distributed.global_state


def count() -> int:
    """Returns the number of processes of this run."""
    return 1 if _cluster is None or _cluster.count is None else _cluster.count


def index() -> int:
    """Returns the index of this process, counted from 0."""
    return 0 if _cluster is None or _cluster.index is None else _cluster.index


def is_main() -> bool:
    """Returns True in the process that reads, writes and prints for the run."""
    return index() == 0


def from_main(value: Any) -> Any:
    """Returns the main process's JSON `value`. The values of the others are ignored. All must call it alike."""
    if count() == 1:
        return value
    client, key = _global_state().client, f"ganjax/told/{next(_counter)}"
    if is_main():
        client.key_value_set(key, json.dumps(value))
    else:
        value = json.loads(client.blocking_key_value_get(key, FOREVER))
    return value


def state_from_main(tree: Tree) -> Tree:
    """Returns the main process's arrays, as host arrays.

    The others give arrays of the same shapes. All must call it.
    """
    if count() == 1:
        return tree
    import jax
    from jax.experimental import multihost_utils

    leaves, structure = jax.tree.flatten(tree)
    arrays = [np.asarray(leaf) for leaf in leaves]
    # As bits: a sum over processes, of which all but one hold zeros, makes 0 of -0 as a float.
    joined = b"".join(array.tobytes() for array in arrays)
    bits = np.frombuffer(joined + bytes(-len(joined) % 4), np.uint32)
    told = multihost_utils.broadcast_one_to_all(bits).tobytes()
    ends = list(itertools.accumulate((array.nbytes for array in arrays), initial=0))
    copies = [
        np.frombuffer(told[start : start + array.nbytes], array.dtype).reshape(array.shape)
        for start, array in zip(ends, arrays, strict=False)
    ]
    return jax.tree.unflatten(structure, copies)


def check_same(facts: Mapping[str, str]) -> None:
    """Checks that this process has the same `facts` as the main one.

    Raises:
      UserError: the facts differ; the first that differs is named.
    """
    expected = from_main(dict(facts))
    for name, value in facts.items():
        if expected[name] != value:
            raise UserError(
                f"process {index()} has {name} {value}, and process 0 has {expected[name]}; all processes of a run "
                "need the same command, versions and data."
            )


def meet() -> None:
    """Waits for all processes. It follows what the main process does alone and slowly."""
    if count() > 1:
        _global_state().client.wait_at_barrier(f"ganjax/met/{next(_counter)}", FOREVER)


def tell(key: str, value: str) -> None:
    """Leaves a message for all processes. Does nothing without several processes."""
    if count() > 1:
        _global_state().client.key_value_set(key, value, allow_overwrite=True)


def told(key: str) -> str | None:
    """Returns the message that some process left under `key`."""
    if count() == 1:
        return None
    try:
        return str(_global_state().client.key_value_try_get(key))
    except RuntimeError:  # nobody has said anything
        return None


def leave() -> None:
    """Ends the run well: waits until all processes are done, and parts from them."""
    global _cluster
    if _cluster is None:
        return
    import jax

    meet()
    _leaving.set()
    _cluster = None
    jax.distributed.shutdown()


def abandon(code: int, message: str) -> None:
    """Ends the run badly: informs the others, who end with the same exit code, and ends this process.

    Does nothing when alone.
    """
    if count() == 1:
        return
    word = json.dumps({"process": index(), "code": code, "message": message})
    with contextlib.suppress(RuntimeError):  # another one failed first, or nobody is left to hear it
        _global_state().client.key_value_set(FAILED, word)
    if is_main():
        time.sleep(GRACE)
    end(code)


def fail(error: Exception) -> None:
    """Ends the run after an error that nobody foresaw, such as a dead peer's broken connection.

    Does nothing when alone.
    """
    if count() == 1:
        return
    import jax

    if not isinstance(error, jax.errors.JaxRuntimeError):
        traceback.print_exc()
        abandon(1, f"{type(error).__name__}: {error}")
    time.sleep(2 * GRACE)  # a process that failed and said why is heard first, by the listener
    print(f"ganjax: process {index()}: {lost(error)}", file=sys.stderr)
    abandon(PeerError.exit_code, lost(error))


def end(code: int) -> NoReturn:
    """Ends this process now: its exit handlers would wait for processes that do not come."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _listen() -> None:
    """Ends this process when another one has failed, whatever this one is waiting for. Runs in a thread of its own."""
    try:
        word = json.loads(_global_state().client.blocking_key_value_get(FAILED, FOREVER))
    except Exception as error:
        if _leaving.is_set():
            return
        time.sleep(0.2)
        print(f"ganjax: process {index()}: {lost(error)}", file=sys.stderr)
        end(PeerError.exit_code)
    if word["process"] != index():
        if is_main():
            print(f"ganjax: process {word['process']}: {word['message']}", file=sys.stderr)
            time.sleep(GRACE)
        end(word["code"])


def lost(error: BaseException) -> str:
    """Returns the message about a failed call to the other processes."""
    return (
        "another process of this run has ended, or cannot be reached any more, so this one ends too "
        f"({_first_line(error)}). What was saved is kept: start all of them again with the same command."
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
