"""Goal: a line does not feel what another one does to the worker they share.

Method: a data plane with real sockets and lines of all kinds over one upstream: a full worker is
played by setting what is taken of its memory; a line whose channels fail spends its retries beside
one that has spent none.
"""

import asyncio
from collections import Counter

import msgspec
import pytest

from relay.clock import clock_s
from relay.config import Config, Server, Switching
from relay.edge.client.body_room import BodyRoom
from relay.limits.pressure import BEAT_S
from relay.model import LineKind, Snapshot, index_routes
from tests.flow.rig import SSE_HEAD, Peer, Rig, chat, chunked, make_channel, make_snapshot, post

KINDS = (LineKind.DEDICATED, LineKind.STANDARD, LineKind.TRAINING)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    body = b'{"id":"1","choices":[{"index":0,"message":{"role":"assistant","content":"hi"}}]}'
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        % (len(body), body)
    )


async def answer_without_end(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    event = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n'
    writer.write(SSE_HEAD + chunked(event))
    await asyncio.sleep(30)


async def fail(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")


def with_lines(snapshot: Snapshot) -> Snapshot:
    """Return the catalog with a line of each kind, named after it, over all channels."""
    plain = snapshot.lines[1]
    lines = {
        at: msgspec.structs.replace(plain, id=at, name=kind.value, kind=kind)
        for at, kind in enumerate(KINDS, 1)
    }
    group = msgspec.structs.replace(snapshot.groups[1], line_ids=tuple(lines))
    return msgspec.structs.replace(
        snapshot,
        lines=lines,
        groups={1: group},
        routes=index_routes(lines, snapshot.channels),
    )


def rig_of(peer: Peer) -> Rig:
    return Rig(with_lines(make_snapshot([make_channel(1, peer.port)])))


async def ask(rig: Rig, line: LineKind, count: int = 40) -> Counter[bytes]:
    """Return how often each status came."""
    raw = post("/v1/chat/completions", chat(), f"x-relay-line: {line.value}")
    return Counter([(await rig.say(raw))[9:12] for _ in range(count)])


async def test_a_full_worker_sends_training_away_then_standard_never_dedicated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Peer(answer) as peer, rig_of(peer) as rig:
        door = rig.server._door
        for share, wanted in ((0.0, (9, 9, 9)), (0.6, (9, 9, 0)), (0.9, (9, 0, 0))):
            monkeypatch.setattr(BodyRoom, "share", share)
            door.pressure.beat(share)
            door.watches = door.pressure.felt
            for kind, served in zip(KINDS, wanted, strict=True):
                found = await ask(rig, kind, 9)
                assert (found[b"200"], found[b"503"]) == (served, 9 - served), (share, kind)
        assert rig.server.counters.refused["overload"] == 27
        raw = post("/v1/chat/completions", chat(), "x-relay-line: training")
        assert b"retry-after: " in await rig.say(raw)


async def test_open_streams_of_others_leave_connections_to_a_dedicated_line() -> None:
    """Of 40 connections training may take half, standard four fifths; the rest are dedicated's."""
    config = Config(server=Server(connections_max=40))
    async with Peer(answer_without_end) as peer:
        rig = Rig(with_lines(make_snapshot([make_channel(1, peer.port)])), config)
        async with rig:
            writers: list[asyncio.StreamWriter] = []

            async def open_streams(line: LineKind, count: int) -> Counter[bytes]:
                found = Counter[bytes]()
                for _ in range(count):
                    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
                    body = chat(stream=True)
                    writer.write(post("/v1/chat/completions", body, f"x-relay-line: {line.value}"))
                    status = (await reader.readline())[9:12]
                    found[status] += 1
                    if status == b"200":
                        writers.append(writer)
                    else:
                        writer.close()
                    await asyncio.sleep(2 * BEAT_S)  # so that the worker notices
                return found

            training = await open_streams(LineKind.TRAINING, 25)
            assert 19 <= training[b"200"] <= 22, training
            assert training[b"503"] == 25 - training[b"200"]
            standard = await open_streams(LineKind.STANDARD, 16)
            assert 31 <= training[b"200"] + standard[b"200"] <= 34, standard
            dedicated = await open_streams(LineKind.DEDICATED, 5)
            assert dedicated == {b"200": 5}
            for writer in writers:
                writer.transport.abort()


async def test_beats_end_with_the_calls_and_the_pressure() -> None:
    async with Peer(answer) as peer, rig_of(peer) as rig:
        door = rig.server._door
        assert not door.beats
        await ask(rig, LineKind.STANDARD, 1)
        assert door.beats
        door.gate.shut_now(0, clock_s())
        async with asyncio.timeout(10):
            while door.beats:
                await asyncio.sleep(0.02)
        assert not door.gate.shut
        assert not door.watches


@pytest.mark.parametrize("kind", [LineKind.DEDICATED, LineKind.STANDARD])
async def test_a_line_whose_channels_fail_spends_no_retries_of_another(kind: LineKind) -> None:
    config = Config(switching=Switching(retries_min=3, retry_share_max=0.0))
    async with Peer(fail) as bad, Peer(fail) as worse:
        snapshot = with_lines(
            make_snapshot([make_channel(1, bad.port), make_channel(2, worse.port)])
        )
        async with Rig(snapshot, config) as rig:
            await ask(rig, LineKind.TRAINING, 30)
            before = rig.server.counters.attempts
            await ask(rig, LineKind.TRAINING, 5)
            assert rig.server.counters.attempts - before == 5, "its retries are spent"
            before = rig.server.counters.attempts
            await ask(rig, kind, 3)
            assert rig.server.counters.attempts - before > 3, "those of others are not"
