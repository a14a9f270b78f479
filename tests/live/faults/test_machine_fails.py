"""Goal: a machine that runs out of disk or of room for connections costs no call that was served.

Method: a whole host, and one thing of its machine after the other: a journal on a tmpfs that is
full, and a queue of connections that is too short.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import pytest

from relay.store import postgres
from relay.store.billing.audit import run_audit
from relay.store.embedded.embedded import Embedded
from tests.live.host_rig import own_databases
from tests.live.one_host import one_host
from tests.live.relay_process import ask, family, until, until_told

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(150)]

TMPFS_BYTES: Final = 2 * 1024 * 1024
JOURNAL_S: Final = 30.0


async def check_books(url: str, made: int) -> None:
    """Wait until each call is in the log; see that none is twice, and that the books are exact."""
    books = await postgres.connect(url)
    try:

        async def booked() -> bool:
            return (
                int(await books.fetchval("SELECT count(*) FROM request_log WHERE status = 200"))
                >= made
            )

        await until_told(booked, f"{made} calls are in the log", 40.0)
        assert await books.fetchval("SELECT count(*) FROM request_log WHERE status = 200") == made
        assert (await run_audit(books)).drifts == []
    finally:
        await books.close()


@pytest.fixture
def small_disk(reachable: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    folder = reachable / "small-disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "tmpfs", str(folder)]
    done = subprocess.run(mount, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


@contextlib.asynccontextmanager
async def stopped(program: str, under: int) -> AsyncIterator[None]:
    """Stop what a process has started that is this program."""
    found = [one for one in family(under) if one.program == program]
    assert found
    for one in found:
        os.kill(one.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for one in found:
            os.kill(one.pid, signal.SIGCONT)


async def test_a_journal_whose_disk_is_full(reachable: Path, small_disk: Path) -> None:
    """Nothing is served that could not be written down, and what was is not lost."""
    environ = {
        "RELAY_JOURNAL__DIR": str(small_disk / "journal"),
        "RELAY_JOURNAL__RESERVE_BYTES": str(TMPFS_BYTES // 4),
        "RELAY_JOURNAL__SEGMENT_BYTES_MAX": str(TMPFS_BYTES // 8),
    }
    async with (
        own_databases(reachable / "full") as databases,
        one_host(reachable / "full-host", databases.database_url, databases.redis_url, environ) as (
            host,
            key,
        ),
    ):
        statuses = Counter[int]()
        statuses[(await ask(host, key)).status] += 1
        async with stopped("postgres", os.getpid()):
            until_s = time.monotonic() + JOURNAL_S
            (small_disk / "others").write_bytes(b"x" * (TMPFS_BYTES // 2))
            while not statuses[503] and time.monotonic() < until_s:
                answers = await asyncio.gather(*(ask(host, key) for _ in range(50)))
                statuses.update(answer.status for answer in answers)
            assert statuses[503] > 0, statuses
            refused = next(answer for answer in answers if answer.status == 503)
            assert "retry-after" in refused.headers
            await until(lambda: host.said("journal"), "an operator hears of it", 15.0)
        (small_disk / "others").unlink()

        async def serves() -> bool:
            status = (await ask(host, key)).status
            statuses[status] += 1
            return status == 200

        await until_told(serves, "it serves again", 30.0)
        assert set(statuses) == {200, 503}
        await check_books(databases.database_url, statuses[200])


async def test_a_queue_of_connections_that_is_too_short(
    reachable: Path, empty_database_url: str, servers: Embedded
) -> None:
    """The kernel lets SYNs go unanswered; clients ask again, and all are served."""
    folder = reachable / "short-queue"
    environ = {"RELAY_SERVER__BACKLOG": "4"}
    found = one_host(folder, empty_database_url, servers.redis_url, environ, workers=1)
    async with found as (host, key):
        [(pid, _)] = host.workers().values()
        os.kill(pid, signal.SIGSTOP)
        asked = [asyncio.create_task(ask(host, key)) for _ in range(60)]
        await asyncio.sleep(1.0)
        os.kill(pid, signal.SIGCONT)
        answers = await asyncio.gather(*asked)
        assert Counter(answer.status for answer in answers) == {200: 60}
        assert (await ask(host, key)).status == 200
