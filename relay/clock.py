"""The clocks that a call is timed by, and the dice that are thrown for it.

They are named here because compiled code then calls them three times as fast: `time.monotonic`
takes two look-ups wherever it is written.
"""

import os
import random
import time
from typing import Final

clock_s: Final = time.monotonic
"""Seconds; only differences mean something. uvloop's own clock ticks in milliseconds."""

wall_ns: Final = time.time_ns
"""Nanoseconds since 1970 UTC."""


_PHASE_S: Final = os.getpid() * 0.6180339887 % 1.0
"""Spreads neighbours evenly, however many there are."""


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


def until_beat_s(every_s: float) -> float:
    """Return the seconds until the next multiple of `every_s`, or the one after where it is near.

    Whoever looks around every so often does it at one moment with all others of its process then,
    which wakes up once for all of them. Each process has beats of its own.
    """
    left_s = every_s - (clock_s() + _PHASE_S) % every_s
    return left_s if left_s > every_s / 8 else left_s + every_s  # a loop may wake it a little early


def dice() -> float:
    """Return a number in [0, 1): spreads who comes back, never anything that must be a secret."""
    return random.random()  # noqa: S311 - see above
