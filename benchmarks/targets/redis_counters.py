"""How often a Redis was asked: its own counters, read over its socket before and after."""

import socket
from pathlib import Path
from typing import Final, NamedTuple

_SCRIPTS: Final = frozenset({"eval", "evalsha", "eval_ro", "evalsha_ro", "fcall", "fcall_ro"})
_WAIT_S: Final = 5.0


class RedisCounters(NamedTuple):
    """Totals of a server since it started.

    `reads`: times it read from a client, which is one for each round trip, however many commands
    were pipelined in it. `commands`: all of them, those that scripts call too.
    """

    reads: int
    commands: int
    scripts: int

    def since(self, before: "RedisCounters") -> "RedisCounters":
        """Return what came after `before`, the question that told us left out."""
        return RedisCounters(
            self.reads - before.reads - 1,
            self.commands - before.commands - 1,
            self.scripts - before.scripts,
        )


def read_counters(path: Path) -> RedisCounters:
    """Ask the Redis on a unix socket for its counters.

    Raises:
        OSError: It is not there.
    """
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(_WAIT_S)
        sock.connect(str(path))
        sock.sendall(b"INFO all\r\n")
        return parse_counters(_read_bulk(sock))


def parse_counters(text: str) -> RedisCounters:
    """Return the counters that an answer to INFO holds.

    Source: Redis, INFO, sections stats (total_reads_processed) and commandstats.
    """
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    scripts = sum(
        int(value.partition("calls=")[2].partition(",")[0])
        for name, value in fields.items()
        if name.removeprefix("cmdstat_") in _SCRIPTS and name.startswith("cmdstat_")
    )
    reads = int(fields.get("total_reads_processed", "0"))
    return RedisCounters(reads, int(fields.get("total_commands_processed", "0")), scripts)


def _read_bulk(sock: socket.socket) -> str:
    found = b""
    while b"\r\n" not in found:
        found += _receive(sock)
    head, _, body = found.partition(b"\r\n")
    if not head.startswith(b"$"):
        raise OSError("not an answer to INFO")
    while len(body) < int(head[1:]):
        body += _receive(sock)
    return body.decode("utf-8", "replace")


def _receive(sock: socket.socket) -> bytes:
    part = sock.recv(65536)
    if not part:
        raise OSError("the connection was closed")
    return part
