"""Goal: an operator hears once of a channel that refused our credential, and sees all states.

Method: the control process's watch on a real Valkey and Postgres; workers are healths whose
messages are published as theirs would be; a scripted webhook and upstream.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families

from relay.control.api import metrics
from relay.control.watch.alarms import CLAIM_S, KEY_PREFIX, Alarms
from relay.control.watch.channels import ChannelWatch
from relay.errors import DependencyDown
from relay.model import Secret
from relay.routing.breaker import BreakerState
from relay.routing.health import ANY_MODEL, Condition, Failure, Health, HealthChange
from relay.routing.policy import Policy, Reason
from relay.routing.table import Outcome
from relay.store import postgres, redis
from relay.store.catalog.apply import apply, resolve_credentials
from relay.store.catalog.declaration import parse_catalog
from relay.store.health.gossip import Gossip
from relay.store.postgres import Connection
from relay.store.secrets.vault import Pepper, Vault
from relay.tasks import Bell
from tests.flow.test_webhook import receiving
from tests.live.limit_rig import until

pytestmark = pytest.mark.live

VAULT = Vault(bytes(range(32)))
CATALOG = b"""
[[channel]]
name = "north"
base_url = "http://127.0.0.1:9/v1"
models = ["m", "n"]
[[channel]]
name = "south"
base_url = "http://127.0.0.1:9/v1"
models = ["m"]
"""


class Worker:
    """A worker as far as the control process can tell."""

    def __init__(self, redis_url: str, name: str) -> None:
        self.health = Health(Policy())
        self._gossip = Gossip(lambda: redis_url, name, lambda _: None)

    async def __aenter__(self) -> "Worker":
        self._gossip.start()
        await until(lambda: self._gossip.connected)
        self.tell()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._gossip.stop()

    def tell(self) -> None:
        wall_us = time.time_ns() // 1_000
        self._gossip.publish(self.health.encode(now_us=monotonic_us(), wall_us=wall_us))

    def fail(self, channel_id: int, outcome: Outcome, model: str = "m") -> None:
        now_us = monotonic_us()
        failure = Failure(outcome, now_us)
        self.health.fail(channel_id, model, failure, now_us=now_us, dice=0.0)
        self.tell()

    def heal(self, channel_id: int, model: str = "m") -> None:
        now_us = monotonic_us()
        self.health.succeed(channel_id, model, started_us=now_us, now_us=now_us)
        self.tell()


def monotonic_us() -> int:
    return time.monotonic_ns() // 1_000


@pytest.fixture
async def ids(database_url: str) -> dict[str, int]:
    """Ids of the catalog's channels by name."""
    connection = await postgres.connect(database_url)
    try:
        declared = parse_catalog(CATALOG, dedicated_tpm=1, plain_upstreams=True)
        wanted = resolve_credentials(declared, {}, Pepper(b"p" * 32, "test"))
        await apply(connection, wanted, VAULT, prune=False, dry_run=False)
        rows = await connection.fetch("SELECT id, name FROM channels")
        return {row["name"]: row["id"] for row in rows}
    finally:
        await connection.close()


@asynccontextmanager
async def watching(
    redis_url: str, database_url: str, webhook: str = ""
) -> AsyncIterator[ChannelWatch]:
    async def connect() -> Connection:
        return await postgres.connect(database_url)

    told = Secret(webhook) if webhook else None
    watch = ChannelWatch(lambda: redis_url, connect, VAULT, told, Bell())
    task = asyncio.create_task(watch.run())
    try:
        await until(lambda: ("north", "*") in states(watch))
        yield watch
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def samples(watch: ChannelWatch, name: str, *labels: str) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(metrics.render(watch).decode())
    return {
        tuple(sample.labels[label] for label in labels): sample.value
        for family in families
        for sample in family.samples
        if sample.name == name
    }


def states(watch: ChannelWatch) -> dict[tuple[str, ...], float]:
    return samples(watch, "relay_channel_state", "channel", "model")


def alarms(watch: ChannelWatch) -> dict[tuple[str, ...], float]:
    return samples(watch, "relay_channel_alarms_total", "channel", "reason")


