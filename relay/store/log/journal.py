"""The worker's own record of its calls: appended in memory, on disk a few milliseconds later.

    start -> begun --+
    checkpoint, end -+-> pending -> one write -> unsynced -> fdatasync in a thread -> forgotten
                                flush_ms                  every sync_ms

A call that ends before its start was written has no start there: its end says all of it.

`kill -9` loses what is pending (flush_ms at most), a power cut what is unsynced. Nothing here waits
for a disk: a call is never slower for it. A write or sync that fails poisons its segment: the
kernel may have dropped the pages and report the next fsync as good, so that file is never trusted
again, and all that was not known to be safe is written to a new one, beside the starts of all open
calls. That is tried once at once; then once a second, and until it works `healthy` is False.

Source: Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020;
docs/reliability.md, "Disks".
"""

import asyncio
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgspec

from relay import ports
from relay.clock import until_beat_s
from relay.config import JournalConfig
from relay.records import CallCheckpoint, CallEnd, CallStart
from relay.store.log.files import GenerationFolder, Segment
from relay.store.log.frames import join_frames

PROBE_S: Final = 1.0
"""How often free space is looked at, and a new segment tried while there is none."""
QUIET_PROBE_S: Final = 4.0
"""...where there was room, and nothing has been written since."""

PLAIN_BYTES_MAX: Final = 2048
"""A record over this has its words cut: a model's name is whatever a client says it is."""
WORD_CHARS_MAX: Final = 256

_encode = msgspec.msgpack.Encoder().encode
_log = logging.getLogger(__name__)


