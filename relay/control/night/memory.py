"""Workers that grew are followed by new ones, one after the other; nobody's stream is cut.

Python gives little memory back: a worker that once held a thousand bodies stays as large. The
supervisor puts a new worker on the same queue; the large one finishes what it has, and ends.
"""

import asyncio
import datetime
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from relay.control.night.shapes import Plan, Step, StepFailed, Turn
from relay.store.metrics import WorkerMetrics, is_fresh, read_all
from relay.store.postgres import Connection

PATIENCE_S: Final = 60.0
POLL_S: Final = 0.5


class Memory:
    """Plans which workers are followed.

    Args:
        directory: Where the workers publish their figures.
        bytes_max: The largest that is left alone; 0: all are.
        renew: Asks the supervisor for a new worker on a slot.
        wall_s: Seconds since 1970.
    """

    def __init__(
        self,
        directory: Path,
        bytes_max: int,
        renew: Callable[[str], None],
        wall_s: Callable[[], float],
    ) -> None:
        self._directory = directory
        self._bytes_max = bytes_max
        self._renew = renew
        self._wall_s = wall_s

    async def plan(self, _connection: Connection, _now: datetime.datetime) -> Plan:
        """Return a step for each worker that is too large."""
        if not self._bytes_max:
            return Plan([], "no [maintenance] worker_bytes_max")
        large = [slot for slot, one in self._serving().items() if _bytes(one) > self._bytes_max]
        return Plan([Step(slot, self._follow(slot)) for slot in sorted(large)])

    def _follow(self, slot: str) -> Callable[[Turn], Awaitable[str]]:
        async def do(turn: Turn) -> str:
            before = self._serving().get(slot)
            if before is None:
                raise StepFailed(f"{slot} is silent")
            self._renew(slot)
            try:
                async with asyncio.timeout(min(PATIENCE_S, turn.left_s)):
                    after = await self._followed(slot, before.identity)
            except TimeoutError:
                raise StepFailed(f"{slot} was not followed in time") from None
            return f"{slot}: {_bytes(before) >> 20} -> {_bytes(after) >> 20} MiB"

        return do

    async def _followed(self, slot: str, identity: int) -> WorkerMetrics:
        while True:
            now = self._serving().get(slot)
            if now is not None and now.identity != identity:
                return now
            await asyncio.sleep(POLL_S)

    def _serving(self) -> dict[str, WorkerMetrics]:
        """Return the worker of each slot that takes connections."""
        now_s = self._wall_s()
        return {
            slot: one
            for slot, generations in read_all(self._directory).items()
            for one in generations
            if is_fresh(one, now_s) and not one.gauges.get("draining")
        }


def _bytes(worker: WorkerMetrics) -> int:
    return int(worker.gauges.get("resident_memory_bytes", 0))
