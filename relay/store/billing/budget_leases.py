"""Windows of budgets in Postgres: leased to workers, used by the calls that the shipper books.

    lease      amount - used - held -> held, for one life of a worker; and back
    book       held -> used, as its calls arrive in the log: whatever they used, also beyond it
    begin      a budget set in the middle of its window begins with what the log holds of it
    quota      of a key's quota what is used is what the key has spent in all

A call counts in the window in which it arrived; its id says when that was. Windows are locked in
the order of their names, by everybody.
"""

import datetime
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import asyncpg
import msgspec

from relay.billing.budget import (
    FOREVER_S,
    LOW_PERCENT,
    BudgetWindow,
    format_amount,
    format_budget,
    quota_budget,
    read_budgets,
    window_at,
)
from relay.billing.purse import lease_nanos
from relay.billing.shapes import BudgetRequest, CreditLease
from relay.clock import wall_s
from relay.errors import Conflict
from relay.model import Budget, BudgetMeasure
from relay.records import CallEnd, EndReason
from relay.store.billing.credit_leases import renew
from relay.store.postgres import Connection

RECALL_CHANNEL: Final = "relay_budgets"
"""A notification on it is the name of a window that another worker lacks."""
KEPT_DAYS: Final = 62
"""Windows that ended longer ago are forgotten."""
OK_STATUS: Final = 200
TOLD_PER_LOOK: Final = 100

_OPEN: Final = """
    INSERT INTO budget_windows AS kept (name, scope, owner_id, measure, starts_at, ends_at, amount)
    SELECT name, scope, owner_id, measure, to_timestamp(starts), to_timestamp(ends), amount
    FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[],
        $7::bigint[]) AS wanted (name, scope, owner_id, measure, starts, ends, amount)
    ORDER BY name COLLATE "C"
    ON CONFLICT (name) DO UPDATE SET amount = excluded.amount"""
_LOCK: Final = """
    SELECT name, amount, used, held FROM budget_windows WHERE name = ANY($1::text[])
    ORDER BY name FOR NO KEY UPDATE"""
_GIVE_BACK: Final = """
    WITH returned AS (
        SELECT window_name, least(open, surplus.amount) AS amount
        FROM unnest($2::text[], $3::bigint[]) AS surplus (window_name, amount)
        JOIN budget_leases USING (window_name) WHERE owner = $1
    ), leases AS (
        UPDATE budget_leases SET open = open - amount, granted = granted - amount
        FROM returned
        WHERE budget_leases.window_name = returned.window_name AND owner = $1
    )
    UPDATE budget_windows SET held = held - returned.amount FROM returned
    WHERE name = window_name"""
_GRANT: Final = """
    WITH asked AS (
        SELECT * FROM unnest($2::text[], $3::bigint[]) AS row (window_name, amount)
    ), freed AS (
        UPDATE budget_windows SET held = held + asked.amount FROM asked
        WHERE name = window_name AND asked.amount > 0
    )
    INSERT INTO budget_leases AS kept (window_name, owner, open, granted)
    SELECT window_name, $1, amount, amount FROM asked
    ON CONFLICT (window_name, owner) DO UPDATE SET
        open = kept.open + excluded.open, granted = kept.granted + excluded.granted
    RETURNING window_name, granted"""
_BUDGETED: Final = """
    SELECT 'key' AS scope, id, budgets, quota_nanos FROM keys
    WHERE id = ANY($1::bigint[]) AND (budgets <> '{}' OR quota_nanos IS NOT NULL)
    UNION ALL
    SELECT 'account', id, budgets, NULL FROM accounts
    WHERE id = ANY($2::bigint[]) AND budgets <> '{}'"""
# What a worker used beyond its lease was never held: its purse counts it as debt, and is told so.
_SPEND: Final = """
    WITH spent AS (
        SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[]) AS row (name, owner, amount)
    ), covered AS (
        SELECT name, budget_leases.owner, least(open, spent.amount) AS amount,
            spent.amount - least(open, spent.amount) AS beyond
        FROM spent JOIN budget_leases
            ON window_name = name AND budget_leases.owner = spent.owner
    ), leases AS (
        UPDATE budget_leases SET open = open - covered.amount, granted = granted + beyond
        FROM covered
        WHERE window_name = name AND budget_leases.owner = covered.owner
    )
    UPDATE budget_windows AS kept SET used = kept.used + moved.used, held = held - moved.freed
    FROM (
        SELECT name, sum(spent.amount)::bigint AS used,
            coalesce(sum(covered.amount), 0)::bigint AS freed
        FROM spent LEFT JOIN covered USING (name, owner) GROUP BY name
    ) AS moved
    WHERE kept.name = moved.name"""
