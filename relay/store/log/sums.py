"""What is folded from calls that ended: minutes of usage, what keys spent, where they were used.

The calls are summed up here, in memory; Postgres is sent the few sums. Rows that others write too
are locked in the order of their keys, by every writer: two shippers of two hosts then wait for each
other, and never in a circle.
"""

import datetime
from collections.abc import Collection, Hashable, Iterable
from typing import Final, TypeVar

import msgspec

from relay.records import CallEnd
from relay.store.catalog.follower import CHANNEL, SPENT
from relay.store.log.hours import (
    STEPS,
    add_steps,
    format_steps,
    step_of,
    write_channels,
    write_hours,
)
from relay.store.log.rows import EPOCH, clean_word, read_address
from relay.store.postgres import Connection

MINUTE_US: Final = 60_000_000
FAULTLESS: Final = frozenset({"completed", "client_gone"})
LIMITED_STATUS: Final = 429

_MINUTES: Final = f"""
    INSERT INTO usage_minutes AS kept
        (minute, account_id, key_id, model, line_id, requests, errors, limited, input_tokens,
         cached_tokens, output_tokens, cost_nanos, ttft_counts)
    SELECT n, a, k, m, l, r, e, d, i, c, o, p, s::integer[] FROM
        unnest($1::timestamptz[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[],
        $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[],
        $12::bigint[], $13::text[]) AS t (n, a, k, m, l, r, e, d, i, c, o, p, s)
    ORDER BY 1, 2, 3, 4, 5
    ON CONFLICT (minute, account_id, key_id, model, line_id) DO UPDATE SET
        requests = kept.requests + excluded.requests,
        errors = kept.errors + excluded.errors,
        limited = kept.limited + excluded.limited,
        input_tokens = kept.input_tokens + excluded.input_tokens,
        cached_tokens = kept.cached_tokens + excluded.cached_tokens,
        output_tokens = kept.output_tokens + excluded.output_tokens,
        cost_nanos = kept.cost_nanos + excluded.cost_nanos,
        ttft_counts = {add_steps("ttft_counts")}"""  # noqa: S608
_LOCK_KEYS: Final = """
    SELECT FROM keys WHERE id = ANY($1::bigint[]) ORDER BY id FOR NO KEY UPDATE"""
# Workers are told where a quota moved: they need not ask all the time then.
_KEYS: Final = """
    WITH booked AS (
        UPDATE keys SET
            spent_nanos = spent_nanos + used.nanos,
            last_used_at = greatest(last_used_at, used.at)
        FROM unnest($1::bigint[], $2::bigint[], $3::timestamptz[]) AS used (key_id, nanos, at)
        WHERE keys.id = used.key_id
        RETURNING quota_nanos
    )
    SELECT pg_notify($4, $5) FROM booked WHERE quota_nanos IS NOT NULL LIMIT 1"""
_ADDRESSES: Final = """
    INSERT INTO key_addresses AS kept (key_id, ip, first_seen, last_seen, requests)
    SELECT key_id, ip::inet, first_seen, last_seen, requests
    FROM unnest($1::bigint[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::bigint[])
        AS used (key_id, ip, first_seen, last_seen, requests)
    ORDER BY 1, 2
    ON CONFLICT (key_id, ip) DO UPDATE SET
        first_seen = least(kept.first_seen, excluded.first_seen),
        last_seen = greatest(kept.last_seen, excluded.last_seen),
        requests = kept.requests + excluded.requests"""

Place = tuple[int, int, int, str, int, str]
"""Minute since 1970, account, key, model, line, network: what calls are summed up by."""
_Key = TypeVar("_Key", bound=Hashable)


class Fold(msgspec.Struct):
    """Sums over calls, and when the first and the last of them ended."""

    requests: int
    errors: int
    limited: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cost_nanos: int
    first_us: int
    last_us: int
    steps: list[int] | None = None
    """Times to the first byte, counted; replaced by `add`, never changed in place."""

    def add(self, other: "Fold") -> None:
        """Take in the calls of another one."""
        self.requests += other.requests
        self.errors += other.errors
        self.limited += other.limited
        self.input_tokens += other.input_tokens
        self.cached_tokens += other.cached_tokens
        self.output_tokens += other.output_tokens
        self.cost_nanos += other.cost_nanos
        self.first_us = min(self.first_us, other.first_us)
        self.last_us = max(self.last_us, other.last_us)
        if self.steps is None:
            self.steps = other.steps
        elif other.steps is not None:
            self.steps = [
                ours + theirs for ours, theirs in zip(self.steps, other.steps, strict=True)
            ]