async def test_a_refused_credential_is_told_once_for_all_workers_and_hosts(
    redis_url: str, database_url: str, ids: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        receiving() as receiver,
        watching(redis_url, database_url, receiver.url) as here,
        watching(redis_url, database_url, receiver.url) as there,
        Worker(redis_url, "one") as one,
        Worker(redis_url, "two") as two,
    ):
        for worker in (one, two):
            worker.fail(ids["north"], Outcome.DENIED)
        await receiver.until(1)
        await until(lambda: states(here)["north", "*"] == states(there)["north", "*"] == 2)
        one.fail(ids["south"], Outcome.DENIED)
        await receiver.until(2)
        told = [json.loads(body) for body in receiver.bodies]
        assert [(body["event"], body["channel"], body["model"]) for body in told] == [
            ("channel_alarm", "north", "*"),
            ("channel_alarm", "south", "*"),
        ]
        assert {(body["state"], body["reason"]) for body in told} == {("open", "denied")}
        counted = alarms(here).keys() | alarms(there).keys()
        assert counted == {("north", "denied"), ("south", "denied")}
        assert sum(alarms(here).values()) + sum(alarms(there).values()) == 2
    events = [record for record in caplog.records if "refused our credential" in record.msg]
    assert [record.__dict__["channel"] for record in events] == ["north", "south"]


async def test_a_restart_tells_nothing_twice_and_the_next_opening_again(
    redis_url: str, database_url: str, ids: dict[str, int]
) -> None:
    async with receiving() as receiver, Worker(redis_url, "one") as one:
        async with watching(redis_url, database_url, receiver.url):
            one.fail(ids["north"], Outcome.DENIED)
            await receiver.until(1)
        async with watching(redis_url, database_url, receiver.url) as watch:
            await until(lambda: states(watch)["north", "*"] == 2)
            one.heal(ids["north"])
            await receiver.until(2)
            assert states(watch)["north", "*"] == 0
            one.fail(ids["north"], Outcome.DENIED)
            await receiver.until(3)
            assert alarms(watch) == {("north", "denied"): 1}
    told = [json.loads(body) for body in receiver.bodies]
    assert [(one["event"], one["state"]) for one in told] == [
        ("channel_alarm", "open"),
        ("channel_alarm_over", "closed"),
        ("channel_alarm", "open"),
    ]


async def test_its_end_is_told_once_by_one_of_the_hosts(
    redis_url: str, database_url: str, ids: dict[str, int]
) -> None:
    async with (
        receiving() as receiver,
        watching(redis_url, database_url, receiver.url) as here,
        watching(redis_url, database_url, receiver.url) as there,
        Worker(redis_url, "one") as one,
    ):
        one.fail(ids["north"], Outcome.DENIED)
        await until(lambda: states(here)["north", "*"] == states(there)["north", "*"] == 2)
        await receiver.until(1)
        one.heal(ids["north"])
        await until(lambda: states(here)["north", "*"] == states(there)["north", "*"] == 0)
        await receiver.until(2)
        one.fail(ids["south"], Outcome.DENIED)
        await receiver.until(3)
    events = [json.loads(body)["event"] for body in receiver.bodies]
    assert events == ["channel_alarm", "channel_alarm_over", "channel_alarm"]


async def test_ordinary_trouble_is_shown_and_no_alarm(
    redis_url: str, database_url: str, ids: dict[str, int]
) -> None:
    async with watching(redis_url, database_url) as watch, Worker(redis_url, "one") as one:
        for _ in range(3):
            one.fail(ids["north"], Outcome.CUT)
        one.fail(ids["south"], Outcome.LIMITED)
        await until(lambda: states(watch).get(("south", "*")) == 2)
        assert states(watch) == {
            ("north", "*"): 0,
            ("north", "m"): 2,
            ("south", "*"): 2,
            ("south", "m"): 2,
        }
        one.heal(ids["north"])
        await until(lambda: states(watch)["north", "m"] == 0)
        due_us = one.health.due_us(ids["south"], "m")
        one.health.start(ids["south"], "m", due_us)
        one.tell()
        await until(lambda: states(watch)["south", "*"] == 1)
        assert alarms(watch) == {}


async def test_models_without_a_channel_are_known(
    redis_url: str, database_url: str, ids: dict[str, int]
) -> None:
    async with watching(redis_url, database_url) as watch, Worker(redis_url, "one") as one:
        assert watch.models_out() == set()
        for model in ("m", "n"):
            for _ in range(3):
                one.fail(ids["north"], Outcome.CUT, model)
        await until(lambda: watch.models_out() == {"n"})
        for _ in range(3):
            one.fail(ids["south"], Outcome.CUT)
        await until(lambda: watch.models_out() == {"m", "n"})
        one.heal(ids["north"])
        await until(lambda: watch.models_out() == {"n"})
        one.heal(ids["north"], "n")
        await until(lambda: watch.models_out() == set())


