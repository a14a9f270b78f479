"""Goal: a Postgres whose clock is an hour off, or leaps by a day, makes nothing begin or end early.

Method: now() of the session is a function of ours, found before the real one. Rows are stamped by
the host, as operators, workers and the console stamp them.
"""

import datetime
from collections.abc import AsyncIterator
from datetime import UTC, timedelta

import pytest

from relay.billing.shapes import CreditRequest
from relay.model import Price
from relay.records import CallCheckpoint, Unended
from relay.store import postgres
from relay.store.billing import budget_leases, credit_leases, ledger
from relay.store.catalog import blocks, planned
from relay.store.log.unended import PostgresUnended, keep_unended
from relay.store.postgres import Connection
from tests.live.journals import add_catalog, make_start

pytestmark = pytest.mark.live

HOUR = timedelta(hours=1)
_FAKED = """
CREATE SCHEMA IF NOT EXISTS faked;
CREATE OR REPLACE FUNCTION faked.now() RETURNS timestamptz LANGUAGE sql STABLE
    AS $$ SELECT pg_catalog.now() + interval '{seconds} seconds' $$;
SET search_path = faked, public, pg_catalog"""


async def set_clock(connection: Connection, ahead: timedelta) -> None:
    """Set the clock that a session goes by."""
    before = await connection.fetchval("SELECT pg_catalog.now()")
    await connection.execute(_FAKED.format(seconds=ahead.total_seconds()))
    off = await connection.fetchval("SELECT now()") - before
    assert abs(off - ahead) < timedelta(minutes=1)


def now() -> datetime.datetime:
    return datetime.datetime.now(UTC)


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    connection = await postgres.connect(database_url)
    yield connection
    await connection.close()


@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
async def test_a_block_stands_until_its_hour(connection: Connection, ahead: timedelta) -> None:
    await set_clock(connection, ahead)

    async def block(network: str, expires_at: datetime.datetime) -> None:
        await blocks.add_block(
            connection,
            network=network,
            path="",
            allow=False,
            reason="r",
            actor="a",
            expires_at=expires_at,
        )

    await block("10.0.0.0/8", now() + HOUR / 2)
    await block("192.168.0.0/16", now() - HOUR / 2)
    listed = [row["network"] for row in await blocks.list_blocks(connection)]
    assert listed == ["10.0.0.0/8"]
    held = [blocks.read_block(row) for row in await connection.fetch(blocks.OPEN)]
    assert "10.0.0.0/8" in [str(one.network) for one in held]
    assert len(await blocks.find_covering(connection, "10.1.1.1")) == 1
    assert await blocks.find_covering(connection, "192.168.1.1") == []


@pytest.mark.parametrize("ahead", [HOUR, -HOUR, 25 * HOUR])
async def test_a_price_is_not_raised_before_its_moment(
    connection: Connection, ahead: timedelta
) -> None:
    await set_clock(connection, ahead)
    await planned.plan_price(
        connection,
        Price(id=0, model="m", input=1, output=1, cached_input=1),
        now() + HOUR / 2,
        actor="a",
    )
    assert (await planned.force_due(connection)).models == []
    await connection.execute("UPDATE price_changes SET effective_at = $1", now() - 2 * HOUR)
    assert (await planned.force_due(connection)).models == ["m"]


async def test_who_renews_is_not_taken_for_gone_by_a_leap_of_a_day(connection: Connection) -> None:
    await connection.execute("INSERT INTO groups (name) VALUES ('g')")
    account_id = await connection.fetchval(
        "INSERT INTO accounts (name, group_id) SELECT 'a', id FROM groups RETURNING id"
    )
    await ledger.credit(connection, account_id, 100, ref="T", actor="a", reason="b")
    asks = [CreditRequest(account_id, 20, 20)]
    for owner in ("alive", "gone"):
        assert await credit_leases.lease(connection, owner, asks, ttl_s=3600)
    suspects: dict[str, datetime.datetime] = {}
    await set_clock(connection, 30 * HOUR)
    assert await credit_leases.free_abandoned(connection, suspects) == 0
    assert set(suspects) == {"alive", "gone"}
    assert await credit_leases.renew(connection, "alive", 3600)
    assert await credit_leases.free_abandoned(connection, suspects) == 20
    assert await credit_leases.renew(connection, "alive", 3600)
    assert not await credit_leases.renew(connection, "gone", 3600)


async def test_an_unended_call_is_looked_at_though_the_clock_was_set_back(
    connection: Connection, database_url: str
) -> None:
    await add_catalog(connection)
    going = Unended("resp_1", 5, 10, 10, "", None, 1, 1_000_000, 1_000_000, "m", 1, 12)
    call = make_start()
    checkpoint = CallCheckpoint(call.request_id, 1, 3, 40, price_id=1, unended=going)
    async with connection.transaction():
        await keep_unended(connection, "a life", [(call, checkpoint)])
    kept = PostgresUnended(lambda: database_url)
    due_in = "UPDATE unended_calls SET due_at = now() + $1"
    await connection.execute(due_in, timedelta(seconds=30))
    assert await kept.claim(10) == []
    await connection.execute(due_in, HOUR)  # it was due, and the clock went back
    assert [one.start for one in await kept.claim(10)] == [call]
    assert await kept.claim(10) == []
    kept.close()


@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
async def test_a_key_that_is_renewed_does_not_begin_its_budget_anew(
    connection: Connection, ahead: timedelta
) -> None:
    await add_catalog(connection)
    await connection.execute(
        """INSERT INTO budget_windows (name, scope, owner_id, measure, starts_at, ends_at, amount,
        used) VALUES ('key:1:requests:day', 'key', 1, 'requests', $1, $2, 10, 7)""",
        now() - 23 * HOUR,
        now() + HOUR / 2,
    )
    await set_clock(connection, ahead)
    await budget_leases.carry_on(connection, 1, 2)
    used = "SELECT used FROM budget_windows WHERE name = 'key:2:requests:day'"
    assert await connection.fetchval(used) == 7
