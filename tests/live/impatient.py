"""A crowd of clients without patience, in a process of its own; what each call got, as JSON.

    python -m tests.live.impatient PORT SECONDS RATE PATIENCE_S < request

RATE calls a second, each over a new connection, whatever the answers are; who waits longer than
PATIENCE_S hangs up. RATE 0: 64 clients, each with its next call when it has its answer.
"""

import asyncio
import json
import sys
import time
from typing import Any, Final

import uvloop

CLOSED: Final = 64


class Call(asyncio.Protocol):
    """One call over one connection; `status` 0: hung up, -1: the connection broke."""

    def __init__(self, request: bytes, patience_s: float) -> None:
        self.asked_s = time.monotonic()
        self.status = 0
        self.took_s = patience_s
        self.done = asyncio.get_running_loop().create_future()
        self._request = request
        self._data = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._data += data
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._data[:end].lower()
        at = head.index(b"content-length:") + len(b"content-length:")
        if len(self._data) >= end + 4 + int(head[at:].partition(b"\r\n")[0]):
            self._finish(int(self._data[9:12]))
            self._transport.abort()

    def connection_lost(self, _error: Exception | None) -> None:
        self._finish(-1)

    def hang_up(self) -> None:
        self._finish(0)
        self._transport.abort()

    def _finish(self, status: int) -> None:
        if not self.done.done():
            self.status, self.took_s = status, time.monotonic() - self.asked_s
            self.done.set_result(None)


async def call(port: int, request: bytes, patience_s: float) -> tuple[float, int, float]:
    """Make one call; return when it was asked, its status, and what it took."""
    loop = asyncio.get_running_loop()
    asked_s = time.monotonic()
    try:
        async with asyncio.timeout(patience_s):
            _, made = await loop.create_connection(
                lambda: Call(request, patience_s), "127.0.0.1", port
            )
    except TimeoutError:
        return asked_s, 0, patience_s
    except OSError:
        return asked_s, -1, time.monotonic() - asked_s
    try:
        async with asyncio.timeout(max(asked_s + patience_s - time.monotonic(), 0.001)):
            await asyncio.shield(made.done)
    except TimeoutError:
        made.hang_up()
    return asked_s, made.status, time.monotonic() - asked_s


async def crowd(
    port: int, seconds: float, rate: float, patience_s: float, request: bytes
) -> list[tuple[float, int, float]]:
    """Make the calls; return what became of each."""
    begun_s = due_s = time.monotonic()
    found: list[tuple[float, int, float]] = []

    async def one() -> None:
        found.append(await call(port, request, patience_s))

    async def again() -> None:
        while time.monotonic() < begun_s + seconds:
            await one()

    async with asyncio.TaskGroup() as tasks:
        if not rate:
            for _ in range(CLOSED):
                tasks.create_task(again())
        while rate and (now_s := time.monotonic()) < begun_s + seconds:
            while due_s <= now_s:
                due_s += 1 / rate
                tasks.create_task(one())
            await asyncio.sleep(0.001)
    return found


if __name__ == "__main__":
    port, seconds, rate, patience_s = sys.argv[1:]
    work = crowd(int(port), float(seconds), float(rate), float(patience_s), sys.stdin.buffer.read())
    sys.stdout.write(json.dumps(uvloop.run(work)))