def fold_calls(ends: Iterable[CallEnd]) -> dict[Place, Fold]:
    """Sum up bounded records by all that any table tells apart."""
    folds: dict[Place, Fold] = {}
    for end in ends:
        time_us = end.time_us
        # Where no line was found the model is a stranger's word, and makes no rows.
        model = end.model if end.line_id else ""
        place = (time_us // MINUTE_US, end.account_id, end.key_id, model, end.line_id, end.ip)
        fold = folds.get(place)
        if fold is None:
            folds[place] = fold = Fold(0, 0, 0, 0, 0, 0, 0, time_us, time_us)
        fold.requests += 1
        fold.errors += end.reason not in FAULTLESS
        fold.limited += end.status == LIMITED_STATUS
        fold.input_tokens += end.input_tokens
        fold.cached_tokens += end.cached_tokens
        fold.output_tokens += end.output_tokens
        fold.cost_nanos += end.cost_nanos
        if end.ttft_us:
            if fold.steps is None:
                fold.steps = [0] * STEPS
            fold.steps[step_of(end.ttft_us)] += 1
        if time_us > fold.last_us:
            fold.last_us = time_us
        elif time_us < fold.first_us:
            fold.first_us = time_us
    # Words and addresses are brought into the form of the tables once for a sum, not for a call.
    return _join(
        ((*place[:3], clean_word(place[3]), place[4], read_address(place[5]).network), fold)
        for place, fold in folds.items()
    )


async def write_folds(connection: Connection, ends: Collection[CallEnd]) -> None:
    """Add bounded records, each of which is new in the log, to all that is folded from it."""
    folds = fold_calls(ends)
    if folds:
        await _write_minutes(connection, folds)
        await write_hours(connection, ends)
        await write_channels(connection, ends)
        await _write_keys(connection, folds)
        await _write_addresses(connection, folds)


async def _write_minutes(connection: Connection, folds: dict[Place, Fold]) -> None:
    minutes = _join((place[:5], fold) for place, fold in folds.items())
    sums = minutes.values()
    await connection.execute(
        _MINUTES,
        [_moment(minute * MINUTE_US) for minute, *_ in minutes],
        *([place[position] for place in minutes] for position in range(1, 5)),
        [fold.requests for fold in sums],
        [fold.errors for fold in sums],
        [fold.limited for fold in sums],
        [fold.input_tokens for fold in sums],
        [fold.cached_tokens for fold in sums],
        [fold.output_tokens for fold in sums],
        [fold.cost_nanos for fold in sums],
        [format_steps(fold.steps) for fold in sums],
    )


async def _write_keys(connection: Connection, folds: dict[Place, Fold]) -> None:
    keys = _join((place[2], fold) for place, fold in folds.items() if place[2])
    if not keys:
        return
    await connection.execute(_LOCK_KEYS, list(keys))
    await connection.execute(
        _KEYS,
        list(keys),
        [fold.cost_nanos for fold in keys.values()],
        [_moment(fold.last_us) for fold in keys.values()],
        CHANNEL,
        SPENT,
    )


async def _write_addresses(connection: Connection, folds: dict[Place, Fold]) -> None:
    seen = _join(((place[2], place[5]), fold) for place, fold in folds.items() if place[2])
    seen = {place: fold for place, fold in seen.items() if place[1]}
    if not seen:
        return
    await connection.execute(
        _ADDRESSES,
        [key_id for key_id, _ in seen],
        [network for _, network in seen],
        [_moment(fold.first_us) for fold in seen.values()],
        [_moment(fold.last_us) for fold in seen.values()],
        [fold.requests for fold in seen.values()],
    )


def _join(folds: Iterable[tuple[_Key, Fold]]) -> dict[_Key, Fold]:
    """Return the sums by coarser keys; those that come in stay as they are."""
    joined: dict[_Key, Fold] = {}
    for key, fold in folds:
        if key in joined:
            joined[key].add(fold)
        else:
            joined[key] = msgspec.structs.replace(fold)
    return joined


def _moment(time_us: int) -> datetime.datetime:
    return EPOCH + datetime.timedelta(microseconds=time_us)
