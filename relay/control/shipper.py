"""The shipper: tails the journals of this host's workers into the request log, exactly once.

    journal folders -> tails -> a batch -> one transaction: rows, folds, marks -> remove what is in

With Postgres down it holds one batch and waits; the journals grow on disk. Whatever moment it dies
at, the next one goes on from the marks that were committed, and rows that are in already stay out.
A dead worker's open calls are closed as interrupted, once everything it wrote is in; background
responses, which end without it, are kept for whoever asks how (store.log.unended).
"""

import asyncio
import contextlib
import fcntl
import logging
import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar, TypeVarTuple

import asyncpg
import msgspec

from relay.backoff import Backoff
from relay.clock import until_beat_s
from relay.config import JournalConfig
from relay.errors import RelayError
from relay.records import (
    CallCheckpoint,
    CallEnd,
    CallStart,
    counted_usage,
    interrupted_end,
)
from relay.store.billing.credit_leases import close_owner
from relay.store.kept import Kept
from relay.store.log.files import list_generations
from relay.store.log.stirring import Stirring
from relay.store.log.tail import JournalTail
from relay.store.log.unended import keep_unended
from relay.store.log.writer import (
    Mark,
    Part,
    find_logged,
    forget_mark,
    read_mark,
    write_batch,
)
from relay.store.postgres import Connection, border, hang_up

BACKOFF_S_MIN: Final = 0.1
BACKOFF_S_MAX: Final = 5.0
"""Postgres is asked again at least this often: replay begins within seconds of its return."""
LOCK_NAME: Final = "shipper.lock"
LOCK_RETRY_S: Final = 0.5
QUIET_LOOKS: Final = 20
"""So many looks in a row that found nothing, and the next ones come half as often."""
GLANCES_MAX: Final = 3
"""Of the looks that come seldom, so many in a row may be glances."""
STILL_S: Final = 5.0
"""While the kernel tells what stirs a glance comes once in this, should it have missed anything."""

Connect = Callable[[], Awaitable[Connection]]
Observe = Callable[[Sequence[CallEnd]], None]
Close = Callable[[CallStart, CallCheckpoint | None, int], CallEnd]
_Args = TypeVarTuple("_Args")
_Result = TypeVar("_Result")

_log = logging.getLogger(__name__)


def close_interrupted(start: CallStart, checkpoint: CallCheckpoint | None, died_us: int) -> CallEnd:
    """Return the end of a call whose worker died: charged is what its last checkpoint says.

    Without one nothing is known to have reached the client, and nothing is charged. `died_us` is
    when the worker last wrote.
    """
    last = checkpoint or CallCheckpoint(start.request_id, 0, 0)
    end = interrupted_end(start, last, counted_usage(last, start.input_estimate), died_us)
    return end if checkpoint is not None else msgspec.structs.replace(end, status=500)


