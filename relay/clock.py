"""The clocks that a call is timed by, and the dice that are thrown for it.

They are named here because compiled code then calls them three times as fast: `time.monotonic`
takes two look-ups wherever it is written.
"""

import random
import time
from typing import Final

clock_s: Final = time.monotonic
"""Seconds; only differences mean something. uvloop's own clock ticks in milliseconds."""

wall_ns: Final = time.time_ns
"""Nanoseconds since 1970 UTC."""


def clock_ms() -> float:
    """Return the same in milliseconds, which limits reckon with."""
    return clock_s() * 1_000


def now_us() -> int:
    """Return microseconds of the loop's clock, by which health is kept."""
    return int(clock_s() * 1e6)


def wall_s() -> float:
    """Return seconds since 1970 UTC."""
    return wall_ns() / 1e9


def wall_us() -> int:
    """Return microseconds since 1970 UTC."""
    return wall_ns() // 1_000


def dice() -> float:
    """Return a number in [0, 1): spreads who comes back, never anything that must be a secret."""
    return random.random()  # noqa: S311 - see above
