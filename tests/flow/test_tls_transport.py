"""Goal: our transport of TLS gives a protocol what its peer meant, whatever the wire does to it.

Method: OpenSSL's own server side, by hand over a wire that a test cuts where it likes (Pair), and
over sockets: servers of Python's ssl, and `openssl s_server` for what that cannot do.
"""

import asyncio
import ctypes
import gc
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final

import pytest

from relay.config import Timeouts
from relay.errors import ConnectFailed
from relay.upstream.pool import UpstreamPool
from relay.upstream.tls import TlsPlace, TlsTransport, open_tls
from relay.upstream.tls_sending import TURN_BYTES
from relay.upstream.tls_sessions import REPLACED_S, SESSIONS_MAX, VERIFIED_S, TlsSessions
from tests.flow.rig import make_channel
from tests.flow.tls_rig import (
    AUTHORITY,
    PATIENCE_S,
    VERSIONS,
    Heard,
    Pair,
    offering,
    serving,
    speaking,
    trusting,
)

LONG_BYTES: Final = 8 << 20
ORIGIN: Final = ("https", "localhost", 443, None)
TLS12, TLS13 = VERSIONS
both = pytest.mark.parametrize("version", VERSIONS, ids=["1.2", "1.3"])


@pytest.fixture(scope="module")
def long() -> bytes:
    return os.urandom(LONG_BYTES)


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


# --- records --------------------------------------------------------------------------------------


@both
async def test_hands_are_shaken_and_words_are_heard_in_reads_of_any_size(
    version: ssl.TLSVersion,
) -> None:
    for size in (1, 2, 3, 5, 7, 64, 1000):
        pair = Pair(version)
        pair.shake(size)
        await pair.shaken
        pair.over.write(b"question")
        assert pair.hear() == b"question"
        pair.deliver(pair.say(b"one", b"two" * 1000, b"three"), size)
        assert pair.heard.data == b"one" + b"two" * 1000 + b"three"


@both
async def test_records_may_be_cut_at_every_byte(version: ssl.TLSVersion) -> None:
    pair = Pair(version)
    pair.shake()
    words = (b"a", b"bc" * 40, b"def")
    size = len(pair.say(*words))
    pair = Pair(version)
    pair.shake()
    for at in range(1, size):
        raw = pair.say(*words)
        pair.heard.reads.clear()
        pair.deliver(raw[:at])
        before = len(pair.heard.reads)
        pair.deliver(raw[at:])
        assert pair.heard.data == b"".join(words), at
        assert before <= 1 and len(pair.heard.reads) - before == 1, at


@both
async def test_one_read_is_one_call_however_many_records_it_brings(
    version: ssl.TLSVersion,
) -> None:
    pair = Pair(version)
    pair.shake()
    for words in ([b"x"], [b"x"] * 500, [b"y" * 16_384] * 9, [b"", b"z", b"", b"z"]):
        pair.heard.reads.clear()
        raw = pair.say(*words)
        pair.deliver(raw, len(raw))
        assert pair.heard.reads == [b"".join(words)]


@both
async def test_the_end_of_a_long_record_brings_all_of_it(version: ssl.TLSVersion) -> None:
    pair = Pair(version)
    pair.shake()
    raw = pair.say(b"x" * 16_000)
    pair.deliver(raw[:-1], len(raw))
    assert pair.heard.data == b""
    pair.deliver(raw[-1:])
    assert pair.heard.reads == [b"x" * 16_000]


async def test_what_comes_with_the_end_of_the_handshake_comes_after_it() -> None:
    """A server of TLS 1.3 may say something before it has heard the client's last word."""
    order: list[str] = []
    pair = Pair()
    pair.heard.on_data = lambda data: order.append(data.decode())
    pair.begin()
    pair.listen()
    with pytest.raises(ssl.SSLWantReadError):
        pair.peer.do_handshake()
    first = pair.take()
    pair.deliver(first)
    pair.listen()
    pair.peer.do_handshake()
    pair.deliver(pair.say(b"early"))
    assert pair.heard.told == ["made"] and order == ["early"]


# --- connections that share buffers ---------------------------------------------------------------


