"""What charts and filters of the console are answered by: sums by hour and day, and what failed.

Written with the minutes, in the same transaction and in the order of their keys. Times to the first
byte are counted by steps of a factor of 1.41, so that percentiles of any sum can be told to about a
tenth; see schema/0009_console.sql.
"""

import datetime
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeVar

import msgspec

from relay.records import CallEnd
from relay.store.log.rows import COUNT_MAX, EPOCH, clean_word
from relay.store.postgres import Connection

STEPS: Final = 32
STEP_BOUNDS_US: Final = tuple(round(5_000 * 2 ** (at / 2)) for at in range(STEPS - 1))
"""The slowest of each step; the last step has none."""
MINUTE_US: Final = 60_000_000
MINUTES_PER_HOUR: Final = 60
HOURS_PER_DAY: Final = 24
OK_STATUS: Final = 200
LIMITED_STATUS: Final = 429
FAULTLESS: Final = frozenset({"completed", "client_gone"})

Group = tuple[int, int, int, str, int]
"""Hour or minute since 1970, account, key, model, line."""
Failure = tuple[int, int, int, str, int, int, str]
"""Minute since 1970, account, key, model, line, status, error code."""
_Place = TypeVar("_Place", Group, Failure)


def add_steps(column: str) -> str:
    """Return the SQL that adds the counted steps of a row to those of the row that is there."""
    kept, new = f"kept.{column}", f"excluded.{column}"
    sums = ", ".join(f"{kept}[{at}] + {new}[{at}]" for at in range(1, STEPS + 1))
    return (
        f"CASE WHEN {new} IS NULL THEN {kept} WHEN {kept} IS NULL THEN {new} ELSE ARRAY[{sums}] END"
    )


_SUMS: Final = ("requests", "errors", "limited", "input_tokens", "cached_tokens", "output_tokens")
_ADDED: Final = ",\n        ".join(f"{name} = kept.{name} + excluded.{name}" for name in _SUMS)
_HOURS: Final = f"""
    INSERT INTO usage_hours AS kept
        (hour, account_id, key_id, model, line_id, requests, errors, limited, input_tokens,
         cached_tokens, output_tokens, cost_nanos, total_us_max, cost_nanos_max, ttft_counts)
    SELECT h, a, k, m, l, r, e, d, i, c, o, n, u, x, s::integer[] FROM
        unnest($1::timestamptz[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[],
        $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[],
        $12::bigint[], $13::bigint[], $14::bigint[], $15::text[])
        AS t (h, a, k, m, l, r, e, d, i, c, o, n, u, x, s)
    ORDER BY 2, 1, 3, 4, 5
    ON CONFLICT (account_id, hour, key_id, model, line_id) DO UPDATE SET
        {_ADDED},
        cost_nanos = kept.cost_nanos + excluded.cost_nanos,
        total_us_max = greatest(kept.total_us_max, excluded.total_us_max),
        cost_nanos_max = greatest(kept.cost_nanos_max, excluded.cost_nanos_max),
        ttft_counts = {add_steps("ttft_counts")}"""  # noqa: S608  (texts of this module)
_DAYS: Final = f"""
    INSERT INTO usage_days AS kept
        (day, account_id, key_id, model, line_id, requests, errors, limited, input_tokens,
         cached_tokens, output_tokens, cost_nanos, ttft_counts)
    SELECT h, a, k, m, l, r, e, d, i, c, o, n, s::integer[] FROM
        unnest($1::timestamptz[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[],
        $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[],
        $12::bigint[], $13::text[])
        AS t (h, a, k, m, l, r, e, d, i, c, o, n, s)
    ORDER BY 2, 1, 3, 4, 5
    ON CONFLICT (account_id, day, key_id, model, line_id) DO UPDATE SET
        {_ADDED},
        cost_nanos = kept.cost_nanos + excluded.cost_nanos,
        ttft_counts = {add_steps("ttft_counts")}"""  # noqa: S608
