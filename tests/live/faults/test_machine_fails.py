"""Goal: a machine that runs out of disk, of a log's reader, of memory or of time costs no money.

Method: a whole host, and one thing of its machine after the other: a journal on a tmpfs that is
full, a log that nobody reads any more, clocks that jump by hours and days, a queue of connections
that is too short, and kill -9 of all it runs while its sockets are kept.
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

from benchmarks.peers import debian
from relay.store import postgres
from relay.store.billing.audit import run_audit
from relay.store.embedded.embedded import Embedded
from tests.live.host_rig import own_databases
from tests.live.one_host import one_host
from tests.live.relay_process import ask, family, until, until_told

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(150)]

TMPFS_BYTES: Final = 2 * 1024 * 1024
JUMPS: Final = ("+1h", "-1h", "+1d", "-1d")
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


async def test_a_log_that_nobody_reads(
    reachable: Path, empty_database_url: str, servers: Embedded
) -> None:
    """As journald that hangs: what is said is lost, and nobody waits for it."""
    folder = reachable / "unread"
    environ = {"RELAY_LOG": "json"}
    async with one_host(folder, empty_database_url, servers.redis_url, environ, unread=True) as (
        host,
        key,
    ):
        for _ in range(3):  # each reload says some lines; the pipe holds none
            host.process.send_signal(signal.SIGHUP)
            await asyncio.sleep(1.0)
        took_s = []
        for _ in range(20):
            begun_s = time.monotonic()
            assert (await ask(host, key)).status == 200
            took_s.append(time.monotonic() - begun_s)
        assert max(took_s) < 2.0, took_s


@pytest.fixture(scope="module")
def faketime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """libfaketime, of the system or out of Debian's package."""
    folder = tmp_path_factory.mktemp("faketime")
    found = [*Path("/usr/lib").glob("*/faketime/libfaketime.so.1")]
    if not found:
        try:
            debian.unpack("libfaketime", folder)
        except debian.Refused as refused:
            pytest.skip(f"libfaketime cannot be had here: {refused}")
        found = [*folder.rglob("libfaketime.so.1")]
    return found[0]


async def test_clocks_that_jump(
    reachable: Path, empty_database_url: str, servers: Embedded, faketime: Path
) -> None:
    """By an hour and a day, there and back, under calls: none fails, none has another's id."""
    told = reachable / "faketime"
    told.write_text("+0")
    environ = {
        "LD_PRELOAD": str(faketime),
        "FAKETIME_TIMESTAMP_FILE": str(told),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    folder = reachable / "jumping"
    async with one_host(folder, empty_database_url, servers.redis_url, environ) as (host, key):
        ids: list[str] = []
        for jump in ("+0", *JUMPS, "+0"):
            told.write_text(jump)
            until_s = time.monotonic() + 3.0
            while time.monotonic() < until_s:
                answer = await ask(host, key)
                assert answer.status == 200, (jump, answer.body)
                ids.append(answer.request_id)
                await asyncio.sleep(0.05)
        assert len(set(ids)) == len(ids)
        assert host.process.poll() is None
        await check_books(empty_database_url, len(ids))


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


async def test_all_is_killed_and_its_sockets_are_kept(
    reachable: Path, empty_database_url: str, servers: Embedded
) -> None:
    """Who connects meanwhile waits in the queue, and the next start serves all of them."""
    folder = reachable / "killed"
    found = one_host(folder, empty_database_url, servers.redis_url, activated=True)
    async with found as (host, key):
        made = 0
        for _ in range(10):
            made += (await ask(host, key)).status == 200
        host.destroy()
        asked = [asyncio.create_task(ask(host, key)) for _ in range(20)]
        await asyncio.sleep(0.2)
        host.launch()
        answers = await asyncio.gather(*asked)
        assert Counter(answer.status for answer in answers) == {200: 20}
        await check_books(empty_database_url, made + 20)
