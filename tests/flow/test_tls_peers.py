"""Goal: our transport of TLS, against real peers over sockets, loses nothing and keeps nothing.

Method: servers of Python's ssl that are slow, silent or long-winded, and `openssl s_server` for
what these cannot do: new keys, and hands shaken anew. What a connection keeps, glibc tells.
"""

import asyncio
import ctypes
import gc
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from relay.config import Timeouts
from relay.edge.tunnel.upstream_socket import UpstreamSocket
from relay.errors import CertificateInvalid, ConnectFailed
from relay.upstream.pool import UpstreamPool
from relay.upstream.tls import TlsPlace, TlsTransport
from relay.upstream.tls_sending import TURN_BYTES
from relay.wire.websocket import FrameReader, accept_of
from tests.flow.rig import make_channel
from tests.flow.tls_rig import (
    AUTHORITY,
    PATIENCE_S,
    Pair,
    both,
    connected,
    offering,
    serving,
    speaking,
    trusting,
)

LONG_BYTES: Final = 8 << 20


@pytest.fixture(scope="module")
def long() -> bytes:
    return os.urandom(LONG_BYTES)


# --- both ways ------------------------------------------------------------------------------------


async def test_what_asyncio_tells_of_a_transport_is_told() -> None:
    with speaking(offering()) as port:
        async with connected(port) as heard:
            over = heard.transport
            assert over.get_extra_info("peername")[1] == port
            assert over.get_extra_info("ssl_object").version() == "TLSv1.3"
            assert over.get_extra_info("socket").getpeername()[1] == port
            assert over.get_extra_info("nothing", 5) == 5
            assert over.get_protocol() is heard
            over.set_write_buffer_limits(high=10)


async def test_who_takes_nothing_does_not_hold_up_a_close_for_ever(long: bytes) -> None:
    done = threading.Event()

    def serve(raw: socket.socket) -> None:
        with offering().wrap_socket(raw, server_side=True):
            done.wait(PATIENCE_S * 2)

    with serving(serve) as port:
        async with connected(port) as heard:
            heard.transport.write(long)
            heard.transport.close()
            await heard.until_lost()
    done.set()
    assert heard.told[-1] == "lost" and "eof" not in heard.told


@both
async def test_a_server_that_reads_slowly_gets_all_and_memory_is_bounded(
    version: ssl.TLSVersion, long: bytes
) -> None:
    read, begins, done = bytearray(), threading.Event(), threading.Event()

    def serve(raw: socket.socket) -> None:
        with offering(version).wrap_socket(raw, server_side=True) as sock:
            begins.wait(PATIENCE_S)
            while part := sock.recv(3000):
                read.extend(part)
        done.set()

    with serving(serve) as port:
        async with connected(port) as heard:
            for at in range(0, len(long), 1 << 20):
                heard.transport.write(long[at : at + (1 << 20)])
            await heard.until(lambda: "paused" in heard.told)
            plain = heard.transport._plain
            assert plain.get_write_buffer_size() < 3 * TURN_BYTES
            begins.set()
            await heard.until(lambda: "resumed" in heard.told)
            assert plain.get_write_buffer_size() < 3 * TURN_BYTES
            heard.transport.close()
            await heard.until_lost()
            assert heard.error is None
        assert await asyncio.to_thread(done.wait, PATIENCE_S)
    assert bytes(read) == long


