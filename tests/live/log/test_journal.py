"""Goal: whatever happens to the worker or its disk, what the journal took is in a file or in hand.

Method: real files. A limit of the file size stands for a full disk, a pipe in the place of the file
for one that cannot sync, SIGKILL for itself. The records that went in are the oracle.
"""

import contextlib
import fcntl
import itertools
import os
import resource
import shutil
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from relay.config import JournalConfig
from relay.errors import Unavailable
from relay.records import CallCheckpoint
from relay.store.log.files import LOCK_NAME, list_segments, segment_path
from relay.store.log.frames import MAGIC, Record, read_magic, read_records
from relay.store.log.journal import Journal
from tests.live.journals import make_end, make_ends, make_start, until

pytestmark = pytest.mark.live

CONFIG = JournalConfig(flush_ms=1, sync_ms=1, reserve_bytes=0)


@contextlib.asynccontextmanager
async def opened(directory: Path, **fields: Any) -> AsyncIterator[Journal]:
    journal = Journal(directory, "worker-0", msgspec.structs.replace(CONFIG, **fields))
    journal.open()
    try:
        yield journal
    finally:
        await journal.close()


def is_written(journal: Journal) -> bool:
    return not journal._pending and not journal._begun


def is_synced(journal: Journal) -> bool:
    return is_written(journal) and not journal._unsynced


def generation(directory: Path) -> Path:
    (folder,) = directory.iterdir()
    return folder


def read_segments(directory: Path) -> list[list[Record]]:
    """Return the whole records of each segment; a torn tail is left out."""
    folder = generation(directory)
    found = []
    for number in list_segments(folder):
        content = segment_path(folder, number).read_bytes()
        assert read_magic(content)
        found.append(read_records(content, len(MAGIC)).records)
    return found


def read_all(directory: Path) -> list[Record]:
    return list(itertools.chain.from_iterable(read_segments(directory)))


