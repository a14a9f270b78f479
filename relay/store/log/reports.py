"""What the request log answers: calls newest first, one call with its receipt, usage over time.

Pages are found by key (the last row seen), never by OFFSET, and nothing is counted: a page costs
the same wherever it is and however big the log. Rows name what is deleted since, too.
"""

import datetime
from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec

from relay.billing.price import receipt
from relay.errors import BadRequest, NotFound
from relay.extras import Extras
from relay.store.catalog.snapshot import read_price
from relay.store.postgres import Connection
from relay.units import format_multiplier, format_usd
from relay.usage import COUNTS, Usage

PAGE_ROWS: Final = 500
USAGE_UNITS: Final = ("minute", "hour", "day")
REQUEST_ID_PREFIX: Final = "req_"

Row = dict[str, Any]

_CALLS: Final = """
    SELECT log.*, accounts.name AS account, keys.name AS key_name, lines.name AS line,
        channels.name AS channel
    FROM (SELECT * FROM request_log WHERE {conditions}
          ORDER BY ended_at DESC, request_id DESC LIMIT {limit}) AS log
    LEFT JOIN accounts ON accounts.id = log.account_id
    LEFT JOIN keys ON keys.id = log.key_id
    LEFT JOIN lines ON lines.id = log.line_id
    LEFT JOIN channels ON channels.id = log.channel_id
    ORDER BY ended_at DESC, request_id DESC"""
_USAGE: Final = """
    SELECT date_trunc({unit}, minute, 'UTC') AS time, sum(requests)::bigint AS requests,
        sum(errors)::bigint AS errors, sum(limited)::bigint AS limited,
        sum(input_tokens)::bigint AS input_tokens, sum(cached_tokens)::bigint AS cached_tokens,
        sum(output_tokens)::bigint AS output_tokens, sum(cost_nanos)::bigint AS cost_nanos
    FROM usage_minutes WHERE {conditions} GROUP BY 1 ORDER BY 1"""
_SHARES: Final = """
    SELECT {name} AS name, {calls}::bigint AS requests,
        sum(input_tokens)::bigint AS input_tokens, sum(cached_tokens)::bigint AS cached_tokens,
        sum(output_tokens)::bigint AS output_tokens, sum(cost_nanos)::bigint AS cost_nanos
    FROM {table} AS used LEFT JOIN lines ON lines.id = used.line_id {join}
    WHERE {conditions} GROUP BY 1 ORDER BY 3 DESC"""
_SHARED: Final = {
    "line": ("lines.name", "sum(requests)", "usage_minutes", ""),
    "model": ("model", "sum(requests)", "usage_minutes", ""),
    "channel": (
        "channels.name",
        "count(*)",
        "request_log",
        "LEFT JOIN channels ON channels.id = used.channel_id",
    ),
}
"""By what the whole of a span is shared out, and where that is found: sums know no channel."""
USAGE_PARTS: Final = tuple(_SHARED)
_NAMED: Final = {
    "account": "SELECT id, 0 AS rank FROM accounts WHERE name = $1",
    "line": "SELECT id, 0 AS rank FROM lines WHERE name = $1",
    "channel": "SELECT id, 0 AS rank FROM channels WHERE name = $1",
    "key": """SELECT keys.id, CASE WHEN keys.name = $1 THEN 0
            WHEN accounts.name || '/' || keys.name = $1 THEN 1 ELSE 2 END AS rank
        FROM keys JOIN accounts ON accounts.id = account_id
        WHERE keys.name = $1 OR last4 = $1 OR accounts.name || '/' || keys.name = $1""",
}
"""By noun: whom a word names, the better readings of it first. A bare number is a name, never an
id: it would lead to somebody else's calls."""
_TABLES: Final = {"account": "accounts", "line": "lines", "channel": "channels", "key": "keys"}
ID_PREFIX: Final = "id:"
ID_DIGITS: Final = 19
"""A bigint has fewer."""


class ReportScope(msgspec.Struct, frozen=True, kw_only=True):
    """Whose usage: names or ids as an operator types them; None = all. Times are aware.

    `since` is included, `until` is not; both look at when a call ended.
    """

    account: str | None = None
    key: str | None = None
    line: str | None = None
    model: str | None = None
    since: datetime.datetime | None = None
    until: datetime.datetime | None = None


