"""How full the limits are now, for those who only look: read from what the workers keep in Redis.

Nothing is asked of a worker, and nothing is changed. Times are Redis's own.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec
from redis.asyncio import Redis

from relay.errors import DependencyDown
from relay.limits.bucket import MINUTE_MS
from relay.limits.heartbeat import Beat
from relay.limits.scopes import PREFIX, Bucket, Limit, Measure, Room
from relay.store import redis

EPOCH_MS: Final = 1_735_689_600_000
"""2025-01-01: what admit.lua counts milliseconds from."""
BEAT_KEY: Final = f"{PREFIX}beat"

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
    """How many seats of a room the workers hold, spare ones among them."""

    room: Room
    held: int


async def read_levels(
    redis_url: Callable[[], str], limits: Sequence[Limit]
) -> tuple[list[Level], list[Occupancy]] | None:
    """Return how the buckets and rooms of limits stand; None where Redis does not answer.

    Args:
        redis_url: Returns where Redis is; raises DependencyDown where nobody knows.
        limits: In any number.
    """
    buckets = [bucket for limit in limits for bucket in limit.buckets]
    rooms = [limit.room for limit in limits if limit.room is not None]
    try:
        async with redis.connect(redis_url(), application="relay-command") as client:
            return await _read(client, buckets, rooms)
    except DependencyDown:
        return None


async def _read(
    client: Redis, buckets: list[Bucket], rooms: list[Room]
) -> tuple[list[Level], list[Occupancy]]:
    pipeline = client.pipeline(transaction=False)
    pipeline.time()
    pipeline.hvals(BEAT_KEY)
    for bucket in buckets:
        pipeline.get(bucket.key)
    for room in rooms:
        pipeline.hvals(room.key)
    now, beats, *rest = await pipeline.execute()
    now_ms = now[0] * 1_000 + now[1] / 1_000 - EPOCH_MS
    told = list(_understood(beats))
    levels = [
        Level(
            bucket,
            max(0.0, float(tat) - now_ms) if tat is not None else 0.0,
            60 * sum(beat.demand.get(bucket.key, 0) for beat in told),
            sum(beat.leased.get(bucket.key, 0) for beat in told),
        )
        for bucket, tat in zip(buckets, rest, strict=False)
    ]
    held = [
        Occupancy(room, sum(_held(block, now_ms) for block in blocks))
        for room, blocks in zip(rooms, rest[len(buckets) :], strict=True)
    ]
    return levels, held


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
    """Return a room as commands show it."""
    room = occupancy.room
    return {
        "scope": room.scope.value,
        "what": "concurrency",
        "limit": room.seats,
        "load": occupancy.held,
        "at_once": room.seats,
        "remaining": max(0, room.seats - occupancy.held),
        "leased": occupancy.held,
        "debt": max(0, occupancy.held - room.seats),
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
    seats, _, until_ms = block.partition(b":")
    return int(seats) if float(until_ms) > now_ms else 0
