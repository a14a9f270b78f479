"""What a frame of a WebSocket session costs a worker, beside an event of a stream.

    python -m benchmarks.sessions [--sessions 1000] [--seconds 10] [--rounds 3] [--json]

The same answers of `/v1/responses`, an event each 100 ms, are read over as many sessions (a turn
each, asked over HTTP behind the relay) and over as many streams. Told is the CPU of the relay's
worker for a frame and for an event, medians of the rounds, and their ratio. The relay has the first
core; sessions, streams and upstream share the others.
"""

import argparse
import asyncio
import base64
import json
import os
import statistics
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

import click
import uvloop

from benchmarks.targets.place import KEY, MODEL, Place, Server
from benchmarks.targets.processes import CpuMeter, raise_open_files
from benchmarks.targets.relay_server import start_relay
from benchmarks.targets.upstream import Script, start_upstream

INTERVAL_MS: Final = 100.0
RATIO_MAX: Final = 1.5
WARM_S: Final = 4.0
OPENED_AT_ONCE: Final = 50
SPARE_EVENTS: Final = 100
"""So many more than are counted, so that no answer ends while it is measured."""
_ASKED: Final = {"model": MODEL, "input": "Count.", "store": False}
_HEAD: Final = f"Host: relay\r\nAuthorization: Bearer {KEY}\r\n"
_FRAME_BYTES: Final = {126: 2, 127: 8}
"""How many bytes of length follow the two that each frame begins with."""


class Reader(ABC, asyncio.Protocol):
    """Asks once, and counts what comes back."""

    def __init__(self) -> None:
        self.seen = 0
        self._opened = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self.question())

    @abstractmethod
    def question(self) -> bytes:
        """Return the first bytes."""


class StreamReader(Reader):
    """Reads events over HTTP."""

    def question(self) -> bytes:
        """Return a request for a stream."""
        body = json.dumps({**_ASKED, "stream": True}).encode()
        head = f"POST /v1/responses HTTP/1.1\r\n{_HEAD}content-type: application/json\r\n"
        return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body

    def data_received(self, data: bytes) -> None:
        """Count events by the names that they begin with."""
        if not self._opened:
            assert data.startswith(b"HTTP/1.1 200"), data[:400]
            self._opened = True
        self.seen += data.count(b"event: ")


class SessionReader(Reader):
    """Reads frames of a WebSocket."""

    _rest = b""

    def question(self) -> bytes:
        """Return a handshake."""
        nonce = base64.b64encode(os.urandom(16)).decode()
        return (
            f"GET /v1/responses HTTP/1.1\r\n{_HEAD}Connection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {nonce}\r\n\r\n"
        ).encode()

    def data_received(self, data: bytes) -> None:
        """Count frames; ask for the turn when the socket is open."""
        data = self._rest + data
        if not self._opened:
            head, end, data = data.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101") and end, head[:400]
            self._opened = True
            text = json.dumps({"type": "response.create", **_ASKED}).encode()
            assert len(text) < min(_FRAME_BYTES), "it has a short length"
            self.transport.write(b"\x81" + bytes([0x80 | len(text)]) + bytes(4) + text)
        at = 0
        while len(data) >= at + 2:
            more = _FRAME_BYTES.get(data[at + 1], 0)
            size = int.from_bytes(data[at + 2 : at + 2 + more]) if more else data[at + 1]
            if len(data) < at + 2 + more + size:
                break
            at += 2 + more + size
            self.seen += 1
        self._rest = data[at:]


async def read_all(
    server: Server, make: Callable[[], Reader], options: argparse.Namespace
) -> tuple[float, int]:
    """Return the worker's CPU seconds, and how many events came meanwhile."""
    loop = asyncio.get_running_loop()
    readers: list[Reader] = []
    for begin in range(0, options.sessions, OPENED_AT_ONCE):
        count = min(OPENED_AT_ONCE, options.sessions - begin)
        made = await asyncio.gather(
            *(loop.create_connection(make, "127.0.0.1", server.port) for _ in range(count))
        )
        readers += [reader for _, reader in made]
    await asyncio.sleep(WARM_S)
    before, meter = sum(reader.seen for reader in readers), CpuMeter(server.carriers())
    await asyncio.sleep(options.seconds)
    used_s, after = meter.used_s(), sum(reader.seen for reader in readers)
    silent = sum(not reader.seen for reader in readers)
    assert not silent, f"{silent} of {len(readers)} got nothing"
    for reader in readers:
        reader.transport.abort()
    await asyncio.sleep(1.0)
    return used_s, after - before


def compare(server: Server, options: argparse.Namespace) -> dict[str, Any]:
    """Measure sessions and streams in turn."""
    found: dict[str, list[float]] = {"frame": [], "event": []}
    for _ in range(options.rounds):
        for name, make in (("event", StreamReader), ("frame", SessionReader)):
            used_s, count = uvloop.run(read_all(server, make, options))
            found[name].append(round(used_s * 1e6 / count, 2))
    frame, event = (statistics.median(found[name]) for name in ("frame", "event"))
    return {
        "sessions": options.sessions,
        "us_per_frame": found["frame"],
        "us_per_event": found["event"],
        "ratio": round(frame / event, 2),
    }


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    raise_open_files()
    first, *others = sorted(os.sched_getaffinity(0))
    load = set(others or [first])
    os.sched_setaffinity(0, load)
    per_s = 1000 / INTERVAL_MS
    chunks = int((options.seconds + 2 * WARM_S) * per_s) + SPARE_EVENTS
    script = Script(chunks=chunks, interval_ms=INTERVAL_MS)
    with tempfile.TemporaryDirectory(prefix="relay-sessions-") as name:
        folder = Path(name)
        with start_upstream(script, cores=load, folder=folder) as upstream:
            place = Place(folder=folder, cores=frozenset({first}), upstreams=(upstream.port,))
            with start_relay(place) as server:
                found = compare(server, options)
    if options.json:
        click.echo(json.dumps(found, indent=1))
    else:
        click.echo("\n".join(f"{name} {value}" for name, value in found.items()))
    return 0 if found["ratio"] <= RATIO_MAX else 3


if __name__ == "__main__":
    sys.exit(main())