class CallFilter(ReportScope, frozen=True, kw_only=True):
    """Which calls. `status`: first and last of a range. `ip`: an address or a CIDR."""

    channel: str | None = None
    status: tuple[int, int] | None = None
    reason: str | None = None
    ip: str | None = None


class Cursor(msgspec.Struct, frozen=True):
    """The last row of a page; the next page begins behind it."""

    ended_at: datetime.datetime
    request_id: UUID


class _Query:
    """Conditions and the values of their placeholders; every condition is a text of this module."""

    def __init__(self) -> None:
        self.conditions = ["true"]
        self.values: list[Any] = []

    def put(self, value: object) -> str:
        """Return the placeholder of a new value."""
        self.values.append(value)
        return f"${len(self.values)}"

    def add(self, condition: str, value: object) -> None:
        """Add a condition on `value`, if there is one; {} stands for its placeholder."""
        if value is not None:
            self.conditions.append(condition.format(self.put(value)))

    def fill(self, template: str, **parts: str) -> str:
        """Return the statement with the conditions in their place."""
        return template.format(conditions=" AND ".join(self.conditions), **parts)


async def list_calls(connection: Connection, wanted: CallFilter, limit: int) -> AsyncIterator[Row]:
    """Yield at most `limit` calls as rows of the contract, newest first, a page at a time.

    Raises:
        NotFound: CLIENT; a name in `wanted` means nothing.
        BadRequest: CLIENT; `ip` is not an address.
    """
    before: Cursor | None = None
    while limit > 0:
        page = await read_page(connection, wanted, min(limit, PAGE_ROWS), before)
        for record in page:
            yield to_row(record)
        if len(page) < PAGE_ROWS:
            return
        limit -= len(page)
        before = Cursor(page[-1]["ended_at"], page[-1]["request_id"])


async def read_page(
    connection: Connection, wanted: CallFilter, limit: int, before: Cursor | None
) -> list[asyncpg.Record]:
    """Return at most `limit` records of the log that come after `before`, newest first.

    Raises:
        NotFound: CLIENT; a name in `wanted` means nothing.
        BadRequest: CLIENT; `ip` is not an address.
    """
    query = await _scope(connection, wanted, at="ended_at")
    await _add_named(connection, query, "channel", wanted.channel)
    query.add("reason = {}", wanted.reason)
    query.add("ip <<= {}::text::inet", wanted.ip)
    if wanted.status:
        first, last = map(query.put, wanted.status)
        query.conditions.append(f"status BETWEEN {first} AND {last}")
    if before:
        ended_at, request_id = query.put(before.ended_at), query.put(before.request_id)
        query.conditions.append(f"(ended_at, request_id) < ({ended_at}, {request_id})")
    statement = query.fill(_CALLS, limit=query.put(limit))
    try:
        return await connection.fetch(statement, *query.values)
    except asyncpg.InvalidTextRepresentationError as exc:
        raise BadRequest("ip: expected an address or a CIDR such as 203.0.113.0/24") from exc


async def show_call(connection: Connection, request_id: str) -> Row:
    """Return all there is of one call: its row, and the sum that made its cost.

    Raises:
        BadRequest: CLIENT; that is no request id.
        NotFound: CLIENT; there is no such call, or it is older than the retention.
    """
    return await explain_call(connection, await find_call(connection, request_id))


async def find_call(
    connection: Connection, request_id: str, account_id: int | None = None
) -> asyncpg.Record:
    """Return the record of one call, of any account or of one.

    Raises:
        BadRequest: CLIENT; that is no request id.
        NotFound: CLIENT; there is no such call there, or it is older than the retention.
    """
    query = _Query()
    query.add("request_id = {}", parse_request_id(request_id))
    query.add("account_id = {}", account_id)
    statement = query.fill(_CALLS, limit=query.put(1))
    record = await connection.fetchrow(statement, *query.values)
    if record is None:
        raise NotFound("there is no call of this id in the request log")
    return record


