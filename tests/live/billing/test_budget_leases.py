"""Goal: windows of budgets are leased and used to the last unit, whoever dies or writes twice.

Method: the statements on a real Postgres: workers lease, calls are booked as the shipper books them
(with the log, twice, late, beyond the lease), workers are closed; budgets are set in the middle of
a month that has calls in the log.
"""

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from relay.billing.budget import parse_budget, quota_budget, window_at
from relay.billing.shapes import BudgetRequest, CreditLease
from relay.errors import Conflict
from relay.records import CallEnd, EndReason
from relay.store.billing import budget_leases, credit_leases
from relay.store.catalog.keys import delete_key, set_account_budgets, set_key_budgets
from relay.store.log.writer import Mark, Part, write_batch
from relay.store.postgres import Connection
from tests.live.money_rig import connected, make_account

pytestmark = pytest.mark.live

BUDGET = parse_budget("50 requests/day")


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url) as connection:
        yield connection


async def make_key(db: Connection, name: str, *budgets: str) -> tuple[int, int]:
    """Return the ids of an account and of a key of it."""
    account_id = await make_account(db, name)
    key_id: int = await db.fetchval(
        """INSERT INTO keys (account_id, name, digest, pepper_id, prefix, last4, budgets)
        VALUES ($1, $2, decode(md5($2) || md5($2), 'hex'), 'p', '', '', $3) RETURNING id""",
        account_id,
        name,
        budgets,
    )
    return account_id, key_id


def an_end(account_id: int, key_id: int, number: int, **fields: Any) -> CallEnd:
    now_ms = time.time_ns() // 1_000_000
    plain: dict[str, Any] = {
        "request_id": (now_ms << 80 | 7 << 76 | key_id << 24 | number).to_bytes(16, "big"),
        "time_us": now_ms * 1_000,
        "account_id": account_id,
        "key_id": key_id,
        "ip": "203.0.113.7",
        "endpoint": "chat",
        "model": "m",
        "line_id": 1,
        "stream": False,
        "channel_id": 1,
        "served_model": "m",
        "status": 200,
        "reason": EndReason.COMPLETED.value,
        "input_tokens": 10,
        "cached_tokens": 0,
        "cache_write_tokens": 0,
        "output_tokens": 5,
        "reasoning_tokens": 0,
        "estimated": False,
        "ttft_us": 1,
        "total_us": 2,
        "attempts": 1,
        "cost_nanos": 1_000,
        "price_id": 0,
        "group_multiplier_ppm": 1_000_000,
        "model_multiplier_ppm": 1_000_000,
        "error_code": "",
    }
    return CallEnd(**{**plain, **fields})


async def ship(db: Connection, owner: str, ends: list[CallEnd], offset: int) -> None:
    await write_batch(db, [Part(owner, Mark(1, offset), ends)])


