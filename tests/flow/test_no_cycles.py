"""Goal: what has ended is gone, a call with its question and a connection with its parser.

Method: no collector comes by. What every such way leaves behind is counted, in both forms: over a
connection that was kept (asked at once) and over a new one (asked by a task). Then a collector
does come, and keeps what it finds: of the relay's own there must be nothing.
"""

import asyncio
import contextlib
import gc
import socket
import ssl
import types
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from relay.config import Config, Timeouts
from relay.flow.attempts.attempt import Attempt
from relay.flow.call import Call
from relay.mock.options import MockOptions
from relay.mock.server import start
from relay.model import Dialect, Resume
from relay.reach import Egress, Reach
from tests.flow.rig import (
    DONE,
    FINISH,
    MODEL,
    SSE_HEAD,
    Peer,
    Rig,
    chat,
    chunked,
    event,
    make_channel,
    make_snapshot,
    post,
)
from tests.flow.test_bad_input import CHAT, answer_json
from tests.flow.test_sessions import session, turn
from tests.flow.test_state import standing
from tests.flow.test_voice import hear, voice
from tests.flow.test_voice import standing as voices
from tests.flow.tls_rig import AUTHORITY, VERSIONS, offering, serving, speaking

CALLS = 10


@pytest.fixture(autouse=True, scope="module")
def nothing_older() -> Iterator[None]:
    """Leave out what other tests have left: a full collection of that takes a second each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def alive() -> int:
    """Count calls and attempts; an attempt has its call, and a call its question."""
    return sum(isinstance(thing, (Call, Attempt)) for thing in gc.get_objects())


def collected() -> set[str]:
    """Have the collector come by; return what it found of ours, which holds what we use."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    found = {place_of(thing) for thing in gc.garbage}
    gc.garbage.clear()
    return {
        place
        for place in found
        if place.startswith("relay.") and not place.startswith("relay.mock.")
    }


def place_of(thing: object) -> str:
    """Return the module and the name of a thing's type; of a frame, those of its function."""
    if isinstance(thing, types.FrameType):
        return f"{thing.f_globals.get('__name__', '')} frame of {thing.f_code.co_qualname}"
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


@pytest.mark.parametrize("stream", [False, True])
async def test_the_last_reference_to_a_call_goes_with_its_end(*, stream: bool) -> None:
    mock = await start(MockOptions(models=(f"up-{MODEL}",), chunks=3))
    before = alive()
    async with Rig(make_snapshot([make_channel(1, mock.port)])) as rig:
        for _ in range(CALLS):
            answer = await rig.say(post("/v1/chat/completions", chat(stream=stream)))
            assert answer.startswith(b"HTTP/1.1 200")
        assert len(await rig.ended(CALLS)) == CALLS
        assert collected() == set()
    await mock.close()
    assert alive() - before == 0


ENDS = [
    *("status:400", "status:401", "status:404", "status:413", "status:429", "status:500"),
    *("garbage", "http-09", "huge-head", "endless-1xx", "rst-before-head", "rst-after-head"),
    *("hang", "gzip", "waf", "html-for-sse", "bad-chunk", "error-first", "empty-stream"),
    *("cut-after:2", "rst-after:2", "stall-after:2", "error-after:2", "finish-then-rst"),
    *("no-done", "wrong-length", "refuse"),
]
QUICK = Config(timeouts=Timeouts(first_byte_s=0.3, answer_s=0.3, gap_s=0.3, connect_s=1.0))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("fail", ENDS)
async def test_a_call_that_fails_leaves_as_little(
    fail: str, *, channels: int, stream: bool
) -> None:
    mocks = [await start(MockOptions(models=(f"up-{MODEL}",), chunks=3)) for _ in range(channels)]
    serving = [make_channel(n, mock.port, tier=n) for n, mock in enumerate(mocks, 1)]
    before = alive()
    async with Rig(make_snapshot(serving), QUICK) as rig:
        question = post("/v1/chat/completions", chat(stream=stream))
        await rig.say(question)  # its connection is kept for the next
        for mock in mocks:
            mock.set_fail(fail)
        for _ in range(2):
            await rig.say(question)
        await rig.ended(3)
        await asyncio.sleep(0)
        assert alive() - before == 0
        assert collected() == set()
    for mock in mocks:
        await mock.close()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fail", ["hang", "stall-after:2"])
