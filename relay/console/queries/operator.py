"""What operators look at: channels, lines, accounts, how the relay itself does."""

import datetime
import time
from typing import Any, Final

from relay.console.queries import money, usage
from relay.console.queries.forms import CallFilter, format_moment
from relay.console.rows import AccountRow, ChannelRow, LineRow, WorkRow
from relay.console.services import Services
from relay.console.views import MaintenanceView, Need, OperatorOverviewView
from relay.errors import DependencyDown
from relay.store import metrics as worker_metrics
from relay.store.catalog import listings
from relay.store.catalog.snapshot import load_shared
from relay.store.health.listing import add_health, read_conditions
from relay.store.limits.node_lists import find_nodes
from relay.store.limits.reports import add_loads
from relay.store.log.hours import STEPS, percentile_ms
from relay.store.maintenance import WorkDone, list_works
from relay.store.postgres import Connection
from relay.units import format_multiplier, format_usd

SPARK_MINUTES: Final = 60
ACCOUNTS_SHOWN: Final = 100
_SUMS: Final = ", ".join(f"coalesce(sum(ttft_counts[{at}]), 0)" for at in range(1, STEPS + 1))
_CHANNELS: Final = f"""
    SELECT channel_id, sum(requests)::bigint AS requests, sum(errors)::bigint AS errors,
        ARRAY[{_SUMS}] AS steps, array_agg(minute ORDER BY minute) AS minutes,
        array_agg(requests ORDER BY minute) AS calls
    FROM channel_minutes WHERE channel_id = ANY($1::bigint[]) AND minute > now() - interval '1 hour'
    GROUP BY channel_id"""  # noqa: S608
_STEPS: Final = f"SELECT ARRAY[{_SUMS}] FROM usage_minutes WHERE minute > $1"  # noqa: S608
_LINES: Final = """
    SELECT line_id,
        sum(requests) FILTER (WHERE minute = $1)::bigint AS rpm_now,
        sum(input_tokens + output_tokens) FILTER (WHERE minute = $1)::bigint AS tpm_now,
        sum(limited)::bigint AS limited
    FROM usage_minutes WHERE minute > $1 - interval '1 hour' GROUP BY line_id"""
_LINE_ACCOUNTS: Final = """
    SELECT line_id, array_agg(accounts.name ORDER BY accounts.name) AS accounts
    FROM group_lines JOIN accounts USING (group_id) WHERE deleted_at IS NULL GROUP BY line_id"""
_ACCOUNTS: Final = """
    SELECT accounts.id, accounts.name, groups.name AS "group", multiplier_ppm, balance_nanos,
        credit_limit_nanos, accounts.tpm, accounts.rpm, accounts.disabled,
        (SELECT count(*) FROM keys
            WHERE account_id = accounts.id AND keys.deleted_at IS NULL) AS keys,
        (SELECT count(*) FROM users WHERE account_id = accounts.id) AS users
    FROM accounts JOIN groups ON groups.id = group_id
    JOIN balances ON balances.account_id = accounts.id
    WHERE accounts.deleted_at IS NULL AND accounts.name > $1
        AND ($2 = '' OR strpos(accounts.name, $2) > 0)
    ORDER BY accounts.name LIMIT $3"""
_SPENT: Final = """
    SELECT account_id, sum(cost_nanos)::bigint AS spent,
        coalesce(sum(requests) FILTER (WHERE recent), 0)::bigint AS requests,
        coalesce(sum(errors) FILTER (WHERE recent), 0)::bigint AS errors
    FROM (SELECT *, hour > now() - interval '1 day' AS recent FROM usage_hours
        WHERE account_id = ANY($1::bigint[]) AND hour > now() - interval '30 days') AS month
    GROUP BY account_id"""
_SIZES: Final = """
    SELECT parent.relname AS name, sum(pg_total_relation_size(part.oid))::bigint AS bytes,
        count(*)::int AS days
    FROM pg_inherits JOIN pg_class AS part ON part.oid = inhrelid
    JOIN pg_class AS parent ON parent.oid = inhparent
    WHERE parent.relname IN ('request_log', 'usage_minutes', 'settlements') GROUP BY 1 ORDER BY 1"""

_STANDING: Final = ("reserve", "used", "lent", "borrowed", "in_flight")


