"""Goal: a clock that is set forward or back by an hour costs no call, no cent and no limit.

Method: a time of day of its own (own_time.c) for a whole host, or for its Redis, which a test sets;
the monotonic clock goes on as the kernel's does. Calls go on all the time.

    of the host    readiness, ids, budgets of a day, journals, copies: as if nothing was
    of Redis       a line goes on at its rate within seconds, and gives its burst once more at most
"""

import asyncio
import contextlib
import shutil
import struct
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from relay.store import postgres
from relay.store.billing.audit import run_audit
from relay.store.embedded.embedded import Embedded
from tests.live.flood import Crowd, request_of
from tests.live.host_rig import Host
from tests.live.one_host import one_host
from tests.live.redis_servers import Fleet
from tests.live.relay_process import ask, settle, until_told
from tests.live.two_hosts import valkey_program

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(200)]

HOUR_S: Final = 3600
STEPS_S: Final = (HOUR_S, 0, -HOUR_S, 0)
HEARD_S: Final = 2.5
"""Who looks at the time of day does so once a second."""
SOURCE: Final = Path(__file__).with_name("own_time.c")
OFFSET: Final = struct.Struct("=q")
CALL_NANOS: Final = 1_000_000
LINE_PER_S: Final = 10
BURST_S: Final = 6.0
OFFERED_PER_S: Final = 20.0
BEFORE_S: Final = 10.0
STEP_S: Final = 12.0
TOWN: Final = 'name = "town"'
LIMITED: Final = f"{TOWN}\nrpm = {60 * LINE_PER_S}\nwait_ms = 0"


class Clock:
    """The time of day of whoever is started with `environ`."""

    def __init__(self, library: Path, file: Path) -> None:
        self._file = file
        file.write_bytes(bytes(OFFSET.size))
        file.chmod(0o644)
        self.environ = {"LD_PRELOAD": str(library), "OWN_TIME": str(file)}

    def set(self, offset_s: int) -> None:
        """Set it so far off, at once, for all."""
        with self._file.open("r+b") as stream:
            stream.write(OFFSET.pack(offset_s))


@pytest.fixture
def clock(reachable: Path) -> Clock:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler here")
    library = reachable / "own_time.so"
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    library.chmod(0o755)
    return Clock(library, reachable / "clock")


class Watcher:
    """Calls and looks at the readiness, all the time."""

    def __init__(self, host: Host, key: str) -> None:
        self._host = host
        self._key = key
        self.statuses = Counter[int]()
        self.ready = Counter[int]()
        self.ids: set[str] = set()

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        over = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._call(over))
            tasks.create_task(self._look(over))
            try:
                yield
            finally:
                over.set()

    async def _call(self, over: asyncio.Event) -> None:
        while not over.is_set():
            answer = await ask(self._host, self._key)
            self.statuses[answer.status] += 1
            self.ids.add(answer.request_id)
            await asyncio.sleep(0.05)

    async def _look(self, over: asyncio.Event) -> None:
        while not over.is_set():
            self.ready[(await self._host.readiness())[0]] += 1
            await asyncio.sleep(0.2)


async def step(clock: Clock, host: Host, key: str) -> Watcher:
    """Set the clock to and fro while calls are made; return what became of them."""
    watcher = Watcher(host, key)
    async with watcher.watching():
        await asyncio.sleep(HEARD_S)
        for offset_s in STEPS_S:
            clock.set(offset_s)
            await asyncio.sleep(2 * HEARD_S)
    return watcher