@both
async def test_connections_of_one_place_do_not_hear_each_other(version: ssl.TLSVersion) -> None:
    """One is opened, and one is written to, while another one is told something."""
    place = TlsPlace()
    pairs = [Pair(version, place=place) for _ in range(4)]
    pairs[0].shake()
    pairs[1].shake(10)
    began: list[Pair] = []

    def meanwhile(_: bytes) -> None:
        pair = Pair(version, place=place)
        pair.begin()
        began.append(pair)
        pairs[1].over.write(b"meanwhile")

    pairs[0].heard.on_data = meanwhile
    for size in (1, 7, 1000):
        raw = pairs[0].say(b"x" * 100, b"y" * 100)
        pairs[2].begin() if size == 1 else None
        pairs[0].deliver(raw, size)
    assert pairs[0].heard.data == (b"x" * 100 + b"y" * 100) * 3
    assert pairs[1].hear() == b"meanwhile" * len(began) and len(began) >= 3
    assert pairs[0].hear() == b""
    for pair in (*began, pairs[3]):
        if pair is pairs[3]:
            pair.begin()
        finish_shaking(pair)
        pair.over.write(b"mine")
        assert pair.hear() == b"mine"


def finish_shaking(pair: Pair) -> None:
    for _ in range(2):
        pair.listen()
        with suppress(ssl.SSLWantReadError):
            pair.peer.do_handshake()
        pair.deliver(pair.take())
    assert pair.heard.told == ["made"]


@both
async def test_what_fails_leaves_nothing_for_others(version: ssl.TLSVersion) -> None:
    place = TlsPlace()
    good, bad = Pair(version, place=place), Pair(version, place=place)
    good.shake()
    bad.shake()
    bad.deliver(b"\x17\x03\x03\x00\x20" + bytes(32) + b"and more of it" * 100)
    good.deliver(good.say(b"well"))
    await bad.heard.until_lost()
    assert isinstance(bad.heard.error, ssl.SSLError)
    assert good.heard.data == b"well" and good.heard.told == ["made"]


# --- ends -----------------------------------------------------------------------------------------


@both
async def test_a_peers_last_word_is_an_end_and_is_answered(version: ssl.TLSVersion) -> None:
    pair = Pair(version)
    pair.shake()
    raw = pair.say(b"last words")
    with pytest.raises(ssl.SSLWantReadError):
        pair.peer.unwrap()
    pair.deliver(raw + pair.take() + b"what nobody asked for")
    assert pair.heard.data == b"last words"
    await pair.heard.until_lost()
    assert pair.heard.told == ["made", "eof", "lost"] and pair.heard.error is None
    assert pair.wire.ended == "closed"
    pair.listen()
    pair.peer.unwrap()  # it has our close_notify: else this raises


@both
async def test_the_end_of_tcp_alone_is_a_cut(version: ssl.TLSVersion) -> None:
    pair = Pair(version)
    pair.shake()
    raw = pair.say(b"half of", b"it")
    pair.deliver(raw[:-1])
    assert not pair.over.eof_received()
    await pair.heard.until_lost()
    assert pair.heard.told == ["made", "lost"] and pair.heard.data == b"half of"
    assert isinstance(pair.heard.error, ssl.SSLEOFError)


@both
async def test_an_alert_in_mid_stream_is_told_behind_what_came_before(
    version: ssl.TLSVersion,
) -> None:
    pair = Pair(version)
    pair.shake()
    said = pair.say(b"before")
    pair.over.write(b"x" * 100)
    pair.wire.written[-1] ^= 1
    with pytest.raises(ssl.SSLError, match=r"BAD_RECORD_MAC|DECRYPTION_FAILED"):
        pair.listen()
        pair.peer.read(100)
    pair.deliver(said + pair.take())
    assert pair.heard.data == b"before"
    await pair.heard.until_lost()
    assert isinstance(pair.heard.error, ssl.SSLError) and "ALERT" in str(pair.heard.error)
    assert "eof" not in pair.heard.told


@both
async def test_a_record_that_was_changed_ends_it_and_the_peer_is_told(
    version: ssl.TLSVersion,
) -> None:
    pair = Pair(version)
    pair.shake()
    good, bad = pair.say(b"good"), bytearray(pair.say(b"bad"))
    bad[-1] ^= 1
    pair.deliver(good + bytes(bad) + pair.say(b"never"))
    await pair.heard.until_lost()
    assert pair.heard.data == b"good" and isinstance(pair.heard.error, ssl.SSLError)
    with pytest.raises(ssl.SSLError, match="ALERT"):
        pair.listen()
        pair.peer.read(100)


