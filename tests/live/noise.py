"""One kind of noisy strangers before a relay; a process of its own, that takes nobody's processor.

    python -m tests.live.noise KIND COUNT RELAY_PORT [KEY UPSTREAM_PORT]

    idle       sockets that have asked one thing, and are silent
    readers    streams that are read drop by drop
    pipelines  requests sent ahead for ever; every other one never reads its answers
    guesses    keys that are guessed, one after the other

Strangers are elsewhere in truth, with processors of their own. So these have what nobody else wants
(SCHED_IDLE), from the moment when all have come: how they come is not measured, and must not take
long. Whom the relay turns away is counted, and the others go on. Told on stdout, as lines of JSON:
when all is under way, and again when SIGTERM ends it.
"""

import asyncio
import contextlib
import itertools
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Final, cast

import uvloop

from tests.live.whole.hostile_upstream import EVENT, STREAM, chunk

COME_S: Final = 30.0
"""Who has not come by then stays away, and is counted."""
ANSWER_S: Final = 15.0
PER_ADDRESS: Final = 3_000
"""Of the sockets of one client address there are only so many ports."""
COMING: Final = 200
LOOK_S: Final = 1.0
GUESSES: Final = 50
"""From one address: who goes on from it is told to wait, and is not read."""
BURST: Final = 100
SIP_BYTES: Final = 512
SIP_S: Final = 1.0
HELLO: Final = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
NOPE: Final = b"GET /nope HTTP/1.1\r\nHost: a\r\n\r\n"
CALL: Final = (
    "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n"
    "Content-Type: application/json\r\nContent-Length: {size}\r\n\r\n{body}"
)
STREAM_BYTES: Final = 300_000


def call(key: str, model: str) -> bytes:
    """Return a call for a stream."""
    said = [{"role": "user", "content": "hi"}]
    body = json.dumps({"model": model, "stream": True, "messages": said})
    return CALL.format(key=key, size=len(body), body=body).encode()


class Source(asyncio.Protocol):
    """An upstream that says much at once, and then nothing."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._begun = False

    def data_received(self, data: bytes) -> None:
        if not self._begun:
            self._begun = True
            self._transport.write(STREAM + chunk(EVENT) * (STREAM_BYTES // len(EVENT)))


class Noise(ABC):
    """Strangers of one kind.

    Args:
        port: The relay's.

    `held`: how many are there now. `said`: what was answered, and how often.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.held = 0
        self.said: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    @abstractmethod
    async def come(self, count: int) -> None:
        """Have so many come; they go on by themselves."""

    def begin(self, work: Coroutine[None, None, None]) -> None:
        """Have something go on beside the others."""
        self._tasks.add(asyncio.create_task(work))

    def fallen(self) -> list[str]:
        """Return what ended that should have gone on."""
        return [repr(task.exception()) for task in self._tasks if task.done()]

    async def connect(self, address: str, receive_bytes: int = 4096) -> socket.socket:
        """Return a socket that takes little."""
        sock = socket.socket()
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            sock.setblocking(False)
            sock.bind((address, 0))
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self._port))
        except BaseException:
            sock.close()
            raise
        return sock


