"""Goal: a turn that another worker serves goes on with what was thought before.

Redis holds nothing of it that could be read.

Method: a real Valkey; two data planes with a way to it each, scripted upstreams behind them.
"""

import pytest
from redis.asyncio import Redis

from relay.errors import DependencyDown
from relay.model import Channel
from relay.store.secrets.vault import Vault
from relay.store.thinking import HOUR_BYTES_MAX, KEY_PREFIX, VALUE_BYTES_MAX, SharedThinking
from tests.flow.rig import Rig, make_snapshot
from tests.flow.translated_cells import Answer, Upstream, asking, channel_of
from tests.live.limit_rig import until
from tests.pure.translate.samples import ANTHROPIC, CHAT, GEMINI, REQUESTS, STREAMS

pytestmark = pytest.mark.live

VAULT = Vault(bytes(range(32)))
DIGEST = bytes(range(16))


class Worker:
    """A data plane, and its way to what all keep."""

    def __init__(self, redis_url: str, channel: Channel) -> None:
        self.thinking = SharedThinking(lambda: redis_url, VAULT)
        self.rig = Rig(make_snapshot([channel]), thinking=self.thinking)

    async def __aenter__(self) -> "Worker":
        self.thinking.start()
        await until(lambda: self.thinking.connected)
        await self.rig.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.rig.__aexit__()
        await self.thinking.stop()


async def test_another_worker_finds_what_was_thought(redis_url: str) -> None:
    upstream = Upstream(ANTHROPIC)
    async with upstream.peer as peer:
        channel = channel_of(ANTHROPIC, 1, peer.port)
        async with Worker(redis_url, channel) as one, Worker(redis_url, channel) as two:
            upstream.say("stream", STREAMS[ANTHROPIC]("tools"))
            thinking = REQUESTS[CHAT]("thinking")
            assert Answer(await one.rig.say(asking(CHAT, thinking, "stream"))).status == 200
            async with Redis.from_url(redis_url) as client:
                await until(lambda: one.thinking.idle)
                (key,) = await client.keys(f"{KEY_PREFIX}*")
                sealed = await client.get(key)
                assert isinstance(sealed, bytes) and b"call_0" not in key
                assert b"know" not in sealed and b"c2ln" not in sealed
                assert 0 < await client.ttl(key) <= 2 * 3600
            upstream.say("stream", STREAMS[ANTHROPIC]("text"))
            asked = asking(CHAT, thinking | REQUESTS[CHAT]("tools"), "stream")
            assert Answer(await two.rig.say(asked)).status == 200
            assert b'"signature":"c2ln"' in upstream.asked


async def test_a_signature_is_not_given_to_another_credential(redis_url: str) -> None:
    upstream = Upstream(GEMINI)
    async with (
        upstream.peer as peer,
        Worker(redis_url, channel_of(GEMINI, 1, peer.port)) as one,
        Worker(redis_url, channel_of(GEMINI, 2, peer.port)) as two,
    ):
        upstream.say("stream", STREAMS[GEMINI]("tools"))
        thinking = REQUESTS[CHAT]("thinking")
        await one.rig.say(asking(CHAT, thinking, "stream"))
        await until(lambda: one.thinking.idle)
        upstream.say("stream", STREAMS[GEMINI]("text"))
        await two.rig.say(asking(CHAT, thinking | REQUESTS[CHAT]("tools"), "stream"))
        assert b"c2ln" not in upstream.asked
        assert b"skip_thought_signature_validator" in upstream.asked


async def test_what_was_kept_for_one_digest_is_no_good_under_another(redis_url: str) -> None:
    thinking = SharedThinking(lambda: redis_url, VAULT)
    thinking.start()
    await until(lambda: thinking.connected)
    thinking.put(DIGEST, b"1\0record")
    await until(lambda: thinking.idle)
    assert await thinking.get([DIGEST, b"unknown"]) == {DIGEST: b"1\0record"}
    async with Redis.from_url(redis_url) as client:
        other = bytes(16)
        await client.rename(KEY_PREFIX + DIGEST.hex(), KEY_PREFIX + other.hex())
    assert await thinking.get([other, DIGEST]) == {}
    await thinking.stop()


async def test_without_redis_nothing_is_kept_and_nobody_waits() -> None:
    def nowhere() -> str:
        raise DependencyDown("there is none")

    thinking = SharedThinking(nowhere, VAULT)
    thinking.start()
    thinking.put(DIGEST, b"1\0record")
    assert not thinking.connected and thinking.idle
    assert await thinking.get([DIGEST]) == {}
    await thinking.stop()


async def test_what_a_worker_writes_is_bounded(redis_url: str) -> None:
    thinking = SharedThinking(lambda: redis_url, VAULT)
    thinking.start()
    await until(lambda: thinking.connected)
    thinking.put(DIGEST, bytes(VALUE_BYTES_MAX + 1))
    assert thinking.idle
    for number in range(HOUR_BYTES_MAX // VALUE_BYTES_MAX):
        thinking.put(number.to_bytes(16, "big"), b"x" * VALUE_BYTES_MAX)
        await until(lambda: thinking.idle)
    thinking.put(DIGEST, b"1\0record")
    assert await thinking.get([DIGEST]) == {}
    await thinking.stop()
