"""The nights of a maintenance window: when each opens and closes, by the clock of a zone.

What the clock skips in spring begins, or ends, at the moment that it jumps to; what it shows twice
in autumn is meant the first time. So a night of 01:00-05:00 is as long as the clock's hands say:
three, four or five hours.
"""

import datetime
from collections.abc import Iterator
from typing import NamedTuple
from zoneinfo import ZoneInfo


class Span(NamedTuple):
    """From when to when, UTC."""

    opens: datetime.datetime
    closes: datetime.datetime

    def holds(self, now: datetime.datetime) -> bool:
        """Tell whether `now` (aware) lies in it."""
        return self.opens <= now < self.closes


def nights(window: str, zone: str, now: datetime.datetime) -> Iterator[Span]:
    """Yield the nights that are not over at `now` (aware), the nearest first, for ever.

    Args:
        window: As "01:00-05:00"; one that ends before it begins goes over midnight.
        zone: Its IANA name.
        now: The first one closes after it.
    """
    known = datetime.UTC if zone == "UTC" else ZoneInfo(zone)
    begins, ends = (datetime.time.fromisoformat(one) for one in window.split("-"))
    day = now.astimezone(known).date() - datetime.timedelta(days=1)
    while True:
        last = day + datetime.timedelta(days=1) if ends <= begins else day
        span = Span(_moment(day, begins, known), _moment(last, ends, known))
        if now < span.closes and span.opens < span.closes:
            yield span
        day += datetime.timedelta(days=1)


def next_night(window: str, zone: str, now: datetime.datetime) -> Span:
    """Return the night that is open at `now` (aware), or the next one."""
    return next(nights(window, zone, now))


def _moment(day: datetime.date, time: datetime.time, zone: datetime.tzinfo) -> datetime.datetime:
    """Return when the zone's clock shows that, UTC; where it never does, when it jumps over it."""
    local = datetime.datetime.combine(day, time, zone)
    late = local.astimezone(datetime.UTC)
    if late.astimezone(zone).replace(tzinfo=None) == local.replace(tzinfo=None):
        return late
    # By the offset before the jump it lies behind it, by the one after the jump before it.
    early = local.replace(fold=1).astimezone(datetime.UTC)
    before = early.astimezone(zone).utcoffset()
    minute = datetime.timedelta(minutes=1)
    while early < late and early.astimezone(zone).utcoffset() == before:
        early += minute
    return early
