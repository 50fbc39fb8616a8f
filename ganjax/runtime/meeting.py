"""Lets the processes of a run find each other before JAX does, which ends in C++ stacks where two have one index.

Process 0 listens at the coordinator's port until all others have come, and then leaves that port to JAX.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time

from ganjax.runtime.errors import PeerError, UserError

OK, REFUSED = "ok", "refused: "
GREETING_SECONDS = 5.0  # that who has connected may take to say which process it is
WAIT = 0.2  # seconds between tries to reach process 0
ADDRESSES: set[str] = (
    set()
)  # of process 0, to which this process may connect also where GANJAX_OFFLINE is set


def introduce(coordinator: str, count: int, index: int, seconds: float) -> None:
    """Checks that each process has an index of its own, and that all know the same count. All of them call it.

    Args:
      coordinator: HOST:PORT of process 0.
      count, index: the number of processes, and of this one.
      seconds: the time that all of them have to come.

    Raises:
      UserError: two have one index, or the counts differ; or the port is taken.
      PeerError: somebody did not come in time.
    """
    host, _, port = coordinator.rpartition(":")
    deadline = time.monotonic() + seconds
    if index:
        _report(host.strip("[]"), int(port), f"{index} {count}", deadline)
    else:
        # JAX's variable for where the coordinator's port is another one outside.
        _receive(
            int(os.environ.get("JAX_COORDINATOR_BIND_ADDRESS", coordinator).rpartition(":")[2]),
            count,
            deadline,
        )


def _receive(port: int, count: int, deadline: float) -> None:
    """Waits, in process 0, until all others have come, and gives each the same answer."""
    problem, of_index, all_peers = "", dict[int, socket.socket](), list[socket.socket]()
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(_listener(port))
        except OSError as error:
            raise UserError(
                f"port {port} of the coordinator cannot be used ({os.strerror(error.errno or 0)}): another process has "
                "--process-id=0 too, or another program has that port."
            ) from None
        while len(of_index) < count - 1 and not problem:
            server.settimeout(max(WAIT, deadline - time.monotonic()))
            try:
                peer = stack.enter_context(server.accept()[0])
                peer.settimeout(GREETING_SECONDS)
                index, their_count = map(int, peer.recv(64).split())
            except (OSError, ValueError):  # nobody, or somebody else
                if time.monotonic() > deadline:
                    missing = ", ".join(str(i) for i in range(1, count) if i not in of_index)
                    raise PeerError(
                        f"the processes of this run did not all meet: {missing} did not come"
                    ) from None
                continue
            all_peers.append(peer)
            if their_count != count:
                problem = f"process {index} has --num-processes={their_count}, and process 0 has {count}."
            elif index in of_index and not _is_gone(of_index[index]):
                problem = (
                    f"two processes have --process-id={index}; each needs its own, from 0 to {count - 1}."
                )
            of_index[index] = peer
        for peer in all_peers:
            with contextlib.suppress(OSError):
                peer.sendall((REFUSED + problem if problem else OK).encode())
    if problem:
        raise UserError(problem)


def _listener(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _is_gone(peer: socket.socket) -> bool:
    """Returns True if the other end was closed: then its process may have been started again."""
    peer.setblocking(False)
    try:
        return not peer.recv(1)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _report(host: str, port: int, greeting: str, deadline: float) -> None:
    """Says to process 0 who this process is, and waits for its answer."""
    why = "no answer"
    while time.monotonic() < deadline:
        try:
            ADDRESSES.update(
                str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            )
            with socket.create_connection((host, port), timeout=deadline - time.monotonic()) as peer:
                peer.sendall(greeting.encode())
                answer = peer.makefile(encoding="utf-8").read()
            if answer == OK:
                return
            if answer.startswith(REFUSED):
                raise UserError(answer.removeprefix(REFUSED))
        except OSError as error:
            why = error.strerror or str(error)
        time.sleep(WAIT)
    raise PeerError(
        f"the processes of this run did not all meet: process 0 was not found at {host}:{port} ({why})"
    )
