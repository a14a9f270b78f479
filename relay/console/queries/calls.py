"""A page of the request log by any filter, as fast at ten million rows as at ten.

A filter that few calls fit would read far back to fill a page. So the sums are asked first, in
which hours (or minutes, for what failed) there is such a call at all, and only these spans of the
log are read. Rows come newest first by (ended_at, request_id); the next page begins behind the
last of them.
"""

import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from relay.console.queries.forms import (
    CallFilter,
    LogCursor,
    encode_cursor,
    format_moment,
    from_us,
    to_us,
)
from relay.console.rows import CallPage, CallRow
from relay.store.log.hours import OK_STATUS
from relay.store.log.reports import REQUEST_ID_PREFIX
from relay.store.postgres import Connection
from relay.units import format_usd

ROUNDS_MAX: Final = 20
"""How often a page goes on to older spans: then it is told as it is, with where to go on."""
SPANS_PER_ROUND: Final = 100
LOOK_BACK_FACTOR: Final = 10
"""A day, ten days, a hundred days: how far back is looked for spans with enough calls."""
SPARSE_S: Final = 6 * 3600
"""A shorter range is read as it is."""
SLOW_US: Final = 300_000_000
"""Calls that took so long have an index of their own; see schema/0029_rare_calls.sql."""
CALL_HOURS_MAX: Final = 26
"""A request id tells when its call came; it ended at most so much later."""
MS_MAX: Final = 2**42
"""An id of our form may name any moment; one behind the year 2109 is none of ours."""

NO_ID: Final = UUID(int=0)
"""Before every call of its moment."""

Span = tuple[datetime.datetime, datetime.datetime]

_FIELDS: Final = """log.ended_at, log.request_id, log.account_id, log.key_id, log.ip, log.model,
    log.served_model, log.translated, log.endpoint, log.stream, log.status, log.reason,
    log.error_code,
    log.input_tokens, log.cached_tokens, log.cache_write_tokens, log.output_tokens,
    log.reasoning_tokens, log.estimated, log.cost_nanos, log.ttft_us, log.total_us, log.attempts"""
_NAMES: Final = """accounts.name AS account, keys.name AS key_name, keys.last4 AS key_last4,
    lines.name AS line, channels.name AS channel"""
_JOINS: Final = """
    LEFT JOIN accounts ON accounts.id = log.account_id
    LEFT JOIN keys ON keys.id = log.key_id
    LEFT JOIN lines ON lines.id = log.line_id
    LEFT JOIN channels ON channels.id = log.channel_id"""
_PLACE: Final = (
    "CASE family(log.ip) WHEN 6 THEN network(set_masklen(log.ip, 64))::inet ELSE log.ip END"
)
_PAGE: Final = f"""
    WITH log AS MATERIALIZED (
        SELECT one.* FROM unnest($1::timestamptz[], $2::timestamptz[]) AS span (since, until),
        LATERAL (
            SELECT * FROM request_log WHERE ended_at >= span.since AND ended_at < span.until
                -- Of all spans: so days that none of them touches are not even planned for.
                AND ended_at >= $4 AND ended_at < $5 AND {{conditions}}
            ORDER BY ended_at DESC, request_id DESC LIMIT $3
        ) AS one
        ORDER BY ended_at DESC, request_id DESC LIMIT $3
    )
    SELECT {_FIELDS}, {_NAMES},
        seen.first_seen > log.ended_at - interval '1 day' AND EXISTS (
            SELECT FROM key_addresses AS older
            WHERE older.key_id = log.key_id AND older.first_seen < seen.first_seen
        ) AS ip_is_new
    FROM log {_JOINS}
    LEFT JOIN key_addresses AS seen ON seen.key_id = log.key_id AND seen.ip = {_PLACE}
    ORDER BY log.ended_at DESC, log.request_id DESC"""  # noqa: S608  (texts of this module)