@both
async def test_long_and_short_words_pass_each_other(version: ssl.TLSVersion, long: bytes) -> None:
    """All that is said comes back while more of it is said, in pieces of a byte to a megabyte."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100_000):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=offering(version))
    async with connected(server.sockets[0].getsockname()[1]) as heard:
        at, sizes = 0, (1, 100, 16_384, 16_385, 70_000, 1 << 20)
        while at < len(long):
            for size in sizes:
                heard.transport.write(long[at : at + size])
                at += size
            await asyncio.sleep(0)
        await heard.until(lambda: sum(map(len, heard.reads)) >= len(long))
        assert heard.data == long
    server.close()


@both
async def test_who_does_not_read_holds_its_peer_up(version: ssl.TLSVersion, long: bytes) -> None:
    sent_bytes = [0]

    def serve(raw: socket.socket) -> None:
        with offering(version).wrap_socket(raw, server_side=True) as sock:
            sock.recv(1)
            for at in range(0, len(long), 10_000):
                sock.sendall(long[at : at + 10_000])
                sent_bytes[0] = at
            sock.unwrap()

    with serving(serve) as port:
        async with connected(port) as heard:
            heard.on_data = lambda _: heard.transport.pause_reading()
            heard.transport.write(b"x")
            await heard.until(lambda: bool(heard.reads))
            before = -1
            while sent_bytes[0] != before:  # until the kernel's buffers are full
                before = sent_bytes[0]
                await asyncio.sleep(0.1)
            assert len(heard.reads) == 1 and len(heard.data) <= 256_000
            heard.on_data = None
            heard.transport.resume_reading()
            await heard.until_lost()
            assert heard.data == long and heard.told == ["made", "eof", "lost"]


class Talker:
    """`openssl s_server`: each word that is said to it is a command, or goes to its client."""

    def __init__(self, version: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        words = (
            "s_server",
            "-accept",
            f"127.0.0.1:{self.port}",
            "-msg",
            version,
            "-legacy_server_connect",
        )
        files = ("-cert", AUTHORITY / "good.pem", "-key", AUTHORITY / "key.pem")
        self._process = subprocess.Popen(
            ["openssl", *words[:-1], *map(str, files)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._seen = bytearray()
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def say(self, word: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word + b"\n")
        self._process.stdin.flush()

    async def until(self, sees: Callable[[bytes], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not sees(bytes(self._seen)):
                await asyncio.sleep(0.01)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reading.join()
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        while part := os.read(self._process.stdout.fileno(), 65_536):
            self._seen += part


@contextmanager
def talking(version: str) -> Iterator[Talker]:
    talker = Talker(version)
    try:
        yield talker
    finally:
        talker.end()


def got(word: bytes, times: int) -> Callable[[bytes], bool]:
    return lambda seen: seen.count(word) >= times


@pytest.mark.parametrize("command", [b"k", b"K"], ids=["its own keys", "ours too"])
async def test_new_keys_are_followed_and_given(command: bytes) -> None:
    with talking("-tls1_3") as talker:
        await talker.until(got(b"ACCEPT", 1))
        async with connected(talker.port) as heard:
            await talker.until(got(b"CIPHER is", 1))
            for times in (1, 2, 3):
                talker.say(command)
                await talker.until(got(b">>> TLS 1.3, Handshake [length 0005], KeyUpdate", times))
                talker.say(b"after %d" % times)
                await heard.until(lambda: heard.data.count(b"\n") >= times)  # noqa: B023
                heard.transport.write(b"answer %d." % times)
                await talker.until(got(b"answer %d." % times, 1))
                if command == b"K":
                    await talker.until(
                        got(b"<<< TLS 1.3, Handshake [length 0005], KeyUpdate", times)
                    )
            assert heard.data == b"after 1\nafter 2\nafter 3\n" and heard.told == ["made"]


@pytest.mark.parametrize("command", [b"r", b"R"])
async def test_hands_may_be_shaken_once_more(command: bytes) -> None:
    with talking("-tls1_2") as talker:
        await talker.until(got(b"ACCEPT", 1))
        async with connected(talker.port) as heard:
            await talker.until(got(b"CIPHER is", 1))
            for times in (1, 2):
                talker.say(command)
                await talker.until(got(b"HelloRequest", times))
                heard.transport.write(b"meanwhile %d." % times)
                talker.say(b"after %d" % times)
                await heard.until(lambda: heard.data.count(b"\n") >= times)  # noqa: B023
                heard.transport.write(b"answer %d." % times)
                await talker.until(got(b"answer %d." % times, 1))
                await talker.until(got(b"meanwhile %d." % times, 1))
            await talker.until(got(b"<<< TLS 1.2, Handshake [length 0010], Finished", 3))
            assert heard.told == ["made"] and heard.transport._unsent is None


# --- dialling -------------------------------------------------------------------------------------


async def test_who_does_not_shake_hands_in_time_is_let_go_of() -> None:
    ended: list[bytes] = []
    gone = threading.Event()

    def serve(raw: socket.socket) -> None:
        while part := raw.recv(10_000):
            ended.append(part)
        gone.set()

    with serving(serve) as port:
        pool = UpstreamPool(Timeouts(connect_s=0.3), trusting())
        channel = make_channel(1, port, base_url=f"https://localhost:{port}/v1")
        with pytest.raises(ConnectFailed, match="in time"):
            await pool.dial(channel)
        assert pool.open_count == 0
        assert await asyncio.to_thread(gone.wait, PATIENCE_S) and ended


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x03"])
async def test_who_hangs_up_in_the_handshake_could_not_be_reached(said: bytes) -> None:
    def serve(raw: socket.socket) -> None:
        raw.recv(10_000)
        raw.sendall(said)

    with serving(serve) as port:
        pool = UpstreamPool(Timeouts(), trusting())
        channel = make_channel(1, port, base_url=f"https://localhost:{port}/v1")
        with pytest.raises(ConnectFailed, match="could not be reached"):
            await pool.dial(channel)
        assert pool.open_count == 0


async def test_who_is_not_trusted_is_told_so() -> None:
    told: list[str] = []
    heard = threading.Event()

    def serve(raw: socket.socket) -> None:
        try:
            with offering().wrap_socket(raw, server_side=True) as sock:
                sock.recv(1)
        except ssl.SSLError as error:
            told.append(str(error))
        heard.set()

    with serving(serve) as port:
        pool = UpstreamPool(Timeouts(), ssl.create_default_context())
        channel = make_channel(1, port, base_url=f"https://localhost:{port}/v1")
        with pytest.raises(CertificateInvalid):
            await pool.dial(channel)
        assert await asyncio.to_thread(heard.wait, PATIENCE_S)
    assert "ALERT_UNKNOWN_CA" in told[0]


class Listener:
    """Keeps what an upstream says over a WebSocket."""

    def __init__(self) -> None:
        self.texts: list[bytes] = []
        self.gone = asyncio.get_running_loop().create_future()

    def heard(self, text: bytes) -> None:
        self.texts.append(text)

    def upstream_slow(self, *, slow: bool) -> None:
        raise AssertionError("nobody is slow here")

    def upstream_gone(self, code: int) -> None:
        self.gone.set_result(code)


@both
async def test_a_websocket_runs_over_it(version: ssl.TLSVersion) -> None:
    asked: list[bytes] = []

    def serve(raw: socket.socket) -> None:
        with offering(version).wrap_socket(raw, server_side=True) as sock:
            head = sock.recv(10_000)
            key = head.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
            accept = accept_of(key.decode()) or ""
            sock.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Accept: " + accept.encode() + b"\r\n\r\n" + b"\x81\x05hello"
            )
            reader = FrameReader(1000, masked=True)
            for message in reader.feed(sock.recv(10_000)):
                asked.append(message.payload)
                sock.sendall(b"\x81\x03yes" + b"\x88\x02\x03\xe8")
            sock.recv(100)

    with serving(serve) as port:
        channel = make_channel(1, port, base_url=f"https://localhost:{port}/v1")
        pool, listener = UpstreamPool(Timeouts(), trusting()), Listener()
        upstream = UpstreamSocket(channel, listener, model_gone_switches=False)
        await upstream.open(await pool.dial(channel), "/v1/realtime", b"")
        upstream.say(b"are you there?")
        async with asyncio.timeout(PATIENCE_S):
            assert await listener.gone == 1000
        assert (listener.texts, asked) == ([b"hello", b"yes"], [b"are you there?"])
        assert pool.open_count == 0


# --- memory ---------------------------------------------------------------------------------------


class Heap(ctypes.Structure):
    """What glibc tells of its heap."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def used_bytes() -> int:
    gc.collect()
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        pytest.skip("the C library does not tell what is used of its heap")
    libc.mallinfo2.restype = Heap
    heap = libc.mallinfo2()
    return int(heap.uordblks) + int(heap.hblkhd)


@both
async def test_an_open_connection_is_small(version: ssl.TLSVersion) -> None:
    """Of what OpenSSL has for a connection no buffer is left: one alone would be 16 KiB."""
    place, server, client = TlsPlace(), offering(version), trusting()

    def opened() -> TlsTransport:
        pair = Pair(place=place, server=server, client=client)
        pair.shake()
        pair.over.write(b"question" * 1000)
        pair.hear()
        pair.deliver(pair.say(b"answer" * 5000))
        pair.deliver(pair.say(b"event"))
        pair.heard.reads.clear()
        return pair.over

    kept = [opened() for _ in range(20)]
    before = used_bytes()
    kept += [opened() for _ in range(100)]
    each = (used_bytes() - before) / 100
    assert 4_000 < each < 24_000, each
    del kept
