"""Goal: workers hear each other at once, and lose nothing but time when Redis is away.

Method: a real Valkey; several gossips in one loop; a server of the test's own that dies, hangs and
comes back empty.
"""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from relay.errors import ConfigError, DependencyDown
from relay.store import redis
from relay.store.health.gossip import (
    HINT_TOPIC,
    KEY_PREFIX,
    TOPIC,
    USUAL,
    Gossip,
    Pace,
    read_messages,
    send_hint,
)
from tests.live.limit_rig import own_server

pytestmark = pytest.mark.live

QUICK = Pace(refresh_s=0.1, kept_s=1, ping_s=0.1, revival_s=0.1)


class Peer:
    """A gossip and all it heard."""

    def __init__(self, url: str, name: str, pace: Pace = USUAL) -> None:
        self.heard: list[bytes] = []
        self.hints: list[int] = []
        self._arrived = asyncio.Event()
        self.gossip = Gossip(lambda: url, name, self._hear, self._take_hint, pace=pace)

    def _hear(self, message: bytes) -> None:
        self.heard.append(message)
        self._arrived.set()

    def _take_hint(self, channel_id: int) -> None:
        self.hints.append(channel_id)
        self._arrived.set()

    async def until(self, true: Callable[[], bool], within_s: float = 10.0) -> None:
        """Wait for something that comes with a message or a hint."""
        async with asyncio.timeout(within_s):
            while not true():
                self._arrived.clear()
                await self._arrived.wait()


@asynccontextmanager
async def talking(*peers: Peer) -> AsyncIterator[None]:
    """Run the peers' gossips, connected one after the other."""
    try:
        for peer in peers:
            peer.gossip.start()
            await connected(peer)
        yield
    finally:
        for peer in peers:
            await peer.gossip.stop()


