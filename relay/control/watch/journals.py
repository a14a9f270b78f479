"""Watches the workers' journals, and tells the operator of one that cannot be written.

Without its journal a worker takes no paid work. It says so in its log, and this says so to the
operator's webhook; both once, and once more when it is over ("journal_unwritable_over"). A disk so
full that not even a worker's figures can be written makes it look dead: readiness tells of that.
"""

import asyncio
import datetime
import logging
from collections.abc import Callable
from typing import Final

from relay.clock import until_beat_s
from relay.control.watch.webhook import Notice
from relay.store.metrics import Figures, is_fresh

LOOK_S: Final = 2.0

_log = logging.getLogger(__name__)


class JournalUnwritable(Notice, frozen=True, kw_only=True):
    """A worker refuses calls with 503, because it could not write them down."""

    worker: str


class JournalWatch:
    """Tells of each journal that fails.

    Args:
        figures: What the workers publish.
        send: Sends a notice to the operator; None = only the log tells.
        wall_s: Seconds since 1970.
    """

    def __init__(
        self,
        figures: Figures,
        send: Callable[[Notice], None] | None,
        wall_s: Callable[[], float],
    ) -> None:
        self._figures = figures
        self._send = send
        self._wall_s = wall_s
        self._told: set[str] = set()

    async def run(self) -> None:
        """Watch for ever."""
        while True:
            self.look()
            await asyncio.sleep(until_beat_s(LOOK_S))

    def look(self) -> None:
        """Tell what has changed since the last look."""
        now_s = self._wall_s()
        failing = {
            slot
            for slot, generations in self._figures.read().items()
            for found in generations
            if is_fresh(found, now_s) and not found.gauges.get("journal_healthy", 1.0)
        }
        for slot in sorted(failing - self._told):
            _log.error("a journal cannot be written: no paid work is taken", extra={"child": slot})
            self._tell("journal_unwritable", slot)
        for slot in sorted(self._told - failing):
            _log.warning("a journal is written again", extra={"child": slot})
            self._tell("journal_unwritable_over", slot)
        self._told = failing

    def _tell(self, event: str, slot: str) -> None:
        if self._send is not None:
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
            self._send(JournalUnwritable(event=event, time=now, worker=slot))
