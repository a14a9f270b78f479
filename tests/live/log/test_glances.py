"""Goal: a shipper that only glances at journals that are still misses nothing for long.

Method: real journals and a real Postgres; what is written, and a writer's death, while it glances.
"""

import asyncio
import contextlib
import time
from functools import partial
from pathlib import Path

import msgspec
import pytest

from relay.config import JournalConfig
from relay.control.shipper import QUIET_LOOKS, Shipper
from relay.store import postgres
from relay.store.log.files import segment_path
from relay.store.log.frames import join_frames
from relay.store.log.stirring import Stirring
from relay.store.log.tail import JournalTail
from relay.store.log.writer import Mark
from tests.live.journals import (
    add_catalog,
    alive,
    make_ends,
    until,
    write_generation,
    write_segment,
)

pytestmark = pytest.mark.live

POLL_MS = 10
CONFIG = JournalConfig(ship_poll_ms=POLL_MS)
QUIET_S = POLL_MS / 1_000 * (QUIET_LOOKS + 20)
"""After so long it looks seldom."""


def has_shipped(shipper: Shipper, rows: int) -> bool:
    return shipper.rows_shipped == rows


@pytest.mark.parametrize("told", [True, False])
async def test_what_is_written_while_it_glances_is_in_the_log_soon(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, *, told: bool
) -> None:
    """Whether the kernel tells of it, or has to be asked every so often."""
    if not told:
        monkeypatch.setattr(Stirring, "works", False)
    connect = partial(postgres.connect, database_url)
    first, second, third = ([end] for end in make_ends(3))
    folder = write_generation(tmp_path, "w", first)
    database = await connect()
    await add_catalog(database)
    shipper = Shipper(tmp_path, connect, CONFIG)
    task = asyncio.create_task(shipper.run())
    try:
        with alive(folder):
            await until(partial(has_shipped, shipper, 1))
            took_s = []
            for number, rows in ((2, second), (3, third)):
                await asyncio.sleep(QUIET_S)
                began_s = time.monotonic()
                write_segment(folder, number, rows)
                await until(partial(has_shipped, shipper, number))
                took_s.append(time.monotonic() - began_s)
            assert min(took_s) < 1 and max(took_s) < 5, took_s
            await asyncio.sleep(QUIET_S)
        await until(lambda: not folder.exists())
        assert await database.fetchval("SELECT count(*) FROM request_log") == 3
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await database.close()


def test_a_journal_is_still_until_something_is_written_or_its_writer_dies(tmp_path: Path) -> None:
    first, second = make_ends(2)
    folder = write_generation(tmp_path, "w", [first])
    tail = JournalTail(folder, Mark())
    try:
        with alive(folder):
            assert not tail.is_still()
            assert tail.read(10) == [first]
            assert tail.read(10) == []
            assert tail.is_still()
            with segment_path(folder, 1).open("ab") as segment:
                segment.write(join_frames([msgspec.msgpack.encode(second)]))
            assert not tail.is_still()
            assert tail.read(10) == [second]
            assert tail.read(10) == []
            assert tail.is_still()
        assert not tail.is_still()
    finally:
        tail.close()
