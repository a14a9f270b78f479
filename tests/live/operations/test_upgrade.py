"""Goal: a release, and the one before it again, is changed to without a broken or a refused call.

Method: two releases of this checkout, the second with a migration, as installed side by side; long
streams and new connections all the time, while `relay upgrade` goes there and back; or the service
is restarted on sockets that its manager keeps. Where they are not kept, the same must be noticed.
Releases that cannot be loaded, or do not become ready, are left for the one that serves.
"""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from relay.store import postgres
from relay.store.embedded.embedded import Embedded
from tests.live.host_rig import Host
from tests.live.process_upstream import slow_upstream
from tests.live.relay_process import Stream, family, question, settle, until
from tests.live.releases import (
    Releases,
    never_ready,
    not_importable,
    release_of,
    with_migration,
)

pytestmark = [pytest.mark.live, pytest.mark.timeout(240)]

CATALOG = """
[[channel]]
name = "mock"
base_url = "{upstream}"
models = ["steady"]
[[line]]
name = "town"
channels = ["mock"]
[[group]]
name = "folk"
lines = ["town"]
[[price]]
model = "steady"
input = "1"
output = "2"
[[account]]
name = "folk"
group = "folk"
credit_limit = "100"
"""
PATIENCE_S = 90.0
LOADS = [
    pytest.param(20, 25, id="20 streams"),
    pytest.param(300, 100, id="300 streams", marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
]


class Knocker:
    """Makes new connections at a pace, each for one call; counts what became of them."""

    def __init__(self, host: Host, key: str, per_s: int) -> None:
        self._url = f"{host.url}/models"
        self._headers = {"Authorization": f"Bearer {key}"}
        self._pause_s = 1 / per_s
        self._calls: set[asyncio.Task[None]] = set()
        self.good = 0
        self.bad: list[str] = []

    @contextlib.asynccontextmanager
    async def knocking(self) -> AsyncIterator[None]:
        """Knock while the block runs, and wait for every answer then."""
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            pace = asyncio.create_task(self._pace(session))
            try:
                yield
            finally:
                pace.cancel()
                await asyncio.gather(*self._calls, pace, return_exceptions=True)

    async def _pace(self, session: aiohttp.ClientSession) -> None:
        while True:
            call = asyncio.create_task(self._knock(session))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
            await asyncio.sleep(self._pause_s)

    async def _knock(self, session: aiohttp.ClientSession) -> None:
        try:
            async with session.get(self._url, headers=self._headers) as answer:
                await answer.read()
                if answer.status == 200:
                    self.good += 1
                else:
                    self.bad.append(str(answer.status))
        except (aiohttp.ClientError, TimeoutError) as error:
            self.bad.append(type(error).__name__)


@pytest.fixture
def folder(reachable: Path) -> Path:
    found = Path(tempfile.mkdtemp(prefix="upgrade-", dir=reachable))
    found.chmod(0o755)
    return found


@pytest.fixture
def releases(folder: Path) -> Releases:
    found = Releases(folder)
    found.make("one")
    found.make("two", with_migration)
    found.point("one")
    return found


@contextlib.asynccontextmanager
async def serving(
    folder: Path, releases: Releases, url: str, servers: Embedded, *, activated: bool = False
) -> AsyncIterator[tuple[Host, str]]:
    """A host on a database of its own, and a key."""
    host = Host(folder / "host", None, program=[releases.program], activated=activated)
    host.environ["RELAY_DATABASE__URL"] = url
    host.environ["RELAY_REDIS__URL"] = servers.redis_url
    await host.begin()
    try:
        async with slow_upstream() as upstream:
            await host.apply(CATALOG.format(upstream=upstream))
            key = await host.make_key("k")
            await settle(host, key, 200)
            yield host, key
    finally:
        await host.end()


@contextlib.asynccontextmanager
async def streams(host: Host, key: str, count: int, tokens: int) -> AsyncIterator[list[Stream]]:
    """So many streams that have begun, and have ended behind the block."""
    found = [Stream() for _ in range(count)]
    body = question(max_tokens=tokens)
    async with asyncio.TaskGroup() as tasks:
        for stream in found:
            tasks.create_task(stream.run(host, key, body))
        for stream in found:
            await stream.started.wait()
        yield found


async def upgrade(host: Host, releases: Releases, name: str, code: int = 0) -> None:
    releases.point(name)
    await host.cli("upgrade", code=code)


def workers_of(host: Host) -> dict[int, str]:
    """Return pid -> release of every worker, spare and draining ones too."""
    found = {}
    for one in family(host.process.pid):
        with contextlib.suppress(OSError):
            if b"\0worker\0" in Path("/proc", str(one.pid), "cmdline").read_bytes():
                found[one.pid] = release_of(one.pid)
    return found


async def only(host: Host, name: str) -> None:
    """Wait until no worker of another release is left."""
    await until(lambda: set(workers_of(host).values()) == {name}, f"all is {name}", PATIENCE_S)


@pytest.mark.parametrize(("count", "per_s"), LOADS)
async def test_there_and_back_by_reload(
    folder: Path,
    releases: Releases,
    empty_database_url: str,
    servers: Embedded,
    count: int,
    per_s: int,
) -> None:
    async with serving(folder, releases, empty_database_url, servers) as (host, key):
        pid = host.process.pid
        knocker = Knocker(host, key, per_s)
        async with streams(host, key, count, 80) as running, knocker.knocking():
            await upgrade(host, releases, "two")
            assert list(workers_of(host).values()).count("two") >= 2
            assert await has_migrated(empty_database_url)
            async with streams(host, key, count // 2, 50) as more:
                await upgrade(host, releases, "one")
        await only(host, "one")
        assert knocker.bad == []
        assert knocker.good > per_s
        assert [stream.status for stream in (*running, *more)] == [200] * (count + count // 2)
        assert all(stream.whole for stream in (*running, *more))
        assert host.process.pid == pid
        assert host.process.poll() is None
        rows = await host.rows("k", min(count + count // 2, 400))
        assert {row["outcome"] for row in rows if "outcome" in row} <= {"ok", "completed"}


@pytest.mark.parametrize(("count", "per_s"), LOADS)
async def test_there_and_back_by_restart_on_sockets_that_are_kept(
    folder: Path,
    releases: Releases,
    empty_database_url: str,
    servers: Embedded,
    count: int,
    per_s: int,
) -> None:
    async with serving(folder, releases, empty_database_url, servers, activated=True) as found:
        host, key = found
        knocker = Knocker(host, key, per_s)
        running = await restart_under_load(host, key, releases, knocker, count)
        assert knocker.bad == []
        assert all(stream.whole for stream in running)
        assert await has_migrated(empty_database_url)


@pytest.mark.slow
async def test_sockets_that_are_not_kept_are_noticed(
    folder: Path, releases: Releases, empty_database_url: str, servers: Embedded
) -> None:
    """What the tests above would say of a relay that closes its sockets."""
    async with serving(folder, releases, empty_database_url, servers) as (host, key):
        knocker = Knocker(host, key, 25)
        await restart_under_load(host, key, releases, knocker, 5)
        assert "ClientConnectorError" in knocker.bad


async def restart_under_load(
    host: Host, key: str, releases: Releases, knocker: Knocker, count: int
) -> list[Stream]:
    """Restart into the next release and back, as the service manager does."""
    running = []
    async with knocker.knocking():
        for name in ("two", "one"):
            async with streams(host, key, count, 30) as found:
                releases.point(name)
                assert await host.stop() == 0
                await host.begin()
                await only(host, name)
            running += found
    return running


async def test_a_release_that_cannot_be_loaded_changes_nothing(
    folder: Path, releases: Releases, empty_database_url: str, servers: Embedded
) -> None:
    releases.make("broken", not_importable)
    async with serving(folder, releases, empty_database_url, servers) as (host, key):
        before = set(host.workers())
        await upgrade(host, releases, "broken", code=1)
        assert set(host.workers()) == before
        await only(host, "one")
        assert host.said("reload refused")
        await settle(host, key, 200)


async def test_a_release_that_does_not_become_ready_is_left_by_itself(
    folder: Path, releases: Releases, empty_database_url: str, servers: Embedded
) -> None:
    releases.make("broken", never_ready)
    async with serving(folder, releases, empty_database_url, servers) as (host, key):
        before = {pid for pid, _ in host.workers().values()}
        async with streams(host, key, 5, 60) as running:
            await upgrade(host, releases, "broken", code=1)
            assert {pid for pid, _ in host.workers().values()} == before
            assert host.said("going back to the release before")
            assert host.said("reload given up")
            await settle(host, key, 200)
        assert all(stream.whole for stream in running)
        # It is still able to become another one, and to stop.
        await upgrade(host, releases, "two")
        await only(host, "two")
        assert await host.stop() == 0


async def has_migrated(url: str) -> bool:
    connection = await postgres.connect(url)
    try:
        return bool(await connection.fetchval("SELECT to_regclass('next_release') IS NOT NULL"))
    finally:
        await connection.close()
