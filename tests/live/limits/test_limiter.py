"""Goal: the limiter decides as the flow is told, over real round trips, and loses nothing.

Method: limiters of several workers on one real server; calls are asked, settled, cancelled.
"""

import asyncio
import time
from contextlib import AsyncExitStack

import pytest
from redis.asyncio import Redis

from relay.limits.decision import Denied, Why
from relay.limits.limit_set import Grant
from relay.limits.rate_headers import rate_headers
from relay.limits.scopes import Measure
from relay.model import DEFAULT_DIALECT
from relay.wire.dialects.known import TABLES
from tests.live.limit_rig import (
    ask,
    ask_all,
    bucket,
    concurrency,
    limit_set_of,
    limiter_on,
    spend,
)

pytestmark = pytest.mark.live


@pytest.fixture
async def url(redis_url: str) -> str:
    """A server that is empty, but not new: its buckets are full."""
    client = Redis.from_url(redis_url)
    await client.set("relay:born", "0")
    await client.aclose()
    return redis_url


async def test_a_bucket_is_exact_over_two_workers(url: str) -> None:
    line = bucket(600, 60_000)
    async with limiter_on(url) as one, limiter_on(url) as two:
        answers = await asyncio.gather(*(ask(w, line, 100) for w in (one, two) for _ in range(5)))
        granted = [answer for answer in answers if isinstance(answer, Grant)]
        assert len(granted) == 6
        denied = next(answer for answer in answers if isinstance(answer, Denied))
        assert denied.why is Why.EMPTY and denied.limit is line
        assert 9_000 < denied.wait_ms <= 10_000


async def test_all_or_nothing(url: str) -> None:
    wide, narrow = bucket(60_000, name="a"), bucket(60, 60_000, name="b")
    async with limiter_on(url) as limiter:
        assert isinstance(await ask_all(limiter, [(wide, 10), (narrow, 60)]), Grant)
        assert isinstance(await ask_all(limiter, [(wide, 5_000), (narrow, 60)]), Denied)
        assert isinstance(await ask(limiter, wide, 5_900), Grant)


async def test_most_calls_of_a_hot_bucket_ask_nobody(url: str) -> None:
    line = bucket(600_000_000)
    async with limiter_on(url) as limiter:
        await spend(limiter, line, 1_000, 0.5)
        before = limiter.batches
        calls = await spend(limiter, line, 1_000, 1.0) / 1_000
        assert calls > 100
        assert limiter.batches - before < calls / 4


async def test_a_permit_that_is_free_somewhere_serves_the_next_call(url: str) -> None:
    free, none = bucket(60_000_000), concurrency(1)
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(limiter_on(url)) for _ in range(4)]
        for number in range(100):
            worker = workers[number * 7 % 4]
            grant = await ask(worker, free, 1, (none,))
            assert isinstance(grant, Grant), f"call {number}"
            other = await ask(workers[(number * 7 + 1) % 4], free, 1, (none,)) if not number else 0
            assert not isinstance(other, Grant), "there is one permit"
            worker.release(grant)


async def test_of_1500_calls_at_once_each_is_granted_or_truly_refused(url: str) -> None:
    (set_one, costs), (set_two, _) = [limit_set_of([(bucket(6_000), 1)]) for _ in range(2)]
    async with limiter_on(url) as one, limiter_on(url) as two:
        calls = [one.wait(set_one, costs) for _ in range(750)]
        told = await asyncio.gather(*calls, *(two.wait(set_two, costs) for _ in range(750)))
        refused = [decision for decision in told if isinstance(decision, Denied)]
        assert 600 <= 1_500 - len(refused) <= 700
        assert all(denied.why is Why.EMPTY and denied.wait_ms > 0 for denied in refused)
        [level] = one.standings(set_one)
        assert level.remaining < 60, "who is refused is told of nothing that remains"


