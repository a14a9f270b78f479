"""Goal: a handshake is resumed where its server was verified lately, and nowhere else.

Method: OpenSSL's own server side, which says itself whether a handshake was resumed.
"""

import asyncio
import ssl
from typing import Any, Final

import pytest

from relay.config import Timeouts
from relay.upstream.pool import UpstreamPool
from relay.upstream.tls import TlsPlace
from relay.upstream.tls_sessions import REPLACED_S, SESSIONS_MAX, VERIFIED_S, TlsSessions
from tests.flow.rig import make_channel
from tests.flow.tls_rig import PATIENCE_S, Pair, both, offering, speaking, trusting

_SESSION: Final[Any] = ssl.SSLObject.session


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


class Asked(ssl.SSLObject):
    """A connection that counts how often its session is read: each time loses 6 KiB."""

    times = 0

    def _read(self) -> Any:
        Asked.times += 1
        return _SESSION.__get__(self)

    session: Any = property(_read, _SESSION.__set__)


@pytest.fixture
def asked() -> ssl.SSLContext:
    """Return what the connections of a client come of; `Asked.times` begins anew."""
    Asked.times = 0
    context = trusting()
    context.sslobject_class = Asked
    return context


def hear_in_reads(pair: Pair, read_bytes: int) -> None:
    """Shake hands, and hear an answer that comes in reads of so many bytes."""
    pair.shake(read_bytes)
    for n in range(1, 4):
        pair.deliver(pair.say(bytes(5000)), read_bytes)
        assert len(pair.heard.data) == n * 5000


@both
@pytest.mark.parametrize("read_bytes", [100, 1500, 1 << 18])
async def test_a_server_that_gives_no_session_is_asked_once(
    version: ssl.TLSVersion, read_bytes: int, asked: ssl.SSLContext
) -> None:
    place, server = TlsPlace(), offering(version)
    server.num_tickets = 0
    server.options |= ssl.OP_NO_TICKET
    for _ in range(5):
        hear_in_reads(Pair(place=place, server=server, client=asked), read_bytes)
    assert Asked.times == 1
    assert len(place.sessions) == 1


@both
@pytest.mark.parametrize("read_bytes", [100, 1500, 1 << 18])
async def test_a_ticket_is_found_however_it_comes(
    version: ssl.TLSVersion, read_bytes: int, asked: ssl.SSLContext
) -> None:
    place, server = TlsPlace(), offering(version)
    for _ in range(5):
        hear_in_reads(Pair(place=place, server=server, client=asked), read_bytes)
    assert Asked.times == 1
    assert server.session_stats()["hits"] == 4


async def test_of_many_dialled_at_once_one_is_asked(asked: ssl.SSLContext) -> None:
    place, server = TlsPlace(), offering()
    pairs = [Pair(place=place, server=server, client=asked) for _ in range(5)]
    for pair in pairs:
        pair.shake()
    for pair in pairs:
        pair.deliver(pair.say(b"answer"))
    assert Asked.times == 1
    assert resumed(asked, place, server)
