"""Who has earned enterprise status, and is moved to the group that sells it.

An account is promoted once in its life and never moved back from here: what a person does with its
group afterwards stands. Nobody is moved to a group that is dearer than the own one.
"""

import datetime
from typing import Final

import asyncpg
import msgspec

from relay.billing.recharge import EnterpriseRule, is_enterprise
from relay.store.billing.orders import sum_recharged_cny
from relay.store.postgres import Connection
from relay.units import format_usd

LOOK_BACK_DAYS: Final = 7
"""Whole days looked at beyond the rule's own: a review missed for a week misses nobody."""

_CANDIDATE: Final = """
    SELECT accounts.name, own.id AS from_group_id, own.name AS from_group,
        target.id AS to_group_id, target.name AS to_group
    FROM accounts
    JOIN groups AS own ON own.id = group_id
    JOIN groups AS target ON target.name = $2 AND target.deleted_at IS NULL
    WHERE accounts.id = $1 AND accounts.deleted_at IS NULL AND own.id <> target.id
        AND target.multiplier_ppm <= own.multiplier_ppm
        AND NOT EXISTS (SELECT FROM promotions WHERE account_id = accounts.id)"""
# One statement, so that a group changed by a person at the same moment is not changed again.
_PROMOTE: Final = """
    WITH moved AS (
        UPDATE accounts SET group_id = $3 WHERE id = $1 AND group_id = $2 RETURNING id
    )
    INSERT INTO promotions (account_id, from_group_id, to_group_id, reason)
    SELECT id, $2, $3, $4 FROM moved RETURNING account_id"""
_SPENDERS: Final = """
    SELECT account_id, array_agg(day ORDER BY day) AS days, array_agg(nanos ORDER BY day) AS nanos
    FROM (SELECT account_id, (minute AT TIME ZONE 'UTC')::date AS day,
              sum(cost_nanos)::bigint AS nanos
          FROM usage_minutes
          WHERE minute >= $1 AND minute < $2
              AND account_id NOT IN (SELECT account_id FROM promotions)
          GROUP BY 1, 2 HAVING sum(cost_nanos) >= $3) AS spent
    GROUP BY account_id HAVING count(*) >= $4"""


class Promotion(msgspec.Struct, frozen=True):
    """An account that was moved, between which groups, and why."""

    account_id: int
    account: str
    from_group: str
    to_group: str
    reason: str


async def review_recharges(
    connection: Connection, group: str, rule: EnterpriseRule, account_id: int
) -> Promotion | None:
    """Promote an account whose recharges earned it; None = it stays where it is.

    Args:
        connection: To the database of the ledger.
        group: The group to move it to; "" = nobody is moved.
        rule: What it takes.
        account_id: Whom to look at.
    """
    if not group:
        return None
    recharged_nanos = await sum_recharged_cny(connection, account_id)
    if not is_enterprise(rule, recharged_nanos, ()):
        return None
    reason = f"recharged {format_usd(recharged_nanos)} CNY in all"
    return await _promote(connection, group, account_id, reason)


async def review_spending(
    connection: Connection, group: str, rule: EnterpriseRule, today: datetime.date
) -> list[Promotion]:
    """Promote the accounts whose spending earned it, over whole days (UTC) before `today`."""
    if not group:
        return []
    first = today - datetime.timedelta(days=rule.days + LOOK_BACK_DAYS)
    spenders = await connection.fetch(
        _SPENDERS, _midnight(first), _midnight(today), rule.day_nanos, rule.days
    )
    found = []
    for row in spenders:
        by_day = dict(zip(row["days"], row["nanos"], strict=True))
        days = [first + datetime.timedelta(days=at) for at in range((today - first).days)]
        if is_enterprise(rule, 0, [by_day.get(day, 0) for day in days]):
            reason = f"spent {format_usd(rule.day_nanos)} USD a day on {rule.days} days in a row"
            found.append(await _promote(connection, group, row["account_id"], reason))
    return [promotion for promotion in found if promotion is not None]


async def review_everybody(
    connection: Connection, group: str, rule: EnterpriseRule
) -> list[Promotion]:
    """Promote all accounts whose recharges earned it: the rule or its group may be new."""
    if not group:
        return []
    rows = await connection.fetch(
        """SELECT DISTINCT account_id FROM orders WHERE status = 'credited'
        AND account_id NOT IN (SELECT account_id FROM promotions) ORDER BY account_id"""
    )
    found = [await review_recharges(connection, group, rule, row["account_id"]) for row in rows]
    return [promotion for promotion in found if promotion is not None]


async def has_group(connection: Connection, group: str) -> bool:
    """Return whether there is a group of that name."""
    found: bool = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM groups WHERE name = $1 AND deleted_at IS NULL)", group
    )
    return found


async def find_promotion(connection: Connection, account: str) -> asyncpg.Record | None:
    """Return when and why an account was promoted; None = it was not."""
    return await connection.fetchrow(
        """SELECT promotions.created_at, reason, own.name AS from_group, target.name AS to_group
        FROM promotions
        JOIN accounts ON accounts.id = account_id AND accounts.name = $1 AND deleted_at IS NULL
        JOIN groups AS own ON own.id = from_group_id
        JOIN groups AS target ON target.id = to_group_id""",
        account,
    )


async def _promote(
    connection: Connection, group: str, account_id: int, reason: str
) -> Promotion | None:
    row = await connection.fetchrow(_CANDIDATE, account_id, group)
    if row is None:
        return None
    groups = (row["from_group_id"], row["to_group_id"])
    if await connection.fetchval(_PROMOTE, account_id, *groups, reason) is None:
        return None
    return Promotion(account_id, row["name"], row["from_group"], row["to_group"], reason)


def _midnight(day: datetime.date) -> datetime.datetime:
    return datetime.datetime.combine(day, datetime.time(), datetime.UTC)
