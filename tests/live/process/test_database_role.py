"""Goal: a role that serves can do all of the relay's work, and cannot rewrite what was booked.

Method: a role of its own on a real Postgres, `relay db grant`, then the work and the attacks.
"""

import asyncio
import datetime
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
from click.testing import CliRunner

from relay.billing.purse import Purse
from relay.billing.recharge import Currency
from relay.cli.root import main
from relay.config import Billing
from relay.control.night.retention import Retention
from relay.control.night.shapes import Turn
from relay.control.night.tables import plan_reindex, plan_vacuum
from relay.store import maintenance
from relay.store.billing import credit_leases, orders, recharges
from relay.store.billing.audit import run_audit
from relay.store.billing.ledger import CallCharge
from relay.store.migrate import migrate
from relay.store.postgres import Connection
from tests.live.journals import keep_partitions
from tests.live.money_rig import (
    USD,
    balance_of,
    connected,
    give_back_from,
    lease_into,
    make_account,
    settle_batch,
)

pytestmark = pytest.mark.live

_numbers = itertools.count(1)


@pytest.fixture
def role(database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A role that was granted what serving needs; it goes with its rights after the test."""
    name = f"app_{next(_numbers)}"

    async def execute(*statements: str) -> None:
        async with connected(database_url) as owner:
            for statement in statements:
                await owner.execute(statement)

    monkeypatch.chdir(tmp_path)
    environ = {"RELAY_DATABASE__URL": database_url, "RELAY_DATA_DIR": str(tmp_path)}
    missing = CliRunner().invoke(main, ["db", "grant", name], env=environ)
    assert (missing.exit_code, "create it first" in missing.stderr) == (78, True)
    asyncio.run(execute(f"CREATE ROLE {name} LOGIN"))
    granted = CliRunner().invoke(main, ["db", "grant", name], env=environ)
    assert granted.exit_code == 0, granted.output
    yield name
    asyncio.run(execute(f"DROP OWNED BY {name}", f"DROP ROLE {name}"))


@pytest.fixture
async def app(database_url: str, role: str) -> AsyncIterator[Connection]:
    """A connection as that role; an account that has something booked."""
    async with connected(database_url) as owner:
        account_id = await make_account(owner, "acme")
        await settle_batch(owner, [CallCharge(call_id(0), account_id, 5)])
        await owner.execute(f"SET SESSION AUTHORIZATION {role}")
        yield owner
        await owner.execute("RESET SESSION AUTHORIZATION")


def call_id(number: int) -> bytes:
    ms = int(datetime.datetime.now(datetime.UTC).timestamp() * 1000)
    return ms.to_bytes(6) + b"\x70\x00\x80\x00" + number.to_bytes(6)


async def test_it_can_do_the_relays_work(app: Connection) -> None:
    assert await migrate(app) == []
    account_id = await make_account(app, "bolt", group="g")
    order = await recharges.compose_order(
        app, Billing(), "bolt", ("10", Currency.USD), order_no="A-1", actor="test"
    )
    await orders.recharge(app, order)
    await orders.issue_code(app, b"d" * 32, USD, actor="test")
    await orders.redeem(app, b"d" * 32, account_id)
    purse = Purse()
    assert await lease_into(purse, app, "w", account_id, 1, 8) == 8
    await settle_batch(app, [CallCharge(call_id(1), account_id, 5, retry_nanos=1, owner="w")])
    purse.settle(0, 5)
    assert await give_back_from(purse, app, "w", account_id, keep_nanos=2) == 1
    await credit_leases.close_owner(app, "w")
    await keep_partitions(app, retention_days=30)
    assert await balance_of(app, account_id) == 11 * USD - 5
    found = await run_audit(app)
    assert [drift for drift in found.drifts if "logged" not in drift.what] == []


async def test_it_keeps_the_nights_but_for_what_only_an_owner_may(app: Connection) -> None:
    now = datetime.datetime.now(datetime.UTC)
    plan = await plan_vacuum(app, now)
    assert plan.steps == []
    assert "belong to another role" in plan.note
    assert (await plan_reindex(app, now)).steps == []
    retention = Retention(30, None)
    for step in (await retention.plan(app, now)).steps:
        await step.do(Turn(app, 60.0))
    await maintenance.ask_run(app, ["vacuum"], now)
    await maintenance.begin_work(app, "vacuum", "", "a", now)
    await maintenance.end_work(app, "vacuum", "", now, maintenance.Outcome.DONE, plan.note)
    assert [work.work for work in await maintenance.list_works(app)] == ["vacuum"]


@pytest.mark.parametrize(
    "attack",
    [
        "UPDATE entries SET amount_nanos = amount_nanos + 1",
        "DELETE FROM entries",
        "TRUNCATE entries",
        "UPDATE transfers SET reason = 'x'",
        "DELETE FROM transfers",
        "DELETE FROM settlements",
        "DELETE FROM settlements_other",
        "UPDATE settlements_other SET cost_nanos = 1",
        "UPDATE balances SET balance_nanos = 1",
        "DELETE FROM balances",
        "UPDATE prices SET input = 0",
        "DELETE FROM promotions",
        "UPDATE request_log SET cost_nanos = 0",
        "DELETE FROM orders",
        "DELETE FROM schema_migrations",
        "ALTER TABLE entries DISABLE TRIGGER ALL",
        "DROP TABLE entries",
        "SET session_replication_role = replica",
        "SELECT day_partitions_drop('request_log', 'ended_at', '2000-01-01')",
    ],
)
async def test_it_cannot_rewrite_the_books(app: Connection, attack: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await app.execute(attack)


@pytest.mark.parametrize(
    "attack",
    [
        "SELECT partitions_drop('settlements', current_date)",
        "SELECT partitions_drop('usage_minutes', current_date - 100)",
        "SELECT partitions_drop('request_log', current_date + 1)",
        "SELECT partitions_drop('entries', '2000-01-01')",
        "SELECT partitions_prepare('entries', 1)",
        "SELECT partitions_prepare('request_log', 1000)",
    ],
)
async def test_it_cannot_drop_what_is_kept(app: Connection, attack: str) -> None:
    with pytest.raises(asyncpg.PostgresError, match=r"kept for longer|case|days ahead"):
        await app.execute(attack)


async def test_a_trigger_of_its_own_does_not_help(app: Connection) -> None:
    """From inside a trigger the schema's own check lets a balance change: the rights do not."""
    await app.execute(
        """CREATE TEMP TABLE lever (n integer);
        CREATE FUNCTION pg_temp.pull() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN UPDATE balances SET balance_nanos = 1000000000 WHERE account_id > 0; RETURN NEW; END
        $$;
        CREATE TRIGGER pull BEFORE INSERT ON lever FOR EACH ROW EXECUTE FUNCTION pg_temp.pull()"""
    )
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await app.execute("INSERT INTO lever VALUES (1)")


async def test_a_table_of_the_same_name_is_not_mistaken_for_ours(app: Connection) -> None:
    account_id = await app.fetchval("SELECT id FROM accounts")
    await app.execute("CREATE TEMP TABLE balances (LIKE balances)")
    await book_by_hand(app, account_id)
    await app.execute("DROP TABLE pg_temp.balances")
    assert await balance_of(app, account_id) == -10


async def book_by_hand(app: Connection, account_id: int) -> None:
    await app.execute(
        """WITH made AS (
            INSERT INTO transfers (kind, ref, actor, reason)
            VALUES ('manual', 'x', 'a', 'b') RETURNING id
        )
        SELECT id FROM made"""
    )
    await app.execute(
        """INSERT INTO entries SELECT id, row.account_id, row.nanos
        FROM transfers, (VALUES ($1::bigint, -5::bigint), (-6, 5)) AS row (account_id, nanos)
        WHERE ref = 'x'""",
        account_id,
    )


async def test_the_grant_is_the_owners(app: Connection) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await app.execute("SELECT relay_grant(current_user)")
