"""A whole data plane in the test's own loop: real sockets, a catalog in memory, no Postgres.

`Rig` stands a DataServer in front of any number of upstream ports; `Peer` is an upstream that says
exactly the bytes a test tells it to.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from relay.config import Config
from relay.flow.counters import Counters
from relay.flow.ports import Reservation, ThinkingStore
from relay.flow.reserve.channel_quotas import ChannelQuotas
from relay.flow.reserve.limits import LimitReservation
from relay.flow.state.owners import OwnerStore
from relay.limits.estimate import Estimator
from relay.model import (
    Account,
    Channel,
    Group,
    Key,
    Line,
    Price,
    Secret,
    Snapshot,
    index_routes,
)
from relay.ports import Limiter
from relay.process.composition import compose_server
from relay.records import CallCheckpoint, CallEnd, CallStart
from relay.wire.api_keys import digest

PEPPER = b"pepper of the tests, 32 bytes...."
KEY = "relay_test-key"
MODEL = "gpt-test"


class MemoryJournal:
    """A journal that only remembers."""

    def __init__(self) -> None:
        self.healthy = True
        self.starts: list[CallStart] = []
        self.ends: list[CallEnd] = []
        self.checkpoints: list[CallCheckpoint] = []

    def start(self, record: CallStart) -> None:
        self.starts.append(record)

    def checkpoint(self, record: CallCheckpoint) -> None:
        self.checkpoints.append(record)

    def end(self, record: CallEnd) -> None:
        self.ends.append(record)


def make_channel(number: int, port: int, **fields: Any) -> Channel:
    """Return a channel to a local port that serves MODEL under the upstream name `up-MODEL`."""
    defaults: dict[str, Any] = {
        "id": number,
        "name": f"channel-{number}",
        "base_url": f"http://127.0.0.1:{port}/v1",
        "api_key": Secret(f"sk-upstream-{number}"),
        "models": {MODEL: f"up-{MODEL}"},
    }
    return Channel(**(defaults | fields))


def make_snapshot(channels: list[Channel], **key_fields: Any) -> Snapshot:
    """Return a catalog of one line, group, account and key over `channels`."""
    by_id = {channel.id: channel for channel in channels}
    line = Line(id=1, name="line", channel_ids=tuple(by_id))
    plain: dict[str, Any] = {
        "id": 1,
        "account_id": 1,
        "name": "key",
        "digest": digest(PEPPER, KEY),
        "last4": "-key",
    }
    key = Key(**(plain | key_fields))
    models = {model for channel in channels for model in channel.models}
    return Snapshot(
        generation=1,
        keys={key.digest: key},
        accounts={1: Account(id=1, name="acme", group_id=1)},
        groups={1: Group(id=1, name="group", line_ids=(1,), multiplier_ppm=500_000)},
        lines={1: line},
        channels=by_id,
        prices={
            model: Price(
                id=7,
                model=model,
                input=1_000_000_000,
                output=2_000_000_000,
                cached_input=500_000_000,
            )
            for model in models
        },
        routes=index_routes({1: line}, by_id),
    )


class Rig:
    """A running data plane."""

    def __init__(
        self,
        snapshot: Snapshot,
        config: Config | None = None,
        limiter: Limiter | None = None,
        owner_store: OwnerStore | None = None,
        thinking: ThinkingStore | None = None,
        paid_by: Sequence[Reservation] = (),
    ) -> None:
        self.journal = MemoryJournal()
        self.snapshot = snapshot
        self.config = config or Config()
        counters, estimator = Counters(), Estimator()
        reservations = (
            [
                LimitReservation(
                    limiter, estimator, counters, self.config.timeouts.keepalive_comment_s
                )
            ]
            if limiter is not None
            else []
        )
        self.server = compose_server(
            self.config,
            self.journal,
            counters,
            PEPPER,
            reservations=[*reservations, *paid_by],
            quotas=ChannelQuotas(limiter, estimator),
            owner_store=owner_store,
            thinking=thinking,
        )
        self.port = 0

    async def __aenter__(self) -> "Rig":
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        self.port = sock.getsockname()[1]
        self.server.swap(self.snapshot)
        await self.server.start(sock)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.server.drain(0.0)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def ended(self, count: int = 1) -> list[CallEnd]:
        """Wait until `count` calls were settled; return their records."""
        async with asyncio.timeout(5):
            while len(self.journal.ends) < count:
                await asyncio.sleep(0.005)
        return self.journal.ends

    async def say(self, raw: bytes, *, until: bytes | None = None, within_s: float = 10.0) -> bytes:
        """Send raw bytes on a new connection; return what comes until `until` or its end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(raw)
            async with asyncio.timeout(within_s):
                return await (reader.readuntil(until) if until else reader.read())
        finally:
            writer.close()


def post(path: str, body: bytes | dict[str, Any], *headers: str, key: str = KEY) -> bytes:
    """Return a raw POST that closes its connection after the answer."""
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: relay",
        f"Authorization: Bearer {key}",
        "Content-Type: application/json",
        f"Content-Length: {len(data)}",
        "Connection: close",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def chat(**fields: Any) -> dict[str, Any]:
    """Return the body of a chat call to MODEL."""
    return {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], **fields}


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Peer:
    """An upstream that runs `script` for each connection, after reading one whole request."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.requests: list[bytes] = []
        self.closed = asyncio.Event()
        self.port = 0

    async def __aenter__(self) -> "Peer":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script: asyncio.Task[None] | None = None
        try:
            self.requests.append(await read_request(reader))
            script = asyncio.create_task(self._run(reader, writer))
            await reader.read()
            self.closed.set()
        except (ConnectionError, asyncio.IncompleteReadError):
            self.closed.set()
        finally:
            if script is not None:
                script.cancel()
            writer.close()

    async def _run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await self._script(reader, writer)
        writer.close()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """Read one request with a Content-Length; return its raw bytes."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return head + await reader.readexactly(length)


SSE_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def chunked(payload: bytes) -> bytes:
    """Return a payload as one HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def event(text: str, **fields: Any) -> bytes:
    """Return a chat chunk event with `text` as its delta."""
    chunk = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "up",
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}],
    }
    return b"data: " + msgspec.json.encode(chunk | fields) + b"\n\n"


FINISH = event("", choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
USAGE = event(
    "",
    choices=[],
    usage={"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
)
DONE = b"data: [DONE]\n\n"


def unchunked(raw: bytes) -> tuple[bytes, bytes]:
    """Return head and joined payload of a raw chunked answer."""
    head, _, rest = raw.partition(b"\r\n\r\n")
    payload = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        payload += rest[:length]
        rest = rest[length + 2 :]
        if not length:
            break
    return head, payload
