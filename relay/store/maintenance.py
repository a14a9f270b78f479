"""What the night's works did last, and what operators ask of the night; hosts share both.

maintenance_works    one row a work (and host, for what each host does itself)
maintenance_wishes   run now; skip the nights until
"""

import datetime
import itertools
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Any, Final

import msgspec

from relay.night_rules import Maintenance
from relay.store.postgres import Connection
from relay.windows import next_night, nights

ADVISORY_LOCK: Final = 723_683_322
"""...and a host's name: whoever holds it does what is done by one. Any number, as in `migrate`."""
WORKS: Final = {
    "memory": False,
    "backup": False,
    "rewrap": True,
    "retention": True,
    "vacuum": True,
    "reindex": True,
}
"""In the order of their turns -> whether one host does it for all."""
DETAIL_CHARS_MAX: Final = 500
FORGOTTEN_DAYS: Final = 30
"""A host that did nothing for so long is gone."""

_BEGIN: Final = """
    INSERT INTO maintenance_works (work, host, done_by, started_at, outcome, detail)
    VALUES ($1, $2, $3, $4, 'running', '')
    ON CONFLICT (work, host) DO UPDATE SET done_by = excluded.done_by,
        started_at = excluded.started_at, ended_at = NULL, outcome = 'running', detail = ''"""
_END: Final = """
    UPDATE maintenance_works SET ended_at = $3, outcome = $4, detail = $5
    WHERE work = $1 AND host = $2"""
_LIST: Final = """
    SELECT work, host, done_by, started_at, ended_at, outcome, detail
    FROM maintenance_works ORDER BY started_at, work, host"""
_FORGET: Final = """
    DELETE FROM maintenance_works
    WHERE host <> '' AND started_at < now() - make_interval(days => $1)"""


class Outcome(StrEnum):
    """How a work stands."""

    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    """The night was over, or called off: it goes on with the next one."""
    FAILED = "failed"


class WorkDone(msgspec.Struct, frozen=True, kw_only=True):
    """What a work did last. `host` "": one host does it for all, last `done_by`."""

    work: str
    host: str
    done_by: str
    started_at: datetime.datetime
    ended_at: datetime.datetime | None
    outcome: Outcome
    detail: str

    @property
    def took_s(self) -> float | None:
        """For how long it ran; None while it does."""
        return None if self.ended_at is None else (self.ended_at - self.started_at).total_seconds()


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """What operators ask. `run_works`: all where it is empty."""

    run_asked_at: datetime.datetime | None = None
    run_works: Sequence[str] = ()
    skip_until: datetime.datetime | None = None


async def read_wishes(connection: Connection) -> Wishes:
    """Return what is asked."""
    row = await connection.fetchrow(
        "SELECT run_asked_at, run_works, skip_until FROM maintenance_wishes"
    )
    return Wishes(**dict(row)) if row else Wishes()


async def ask_run(connection: Connection, works: Collection[str], now: datetime.datetime) -> None:
    """Ask for works now; for all of them where none is named."""
    await connection.execute(
        "UPDATE maintenance_wishes SET run_asked_at = $1, run_works = $2", now, sorted(works)
    )


async def ask_skip(connection: Connection, until: datetime.datetime | None) -> None:
    """Ask that no night opens before `until`, and that what runs stops; None: that they open."""
    await connection.execute(
        """UPDATE maintenance_wishes SET skip_until = $1,
            run_asked_at = CASE WHEN $1::timestamptz IS NULL THEN run_asked_at END""",
        until,
    )


async def skip_nights(
    connection: Connection, rules: Maintenance, count: int, now: datetime.datetime
) -> datetime.datetime | None:
    """Skip so many nights, the one that is open among them; return until when. 0: none."""
    until = None
    if count:
        spans = nights(rules.window, rules.zone, now)
        until = next(itertools.islice(spans, count - 1, None)).closes
    await ask_skip(connection, until)
    return until


async def read_status(
    connection: Connection, rules: Maintenance, now: datetime.datetime
) -> dict[str, Any]:
    """Return the window, what is asked, and what each work did last, as it is shown."""
    wishes = await read_wishes(connection)
    skip_until = wishes.skip_until if wishes.skip_until and wishes.skip_until > now else None
    span = next_night(rules.window, rules.zone, max(now, skip_until) if skip_until else now)
    works = [
        {**msgspec.structs.asdict(one), "outcome": one.outcome.value, "took_s": one.took_s}
        for one in await list_works(connection)
    ]
    return {
        "window": rules.window,
        "zone": rules.zone,
        "open": span.holds(now),
        "opens": span.opens,
        "closes": span.closes,
        "skip_until": skip_until,
        "works": works,
    }


async def list_works(connection: Connection) -> list[WorkDone]:
    """Return what each work did last, the latest last."""
    rows = await connection.fetch(_LIST)
    return [WorkDone(**{**dict(row), "outcome": Outcome(row["outcome"])}) for row in rows]


async def begin_work(
    connection: Connection, work: str, host: str, done_by: str, now: datetime.datetime
) -> None:
    """Write down that a work begins."""
    await connection.execute(_BEGIN, work, host, done_by, now)


async def end_work(
    connection: Connection,
    work: str,
    host: str,
    now: datetime.datetime,
    outcome: Outcome,
    detail: str,
) -> None:
    """Write down how it ended."""
    said = detail[:DETAIL_CHARS_MAX]
    await connection.execute(_END, work, host, now, outcome.value, said)


async def forget_hosts(connection: Connection) -> None:
    """Drop what hosts did that are gone."""
    await connection.execute(_FORGET, FORGOTTEN_DAYS)


@asynccontextmanager
async def sole_worker(connection: Connection, host: str) -> AsyncIterator[bool]:
    """Yield whether we are who works for `host`, "" = for all hosts, until the block ends.

    Whose connection breaks is it no longer. A host has two control processes while a release takes
    over from another.
    """
    place = (ADVISORY_LOCK, host)
    ours = await connection.fetchval("SELECT pg_try_advisory_lock($1, hashtext($2))", *place)
    try:
        yield ours
    finally:
        if ours and not connection.is_closed():
            await connection.execute("SELECT pg_advisory_unlock($1, hashtext($2))", *place)
