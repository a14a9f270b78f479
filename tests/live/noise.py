"""What noisy strangers do to a relay all at once; a process of its own, so that it can be niced.

    python -m tests.live.noise RELAY_PORT KEY UPSTREAM_PORT IDLE READERS

idle sockets that say nothing, readers that take a stream drop by drop, pipelines that are read and
pipelines that are not, guessed keys one after the other. It tells on stdout when all of it is under
way, and what was answered when it is ended by SIGTERM.
"""

import asyncio
import contextlib
import itertools
import os
import resource
import signal
import socket
import sys
from collections import Counter
from typing import Final, cast

import uvloop

from tests.flow.rig import post
from tests.live.whole.hostile_upstream import EVENT, STREAM, chunk

NICE: Final = 19
IDLE_PER_ADDRESS: Final = 3_000
"""Of the sockets of one client address there are only so many ports."""
CONNECTING: Final = 200
PIPELINES: Final = 4
GUESSERS: Final = 8
GUESSES: Final = 50
BURST: Final = 100
SIP_BYTES: Final = 512
SIP_S: Final = 1.0
HELLO: Final = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
NOPE: Final = b"GET /nope HTTP/1.1\r\nHost: a\r\n\r\n"
STREAM_BYTES: Final = 300_000


class Source(asyncio.Protocol):
    """An upstream that says much at once, and then nothing."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._begun = False

    def data_received(self, data: bytes) -> None:
        if not self._begun:
            self._begun = True
            self._transport.write(STREAM + chunk(EVENT) * (STREAM_BYTES // len(EVENT)))


class Noise:
    """All of them.

    Args:
        port: The relay's.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._addresses = itertools.count(1)
        self.said: Counter[str] = Counter()

    async def connect(self, address: str = "127.0.0.1") -> socket.socket:
        """Return a socket that takes little."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        sock.bind((address, 0))
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self._port))
        return sock

    async def greet(self, address: str) -> socket.socket:
        """Return a socket that has asked one thing, and may be silent for longer then."""
        loop, sock = asyncio.get_running_loop(), await self.connect(address)
        await loop.sock_sendall(sock, HELLO)
        await loop.sock_recv(sock, SIP_BYTES)
        return sock

    async def sit(self, count: int) -> list[socket.socket]:
        """Connect so often, and say nothing more."""
        socks: list[socket.socket] = []
        for begun in range(0, count, CONNECTING):
            address = f"127.0.1.{1 + begun // IDLE_PER_ADDRESS}"
            made = (self.greet(address) for _ in range(min(CONNECTING, count - begun)))
            socks += await asyncio.gather(*made)
        return socks

    async def keep_sitting(self, socks: list[socket.socket]) -> None:
        """Come back for those that were closed."""
        while True:
            await asyncio.sleep(1.0)
            for at, sock in enumerate(socks):
                with contextlib.suppress(BlockingIOError, ConnectionError):
                    if sock.recv(1) == b"":
                        self.said["idle closed"] += 1
                        address = sock.getsockname()[0]
                        sock.close()
                        socks[at] = await self.greet(address)

    async def sip(self, request: bytes) -> None:
        """Ask for a stream and read it drop by drop."""
        loop, sock = asyncio.get_running_loop(), await self.connect("127.0.2.1")
        await loop.sock_sendall(sock, request)
        first = await loop.sock_recv(sock, SIP_BYTES)
        self.said[f"readers {first[9:12].decode()}"] += 1
        while await loop.sock_recv(sock, SIP_BYTES):
            await asyncio.sleep(SIP_S)
        self.said["readers cut"] += 1

    async def flood(self, *, reads: bool) -> None:
        """Send requests ahead for ever."""
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            with contextlib.suppress(ConnectionError):
                while True:
                    writer.write(NOPE * BURST)
                    await writer.drain()
                    if reads:
                        answers = await reader.read(2**20)
                        self.said["pipelined"] += answers.count(b"HTTP/1.1 404")
                        if not answers:
                            break
            writer.transport.abort()

    async def guess(self) -> None:
        """Guess keys, some from each address: who goes on from one is told to wait."""
        guessed = 0
        while True:
            number = next(self._addresses)
            own = (f"127.{1 + number // 62_500}.{number // 250 % 250}.{1 + number % 250}", 0)
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port, local_addr=own)
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                for _ in range(GUESSES):
                    guessed += 1
                    key = f"relay_{guessed:040d}"
                    raw = post("/v1/chat/completions", {"model": "calm"}, key=key)
                    writer.write(raw.replace(b"Connection: close\r\n", b""))
                    head = await reader.readuntil(b"\r\n\r\n")
                    size = int(head.lower().partition(b"content-length: ")[2].split()[0])
                    await reader.readexactly(size)
                    self.said[f"guessed {head[9:12].decode()}"] += 1
            writer.transport.abort()


async def main(port: int, key: str, upstream: int, idle: int, readers: int) -> None:
    """Make noise until SIGTERM."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    await loop.create_server(Source, "127.0.0.1", upstream)
    noise = Noise(port)
    body = {"model": "slow", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    request = post("/v1/chat/completions", body, key=key)
    works = [noise.sip(request) for _ in range(readers)]
    tasks = {asyncio.create_task(work) for work in works}
    while sum(noise.said.values()) < readers:
        await asyncio.sleep(0.05)
    socks = await noise.sit(idle)
    works = [noise.keep_sitting(socks)]
    works += [noise.flood(reads=bool(at % 2)) for at in range(PIPELINES)]
    works += [noise.guess() for _ in range(GUESSERS)]
    tasks |= {asyncio.create_task(work) for work in works}
    sys.stdout.write("under way\n")
    sys.stdout.flush()
    await ended.wait()
    fallen = [repr(task.exception()) for task in tasks if task.done() and task.exception()]
    sys.stdout.write(f"{dict(noise.said)} {fallen[:3]}\n")


if __name__ == "__main__":
    os.nice(NICE)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    given = [int(word) for word in (sys.argv[1], *sys.argv[3:])]
    uvloop.run(main(given[0], sys.argv[2], *given[1:]))
