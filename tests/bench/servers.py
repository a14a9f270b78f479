"""Servers whose behaviour is known, to measure the load generator against."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic_ns
from typing import cast

from benchmarks.load.generator import Generator
from benchmarks.load.job import Call, Job, Merged, merge

BODY = b'{"choices":[],"usage":{"prompt_tokens":250,"completion_tokens":40}}'
JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
    len(BODY),
    BODY,
)
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)

Answer = Callable[[asyncio.Transport, int], None]
"""Answers one request on a transport; told which request of the server it is, from 0."""


def chunk(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def later(delay_s: float, transport: asyncio.Transport, payload: bytes = JSON) -> None:
    asyncio.get_running_loop().call_later(delay_s, transport.write, payload)


class _Asked(asyncio.Protocol):
    """Reads whole requests off one connection and has each answered."""

    def __init__(self, answer: Answer, count: list[int]) -> None:
        self._answer = answer
        self._count = count
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while True:
            head, found, rest = self._buffer.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
            if not found or len(rest) < length:
                return
            self._buffer = rest[length:]
            number = self._count[0]
            self._count[0] += 1
            self._answer(self._transport, number)


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[int]:
    """Serve on a free port until the block ends; yield the port."""
    count = [0]
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Asked(answer, count), "127.0.0.1", 0, backlog=4096)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


async def put(port: int, *, stream: bool = False, **job: object) -> Merged:
    """Put a load on a port, from this very loop; return what the generator saw."""
    plain: dict[str, object] = {
        "calls": (Call(stream=stream),),
        "warm_s": 0.2,
        "window_s": 1.0,
        "patience_s": 5.0,
    }
    chosen = Job(
        host="127.0.0.1",
        port=port,
        begin_ns=monotonic_ns() + 20_000_000,
        **(plain | job),  # type: ignore[arg-type]
    )
    return merge([await Generator(chosen, None).run()])
