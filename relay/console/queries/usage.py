"""Charts and totals, from the sums by minute and hour: never from the log itself.

by minute -> usage_minutes      by hour, by day -> usage_hours      by status -> usage_failures too
"""

import datetime
from typing import Annotated, Any, Final, Literal

import asyncpg
import msgspec
from msgspec import Meta

from relay.console.queries.calls import Resolved, add_failed, add_summed, conditions
from relay.console.queries.forms import CallFilter, LogQuery, format_moment
from relay.console.rows import CallTotals, UsageRow
from relay.errors import BadRequest
from relay.store.log.hours import OK_STATUS, STEPS, percentile_ms
from relay.store.postgres import Connection
from relay.units import format_usd

By = Literal["minute", "hour", "day"]
Group = Literal["", "model", "key", "line", "status"]

MINUTES_MAX: Final = 2 * 1440
"""Minutes of one chart; no screen shows more."""
SPANS_MAX: Final = 20_000
DEFAULT_DAYS: Final[dict[By, float]] = {"minute": 1 / 24, "hour": 1, "day": 30}
FINE_S: Final = 6 * 3600
"""Totals of a range up to this long are summed by minutes, of a longer one by hours."""

_SUMS: Final = ("requests", "errors", "limited", "input_tokens", "cached_tokens", "output_tokens")
_SUMMED: Final = ", ".join(f"sum({name})::bigint AS {name}" for name in (*_SUMS, "cost_nanos"))
_PLAIN: Final = ", ".join((*_SUMS, "cost_nanos"))
_NEGATED: Final = ", ".join(f"-{name}" for name in (*_SUMS, "cost_nanos"))
_STEPS: Final = (
    "ARRAY[" + ", ".join(f"coalesce(sum(ttft_counts[{at}]), 0)" for at in range(1, STEPS + 1)) + "]"
)
_GROUPS: Final[dict[Group, str]] = {
    "": "NULL::text",
    "model": "model",
    "key": "key_id::text",
    "line": "line_id::text",
    "status": "status::text",
}
_USAGE: Final = f"""
    SELECT date_trunc('{{by}}', {{at}}, 'UTC') AS time, {{group}} AS grouped, {_SUMMED},
        {{steps}} AS steps
    FROM {{table}} WHERE {{at}} >= $1 AND {{at}} < $2 AND {{conditions}}
    GROUP BY 1, 2 HAVING sum(requests) > 0 ORDER BY 1, 2 LIMIT {SPANS_MAX}"""  # noqa: S608
# What was answered with 200 is all less what failed.
_BY_STATUS: Final = f"""(
        SELECT {{at}}, account_id, key_id, model, line_id, {OK_STATUS} AS status, '' AS error_code,
            {_PLAIN} FROM {{table}}
        UNION ALL
        SELECT minute, account_id, key_id, model, line_id, {OK_STATUS}, '', {_NEGATED}
            FROM usage_failures
        UNION ALL
        SELECT minute, account_id, key_id, model, line_id, status, error_code, {_PLAIN}
            FROM usage_failures
    ) AS told"""  # noqa: S608
_TOTALS: Final = f"""
    SELECT {{group}} AS grouped, {_SUMMED} FROM {{table}}
    WHERE {{at}} >= $1 AND {{at}} < $2 AND {{conditions}}
    GROUP BY 1 HAVING sum(requests) > 0 ORDER BY sum(cost_nanos) DESC, 1 LIMIT {{limit}}"""  # noqa: S608


class UsageQuery(LogQuery, frozen=True, kw_only=True):
    """Sums by which unit of time, and of which groups."""

    by: By = "hour"
    group: Annotated[Group, Meta()] = ""


class Totals(msgspec.Struct, frozen=True):
    """Sums of a range, and of each group of it, the dearest first."""

    whole: CallTotals
    groups: list[tuple[str, CallTotals]]


async def list_usage(
    connection: Connection, wanted: CallFilter, by: By, group: Group
) -> list[UsageRow]:
    """Return sums over time, oldest first; a span without calls has no row.

    Raises:
        BadRequest: CLIENT; filtered by what the sums do not know, or too many minutes.
    """
    if not wanted.is_summed:
        raise BadRequest(
            "usage knows key, model, line, status and code, not ip, id, min_ms, min_usd"
        )
    since = _whole(wanted.since, by)
    if by == "minute" and (wanted.until - since).total_seconds() > MINUTES_MAX * 60 + 120:
        raise BadRequest(f"at most {MINUTES_MAX} minutes at once: ask by hour", param="by")
    resolved = await Resolved.of(connection, wanted)
    table, at = f"usage_{by}s", by
    split = _is_split(resolved, group)
    statement, values = _fill(_USAGE, resolved, table, at, group=group, by=by, split=split)
    rows = await connection.fetch(statement, since, wanted.until, *values)
    names = await _name_groups(connection, group, {row["grouped"] for row in rows})
    return [_to_usage(row, names) for row in rows]


