"""Keeps the copies on this host's disk that workers start from while Postgres is away.

catalog  --change--> encode, write aside, rename
         --none----> confirmed each CONFIRM_S, for as long as Postgres says that it is so
balances --each BALANCES_S-----------------> the same
"""

import asyncio
import contextlib
import functools
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import asyncpg

from relay.clock import clock_s, until_beat_s, wall_s
from relay.errors import RelayError
from relay.model import Snapshot
from relay.store import postgres
from relay.store.catalog.follower import CatalogFollower
from relay.store.kept import Kept
from relay.store.metrics import is_fresh, read_all
from relay.store.outage import balances, catalog, checked, fleet
from relay.store.postgres import Connection
from relay.store.secrets.vault import Vault
from relay.tasks import Bell, first_of

LOOK_S: Final = 1.0
SPENT_S: Final = 30.0
"""What keys have spent moves with each call: it is written no more often than this."""
CONFIRM_S: Final = 5.0
BALANCES_S: Final = 10.0
AGAIN_S: Final = 5.0

_log = logging.getLogger(__name__)


class Copies:
    """The copies of one host.

    Args:
        url: Of the database.
        data_dir: Where they go.
        vault: Seals the channels' credentials.
        connect: Dials Postgres for the balances.
        poll_s: How often Postgres is asked for changes that it did not tell of.
        changed: Is rung where the catalog has changed.
    """

    def __init__(
        self,
        url: str,
        data_dir: Path,
        vault: Vault,
        connect: Callable[[], Awaitable[Connection]],
        *,
        poll_s: float,
        changed: Bell,
    ) -> None:
        self._catalog_path = catalog.copy_path(data_dir)
        self._balances_path = balances.copy_path(data_dir)
        self._fleet_path = fleet.copy_path(data_dir)
        self._metrics_dir = data_dir / "run" / "metrics"
        self._vault = vault
        self._kept = Kept(connect, postgres.hang_up)
        self._newest: Snapshot | None = None
        self._written: Snapshot | None = None
        self._written_s = -float("inf")
        self._url = url
        self._poll_s = poll_s
        self._changed = changed
        self._follower = self._make_follower()
        self._failing = False

    @property
    def age_s(self) -> float:
        """Seconds since Postgres was last known to have said what is in force; inf: never."""
        return self._follower.age_s

    async def run(self) -> None:
        """Keep them for ever."""
        try:
            await first_of(
                self._follow(), self._keep_catalog(), self._keep_balances(), self._keep_fleet()
            )
        finally:
            self._kept.close()
            await self._follower.stop()

    async def _follow(self) -> None:
        while True:
            try:
                await self._follower.start()
                await self._follower.wait()
            except (RelayError, asyncpg.PostgresError, ValueError) as error:
                # A schema that is still to be migrated, a password being changed: workers say so.
                _log.warning("no copy of the catalog is made: %s", type(error).__name__)
            await asyncio.sleep(AGAIN_S)
            await self._follower.stop()
            self._follower = self._make_follower()

    def _make_follower(self) -> CatalogFollower:
        return CatalogFollower(self._url, self._vault, self._take, poll_s=self._poll_s)

    def _take(self, snapshot: Snapshot) -> None:
        before, self._newest = self._newest, snapshot
        if before is None or before.generation != snapshot.generation:
            self._changed.ring()

    async def _keep_catalog(self) -> None:
        confirmed_s = -float("inf")
        while True:
            snapshot, now_s = self._newest, clock_s()
            if snapshot is not None and self._is_due(snapshot, now_s):
                if await self._write(functools.partial(self._encode_and_write, snapshot)):
                    self._written, self._written_s = snapshot, now_s
            elif now_s - confirmed_s > CONFIRM_S and self.age_s < CONFIRM_S and self._written:
                checked.confirm(self._catalog_path)
                confirmed_s = now_s
            await asyncio.sleep(until_beat_s(LOOK_S))

    def _is_due(self, snapshot: Snapshot, now_s: float) -> bool:
        if snapshot is self._written:
            return False
        changed = self._written is None or snapshot.generation != self._written.generation
        return changed or now_s - self._written_s > SPENT_S

    def _encode_and_write(self, snapshot: Snapshot) -> None:
        catalog.write_catalog(self._catalog_path, snapshot, self._vault)

    async def _keep_balances(self) -> None:
        while True:
            # The follower says that Postgres is away; the copy of before stands.
            with contextlib.suppress(RelayError, asyncpg.PostgresError, TimeoutError):
                await self._copy_balances()
            await asyncio.sleep(until_beat_s(BALANCES_S))

    async def _copy_balances(self) -> None:
        with postgres.border():
            async with self._kept.use() as connection:
                found = await balances.read_balances(connection)
        await self._write(lambda: balances.write_balances(self._balances_path, found))

    async def _keep_fleet(self) -> None:
        written = 0
        while True:
            heard = self._heard_fleet()
            if heard and heard != written:
                await self._write(functools.partial(fleet.write_fleet, self._fleet_path, heard))
                written = heard
            await asyncio.sleep(until_beat_s(CONFIRM_S))

    def _heard_fleet(self) -> int:
        """Return what the workers of this host have heard; 0 while their Redis is away."""
        now_s = wall_s()
        gauges = [
            found.gauges
            for generations in read_all(self._metrics_dir).values()
            for found in generations
            if is_fresh(found, now_s)
        ]
        if any(found.get("limiter_lost") for found in gauges):
            return 0
        return max((int(found.get("limiter_workers", 0)) for found in gauges), default=0)

    async def _write(self, work: Callable[[], None]) -> bool:
        """Write in a thread: syncing takes as long as the disk likes; return whether it worked."""
        try:
            await asyncio.to_thread(work)
        except OSError as error:
            if not self._failing:
                _log.error("no copy of the catalog can be written: %s", error.strerror)
            self._failing = True
            return False
        if self._failing:
            _log.warning("copies of the catalog are written again")
        self._failing = False
        return True