async def test_what_is_not_tls_is_refused_before_and_after_the_handshake() -> None:
    for begun in (False, True):
        pair = Pair()
        if begun:
            pair.shake()
        else:
            pair.begin()
        pair.deliver(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)
        if begun:
            await pair.heard.until_lost()
            assert isinstance(pair.heard.error, ssl.SSLError)
        else:
            with pytest.raises(ssl.SSLError):
                await pair.shaken
            assert pair.heard.told == []
        assert pair.wire.ended


async def test_who_garbles_and_takes_nothing_is_dropped_at_once() -> None:
    pair = Pair()
    pair.shake()
    pair.wire.takes_bytes = 10
    pair.over.write(b"x" * 100)
    pair.deliver(b"garbage, not TLS")
    assert pair.wire.ended == "aborted"
    await pair.heard.until_lost()


async def test_nothing_is_told_after_an_abort_but_the_end() -> None:
    pair = Pair()
    pair.shake()
    pair.heard.on_data = lambda _: pair.over.abort()
    raw = pair.say(b"one") + pair.say(b"two")
    half = len(raw) // 2
    pair.deliver(raw[:half] + raw[half:])
    pair.deliver(pair.say(b"three"))
    pair.over.write(b"four")
    pair.over.close()
    pair.over.pause_reading()
    assert pair.over.is_closing() and pair.wire.ended == "aborted"
    await pair.heard.until_lost()
    assert pair.heard.told == ["made", "lost"] and pair.heard.error is None
    assert pair.heard.data == b"onetwo" and pair.hear() == b""


async def test_a_socket_that_is_lost_is_told_with_its_error() -> None:
    pair = Pair()
    pair.shake()
    pair.over.connection_lost(ConnectionResetError())
    assert isinstance(pair.heard.error, ConnectionResetError)
    assert pair.over.get_write_buffer_size() == 0 and pair.over.get_extra_info("socket") is None
    shaking = Pair()
    shaking.begin()
    shaking.over.eof_received()
    with pytest.raises(ConnectionResetError):
        await shaking.shaken
    assert shaking.heard.told == []


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


# --- sending --------------------------------------------------------------------------------------


@both
async def test_of_what_waits_little_is_encrypted_ahead(
    version: ssl.TLSVersion, long: bytes
) -> None:
    pair = Pair(version)
    pair.shake()
    pair.wire.takes_bytes = 2 * TURN_BYTES
    pair.over.write(b"head")
    pair.over.write(long)
    pair.over.write(b"tail")
    assert pair.heard.told == ["made", "paused"]
    assert len(pair.wire.written) < 4 * TURN_BYTES
    assert len(long) < pair.over.get_write_buffer_size() < len(long) + TURN_BYTES
    heard = []
    while pair.over.get_write_buffer_size():
        heard.append(pair.hear())
        pair.wire.takes_bytes = TURN_BYTES
        pair.over.resume_writing()
    assert b"".join(heard) == b"head" + long + b"tail"
    assert pair.heard.told == ["made", "paused", "resumed"]
    assert pair.over._unsent is None


@both
async def test_what_was_written_is_sent_before_the_last_word(
    version: ssl.TLSVersion, long: bytes
) -> None:
    pair = Pair(version)
    pair.shake()
    pair.wire.takes_bytes = TURN_BYTES
    pair.over.write(long)
    pair.over.close()
    pair.over.close()
    assert pair.over.is_closing() and not pair.wire.ended and not pair.wire.reads
    heard = []
    while not pair.wire.ended:
        heard.append(pair.hear())
        pair.wire.takes_bytes = TURN_BYTES
        pair.over.resume_writing()
    heard.append(pair.hear())
    assert b"".join(heard) == long and pair.wire.ended == "closed"
    assert pair.peer.read(1) == b"" if version is TLS12 else True
    await pair.heard.until_lost()
    assert pair.heard.error is None


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


# --- both ways ------------------------------------------------------------------------------------


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
            for at in range(0, len(long), 10_000):
                sock.sendall(long[at : at + 10_000])
                sent_bytes[0] = at
            sock.unwrap()

    with serving(serve) as port:
        async with connected(port) as heard:
            heard.on_data = lambda _: heard.transport.pause_reading()
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
            for times in (1, 2, 3):
                talker.say(command)
                await talker.until(got(b"SSL_do_handshake -> 1", times))
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
            for times in (1, 2):
                talker.say(command)
                await talker.until(got(b"SSL_do_handshake -> 1", times))
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


