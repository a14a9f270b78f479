"""Goal: what one worker finds out about a channel, the others act on within moments.

Method: several workers' healths in one loop, shared over a real Valkey; no worker of them serves.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from relay.clock import now_us, wall_us
from relay.errors import DependencyDown
from relay.routing.breaker import Availability
from relay.routing.health import Failure, Health
from relay.routing.overview import Overview
from relay.routing.policy import Policy
from relay.routing.table import Outcome
from relay.store import redis
from relay.store.health.gossip import TOPIC, read_messages, send_hint
from relay.store.health.sharing import HealthSharing
from tests.live.limit_rig import until

pytestmark = pytest.mark.live


class Worker:
    """A health and its sharing, wired as in a worker."""

    def __init__(self, redis_url: Callable[[], str], name: str, retell_s: float = 5.0) -> None:
        self.health = Health(Policy())
        self.sharing = HealthSharing(redis_url, name, retell_s=retell_s)

    def fail(self, outcome: Outcome, model: str = "m") -> None:
        failure = Failure(outcome, now_us())
        self.sharing.on_changes(self.health.fail(1, model, failure, now_us=now_us(), dice=0.9))

    async def join(self) -> None:
        self.sharing.start(self.health)
        await until(lambda: self.sharing.connected)

    def availability(self, model: str = "m") -> Availability:
        return self.health.availability(1, model, now_us())


@asynccontextmanager
async def sharing(*workers: Worker) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for worker in workers:
            stack.push_async_callback(worker.sharing.stop)
            await worker.join()
        yield


async def test_others_leave_a_channel_that_one_found_dead(redis_url: str) -> None:
    one, two, late = (Worker(lambda: redis_url, name) for name in ("one", "two", "late"))
    async with sharing(one, two):
        one.fail(Outcome.DENIED)
        await until(lambda: two.availability() is Availability.COOLING, 1)
        async with sharing(late):
            await until(lambda: late.availability() is Availability.COOLING, 1)
        assert abs(two.health.due_us(1, "m") - one.health.due_us(1, "m")) < 50_000


async def test_many_changes_at_once_are_one_message(redis_url: str) -> None:
    one = Worker(lambda: redis_url, "one")
    async with redis.connect(redis_url, application="test") as client, client.pubsub() as ears:
        await ears.subscribe(TOPIC)
        assert (await ears.get_message(timeout=1))["type"] == "subscribe"
        async with sharing(one):
            first = await ears.get_message(timeout=1)  # what it knows at its start
            assert first["data"] == b"one\0\x90"
            for number in range(50):
                one.fail(Outcome.LIMITED, f"m{number}")
            told = await ears.get_message(timeout=1)
            assert told["data"].count(b"limited") == 50
            assert await ears.get_message(timeout=0.2) is None


async def test_a_healthy_worker_is_known_to_be_healthy(redis_url: str) -> None:
    async with (
        sharing(Worker(lambda: redis_url, "one")),
        redis.connect(redis_url, application="test") as client,
    ):
        async with asyncio.timeout(5):
            while not (messages := await read_messages(client)):
                await asyncio.sleep(0.005)
    assert messages == [b"\x90"]
    assert Overview().hear(messages[0], wall_us()) == ()


async def test_trouble_is_told_again_and_again(redis_url: str) -> None:
    one, two = (Worker(lambda: redis_url, name, retell_s=0.1) for name in ("one", "two"))
    async with sharing(one, two):
        one.fail(Outcome.DENIED)
        await until(lambda: two.availability() is Availability.COOLING, 1)
        two.health.prune({})
        assert two.availability() is Availability.READY
        two.health.prune({1: {"m"}})
        await until(lambda: two.availability() is Availability.COOLING, 1)


async def test_a_hint_hastens_the_trial_everywhere(redis_url: str) -> None:
    one, two = (Worker(lambda: redis_url, name) for name in ("one", "two"))
    async with sharing(one, two):
        one.fail(Outcome.DENIED)
        await until(lambda: two.availability() is Availability.COOLING, 1)
        async with redis.connect(redis_url, application="test") as client:
            await send_hint(client, 2)
            await send_hint(client, 1)
        await until(lambda: one.availability() is two.availability() is Availability.TRIAL, 1)


async def test_a_running_trial_is_known_everywhere_at_once(redis_url: str) -> None:
    one, two = (Worker(lambda: redis_url, name) for name in ("one", "two"))
    async with sharing(one, two):
        one.fail(Outcome.LIMITED)
        await until(lambda: two.availability() is Availability.TRIAL, 3)
        one.sharing.on_changes(one.health.start(1, "m", now_us()))
        await until(lambda: two.availability() is Availability.COOLING, 1)


async def test_nonsense_is_not_believed(redis_url: str) -> None:
    one = Worker(lambda: redis_url, "one")
    async with sharing(one), redis.connect(redis_url, application="test") as client:
        await client.publish(TOPIC, b"other\0nonsense")
        await client.publish(TOPIC, b"nonsense")
        await send_hint(client, 1)
        one.fail(Outcome.DENIED)
        await until(lambda: 1 in one.health.troubled)
        assert one.sharing.connected


async def test_without_redis_each_decides_for_itself() -> None:
    def nowhere() -> str:
        raise DependencyDown("start `relay serve` first")

    one, two = Worker(nowhere, "one"), Worker(nowhere, "two")
    one.sharing.start(one.health)
    two.sharing.start(two.health)
    one.fail(Outcome.DENIED)
    await asyncio.sleep(0.1)
    assert (one.availability(), two.availability()) == (Availability.COOLING, Availability.READY)
    await one.sharing.stop()
    await two.sharing.stop()


async def test_nothing_goes_on_after_the_end(redis_url: str) -> None:
    before = asyncio.all_tasks()
    one = Worker(lambda: redis_url, "one")
    one.fail(Outcome.DENIED)  # before the start: told at the start
    async with sharing(one):
        one.fail(Outcome.LIMITED, "m1")
    one.fail(Outcome.LIMITED, "m2")
    assert asyncio.all_tasks() == before
