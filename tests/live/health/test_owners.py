"""Goal: what one worker learned, every other one finds; and nothing breaks when Redis is away.

Method: a real Valkey, two owners' books over it, and a server of the test's own that dies.
"""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from relay.errors import DependencyDown
from relay.flow.state.owners import LISTED_MAX, Owners
from relay.store.owners import PREFIX, RedisOwners
from relay.store.redis_room import LOOK_S
from relay.wire.state.marks import ENCRYPTED, RESPONSE, VIDEO

pytestmark = pytest.mark.live
PEPPER = b"pepper of the tests, 32 bytes...."
MARKS = (RESPONSE + b"resp_1", ENCRYPTED + b"blob")


async def settle(owners: Owners, marks: tuple[bytes, ...]) -> int:
    """Return the channel that is found, as soon as it is; 0 = none within a second."""
    async with asyncio.timeout(5):
        while True:
            try:
                found = await owners.find(marks)
            except DependencyDown:
                found = None
            if found is not None:
                return found.channel_id
            await asyncio.sleep(0.01)


async def test_what_one_worker_learned_the_others_find(redis_url: str) -> None:
    stores = [RedisOwners(lambda: redis_url) for _ in range(2)]
    one, other = (Owners(PEPPER, store) for store in stores)
    for store in stores:
        store.start()
    try:
        one.learn(MARKS, one.owner(7, 42, 3, "gpt with blanks"))
        assert await settle(other, MARKS[:1]) == 42 == await settle(other, MARKS[1:])
        assert other.known(MARKS) is other.owner(7, 42, 3, "gpt with blanks")
        assert await other.find((RESPONSE + b"resp_2",)) is None
        client = Redis.from_url(redis_url)
        keys: list[Any] = await client.keys("*")
        ttls = [await client.ttl(key) for key in keys]
        await client.aclose()
        assert len(keys) == 2 and all(key.startswith(PREFIX) for key in keys)
        assert not any(b"resp_1" in key or b"blob" in key for key in keys)
        assert all(0 < ttl <= 3 * 86_400 for ttl in ttls)
    finally:
        for store in stores:
            await store.stop()


async def test_what_an_account_has_made_is_listed_newest_first_and_bounded(redis_url: str) -> None:
    stores = [RedisOwners(lambda: redis_url) for _ in range(2)]
    one, other = (Owners(PEPPER, store) for store in stores)
    for store in stores:
        store.start()
    try:
        names = [b"video_%d" % number for number in range(LISTED_MAX + 5)]
        for name in names:
            one.learn([VIDEO + name], one.owner(7, 42, 3, "film"))
        one.learn([VIDEO + b"video_x"], one.owner(8, 42, 3, "film"))
        assert await settle(other, (VIDEO + b"video_x",)) == 42
        async with asyncio.timeout(5):
            while await other.made(VIDEO, 8) != [b"video_x"]:
                await asyncio.sleep(0.01)
        newest = names[: -LISTED_MAX - 1 : -1]
        assert await other.made(VIDEO, 7) == newest and len(newest) == LISTED_MAX
        other.unlist(VIDEO, 7, newest[0])
        async with asyncio.timeout(5):
            while await one.made(VIDEO, 7) != newest[1:]:
                await asyncio.sleep(0.01)
        assert await one.made(VIDEO, 9) == []
        client = Redis.from_url(redis_url)
        keys: list[Any] = await client.keys("*list*")
        ttls = [await client.ttl(key) for key in keys]
        assert len(ttls) == 2 and all(0 < ttl <= 30 * 86_400 for ttl in ttls)
        await client.aclose()
    finally:
        for store in stores:
            await store.stop()


async def test_links_are_shared(redis_url: str) -> None:
    stores = [RedisOwners(lambda: redis_url) for _ in range(2)]
    one, other = (Owners(PEPPER, store) for store in stores)
    for store in stores:
        store.start()
    try:
        one.link(b"made:file_1", b"batch_4")
        found: bytes | None = None
        async with asyncio.timeout(5):
            while found is None:
                await asyncio.sleep(0.01)
                with contextlib.suppress(DependencyDown):
                    found = await other.linked(b"made:file_1")
        assert found == b"batch_4" and await other.linked(b"made:file_2") is None
    finally:
        for store in stores:
            await store.stop()


async def test_a_redis_that_is_away_is_said_and_comes_back(tmp_path: Path) -> None:
    store = RedisOwners(lambda: f"unix://{tmp_path}/none.sock")
    store.start()
    owners = Owners(PEPPER, store)
    owners.learn(MARKS, owners.owner(7, 42, 3, "m"))
    known = await owners.find(MARKS)
    assert known is not None and known.channel_id == 42  # its own memory needs nobody
    with pytest.raises(DependencyDown):
        await owners.find((RESPONSE + b"resp_2",))
    await store.stop()


async def test_what_calls_can_do_without_leaves_half_of_redis_to_the_limits(
    redis_url: str,
) -> None:
    """An account that makes things for nothing (files, conversations) must not end the limits."""
    client = Redis.from_url(redis_url)
    used = (await client.info("memory"))["used_memory"]
    store = RedisOwners(lambda: redis_url)
    owners = Owners(PEPPER, store)
    store.start()
    try:
        owners.learn(MARKS, owners.owner(7, 42, 3, "m"))
        await until_kept(client, 2)
        await client.config_set("maxmemory", int(used * 1.5))
        await asyncio.sleep(LOOK_S * 1.2)
        for number in range(30_000):
            owners.learn([RESPONSE + b"%d" % number], owners.owner(1, 1, 1, "m"))
            if number % 500 == 0:
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.3)
        kept = await client.dbsize()
        assert kept <= 3  # the one that went out with the question; whoever limits can still write
        await client.set("relay:limits:here", b"x")
        await client.config_set("maxmemory", 0)
        await asyncio.sleep(LOOK_S * 1.2)
        owners.learn([RESPONSE + b"later"], owners.owner(1, 1, 1, "m"))
        await until_kept(client, kept + 2)
    finally:
        await client.config_set("maxmemory", 0)
        await store.stop()
        await client.aclose()


async def until_kept(client: "Redis", count: int) -> None:
    async with asyncio.timeout(8):
        while await client.dbsize() != count:
            await asyncio.sleep(0.02)


def test_memory_is_bounded_and_forgets_what_was_asked_for_longest_ago(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("relay.flow.state.owners.KEPT_MAX", 10)
    owners = Owners(PEPPER)
    for number in range(30):
        owners.learn([RESPONSE + b"%d" % number], owners.owner(1, number, 1, "m"))
        assert owners.known([RESPONSE + b"0"]) is not None
    assert len(owners) == 10 and owners.known([RESPONSE + b"5"]) is None
