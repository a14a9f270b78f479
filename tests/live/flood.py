"""An upstream and a crowd of clients in one process, cheap enough to load a relay from beside it.

Goal: tests of limits under load. Method: asyncio protocols over kept connections, calls at a fixed
pace whatever the answers are; what each call got and how long it took is kept.
"""

import asyncio
import time
from collections import deque
from typing import NamedTuple, cast

ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"up","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"yes"},"finish_reason":"stop"}],"usage":'
    b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}}'
)


class Upstream(asyncio.Protocol):
    """Answers every request at once, with the same usage."""

    def __init__(self, input_tokens: int, output_tokens: int) -> None:
        body = ANSWER % (input_tokens, output_tokens, input_tokens + output_tokens)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        self._answer = head % len(body) + body
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write = cast("asyncio.Transport", transport).write

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end].lower()
            at = head.index(b"content-length:") + len(b"content-length:")
            size = int(head[at:].partition(b"\r\n")[0])
            if len(self._data) < end + 4 + size:
                return
            self._data = self._data[end + 4 + size :]
            self._write(self._answer)


class Call(NamedTuple):
    """What became of a call: when it was asked (monotonic), its status, what it took."""

    asked_s: float
    status: int
    took_s: float


class Client(asyncio.Protocol):
    """One kept connection: a call at a time."""

    def __init__(self, crowd: "Crowd") -> None:
        self._crowd = crowd
        self._data = b""
        self._asked_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._write = self.transport.write

    def ask(self) -> None:
        self._asked_s = time.monotonic()
        self._write(self._crowd.request)

    def data_received(self, data: bytes) -> None:
        self._data += data
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._data[:end].lower()
        at = head.index(b"content-length:") + len(b"content-length:")
        if len(self._data) < end + 4 + int(head[at:].partition(b"\r\n")[0]):
            return
        took_s = time.monotonic() - self._asked_s
        self._crowd.calls.append(Call(self._asked_s, int(self._data[9:12]), took_s))
        self._data = b""
        self._crowd.idle.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._crowd.lost += 1
        if self in self._crowd.idle:
            self._crowd.idle.remove(self)


class Crowd:
    """Clients that make calls at a steady pace together.

    `late`: calls that found no idle connection, and were not made.
    """

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.calls: list[Call] = []
        self.idle: deque[Client] = deque()
        self.late = 0
        self.lost = 0

    async def connect(self, port: int, size: int, host: str = "127.0.0.1") -> None:
        loop = asyncio.get_running_loop()
        for _ in range(size):
            _, client = await loop.create_connection(lambda: Client(self), host, port)
            self.idle.append(client)

    def leave(self) -> None:
        """Hang up where nothing is under way."""
        for client in self.idle:
            client.transport.abort()

    async def offer(self, calls_per_s: float, seconds: float) -> None:
        """Make calls for a time."""
        begun_s = due_s = time.monotonic()
        while (now_s := time.monotonic()) < begun_s + seconds:
            while due_s <= now_s:
                due_s += 1 / calls_per_s
                if self.idle:
                    self.idle.popleft().ask()
                else:
                    self.late += 1
            await asyncio.sleep(0.001)


def request_of(key: str, model: str, text_bytes: int, output_max: int) -> bytes:
    """Return a whole chat request of about so many bytes."""
    body = b'{"model":"%b","max_tokens":%d,"messages":[{"role":"user","content":"%b"}]}' % (
        model.encode(),
        output_max,
        b"words " * (text_bytes // 6),
    )
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: relay\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def quantile(times_s: list[float], share: float) -> float:
    """Return a quantile in milliseconds."""
    ranked = sorted(times_s)
    return 1_000 * ranked[min(len(ranked) - 1, int(len(ranked) * share))]
