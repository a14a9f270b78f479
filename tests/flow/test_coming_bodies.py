"""Goal: a body that comes in any pieces behind a known head is served as if it had come whole.

Method: the second request of a connection over real sockets, cut at each place that matters; the
rest follows once the relay waits for it. No parser and no task may be there meanwhile, and whatever
is refused is refused as it is where the parser reads it.
"""

import asyncio
import json

import pytest

from relay.config import Config, Server, Timeouts
from relay.edge.client.connection import ClientConnection
from relay.edge.client.phase import RECEIVING, RESTING
from tests.flow.rig import KEY, Peer, Rig, chat, make_channel, make_snapshot, post
from tests.flow.test_bad_input import CHAT, answer_json
from tests.flow.test_open_streams import connection_of, tasks_of, until

KIB = 1024
LONG = chat(messages=[{"role": "user", "content": "x" * 300 * KIB}])


def kept(body: bytes | dict[str, object]) -> bytes:
    """Return a request that keeps its connection."""
    return post(CHAT, body, key=KEY).replace(b"Connection: close\r\n", b"")


class Client:
    """A connection that has asked once, so that its head is known."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    async def __aenter__(self) -> "Client":
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._rig.port)
        self.writer.write(kept(chat()))
        assert await self.status() == 200
        self.connection: ClientConnection = connection_of(self._rig)
        await until(lambda: self.connection.phase == RESTING)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def send(self, piece: bytes) -> None:
        """Send a piece that is not the last, and wait until it has been read."""
        before = self.come
        self.writer.write(piece)
        await until(lambda: self.come != before)

    @property
    def come(self) -> int:
        """How many bytes of a body are still owed; 0: none is coming."""
        coming = self.connection._coming
        return coming.owed_bytes if coming is not None else 0

    async def status(self) -> int:
        """Read one answer; return its status."""
        async with asyncio.timeout(10):
            head = await self.reader.readuntil(b"\r\n\r\n")
            for line in head.split(b"\r\n"):
                if line.lower().startswith(b"content-length:"):
                    await self.reader.readexactly(int(line.split(b":")[1]))
        return int(head.split()[1])


@pytest.mark.parametrize("body", [chat(), LONG], ids=["short", "long"])
@pytest.mark.parametrize("cuts", [(0,), (1,), (0, 1, 2), (-1,), (0, -1)], ids=str)
async def test_a_body_in_pieces_is_served_without_a_parser_or_a_task(
    body: dict[str, object], cuts: tuple[int, ...]
) -> None:
    async with Peer(answer_json) as peer, Rig(make_snapshot([make_channel(1, peer.port)])) as rig:
        async with Client(rig) as client:
            raw = kept(body)
            begin = raw.index(b"\r\n\r\n") + 4
            at = 0
            for cut in cuts:
                end = begin + cut if cut >= 0 else len(raw) + cut
                await client.send(raw[at:end])
                at = end
                assert client.connection.phase == RECEIVING
                assert client.connection._parsing is None and tasks_of(rig) == 0
                assert rig.server.counters.inflight == 1
            client.writer.write(raw[at:])
            assert await client.status() == 200
        sent = json.loads(peer.requests[1].partition(b"\r\n\r\n")[2])
        assert sent["messages"] == body["messages"]


async def test_what_comes_behind_a_body_is_the_next_request() -> None:
    async with Peer(answer_json) as peer, Rig(make_snapshot([make_channel(1, peer.port)])) as rig:
        async with Client(rig) as client:
            raw = kept(chat())
            await client.send(raw[:-5])
            client.writer.write(raw[-5:] + raw + raw[:-1])
            assert [await client.status() for _ in range(2)] == [200, 200]
            client.writer.write(raw[-1:])
            assert await client.status() == 200
        assert len(await rig.ended(4)) == 4


async def test_a_body_that_does_not_come_is_told_so() -> None:
    config = Config(timeouts=Timeouts(body_s=0.2, body_bytes_per_s_min=10**9))
    async with Peer(answer_json) as peer:
        snapshot = make_snapshot([make_channel(1, peer.port)])
        async with Rig(snapshot, config) as rig, Client(rig) as client:
            await client.send(kept(chat())[:-5])
            assert await client.status() == 408
            async with asyncio.timeout(5):
                assert await client.reader.read() == b""
            await until(lambda: rig.server.counters.inflight == 0)


async def test_a_body_without_room_is_refused_and_read_to_its_end() -> None:
    config = Config(server=Server(buffered_bytes_max=KIB * KIB))
    async with Peer(answer_json) as peer:
        snapshot = make_snapshot([make_channel(1, peer.port)])
        async with Rig(snapshot, config) as rig, Client(rig) as client:
            raw = kept(b"x" * 1_000 * KIB)
            await client.send(raw[: 200 * KIB])
            client.writer.write(raw[200 * KIB :])
            assert await client.status() == 429
            await until(lambda: rig.server.counters.inflight == 0)


async def test_a_client_that_leaves_in_its_body_leaves_nothing_behind() -> None:
    async with Peer(answer_json) as peer, Rig(make_snapshot([make_channel(1, peer.port)])) as rig:
        async with Client(rig) as client:
            await client.send(kept(LONG)[: 100 * KIB])
            assert rig.server.counters.inflight == 1
        await until(lambda: rig.server.counters.inflight == 0)
        assert len(rig.journal.ends) == 1


async def test_a_key_that_is_gone_meanwhile_is_refused_by_the_parsers_way() -> None:
    async with Peer(answer_json) as peer, Rig(make_snapshot([make_channel(1, peer.port)])) as rig:
        async with Client(rig) as client:
            rig.server.swap(make_snapshot([make_channel(1, peer.port)], disabled=True))
            client.writer.write(kept(LONG)[: 100 * KIB])
            assert await client.status() == 401
        await until(lambda: rig.server.counters.inflight == 0)
