"""Goal: limits hold, and nobody waits, while Redis is slow, dead, empty, full or read-only.

Method: a limiter works on a real server of the test's own, which is hurt in one way after the
other; then the server recovers, and the limiter must come back by itself.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.limits.decision import Denied, Why
from relay.limits.limit_set import Grant
from relay.model import OnLoss
from relay.store.limits.limiter import Limiter
from tests.live.limit_rig import (
    Server,
    ask,
    bucket,
    concurrency,
    limiter_on,
    now_ms,
    own_server,
    spend,
    until,
)

pytestmark = pytest.mark.live

PER_S = 50_000
LINE = bucket(PER_S * 60)
COST = 100


@pytest.fixture
async def server(reachable: Path) -> AsyncIterator[Server]:
    async with own_server(reachable) as server:
        yield server


async def warm_up(limiter: Limiter) -> None:
    """Empty the line, so that from now on it admits what flows in; wait for a heartbeat."""
    await until(lambda: limiter.batches > 0)
    assert isinstance(await ask(limiter, LINE, PER_S * 6), Grant)
    await spend(limiter, LINE, COST, 1.2)


async def is_back(limiter: Limiter) -> None:
    """Wait until the limiter asks its Redis again, and no longer counts fallback."""
    last = -1.0
    async with asyncio.timeout(10):
        while limiter.fallback_ms != last:
            last = limiter.fallback_ms
            await ask(limiter, LINE, COST)
            await asyncio.sleep(0.02)


async def test_killed_and_started_empty(server: Server) -> None:
    async with limiter_on(server.url) as limiter:
        await warm_up(limiter)
        await server.send(signal.SIGKILL)
        alone = await spend(limiter, LINE, COST, 1.2)
        assert 0.5 * 1.2 * PER_S < alone < 1.05 * 1.2 * PER_S
        assert limiter.losses == 1
        assert 800 < limiter.fallback_ms < 1_600
        await server.revive()
        await is_back(limiter)
        # A new server without the guard: no second burst of six seconds.
        assert await spend(limiter, LINE, COST, 1.0) < 1.3 * PER_S


async def test_stopped_and_continued(server: Server) -> None:
    async with limiter_on(server.url) as limiter:
        await warm_up(limiter)
        await server.send(signal.SIGSTOP)
        alone = await spend(limiter, LINE, COST, 1.0)  # `ask` sees to it that nobody waits
        assert 0.3 * PER_S < alone < 1.2 * PER_S
        await server.send(signal.SIGCONT)
        await is_back(limiter)
        # The server's bucket went on filling: that much may come on top, up to its burst.
        refilled_s = limiter.fallback_ms / 1_000 + 0.2
        assert await spend(limiter, LINE, COST, 1.0) < (1.2 + refilled_s) * PER_S


async def test_nobody_is_refused_for_coming_when_it_stops(server: Server) -> None:
    """What a share lacks in its first moment is there milliseconds later."""
    async with limiter_on(server.url) as limiter:
        await until(lambda: limiter.batches > 0)
        assert isinstance(await ask(limiter, LINE, COST), Grant)
        await asyncio.sleep(1.2)
        await server.send(signal.SIGSTOP)
        try:
            asked = [asyncio.create_task(ask(limiter, LINE, 10 * COST)) for _ in range(5)]
            decisions = await asyncio.gather(*asked)
            assert limiter.lost
            assert [one for one in decisions if isinstance(one, Denied)] == []
            alone_at_once = [ask(limiter, LINE, PER_S // 2) for _ in range(2)]
            late = await asyncio.gather(*alone_at_once)
            assert any(isinstance(one, Denied) for one in late), "the share is still a bound"
        finally:
            await server.send(signal.SIGCONT)


async def test_scripts_flushed(server: Server) -> None:
    async with limiter_on(server.url) as limiter:
        await warm_up(limiter)
        await server.run("SCRIPT", "FLUSH")
        assert await spend(limiter, LINE, COST, 1.0) > 0.7 * PER_S
        assert limiter.losses == 0


async def test_emptied(server: Server) -> None:
    async with limiter_on(server.url) as limiter:
        await warm_up(limiter)
        await server.run("FLUSHALL")
        assert await spend(limiter, LINE, COST, 1.0) < 1.3 * PER_S
        assert limiter.losses == 0


@pytest.mark.parametrize(
    ("hurt", "heal"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    ],
    ids=["full", "read-only"],
)
async def test_refusing_to_write(
    server: Server, hurt: tuple[str, ...], heal: tuple[str, ...]
) -> None:
    async with limiter_on(server.url) as limiter:
        await warm_up(limiter)
        await server.run(*hurt)
        await until_lost(limiter)
        assert await spend(limiter, LINE, COST, 1.0) < 1.2 * PER_S
        assert limiter.losses == 1, "a probe that reads must not end the loss"
        await server.run(*heal)
        await is_back(limiter)


async def test_each_bucket_does_what_it_says_on_loss(server: Server) -> None:
    opened = bucket(60, 60_000, name="open", on_loss=OnLoss.OPEN)
    closed = bucket(60, 60_000, name="closed", on_loss=OnLoss.CLOSED)
    hall = concurrency(2)
    async with limiter_on(server.url) as limiter:
        await warm_up(limiter)
        has_permits = await ask(limiter, opened, 1, (hall,))
        await server.send(signal.SIGKILL)
        await until_lost(limiter)
        for _ in range(3):
            assert isinstance(await ask(limiter, opened, 60), Grant)
        refused = await ask(limiter, closed, 1)
        assert isinstance(refused, Denied) and refused.why is Why.LOST
        # The only worker has all permits for its part.
        assert isinstance(await ask(limiter, opened, 1, (hall,)), Grant)
        full = await ask(limiter, opened, 1, (hall,))
        assert isinstance(full, Denied) and full.limit is hall
        assert isinstance(has_permits, Grant)
        limiter.release(has_permits)
        assert isinstance(await ask(limiter, opened, 1, (hall,)), Grant)


async def until_lost(limiter: Limiter) -> None:
    async with asyncio.timeout(5):
        while limiter.losses == 0:
            await ask(limiter, LINE, COST)
            await asyncio.sleep(0.002)


async def test_a_limiter_starts_without_its_redis(server: Server) -> None:
    await server.send(signal.SIGKILL)
    async with limiter_on(server.url) as limiter:
        began_ms = now_ms()
        await until(lambda: limiter.losses > 0)
        assert now_ms() - began_ms < 5_000
        # Nobody knows how many others there are: a hundredth of the line, and not nothing.
        alone = await spend(limiter, LINE, COST, 1.0)
        assert 0 < alone < 0.05 * PER_S
        await server.revive()
        await is_back(limiter)
