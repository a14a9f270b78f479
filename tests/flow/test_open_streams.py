"""Goal: an open stream is a call and nothing beside it, and its connection goes on as before.

Method: raw sockets to an upstream that goes on only when told, and a look at the connection.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from relay.edge.client.connection import ClientConnection
from relay.flow.attempts.tail import StreamTail
from relay.flow.call import Call
from tests.flow.rig import (
    DONE,
    FINISH,
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

CHAT = "/v1/chat/completions"
STREAM = post(CHAT, chat(stream=True)).replace(b"Connection: close\r\n", b"")
OTHER = post(CHAT, chat(stream=True), "X-Other: yes").replace(b"Connection: close\r\n", b"")
"""With another head: nothing that was remembered of the first one fits it."""
END = b"0\r\n\r\n"


class Talker:
    """A scripted upstream: each stream says one word at once, and its end when told."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def __call__(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD + chunked(event("first")))
        await self.go_on.wait()
        writer.write(chunked(FINISH) + chunked(DONE) + END)


class Refuser:
    """A scripted upstream that serves nobody."""

    async def __call__(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")


@asynccontextmanager
async def standing(talker: Talker, *, refused: bool = False) -> AsyncIterator[Rig]:
    async with Peer(talker) as peer, Peer(Refuser()) as refuser:
        channels = [make_channel(2, peer.port)]
        if refused:
            channels = [make_channel(1, refuser.port, tier=0), make_channel(2, peer.port, tier=1)]
        async with Rig(make_snapshot(channels)) as rig:
            yield rig


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


def connection_of(rig: Rig) -> ClientConnection:
    (connection,) = rig.server._connections.open
    return connection


def tasks_of(rig: Rig) -> int:
    return sum("RequestLoop" in repr(task.get_coro()) for task in asyncio.all_tasks())


async def committed(rig: Rig, count: int) -> Call:
    """Wait until the `count`th stream has shown a word; return its call."""
    calls = rig.server.engine.running_calls.calls
    await until(lambda: rig.journal.starts[count - 1 :] != [] and bool(calls()))
    await until(lambda: calls()[0].committed)
    return calls()[0]


@pytest.mark.parametrize("pieces", [1, 2, 3], ids=["whole", "head and body", "head in two"])
@pytest.mark.parametrize("refused", [False, True], ids=["first channel", "second channel"])
async def test_a_running_stream_has_no_task(*, pieces: int, refused: bool) -> None:
    talker = Talker()
    async with standing(talker, refused=refused) as rig:
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        at = STREAM.index(b"\r\n\r\n") + 4
        cuts = {1: [], 2: [at], 3: [9, at]}[pieces]
        for begin, end in zip([0, *cuts], [*cuts, len(STREAM)], strict=True):
            writer.write(STREAM[begin:end])
            await asyncio.sleep(0.02)
        await committed(rig, 1)
        assert tasks_of(rig) == 0
        if pieces < 3:
            assert connection_of(rig)._parsing is None
        talker.go_on.set()
        assert (await reader.readuntil(END)).endswith(DONE + b"\r\n" + END)
        writer.close()
        await rig.ended()


@pytest.mark.parametrize("second", [STREAM, OTHER], ids=["same head", "another head"])
@pytest.mark.parametrize("early", [False, True], ids=["in turn", "early"])
async def test_a_connection_serves_stream_after_stream(*, second: bytes, early: bool) -> None:
    talker = Talker()
    async with standing(talker) as rig:
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(STREAM)
        await committed(rig, 1)
        if early:
            writer.write(second)
            await asyncio.sleep(0.02)
        talker.go_on.set()
        for number in range(2):
            answer = await reader.readuntil(END)
            assert answer.startswith(b"HTTP/1.1 200") and answer.count(DONE) == 1
            if not number and not early:
                writer.write(second)
        assert len(await rig.ended(2)) == 2
        assert tasks_of(rig) == 0
        writer.close()


async def test_requests_in_one_write_are_served_one_after_the_other() -> None:
    talker = Talker()
    async with standing(talker) as rig:
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(STREAM + OTHER + STREAM)
        await committed(rig, 1)
        assert len(rig.journal.starts) == 1
        talker.go_on.set()
        for _ in range(3):
            assert (await reader.readuntil(END)).count(DONE) == 1
        assert len(await rig.ended(3)) == 3
        writer.close()


async def test_a_request_that_begins_behind_another_ones_body_is_not_lost() -> None:
    talker = Talker()
    talker.go_on.set()
    async with standing(talker) as rig:
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        for piece in (STREAM[:-10], STREAM[-10:] + OTHER[:40], OTHER[40:] + STREAM):
            writer.write(piece)
            await asyncio.sleep(0.05)
        for _ in range(3):
            assert (await reader.readuntil(END)).count(DONE) == 1
        assert len(await rig.ended(3)) == 3
        writer.close()


async def test_a_stream_over_a_stale_connection_is_asked_anew() -> None:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD + chunked(event("one") + FINISH + DONE) + END)
        await asyncio.sleep(0.2)  # in its pool by then, and asked again when this closes it

    async with Peer(script) as peer, Rig(make_snapshot([make_channel(1, peer.port)])) as rig:
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        for _ in range(2):
            writer.write(STREAM)
            async with asyncio.timeout(5):
                assert (await reader.readuntil(END)).count(DONE) == 1
        ends = await rig.ended(2)
        assert [(end.status, end.attempts) for end in ends] == [(200, 1), (200, 1)]
        assert len(peer.requests) == 2
        writer.close()


async def test_a_client_that_leaves_a_running_stream_is_settled() -> None:
    talker = Talker()
    async with standing(talker, refused=True) as rig:
        _, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(STREAM[:-5])
        await asyncio.sleep(0.02)
        writer.write(STREAM[-5:])
        await committed(rig, 1)
        writer.transport.abort()
        (end,) = await rig.ended()
        assert end.status == 499 and end.attempts == 2
        await until(lambda: rig.server.counters.inflight == 0)
        assert not any(rig.server.engine.balancer._in_flight.values())


async def test_connections_are_kept_alive_and_not_delayed() -> None:
    async with standing(Talker()) as rig:
        _, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        await until(lambda: bool(rig.server._connections.open))
        transport = connection_of(rig).transport
        assert transport is not None
        sock = transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        writer.close()


def test_first_events_are_kept_where_they_report_usage() -> None:
    counts = b'{"input_tokens":9,"output_tokens":1}'
    begun = b'data: {"type":"message_start","message":{"usage":' + counts + b"}}\n\n"
    plain = b'data: {"usage":null}\n\n'
    for first, found in ((begun, (9, 1)), (plain, None)):
        trace = StreamTail()
        for block in (first, *[event("word")] * 6):
            trace.note(block)
        usage = trace.usage()
        assert (usage and (usage.input_tokens, usage.output_tokens)) == found
