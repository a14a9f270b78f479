"""Listening sockets: opened once by the supervisor, before and beyond every worker.

Each worker slot has a socket of its own in one SO_REUSEPORT group, so the kernel spreads the
connections and no worker wakes for another's. The supervisor never closes one while it runs: when
a worker dies, what queues on its socket waits for the next worker. (Closing one of two such
sockets reset 83 of 200 queued clients; keeping it open lost none.)

Source: docs/reliability.md, "Listening sockets".
"""

import errno
import logging
import os
import socket
import time
from collections.abc import Mapping
from typing import Final

import msgspec

from relay.config import Server
from relay.errors import RelayError
from relay.places import parse_address
from relay.process.succession.handover import HandedSockets, Handover

SYSTEMD_FD_FIRST: Final = 3
"""Source: sd_listen_fds(3), SD_LISTEN_FDS_START."""

RETRY_S: Final = 0.1
PREDECESSOR_S: Final = 3.0
"""How long workers of a supervisor that was killed may still hold the port."""
ADMIN_BACKLOG: Final = 128

Target = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
"""A socket address as getaddrinfo gives it."""


_log = logging.getLogger(__name__)


class Sockets(msgspec.Struct, frozen=True):
    """What the relay listens on: one socket for each worker, the admin's, and the console's.

    `handed`: the same, as the next program of this process is told of them.
    """

    workers: list[socket.socket]
    admin: socket.socket
    console: socket.socket | None
    handed: dict[str, HandedSockets]

    def all(self) -> list[socket.socket]:
        """Return each of them."""
        return [*self.workers, self.admin, *([] if self.console is None else [self.console])]


def take_sockets(server: Server, handed: Handover | None) -> Sockets:
    """Return the sockets of `[server]`: those of the program before, the manager's, or new ones.

    Raises:
        RelayError: RELAY; an address is taken.
    """
    # The process stays the one that the manager has named, long after these numbers mean others.
    inherited = {} if handed else take_inherited(os.environ, os.getpid())
    wanted = {"relay": server.listen, "admin": server.admin, "console": server.console}
    found: dict[str, list[socket.socket]] = {}
    told: dict[str, HandedSockets] = {}
    for name, address in wanted.items():
        before = handed.sockets.get(name) if handed else None
        count = (server.workers or len(os.sched_getaffinity(0))) if name == "relay" else 1
        backlog = server.backlog if name == "relay" else ADMIN_BACKLOG
        kept = inherited.get(name, [])
        if before is not None and before.address in ("", address):
            kept = [socket.socket(fileno=fd) for fd in before.fds]
        from_manager = name in inherited or (before is not None and not before.address)
        if not kept and address:
            kept = open_listeners(address, count, backlog, PREDECESSOR_S)
        elif len(kept) < count and not from_manager and address:
            kept += add_listeners(kept[0], count - len(kept), backlog)
        if kept:
            told[name] = HandedSockets(
                address="" if from_manager else address, fds=[sock.fileno() for sock in kept]
            )
        found[name] = kept
    workers = found["relay"]
    if told["relay"].address == "":  # the manager's are shared by all workers
        count = server.workers or len(os.sched_getaffinity(0))
        workers = [workers[at % len(workers)] for at in range(count)]
    elif server.workers and len(workers) > server.workers:
        _log.warning("restart to have fewer workers", extra={"count": len(workers)})
    console = found["console"]
    return Sockets(workers, found["admin"][0], console[0] if console else None, told)


def add_listeners(like: socket.socket, count: int, backlog: int) -> list[socket.socket]:
    """Return so many more sockets of the group that `like` belongs to."""
    target = like.getsockname()
    return [_listen(like.family, target, backlog) for _ in range(count)]


def open_listeners(
    address: str, count: int, backlog: int, patience_s: float = 0.0
) -> list[socket.socket]:
    """Return `count` sockets that all listen on `address` ("HOST:PORT"; port 0 = any free one).

    Raises:
        RelayError: RELAY; the host does not resolve, or the address is taken and still was after
            `patience_s` (a predecessor that was killed leaves it a moment later).
    """
    host, port = parse_address(address)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, target = found[0]
        _wait_until_free(family, target, patience_s)
        listeners: list[socket.socket] = []
        for _ in range(count):
            listeners.append(_listen(family, target, backlog))
            target = listeners[0].getsockname()  # port 0 is chosen once, then shared
    except OSError as exc:
        raise RelayError(f"cannot listen on {address}: {exc.strerror}") from exc
    return listeners


def take_inherited(environ: Mapping[str, str], pid: int) -> dict[str, list[socket.socket]]:
    """Return the sockets systemd opened for process `pid`, by FileDescriptorName=; {} if none.

    Source: sd_listen_fds_with_names(3): LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES.
    """
    if environ.get("LISTEN_PID") != str(pid):
        return {}
    count = int(environ.get("LISTEN_FDS", "0"))
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    found: dict[str, list[socket.socket]] = {}
    for index in range(count):
        name = names[index] if index < len(names) else ""
        sock = socket.socket(fileno=SYSTEMD_FD_FIRST + index)
        sock.set_inheritable(False)  # each child is given its own one by name
        sock.settimeout(0)
        found.setdefault(name, []).append(sock)
    return found


def address_of(sock: socket.socket) -> str:
    """Return where `sock` listens as HOST:PORT."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if sock.family == socket.AF_INET6 else f"{host}:{port}"


def _listen(family: socket.AddressFamily, target: Target, backlog: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.settimeout(0)
    sock.bind(target)
    sock.listen(backlog)
    return sock


def _wait_until_free(family: socket.AddressFamily, target: Target, wait_s: float) -> None:
    """Bind once without SO_REUSEPORT: with it, a second relay would silently share the port."""
    until_s = time.monotonic() + wait_s
    while True:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(target)
            except OSError as exc:
                if exc.errno != errno.EADDRINUSE or time.monotonic() >= until_s:
                    raise
                time.sleep(RETRY_S)
            else:
                return
