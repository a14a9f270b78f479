"""How full the limits are now, for those who only look: read from what the workers keep in Redis.

Nothing is asked of a worker, and nothing is changed. Times are Redis's own.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from relay.errors import DependencyDown
from relay.limits.bucket import MINUTE_MS
from relay.limits.heartbeat import Beat
from relay.limits.scopes import PREFIX, Bucket, ConcurrencyLimit, Limit, Measure
from relay.store.limits.nodes import Nodes
from relay.store.limits.resp import Command, connect

EPOCH_MS: Final = 1_735_689_600_000
"""2025-01-01: what admit.lua counts milliseconds from."""
ANSWER_S: Final = 3.0

Row = dict[str, Any]


class Level(msgspec.Struct, frozen=True):
    """How a bucket stands.

    `used_ms`: how much of it is used, as time of its refill. `load`: what its workers admit or
    refuse a minute. `leased`: what they hold of it and have not spent.
    """

    bucket: Bucket
    used_ms: float
    load: int
    leased: int

    @property
    def remaining(self) -> int:
        """What may be used at once."""
        rule = self.bucket.rule
        return min(rule.capacity, rule.remaining(self.used_ms) + max(self.leased, 0))

    @property
    def debt(self) -> int:
        """What was used beyond the bucket: it flows in before anything is left."""
        rule = self.bucket.rule
        over = max(0.0, self.used_ms - rule.burst_ms) * rule.per_minute / MINUTE_MS
        return int(over) + max(-self.leased, 0)


class Occupancy(msgspec.Struct, frozen=True):
    """How many permits of a concurrency limit the workers hold, spare ones among them."""

    concurrency: ConcurrencyLimit
    held: int


async def read_levels(
    nodes: Nodes, limits: Sequence[Limit]
) -> tuple[list[Level], list[Occupancy]] | None:
    """Return how buckets and permits of limits stand; None where a Redis does not answer."""
    found = Findings()
    try:
        for place in range(len(nodes.locates)):
            async with asyncio.timeout(ANSWER_S):
                await _read(nodes, place, limits, found)
    except (DependencyDown, TimeoutError):
        return None
    levels = [
        Level(
            bucket,
            found.used_ms[bucket.key],
            60 * sum(beat.demand.get(bucket.name, 0) for beat in found.beats),
            sum(beat.leased.get(bucket.name, 0) for beat in found.beats),
        )
        for limit in limits
        for bucket in limit.buckets
    ]
    concurrencies = [limit.concurrency for limit in limits if limit.concurrency is not None]
    return levels, [
        Occupancy(concurrency, found.held[concurrency.key]) for concurrency in concurrencies
    ]


class Findings:
    """What the servers said, by key."""

    def __init__(self) -> None:
        self.beats: list[Beat] = []
        self.used_ms: dict[str, float] = {}
        self.held: dict[str, int] = {}


async def _read(nodes: Nodes, place: int, limits: Sequence[Limit], found: Findings) -> None:
    """Ask one server for all that it keeps.

    Raises:
        DependencyDown: It does not answer, or with something else.
    """

    def here(part: Bucket | ConcurrencyLimit) -> bool:
        return nodes.place_of(nodes.group_of(part.tag)) == place

    buckets = [bucket.key for limit in limits for bucket in limit.buckets if here(bucket)]
    concurrencies = [
        limit.concurrency.key
        for limit in limits
        if limit.concurrency is not None and here(limit.concurrency)
    ]
    commands: list[Command] = [("TIME",), ("HVALS", f"{PREFIX}{nodes.tag_at(place)}beat")]
    commands += [("GET", key) for key in buckets]
    commands += [("HVALS", key) for key in concurrencies]
    connection = await connect(await nodes.locates[place]())
    try:
        now, beats, *rest = await connection.ask(commands)
        now_ms = int(now[0]) * 1_000 + int(now[1]) / 1_000 - EPOCH_MS
        found.beats += _understood(beats)
        for key, tat in zip(buckets, rest, strict=False):
            found.used_ms[key] = max(0.0, float(tat) - now_ms) if tat is not None else 0.0
        for key, blocks in zip(concurrencies, rest[len(buckets) :], strict=True):
            found.held[key] = sum(_held(block, now_ms) for block in blocks)
    except (ValueError, TypeError) as error:
        raise DependencyDown("the limiter's Redis answers something else") from error
    finally:
        connection.close()


def show_level(level: Level) -> Row:
    """Return a bucket as commands show it."""
    bucket = level.bucket
    return {
        "scope": bucket.scope.value,
        "what": "tpm" if bucket.measure is Measure.TOKENS else "rpm",
        "limit": bucket.rule.per_minute,
        "load": level.load,
        "at_once": bucket.rule.capacity,
        "remaining": level.remaining,
        "leased": level.leased,
        "debt": level.debt,
        "full_in_s": round(level.used_ms / 1_000, 1),
    }


def show_occupancy(occupancy: Occupancy) -> Row:
    """Return a concurrency limit as commands show it."""
    concurrency = occupancy.concurrency
    return {
        "scope": concurrency.scope.value,
        "what": "concurrency",
        "limit": concurrency.permits,
        "load": occupancy.held,
        "at_once": concurrency.permits,
        "remaining": max(0, concurrency.permits - occupancy.held),
        "leased": occupancy.held,
        "debt": max(0, occupancy.held - concurrency.permits),
        "full_in_s": None,
    }


def tightest(rows: Sequence[Row]) -> int | None:
    """Return which of the rows binds first: the one with the smallest part left."""
    if not rows:
        return None
    parts = [row["remaining"] / max(row["at_once"], 1) for row in rows]
    return min(range(len(rows)), key=lambda at: (parts[at], rows[at]["limit"]))


def _understood(beats: Iterable[bytes]) -> Iterable[Beat]:
    for beat in beats:
        try:
            yield msgspec.msgpack.decode(beat, type=Beat)
        except msgspec.DecodeError:
            continue


def _held(block: bytes, now_ms: float) -> int:
    permits, _, until_ms = block.partition(b":")
    return int(permits) if float(until_ms) > now_ms else 0
