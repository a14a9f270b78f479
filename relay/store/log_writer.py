"""Calls that ended become rows: the request log, what is folded from it, money, how far we read.

All of a batch is one transaction. A row that is there already is left out, and only the rows that
went in are folded into minutes, keys and addresses; so a batch can be written again at any time.
"""

import datetime
import ipaddress
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

import msgspec

from relay.call import CallEnd, Try
from relay.store.ledger import Settlement, settle_batch
from relay.store.postgres import Connection

DAYS_AHEAD: Final = 7
"""Partitions made ahead: a week in which nobody looks after the database loses nothing."""
USAGE_DAYS: Final = 400
"""Minutes are kept for a year and a month, to compare with; they are few beside the log's rows."""

NAME_CHARS_MAX: Final = 256
TRIES_MAX: Final = 32
COUNT_MAX: Final = 10**12
NANOS_MAX: Final = 10**15
"""Bounds of one row (a million dollars), so that no sum of a batch overflows a bigint."""
MOMENT_MAX_US: Final = 253_370_764_800_000_000  # the year 9999 begins
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

COLUMNS: Final = (
    *("request_id", "ended_at", "account_id", "key_id", "line_id", "channel_id"),
    *("input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens"),
    *("ttft_us", "total_us", "cost_nanos", "price_id"),
    *("group_multiplier_ppm", "model_multiplier_ppm", "attempts", "status"),
    *("stream", "estimated", "ip", "endpoint", "model", "served_model", "reason", "error_code"),
    *("cache_write_1h_tokens", "audio_input_tokens", "audio_output_tokens"),
    *("image_input_tokens", "image_output_tokens", "images", "tries"),
)

_STAGE: Final = """
    CREATE TEMP TABLE IF NOT EXISTS call_batch (LIKE request_log INCLUDING DEFAULTS)
        ON COMMIT DELETE ROWS;
    CREATE TEMP TABLE IF NOT EXISTS call_fresh (
        ended_at timestamptz, account_id bigint, key_id bigint, line_id bigint, model text,
        ip inet, status smallint, reason text, input_tokens bigint, cached_tokens bigint,
        output_tokens bigint, cost_nanos bigint) ON COMMIT DELETE ROWS"""

# Rows that others write too are locked in the order of their keys, by every writer: two shippers of
# two hosts then wait for each other, and never in a circle.
_FOLD: Final = """
    WITH fresh AS (
        INSERT INTO request_log SELECT * FROM call_batch ON CONFLICT DO NOTHING
        RETURNING ended_at, account_id, key_id, line_id, model, ip, status, reason, input_tokens,
            cached_tokens, output_tokens, cost_nanos)
    INSERT INTO call_fresh SELECT * FROM fresh;

    INSERT INTO usage_minutes AS kept
        (minute, account_id, key_id, model, line_id, requests, errors, limited, input_tokens,
         cached_tokens, output_tokens, cost_nanos)
    SELECT date_trunc('minute', ended_at), account_id, key_id,
        CASE WHEN line_id = 0 THEN '' ELSE model END, line_id, count(*),
        count(*) FILTER (WHERE reason NOT IN ('completed', 'client_gone')),
        count(*) FILTER (WHERE status = 429), sum(input_tokens), sum(cached_tokens),
        sum(output_tokens), sum(cost_nanos)
    FROM call_fresh GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
    ON CONFLICT (minute, account_id, key_id, model, line_id) DO UPDATE SET
        requests = kept.requests + excluded.requests,
        errors = kept.errors + excluded.errors,
        limited = kept.limited + excluded.limited,
        input_tokens = kept.input_tokens + excluded.input_tokens,
        cached_tokens = kept.cached_tokens + excluded.cached_tokens,
        output_tokens = kept.output_tokens + excluded.output_tokens,
        cost_nanos = kept.cost_nanos + excluded.cost_nanos;

    SELECT FROM keys WHERE id IN (SELECT key_id FROM call_fresh) ORDER BY id FOR NO KEY UPDATE;
    UPDATE keys SET
        spent_nanos = spent_nanos + used.nanos,
        last_used_at = greatest(last_used_at, used.at)
    FROM (SELECT key_id, sum(cost_nanos)::bigint AS nanos, max(ended_at) AS at
          FROM call_fresh GROUP BY key_id) AS used
    WHERE keys.id = used.key_id;

    INSERT INTO key_addresses AS kept (key_id, ip, first_seen, last_seen, requests)
    SELECT key_id, CASE family(ip) WHEN 6 THEN network(set_masklen(ip, 64))::inet ELSE ip END,
        min(ended_at), max(ended_at), count(*)
    FROM call_fresh WHERE ip IS NOT NULL AND key_id <> 0 GROUP BY 1, 2 ORDER BY 1, 2
    ON CONFLICT (key_id, ip) DO UPDATE SET
        first_seen = least(kept.first_seen, excluded.first_seen),
        last_seen = greatest(kept.last_seen, excluded.last_seen),
        requests = kept.requests + excluded.requests"""

_MARK: Final = """
    INSERT INTO journal_offsets AS kept (generation, segment, byte_offset, closed)
    VALUES ($1, $2, $3, $4)
    ON CONFLICT (generation) DO UPDATE SET
        segment = excluded.segment, byte_offset = excluded.byte_offset, closed = excluded.closed
    WHERE (kept.segment, kept.byte_offset) <= (excluded.segment, excluded.byte_offset)"""