_SPENT: Final = "SELECT id, spent_nanos FROM keys WHERE id = ANY($1::bigint[])"
_USED: Final = """
    SELECT coalesce(sum(cost_nanos), 0)::bigint AS usd,
        coalesce(sum(input_tokens + output_tokens), 0)::bigint AS tokens,
        coalesce(sum(requests - errors), 0)::bigint AS requests
    FROM (
        SELECT cost_nanos, input_tokens, output_tokens, requests, errors FROM usage_hours
        WHERE account_id = $1 AND ($2::bigint IS NULL OR key_id = $2) AND hour >= $4
        UNION ALL
        SELECT cost_nanos, input_tokens, output_tokens, requests, errors FROM usage_minutes
        WHERE account_id = $1 AND ($2::bigint IS NULL OR key_id = $2)
            AND minute >= $3 AND minute < $4
    ) AS sums"""
_LOCK_KEYS: Final = """
    SELECT FROM keys WHERE account_id = $1 AND ($2::bigint IS NULL OR id = $2)
    ORDER BY id FOR NO KEY UPDATE"""
_BEGIN: Final = """
    UPDATE budget_windows SET used = greatest(used, $2) WHERE name = $1"""
_CLAIM_LOW: Final = """
    WITH low AS (
        SELECT name FROM budget_windows
        WHERE told_at IS NULL AND ends_at > now() AND amount > 0 AND used * 100.0 >= amount * $1
            AND starts_at > to_timestamp(0)
        ORDER BY name LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED
    )
    UPDATE budget_windows SET told_at = now() FROM low WHERE budget_windows.name = low.name
    RETURNING scope, owner_id, measure, amount, used, ends_at,
        (SELECT accounts.name FROM accounts WHERE id = CASE scope WHEN 'account' THEN owner_id
            ELSE (SELECT account_id FROM keys WHERE keys.id = owner_id) END) AS account,
        (SELECT keys.name FROM keys WHERE scope = 'key' AND keys.id = owner_id) AS key"""
# Windows end by the clocks of hosts, and one that is over is carried on for nothing.
_CARRY_ON: Final = """
    INSERT INTO budget_windows (name, scope, owner_id, measure, starts_at, ends_at, amount, used)
    SELECT format('key:%s:%s', $2::bigint, substring(name FROM 'key:[0-9]+:(.*)')), scope, $2,
        measure, starts_at, ends_at, amount, used
    FROM budget_windows
    WHERE scope = 'key' AND owner_id = $1 AND ends_at > now() - interval '1 day'"""
_FORGET: Final = """
    DELETE FROM budget_windows
    WHERE ends_at < now() - make_interval(days => $1) OR starts_at = to_timestamp(0)
        AND NOT EXISTS (SELECT FROM keys WHERE id = owner_id AND deleted_at IS NULL)"""
_SHOW: Final = """
    SELECT name, used, held FROM budget_windows WHERE name = ANY($1::text[])"""


class LowBudget(msgspec.Struct, frozen=True):
    """A window of which most is used; `key`: its name, None for an account's own budget."""

    account: str
    key: str | None
    amount: str
    used: str
    ends_at: datetime.datetime