async def sum_up(
    connection: Connection, wanted: CallFilter, group: Group = "", limit: int = 50
) -> Totals:
    """Return the totals of a filter, by group too: of whole minutes, or hours in a long range."""
    resolved = await Resolved.of(connection, wanted)
    fine = (wanted.until - wanted.since).total_seconds() <= FINE_S
    since = _whole(wanted.since, "minute" if fine else "hour")
    table, at = (
        ("usage_minutes", "minute") if fine else (_days_and_hours(since, wanted.until), "hour")
    )
    split = _is_split(resolved, group)
    statement, values = _fill(
        _TOTALS, resolved, table, at, group=group, limit=str(limit), split=split
    )
    rows = await connection.fetch(statement, since, wanted.until, *values)
    names = await _name_groups(connection, group, {row["grouped"] for row in rows})
    groups = [(names.get(row["grouped"], row["grouped"] or ""), _to_totals([row])) for row in rows]
    return Totals(_to_totals(rows), groups if group else [])


def _days_and_hours(since: datetime.datetime, until: datetime.datetime) -> str:
    """Return the sums of a long range: its whole days by the day, both its ends by the hour."""
    first = _whole(since + datetime.timedelta(hours=23, minutes=59), "day")
    last = _whole(until, "day")
    if last <= first:
        return "usage_hours"
    names = f"account_id, key_id, model, line_id, {_PLAIN}"
    begins, ends = (f"'{moment.isoformat()}'::timestamptz" for moment in (first, last))
    return f"""(
        SELECT hour, {names} FROM usage_hours WHERE hour < {begins}
        UNION ALL
        SELECT hour, {names} FROM usage_hours WHERE hour >= {ends}
        UNION ALL
        SELECT day, {names} FROM usage_days WHERE day >= {begins} AND day < {ends}
    ) AS long"""  # noqa: S608


def _is_split(wanted: Resolved, group: Group) -> bool:
    """Return whether the answer's status matters: then what failed is told apart."""
    return group == "status" or wanted.status is not None or wanted.code is not None


def _fill(
    template: str, wanted: Resolved, table: str, at: str, *, split: bool, **parts: str
) -> tuple[str, list[Any]]:
    query = conditions(2)
    add_summed(query, wanted)
    steps = _STEPS
    if split:
        add_failed(query, wanted)
        table = _BY_STATUS.format(table=table, at=at)
        steps = "NULL::bigint[]"
    group = _GROUPS[parts.pop("group")]  # type: ignore[index]
    statement = template.format(
        table=table, at=at, group=group, steps=steps, conditions=query.text, **parts
    )
    return statement, query.values


def _whole(moment: datetime.datetime, by: By) -> datetime.datetime:
    """Return the start of the span that a moment is in: the first span is whole."""
    whole = moment.astimezone(datetime.UTC).replace(second=0, microsecond=0)
    if by != "minute":
        whole = whole.replace(minute=0)
    return whole.replace(hour=0) if by == "day" else whole


async def _name_groups(
    connection: Connection, group: Group, ids: set[str | None]
) -> dict[str | None, str]:
    """Return the names behind ids of keys or lines; what is deleted keeps its name."""
    if group not in {"key", "line"}:
        return {}
    table = "keys" if group == "key" else "lines"
    rows = await connection.fetch(
        f"SELECT id::text, name FROM {table} WHERE id = ANY($1::bigint[])",  # noqa: S608
        [int(one) for one in ids if one],
    )
    return dict(map(tuple, rows))


def _to_usage(row: asyncpg.Record, names: dict[str | None, str]) -> UsageRow:
    counts = row["steps"]
    group = names.get(row["grouped"], row["grouped"])
    return UsageRow(
        time=format_moment(row["time"]),
        group=group,
        tokens=row["input_tokens"] + row["output_tokens"],
        cost_usd=format_usd(row["cost_nanos"]),
        ttft_p50_ms=_round(percentile_ms(counts, 0.5)) if counts else None,
        ttft_p95_ms=_round(percentile_ms(counts, 0.95)) if counts else None,
        **{name: row[name] for name in _SUMS},
    )


def _round(ms: float | None) -> float | None:
    return None if ms is None else round(ms, 1)


def _to_totals(rows: list[asyncpg.Record]) -> CallTotals:
    sums = {name: sum(row[name] for row in rows) for name in _SUMS if name != "limited"}
    cost_nanos = sum(row["cost_nanos"] for row in rows)
    return CallTotals(cost_usd=format_usd(cost_nanos), **sums)