async def test_a_busy_workers_own_lag_is_no_lost_redis(url: str) -> None:
    limit_set, costs = limit_set_of([(bucket(60_000_000), 200_000)])
    async with limiter_on(url) as limiter:

        async def be_busy() -> None:
            for _ in range(30):
                time.sleep(0.07)  # noqa: ASYNC251 - longer than a batch may take
                await asyncio.sleep(0)

        busy = asyncio.create_task(be_busy())
        while not busy.done():
            if limiter.admit(limit_set, costs) is None:
                await limiter.wait(limit_set, costs)
            await asyncio.sleep(0)
        assert limiter.losses == 0


async def test_settling_moves_the_difference(url: str) -> None:
    line = bucket(1_000, 60_000)
    async with limiter_on(url) as limiter:
        grant = await ask(limiter, line, 1_000)
        assert isinstance(grant, Grant)
        limiter.settle(grant, [300])
        limiter.settle(grant, [400])
        assert isinstance(await ask(limiter, line, 600), Grant)
        assert isinstance(await ask(limiter, line, 200), Denied)


async def test_debt_reaches_the_others(url: str) -> None:
    line = bucket(1_000, 60_000)
    async with limiter_on(url) as one:
        grant = await ask(one, line, 100)
        assert isinstance(grant, Grant)
        one.settle(grant, [1_500])
        async with asyncio.timeout(2):  # until a batch has told of the debt
            while True:
                # A worker that has asked before may draw on what it holds, so one that has not.
                async with limiter_on(url) as another:
                    denied = await ask(another, line, 1)
                if isinstance(denied, Denied):
                    break
        assert denied.wait_ms > 25_000


async def test_a_call_that_no_bucket_can_hold_is_refused_for_good(url: str) -> None:
    line = bucket(1_000)
    async with limiter_on(url) as limiter:
        denied = await ask(limiter, line, 101)
        assert isinstance(denied, Denied) and denied.why is Why.TOO_LARGE
        assert isinstance(await ask(limiter, line, 100), Grant)


async def test_limits_change_without_a_new_bucket(url: str) -> None:
    async with limiter_on(url) as limiter:
        assert isinstance(await ask(limiter, bucket(60, 60_000), 60), Grant)
        assert isinstance(await ask(limiter, bucket(600, 60_000), 600), Denied)
        assert isinstance(await ask(limiter, bucket(600, 60_000), 500), Denied)


async def test_headers_tell_what_is_left(url: str) -> None:
    line, calls = bucket(60_000, 60_000), bucket(600, measure=Measure.REQUESTS)
    async with limiter_on(url) as limiter:
        grant = await ask_all(limiter, [(line, 1_000), (calls, 1)])
        assert isinstance(grant, Grant)
        names = TABLES[DEFAULT_DIALECT].rate_names
        headers = dict(rate_headers(limiter.standings(grant.limit_set), names, None))
        assert headers[b"x-ratelimit-limit-tokens"] == b"60000"
        assert 58_900 <= int(headers[b"x-ratelimit-remaining-tokens"]) <= 59_100
        assert headers[b"x-ratelimit-remaining-requests"] == b"59"


async def test_seats_are_counted_over_workers_and_come_back(url: str) -> None:
    line, hall = bucket(60_000_000), concurrency(4)
    async with limiter_on(url) as one, limiter_on(url) as two:
        grants = [await ask(w, line, 1, (hall,)) for w in (one, two, one, two)]
        assert all(isinstance(grant, Grant) for grant in grants)
        full = await ask(one, line, 1, (hall,))
        assert isinstance(full, Denied) and full.limit is hall
        assert isinstance(grants[1], Grant)
        two.release(grants[1])
        two.release(grants[1])
        async with asyncio.timeout(10):
            while not isinstance(await ask(one, line, 1, (hall,)), Grant):
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("turns", range(1, 7))
async def test_cancelling_at_any_turn_takes_nothing(url: str, turns: int) -> None:
    line, hall = bucket(100, 60_000), concurrency(1)
    async with limiter_on(url) as limiter:
        task = asyncio.create_task(ask(limiter, line, 100, (hall,)))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert isinstance(await asyncio.create_task(ask(limiter, line, 100, (hall,))), Grant)