# Newest first, with how many calls the spans after each one hold: the newest is left out of that
# sum, because the page before may have had its calls.
_SPANS: Final = """
    SELECT since, seen FROM (
        SELECT since, calls, sum(calls) OVER newer AS seen
        FROM (
            SELECT {at} AS since,
                CASE WHEN {at} = max({at}) OVER () THEN 0 ELSE {calls} END AS calls
            FROM {table} WHERE {at} >= $1 AND {at} < $2 AND {conditions} GROUP BY {at}
        ) AS spans
        WINDOW newer AS (ORDER BY since DESC)
    ) AS counted
    WHERE seen - calls < $3 ORDER BY since DESC LIMIT $4"""
# Just the newest spans that hold one.
_FEW: Final = """
    SELECT DISTINCT {at} AS since FROM {table} WHERE {at} >= $1 AND {at} < $2 AND {conditions}
    ORDER BY {at} DESC LIMIT $3"""
_IDS: Final = {
    "key": """SELECT id FROM keys WHERE ($1::bigint IS NULL OR account_id = $1)
        AND (id::text = $2 OR name = $2 OR last4 = $2) LIMIT 100""",
    "line": "SELECT id FROM lines WHERE $1::bigint IS NOT DISTINCT FROM $1 AND name = $2 LIMIT 100",
}


class _Conditions:
    """Conditions and the values of their placeholders, which are numbered behind those given."""

    def __init__(self, first: int) -> None:
        self._first = first
        self.texts: list[str] = ["true"]
        self.values: list[Any] = []

    def add(self, text: str, value: object) -> None:
        """Add a condition; {} stands for the placeholder of its value."""
        self.values.append(value)
        self.texts.append(text.format(f"${self._first + len(self.values)}"))

    @property
    def text(self) -> str:
        """All of them."""
        return " AND ".join(self.texts)


class Resolved(CallFilter, frozen=True, kw_only=True):
    """A filter whose names are ids; a name that means nothing fits no call."""

    key_ids: list[int] | None = None
    line_ids: list[int] | None = None

    @classmethod
    async def of(cls, connection: Connection, wanted: CallFilter) -> "Resolved":
        """Look up the names of a filter, within the account it is about."""
        ids: dict[str, list[int] | None] = {"key": None, "line": None}
        for noun, name in (("key", wanted.key), ("line", wanted.line)):
            if name is not None:
                found = await connection.fetch(_IDS[noun], wanted.account_id, name)
                ids[noun] = [row["id"] for row in found]
        fields = {name: getattr(wanted, name) for name in CallFilter.__struct_fields__}
        return cls(**fields, key_ids=ids["key"], line_ids=ids["line"])


def add_summed(query: "_Conditions", wanted: Resolved, *, strangers: bool = False) -> None:
    """Add the conditions that the log and all sums have in common.

    `strangers`: also where the sums do not know the model, because no line was found for the call.
    """
    if wanted.account_id is not None:
        query.add("account_id = {}", wanted.account_id)
    if wanted.key_ids is not None:
        query.add("key_id = ANY({})", wanted.key_ids)
    if wanted.model is not None:
        models = [wanted.model, ""] if strangers else [wanted.model]
        query.add("model = ANY({}::text[])", models)
    if wanted.line_ids is not None:
        query.add("line_id = ANY({})", wanted.line_ids)


def add_failed(query: "_Conditions", wanted: Resolved) -> None:
    """Add the conditions that the log and what failed have in common."""
    if wanted.status is not None:
        first, last = wanted.status
        query.add("status >= {}", first)
        query.add("status <= {}", last)
        if wanted.is_failure:
            query.texts.append(f"status <> {OK_STATUS}")  # said, so that the failures' index fits
    if wanted.code is not None:
        query.add("error_code = {}", wanted.code)


def conditions(first: int) -> _Conditions:
    """Return no conditions yet; placeholders are numbered behind `first`."""
    return _Conditions(first)


