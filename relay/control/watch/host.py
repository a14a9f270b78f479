"""The control process's eye on its host: what is wrong with what the relay stands on.

workers' figures, shipper, last reload, channels, the night --> found --> Troubles --> log, webhook
"""

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from relay.clock import until_beat_s
from relay.control.api.readiness import CATALOG_AGE_S_MAX
from relay.control.watch.troubles import Troubles
from relay.store.maintenance import Outcome, WorkDone
from relay.store.metrics import Figures, WorkerMetrics, is_fresh

LOOK_S: Final = 2.0

Found = tuple[tuple[str, str], str]
"""(event, subject), and the reason."""


class Sources(NamedTuple):
    """Where it is heard what is wrong. Each is asked at each look, and waits for nothing.

    `shipping_failures`: tries in a row that failed. `reload_failure`: why the last reload failed,
    "" = it did not, None = one is under way. `models_out`: those of which no channel is in service.
    `works`: of the night.
    """

    shipping_failures: Callable[[], int]
    reload_failure: Callable[[], str | None]
    models_out: Callable[[], Iterable[str]]
    works: Callable[[], Iterable[WorkDone]]


class HostWatch:
    """Looks every two seconds.

    Args:
        figures: What the workers publish.
        host: As works of the night name it.
        sources: What else is asked.
        troubles: Who tells.
        wall_s: Seconds since 1970.
    """

    def __init__(
        self,
        figures: Figures,
        host: str,
        sources: Sources,
        troubles: Troubles,
        wall_s: Callable[[], float],
    ) -> None:
        self._figures = figures
        self._host = host
        self._sources = sources
        self._troubles = troubles
        self._wall_s = wall_s
        self._died: dict[str, tuple[int, ...]] = {}
        """Slot -> who had died at the last look, by identity."""
        self._bereft: set[str] = set()
        """Slots whose workers died, until another one serves."""
        self._leaving: set[str] = set()
        """Slots whose workers were told to go, and had no others put beside them."""

    async def run(self) -> None:
        """Watch for ever."""
        while True:
            self.look()
            await asyncio.sleep(until_beat_s(LOOK_S))

    def look(self) -> None:
        """Tell what has changed since the last look."""
        slots = self._figures.read()
        found = [*self._workers(slots), *self._dependencies(slots), *self._others()]
        self._troubles.look(dict(found))

    def _workers(self, slots: dict[str, list[WorkerMetrics]]) -> Iterator[Found]:
        now_s = self._wall_s()
        for slot, generations in slots.items():
            fresh = [one for one in generations if is_fresh(one, now_s)]
            serving = any(not one.gauges.get("draining") for one in fresh)
            died = tuple(identity for one in generations for identity in one.died)
            if set(died) - set(self._died.get(slot, died)):
                self._bereft.add(slot)
            elif serving:
                self._bereft.discard(slot)
            self._died[slot] = died
            if serving:
                self._leaving.discard(slot)
            elif fresh:
                self._leaving.add(slot)
            if slot in self._bereft:
                yield ("worker_died", slot), "its streams broke off"
            if not fresh and slot not in self._leaving:
                yield ("worker_missing", slot), "none is there, or it is silent"

    def _dependencies(self, slots: dict[str, list[WorkerMetrics]]) -> Iterator[Found]:
        now_s = self._wall_s()
        fresh = [one.gauges for ones in slots.values() for one in ones if is_fresh(one, now_s)]
        if any(gauges.get("limiter_lost") for gauges in fresh):
            yield ("redis_lost", ""), "limits live on each worker's share"
        ages_s = [gauges.get("snapshot_age_seconds", 0.0) for gauges in fresh]
        # A worker that has no catalog yet knows nothing of an age.
        if any(CATALOG_AGE_S_MAX < age_s < math.inf for age_s in ages_s):
            yield ("postgres_lost", ""), "the catalog is as it was, and calls go to the journals"
        unread = Counter[str]()
        for ones in slots.values():
            for one in ones:
                if is_fresh(one, now_s):
                    unread.update(one.unread)
        for channel, batches in unread.items():
            yield ("results_unread", channel), f"{batches} ended, and cannot be charged"
        if self._sources.shipping_failures():
            yield ("shipping_waits", ""), "the journals keep them"

    def _others(self) -> Iterator[Found]:
        failure = self._sources.reload_failure()
        if failure is None and self._troubles.is_told("reload_failed", ""):
            failure = "another one is under way"
        if failure:
            yield ("reload_failed", ""), failure
        for model in self._sources.models_out():
            yield ("model_unavailable", model), "every channel that has it is out of service"
        for work in self._sources.works():
            if work.outcome is Outcome.FAILED and work.done_by == self._host:
                yield ("maintenance_failed", work.work), work.detail
