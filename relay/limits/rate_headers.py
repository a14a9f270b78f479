"""What a client is told about its limits: the rate headers, by the names of its dialect."""

import math
from datetime import UTC, datetime, timedelta

import msgspec

from relay.limits.bucket import MINUTE_MS
from relay.limits.scopes import Bucket, Measure

HeaderList = list[tuple[bytes, bytes]]


class BucketLevel(msgspec.Struct, frozen=True):
    """How full a bucket was when the worker last heard of it, and what it has leased itself."""

    bucket: Bucket
    used_ms: float
    leased: int = 0

    @property
    def remaining(self) -> int:
        """What is left for everybody, as far as this worker knows; >= 0."""
        rule = self.bucket.rule
        return min(rule.remaining(self.used_ms) + max(self.leased, 0), rule.capacity)

    @property
    def reset_ms(self) -> int:
        """Milliseconds until the bucket is full."""
        return math.ceil(max(self.used_ms, 0.0))


def tightest(levels: list[BucketLevel], measure: Measure) -> BucketLevel | None:
    """Return the standing that binds first: the smallest part left, then the smallest limit."""
    found = [level for level in levels if level.bucket.measure is measure]
    return min(found, key=_tightness, default=None)


def rate_headers(
    levels: list[BucketLevel], names: tuple[bytes, bytes, bytes], wall_ms: int | None
) -> HeaderList:
    """Return limit, remaining and reset of requests and of tokens, for what is limited.

    Args:
        levels: Of all buckets that the call draws on.
        names: Of the three headers, with a place for "requests" or "tokens".
        wall_ms: Milliseconds since 1970, where the reset is told as a moment; None: as a span.
    """
    limit, remaining, reset = names
    headers: HeaderList = []
    for measure in (Measure.REQUESTS, Measure.TOKENS):
        found = tightest(levels, measure)
        if found is not None:
            name = measure.value.encode()
            wait_ms = found.reset_ms
            at = go_duration(wait_ms) if wall_ms is None else rfc3339(wall_ms + wait_ms)
            headers += (
                (limit % name, b"%d" % found.bucket.rule.per_minute),
                (remaining % name, b"%d" % found.remaining),
                (reset % name, at),
            )
    return headers


def go_duration(ms: int) -> bytes:
    """Return milliseconds as Go prints a duration: 0s, 20ms, 1.5s, 6m0s, 1h0m0s.

    Source: pkg.go.dev/time, Duration.String.
    """
    if ms <= 0:
        return b"0s"
    if ms < 1_000:
        return b"%dms" % ms
    minutes, rest_ms = divmod(ms, MINUTE_MS)
    whole, part_ms = divmod(rest_ms, 1_000)
    seconds = b"%d" % whole
    if part_ms:
        seconds += b"." + (b"%03d" % part_ms).rstrip(b"0")
    if minutes == 0:
        return seconds + b"s"
    hours, minutes = divmod(minutes, 60)
    return (b"%dh" % hours if hours else b"") + b"%dm%bs" % (minutes, seconds)


def rfc3339(wall_ms: int) -> bytes:
    """Return a time as RFC 3339 in UTC, to the second, rounded up."""
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=math.ceil(wall_ms / 1_000))
    return at.strftime("%Y-%m-%dT%H:%M:%SZ").encode()


def _tightness(level: BucketLevel) -> tuple[float, int]:
    rule = level.bucket.rule
    return level.remaining / max(rule.capacity, 1), rule.per_minute