class Idle(Noise):
    """Sockets that have asked one thing, and may be silent for longer then; they come back."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._waits = select.epoll()
        self._socks: dict[int, tuple[str, socket.socket]] = {}

    async def come(self, count: int) -> None:
        until_s = time.monotonic() + COME_S
        for begun in range(0, count, COMING):
            address = f"127.0.1.{1 + begun // PER_ADDRESS}"
            if time.monotonic() > until_s:
                self.said["stayed away"] += count - begun
                break
            await self._seat([address] * min(COMING, count - begun))
        self.begin(self._keep_sitting())

    async def _seat(self, addresses: list[str]) -> None:
        await asyncio.gather(*map(self._sit, addresses))

    async def _sit(self, address: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(ANSWER_S):
                sock = await self.connect(address)
                try:
                    await loop.sock_sendall(sock, HELLO)
                    told = await loop.sock_recv(sock, SIP_BYTES)
                except BaseException:
                    sock.close()
                    raise
        except (OSError, TimeoutError) as error:
            self.said[f"refused: {type(error).__name__}"] += 1
            return
        self.said[f"greeted {told[9:12].decode()}"] += 1
        if told:
            self._socks[sock.fileno()] = address, sock
            self._waits.register(sock, select.EPOLLIN)
            self.held += 1
        else:
            sock.close()

    async def _keep_sitting(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            left = [self._leave(file) for file, _ in self._waits.poll(0)]
            for begun in range(0, len(left), COMING):
                await self._seat(left[begun : begun + COMING])

    def _leave(self, file: int) -> str:
        """Let go of one that the relay has closed; return its address."""
        self.said["closed"] += 1
        self.held -= 1
        self._waits.unregister(file)
        address, sock = self._socks.pop(file)
        sock.close()
        return address


class Readers(Noise):
    """They take a stream drop by drop, and ask for another one when it is cut."""

    def __init__(self, port: int, key: str, upstream: int) -> None:
        super().__init__(port)
        self._request = call(key, "slow")
        self._upstream = upstream
        self._answered = asyncio.Semaphore(0)

    async def come(self, count: int) -> None:
        await asyncio.get_running_loop().create_server(
            Source, "127.0.0.1", self._upstream, backlog=count
        )
        for _ in range(count):
            self.begin(self._read_for_ever())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(COME_S):
                for _ in range(count):
                    await self._answered.acquire()

    async def _read_for_ever(self) -> None:
        while True:
            try:
                await self._sip()
            except OSError as error:
                self.said[f"broken: {type(error).__name__}"] += 1
            self._answered.release()
            await asyncio.sleep(SIP_S)

    async def _sip(self) -> None:
        loop, sock = asyncio.get_running_loop(), await self.connect("127.0.2.1")
        try:
            await loop.sock_sendall(sock, self._request)
            first = await loop.sock_recv(sock, SIP_BYTES)
            self.said[first[9:12].decode() or "closed"] += 1
            if not first.startswith(b"HTTP/1.1 200"):
                return
            self.held += 1
            self._answered.release()
            try:
                while await loop.sock_recv(sock, SIP_BYTES):
                    await asyncio.sleep(SIP_S)
            finally:
                self.held -= 1
            self.said["cut"] += 1
        finally:
            sock.close()


class Pipelines(Noise):
    """They send requests ahead for ever; every other one never reads its answers."""

    async def come(self, count: int) -> None:
        for number in range(count):
            self.begin(self._flood(reads=bool(number % 2)))

    async def _flood(self, *, reads: bool) -> None:
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", self._port, local_addr=("127.0.3.1", 0)
                )
                self.held += 1
                try:
                    await self._send_ahead(reader, writer, reads=reads)
                finally:
                    self.held -= 1
                    writer.transport.abort()
            self.said["cut"] += 1
            await asyncio.sleep(0.1)

    async def _send_ahead(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, reads: bool
    ) -> None:
        if not reads:
            writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's has it
        while not writer.transport.is_closing():
            writer.write(NOPE * BURST)
            await writer.drain()
            if reads:
                answers = await reader.read(2**20)
                self.said["answered"] += answers.count(b"HTTP/1.1 404")
                if not answers:
                    break


class Guesses(Noise):
    """They guess keys, some from each address, so that none is told to wait."""

    async def come(self, count: int) -> None:
        self._numbers = itertools.count(1)
        for number in range(count):
            self.begin(self._guess(f"{number:02d}"))

    async def _guess(self, name: str) -> None:
        while True:
            number = next(self._numbers)
            own = f"127.{1 + number // 62_500}.{number // 250 % 250}.{1 + number % 250}", 0
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", self._port, local_addr=own
                )
                self.held += 1
                try:
                    for turn in range(GUESSES):
                        key = f"relay_{number:030d}{name}{turn:08d}"
                        writer.write(call(key, "calm"))
                        await self._hear(reader)
                finally:
                    self.held -= 1
                    writer.transport.abort()

    async def _hear(self, reader: asyncio.StreamReader) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length: ")[2].split()[0])
        await reader.readexactly(size)
        self.said[head[9:12].decode()] += 1


def noise_of(kind: str, port: int, key: str = "", upstream: str = "0") -> Noise:
    """Return strangers of one kind."""
    if kind == "readers":
        return Readers(port, key, int(upstream))
    kinds: dict[str, Callable[[int], Noise]] = {
        "idle": Idle,
        "pipelines": Pipelines,
        "guesses": Guesses,
    }
    return kinds[kind](port)


async def main(noise: Noise, count: int) -> None:
    """Make noise until SIGTERM."""
    ended, begun_s = asyncio.Event(), time.monotonic()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await noise.come(count)
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    tell(noise, time.monotonic() - begun_s)
    await ended.wait()
    tell(noise, time.monotonic() - begun_s)


def tell(noise: Noise, took_s: float) -> None:
    """Say how many there are, and what they were answered."""
    told = {"held": noise.held, "took_s": round(took_s, 1), **noise.said}
    sys.stdout.write(json.dumps({**told, "fallen": noise.fallen()[:3]}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(main(noise_of(sys.argv[1], int(sys.argv[3]), *sys.argv[4:]), int(sys.argv[2])))