@pytest.mark.parametrize("end", ["client", "key", "deadline"])
async def test_a_call_that_is_ended_early_leaves_as_little(
    fail: str, end: str, *, stream: bool
) -> None:
    mock = await start(MockOptions(models=(f"up-{MODEL}",), chunks=3))
    mock.set_fail(fail)
    timeouts = Timeouts(total_s=0.4 if end == "deadline" else 60.0)
    before = alive()
    async with Rig(make_snapshot([make_channel(1, mock.port)]), Config(timeouts=timeouts)) as rig:
        _, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(post("/v1/chat/completions", chat(stream=stream)))
        async with asyncio.timeout(5):
            while not rig.journal.starts:
                await asyncio.sleep(0.005)
        if end == "key":
            rig.server.swap(msgspec.structs.replace(rig.snapshot, generation=2, keys={}))
        if end == "client":
            writer.close()
        await rig.ended()
        writer.close()
        await asyncio.sleep(0.01)
        assert alive() - before == 0
        assert collected() == set()
    await mock.close()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fail", ["status:500", "hang", "cut-after:2", "rst-before-head", ""])
@pytest.mark.parametrize("line", [{"hedge_ms": 20}, {"splice": True}])
async def test_a_call_that_is_hedged_or_carried_on_leaves_as_little(
    fail: str, line: dict[str, Any], *, stream: bool
) -> None:
    mocks = [await start(MockOptions(models=(f"up-{MODEL}",), chunks=3)) for _ in range(2)]
    serving = [
        make_channel(n, mock.port, tier=n, resume=Resume.TRAILING)
        for n, mock in enumerate(mocks, 1)
    ]
    snapshot = make_snapshot(serving)
    changed = msgspec.structs.replace(snapshot.lines[1], **line)
    snapshot = msgspec.structs.replace(snapshot, lines={1: changed})
    if fail:
        mocks[0].set_fail(fail)
    before = alive()
    async with Rig(snapshot, QUICK) as rig:
        for _ in range(2):
            await rig.say(post("/v1/chat/completions", chat(stream=stream)))
        await rig.ended(2)
        await asyncio.sleep(0.01)
        assert alive() - before == 0
        assert collected() == set()
    for mock in mocks:
        await mock.close()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("own", [False, True], ids=["translated only", "translated in the end"])
@pytest.mark.parametrize("fail", ["", *ENDS])
async def test_a_call_that_is_translated_leaves_as_little(
    fail: str, *, own: bool, stream: bool
) -> None:
    mock = await start(MockOptions(models=(f"up-{MODEL}",), chunks=3))
    other = {"protocol": Dialect.ANTHROPIC, "tier": 1}
    serving = [make_channel(1, mock.port, **other)] + ([make_channel(2, 9)] if own else [])
    if fail:
        mock.set_fail(fail)
    before = alive()
    async with Rig(make_snapshot(serving), QUICK) as rig:
        for _ in range(2):
            await rig.say(post("/v1/chat/completions", chat(stream=stream)))
        await rig.say(post("/v1/chat/completions", chat(stream=stream, n=2)))
        await rig.ended(3)
        await asyncio.sleep(0.01)
        assert alive() - before == 0
        assert collected() == set()
    await mock.close()


# --- connections ----------------------------------------------------------------------------------

HEAD, _, BODY = post(CHAT, chat()).partition(b"\r\n\r\n")
IN_CHUNKS = HEAD.replace(b"Content-Length: %d" % len(BODY), b"Transfer-Encoding: chunked")
CHUNK = IN_CHUNKS + b"\r\n\r\n%x" % len(BODY)
GET = b"GET /nope HTTP/1.1\r\nHost: a\r\n"
SAID = {
    "a call": post(CHAT, chat()),
    "a call in chunks": CHUNK + b"\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a call that waits for leave": post(CHAT, chat(), "Expect: 100-continue"),
    "calls ahead": post(CHAT, chat()).replace(b"Connection: close\r\n", b"") * 3,
    "of HTTP/1.0": post(CHAT, chat()).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "no JSON": post(CHAT, b"{"),
    "no such path": GET + b"Connection: close\r\n\r\n",
    "no such key": post(CHAT, chat(), key="relay_x"),
    "an offer": GET + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + GET,
    "coded": post(CHAT, chat(), "Content-Encoding: gzip"),
    "trailers": CHUNK + b"\r\n" + BODY + b"\r\n0\r\n" + b"x: %b\r\n" % (b"y" * 400) * 200 + b"\r\n",
    "an extension": CHUNK + b";" + b"y" * 90_000,
    "a chunk of no size": CHUNK + b"\r\n" + BODY + b"\r\nzz\r\n",
    "a long field": GET + b"a: " + b"h" * 33_000 + b"\r\n\r\n",
    "many fields": GET + b"a: b\r\n" * 200 + b"\r\n",
    "no HTTP": b"xxxx HTTP/9.9\r\n\r\n",
    "two lengths": GET + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
}


