"""What the tests of TLS stand on: servers over blocking sockets, and an upstream's end by hand.

A `Pair` is a transport of ours and OpenSSL's own server side, with a wire in between that a test
moves bytes over: as many at a time, in as many pieces, and with as much damage as it likes.
"""

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from relay.upstream.tls import TlsPlace, TlsTransport, open_tls

AUTHORITY: Final = Path(__file__).parent / "authority"
VERSIONS: Final = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
PATIENCE_S: Final = 10.0
READ_BYTES: Final = 64 * 1024
ORIGIN: Final = ("https", "localhost", 443, None)
both = pytest.mark.parametrize("version", VERSIONS, ids=["1.2", "1.3"])


def offering(version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(AUTHORITY / "good.pem", AUTHORITY / "key.pem")
    context.minimum_version = context.maximum_version = version
    return context


def trusting() -> ssl.SSLContext:
    """Return what verifies the servers here, as the pool verifies others."""
    return ssl.create_default_context(cafile=AUTHORITY / "ca.pem")


@contextmanager
def serving(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Give each connection to a function in a thread of its own; yield the port."""

    def serve_one(raw: socket.socket) -> None:
        with suppress(OSError), raw:
            serve(raw)

    def accept() -> None:
        while True:
            try:
                raw, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve_one, args=(raw,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()


@contextmanager
def speaking(
    context: ssl.SSLContext, answer: bytes = b"", *, notifies: bool = True
) -> Iterator[int]:
    """Serve over TLS: each connection is told `answer` once it asked, and is left."""

    def serve(raw: socket.socket) -> None:
        with context.wrap_socket(raw, server_side=True) as sock:
            # Closing it says nothing of TLS: the end of TCP alone, as of a wire that is cut.
            while answer and b"\r\n\r\n" not in sock.recv(65_536):
                pass
            sock.sendall(answer)
            if notifies:
                sock.unwrap()

    with serving(serve) as port:
        yield port


class Heard(asyncio.Protocol):
    """A protocol that keeps what it is told, in order."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.reads: list[bytes] = []
        self.told: list[str] = []
        self.error: Exception | None = None
        self.on_data: Callable[[bytes], None] | None = None
        self.changed = asyncio.Event()

    @property
    def data(self) -> bytes:
        return b"".join(self.reads)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._note("made")

    def data_received(self, data: bytes) -> None:
        self.reads.append(data)
        if self.on_data is not None:
            self.on_data(data)
        self.changed.set()

    def eof_received(self) -> bool:
        self._note("eof")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.error = exc
        self._note("lost")

    def pause_writing(self) -> None:
        self._note("paused")

    def resume_writing(self) -> None:
        self._note("resumed")

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until something is so that what it is told makes so."""
        async with asyncio.timeout(PATIENCE_S):
            while not is_so():
                self.changed.clear()
                await self.changed.wait()

    async def until_lost(self) -> None:
        await self.until(lambda: "lost" in self.told)

    def _note(self, what: str) -> None:
        self.told.append(what)
        self.changed.set()


@asynccontextmanager
async def connected(port: int, place: TlsPlace | None = None) -> AsyncIterator[Heard]:
    """Connect to a server of this machine over a transport of ours."""
    heard = Heard()
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    over = TlsTransport(place or TlsPlace(), ORIGIN, trusting(), "localhost", heard)
    await open_tls(over, sock)
    try:
        yield heard
    finally:
        over.abort()
        await heard.until_lost()


class Wire(asyncio.Transport):
    """A plain transport whose socket is a test: it takes what is written until it is told not to.

    As a loop's it tells of its end later, and not within the call that ends it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.over: TlsTransport | None = None
        self.written = bytearray()
        self.takes_bytes: int | None = None
        """What is left of the room in its buffer; None = no end of it."""
        self.reads = True
        self.ended = ""

    def write(self, data: Any) -> None:
        assert not self.ended
        self.written += data
        if self.takes_bytes is not None:
            self.takes_bytes -= len(data)
            if self.takes_bytes <= 0:
                assert self.over is not None
                self.over.pause_writing()

    def get_write_buffer_size(self) -> int:
        return len(self.written) if self.takes_bytes is not None else 0

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def is_closing(self) -> bool:
        return bool(self.ended)

    def close(self) -> None:
        self._end("closed")

    def abort(self) -> None:
        self._end("aborted")

    def _end(self, how: str) -> None:
        if not self.ended:
            asyncio.get_running_loop().call_soon(self._tell_end)
        self.ended = self.ended or how

    def _tell_end(self) -> None:
        assert self.over is not None
        self.over.connection_lost(None)


class Pair:
    """A transport of ours, its protocol, and OpenSSL's server side at the other end of a wire."""

    def __init__(
        self,
        version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
        *,
        place: TlsPlace | None = None,
        server: ssl.SSLContext | None = None,
        client: ssl.SSLContext | None = None,
        host: str = "localhost",
    ) -> None:
        self.place = place or TlsPlace()
        self.heard = Heard()
        self.over = TlsTransport(
            self.place, ("https", host, 443, None), client or trusting(), host, self.heard
        )
        shaken = self.over.shaken
        assert shaken is not None
        self.shaken = shaken
        self.wire = Wire()
        self.wire.over = self.over
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = server or offering(version)
        self.peer = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    def begin(self) -> None:
        """Have the client say its first word."""
        self.over.connection_made(self.wire)
        self.check_buffers()

    def shake(self, read_bytes: int = READ_BYTES) -> None:
        """Shake hands, in reads of so many bytes at most."""
        self.begin()
        for _ in range(3):
            with suppress(ssl.SSLWantReadError):
                self.listen()
                self.peer.do_handshake()
            self.deliver(self.take(), read_bytes)
        assert self.heard.told == ["made"]

    def listen(self) -> None:
        """Let the peer's end have what was written."""
        self._incoming.write(bytes(self.wire.written))
        self.wire.written.clear()

    def hear(self, size: int = 1 << 24) -> bytes:
        """Return what the peer reads of it."""
        self.listen()
        parts: list[bytes] = []
        with suppress(ssl.SSLWantReadError):
            while part := self.peer.read(size):
                parts.append(part)
        return b"".join(parts)

    def take(self) -> bytes:
        """Return what the peer has to send."""
        return self._outgoing.read()

    def say(self, *records: bytes) -> bytes:
        """Return what the peer sends for these records."""
        for record in records:
            self.peer.write(record)
        return self.take()

    def deliver(self, raw: bytes, read_bytes: int = READ_BYTES) -> None:
        """Have the socket read something."""
        for at in range(0, len(raw), read_bytes):
            self.over.data_received(raw[at : at + read_bytes])
            self.check_buffers()

    def check_buffers(self) -> None:
        """Nothing of one connection may be there for another to find."""
        buffers = self.place.buffers
        assert (buffers.incoming.pending, buffers.outgoing.pending) == (0, 0)