async def explain_call(connection: Connection, record: asyncpg.Record) -> Row:
    """Return a record's row, its attempts, the sum that made its cost, and where it was booked."""
    took = datetime.timedelta(microseconds=record["total_us"])
    return {
        **to_row(record),
        "started": format_moment(record["ended_at"] - took),
        "error_code": record["error_code"],
        "translated": record["translated"],
        "price_id": record["price_id"] or None,
        "group_multiplier": format_multiplier(record["group_multiplier_ppm"]),
        "model_multiplier": format_multiplier(record["model_multiplier_ppm"]),
        "tries": await _tell_tries(connection, record),
        "images": record["images"],
        "extras": msgspec.json.decode(record["extras"] or "{}"),
        "receipt": await _write_receipt(connection, record),
        **await _find_booking(connection, record["request_id"]),
    }


async def list_usage(connection: Connection, scope: ReportScope, unit: str) -> list[Row]:
    """Return requests, tokens, errors and cost by minute, hour or day (UTC), oldest first.

    A span without calls has no row. The first span is whole: `since` is taken down to its start.

    Raises:
        NotFound: CLIENT; a name in `scope` means nothing.
    """
    assert unit in USAGE_UNITS
    query = await _scope(connection, _start_whole(scope, unit), at="minute")
    statement = query.fill(_USAGE, unit=query.put(unit))
    return [
        {
            "time": format_moment(record["time"]),
            **{name: record[name] for name in ("requests", "errors", "limited")},
            **_tokens_of(record),
            "tokens": record["input_tokens"] + record["output_tokens"],
            "cost_usd": format_usd(record["cost_nanos"]),
        }
        for record in await connection.fetch(statement, *query.values)
    ]


async def share_usage(connection: Connection, scope: ReportScope, by: str) -> list[Row]:
    """Return what each line, channel or model had of a span, and how much of it from a cache.

    Raises:
        NotFound: CLIENT; a name in `scope` means nothing.
    """
    name, calls, table, join = _SHARED[by]
    at = "ended_at" if table == "request_log" else "minute"
    query = await _scope(connection, _start_whole(scope, "minute"), at=at)
    statement = query.fill(_SHARES, name=name, calls=calls, table=table, join=join)
    return [
        {
            by: record["name"] or "",
            "requests": record["requests"],
            **_tokens_of(record),
            "cost_usd": format_usd(record["cost_nanos"]),
        }
        for record in await connection.fetch(statement, *query.values)
    ]


def _tokens_of(record: asyncpg.Record) -> Row:
    """Return tokens, and the share of the input that came from a cache."""
    given = record["input_tokens"]
    return {
        **{name: record[name] for name in ("input_tokens", "cached_tokens", "output_tokens")},
        "cached_share": round(record["cached_tokens"] / given, 4) if given else 0.0,
    }


def to_row(record: asyncpg.Record) -> Row:
    """Return a record as the row that commands and API show: the fields of the contract."""
    return {
        "request_id": f"{REQUEST_ID_PREFIX}{record['request_id'].hex}",
        "time": format_moment(record["ended_at"]),
        "account": record["account"],
        "key_id": record["key_id"],
        "key_name": record["key_name"],
        "ip": None if record["ip"] is None else str(record["ip"]),
        "line": record["line"],
        "channel": record["channel"],
        **{name: record[name] for name in ("model", "served_model", "endpoint", "stream")},
        **{name: record[name] for name in ("status", "reason")},
        **{name: record[name] for name in ("input_tokens", "cached_tokens", "cache_write_tokens")},
        **{name: record[name] for name in ("output_tokens", "reasoning_tokens", "estimated")},
        "cost_usd": format_usd(record["cost_nanos"]),
        "ttft_ms": record["ttft_us"] / 1000 if record["ttft_us"] else None,
        "total_ms": record["total_us"] / 1000,
        "attempts": record["attempts"],
    }


def parse_request_id(text: str) -> UUID:
    """Return the id in `req_...`, as clients see it, or in a plain UUID.

    Raises:
        BadRequest: CLIENT; it is neither.
    """
    try:
        return UUID(text.removeprefix(REQUEST_ID_PREFIX))
    except ValueError:
        raise BadRequest(f"a request id looks like {REQUEST_ID_PREFIX}0123...def") from None


