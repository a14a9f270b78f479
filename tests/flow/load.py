"""What tests of failover under load are made of: upstreams that die, and a crowd of clients.

Every call has a prompt of its own, and a scripted model says the same to it wherever it runs: so
what each single client got is checked to the letter, through whatever it went.
"""

import asyncio
import random
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple, Protocol

import msgspec

from relay.config import Config
from relay.mock.options import MockOptions
from relay.mock.script import digest, prose
from relay.mock.server import MockServer, start
from relay.model import Channel, Snapshot, index_routes
from relay.records import CallEnd
from tests.flow.rig import Rig, chat, make_snapshot, post, unchunked

CHUNKS = 24
TTFT_MS = 100.0
PATIENCE_S = 10.0
CALLER_S = 20.0
"""What a caller waits for its whole answer: hundreds share a machine that does other things too."""


# --- upstreams that die -----------------------------------------------------------------------


class Upstream(Protocol):
    """A scripted upstream that can be taken down and brought back on the same port."""

    port: int

    async def die(self) -> None:
        """Go down in the middle of whatever runs."""
        ...

    async def heal(self) -> None:
        """Come back; calls are answered when this returns."""
        ...

    async def close(self) -> None:
        """End for good."""
        ...


class Resetting:
    """An upstream in the test's own loop: its death is an RST of all that runs, then refusals."""

    def __init__(self, mock: MockServer) -> None:
        self.mock = mock
        self.port = mock.port

    @classmethod
    async def stand(cls, interval_ms: float) -> "Resetting":
        options = MockOptions(chunks=CHUNKS, ttft_ms=TTFT_MS, interval_ms=interval_ms)
        return cls(await start(options))

    async def die(self) -> None:
        self.mock.set_fail("refuse")
        self.mock.drop()

    async def heal(self) -> None:
        self.mock.set_fail()

    async def close(self) -> None:
        await self.mock.close()


class Killed:
    """An upstream process: its death is `kill -9`, its healing a new process."""

    def __init__(self, interval_ms: float) -> None:
        self._interval_ms = interval_ms
        # Bound, never listening: nobody else gets the port while the process is away, and a
        # connection to it can only be refused, not be given this very port as its own.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self.port: int = self._reserved.getsockname()[1]
        self._process: asyncio.subprocess.Process | None = None

    @classmethod
    async def stand(cls, interval_ms: float) -> "Killed":
        upstream = cls(interval_ms)
        await upstream.begin()
        return upstream

    async def begin(self) -> None:
        """Run the process; return when it listens."""
        self._process = process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "relay", "mock", "--port", str(self.port)),
            *("--chunks", str(CHUNKS), "--ttft-ms", str(TTFT_MS)),
            *("--interval-ms", str(self._interval_ms)),
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        assert b"listens" in await process.stderr.readline()

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def die(self) -> None:
        self.signal(signal.SIGKILL)
        await self._reap()

    async def heal(self) -> None:
        await self.begin()

    async def close(self) -> None:
        if self._process is not None:
            self.signal(signal.SIGKILL)
            await self._reap()
        self._reserved.close()

    async def _reap(self) -> None:
        assert self._process is not None and self._process.stderr is not None
        await self._process.stderr.read()
        await self._process.wait()
        self._process = None


class Stopped(Killed):
    """An upstream process that is only stopped: its sockets stay open and say nothing."""

    async def die(self) -> None:
        self.signal(signal.SIGSTOP)

    async def heal(self) -> None:
        self.signal(signal.SIGCONT)


async def running_calls(port: int) -> int:
    """Return how many calls a mock is answering now, by its own account."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET /_mock/state HTTP/1.1\r\nHost: mock\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
    finally:
        writer.close()
    state: dict[str, Any] = msgspec.json.decode(answer.partition(b"\r\n\r\n")[2])
    return int(state["in_flight"])


@asynccontextmanager
async def mocks(count: int, **options: Any) -> AsyncIterator[list[MockServer]]:
    """Stand upstreams in the test's own loop that are told what to do by `set_fail`."""
    plain: dict[str, Any] = {"chunks": CHUNKS, "ttft_ms": 50.0, "interval_ms": 20.0}
    async with AsyncExitStack() as stack:
        found = [await start(MockOptions(**(plain | options))) for _ in range(count)]
        for mock in found:
            stack.push_async_callback(mock.close)
        yield found


@asynccontextmanager
async def standing(
    *channels: Channel, config: Config | None = None, **line: Any
) -> AsyncIterator[Rig]:
    """Stand a data plane before channels; `line` changes its one line."""
    snapshot = make_snapshot(list(channels))
    changed = msgspec.structs.replace(snapshot.lines[1], **line)
    snapshot = msgspec.structs.replace(snapshot, lines={1: changed})
    async with Rig(snapshot, config) as rig:
        yield rig


def without(snapshot: Snapshot, channel_id: int, *, evicted: bool) -> Snapshot:
    """Return the catalog after `relay channel drain` of a channel, `evicted`: with --now."""
    gone = msgspec.structs.replace(snapshot.channels[channel_id], drained=True, evicted=evicted)
    channels = snapshot.channels | {channel_id: gone}
    routes = index_routes(snapshot.lines, channels)
    return msgspec.structs.replace(snapshot, channels=channels, routes=routes)


# --- clients ----------------------------------------------------------------------------------


