"""Keeps one process's snapshot in step with the catalog in Postgres, for as long as it runs.

    NOTIFY relay_catalog --+
                           +--> generation moved? --> refresh --> on_snapshot(Snapshot)
    every poll_s ----------+

A notification is the fast way (milliseconds); the poll finds what a lost one would have hidden
(a pooler in between, a connection being re-made). While Postgres is down the last snapshot stays
in force and `age_s` grows: serving old rights is better than serving nobody, and readiness can say
when it has gone on for too long.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

import asyncpg

from relay.backoff import Backoff
from relay.clock import clock_s, dice
from relay.errors import ConfigError, DependencyDown
from relay.model import Snapshot
from relay.store import postgres
from relay.store.catalog.snapshot import EMPTY, read_generation, refresh, refresh_spent
from relay.store.postgres import Connection
from relay.store.secrets.vault import Vault

CHANNEL: Final = "relay_catalog"
POLL_S: Final = 1.0
"""A disabled key is refused within about a second even where notifications do not arrive."""
ANSWER_S: Final = 3.0
"""A poll not answered by then is a connection whose other end is gone without a word."""
SPENT_OVERLAP_S: Final = 120.0
"""A booking may be visible so much later than it is stamped: statements are cut off at 30 s."""
SPENT_S_MAX: Final = 30 * 86_400.0
"""How far back a follower looks at most, after the longest outage."""
RECONNECT_S_MIN: Final = 0.1
RECONNECT_S_MAX: Final = 5.0
"""A fleet must not storm a Postgres that has just come back; nor wait long for it."""

_log = logging.getLogger(__name__)


class CatalogFollower:
    """Follows the catalog on a connection of its own, re-made for ever.

    Args:
        url: Of the database.
        vault: Opens the channels' credentials.
        on_snapshot: Called in the event loop with every new snapshot, the first one included.
        poll_s: Seconds between two polls.
        dice: Uniform in [0, 1); jitters the back-off.
    """

    def __init__(
        self,
        url: str,
        vault: Vault,
        on_snapshot: Callable[[Snapshot], None],
        *,
        poll_s: float = POLL_S,
        dice: Callable[[], float] = dice,
    ) -> None:
        self.snapshot = EMPTY
        self._url = url
        self._vault = vault
        self._on_snapshot = on_snapshot
        self._poll_s = poll_s
        self._dice = dice
        self._notified = asyncio.Event()
        self._loaded = asyncio.Event()
        self._confirmed_s = -float("inf")
        self._backoff = Backoff(first_s=RECONNECT_S_MIN, most_s=RECONNECT_S_MAX, jitter=0.5)
        self._task: asyncio.Task[None] | None = None

    @property
    def age_s(self) -> float:
        """Seconds since the snapshot was last known to be the newest; inf before the first."""
        return clock_s() - self._confirmed_s

    async def start(self) -> Snapshot:
        """Follow until `stop`; return the first snapshot, waiting for Postgres if need be.

        Raises:
            ConfigError: Postgres refuses [database] url.
        """
        assert self._task is None, "a follower is started once"
        self._task = asyncio.create_task(self._follow(), name="catalog follower")
        loaded = asyncio.create_task(self._loaded.wait())
        try:
            await asyncio.wait({self._task, loaded}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            loaded.cancel()
        if self._task.done():
            await self._task
        return self.snapshot

    async def wait(self) -> None:
        """Wait as long as it follows; a fault that ends it is raised, for nobody else notices."""
        assert self._task is not None, "not started"
        await asyncio.shield(self._task)

    async def stop(self) -> None:
        """Stop following; the last snapshot stays."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            try:
                await self._follow_connection()
            except DependencyDown as error:
                self._note_failure(error)
            except (ConfigError, asyncpg.PostgresError, ValueError) as error:
                # At the start these are mistakes of ours or the operator's, and end it. Later they
                # pass: a password being changed, rows that a newer relay wrote for newer workers.
                if not self._loaded.is_set():
                    raise
                self._note_failure(error)
            await asyncio.sleep(self._backoff.wait_s(self._dice()))

    async def _follow_connection(self) -> None:
        connection = await postgres.connect(self._url, application="relay follower")
        try:
            with postgres.border():
                await connection.add_listener(CHANNEL, self._wake)
                while True:
                    self._notified.clear()
                    await self._catch_up(connection)
                    await self._wait()
        finally:
            connection.terminate()  # A polite close could wait for a peer that is gone.

    async def _catch_up(self, connection: Connection) -> None:
        asked_s = clock_s()
        snapshot = self.snapshot
        async with asyncio.timeout(ANSWER_S):
            generation = await read_generation(connection)
        if generation != snapshot.generation:
            snapshot = await refresh(connection, self._vault, snapshot)
        within_s = asked_s - self._confirmed_s + SPENT_OVERLAP_S
        snapshot = await refresh_spent(connection, snapshot, within_s=min(within_s, SPENT_S_MAX))
        self._confirmed_s = asked_s
        self._note_success()
        if snapshot is not self.snapshot:
            self.snapshot = snapshot
            self._on_snapshot(snapshot)
        self._loaded.set()

    async def _wait(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._poll_s):
                await self._notified.wait()

    def _wake(self, *_notification: object) -> None:
        self._notified.set()

    def _note_failure(self, error: Exception) -> None:
        if self._backoff.fail():
            _log.warning("the catalog cannot be followed: %s", type(error).__name__)

    def _note_success(self) -> None:
        if tries := self._backoff.succeed():
            _log.warning("the catalog is followed again after %d tries", tries)