class Journal(ports.Journal):
    """The journal of one worker, for one event loop.

    A later record of a call repeats nothing of its earlier ones, but an end is whole in itself.
    The same record may reach the files twice (after a poisoned segment): its reader takes it once.
    """

    def __init__(self, directory: Path, worker: str, config: JournalConfig) -> None:
        self._directory = directory
        self._worker = worker
        self._config = config
        self._flush_s = config.flush_ms / 1000
        self._sync_s = config.sync_ms / 1000
        self._records_max = config.unsynced_records_max
        self._begun: dict[bytes, CallStart] = {}
        self._pending: list[bytes] = []
        self._flush_due = False
        self._unsynced: list[bytes] = []
        self._open: dict[bytes, bytes] = {}
        self._checkpoints: dict[bytes, bytes] = {}
        self._segment: Segment | None = None
        self._segment_count = 0
        self._retired: list[Segment] = []  # full, but not synced yet
        self._poisoned: list[Segment] = []  # to be closed, and nothing else
        self._trusted = False  # no write and no sync has failed since the last good sync
        self._disk_low = False
        self._closing = False
        self._told_healthy = True
        self.poisoned_count = 0

    def open(self) -> None:
        """Make the generation folder and the first segment, and begin to flush.

        Call it inside the running event loop. A full disk is no error here: `healthy` tells.

        Raises:
            Unavailable: RELAY; the folder cannot be made.
        """
        self._folder = GenerationFolder(self._directory, self._worker)
        self._loop = asyncio.get_running_loop()
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._written = asyncio.Event()
        self._disk_low = self._is_disk_low()
        self._trusted = self._renew([])
        self._sync_task = asyncio.create_task(self._sync_forever(), name="journal-sync")
        self._probe_task = asyncio.create_task(self._probe_forever(), name="journal-probe")

    @property
    def healthy(self) -> bool:
        """Whether new paid work may begin. Calls under way are recorded either way."""
        return (
            self._trusted
            and not self._disk_low
            and len(self._begun) + len(self._pending) + len(self._unsynced) < self._records_max
        )

    @property
    def generation(self) -> str:
        """The name of this life of the worker; known once it is open."""
        return self._folder.path.name

    @property
    def open_count(self) -> int:
        """Calls that were started and not ended."""
        return len(self._begun) + len(self._open)

    def start(self, record: CallStart) -> None:
        """Record that a call begins: before its upstream is asked."""
        self._begun[record.request_id] = record
        self._be_flushed()

    def checkpoint(self, record: CallCheckpoint) -> None:
        """Record what an open call would be charged if the worker died now."""
        start = self._begun.pop(record.request_id, None)
        if start is not None:
            self._put(start)
        payload = _pack(record)
        if record.request_id in self._open:
            self._checkpoints[record.request_id] = payload
        self._pending.append(payload)
        if record.unended is not None:
            self._flush()  # its client is about to hear of it: no death may come in between
        self._be_flushed()

    def end(self, record: CallEnd) -> None:
        """Record how a call ended; it need not have been started (a refused one is not)."""
        if self._begun.pop(record.request_id, None) is None:
            self._open.pop(record.request_id, None)
            self._checkpoints.pop(record.request_id, None)
        self._pending.append(_pack(record))
        self._be_flushed()

    async def close(self) -> None:
        """Write and sync everything, and let go of the folder. Calls still open stay open."""
        self._closing = True
        self._probe_task.cancel()
        self._flush()
        self._written.set()
        try:
            await self._sync_task
        finally:
            self._disk.shutdown(wait=False)
            if self._segment is not None:
                self._segment.close()
                self._segment = None
            self._folder.close()

    def _be_flushed(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_later(self._flush_s, self._flush)

    def _put(self, start: CallStart) -> None:
        """Have a start written: its call has not ended so soon."""
        self._open[start.request_id] = payload = _pack(start)
        self._pending.append(payload)

    def _flush(self) -> None:
        self._flush_due = False
        segment = self._segment
        if segment is None:
            return  # the records stay where they are, and the probe comes back to them
        for start in self._begun.values():
            self._put(start)
        self._begun.clear()
        if not self._pending:
            return
        frames = join_frames(self._pending)
        self._unsynced += self._pending
        self._pending = []
        try:
            segment.append(frames)
        except OSError as exc:
            self._poison(exc)
            return
        if segment.tail_bytes >= self._config.segment_bytes_max:
            self._retired.append(segment)
            if not self._renew([]):
                self._trusted = False
        self._written.set()

    def _renew(self, again: list[bytes]) -> bool:
        """Open the next segment, with the records of `again`; return whether it worked.

        Its head holds the starts of all open calls, so that it can be read without the ones before
        it, and these can be removed. A number is never used twice: offsets go by it.
        """
        self._segment_count += 1
        head = [*self._open.values(), *self._checkpoints.values(), *again]
        try:
            self._segment = Segment(self._folder.path, self._segment_count, join_frames(head))
        except OSError as exc:
            if self._trusted or self._segment_count == 1:
                _log.error("journal: no new segment: %s", exc.strerror)
            self._segment = None
            return False
        self._written.set()
        return True

    def _poison(self, cause: OSError) -> None:
        self.poisoned_count += 1
        was_trusted, self._trusted = self._trusted, False
        if self._segment is not None:
            _log.error("journal: %s is poisoned: %s", self._segment.path.name, cause.strerror)
            self._poisoned.append(self._segment)
            self._segment = None
        if was_trusted:
            self._renew(self._unsynced)

    async def _sync_forever(self) -> None:
        while not self._closing or self._written.is_set():
            await self._written.wait()
            self._written.clear()
            await self._sync_once()
            if not self._closing:
                await asyncio.sleep(self._sync_s)

    async def _sync_once(self) -> None:
        """Sync all that was written so far, however much has gathered during the last sync."""
        segment = self._segment
        count = 0 if segment is None else len(self._unsynced)
        retired, self._retired = self._retired, []
        segments = retired if segment is None else [*retired, segment]
        try:
            await self._loop.run_in_executor(self._disk, _sync_all, segments)
        except OSError as exc:
            self._poison(exc)
        else:
            del self._unsynced[:count]
            if segment is not None and segment is self._segment:
                self._trusted = True
        for done in (*retired, *self._poisoned):
            done.close()
        self._poisoned.clear()

    async def _probe_forever(self) -> None:
        seen_bytes = -1
        while True:
            quiet = self.healthy and seen_bytes == self._tail_bytes()
            seen_bytes = self._tail_bytes()
            await asyncio.sleep(until_beat_s(QUIET_PROBE_S if quiet else PROBE_S))
            self._disk_low = await self._loop.run_in_executor(self._disk, self._is_disk_low)
            if self._segment is None:
                self._renew(self._unsynced)
                self._flush()
            self._tell_health()

    def _tail_bytes(self) -> int:
        """Return how much of the segment was written; a new one begins anew."""
        return -1 if self._segment is None else self._segment.tail_bytes

    def _tell_health(self) -> None:
        """Say in the log that paid work stops, and that it goes on."""
        if self.healthy is self._told_healthy:
            return
        self._told_healthy = self.healthy
        if self.healthy:
            _log.warning("journal: written again, paid work is taken")
        else:
            _log.error("journal: disk full, failing or too slow: no paid work is taken")

    def _is_disk_low(self) -> bool:
        try:
            stat = os.statvfs(self._folder.path)
        except OSError:
            return True
        return stat.f_bavail * stat.f_frsize < self._config.reserve_bytes


def _pack(record: CallStart | CallCheckpoint | CallEnd) -> bytes:
    payload = _encode(record)
    if len(payload) <= PLAIN_BYTES_MAX:
        return payload
    words = {name: getattr(record, name) for name in record.__struct_fields__}
    cut = {name: word[:WORD_CHARS_MAX] for name, word in words.items() if isinstance(word, str)}
    return _encode(msgspec.structs.replace(record, **cut))


def _sync_all(segments: list[Segment]) -> None:
    for segment in segments:
        segment.sync()