async def test_who_hangs_up_in_the_handshake_could_not_be_reached() -> None:
    for said in (b"", b"\x16\x03\x03"):
        with serving(lambda raw: (raw.recv(10_000), raw.sendall(said))[1]) as port:  # noqa: B023
            pool = UpstreamPool(Timeouts(), trusting())
            channel = make_channel(1, port, base_url=f"https://localhost:{port}/v1")
            with pytest.raises(ConnectFailed, match="could not be reached"):
                await pool.dial(channel)
            assert pool.open_count == 0


# --- sessions -------------------------------------------------------------------------------------


def resumed(context: ssl.SSLContext, place: TlsPlace, server: ssl.SSLContext) -> bool:
    """Shake hands, say a word both ways; return whether both sides say that it was resumed."""
    pair = Pair(place=place, server=server, client=context)
    pair.shake()
    pair.over.write(b"question")
    assert pair.hear() == b"question"
    pair.deliver(pair.say(b"answer"))
    assert pair.heard.data == b"answer"
    ours = pair.over.get_extra_info("ssl_object").session_reused
    assert ours == pair.peer.session_reused
    return bool(ours)


@both
async def test_the_second_handshake_is_resumed(version: ssl.TLSVersion) -> None:
    place, server, client = TlsPlace(), offering(version), trusting()
    assert [resumed(client, place, server) for _ in range(4)] == [False, True, True, True]
    assert server.session_stats()["hits"] == 3
    assert resumed(client, TlsPlace(), server) is False
    assert resumed(trusting(), place, server) is False, "another context has verified nothing"


@both
async def test_a_pool_resumes(version: ssl.TLSVersion) -> None:
    server = offering(version)
    with speaking(server, b"HTTP/1.1 200 OK\r\n\r\n") as port:
        pool = UpstreamPool(Timeouts(), trusting())
        channel = make_channel(1, port, base_url=f"https://localhost:{port}/v1")
        for _ in range(3):
            connection = await pool.dial(channel)
            assert connection._transport is not None
            connection._transport.write(b"GET / HTTP/1.1\r\n\r\n")
            async with asyncio.timeout(PATIENCE_S):
                while pool.open_count:
                    await asyncio.sleep(0.001)
        assert server.session_stats()["hits"] == 2


@both
async def test_a_server_that_forgot_is_met_anew(version: ssl.TLSVersion) -> None:
    place, client = TlsPlace(), trusting()
    assert not resumed(client, place, offering(version))
    assert not resumed(client, place, offering(version))


@both
async def test_a_session_says_nothing_of_another_name(version: ssl.TLSVersion) -> None:
    place, server, client = TlsPlace(), offering(version), trusting()
    assert not resumed(client, place, server)
    pair = Pair(place=place, server=server, client=client, host="other.example")
    pair.begin()
    pair.listen()
    with pytest.raises(ssl.SSLWantReadError):
        pair.peer.do_handshake()
    pair.deliver(pair.take())
    with pytest.raises(ssl.SSLCertVerificationError):
        await pair.shaken
    assert len(place.sessions) == 1


@both
async def test_a_session_is_relied_upon_for_an_hour(version: ssl.TLSVersion) -> None:
    pair = Pair(version)
    pair.shake()
    pair.deliver(pair.say(b"x"))
    sessions, context = TlsSessions(), trusting()
    connection = pair.over.get_extra_info("ssl_object")
    assert sessions.wants("a", context, 0.0)
    sessions.keep("a", context, connection, 1000.0)
    assert sessions.find("a", context, 1000.0 + VERIFIED_S) is not None
    assert sessions.find("a", context, 1001.0 + VERIFIED_S) is None
    assert sessions.find("a", trusting(), 1000.0) is None
    assert sessions.find("b", context, 1000.0) is None
    assert not sessions.wants("a", context, 1000.0 + REPLACED_S)
    assert sessions.wants("a", context, 1001.0 + REPLACED_S)
    assert sessions.wants("a", trusting(), 1000.0)
    for n in range(SESSIONS_MAX):
        sessions.keep(n, context, connection, 1000.0)
    assert len(sessions) == SESSIONS_MAX and sessions.find("a", context, 1000.0) is None


async def test_a_server_that_gives_no_ticket_is_not_asked_each_time() -> None:
    place, server, client = TlsPlace(), offering(), trusting()
    server.num_tickets = 0
    assert [resumed(client, place, server) for _ in range(3)] == [False] * 3
    assert len(place.sessions) <= 1


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