class Shipper:
    """Ships the journals below one directory. One runs per directory; a second one waits.

    Args:
        directory: Where the workers make their generation folders.
        connect: Makes a connection to Postgres; one is kept, and made anew after a failure.
        config: How often to look, and how much to ship at once.
        close: Makes the end of a call that its dead worker left open.
        observe: Told of calls once they are in the log; must not wait.
    """

    def __init__(
        self,
        directory: Path,
        connect: Connect,
        config: JournalConfig,
        *,
        close: Close = close_interrupted,
        observe: Observe | None = None,
    ) -> None:
        self._directory = directory
        self._connect = connect
        self._kept = Kept(connect, hang_up)
        self._poll_s = config.ship_poll_ms / 1000
        self._rows_max = config.ship_rows_max
        self._close = close
        self._observe = observe
        self._tails: deque[JournalTail] = deque()
        self._shipped: dict[str, Mark] = {}
        self._tidied: dict[str, Mark] = {}
        """What was shipped when segments were last looked for that it makes needless."""
        self._batch: list[Part] = []
        self._files = ThreadPoolExecutor(1, thread_name_prefix="shipper")
        self._looks_in_vain = 0
        self._glances = 0
        self._directory_ns = 0
        """When the directory had last changed as it was last looked at."""
        self.rows_shipped = 0
        self._backoff = Backoff(first_s=2 * BACKOFF_S_MIN, most_s=BACKOFF_S_MAX)

    @property
    def rows_waiting(self) -> int:
        """Calls that were read and are not committed yet; bounded by a batch."""
        return sum(len(part.ends) for part in self._batch)

    @property
    def failures(self) -> int:
        """Tries since the last one that worked; 0 = all is well."""
        return self._backoff.failures

    @property
    def journals(self) -> int:
        """Journals that are not in the log for good; those of workers that live are among them."""
        return len(self._tails)

    def lag_bytes(self) -> int:
        """Return how many bytes of journal are not in the log yet: it looks at the files."""
        return sum(
            tail.lag_bytes(self._shipped[tail.generation])
            for tail in list(self._tails)  # a copy: the reading thread turns it
            if tail.generation in self._shipped
        )

    async def run(self) -> None:
        """Ship until cancelled, whatever happens to Postgres and the disk meanwhile."""
        async with self._lock_directory():
            try:
                while True:
                    await self._rest(await self._try_once())
            finally:
                self.close()

    def close(self) -> None:
        """Let go of the journals; the shipper is of no use afterwards."""
        self._files.shutdown()  # waits for a read under way: it uses what is closed now
        while self._tails:
            self._tails.pop().close()
        self._kept.close()

    async def _rest(self, wait_s: float) -> None:
        """Wait so long; where nothing has happened for a while, until something does."""
        if self._is_quiet():
            folders = [self._directory, *(tail.folder for tail in self._tails)]
            with Stirring(folders) as stirring:
                if stirring.works and self._seems_still():
                    if await stirring.wait(STILL_S):
                        self._looks_in_vain = 0
                        await asyncio.sleep(self._poll_s)  # what was begun may end meanwhile
                    return
        await asyncio.sleep(wait_s)

    async def _try_once(self) -> float:
        """Ship once; return the seconds to wait before the next time."""
        if self._is_still():
            return until_beat_s(2 * self._poll_s)
        try:
            rows = await self.ship_once()
        except (RelayError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as exc:
            if self._backoff.fail():
                _log.error("shipping waits: %s", type(exc.__cause__ or exc).__name__)
            return self._backoff.wait_s()
        if failures := self._backoff.succeed():
            _log.info("shipping goes on after %d failures", failures)
        # A transaction costs as much as hundreds of rows, so they are let gather. Only a backlog is
        # not waited for: there a batch is full.
        if rows >= self._rows_max:
            return 0.0
        self._looks_in_vain = 0 if rows else self._looks_in_vain + 1
        if self._looks_in_vain < QUIET_LOOKS:
            return self._poll_s
        return until_beat_s(2 * self._poll_s)

    def _is_still(self) -> bool:
        """Tell at a glance whether nothing seems to have happened since a look in vain.

        What two things at one moment hide from it is found by the look that comes after a few.
        """
        if not self._is_quiet() or self._glances == GLANCES_MAX:
            self._glances = 0
            return False
        self._glances += 1
        return self._seems_still()

    def _is_quiet(self) -> bool:
        return self._looks_in_vain >= QUIET_LOOKS and not self._backoff.failures

    def _seems_still(self) -> bool:
        try:
            changed_ns = self._directory.stat().st_mtime_ns
        except OSError:
            return False
        return changed_ns == self._directory_ns and all(tail.is_still() for tail in self._tails)

    async def ship_once(self) -> int:
        """Ship a batch of what is there, and tidy up behind it; return how many rows it had.

        After an error call it again: it goes on with the same batch.

        Raises:
            DependencyDown: RELAY; Postgres cannot be reached.
            OSError: RELAY; a journal cannot be read.
        """
        new = await self._in_thread(self._look)
        if new:
            await self._take_up(new)
            if not self._batch:
                await self._in_thread(self._read_batch)
        rows = self.rows_waiting
        if rows:
            async with self._database() as connection:
                await write_batch(connection, self._batch)
        if self._observe is not None:
            for part in self._batch:
                self._observe(part.ends)
        self._batch.clear()
        self.rows_shipped += rows
        self._shipped = {tail.generation: tail.mark for tail in self._tails}
        for tail in [tail for tail in self._tails if tail.finished]:
            await self._finish(tail)
        if self._shipped != self._tidied:
            await self._in_thread(self._remove_shipped)
            self._tidied = self._shipped
        return rows

    def _look(self) -> list[Path]:
        """Return the generations that are not known yet; where all are, read what they say."""
        known = {tail.generation for tail in self._tails}
        self._directory_ns = self._directory.stat().st_mtime_ns
        found = list_generations(self._directory)
        new = [folder for folder in found if folder.name not in known]
        if not new and not self._batch:
            self._read_batch()
        return new

    async def _take_up(self, folders: Sequence[Path]) -> None:
        for folder in folders:
            async with self._database() as connection:
                mark = await read_mark(connection, folder.name)
            tail = JournalTail(folder, mark)
            if mark.closed:
                await self._forget(tail)
            else:
                self._tails.append(tail)

    def _read_batch(self) -> None:
        """Read until the batch is full; the generations take turns at being the first."""
        room = self._rows_max
        for tail in list(self._tails):
            if room <= 0:
                break
            self._tails.rotate(-1)
            try:
                ends = tail.read(room)
            except OSError:
                # Nobody knows how far it came. It is found again, and goes on from its mark.
                self._tails.remove(tail)
                tail.close()
                raise
            if ends:
                self._batch.append(Part(tail.generation, tail.mark, ends))
                room -= len(ends)

    async def _finish(self, tail: JournalTail) -> None:
        """Close the calls that a dead worker left open, free its credit, remove its journal.

        The credit is freed behind the last call that was paid out of it, together with the mark
        that nothing is left to come: whoever goes on after a crash does both again, or neither.
        The mark comes first: balances are locked last, here as in write_batch.
        """
        calls = tail.open_calls()
        died_us = tail.last_write_us()
        mark = msgspec.structs.replace(tail.mark, closed=True)
        async with self._database() as connection:
            # After a power cut the log can know an end that the journal has lost.
            logged = await find_logged(connection, [start.request_id for start, _ in calls])
            left = [call for call in calls if call[0].request_id not in logged]
            going = [(start, last) for start, last in left if last is not None and last.unended]
            ends = [
                self._close(start, last, died_us)
                for start, last in left
                if last is None or last.unended is None
            ]
            await write_batch(connection, [Part(tail.generation, tail.mark, ends)])
            async with connection.transaction():
                await write_batch(connection, [Part(tail.generation, mark, [])])
                await keep_unended(connection, tail.generation, going)
                await close_owner(connection, tail.generation)
        if going:
            _log.warning("journal %s: %d responses go on", tail.generation, len(going))
        if ends:
            _log.warning("journal %s: %d calls were interrupted", tail.generation, len(ends))
        self.rows_shipped += len(ends)
        self._tails.remove(tail)
        await self._forget(tail)

    async def _forget(self, tail: JournalTail) -> None:
        """Remove a closed generation: the folder first, since without a mark it would be replayed.

        Dying in between leaves a row of a hundred bytes behind, and nothing else.
        """
        try:
            await self._in_thread(tail.remove)
        finally:
            tail.close()
        async with self._database() as connection:
            await forget_mark(connection, tail.generation)

    def _remove_shipped(self) -> None:
        for tail in self._tails:
            tail.remove_shipped()

    @contextlib.asynccontextmanager
    async def _database(self) -> AsyncIterator[Connection]:
        with border():
            async with self._kept.use() as connection:
                yield connection

    async def _in_thread(self, work: Callable[[*_Args], _Result], *args: *_Args) -> _Result:
        """Do what touches files off the loop, which also serves the admin API."""
        return await asyncio.get_running_loop().run_in_executor(self._files, work, *args)

    @contextlib.asynccontextmanager
    async def _lock_directory(self) -> AsyncIterator[None]:
        """Wait until no other shipper holds the directory, and take it."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self._directory / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            while not _take_lock(fd):  # noqa: ASYNC110 - a file lock wakes nobody
                await asyncio.sleep(LOCK_RETRY_S)
            yield
        finally:
            os.close(fd)


def _take_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