async def _scope(connection: Connection, scope: ReportScope, *, at: str) -> _Query:
    query = _Query()
    query.add(at + " >= {}", scope.since)
    query.add(at + " < {}", scope.until)
    query.add("model = {}", scope.model)
    await _add_named(connection, query, "account", scope.account)
    await _add_named(connection, query, "key", scope.key)
    await _add_named(connection, query, "line", scope.line)
    return query


async def _add_named(connection: Connection, query: _Query, noun: str, name: str | None) -> None:
    """Add a condition on the ids behind a name; a name can be used again after a deletion."""
    if name is None:
        return
    ids = await _find_ids(connection, noun, name)
    if not ids:
        raise NotFound(f"there is no {noun} {name!r}")
    if len(ids) == 1:
        query.add(noun + "_id = {}", ids[0])  # in this form an index gives the order too
    else:
        query.add(noun + "_id = ANY({})", ids)


async def _find_ids(connection: Connection, noun: str, name: str) -> list[int]:
    """Return the ids behind a name, or behind `id:7` where nothing has that for a name."""
    found = await connection.fetch(_NAMED[noun], name)
    best = min((record["rank"] for record in found), default=0)
    ids = [record["id"] for record in found if record["rank"] == best]
    number = name.removeprefix(ID_PREFIX)
    if ids or number == name or not (number.isdecimal() and len(number) < ID_DIGITS):
        return ids
    known = f"SELECT id FROM {_TABLES[noun]} WHERE id = $1"  # noqa: S608 - our own names
    return [record["id"] for record in await connection.fetch(known, int(number))]


async def _find_booking(connection: Connection, request_id: UUID) -> Row:
    """Return by which transfer a call was charged, and what its failed attempts cost us."""
    row = await connection.fetchrow(
        "SELECT transfer_id, retry_nanos FROM settlements WHERE request_id = $1", request_id
    )
    transfer_id, retry_nanos = (None, 0) if row is None else row
    return {"transfer": transfer_id, "operator_cost_usd": format_usd(retry_nanos)}


async def _tell_tries(connection: Connection, record: asyncpg.Record) -> list[Row]:
    """Return each attempt of a call, in the order of asking; the last word is on who served it."""
    failed: list[dict[str, Any]] = msgspec.json.decode(record["tries"] or "[]")
    ids = [one["channel_id"] for one in failed]
    named = await connection.fetch("SELECT id, name FROM channels WHERE id = ANY($1)", ids)
    names = dict(map(tuple, named))
    tries = [
        {
            "channel": names.get(one["channel_id"]),
            "outcome": one["outcome"],
            "status": one["status"] or None,
            "asked_ms": one["asked_us"] / 1000,
            "took_ms": one["took_us"] / 1000,
        }
        for one in sorted(failed, key=lambda one: one["asked_us"])
    ]
    if record["attempts"] > len(failed) and record["channel"] is not None:
        served = {"channel": record["channel"], "outcome": record["reason"]}
        tries.append({**served, "status": record["status"], "asked_ms": None, "took_ms": None})
    return tries


async def _write_receipt(connection: Connection, record: asyncpg.Record) -> str | None:
    """Return the sum from price and multipliers to the cost, None where nothing was priced."""
    row = await connection.fetchrow("SELECT * FROM prices WHERE id = $1", record["price_id"])
    if row is None:
        return None
    price = read_price(row)
    return receipt(read_usage(record), price, group_multiplier_ppm=record["group_multiplier_ppm"])


def read_usage(record: asyncpg.Record) -> Usage:
    """Return the usage that a row of the log was charged for."""
    extras = record["extras"]
    return Usage(
        **{name: record[name] for name in COUNTS},
        estimated=record["estimated"],
        extras=None if extras is None else msgspec.json.decode(extras, type=Extras),
    )


def _start_whole(scope: ReportScope, unit: str) -> ReportScope:
    if scope.since is None:
        return scope
    since = scope.since.astimezone(datetime.UTC).replace(second=0, microsecond=0)
    if unit != "minute":
        since = since.replace(minute=0)
    if unit == "day":
        since = since.replace(hour=0)
    return msgspec.structs.replace(scope, since=since)


def format_moment(moment: datetime.datetime) -> str:
    """Return a moment as it is shown: ISO 8601 in UTC, to the millisecond."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