class Told(NamedTuple):
    """What one client asked and was told.

    `number`: the request id, as the journal has it. `errors`: error events, or 1 for an error
    body. `done`: the answer has its own last word. `usage`: as the client saw it, None = not.
    """

    model: str
    stream: bool
    prompt: str
    head: bytes
    number: bytes
    text: str
    errors: int
    done: bool
    usage: dict[str, Any] | None
    took_s: float

    @property
    def status(self) -> int:
        return int(self.head[9:12])

    @property
    def whole(self) -> bool:
        """Whether it is exactly what one healthy channel would have said."""
        return self.done and not self.errors and self.text == script(self.prompt)


def script(prompt: str) -> str:
    """Return what every healthy upstream answers to a prompt."""
    return "".join(prose(digest(prompt.encode()), CHUNKS))


def prompts(rng: random.Random) -> Iterator[str]:
    """Yield prompts, each another, whose answers never say some words twice in a row.

    Where the last words are said again on purpose right behind a cut, no relay can tell them from
    an upstream that took a step back (splice.overlap): one text in a hundred has such a place.
    """
    while True:
        prompt = f"{rng.getrandbits(64):016x}"
        words = prose(digest(prompt.encode()), CHUNKS)
        places = [(at, size) for size in (2, 3) for at in range(CHUNKS - 2 * size + 1)]
        if all(words[a : a + n] != words[a + n : a + 2 * n] for a, n in places):
            yield prompt


class _Choice(msgspec.Struct):
    delta: dict[str, Any] = {}
    message: dict[str, Any] = {}


class _Answer(msgspec.Struct):
    """A chunk, a whole body or an error: what is looked at of either."""

    choices: list[_Choice] = []
    usage: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


_decode: Callable[[bytes], _Answer] = msgspec.json.Decoder(_Answer).decode


async def ask(rig: Rig, model: str, prompt: str, *, stream: bool) -> Told:
    """Make one call on a connection of its own; return what came of it."""
    body = chat(model=model, messages=[{"role": "user", "content": prompt}])
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    begun_s = time.monotonic()
    try:
        raw = await rig.say(post("/v1/chat/completions", body), within_s=CALLER_S)
    except TimeoutError:
        begun, ended = len(rig.journal.starts), len(rig.journal.ends)
        heard = f"{begun} calls had begun and {ended} had ended, {prompt!r} ({model}, {stream=})"
        raise AssertionError(f"{heard} was not answered in {CALLER_S:.0f} s") from None
    took_s = time.monotonic() - begun_s
    head, _, rest = raw.partition(b"\r\n\r\n")
    number = bytes.fromhex(head.partition(b"x-request-id: req_")[2][:32].decode())
    streamed = b"text/event-stream" in head
    if streamed:
        assert raw.endswith(b"\r\n0\r\n\r\n"), "the stream ends as HTTP says"
        rest = unchunked(raw)[1]
    events = [line[6:] for line in rest.split(b"\n") if line.startswith(b"data: {")]
    parts = [_decode(event) for event in (events if streamed else [rest])]
    said = [c.delta.get("content") or c.message.get("content") for p in parts for c in p.choices]
    return Told(
        model=model,
        stream=stream,
        prompt=prompt,
        head=head,
        number=number,
        text="".join(text for text in said if text),
        errors=sum(1 for part in parts if part.error is not None),
        done=rest.endswith(b"data: [DONE]\n\n") if streamed else head[9:12] == b"200",
        usage=next((part.usage for part in parts if part.usage), None),
        took_s=took_s,
    )


@asynccontextmanager
async def crowd(rig: Rig, rng: random.Random, *models: str, size: int) -> AsyncIterator[list[Told]]:
    """Keep `size` calls running until the block ends, half of them streams; yield the answers.

    When the block has ended the last ones have been answered as well.
    """
    told: list[Told] = []
    fresh = prompts(rng)
    stopping = False

    async def keep_asking(model: str, *, stream: bool) -> None:
        # Else all streams would be at the same word for as long as all goes well.
        await asyncio.sleep(rng.uniform(0.0, 0.5))
        while not stopping:
            told.append(await ask(rig, model, next(fresh), stream=stream))

    async with asyncio.TaskGroup() as tasks:
        for n in range(size):
            model = models[n // 2 % len(models)]
            tasks.create_task(keep_asking(model, stream=n % 2 == 0))
        try:
            yield told
        finally:
            stopping = True


async def until(condition: Callable[[], bool], within_s: float = PATIENCE_S) -> None:
    """Wait until something without an event of its own is true."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)


# --- after the storm --------------------------------------------------------------------------


async def settled(rig: Rig) -> dict[bytes, CallEnd]:
    """Wait until the data plane is at rest; return the record of each call by its number.

    Asserts that nothing is left of any call: no hold, no count, no memory, and one record each.
    """
    server = rig.server
    await until(lambda: server.counters.inflight == 0)
    assert len(server.engine.running_calls) == 0
    assert not any(server.engine.balancer._in_flight.values())
    assert server.engine.exchange._splicer._budget.kept_bytes == 0
    await until(lambda: all(connection.usable for connection in server.pool._open))
    begun = [start.request_id for start in rig.journal.starts]
    ended = [end.request_id for end in rig.journal.ends]
    assert sorted(begun) == sorted(ended) and len(set(ended)) == len(ended)
    return {end.request_id: end for end in rig.journal.ends}