@pytest.mark.parametrize("leaves", [False, True])
@pytest.mark.parametrize("pieces", [1, 2, 3])
@pytest.mark.parametrize("kind", SAID)
async def test_a_connection_leaves_as_little(kind: str, *, pieces: int, leaves: bool) -> None:
    """Whatever a client says on it, in however many pieces, and if it leaves before the last."""
    async with Peer(answer_json) as peer, Rig(make_snapshot([make_channel(1, peer.port)])) as rig:
        for _ in range(2):
            await say_in_pieces(rig, SAID[kind], pieces, leaves=leaves)
        gc.collect()
        for _ in range(3):
            await say_in_pieces(rig, SAID[kind], pieces, leaves=leaves)
        assert collected() == set()


async def say_in_pieces(rig: Rig, raw: bytes, pieces: int, *, leaves: bool) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    size = -(-len(raw) // pieces)
    cuts = range(0, len(raw), size)
    with contextlib.suppress(ConnectionError, TimeoutError):
        for at in cuts[:-1] if leaves and pieces > 1 else cuts:
            writer.write(raw[at : at + size])
            await writer.drain()
            await asyncio.sleep(0.005)
        if not leaves:
            async with asyncio.timeout(0.1):  # some of them are kept open
                await reader.read()
    writer.transport.abort()
    await all_gone(rig)


async def test_sessions_leave_as_little() -> None:
    """Of turns over HTTP, of turns over a socket of the channel's, and of voice."""
    for speaks in (False, True):
        async with standing(channels=1) as ([rig], [provider], _):
            provider.speaks_websocket = speaks
            gc.collect()  # the rig before
            for _ in range(2):
                async with session(rig) as socket:
                    await turn(socket)
                await all_gone(rig)
            assert collected() == set()
    async with voices() as (rig, _):
        gc.collect()
        for leaves in (False, True):
            async with voice(rig) as socket:
                await socket.send_json({"type": "response.create"})
                if not leaves:
                    await hear(socket, "response.done")
            await all_gone(rig)
        assert collected() == set()


async def all_gone(rig: Rig) -> None:
    """Wait until nobody is connected, and nothing runs."""
    counters = rig.server.counters
    async with asyncio.timeout(5):
        while counters.connections or counters.inflight:
            await asyncio.sleep(0.002)
    await asyncio.sleep(0.002)


# --- upstreams over TLS ---------------------------------------------------------------------------

EVENTS = SSE_HEAD + chunked(event("one")) + chunked(FINISH + DONE) + b"0\r\n\r\n"
SPOKEN = {
    "whole": EVENTS,
    "cut": EVENTS[:-40],
    "half a head": EVENTS[:20],
    "no HTTP": b"garbage" * 100,
}


@pytest.mark.parametrize("notifies", [False, True])
@pytest.mark.parametrize("version", VERSIONS, ids=["1.2", "1.3"])
@pytest.mark.parametrize("kind", SPOKEN)
async def test_an_upstream_over_tls_leaves_as_little(
    kind: str, version: ssl.TLSVersion, *, notifies: bool
) -> None:
    with speaking(offering(version), SPOKEN[kind], notifies=notifies) as port:
        await ask_over_tls(port)


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 400 No\r\n\r\n", b"\x16\x03\x03"])
async def test_a_handshake_that_fails_leaves_as_little(said: bytes) -> None:
    def serve(raw: socket.socket) -> None:
        raw.recv(10_000)
        raw.sendall(said)

    with serving(serve) as port:
        await ask_over_tls(port)


async def test_a_handshake_that_is_given_up_leaves_as_little() -> None:
    def serve(raw: socket.socket) -> None:
        while raw.recv(10_000):
            pass

    with serving(serve) as port:
        await ask_over_tls(port, QUICK)


@pytest.mark.parametrize("name", ["expired", "other_host", "self_signed"])
async def test_a_certificate_that_is_no_good_leaves_as_little(name: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(AUTHORITY / f"{name}.pem", AUTHORITY / "key.pem")
    with speaking(context) as port:
        await ask_over_tls(port)


async def ask_over_tls(port: int, config: Config = QUICK) -> None:
    """Ask twice, and then once more as often: whatever is found of the relay's is too much."""
    reach = Reach(egress=Egress(ca_file=str(AUTHORITY / "ca.pem")))
    channel = make_channel(1, port, base_url=f"https://localhost:{port}/v1", reach=reach)
    before = alive()
    async with Rig(make_snapshot([channel]), config) as rig:
        question = post("/v1/chat/completions", chat(stream=True))
        await rig.say(question)
        await rig.ended(1)
        gc.collect()
        for _ in range(2):
            await rig.say(question)
        await rig.ended(3)
        await all_gone(rig)
        assert alive() - before == 0
        assert collected() == set()
