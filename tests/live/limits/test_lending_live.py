"""Goal: on a real server a dedicated line finds its reserve whatever others ask; all can see it.

Method: limiters of two workers flood a channel as a standard line; a third draws as a dedicated
one. Then the standings are read as `relay line list` and `relay limits explain` read them.
"""

import asyncio

import pytest
from redis.asyncio import Redis

from relay.limits.lending import bids_on
from relay.limits.limit_set import Grant, LimitSet
from relay.limits.scopes import Scope, limit_of
from relay.model import Channel, Group, Key, Line, LineKind, Secret, Snapshot
from relay.store.limits.lendings import read_standings, show_lending, show_standing
from relay.store.limits.limiter import Limiter
from tests.live.limit_rig import limiter_on
from tests.live.limits.test_limit_levels import nodes_at

pytestmark = pytest.mark.live

TPM = 6_000_000
CHANNEL = Channel(
    id=1, name="c", base_url="", api_key=Secret(""), models={}, tpm=TPM, concurrency=20
)
GOLD = Line(id=1, name="gold", channel_ids=(1,), kind=LineKind.DEDICATED, tpm=TPM // 2)
PLAIN = Line(id=2, name="plain", channel_ids=(1,))
BIDS = bids_on(CHANNEL, [GOLD, PLAIN])
SNAPSHOT = Snapshot(
    generation=1,
    keys=dict[bytes, Key](),
    accounts={},
    groups=dict[int, Group](),
    lines={1: GOLD, 2: PLAIN},
    channels={1: CHANNEL},
    prices={},
    routes={},
)


def limit_set(kind: LineKind) -> LimitSet:
    return LimitSet((limit_of(Scope.CHANNEL, 1, CHANNEL, bid=BIDS[kind]),))


async def draw(limiter: Limiter, limits: LimitSet, tokens: int, pause_s: float, s: float) -> int:
    """Ask again and again for calls that end at once; return how many were refused."""
    refused = 0
    end_s = asyncio.get_running_loop().time() + s
    while asyncio.get_running_loop().time() < end_s:
        decision = limiter.admit(limits, [tokens]) or await limiter.wait(limits, [tokens])
        if isinstance(decision, Grant):
            limiter.release(decision)
        else:
            refused += 1
        await asyncio.sleep(pause_s)
    return refused


async def test_a_flood_leaves_a_reserve_alone_and_the_standings_say_so(redis_url: str) -> None:
    client = Redis.from_url(redis_url)
    await client.set("relay:born", "0")  # a server that is empty, but not new
    await client.aclose()
    plain, gold = limit_set(LineKind.STANDARD), limit_set(LineKind.DEDICATED)
    async with (
        limiter_on(redis_url) as one,
        limiter_on(redis_url) as two,
        limiter_on(redis_url) as mine,
    ):
        flood = [asyncio.create_task(draw(w, plain, 20_000, 0.01, 4.0)) for w in (one, two)]
        await asyncio.sleep(1.5)
        assert await draw(mine, gold, 400, 0.01, 2.0) == 0
        standings = await read_standings(SNAPSHOT, nodes_at(redis_url))
        assert standings is not None
        channel = show_standing(PLAIN, standings[1])
        assert channel["reserve"] == TPM // 2 and channel["at_once"] == TPM * 54 // 600
        assert 0 < channel["used"] < TPM // 2 and channel["lent"] > 0
        assert channel["lent"] == channel["borrowed"]
        shown = show_lending(GOLD, channel["used"], standings)
        assert 0 < shown["lent"] <= TPM // 2 - channel["used"] and shown["borrowed"] == 0
        assert show_lending(PLAIN, None, standings)["borrowed"] == channel["borrowed"]
        assert show_lending(GOLD, 0, None)["lent"] is None
        assert all(refused > 0 for refused in await asyncio.gather(*flood))


async def test_a_tenth_of_the_permits_is_kept_for_a_dedicated_line(redis_url: str) -> None:
    plain, gold = limit_set(LineKind.STANDARD), limit_set(LineKind.DEDICATED)
    async with limiter_on(redis_url) as one, limiter_on(redis_url) as two:
        taken = await asyncio.gather(*(w.wait(plain, [1]) for w in (one, two) for _ in range(12)))
        assert sum(isinstance(decision, Grant) for decision in taken) == 18
        assert isinstance(await two.wait(gold, [1]), Grant)
        assert isinstance(await one.wait(gold, [1]), Grant)
        assert not isinstance(await one.wait(gold, [1]), Grant)
