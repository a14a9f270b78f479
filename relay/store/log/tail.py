"""One generation's journal, followed from where the request log has it to where its writer died.

    read() -> calls that ended -> (the caller commits them with `mark`) -> remove_shipped()
    finished, once the writer is dead and all is read -> open_calls() -> (committed) -> remove()

It only reads what the writer wrote, and only removes what the caller has committed.
"""

import contextlib
import fcntl
import logging
import os
import shutil
from pathlib import Path
from typing import Final

from relay.records import CallCheckpoint, CallEnd, CallStart
from relay.store.log.files import LOCK_NAME, list_segments, segment_path, sync_folder
from relay.store.log.frames import MAGIC, Reading, Record, Stop, read_magic, read_records
from relay.store.log.writer import Mark

CHUNK_BYTES: Final = 256 * 1024
"""Read at once: some 1,500 calls, and more than the longest frame."""

_log = logging.getLogger(__name__)


class JournalTail:
    """A reader of one generation's folder; not for two threads at once. Raises OSError freely."""

    def __init__(self, folder: Path, mark: Mark) -> None:
        """Go on behind `mark`; what lies before it is read once more, for the calls still open."""
        self.generation = folder.name
        self.finished = False
        """The writer is dead and everything that can be read was read."""
        self.torn_bytes = 0
        """Bytes in final segments that were no whole frames: what a crash or a disk left behind."""
        self.folder = folder
        self._segment = mark.segment
        self._offset = 0
        self._logged_offset = mark.offset
        self._open: dict[bytes, CallStart] = {}
        self._checkpoints: dict[bytes, CallCheckpoint] = {}
        self._lock_fd = os.open(folder / LOCK_NAME, os.O_RDWR)
        self._dead = False
        self._foreign = False
        self._folder_ns = 0
        """When the folder had last changed as it was last looked at."""

    @property
    def mark(self) -> Mark:
        """How far was read; never less than what the log had."""
        return Mark(self._segment, max(self._offset, self._logged_offset))

    def read(self, count: int) -> list[CallEnd]:
        """Return calls that ended and are not in the log yet: `count`, and a chunk's more."""
        ends: list[CallEnd] = []
        while len(ends) < count and not self.finished:
            # In this order: a writer that is dead, or has a later segment, writes no more to this
            # one. Asked after the reading, it could have written in between.
            dead = self._is_dead()
            self._folder_ns = self.folder.stat().st_mtime_ns
            later = [number for number in list_segments(self.folder) if number > self._segment]
            reading = self._read_chunk()
            if reading.offset:
                logged = self._offset < self._logged_offset
                self._offset += reading.offset
                found = self._fold(reading.records)
                ends += [] if logged else found
            elif not (dead or later) or self._is_foreign(reading.stop):
                break
            else:
                self._leave_segment(later)
        return ends

    def is_still(self) -> bool:
        """Tell at little cost whether the writer lives and seems to have written nothing since."""
        try:
            size = segment_path(self.folder, self._segment).stat().st_size
            changed_ns = self.folder.stat().st_mtime_ns
        except OSError:
            return False
        return size == self._offset and changed_ns == self._folder_ns and not self._is_dead()

    def open_calls(self) -> list[tuple[CallStart, CallCheckpoint | None]]:
        """Return the calls that were started and not ended, with their last checkpoints."""
        return [(start, self._checkpoints.get(key)) for key, start in self._open.items()]

    def last_write_us(self) -> int:
        """Return when the writer last wrote, in microseconds since 1970: it lived until then."""
        numbers = list_segments(self.folder)
        path = segment_path(self.folder, numbers[-1]) if numbers else self.folder
        return path.stat().st_mtime_ns // 1000

    def lag_bytes(self, mark: Mark) -> int:
        """Return how many bytes lie behind `mark`."""
        sizes = {number: self._size(number) for number in list_segments(self.folder)}
        behind = sum(size for number, size in sizes.items() if number >= mark.segment)
        return max(0, behind - (mark.offset if mark.segment in sizes else 0))

    def remove_shipped(self) -> None:
        """Remove the segments before the one being read. Their calls must be committed."""
        shipped = [number for number in list_segments(self.folder) if number < self._segment]
        if not shipped:
            return
        # This segment's head repeats the open calls of the ones that go: it must be safe first.
        fd = os.open(segment_path(self.folder, self._segment), os.O_RDONLY)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)
        sync_folder(self.folder)
        for number in shipped:
            segment_path(self.folder, number).unlink()

    def remove(self) -> None:
        """Remove the folder of a dead writer, of which nothing is left to come."""
        assert self._is_dead()
        shutil.rmtree(self.folder)

    def close(self) -> None:
        """Let go of the lock, if the writer was dead and it was got."""
        os.close(self._lock_fd)

    def _is_dead(self) -> bool:
        if not self._dead:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._dead = True
        return self._dead

    def _read_chunk(self) -> Reading:
        """Return what the next bytes hold; the reading's offset counts from where we stand."""
        # The mark is the end of a frame, so what the log has is read up to exactly there.
        ahead = self._logged_offset - self._offset
        size = min(ahead, CHUNK_BYTES) if ahead > 0 else CHUNK_BYTES
        chunk = self._read_bytes(size)
        if self._offset:
            return read_records(chunk)
        stop = read_magic(chunk)
        return read_records(chunk, len(MAGIC)) if stop is Stop.END else Reading([], 0, stop)

    def _read_bytes(self, size: int) -> bytes:
        try:
            fd = os.open(segment_path(self.folder, self._segment), os.O_RDONLY)
        except FileNotFoundError:
            return b""  # removed after it was shipped, or there is no first one yet
        try:
            return os.pread(fd, size, self._offset)
        finally:
            os.close(fd)

    def _fold(self, records: list[Record]) -> list[CallEnd]:
        """Keep the book of open calls, and return those that ended."""
        ends: list[CallEnd] = []
        for record in records:
            key = record.request_id
            if isinstance(record, CallStart):
                self._open[key] = record
            elif isinstance(record, CallCheckpoint):
                if key in self._open:
                    self._checkpoints[key] = record
            else:
                self._open.pop(key, None)
                self._checkpoints.pop(key, None)
                ends.append(record)
        return ends

    def _is_foreign(self, stop: Stop) -> bool:
        if stop is not Stop.FOREIGN:
            return False
        if not self._foreign:
            self._foreign = True
            _log.error("journal %s: written by a newer relay, left as it is", self.generation)
        return True

    def _leave_segment(self, later: list[int]) -> None:
        torn = self._size(self._segment) - self._offset
        if torn > 0:
            self.torn_bytes += torn
            _log.warning("journal %s: %d bytes at an end are torn", self.generation, torn)
        if later:
            self._segment, self._offset, self._logged_offset = later[0], 0, 0
        else:
            self.finished = True

    def _size(self, number: int) -> int:
        try:
            return segment_path(self.folder, number).stat().st_size
        except FileNotFoundError:
            return 0