async def test_a_channel_s_heal_is_hinted(
    redis_url: str, database_url: str, ids: dict[str, int]
) -> None:
    """The probe itself is another file's; here, that the watch lets it see what is out."""
    async with watching(redis_url, database_url) as watch, Worker(redis_url, "one") as one:
        one.fail(ids["north"], Outcome.DENIED)
        await until(lambda: ids["north"] in watch._prober._seen_down)


async def test_states_nobody_tells_of_are_not_made_up(
    database_url: str, ids: dict[str, int]
) -> None:
    def nowhere() -> str:
        raise DependencyDown("start `relay serve` first")

    async def connect() -> Connection:
        return await postgres.connect(database_url)

    watch = ChannelWatch(nowhere, connect, VAULT, None, Bell())
    task = asyncio.create_task(watch.run())
    await until(lambda: watch._book.channels.keys() == set(ids.values()))
    assert states(watch) == {}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_another_release_s_words_are_let_pass(
    redis_url: str, database_url: str, ids: dict[str, int]
) -> None:
    async with watching(redis_url, database_url) as watch, Worker(redis_url, "one") as one:
        one._gossip.publish(b"nonsense")
        await asyncio.sleep(0.05)
        one.fail(ids["north"], Outcome.DENIED)
        await until(lambda: states(watch)["north", "*"] == 2)


# --- claims -----------------------------------------------------------------------------------

OPENED = HealthChange(
    7, ANY_MODEL, BreakerState.CLOSED, BreakerState.OPEN, Reason.DENIED, alarm=True
)
OUT = Condition(7, ANY_MODEL, BreakerState.OPEN, Reason.DENIED, 60.0, 1)


async def name(channel_id: int) -> str:
    return f"channel {channel_id}"


@asynccontextmanager
async def raising(
    redis_url: Callable[[], str],
    conditions: list[Condition],
    find: Callable[[int], Awaitable[str]] = name,
) -> AsyncIterator[Alarms]:
    found = Alarms(find, lambda: conditions, redis_url, None, renew_s=0.02)
    task = asyncio.create_task(found.run())
    try:
        yield found
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_claim_lasts_as_long_as_the_channel_is_out(redis_url: str) -> None:
    conditions = [OUT]
    key = f"{KEY_PREFIX}7:"
    async with (
        redis.connect(redis_url, application="test") as client,
        raising(lambda: redis_url, conditions) as found,
    ):
        found.note([OPENED])
        await until(lambda: found.counts["channel 7", "denied"] == 1)
        for _ in range(3):
            await client.expire(key, 5)
            async with asyncio.timeout(5):
                while await client.ttl(key) < CLAIM_S - 1:
                    await asyncio.sleep(0.005)
        conditions.clear()
        await until(lambda: not found._claimed)
        await client.expire(key, 5)
        await asyncio.sleep(0.1)
        assert await client.ttl(key) <= 5


async def test_what_nobody_tells_of_any_more_is_over(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    conditions = [OUT]
    async with redis.connect(redis_url, application="test") as client:
        found = Alarms(name, lambda: conditions, lambda: redis_url, None, renew_s=CLAIM_S / 3)
        await found._claim(OPENED)
        for _ in range(3):
            await found._fade({(7, ANY_MODEL)})
        conditions.clear()
        await found._fade(set())
        assert await client.exists(f"{KEY_PREFIX}7:")
        await found._fade({(7, ANY_MODEL)})  # a worker tells of it again
        for _ in range(3):
            await found._fade(set())
        assert not await client.exists(f"{KEY_PREFIX}7:")
        assert [record.msg for record in caplog.records] == [
            "a channel's credential is taken again"
        ]


async def test_without_redis_an_alarm_is_raised_rather_twice_than_never() -> None:
    def nowhere() -> str:
        raise DependencyDown("start `relay serve` first")

    async with raising(nowhere, [OUT]) as found:
        found.note(
            [
                OPENED,
                OPENED._replace(before=BreakerState.OPEN, after=BreakerState.CLOSED, alarm=False),
            ]
        )
        found.note([OPENED])
        await until(lambda: found.counts["channel 7", "denied"] == 2)
        await asyncio.sleep(0.05)  # renewals fail as well, and end nothing
        found.note([OPENED])
        await until(lambda: found.counts["channel 7", "denied"] == 3)