async def lease(
    connection: Connection,
    owner: str,
    asks: Sequence[BudgetRequest],
    *,
    ttl_s: float,
    surplus: Mapping[str, int] | None = None,
) -> dict[str, CreditLease]:
    """Lease what windows have left, take back what is surplus, renew all leases of `owner`.

    As credit_leases.lease, by the names of windows.

    Raises:
        Conflict: The owner was closed: it counts as dead.
    """
    surplus = surplus or {}
    asked = {ask.window.name: ask for ask in asks}
    async with connection.transaction():
        if not await renew(connection, owner, ttl_s):
            raise Conflict("The leases of this worker were closed.")
        if not (asked or surplus):
            return {}
        await _open(connection, {ask.window: ask.amount for ask in asks})
        standing = await _lock(connection, asked.keys() | surplus.keys())
        if surplus:
            await connection.execute(_GIVE_BACK, owner, list(surplus), list(surplus.values()))
            standing = await _lock(connection, asked.keys())
        standing |= await _standing_of_quotas(connection, asks, standing)
        left = {name: amount - used - held for name, (amount, used, held) in standing.items()}
        granted = {
            name: lease_nanos(left[name], needed_nanos=ask.needed, wanted_nanos=ask.wanted)
            for name, ask in asked.items()
        }
        told = await connection.fetch(_GRANT, owner, list(granted), list(granted.values()))
        lacking = [
            name
            for name, ask in asked.items()
            if not granted[name] and 0 < ask.needed <= left[name] + standing[name][2]
        ]
        for name in lacking:
            await connection.execute("SELECT pg_notify($1, $2)", RECALL_CHANNEL, name)
    total = {row["window_name"]: row["granted"] for row in told}
    return {
        name: CreditLease(
            total[name], left[name] - granted[name], standing[name][0] - standing[name][1]
        )
        for name in asked
    }


async def book(connection: Connection, calls: Iterable[tuple[str, CallEnd]]) -> None:
    """Take what ended calls used out of the windows in which they arrived.

    Args:
        connection: In the transaction that writes these calls into the log, each once.
        calls: With the life of the worker that served each.
    """
    calls = list(calls)
    keys, accounts = {end.key_id for _, end in calls}, {end.account_id for _, end in calls}
    if not calls:
        return
    found = await connection.fetch(_BUDGETED, list(keys), list(accounts))
    if not found:
        return
    budgets = {(row["scope"], row["id"]): _budgets_of(row) for row in found}
    amounts: dict[BudgetWindow, int] = {}
    spent: Counter[tuple[str, str]] = Counter()
    for owner, end in calls:
        for place in (("key", end.key_id), ("account", end.account_id)):
            for budget in budgets.get(place, ()):
                used = used_of(budget.measure, end)
                if used:
                    window = window_at(*place, budget, arrived_s(end.request_id))
                    amounts[window] = budget.amount
                    spent[window.name, owner] += used
    if spent:
        await _open(connection, amounts)
        await connection.execute(
            _SPEND,
            [name for name, _ in spent],
            [owner for _, owner in spent],
            list(spent.values()),
        )


async def begin(
    connection: Connection,
    account_id: int,
    key_id: int | None,
    budgets: Sequence[Budget],
    before: Sequence[Budget],
) -> None:
    """Have budgets that were just set begin with what the log holds of their windows.

    Whoever sets them has changed the row of their key or account, and so waits here for shippers
    that have calls of its keys in hand: those either are in the log, or find the budget.

    Args:
        connection: In the transaction that sets them.
        account_id: Who pays.
        key_id: Whose they are; None: the account's.
        budgets: All that it has now.
        before: All that it had: what goes on with another amount goes on where it stands.
    """
    scope, owner_id = ("account", account_id) if key_id is None else ("key", key_id)
    await connection.execute(_LOCK_KEYS, account_id, key_id)
    now_s = int(wall_s())  # behind the locks, and by a host's clock, as calls are stamped
    counted = {window_at(scope, owner_id, budget, now_s) for budget in before}
    windows = {window_at(scope, owner_id, budget, now_s): budget.amount for budget in budgets}
    await _open(connection, windows)
    for window in sorted(windows.keys() - counted, key=lambda window: window.name):
        starts = datetime.datetime.fromtimestamp(window.starts_s, datetime.UTC)
        whole = starts.replace(minute=0, second=0, microsecond=0)
        if whole < starts:
            whole += datetime.timedelta(hours=1)
        row = await connection.fetchrow(_USED, account_id, key_id, starts, whole)
        assert row is not None
        await connection.execute(_BEGIN, window.name, row[window.measure.value])


async def carry_on(connection: Connection, key_id: int, new_key_id: int) -> None:
    """Have the budgets of a key that takes another one's place go on where that one stands."""
    await connection.execute(_CARRY_ON, key_id, new_key_id)


