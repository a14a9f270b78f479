"""A closed-loop load: N connections, each asking again as soon as it was answered.

It shows what a call costs the server, not what latency users see: a closed loop stops asking while
the server is slow. Raw sockets and no parsing beyond the frame's end, so that it costs little.
Prints one JSON object.

Run: python -m benchmarks.load PORT --kind json|stream --connections N --calls N --key KEY
"""

import argparse
import asyncio
import json
import resource
import sys
import time
from typing import Any, cast

import uvloop

PROMPT = "lorem ipsum " * 80


def make_request(kind: str, key: str, model: str) -> bytes:
    """Return the bytes of one call."""
    body = {
        "model": model,
        "stream": kind == "stream",
        "messages": [{"role": "user", "content": PROMPT}],
    }
    if kind == "stream":
        body["stream_options"] = {"include_usage": True}
    data = json.dumps(body).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        b"Authorization: Bearer %b\r\nContent-Type: application/json\r\nAccept: */*\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (key.encode(), len(data), data)
    )


class Totals:
    """What all connections of a run counted."""

    def __init__(self, calls: int) -> None:
        self.left = calls
        self.done = 0
        self.bad = 0
        self.events = 0
        self.bytes = 0
        self.ttft_s: list[float] = []


class Caller(asyncio.Protocol):
    """One connection of the load."""

    def __init__(self, request: bytes, totals: Totals, ended: asyncio.Future[None]) -> None:
        self._request = request
        self._totals = totals
        self._ended = ended
        self._begun_s = 0.0
        self._waiting = False
        self._head_seen = False
        self._chunked = False
        self._left = 0
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask the first question."""
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    def data_received(self, data: bytes) -> None:
        """Look for the end of the answer."""
        totals = self._totals
        totals.bytes += len(data)
        if self._waiting:
            self._waiting = False
            totals.ttft_s.append(time.perf_counter() - self._begun_s)
        if not self._head_seen:
            data = self._tail + data
            head, found, data = data.partition(b"\r\n\r\n")
            if not found:
                self._tail = head
                return
            self._read_head(head.lower())
            self._tail = b""
        if self._chunked:
            totals.events += data.count(b"\n\n")
            self._tail = (self._tail + data)[-7:]
            if self._tail.endswith(b"\r\n0\r\n\r\n") or self._tail == b"0\r\n\r\n":
                self._end_answer()
        else:
            self._left -= len(data)
            if self._left <= 0:
                self._end_answer()

    def connection_lost(self, exc: Exception | None) -> None:
        """A connection that was closed under a call failed that call."""
        if not self._ended.done():
            self._totals.bad += 1
            self._ended.set_result(None)

    def _read_head(self, head: bytes) -> None:
        self._head_seen = True
        if not head.startswith(b"http/1.1 200"):
            self._totals.bad += 1
        self._chunked = b"transfer-encoding: chunked" in head
        if not self._chunked:
            self._left = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])

    def _ask(self) -> None:
        if self._totals.left <= 0:
            if not self._ended.done():
                self._ended.set_result(None)
            self._transport.close()
            return
        self._totals.left -= 1
        self._waiting = True
        self._head_seen = False
        self._tail = b""
        self._begun_s = time.perf_counter()
        self._transport.write(self._request)

    def _end_answer(self) -> None:
        self._totals.done += 1
        self._ask()


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Put the load on; return what was measured on this side."""
    loop = asyncio.get_running_loop()
    totals = Totals(options.calls)
    request = make_request(options.kind, options.key, options.model)
    begun_s, own_s = time.perf_counter(), time.process_time()
    ends: list[asyncio.Future[None]] = []
    for _ in range(options.connections):
        ended: asyncio.Future[None] = loop.create_future()
        ends.append(ended)
        await loop.create_connection(
            lambda ended=ended: Caller(request, totals, ended),  # type: ignore[misc]
            "127.0.0.1",
            options.port,
        )
    await asyncio.gather(*ends)
    wall_s = time.perf_counter() - begun_s
    ttft_ms = sorted(1000 * taken for taken in totals.ttft_s)
    return {
        "done": totals.done,
        "bad": totals.bad,
        "events": totals.events,
        "bytes": totals.bytes,
        "wall_s": wall_s,
        "load_cpu_share": (time.process_time() - own_s) / wall_s,
        "ttft_ms": {"p50": ttft_ms[len(ttft_ms) // 2], "p99": ttft_ms[int(len(ttft_ms) * 0.99)]},
    }


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--kind", choices=("json", "stream"), default="json")
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--key", default="sk-none")
    parser.add_argument("--model", default="gpt-4o-mini")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sys.stdout.write(json.dumps(uvloop.run(run(options))) + "\n")


if __name__ == "__main__":
    main()
