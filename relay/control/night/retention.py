"""Days past their retention are dropped; before that, where asked for, kept as CSV.

A day is dropped only once its archive is whole on disk. A file is written beside its name and takes
it at the end, so what has a name is whole.
"""

import asyncio
import contextlib
import datetime
import gzip
import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

from relay.control.night.shapes import Plan, Step, StepFailed, Turn, limit_statements
from relay.store.billing.budget_leases import forget_ended
from relay.store.log.partitions import (
    PARENTS,
    Day,
    drop_until,
    forget_rows,
    list_expired,
)
from relay.store.postgres import Connection

LOCK_S: Final = 3.0
LEVEL: Final = 6
"""Of gzip: a core packs about 40 MB of log a second."""


class Retention:
    """Plans what goes.

    Args:
        retention_days: Of the request log.
        archive: Where its days go first; None: nowhere.
    """

    def __init__(self, retention_days: int, archive: Path | None) -> None:
        self._retention_days = retention_days
        self._archive = archive

    async def plan(self, connection: Connection, now: datetime.datetime) -> Plan:
        """Return a step for each day that is past its retention, and one for single rows."""
        days = await list_expired(connection, self._retention_days, now.date())
        steps = [Step(day.name, self._drop(day)) for day in days]
        return Plan([*steps, Step("older rows", partial(self._forget, now))])

    def _drop(self, day: Day) -> Callable[[Turn], Awaitable[str]]:
        async def do(turn: Turn) -> str:
            await limit_statements(turn, lock_s=LOCK_S)
            said = f"dropped {day.name}"
            if self._archive is not None and day.parent == "request_log":
                rows = await _archive(turn, day, self._archive)
                said = f"archived {rows} calls, {said}"
            await drop_until(turn.connection, day.parent, day.day)
            return said

        return do

    async def _forget(self, now: datetime.datetime, turn: Turn) -> str:
        await limit_statements(turn, lock_s=LOCK_S)
        archived = {"request_log"} if self._archive is not None else set()
        # Calls that found no day go with the next day that is dropped, so that they are archived.
        parents = [parent for parent in PARENTS if parent not in archived]
        await forget_rows(turn.connection, self._retention_days, now, parents=parents)
        await forget_ended(turn.connection)
        return "dropped single rows"


async def _archive(turn: Turn, day: Day, folder: Path) -> int:
    """Write the calls of a day, and older ones that found none, to a file; return how many."""
    until = datetime.datetime.combine(day.day, datetime.time(), datetime.UTC)
    until += datetime.timedelta(days=1)
    draft = folder / f".{day.name}.draft"
    try:
        await asyncio.to_thread(folder.mkdir, mode=0o700, parents=True, exist_ok=True)
        await asyncio.to_thread(_claim, draft)
        with gzip.open(draft, "wb", compresslevel=LEVEL) as packed:

            async def write(rows: bytes) -> None:
                await asyncio.to_thread(packed.write, rows)

            status = await turn.connection.copy_from_query(
                "SELECT * FROM request_log WHERE ended_at < $1",
                until,
                output=write,
                format="csv",
                header=True,
                timeout=turn.left_s,
            )
        await asyncio.to_thread(_keep, draft, folder / f"{day.name}.csv.gz")
    except OSError as exc:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise StepFailed(f"{folder}: {exc.strerror}") from exc
    return int(status.rpartition(" ")[2])


def _claim(draft: Path) -> None:
    """Make the file ours alone, empty."""
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))


def _keep(draft: Path, name: Path) -> None:
    with draft.open("rb+") as written:
        os.fsync(written.fileno())
    draft.replace(name)
    folder = os.open(name.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