_FAILURES: Final = f"""
    INSERT INTO usage_failures AS kept
        (minute, account_id, key_id, model, line_id, status, error_code, requests, errors, limited,
         input_tokens, cached_tokens, output_tokens, cost_nanos)
    SELECT * FROM unnest($1::timestamptz[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[],
        $6::smallint[], $7::text[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[],
        $12::bigint[], $13::bigint[], $14::bigint[])
    ORDER BY 2, 1, 3, 4, 5, 6, 7
    ON CONFLICT (account_id, minute, key_id, model, line_id, status, error_code) DO UPDATE SET
        {_ADDED},
        cost_nanos = kept.cost_nanos + excluded.cost_nanos"""  # noqa: S608

_CHANNELS: Final = f"""
    INSERT INTO channel_minutes AS kept (minute, channel_id, requests, errors, ttft_counts)
    SELECT m, c, r, e, s::integer[] FROM
        unnest($1::timestamptz[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[])
        AS t (m, c, r, e, s)
    ORDER BY 2, 1
    ON CONFLICT (channel_id, minute) DO UPDATE SET
        requests = kept.requests + excluded.requests,
        errors = kept.errors + excluded.errors,
        ttft_counts = {add_steps("ttft_counts")}"""  # noqa: S608


class ChannelFold(msgspec.Struct):
    """Attempts of one minute on one channel."""

    requests: int = 0
    errors: int = 0
    steps: list[int] | None = None