async def list_channels(services: Services, connection: Connection) -> list[ChannelRow]:
    """Return channels, how each stands, and what it did in the last hour."""
    plain = await listings.list_channels(connection, services.vault)
    conditions = await read_conditions(services.redis_url, time.time_ns() // 1_000)
    rows = await connection.fetch(_CHANNELS, [row["id"] for row in plain])
    seen = {row["channel_id"]: row for row in rows}
    first = services.now().replace(second=0, microsecond=0)
    first -= datetime.timedelta(minutes=SPARK_MINUTES - 1)
    return [_to_channel(row, seen.get(row["id"]), first) for row in add_health(plain, conditions)]


def _to_channel(row: dict[str, Any], seen: Any, first: datetime.datetime) -> ChannelRow:
    spark = [0] * SPARK_MINUTES
    if seen is not None:
        for minute, calls in zip(seen["minutes"], seen["calls"], strict=True):
            at = int((minute - first).total_seconds()) // 60
            if 0 <= at < SPARK_MINUTES:
                spark[at] = calls
    named = ("name", "protocol", "base_url", "tier", "weight", "state", "reason", "trial_in_s")
    return ChannelRow(
        **{name: row[name] for name in named},
        requests=0 if seen is None else seen["requests"],
        errors=0 if seen is None else seen["errors"],
        ttft_p50_ms=None if seen is None else percentile_ms(seen["steps"], 0.5),
        ttft_p95_ms=None if seen is None else percentile_ms(seen["steps"], 0.95),
        spark=spark,
        models=sorted(row["models"]),
    )


async def list_lines(services: Services, connection: Connection) -> list[LineRow]:
    """Return lines and the load of the last whole minute."""
    minute = services.now().replace(second=0, microsecond=0) - datetime.timedelta(minutes=1)
    loads = {row["line_id"]: row for row in await connection.fetch(_LINES, minute)}
    sold = {row["line_id"]: row["accounts"] for row in await connection.fetch(_LINE_ACCOUNTS)}
    plain = await listings.list_lines(connection)
    return [
        _to_line(row, loads.get(row["id"]), sold.get(row["id"], []))
        for row in await _with_standings(services, connection, plain)
    ]


def _to_line(row: dict[str, Any], load: Any, accounts: list[str]) -> LineRow:
    standing: dict[str, Any] = {name: row.get(name) for name in _STANDING}
    return LineRow(
        **{name: row[name] for name in ("name", "kind", "tpm", "rpm", "concurrency")},
        channels=row["channels"],
        accounts=accounts,
        **_to_load(load),
        **standing,
    )


async def _with_standings(
    services: Services, connection: Connection, rows: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Add how lines stand at the limiter, where that can be asked."""
    try:
        nodes = await find_nodes(services.config, services.redis_url)
        return await add_loads(rows, await load_shared(connection, services.vault), nodes)
    except DependencyDown:
        return rows


def _to_load(load: Any) -> dict[str, Any]:
    names = ("tpm_now", "rpm_now", "limited")
    return {name: 0 if load is None else load[name] or 0 for name in names}


async def list_accounts(
    connection: Connection, *, search: str, after: str, limit: int = ACCOUNTS_SHOWN
) -> list[AccountRow]:
    """Return accounts by name, behind `after`."""
    rows = await connection.fetch(_ACCOUNTS, after, search, limit)
    spent = {
        row["account_id"]: row
        for row in await connection.fetch(_SPENT, [row["id"] for row in rows])
    }
    return [_to_account(row, spent.get(row["id"])) for row in rows]


def _to_account(row: Any, spent: Any) -> AccountRow:
    return AccountRow(
        **{name: row[name] for name in ("name", "group", "keys", "users", "tpm", "rpm")},
        disabled=row["disabled"],
        multiplier=format_multiplier(row["multiplier_ppm"]),
        balance_usd=format_usd(row["balance_nanos"]),
        credit_limit_usd=format_usd(row["credit_limit_nanos"]),
        spent_30d_usd=format_usd(0 if spent is None else spent["spent"]),
        requests_24h=0 if spent is None else spent["requests"],
        errors_24h=0 if spent is None else spent["errors"],
    )


async def read_overview(services: Services, connection: Connection) -> OperatorOverviewView:
    """Return how the relay does, and what needs a hand."""
    now = services.now()
    hour = datetime.timedelta(hours=1)
    chart = await usage.list_usage(
        connection, CallFilter(account_id=None, since=now - 6 * hour, until=now), "minute", ""
    )
    last = await usage.sum_up(connection, CallFilter(account_id=None, since=now - hour, until=now))
    steps = await connection.fetchval(_STEPS, now - hour)
    newest: datetime.datetime | None = await connection.fetchval(
        "SELECT max(ended_at) FROM request_log WHERE ended_at > now() - interval '1 day'"
    )
    minute = chart[-1] if chart else None
    requests = last.whole.requests
    return OperatorOverviewView(
        rpm=0 if minute is None else minute.requests,
        tpm=0 if minute is None else minute.tokens,
        error_share=last.whole.errors / requests if requests else None,
        ttft_p50_ms=percentile_ms(steps, 0.5),
        ttft_p95_ms=percentile_ms(steps, 0.95),
        log_age_s=None if newest is None else round((now - newest).total_seconds(), 1),
        workers=_read_workers(services, now),
        usage=chart,
        needs=await _list_needs(services, connection),
    )


def _read_workers(services: Services, now: datetime.datetime) -> dict[str, str]:
    found: dict[str, str] = {}
    for slot, told in worker_metrics.read_all(services.data_dir / "run" / "metrics").items():
        newest = max(one.gauges.get("time_seconds", 0.0) for one in told)
        found[slot] = "ready" if now.timestamp() - newest < 10 else "silent"
    return found


async def _list_needs(services: Services, connection: Connection) -> list[Need]:
    needs = []
    for channel in await list_channels(services, connection):
        if channel.state == "open":
            text = f"channel {channel.name} is out of service: {channel.reason}"
            needs.append(Need(kind="channel_open", urgent=True, text=text, link="/channels"))
    for order in await money.list_stuck(connection, None, 20):
        text = f"order {order.order} of {order.account} is pending since {order.created_at}"
        needs.append(Need(kind="order_stuck", urgent=True, text=text, link="/orders"))
    return needs


async def read_maintenance(
    services: Services, connection: Connection, windows: list[Any]
) -> MaintenanceView:
    """Return the maintenance window and how big the tables are."""
    rows = await connection.fetch(_SIZES)
    config = services.config
    return MaintenanceView(
        window=config.maintenance.window,
        zone=config.maintenance.zone,
        windows=windows,
        works=[_to_work(one) for one in reversed(await list_works(connection))],
        partitions=[(row["name"], row["days"]) for row in rows],
        table_bytes={row["name"]: row["bytes"] for row in rows},
    )


def _to_work(one: WorkDone) -> WorkRow:
    return WorkRow(
        work=one.work,
        started=format_moment(one.started_at),
        took_ms=None if one.took_s is None else one.took_s * 1_000,
        outcome=one.outcome.value,
        host=one.done_by,
        detail=one.detail,
    )