def is_locked(directory: Path) -> bool:
    with (generation(directory) / LOCK_NAME).open("r+b") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size`: writes come short, then fail with EFBIG."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@contextlib.contextmanager
def broken_sync(journal: Journal) -> Iterator[None]:
    """Put a pipe where the journal's file is: it takes writes, and refuses to sync (EINVAL)."""
    assert journal._segment is not None
    reader, writer = os.pipe()
    os.dup2(writer, journal._segment._fd)
    os.close(writer)
    try:
        yield
    finally:
        os.close(reader)


# --- the plain way ----------------------------------------------------------------------------


async def test_records_are_in_the_file_in_order(tmp_path: Path) -> None:
    start = make_start()
    records = [start, CallCheckpoint(start.request_id, 7, 80), make_end(start)]
    async with opened(tmp_path) as journal:
        journal.start(start)
        journal.checkpoint(CallCheckpoint(start.request_id, 7, 80))
        assert journal.open_count == 1
        journal.end(make_end(start))
        assert journal.open_count == 0
        await until(lambda: is_synced(journal))
        assert journal.healthy
        assert read_all(tmp_path) == records
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)


async def test_close_writes_what_was_just_taken(tmp_path: Path) -> None:
    ends = make_ends(3)
    async with opened(tmp_path, flush_ms=1000, sync_ms=1000) as journal:
        for end in ends:
            journal.end(end)
    assert read_all(tmp_path) == ends


async def test_nobody_else_may_look_into_it(tmp_path: Path) -> None:
    async with opened(tmp_path):
        folder = generation(tmp_path)
        for path in (folder, *folder.iterdir()):
            assert not stat.S_IMODE(path.stat().st_mode) & 0o077


async def test_each_segment_repeats_the_open_calls(tmp_path: Path) -> None:
    long, short = make_start(), make_start()
    checkpoint = CallCheckpoint(long.request_id, 7, 80)
    async with opened(tmp_path, segment_bytes_max=1) as journal:
        journal.start(long)
        await until(lambda: is_written(journal))
        journal.start(short)
        await until(lambda: is_written(journal))
        journal.checkpoint(checkpoint)
        journal.end(make_end(short))
        await until(lambda: is_written(journal))
        journal.end(make_end(long))
        await until(lambda: is_synced(journal))
        assert journal.healthy
    assert read_segments(tmp_path) == [
        [long],
        [long, short],
        [long, short, checkpoint, make_end(short)],
        [long, checkpoint, make_end(long)],
        [],
    ]


async def test_a_call_that_ends_at_once_is_written_once(tmp_path: Path) -> None:
    quick, long = make_start(), make_start()
    async with opened(tmp_path) as journal:
        journal.start(quick)
        journal.start(long)
        assert journal.open_count == 2
        journal.end(make_end(quick))
        assert journal.open_count == 1
        await until(lambda: is_written(journal))
        journal.end(make_end(long))
    assert read_all(tmp_path) == [make_end(quick), long, make_end(long)]


async def test_a_checkpoint_comes_behind_its_start(tmp_path: Path) -> None:
    start = make_start()
    checkpoint = CallCheckpoint(start.request_id, 7, 80)
    async with opened(tmp_path) as journal:
        journal.start(start)
        journal.checkpoint(checkpoint)
        journal.end(make_end(start))
    assert read_all(tmp_path) == [start, checkpoint, make_end(start)]


async def test_a_client_cannot_fill_it_with_words(tmp_path: Path) -> None:
    words = "\N{ROCKET}" * 100_000
    async with opened(tmp_path) as journal:
        journal.start(make_start(model=words))
        journal.end(make_end(make_start(model=words, ip=words), error_code=words))
    records = read_all(tmp_path)
    assert len(records) == 2
    for record in records:
        assert not isinstance(record, CallCheckpoint)
        assert record.model == words[:256]


async def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="journal folder"):
        Journal(tmp_path / "file", "worker-0", CONFIG).open()


# --- death ------------------------------------------------------------------------------------


def test_kill_loses_nothing_that_was_flushed(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "journal_writer.py"
    command = [sys.executable, str(script), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(50):
            flushed = int(writer.stdout.readline())
        assert is_locked(tmp_path)
        writer.kill()
    assert not is_locked(tmp_path)
    numbers = [int.from_bytes(record.request_id, "big") for record in read_all(tmp_path)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= flushed


# --- a bad disk -------------------------------------------------------------------------------


async def test_a_write_that_comes_short_goes_to_a_new_segment(tmp_path: Path) -> None:
    before, after = make_ends(2), make_ends(2)
    async with opened(tmp_path) as journal:
        for end in before:
            journal.end(end)
        await until(lambda: is_synced(journal))
        size = segment_path(generation(tmp_path), 1).stat().st_size
        with file_size_limit(size + 250):  # one of the next two fits
            for end in after:
                journal.end(end)
            journal._flush()
        assert journal.poisoned_count == 1
        await until(lambda: journal.healthy)
    assert read_segments(tmp_path) == [[*before, after[0]], after]


async def test_a_full_disk_stops_new_work_and_loses_nothing(tmp_path: Path) -> None:
    start, *others = [make_start() for _ in range(3)]
    async with opened(tmp_path) as journal:
        journal.start(start)
        await until(lambda: is_synced(journal))
        with file_size_limit(0):
            journal.start(others[0])
            journal._flush()
            assert not journal.healthy
            journal.start(others[1])
            journal.end(make_end(start))
            journal._flush()
            assert not journal.healthy
        await until(lambda: journal.healthy)
        await until(lambda: is_synced(journal))
        assert journal.poisoned_count == 1
    first, last = read_segments(tmp_path)
    assert first == [start]
    assert {record.request_id for record in last} == {
        record.request_id for record in (start, *others)
    }
    assert make_end(start) in last
    assert not list(generation(tmp_path).glob("*.new"))


async def test_what_was_not_synced_is_written_again(tmp_path: Path) -> None:
    safe, unsafe = make_ends(2), make_ends(2)
    async with opened(tmp_path) as journal:
        for end in safe:
            journal.end(end)
        await until(lambda: is_synced(journal))
        with broken_sync(journal):
            for end in unsafe:
                journal.end(end)
            await until(lambda: journal.poisoned_count == 1)
        await until(lambda: journal.healthy)
    assert read_segments(tmp_path) == [safe, unsafe]


async def test_after_one_try_a_new_segment_waits_for_the_probe(tmp_path: Path) -> None:
    ends = make_ends(2)
    async with opened(tmp_path) as journal:
        await until(lambda: is_synced(journal))
        (generation(tmp_path) / "000002.new").touch()
        with broken_sync(journal):
            for end in ends:
                journal.end(end)
            await until(lambda: journal.poisoned_count == 1)
        assert not journal.healthy
        await until(lambda: journal.healthy)
    assert read_segments(tmp_path) == [[], ends]
    assert list_segments(generation(tmp_path)) == [1, 3]


async def test_a_disk_that_is_nearly_full_stops_new_work(tmp_path: Path) -> None:
    end = make_ends(1)[0]
    async with opened(tmp_path, reserve_bytes=2**60) as journal:
        assert not journal.healthy
        journal.end(end)
    assert read_all(tmp_path) == [end]


async def test_too_much_in_memory_stops_new_work(tmp_path: Path) -> None:
    async with opened(tmp_path, unsynced_records_max=3) as journal:
        for end in make_ends(3):
            journal.end(end)
        assert not journal.healthy
        await until(lambda: journal.healthy)


async def test_a_folder_that_vanishes_stops_new_work(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        shutil.rmtree(generation(tmp_path))
        await until(lambda: not journal.healthy)