async def check(watcher: Watcher, url: str) -> None:
    """See that nobody noticed, and that each call is in the log once, and paid once."""
    made = watcher.statuses.total()
    print(f"{made} calls {dict(watcher.statuses)}, readiness {dict(watcher.ready)}")  # noqa: T201
    assert set(watcher.statuses) == {200}
    assert len(watcher.ids) == made
    assert set(watcher.ready) == {200}
    books = await postgres.connect(url)
    paid = "SELECT -sum(balance_nanos)::bigint FROM balances WHERE account_id > 0"
    span = "SELECT max(ended_at) - min(ended_at) > interval '110 minutes' FROM request_log"
    try:

        async def booked() -> bool:
            return bool(await books.fetchval("SELECT count(*) FROM request_log") >= made)

        await until_told(booked, f"{made} calls are in the log", 40.0)
        assert await books.fetchval("SELECT count(*) FROM request_log") == made
        assert await books.fetchval(span), "the clocks that count were set"
        assert await books.fetchval(paid) == made * CALL_NANOS
        used = await books.fetchval("SELECT sum(used) FROM budget_windows")
        assert used == made
        assert (await run_audit(books)).drifts == []
    finally:
        await books.close()


async def make_key(host: Host) -> str:
    budgets = {"account": "folk", "name": "b", "budgets": ["100000 requests/day"]}
    key: str = (await host.api("keys", budgets))["key"]
    await settle(host, key, 200)
    return key


async def test_the_clock_of_a_host(
    reachable: Path, empty_database_url: str, servers: Embedded, clock: Clock
) -> None:
    folder = reachable / "host-clock"
    found = one_host(folder, empty_database_url, servers.redis_url, clock.environ)
    async with found as (host, _):
        key = await make_key(host)
        await check(await step(clock, host, key), empty_database_url)


@pytest.fixture
def redis(clock: Clock, reachable: Path, tmp_path: Path) -> Iterator[Fleet]:
    """Servers that go by the clock."""
    with valkey_program(reachable / "programs") as program, ExitStack() as ends:
        told = " ".join(f"{name}={value}" for name, value in clock.environ.items())
        wrapped = tmp_path / "by-the-clock"
        wrapped.write_text(f'#!/bin/sh\nexec env {told} {program} "$@"\n')
        wrapped.chmod(0o755)
        yield Fleet(wrapped, tmp_path, ends)


async def test_the_clock_of_redis(
    reachable: Path, empty_database_url: str, redis: Fleet, clock: Clock
) -> None:
    redis_url = redis.url(redis.start())
    found = one_host(reachable / "redis-clock", empty_database_url, redis_url)
    async with found as (host, key):
        await host.apply(host.catalog_file.read_text().replace(TOWN, LIMITED))
        crowd = Crowd(request_of(key, "steady", 60, 10))
        await crowd.connect(int(host.address.rpartition(":")[2]), 16)
        offering = asyncio.create_task(crowd.offer(OFFERED_PER_S, HOUR_S))
        await asyncio.sleep(BEFORE_S)
        moments = []
        for offset_s in STEPS_S:
            moments.append(time.monotonic())
            clock.set(offset_s)
            await asyncio.sleep(STEP_S)
        offering.cancel()
        for offset_s, begun_s in zip(STEPS_S, moments, strict=True):
            check_rate(crowd, offset_s, begun_s)
        await asyncio.sleep(1.0)
        assert {call.status for call in crowd.calls} == {200, 429}
        assert crowd.lost == 0


def check_rate(crowd: Crowd, offset_s: int, begun_s: float) -> None:
    """See that the line gave its rate behind a step, and its burst once more at most."""
    served = [call.asked_s - begun_s for call in crowd.calls if call.status == 200]
    whole = sum(0 <= at_s < STEP_S for at_s in served) / LINE_PER_S
    settled_s = STEP_S / 2
    behind = sum(settled_s <= at_s < STEP_S for at_s in served) / LINE_PER_S
    print(  # noqa: T201
        f"Redis at {offset_s:+d} s: {whole:.1f} s' worth of the line in {STEP_S:.0f} s, "
        f"{behind:.1f} in the last {settled_s:.0f}"
    )
    assert whole <= 1.05 * STEP_S + BURST_S
    assert behind >= 0.85 * settled_s
