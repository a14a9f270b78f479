"""Days past their retention are dropped; before that, where asked for, kept in an archive.

A day is dropped only once its archive is whole on disk. To drop one drops those before it as well,
so days go in their order: one that cannot holds up all behind it.
"""

import datetime
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from relay.control.night.archives import Archives
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


class Retention:
    """Plans what goes.

    Args:
        retention_days: Of the request log.
        archives: Where its days go first; None: nowhere.
    """

    def __init__(self, retention_days: int, archives: Archives | None) -> None:
        self._retention_days = retention_days
        self._archives = archives

    async def plan(self, connection: Connection, now: datetime.datetime) -> Plan:
        """Return a step for each day that is past its retention, and one for single rows."""
        days = await list_expired(connection, self._retention_days, now.date())
        steps = [Step(day.name, self._drop(day, now)) for day in days]
        return Plan([*steps, Step("older rows", partial(self._forget, now))])

    def _drop(self, day: Day, now: datetime.datetime) -> Callable[[Turn], Awaitable[str]]:
        async def do(turn: Turn) -> str:
            await limit_statements(turn, lock_s=LOCK_S)
            said = f"dropped {day.name}"
            if self._archives is not None and day.parent == "request_log":
                await self._check_turn(turn, day, now)
                rows = await self._archives.keep(turn, day)
                said = f"archived {rows} calls, {said}"
            await drop_until(turn.connection, day.parent, day.day)
            return said

        return do

    async def _check_turn(self, turn: Turn, day: Day, now: datetime.datetime) -> None:
        """Refuse a day that is gone, whose archive has it all, and one that others stand before."""
        days = await list_expired(turn.connection, self._retention_days, now.date())
        left = [one.name for one in days if one.parent == day.parent]
        if day.name not in left:
            raise StepFailed("is gone already")
        if left[0] != day.name:
            raise StepFailed(f"{left[0]} has to go first")

    async def _forget(self, now: datetime.datetime, turn: Turn) -> str:
        await limit_statements(turn, lock_s=LOCK_S)
        archived = {"request_log"} if self._archives is not None else set()
        # Calls that found no day go with the next day that is dropped, so that they are archived.
        parents = [parent for parent in PARENTS if parent not in archived]
        await forget_rows(turn.connection, self._retention_days, now, parents=parents)
        await forget_ended(turn.connection)
        return "dropped single rows"