async def connected(peer: Peer, *, expected: bool = True, within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while peer.gossip.connected is not expected:
            await asyncio.sleep(0.005)


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[Redis]:
    async with redis.connect(url, application="test") as client:
        yield client


async def test_everybody_else_hears_it_at_once(redis_url: str) -> None:
    one, two, three = (Peer(redis_url, name) for name in ("one", "two", "three"))
    async with talking(one, two, three):
        one.gossip.publish(b"\x00\xffnews")
        await two.until(lambda: two.heard == [b"\x00\xffnews"], 3.0)
        await three.until(lambda: three.heard == [b"\x00\xffnews"], 3.0)
        two.gossip.publish(b"")
        await one.until(lambda: one.heard == [b""], 3.0)
        await three.until(lambda: three.heard == [b"\x00\xffnews", b""], 3.0)
        assert two.heard == [b"\x00\xffnews"]


async def test_who_starts_later_reads_what_is_known(redis_url: str) -> None:
    one, two = Peer(redis_url, "one"), Peer(redis_url, "two")
    async with talking(one):
        one.gossip.publish(b"old")
        one.gossip.publish(b"new")
        async with client_of(redis_url) as client:
            async with asyncio.timeout(5):
                while await client.get(f"{KEY_PREFIX}one") != b"new":
                    await asyncio.sleep(0.005)
            assert 10 < await client.ttl(f"{KEY_PREFIX}one") <= 15
            assert await read_messages(client) == [b"new"]
            assert await read_messages(client, besides=b"one") == []
        async with talking(two):
            assert two.heard[:1] == [b"new"]


async def test_what_was_told_is_kept_while_the_worker_lives(redis_url: str) -> None:
    one = Peer(redis_url, "one", QUICK)
    async with client_of(redis_url) as client:
        async with talking(one):
            one.gossip.publish(b"news")
            for _ in range(4):
                await asyncio.sleep(0.4)
                assert await read_messages(client) == [b"news"]
        async with asyncio.timeout(3):
            while await read_messages(client):
                await asyncio.sleep(0.05)


async def test_a_gossip_that_told_nothing_leaves_nothing(redis_url: str) -> None:
    async with talking(Peer(redis_url, "one", QUICK)), client_of(redis_url) as client:
        await asyncio.sleep(0.3)
        assert await client.keys() == []


async def test_a_hint_reaches_everybody_and_nonsense_nobody(redis_url: str) -> None:
    one, two = Peer(redis_url, "one"), Peer(redis_url, "two")
    async with talking(one, two), client_of(redis_url) as client:
        await client.publish(HINT_TOPIC, b"nonsense")
        await client.publish(HINT_TOPIC, b"")
        await send_hint(client, 17)
        await one.until(lambda: one.hints == [17], 3.0)
        await two.until(lambda: two.hints == [17], 3.0)
        assert one.heard == two.heard == []


async def test_another_database_is_another_relay(redis_url: str) -> None:
    here = Peer(redis_url, "here")
    there = Peer(redis_url.replace("db=0", "db=1"), "there")
    witness = Peer(redis_url, "witness")
    async with talking(here, there, witness):
        there.gossip.publish(b"theirs")
        async with client_of(redis_url.replace("db=0", "db=1")) as client:
            await send_hint(client, 1)
        here.gossip.publish(b"ours")
        await witness.until(lambda: witness.heard == [b"ours"])
        assert (there.heard, there.hints) == ([], [1])
        assert here.hints == witness.hints == []


async def test_silence_costs_the_connection_nothing(redis_url: str) -> None:
    one, two = Peer(redis_url, "one", QUICK), Peer(redis_url, "two")
    async with talking(one, two):
        await asyncio.sleep(0.5)
        two.gossip.publish(b"after a while")
        await one.until(lambda: one.heard == [b"after a while"], 3.0)


async def test_an_outage_is_outlived_and_the_newest_news_told(
    reachable: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with own_server(reachable) as server:
        one, two = Peer(server.url, "one"), Peer(server.url, "two")
        async with talking(one, two):
            await server.send(signal.SIGKILL)
            await connected(one, expected=False)
            await connected(two, expected=False)
            one.gossip.publish(b"first")
            one.gossip.publish(b"last")
            await server.revive()
            await two.until(lambda: bool(two.heard))
            assert set(two.heard) == {b"last"}
            await connected(one)
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert said == ["channel health is not shared"] * 2 + ["channel health is shared again"] * 2


async def test_a_server_that_hangs_is_left_and_found_again(reachable: Path) -> None:
    async with own_server(reachable) as server:
        one = Peer(server.url, "one", QUICK)
        async with talking(one):
            await server.send(signal.SIGSTOP)
            await connected(one, expected=False)
            await server.send(signal.SIGCONT)
            await connected(one)


async def test_nothing_is_left_behind(redis_url: str) -> None:
    before = asyncio.all_tasks()
    one, never = Peer(redis_url, "one"), Peer(redis_url, "never")
    async with talking(one):
        one.gossip.publish(b"news")
    await never.gossip.stop()
    assert asyncio.all_tasks() == before
    async with client_of(redis_url) as client:
        assert dict(await client.pubsub_numsub(TOPIC)) == {TOPIC.encode(): 0}


async def test_it_may_be_stopped_at_any_moment(redis_url: str) -> None:
    for turns in range(40):
        peer = Peer(redis_url, "one")
        peer.gossip.publish(b"news")
        peer.gossip.start()
        for _ in range(turns):
            await asyncio.sleep(0)
        await peer.gossip.stop()
        assert not peer.gossip.connected


async def test_without_an_address_it_waits(caplog: pytest.LogCaptureFixture) -> None:
    asked = 0
    enough = asyncio.Event()

    def nowhere() -> str:
        nonlocal asked
        asked += 1
        if asked == 3:
            enough.set()
        raise DependencyDown("start `relay serve` first")

    gossip = Gossip(nowhere, "one", lambda _: None)
    gossip.publish(b"news")
    gossip.start()
    async with asyncio.timeout(5):
        await enough.wait()
    await gossip.stop()
    assert len(caplog.records) == 1


async def test_a_fault_of_ours_is_said_and_ends_it_for_a_moment_only(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[bytes] = []

    def choke_once(message: bytes) -> None:
        heard.append(message)
        if len(heard) == 1:
            raise KeyError("a mistake of ours")

    two = Peer(redis_url, "two")
    one = Gossip(lambda: redis_url, "one", choke_once, pace=QUICK)
    one.start()
    async with talking(two), asyncio.timeout(5):
        while not one.connected:
            await asyncio.sleep(0.005)
        two.gossip.publish(b"news")
        while not caplog.records:
            await asyncio.sleep(0.005)
        assert caplog.records[0].getMessage() == "channel health is not shared for a moment"
        assert not one.connected
        while len(heard) < 2:  # it reads what it missed
            await asyncio.sleep(0.005)
        assert one.connected and heard == [b"news", b"news"]
    await one.stop()


async def test_a_hint_that_is_no_id_is_not_taken(redis_url: str) -> None:
    one = Peer(redis_url, "one")
    async with talking(one), redis.connect(redis_url, application="test") as client:
        for nonsense in (b"", b"-1", b"1.0", b"9" * 5_000):
            await client.publish(HINT_TOPIC, nonsense)
        await send_hint(client, 7)
        await one.until(lambda: bool(one.hints))
    assert one.hints == [7]


async def test_a_wrong_url_is_a_configuration_error_and_a_closed_door_a_dependency(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError):
        async with client_of("postgresql://localhost"):
            pass
    with pytest.raises(DependencyDown):
        async with client_of(f"unix://{tmp_path}/none.sock") as client:
            await client.ping()