class Mark(msgspec.Struct, frozen=True):
    """How far a generation's journal is in the log; `closed`: nothing of it is left to come."""

    segment: int = 0
    offset: int = 0
    closed: bool = False


class Part(msgspec.Struct, frozen=True):
    """What was read of one generation: the calls that ended, up to `mark`."""

    generation: str
    mark: Mark
    ends: list[CallEnd]


async def write_batch(connection: Connection, parts: Sequence[Part]) -> None:
    """Write the calls of `parts` that are not in the log yet, and the marks, or nothing.

    Any record that decodes can be written: what Postgres would refuse is bounded, not raised.
    """
    rows = [to_row(end) for part in parts for end in part.ends]
    async with connection.transaction():
        if rows:
            await connection.execute(_STAGE)
            await connection.copy_records_to_table("call_batch", records=rows, columns=COLUMNS)
            await connection.execute(_FOLD)
            await settle_batch(
                connection, [_bill(part, end) for part in parts for end in part.ends]
            )
        for part in sorted(parts, key=lambda part: part.generation):
            mark = part.mark
            await connection.execute(_MARK, part.generation, mark.segment, mark.offset, mark.closed)


async def find_logged(connection: Connection, request_ids: Sequence[bytes]) -> set[bytes]:
    """Return those of `request_ids` that have a row, in whatever partition."""
    rows = await connection.fetch(
        "SELECT request_id FROM request_log WHERE request_id = ANY($1::uuid[])",
        [UUID(bytes=request_id) for request_id in request_ids],
    )
    return {row["request_id"].bytes for row in rows}


async def read_mark(connection: Connection, generation: str) -> Mark:
    """Return how far `generation` is in the log; the zero mark if nothing of it is."""
    row = await connection.fetchrow(
        "SELECT segment, byte_offset, closed FROM journal_offsets WHERE generation = $1",
        generation,
    )
    return Mark(*row) if row else Mark()


async def forget_mark(connection: Connection, generation: str) -> None:
    """Drop the mark of a generation whose folder is gone."""
    await connection.execute("DELETE FROM journal_offsets WHERE generation = $1", generation)


async def keep_partitions(connection: Connection, retention_days: int) -> None:
    """Make the partitions of the coming week and drop the days before the retention; once a day.

    A lock that is not free within 3 s fails it: nothing is half done, call it again later.
    """
    today = datetime.datetime.now(datetime.UTC).date()
    kept_days = max(retention_days, USAGE_DAYS)
    for parent, days in (
        ("request_log", retention_days),
        ("usage_minutes", kept_days),
        ("settlements", kept_days),
    ):
        await connection.execute("SELECT partitions_prepare($1, $2)", parent, DAYS_AHEAD)
        before = today - datetime.timedelta(days=days)
        await connection.execute("SELECT partitions_drop($1, $2)", parent, before)


def _bill(part: Part, end: CallEnd) -> Settlement:
    """Return what an ended call costs its account: a call that was booked before is left out."""
    return Settlement(
        end.request_id[:16].ljust(16, b"\0"),
        _count(end.account_id),
        min(max(end.cost_nanos, 0), NANOS_MAX),
        min(max(end.retry_nanos, 0), NANOS_MAX),
        owner=part.generation,
    )


def to_row(end: CallEnd) -> tuple[Any, ...]:
    """Return the values of COLUMNS for a record, each within what its column takes."""
    return (
        UUID(bytes=end.request_id[:16].ljust(16, b"\0")),
        _EPOCH + datetime.timedelta(microseconds=min(max(end.time_us, 0), MOMENT_MAX_US)),
        _count(end.account_id),
        _count(end.key_id),
        _count(end.line_id),
        _count(end.channel_id),
        _count(end.input_tokens),
        _count(end.cached_tokens),
        _count(end.cache_write_tokens),
        _count(end.output_tokens),
        _count(end.reasoning_tokens),
        _count(end.ttft_us),
        _count(end.total_us),
        min(max(end.cost_nanos, 0), NANOS_MAX),
        _count(end.price_id),
        _count(end.group_multiplier_ppm),
        _count(end.model_multiplier_ppm),
        min(max(end.attempts, 0), 2**31 - 1),
        min(max(end.status, 0), 999),
        end.stream,
        end.estimated,
        _parse_ip(end.ip),
        _text(end.endpoint),
        _text(end.model),
        _text(end.served_model),
        _text(end.reason),
        _text(end.error_code),
        _count(end.cache_write_1h_tokens),
        _count(end.audio_input_tokens),
        _count(end.audio_output_tokens),
        _count(end.image_input_tokens),
        _count(end.image_output_tokens),
        _count(end.images),
        _tries(end.tries) if end.tries else None,
    )


def _tries(tries: Sequence[Try]) -> str:
    """Return attempts that failed, as the JSON that reports read."""
    return msgspec.json.encode(
        [
            {
                "channel_id": _count(one.channel_id),
                "outcome": _text(one.outcome),
                "status": _count(one.status),
                "asked_us": _count(one.asked_us),
                "took_us": _count(one.took_us),
            }
            for one in tries[:TRIES_MAX]
        ]
    ).decode()


def _count(value: int) -> int:
    return min(max(value, 0), COUNT_MAX)


def _text(value: str) -> str:
    """Return what Postgres takes of a client's word: bounded, and without the NUL it refuses."""
    return value[:NAME_CHARS_MAX].replace("\0", "")


@lru_cache(maxsize=4096)
def _parse_ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