async def lease(
    db: Connection, owner: str, key_id: int, needed: int, *, given: int = 0
) -> CreditLease:
    window = window_at("key", key_id, BUDGET, time.time_ns() // 10**9)
    asks = [BudgetRequest(window, BUDGET.amount, needed, 0)]
    back = {window.name: given} if given else {}
    return (await budget_leases.lease(db, owner, asks, ttl_s=60, surplus=back))[window.name]


async def standing(db: Connection, key_id: int) -> tuple[int, int]:
    """Return used and held of the key's window of requests."""
    row = await db.fetchrow(
        """SELECT used, held FROM budget_windows
        WHERE scope = 'key' AND owner_id = $1 AND measure = 'requests'""",
        key_id,
    )
    assert row is not None
    return row["used"], row["held"]


async def test_two_workers_are_leased_no_more_than_there_is(db: Connection) -> None:
    _, key_id = await make_key(db, "two", "50 requests/day")
    assert (await lease(db, "two-a", key_id, 30)).total_nanos == 30
    refused = await lease(db, "two-b", key_id, 30)
    assert (refused.total_nanos, refused.free_nanos, refused.owned_nanos) == (0, 20, 50)
    assert (await lease(db, "two-a", key_id, 0, given=25)).total_nanos == 5
    assert (await lease(db, "two-b", key_id, 30)).total_nanos == 30
    assert await standing(db, key_id) == (0, 35)


async def lease_of_quota(db: Connection, owner: str, key_id: int, needed: int) -> CreditLease:
    row = await db.fetchrow("SELECT quota_nanos FROM keys WHERE id = $1", key_id)
    assert row is not None
    budget = quota_budget(row["quota_nanos"])
    window = window_at("key", key_id, budget, time.time_ns() // 10**9)
    asks = [BudgetRequest(window, budget.amount, needed, 0)]
    return (await budget_leases.lease(db, owner, asks, ttl_s=60))[window.name]


async def test_a_quota_covers_what_its_key_has_not_spent_over_all_workers(db: Connection) -> None:
    account_id, key_id = await make_key(db, "quota", "50 requests/day")
    await db.execute(
        "UPDATE keys SET quota_nanos = 10000, spent_nanos = 4000 WHERE id = $1", key_id
    )
    assert (await lease_of_quota(db, "quota-a", key_id, 2_000)).total_nanos == 2_000
    refused = await lease_of_quota(db, "quota-b", key_id, 5_000)
    assert (refused.total_nanos, refused.free_nanos, refused.owned_nanos) == (0, 4_000, 6_000)
    # Three calls of 1,000 each, of which two are covered; the same again is nothing new.
    ends = [an_end(account_id, key_id, number) for number in range(3)]
    for offset in (10, 20):
        await ship(db, "quota-a", ends, offset)
    told = await lease_of_quota(db, "quota-b", key_id, 4_000)
    assert (told.total_nanos, told.free_nanos, told.owned_nanos) == (0, 3_000, 3_000)
    assert (await lease_of_quota(db, "quota-b", key_id, 3_000)).total_nanos == 3_000
    await db.execute("UPDATE keys SET quota_nanos = NULL WHERE id = $1", key_id)
    await ship(db, "quota-a", [an_end(account_id, key_id, 9)], 30)
    await db.execute("UPDATE keys SET quota_nanos = 20000 WHERE id = $1", key_id)
    raised = await lease_of_quota(db, "quota-a", key_id, 1_000)
    assert raised.owned_nanos == 20_000 - 4_000 - 4_000, "what it spent without one counts too"
    assert await budget_leases.claim_low(db) == [], "a quota is no budget that runs low"


async def test_the_window_of_a_quota_goes_with_its_key(db: Connection) -> None:
    _, key_id = await make_key(db, "gone")
    await db.execute("UPDATE keys SET quota_nanos = 5 WHERE id = $1", key_id)
    await lease_of_quota(db, "gone-a", key_id, 1)
    windows = "SELECT count(*) FROM budget_windows WHERE owner_id = $1 AND scope = 'key'"
    await budget_leases.forget_ended(db)
    assert await db.fetchval(windows, key_id) == 1
    await delete_key(db, key_id)
    await budget_leases.forget_ended(db)
    assert await db.fetchval(windows, key_id) == 0


async def test_calls_are_used_once_and_what_they_used_beyond_is_told(db: Connection) -> None:
    account_id, key_id = await make_key(db, "once", "50 requests/day", "9 usd/month")
    await lease(db, "once-a", key_id, 2)
    ends = [an_end(account_id, key_id, number) for number in range(3)]
    await ship(db, "once-a", ends, 10)
    await ship(db, "once-a", ends, 20)
    assert await standing(db, key_id) == (3, 0)
    # The third call was not covered: the worker's purse owes it, and is told so.
    assert (await lease(db, "once-a", key_id, 0)).total_nanos == 3
    spent = await db.fetchval(
        "SELECT used FROM budget_windows WHERE owner_id = $1 AND measure = 'usd'", key_id
    )
    assert spent == 3_000


async def test_a_dead_workers_lease_is_free_behind_its_last_call(db: Connection) -> None:
    account_id, key_id = await make_key(db, "dead", "50 requests/day")
    await lease(db, "dead-a", key_id, 40)
    await ship(db, "dead-a", [an_end(account_id, key_id, 1)], 10)
    assert await standing(db, key_id) == (1, 39)
    await credit_leases.close_owner(db, "dead-a")
    assert await standing(db, key_id) == (1, 0)
    with pytest.raises(Conflict):
        await lease(db, "dead-a", key_id, 1)
    assert (await lease(db, "dead-b", key_id, 49)).total_nanos == 49


async def test_what_reached_nobody_uses_nothing(db: Connection) -> None:
    account_id, key_id = await make_key(db, "nothing", "50 requests/day", "9 tokens/day")
    nothing = {"input_tokens": 0, "output_tokens": 0, "cost_nanos": 0}
    interrupted = {"reason": EndReason.INTERRUPTED.value, "status": 500, "cost_nanos": 0}
    await ship(
        db,
        "nothing-a",
        [
            an_end(account_id, key_id, 1, status=429, reason="rejected", **nothing),
            an_end(account_id, key_id, 2, **interrupted),
        ],
        10,
    )
    assert await db.fetchval("SELECT count(*) FROM budget_windows WHERE owner_id = $1", key_id) == 0


async def test_a_budget_set_late_begins_with_what_the_log_holds(db: Connection) -> None:
    account_id, key_id = await make_key(db, "late")
    await ship(db, "late-a", [an_end(account_id, key_id, number) for number in range(7)], 10)
    await set_key_budgets(db, key_id, ["50 requests/day", "1 usd/week@Asia/Kathmandu"])
    await set_account_budgets(db, account_id, ["1000 tokens/month"])
    used = await db.fetch(
        """SELECT scope, measure, used FROM budget_windows
        WHERE (scope = 'key' AND owner_id = $1) OR (scope = 'account' AND owner_id = $2)
        ORDER BY measure""",
        key_id,
        account_id,
    )
    assert [tuple(row) for row in used] == [
        ("key", "requests", 7),
        ("account", "tokens", 105),
        ("key", "usd", 7_000),
    ]
    # Another amount goes on where the budget stands: what is leased and used stays as it is.
    await lease(db, "late-a", key_id, 3)
    await set_key_budgets(db, key_id, ["60 requests/day"])
    assert await standing(db, key_id) == (7, 3)


async def test_most_of_a_budget_used_is_told_once(db: Connection) -> None:
    account_id, key_id = await make_key(db, "low", "5 requests/day")
    await ship(db, "low-a", [an_end(account_id, key_id, number) for number in range(3)], 10)
    assert [one for one in await budget_leases.claim_low(db) if one.key == "low"] == []
    await ship(db, "low-a", [an_end(account_id, key_id, 4)], 20)
    told = [one for one in await budget_leases.claim_low(db) if one.key == "low"]
    assert [(one.account, one.amount, one.used) for one in told] == [
        ("low", "5 requests", "4 requests")
    ]
    assert [one for one in await budget_leases.claim_low(db) if one.key == "low"] == []


async def test_a_key_that_replaces_another_goes_on_with_its_budget(db: Connection) -> None:
    account_id, key_id = await make_key(db, "old", "50 requests/day")
    await ship(db, "old-a", [an_end(account_id, key_id, number) for number in range(3)], 10)
    await budget_leases.carry_on(db, key_id, 1_000_000 + key_id)
    assert await standing(db, 1_000_000 + key_id) == (3, 0)