class HourFold(msgspec.Struct):
    """Sums over the calls of one hour and group, and the slowest and the dearest of them."""

    requests: int = 0
    errors: int = 0
    limited: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    cost_nanos: int = 0
    total_us_max: int = 0
    cost_nanos_max: int = 0
    steps: list[int] | None = None

    def add(self, end: CallEnd) -> None:
        """Take in a call."""
        self.requests += 1
        self.errors += end.reason not in FAULTLESS
        self.limited += end.status == LIMITED_STATUS
        self.input_tokens += end.input_tokens
        self.cached_tokens += end.cached_tokens
        self.output_tokens += end.output_tokens
        self.cost_nanos += end.cost_nanos
        if end.total_us > self.total_us_max:
            self.total_us_max = end.total_us
        if end.cost_nanos > self.cost_nanos_max:
            self.cost_nanos_max = end.cost_nanos

    def merge(self, other: "HourFold") -> None:
        """Take in the calls of another one."""
        for name in (*_SUMS, "cost_nanos"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.total_us_max = max(self.total_us_max, other.total_us_max)
        self.cost_nanos_max = max(self.cost_nanos_max, other.cost_nanos_max)
        if self.steps is None or other.steps is None:
            self.steps = self.steps or other.steps
        else:
            self.steps = [
                ours + theirs for ours, theirs in zip(self.steps, other.steps, strict=True)
            ]


def step_of(ttft_us: int) -> int:
    """Return the index of the step that a time to the first byte is counted in."""
    return bisect_left(STEP_BOUNDS_US, ttft_us)


def percentile_ms(counts: Sequence[int], share: float) -> float | None:
    """Return the time within which `share` of the calls had their first byte; None without calls.

    Within a step calls are taken to be spread evenly.
    """
    wanted = sum(counts) * share
    if not wanted:
        return None
    seen = 0
    for at, count in enumerate(counts):
        if count and seen + count >= wanted:
            low = STEP_BOUNDS_US[at - 1] if at else 0
            high = STEP_BOUNDS_US[min(at, STEPS - 2)]
            return (low + max(high - low, 0) * (wanted - seen) / count) / 1000
        seen += count
    raise AssertionError("a share is at most the whole")


def format_steps(steps: Iterable[int] | None) -> str | None:
    """Return counted steps as Postgres reads an array."""
    return None if steps is None else "{" + ",".join(map(str, steps)) + "}"


async def write_hours(connection: Connection, ends: Iterable[CallEnd]) -> None:
    """Add bounded records, each of which is new in the log, to hours, days and what failed."""
    hours: dict[Group, HourFold] = {}
    failures: dict[Failure, HourFold] = {}
    for end in ends:
        minute = end.time_us // MINUTE_US
        model = end.model if end.line_id else ""
        hour = (minute // MINUTES_PER_HOUR, end.account_id, end.key_id, model, end.line_id)
        fold = hours.get(hour)
        if fold is None:
            hours[hour] = fold = HourFold()
        fold.add(end)
        if end.ttft_us:
            if fold.steps is None:
                fold.steps = [0] * STEPS
            fold.steps[step_of(end.ttft_us)] += 1
        if end.status != OK_STATUS:
            failure = (minute, *hour[1:], end.status, end.error_code)
            failures.setdefault(failure, HourFold()).add(end)
    if hours:
        cleaned_hours = _join((_clean(*place), fold) for place, fold in hours.items())
        await _write_hours(connection, cleaned_hours)
        await _write_days(connection, cleaned_hours)
    if failures:
        cleaned = (
            ((*_clean(*place[:5]), place[5], clean_word(place[6])), fold)
            for place, fold in failures.items()
        )
        await _write_failures(connection, _join(cleaned))


def _clean(at: int, account_id: int, key_id: int, model: str, line_id: int) -> Group:
    """Return a group in the words of the tables: once for a sum, not for a call."""
    return (at, account_id, key_id, clean_word(model), line_id)


def _join(folds: Iterable[tuple[_Place, HourFold]]) -> dict[_Place, HourFold]:
    """Return the sums by their cleaned places: two words may have become one."""
    joined: dict[_Place, HourFold] = {}
    for place, fold in folds:
        if place in joined:
            joined[place].merge(fold)
        else:
            joined[place] = fold
    return joined


async def write_channels(connection: Connection, ends: Iterable[CallEnd]) -> None:
    """Add bounded records, each of which is new in the log, to the minutes of their channels."""
    folds: dict[tuple[int, int], ChannelFold] = {}
    for end in ends:
        minute = end.time_us // MINUTE_US
        for failed in end.tries:
            if 0 < failed.channel_id <= COUNT_MAX:
                fold = folds.setdefault((failed.channel_id, minute), ChannelFold())
                fold.requests += 1
                fold.errors += 1
        served = end.channel_id and end.attempts > len(end.tries)
        if not served:
            continue
        fold = folds.setdefault((end.channel_id, minute), ChannelFold())
        fold.requests += 1
        fold.errors += end.reason not in FAULTLESS
        if end.ttft_us:
            if fold.steps is None:
                fold.steps = [0] * STEPS
            fold.steps[step_of(end.ttft_us)] += 1
    if folds:
        await connection.execute(
            _CHANNELS,
            [_moment(minute) for _, minute in folds],
            [channel_id for channel_id, _ in folds],
            [fold.requests for fold in folds.values()],
            [fold.errors for fold in folds.values()],
            [format_steps(fold.steps) for fold in folds.values()],
        )


async def _write_hours(connection: Connection, hours: Mapping[Group, HourFold]) -> None:
    folds = hours.values()
    await connection.execute(
        _HOURS,
        [_moment(hour * MINUTES_PER_HOUR) for hour, *_ in hours],
        *_names(hours),
        *_sums(folds),
        [fold.total_us_max for fold in folds],
        [fold.cost_nanos_max for fold in folds],
        [format_steps(fold.steps) for fold in folds],
    )


async def _write_days(connection: Connection, hours: Mapping[Group, HourFold]) -> None:
    """Add the hours to their days; the hours' sums are not needed any more, and merged away."""
    days = _join(((place[0] // HOURS_PER_DAY, *place[1:]), fold) for place, fold in hours.items())
    folds = days.values()
    await connection.execute(
        _DAYS,
        [_moment(day * HOURS_PER_DAY * MINUTES_PER_HOUR) for day, *_ in days],
        *_names(days),
        *_sums(folds),
        [format_steps(fold.steps) for fold in folds],
    )


async def _write_failures(connection: Connection, failures: Mapping[Failure, HourFold]) -> None:
    await connection.execute(
        _FAILURES,
        [_moment(minute) for minute, *_ in failures],
        *_names(failures),
        [place[5] for place in failures],
        [place[6] for place in failures],
        *_sums(failures.values()),
    )


def _names(places: Iterable[Group | Failure]) -> list[list[int] | list[str]]:
    """Return the columns account, key, model, line."""
    kept = list(places)
    return [
        [place[1] for place in kept],
        [place[2] for place in kept],
        [place[3] for place in kept],
        [place[4] for place in kept],
    ]


def _sums(folds: Iterable[HourFold]) -> list[list[int]]:
    kept = list(folds)
    return [[getattr(fold, name) for fold in kept] for name in (*_SUMS, "cost_nanos")]


def _moment(minute: int) -> datetime.datetime:
    return EPOCH + datetime.timedelta(minutes=minute)
