"""An account at a glance: what it has, how fast it goes, what needs a hand."""

import datetime
from typing import Final

from relay.console.queries import money, usage
from relay.console.queries.forms import CallFilter
from relay.console.rows import BalanceRow, UsageRow
from relay.console.views import Choices, Need, OverviewView
from relay.store.log.hours import STEPS, percentile_ms
from relay.store.postgres import Connection
from relay.units import parse_usd

CHART_HOURS: Final = 6
PACE_DAYS: Final = 7
CHOICE_DAYS: Final = 90
CHOICES_MAX: Final = 200
NEEDS_MAX: Final = 20
HOUR: Final = datetime.timedelta(hours=1)

_LIMITS: Final = """
    SELECT accounts.tpm, accounts.rpm, lines.tpm AS line_tpm, lines.rpm AS line_rpm
    FROM accounts LEFT JOIN group_lines ON group_lines.group_id = accounts.group_id AND position = 0
    LEFT JOIN lines ON lines.id = line_id WHERE accounts.id = $1"""
_ADDRESSES: Final = """
    SELECT keys.id, keys.name, host(ip) || CASE family(ip) WHEN 6 THEN '/64' ELSE '' END AS address
    FROM key_addresses AS seen JOIN keys ON keys.id = key_id
    WHERE account_id = $1 AND deleted_at IS NULL AND NOT disabled
        AND first_seen > now() - interval '1 day' AND EXISTS (
            SELECT FROM key_addresses AS older
            WHERE older.key_id = seen.key_id AND older.first_seen < seen.first_seen)
    ORDER BY first_seen DESC LIMIT $2"""
_EXPIRING: Final = """
    SELECT id, name, expires_at FROM keys
    WHERE account_id = $1 AND deleted_at IS NULL AND NOT disabled AND replaced_by IS NULL
        AND expires_at > now() AND expires_at < now() + interval '7 days'
    ORDER BY expires_at LIMIT $2"""
_CHOICES: Final = """
    SELECT key_id, model, line_id, keys.name AS key_name, lines.name AS line_name
    FROM (SELECT DISTINCT key_id, model, line_id FROM usage_hours
        WHERE account_id = $1 AND hour > now() - make_interval(days => $2)) AS used
    LEFT JOIN keys ON keys.id = key_id LEFT JOIN lines ON lines.id = line_id LIMIT 5000"""
_CODES: Final = """
    SELECT DISTINCT error_code FROM usage_failures
    WHERE account_id = $1 AND minute > now() - make_interval(days => $2) AND error_code <> ''
    ORDER BY 1 LIMIT $3"""
_ELEMENTS: Final = ", ".join(f"coalesce(sum(ttft_counts[{at}]), 0)" for at in range(1, STEPS + 1))
_STEPS: Final = f"""
    SELECT ARRAY[{_ELEMENTS}] FROM usage_minutes
    WHERE account_id = $1 AND minute > $2"""  # noqa: S608


async def read_overview(
    connection: Connection, account_id: int, account: str, now: datetime.datetime
) -> OverviewView:
    """Return the overview of an account."""
    balance = await money.show_balance(connection, account_id, account)
    chart = await usage.list_usage(
        connection, _range(account_id, now, CHART_HOURS * HOUR), "minute", ""
    )
    week = await usage.sum_up(
        connection, _range(account_id, now, datetime.timedelta(days=PACE_DAYS))
    )
    hour = await usage.sum_up(connection, _range(account_id, now, HOUR))
    steps = await connection.fetchval(_STEPS, account_id, now - HOUR)
    tpm_limit, rpm_limit = await read_limits(connection, account_id)
    minute = _last_minute(chart, now)
    return OverviewView(
        balance=balance,
        days_left=_days_left(balance, parse_usd(week.whole.cost_usd)),
        rpm=0 if minute is None else minute.requests,
        rpm_limit=rpm_limit,
        tpm=0 if minute is None else minute.tokens,
        tpm_limit=tpm_limit,
        error_share=hour.whole.errors / hour.whole.requests if hour.whole.requests else None,
        ttft_p50_ms=percentile_ms(steps, 0.5),
        ttft_p95_ms=percentile_ms(steps, 0.95),
        usage=chart,
        needs=await list_needs(connection, account_id, balance),
        has_calls=bool(chart) or week.whole.requests > 0,
    )


async def read_limits(connection: Connection, account_id: int) -> tuple[int, int]:
    """Return tokens and calls a minute that bind an account: its own, or its line's if smaller."""
    row = await connection.fetchrow(_LIMITS, account_id)
    if row is None:
        return 0, 0
    tpm = [limit for limit in (row["tpm"], row["line_tpm"]) if limit]
    rpm = [limit for limit in (row["rpm"], row["line_rpm"]) if limit]
    return min(tpm, default=0), min(rpm, default=0)


async def list_needs(connection: Connection, account_id: int, balance: BalanceRow) -> list[Need]:
    """Return what needs a hand, the urgent first."""
    needs = []
    if parse_usd(balance.free_usd) <= 0:
        text = f"nothing left to spend: {balance.balance_usd} USD"
        needs.append(Need(kind="low_balance", urgent=True, text=text, link="/billing"))
    for row in await connection.fetch(_ADDRESSES, account_id, NEEDS_MAX):
        text = f'new address {row["address"]} on key "{row["name"]}"'
        needs.append(Need(kind="new_address", urgent=True, text=text, link=f"/keys/{row['id']}"))
    for order in await money.list_stuck(connection, account_id, NEEDS_MAX):
        text = f"order {order.order} is pending since {order.created_at}"
        needs.append(Need(kind="order_stuck", urgent=True, text=text, link="/billing"))
    for row in await connection.fetch(_EXPIRING, account_id, NEEDS_MAX):
        text = f'key "{row["name"]}" expires on {row["expires_at"]:%Y-%m-%d %H:%M} UTC'
        needs.append(Need(kind="key_expires", urgent=False, text=text, link=f"/keys/{row['id']}"))
    return needs[:NEEDS_MAX]


async def list_choices(connection: Connection, account_id: int) -> Choices:
    """Return what the filters' lists offer: what occurs in the sums of the last 90 days."""
    rows = await connection.fetch(_CHOICES, account_id, CHOICE_DAYS)
    codes = await connection.fetch(_CODES, account_id, CHOICE_DAYS, CHOICES_MAX)
    keys = {str(row["key_id"]): row["key_name"] for row in rows if row["key_name"]}
    return Choices(
        keys=sorted(keys.items(), key=lambda pair: pair[1])[:CHOICES_MAX],
        models=sorted({row["model"] for row in rows if row["model"]})[:CHOICES_MAX],
        lines=sorted({row["line_name"] for row in rows if row["line_name"]})[:CHOICES_MAX],
        codes=[row["error_code"] for row in codes],
    )


def _range(account_id: int, now: datetime.datetime, length: datetime.timedelta) -> CallFilter:
    return CallFilter(account_id=account_id, since=now - length, until=now)


def _last_minute(chart: list[UsageRow], now: datetime.datetime) -> UsageRow | None:
    """Return the last whole minute, if there were calls in it."""
    at = now.replace(second=0, microsecond=0) - datetime.timedelta(minutes=1)
    wanted = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return next((row for row in reversed(chart) if row.time == wanted), None)


def _days_left(balance: BalanceRow, spent_nanos: int) -> float | None:
    if spent_nanos <= 0:
        return None
    left = max(0, parse_usd(balance.free_usd)) * PACE_DAYS / spent_nanos
    return round(left, 1)