def of_the_log(wanted: Resolved, first: int, before: LogCursor | None = None) -> _Conditions:
    """Return the conditions that the log is asked with; placeholders come behind `first`."""
    query = _Conditions(first)
    add_summed(query, wanted)
    add_failed(query, wanted)
    if wanted.ip is not None:
        # One address is looked up in its index, newest first; a network may hold every call.
        single = wanted.ip.endswith("/128" if ":" in wanted.ip else "/32")
        query.add("ip = {}::text::inet" if single else "ip <<= {}::text::inet", wanted.ip)
    if wanted.request_id is not None:
        query.add("request_id = {}", wanted.request_id)
    if wanted.min_us:
        query.add("total_us >= {}", wanted.min_us)
    if wanted.min_us >= SLOW_US:
        query.texts.append(f"total_us >= {SLOW_US}")  # said, so that the index of these fits
    if wanted.min_nanos:
        query.add("cost_nanos >= {}", wanted.min_nanos)
    if before is not None:
        query.values += [from_us(before.ended_us), before.request_id]
        at = first + len(query.values) - 1
        query.texts.append(f"(ended_at, request_id) < (${at}, ${at + 1})")
    return query


async def read_page(
    connection: Connection, wanted: CallFilter, limit: int, before: LogCursor | None = None
) -> CallPage:
    """Return at most `limit` calls that come after `before`, newest first."""
    resolved = _narrow(await Resolved.of(connection, wanted), before)
    rows: list[asyncpg.Record] = []
    until = resolved.until
    for _ in range(ROUNDS_MAX):
        spans, rest = await _find_spans(connection, resolved, until, limit - len(rows))
        if spans:
            rows += await _read_spans(connection, resolved, spans, limit - len(rows), before)
        if rest is None or len(rows) >= limit:
            break
        until = rest
    full = len(rows) >= limit
    last = LogCursor(to_us(rows[-1]["ended_at"]), rows[-1]["request_id"]) if rows else None
    if not full and rest is not None:
        # Many spans, few calls: go on from here, whatever lies between.
        last, full = LogCursor(to_us(rest), NO_ID), True
    following = encode_cursor(last) if full and last is not None else None
    return CallPage(logs=[to_row(row) for row in rows], next=following)


def _narrow(wanted: Resolved, before: LogCursor | None) -> Resolved:
    """Take from the range what cannot hold a call that is wanted."""
    since, until = wanted.since, wanted.until
    if before is not None:
        until = min(until, from_us(before.ended_us) + datetime.timedelta(microseconds=1))
    if wanted.request_id is not None and wanted.request_id.version == 7:
        came = from_us(min(wanted.request_id.int >> 80, MS_MAX) * 1000)
        since = max(since, came - datetime.timedelta(hours=1))
        until = min(until, came + datetime.timedelta(hours=CALL_HOURS_MAX))
    return msgspec.structs.replace(wanted, since=since, until=until)


class _Told(NamedTuple):
    """Which sums tell of a filter, by which unit of time."""

    parts: dict[str, str]
    length: datetime.timedelta
    query: _Conditions

    @classmethod
    def of(cls, wanted: Resolved, first: int) -> "_Told":
        """Choose for a filter; placeholders come behind `first`."""
        query = _Conditions(first)
        add_summed(query, wanted, strangers=True)
        if wanted.is_failure:
            add_failed(query, wanted)
            at, table, length = "minute", "usage_failures", datetime.timedelta(minutes=1)
        else:
            at, table, length = "hour", "usage_hours", datetime.timedelta(hours=1)
            if wanted.min_us:
                query.add("total_us_max >= {}", wanted.min_us)
            if wanted.min_nanos:
                query.add("cost_nanos_max >= {}", wanted.min_nanos)
        counted = not (wanted.min_us or wanted.min_nanos)
        parts = {"at": at, "table": table, "calls": "sum(requests)" if counted else "1"}
        return cls({**parts, "conditions": query.text}, length, query)


async def _find_few_spans(
    connection: Connection, wanted: Resolved, until: datetime.datetime
) -> list[Span]:
    """Return where to read for an address, of which the sums know nothing.

    Where the rest of the filter fits in few spans only, these; else all, by the address' index.
    """
    whole = wanted.since.replace(minute=0, second=0, microsecond=0)
    told = _Told.of(wanted, 3)
    statement = _FEW.format(**told.parts)
    found = await connection.fetch(statement, whole, until, SPANS_PER_ROUND, *told.query.values)
    if len(found) == SPANS_PER_ROUND:
        return [(wanted.since, until)]
    return _join([(max(row[0], wanted.since), min(row[0] + told.length, until)) for row in found])


