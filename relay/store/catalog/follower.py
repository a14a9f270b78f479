"""Keeps one process's snapshot in step with the catalog in Postgres, for as long as it runs.

    NOTIFY relay_catalog --+
                           +--> generation moved? --> refresh --> on_snapshot(Snapshot)
    every poll_s ----------+

A notification is the fast way (milliseconds); the poll finds what a lost one would have hidden
(a pooler in between, a connection being re-made). Nothing is in between where Postgres is embedded:
there the poll is a sign of life, and seldom. While Postgres is down the last snapshot stays
in force and `age_s` grows: serving old rights is better than serving nobody, and readiness can say
when it has gone on for too long. Who starts then begins with the copy on this host's disk, where
there is one that is young enough.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

import asyncpg
import msgspec

from relay.backoff import Backoff
from relay.clock import clock_s, dice, until_beat_s, wall_s
from relay.config import Config
from relay.errors import ConfigError, DependencyDown, NotFound
from relay.model import Snapshot
from relay.store import postgres
from relay.store.catalog.snapshot import EMPTY, read_generation, refresh, refresh_spent
from relay.store.migrate import connect_migrated
from relay.store.outage.catalog import read_catalog_copy
from relay.store.postgres import Connection
from relay.store.secrets.vault import Vault
from relay.tasks import first_of

CHANNEL: Final = "relay_catalog"
POLL_S: Final = 1.0
"""A disabled key is refused within about a second even where notifications do not arrive."""
EMBEDDED_POLL_S: Final = 4.0
SPENT: Final = "spent"
"""A notification that says so is of what keys with a quota have spent, and can wait a moment."""
SPENT_POLL_S: Final = 1.0
ANSWER_S: Final = 3.0
"""A poll not answered by then is a connection whose other end is gone without a word."""
SPENT_OVERLAP_S: Final = 120.0
"""A booking may be visible so much later than it is stamped: statements are cut off at 30 s."""
SPENT_S_MAX: Final = 30 * 86_400.0
"""How far back a follower looks at most, after the longest outage."""
COPY_S: Final = 1.0
"""A Postgres that has not answered a starting worker by then counts as away: clients wait."""
RECONNECT_S_MIN: Final = 0.1
RECONNECT_S_MAX: Final = 5.0
"""A fleet must not storm a Postgres that has just come back; nor wait long for it."""

_log = logging.getLogger(__name__)


def poll_s(config: Config) -> float:
    """Return how often a follower asks a Postgres of this configuration unasked."""
    return POLL_S if config.database.url else EMBEDDED_POLL_S


class Copy(msgspec.Struct, frozen=True):
    """A catalog on the disk to start from where Postgres is away, and how old it may be."""

    path: Path
    age_s_max: float


class CatalogFollower:
    """Follows the catalog on a connection of its own, re-made for ever.

    Args:
        url: Of the database.
        vault: Opens the channels' credentials.
        on_snapshot: Called in the event loop with every new snapshot, the first one included.
        poll_s: Seconds between two polls.
        dice: Uniform in [0, 1); jitters the back-off.
        copy: What to start from while Postgres is away; None: wait for it.
    """

    def __init__(
        self,
        url: str,
        vault: Vault,
        on_snapshot: Callable[[Snapshot], None],
        *,
        poll_s: float = POLL_S,
        dice: Callable[[], float] = dice,
        copy: Copy | None = None,
    ) -> None:
        self.snapshot = EMPTY
        self._copy = copy
        self._from_copy = False
        """Nobody knows whether the copy is of the database that is found later."""
        self._failed = asyncio.Event()
        self._reason = ""
        """Why Postgres could not be followed last."""
        self._url = url
        self._vault = vault
        self._on_snapshot = on_snapshot
        self._poll_s = poll_s
        self._dice = dice
        self._notified = asyncio.Event()
        self._later: asyncio.TimerHandle | None = None
        """Looks at what was spent."""
        self._loaded = asyncio.Event()
        self._confirmed_s = -float("inf")
        self._backoff = Backoff(first_s=RECONNECT_S_MIN, most_s=RECONNECT_S_MAX, jitter=0.5)
        self._task: asyncio.Task[None] | None = None

    @property
    def age_s(self) -> float:
        """Seconds since the snapshot was last known to be the newest; inf before the first."""
        return clock_s() - self._confirmed_s

    async def start(self) -> Snapshot:
        """Follow until `stop`; return the first snapshot: Postgres's, or the copy's.

        Without a copy it is waited for.

        Raises:
            ConfigError: Postgres refuses [database] url.
        """
        assert self._task is None, "a follower is started once"
        self._task = asyncio.create_task(self._follow(), name="catalog follower")
        if self._copy is not None:
            await first_of(self._task, self._loaded.wait(), self._failed.wait(), within_s=COPY_S)
            if not self._loaded.is_set():
                self._begin_with(self._copy)
        await first_of(self._task, self._loaded.wait())
        return self.snapshot

    def _begin_with(self, copy: Copy) -> None:
        """Serve by the copy, if it will do."""
        try:
            found = read_catalog_copy(copy.path, self._vault)
        except NotFound as error:
            _log.warning("the catalog is waited for: %s", error)
            return
        age_s = max(wall_s() - found.confirmed_s, 0.0)
        if age_s > copy.age_s_max:
            _log.error("the catalog is waited for: the copy on disk is %d s old", age_s)
            return
        why = self._reason or f"Postgres did not answer within {COPY_S:.0f} s"
        _log.error("serving by the catalog on disk, %d s old: %s", age_s, why)
        self.snapshot = found.snapshot
        self._from_copy = True
        self._confirmed_s = clock_s() - age_s
        self._on_snapshot(found.snapshot)
        self._loaded.set()

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
        connection = await connect_migrated(self._url, application="relay follower")
        try:
            with postgres.border():
                connection.add_termination_listener(self._wake)
                await connection.add_listener(CHANNEL, self._hear)
                while True:
                    self._forget_notified()
                    await self._catch_up(connection)
                    await self._wait()
        finally:
            self._forget_notified()
            connection.terminate()  # A polite close could wait for a peer that is gone.

    async def _catch_up(self, connection: Connection) -> None:
        asked_s = clock_s()
        snapshot = self.snapshot
        async with asyncio.timeout(ANSWER_S):
            generation = await read_generation(connection)
        if self._from_copy or generation != snapshot.generation:
            known = EMPTY if self._from_copy else snapshot
            snapshot = await refresh(connection, self._vault, known)
        within_s = asked_s - self._confirmed_s + SPENT_OVERLAP_S
        snapshot = await refresh_spent(connection, snapshot, within_s=min(within_s, SPENT_S_MAX))
        self._confirmed_s = asked_s
        self._from_copy = False
        self._note_success()
        if snapshot is not self.snapshot:
            self.snapshot = snapshot
            self._on_snapshot(snapshot)
        self._loaded.set()

    async def _wait(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(until_beat_s(self._poll_s)):
                await self._notified.wait()

    def _hear(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        if payload != SPENT:
            self._wake()
        elif self._later is None:
            wait_s = until_beat_s(SPENT_POLL_S)
            self._later = asyncio.get_running_loop().call_later(wait_s, self._wake)

    def _wake(self, *_connection: object) -> None:
        self._notified.set()

    def _forget_notified(self) -> None:
        self._notified.clear()
        if self._later is not None:
            self._later.cancel()
            self._later = None

    def _note_failure(self, error: Exception) -> None:
        self._failed.set()
        # Others quote what is in the tables.
        self._reason = error.message if isinstance(error, DependencyDown) else type(error).__name__
        if self._backoff.fail():
            _log.warning("the catalog cannot be followed: %s", self._reason)

    def _note_success(self) -> None:
        if tries := self._backoff.succeed():
            _log.warning("the catalog is followed again after %d tries", tries)