async def claim_low(connection: Connection) -> list[LowBudget]:
    """Return the windows of which LOW_PERCENT have been used by now, each told once."""
    rows = await connection.fetch(_CLAIM_LOW, LOW_PERCENT, TOLD_PER_LOOK)
    return [
        LowBudget(
            row["account"] or "",
            row["key"],
            format_amount(BudgetMeasure(row["measure"]), row["amount"]),
            format_amount(BudgetMeasure(row["measure"]), row["used"]),
            row["ends_at"],
        )
        for row in rows
    ]


async def forget_ended(connection: Connection) -> None:
    """Drop windows that ended long ago, and those of quotas whose keys are gone."""
    await connection.execute(_FORGET, KEPT_DAYS)


async def explain(
    connection: Connection, owners: Sequence[tuple[str, int, str, Sequence[Budget]]], now_s: float
) -> list[dict[str, Any]]:
    """Return how budgets stand: (scope, id, name, budgets) of each owner."""
    windows = [
        (name, budget, window_at(scope, owner_id, budget, int(now_s)))
        for scope, owner_id, name, budgets in owners
        for budget in budgets
    ]
    rows = await connection.fetch(_SHOW, [window.name for _, _, window in windows])
    found = {row["name"]: row for row in rows}
    shown = []
    for name, budget, window in windows:
        row = found.get(window.name)
        used, held = (row["used"], row["held"]) if row else (0, 0)
        ends = datetime.datetime.fromtimestamp(window.ends_s, datetime.UTC)
        shown.append(
            {
                "scope": window.scope,
                "name": name,
                "budget": format_budget(budget),
                "used": format_amount(budget.measure, used),
                "leased": format_amount(budget.measure, held),
                "left": format_amount(budget.measure, max(0, budget.amount - used)),
                "begins_anew": ends,
            }
        )
    return shown


def used_of(measure: BudgetMeasure, end: CallEnd) -> int:
    """Return what an ended call used; as flow.reserve.budgets counts it in the worker."""
    if measure is BudgetMeasure.USD:
        return end.cost_nanos
    if end.reason == EndReason.INTERRUPTED.value and end.status != OK_STATUS:
        return 0  # nothing is known to have reached the client
    tokens = end.input_tokens + end.output_tokens
    if measure is BudgetMeasure.TOKENS:
        return tokens
    return int(bool(tokens or end.cost_nanos))


def arrived_s(request_id: bytes) -> int:
    """Return when a call arrived: its id is a UUIDv7, milliseconds since 1970 first.

    Source: RFC 9562, section 5.7.
    """
    return int.from_bytes(request_id[:6], "big") // 1_000


async def _open(connection: Connection, amounts: Mapping[BudgetWindow, int]) -> None:
    """Make the windows that are not there, with what may be used of each."""
    if not amounts:
        return
    await connection.execute(
        _OPEN,
        [window.name for window in amounts],
        [window.scope for window in amounts],
        [window.owner_id for window in amounts],
        [window.measure.value for window in amounts],
        [window.starts_s for window in amounts],
        [window.ends_s for window in amounts],
        list(amounts.values()),
    )


def _budgets_of(row: asyncpg.Record) -> tuple[Budget, ...]:
    budgets, quota_nanos = read_budgets(row["budgets"]), row["quota_nanos"]
    return budgets if quota_nanos is None else (*budgets, quota_budget(quota_nanos))


async def _standing_of_quotas(
    connection: Connection,
    asks: Iterable[BudgetRequest],
    standing: Mapping[str, tuple[int, int, int]],
) -> dict[str, tuple[int, int, int]]:
    """Return how quotas stand among what is locked, with what their keys have spent.

    Read behind the locks: who books a call changes its key's sum and then, until the same commit,
    the window.
    """
    names = {ask.window.owner_id: ask.window.name for ask in asks if ask.window.ends_s == FOREVER_S}
    if not names:
        return {}
    found: dict[str, tuple[int, int, int]] = {}
    for row in await connection.fetch(_SPENT, list(names)):
        amount, _, held = standing[names[row["id"]]]
        found[names[row["id"]]] = amount, row["spent_nanos"], held
    return found


async def _lock(connection: Connection, names: Iterable[str]) -> dict[str, tuple[int, int, int]]:
    """Lock windows; return amount, used and held of each."""
    rows = await connection.fetch(_LOCK, list(names))
    return {row["name"]: (row["amount"], row["used"], row["held"]) for row in rows}