async def _find_spans(
    connection: Connection, wanted: Resolved, until: datetime.datetime, calls: int
) -> tuple[list[Span], datetime.datetime | None]:
    """Return where to read, and up to where nothing was looked for yet (None: all was)."""
    if wanted.since >= until:
        return [], None
    if wanted.request_id or wanted.min_us >= SLOW_US:
        return [(wanted.since, until)], None
    long = (until - wanted.since).total_seconds() > SPARSE_S
    if not (long and wanted.is_sparse):
        # Many calls fit: the newest day has a page of them, and the others are not planned for.
        back = max(datetime.timedelta(days=1), (LOOK_BACK_FACTOR - 1) * (wanted.until - until))
        since = max(wanted.since, until - back)
        return [(since, until)], since if since > wanted.since else None
    if wanted.ip:
        return await _find_few_spans(connection, wanted, until), None
    told = _Told.of(wanted, 4)
    statement, length = _SPANS.format(**told.parts), told.length
    whole = wanted.since.replace(minute=0, second=0, microsecond=0)
    # A filter that many calls fit is answered by its newest day; only a rare one looks far back.
    back = datetime.timedelta(days=1)
    while True:
        since = max(whole, until - back)
        found = await connection.fetch(
            statement, since, until, calls, SPANS_PER_ROUND, *told.query.values
        )
        enough = bool(found) and (found[-1]["seen"] >= calls or len(found) == SPANS_PER_ROUND)
        if enough or since == whole:
            break
        back *= LOOK_BACK_FACTOR
    spans = [(max(row["since"], wanted.since), min(row["since"] + length, until)) for row in found]
    oldest = found[-1]["since"] if enough else whole
    return _join(spans), oldest if oldest > wanted.since else None


def _join(spans: list[Span]) -> list[Span]:
    """Return spans, newest first, with neighbours made one."""
    joined: list[Span] = []
    for since, until in spans:
        if joined and joined[-1][0] == until:
            joined[-1] = (since, joined[-1][1])
        elif since < until:
            joined.append((since, until))
    return joined


async def _read_spans(
    connection: Connection,
    wanted: Resolved,
    spans: list[Span],
    limit: int,
    before: LogCursor | None,
) -> list[asyncpg.Record]:
    query = of_the_log(wanted, 5, before)
    since, until = [list(column) for column in zip(*spans, strict=True)]
    statement = _PAGE.format(conditions=query.text)
    around = min(since), max(until)
    return await connection.fetch(statement, since, until, limit, *around, *query.values)


def to_row(row: asyncpg.Record) -> CallRow:
    """Return a record as it is shown."""
    named: dict[str, Any] = {name: row[name] for name in _SAME}
    streamed_us = row["total_us"] - row["ttft_us"]
    # What does not stream comes at once: no pace can be told.
    fast = row["stream"] and row["output_tokens"] and row["ttft_us"] and streamed_us > 0
    return CallRow(
        request_id=f"{REQUEST_ID_PREFIX}{row['request_id'].hex}",
        time=format_moment(row["ended_at"]),
        ip=None if row["ip"] is None else str(row["ip"]),
        ip_is_new=bool(row["ip_is_new"]),
        cost_usd=format_usd(row["cost_nanos"]),
        ttft_ms=row["ttft_us"] / 1000 if row["ttft_us"] else None,
        total_ms=row["total_us"] / 1000,
        tokens_per_s=round(row["output_tokens"] * 1e6 / streamed_us, 1) if fast else None,
        **named,
    )


_SAME: Final = (
    *("account", "key_id", "key_name", "key_last4", "line", "channel", "model", "served_model"),
    "translated",
    *("endpoint", "stream", "status", "reason", "error_code", "input_tokens", "cached_tokens"),
    *("cache_write_tokens", "output_tokens", "reasoning_tokens", "estimated", "attempts"),
)
