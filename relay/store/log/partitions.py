"""The days of the request log and of what belongs to it: made ahead, listed, dropped.

A day is a partition, so that it goes in a moment: a DELETE of a big table bloats its indexes and
keeps vacuum busy for hours. All of it may be done by a role that owns no table (see schema/0006).
"""

import datetime
from collections.abc import Collection
from typing import Final, NamedTuple

from relay.store.postgres import Connection

DAYS_AHEAD: Final = 7
"""Partitions made ahead: a week in which nobody looks after the database loses nothing."""
USAGE_DAYS: Final = 400
"""Minutes are kept for a year and a month, to compare with; they are few beside the log's rows."""
CHANNEL_DAYS: Final = 7
PARENTS: Final = ("request_log", "usage_minutes", "settlements")

_DAYS: Final = """
    SELECT parent.relname AS parent, part.relname AS part
    FROM pg_inherits JOIN pg_class AS part ON part.oid = inhrelid
    JOIN pg_class AS parent ON parent.oid = inhparent
    WHERE inhparent = ANY($1::text[]::regclass[]) AND part.relname ~ '_[0-9]{8}$'
    ORDER BY part.relname"""


class Day(NamedTuple):
    """A partition: the table it is of, its own name, the UTC day that it holds."""

    parent: str
    name: str
    day: datetime.date


async def prepare_partitions(connection: Connection) -> None:
    """Make the partitions of the coming week.

    A lock that is not free within 3 s fails it: nothing is half done, call it again later.
    """
    for parent in PARENTS:
        await connection.execute("SELECT partitions_prepare($1, $2)", parent, DAYS_AHEAD)


async def list_expired(
    connection: Connection, retention_days: int, today: datetime.date
) -> list[Day]:
    """Return the days that are past their retention, each table's oldest first."""
    found = []
    for row in await connection.fetch(_DAYS, list(PARENTS)):
        name, parent = row["part"], row["parent"]
        day = datetime.datetime.strptime(name[-8:], "%Y%m%d").replace(tzinfo=datetime.UTC).date()
        if day < today - datetime.timedelta(days=_kept_days(parent, retention_days)):
            found.append(Day(parent, name, day))
    return found


async def drop_until(connection: Connection, parent: str, day: datetime.date) -> None:
    """Drop a table's days up to `day`, and older rows that found none; see `prepare_partitions`."""
    after = day + datetime.timedelta(days=1)
    await connection.execute("SELECT partitions_drop($1, $2)", parent, after)


async def forget_rows(
    connection: Connection,
    retention_days: int,
    now: datetime.datetime,
    *,
    parents: Collection[str] = PARENTS,
) -> None:
    """Delete what is past its retention in tables without days: few rows a day, so in a moment.

    So go rows of `parents` that found no day (this machine slept for a week, a clock was wrong).
    """
    kept_days = _kept_days("usage_minutes", retention_days)
    before = now - datetime.timedelta(days=kept_days)
    await connection.execute("DELETE FROM usage_hours WHERE hour < $1", before)
    await connection.execute("DELETE FROM usage_days WHERE day < $1", before)
    await connection.execute("DELETE FROM usage_failures WHERE minute < $1", before)
    await connection.execute(
        "DELETE FROM channel_minutes WHERE minute < now() - make_interval(days => $1)", CHANNEL_DAYS
    )
    for parent in parents:
        kept = datetime.timedelta(days=_kept_days(parent, retention_days) + 1)
        await drop_until(connection, parent, now.astimezone(datetime.UTC).date() - kept)


def _kept_days(parent: str, retention_days: int) -> int:
    return retention_days if parent == "request_log" else max(retention_days, USAGE_DAYS)
