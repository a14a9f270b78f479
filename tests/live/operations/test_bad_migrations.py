"""Goal: a release whose migration fails, waits or takes long is no pause for anybody.

Method: two releases of this checkout as installed side by side, the second with a migration that
cannot work, or that needs a table which somebody else holds (as a dump does), or that keeps tables
locked for long. Calls that cost money are made all the time; a stand-in for systemd listens.

    fails     refused, and said; nothing of it is in the database; the release before never stopped
    waits     tried again and again, a few seconds each; given up, and said, or done when it can
    is long   calls go on meanwhile by what is leased, the watchdog is fed; then all is booked once

A restart has no release before that serves: the new one begins with the copies on the disk, and
reads nothing of a database that lacks what it needs.
"""

import asyncio
import contextlib
import itertools
import socket
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import pytest

from relay.process.launch import SCHEMA_S
from relay.process.succession import outcome
from relay.process.succession.outcome import Result
from relay.store import postgres
from relay.store.billing.audit import run_audit
from relay.store.embedded.embedded import Embedded
from relay.store.outage import checked
from relay.store.outage.balances import copy_path
from tests.live.host_rig import Host
from tests.live.one_host import one_host
from tests.live.operations.test_upgrade import only, upgrade, workers_of
from tests.live.relay_process import ask, settle, until, until_told
from tests.live.releases import Releases, with_migration

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(200)]

WATCHDOG_S: Final = 10.0
"""deploy/relay.service's WatchdogSec."""
LONG_S: Final = 14
CALL_S_MAX: Final = 1.5
START_S: Final = 40.0
"""Of a relay, without what it waits for its schema; on a machine that does other things too."""
CALL_NANOS: Final = 1_000_000
LEASED_USD: Final = 0.3
"""What each worker has leased ahead of an account that has been in use for some seconds."""
FAILS: Final = "CREATE TABLE half (n integer); SELECT no_such_column FROM half"
IS_LONG: Final = f"""
ALTER TABLE balances ADD COLUMN next_release text NOT NULL DEFAULT '';
ALTER TABLE accounts ADD COLUMN next_release text NOT NULL DEFAULT '';
LOCK TABLE request_log, credit_leases, keys;
SELECT pg_sleep({LONG_S});
"""


def bringing(sql: str) -> Callable[[Path], None]:
    """Have a release bring this migration along."""

    def change(sources: Path) -> None:
        (sources / "store" / "schema" / "9001_next_release.sql").write_text(sql)

    return change


def with_few_tries(sources: Path) -> None:
    """Have a release bring a migration along that it tries three times."""
    with_migration(sources)
    replace(sources / "store" / "migrate.py", "LOCK_TRIES: Final = 10", "LOCK_TRIES: Final = 3")


def reads_its_column(sources: Path) -> None:
    """Have a release that reads all accounts by the column that its migration brings."""
    with_few_tries(sources)
    accounts = '_ACCOUNTS: Final = "SELECT * FROM accounts'
    named = '_ACCOUNTS: Final = "SELECT *, next_release FROM accounts'
    replace(sources / "store" / "catalog" / "snapshot.py", accounts, named)


def from_before(sources: Path) -> None:
    """Have a release that leaves migrations to the program that comes next."""
    successor = sources / "process" / "succession" / "successor.py"
    replace(successor, 'MIGRATES: "1"', '"RELAY_NOT_KNOWN": "1"')


def replace(file: Path, words: str, others: str) -> None:
    text = file.read_text()
    assert words in text
    file.write_text(text.replace(words, others, 1))


class Said(NamedTuple):
    """What the relay told systemd, and when, on the monotonic clock."""

    at_s: float
    text: str


class Manager:
    """Stands where systemd listens."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.setblocking(False)
        self.said: list[Said] = []

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Listen while the block runs."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket, self._hear)
        try:
            yield
        finally:
            loop.remove_reader(self._socket)
            self._socket.close()

    def _hear(self) -> None:
        self.said.append(Said(time.monotonic(), self._socket.recv(4096).decode()))

    def longest_silence_s(self, begun_s: float) -> float:
        """Return how long at most the watchdog was not fed since then."""
        fed = [said.at_s for said in self.said if said.text == "WATCHDOG=1"]
        moments = [begun_s, *(at_s for at_s in fed if at_s > begun_s), time.monotonic()]
        return max(later - at for at, later in itertools.pairwise(moments))

    def said_so(self, text: str, begun_s: float) -> bool:
        """Return whether it heard this since then."""
        return any(said.text.startswith(text) for said in self.said if said.at_s > begun_s)


class Caller:
    """Makes calls one after the other, each for its price."""

    def __init__(self, host: Host, key: str) -> None:
        self._host = host
        self._key = key
        self._begun_s = time.monotonic()
        self.statuses = Counter[int]()
        self.refusals: list[str] = []
        """What was said with another status than 200, and when."""
        self.slowest_s = 0.0

    async def call(self) -> None:
        """Make one call."""
        begun_s = time.monotonic()
        answer = await ask(self._host, self._key)
        self.slowest_s = max(self.slowest_s, answer.at_s - begun_s)
        self.statuses[answer.status] += 1
        if answer.status != 200:
            self.refusals.append(f"{answer.at_s - self._begun_s:.1f} s: {answer.body!r}")

    @contextlib.asynccontextmanager
    async def calling(self) -> AsyncIterator[None]:
        """Call while the block runs, and wait for the last answer."""
        over = asyncio.Event()

        async def call_on() -> None:
            while not over.is_set():
                await self.call()
                await asyncio.sleep(0.1)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(call_on())
            try:
                yield
            finally:
                over.set()


class Stage(NamedTuple):
    """A host that runs release `one`, and who listens to and calls it."""

    host: Host
    key: str
    releases: Releases
    manager: Manager
    url: str

    @contextlib.asynccontextmanager
    async def undisturbed(self) -> AsyncIterator[None]:
        """Call all the time; behind the block see that nobody noticed, and all was paid once."""
        caller = Caller(self.host, self.key)
        while not self.leased_ahead():
            await caller.call()
        caller.slowest_s = 0.0
        begun_s = time.monotonic()
        async with caller.calling():
            yield
        print(  # noqa: T201
            f"{caller.statuses.total()} calls, slowest {caller.slowest_s:.2f} s, watchdog silent "
            f"for {self.manager.longest_silence_s(begun_s):.1f} s at most"
        )
        assert set(caller.statuses) == {200}, (caller.statuses, caller.refusals)
        assert caller.slowest_s < CALL_S_MAX
        assert self.manager.longest_silence_s(begun_s) < WATCHDOG_S / 2
        await check_books(self.url, caller.statuses[200])

    def leased_ahead(self) -> bool:
        figures = [said.gauges for _, said in self.host.workers().values()]
        return bool(figures) and all(one["credit_leased_usd"] > LEASED_USD for one in figures)

    def reason(self) -> str:
        """Return why the last reload did not come to its end."""
        found = outcome.read(self.host.data_dir)
        assert found is not None
        return f"{found.result.value}: {found.reason}"


async def check_books(url: str, made: int) -> None:
    books = await postgres.connect(url)
    paid = "SELECT -sum(balance_nanos)::bigint FROM balances WHERE account_id > 0"
    try:

        async def booked() -> bool:
            return bool(await books.fetchval("SELECT count(*) FROM request_log") >= made)

        await until_told(booked, f"{made} calls are in the log", 40.0)
        assert await books.fetchval("SELECT count(*) FROM request_log") == made
        assert await books.fetchval(paid) == made * CALL_NANOS
        assert (await run_audit(books)).drifts == []
    finally:
        await books.close()


@pytest.fixture
def folder(reachable: Path) -> Path:
    found = Path(tempfile.mkdtemp(prefix="migrations-", dir=reachable))
    found.chmod(0o755)
    return found


@contextlib.asynccontextmanager
async def serving(
    folder: Path,
    url: str,
    servers: Embedded,
    bad: Callable[[Path], None],
    *,
    before: Callable[[Path], None] | None = None,
    activated: bool = False,
) -> AsyncIterator[Stage]:
    """Serve by release `one`, which `before` changes; `bad` changes the next one."""
    releases = Releases(folder)
    releases.make("one", before)
    releases.make("bad", bad)
    releases.point("one")
    manager = Manager(folder)
    environ = {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": f"{WATCHDOG_S * 1e6:.0f}"}
    options = {"program": [releases.program], "activated": activated}
    found = one_host(folder / "host", url, servers.redis_url, environ, **options)
    async with manager.listening(), found as (host, key):
        yield Stage(host, key, releases, manager, url)


def is_copied(host: Host) -> bool:
    """Tell whether the copy on the disk has an account's credit; the first one has nobody's."""
    path = copy_path(host.data_dir)
    return path.exists() and any(msgspec.msgpack.decode(checked.read(path).content).values())


@contextlib.asynccontextmanager
async def in_use(url: str, table: str) -> AsyncIterator[None]:
    """Hold a table as a dump does: it may be read and written, and not be changed."""
    connection = await postgres.connect(url)
    try:
        await connection.execute("SET idle_in_transaction_session_timeout = 0")
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE {table} IN ACCESS SHARE MODE")
            yield
    finally:
        await connection.close()


async def migrations(url: str) -> list[str]:
    connection = await postgres.connect(url)
    try:
        rows = await connection.fetch("SELECT name FROM schema_migrations WHERE name > '9'")
        half = await connection.fetchval("SELECT to_regclass('half') IS NOT NULL")
        return [row["name"] for row in rows] + ["half"] * half
    finally:
        await connection.close()


async def test_a_migration_that_fails(
    folder: Path, empty_database_url: str, servers: Embedded
) -> None:
    async with serving(folder, empty_database_url, servers, bringing(FAILS)) as stage:
        before = workers_of(stage.host)
        async with stage.undisturbed():
            await upgrade(stage.host, stage.releases, "bad", code=1)
        assert stage.reason().startswith("refused: migration 9001_next_release.sql failed")
        assert "no_such_column" in stage.reason()
        assert stage.host.said("reload refused")
        assert workers_of(stage.host) == before, "not one process of it was ended"
        assert await migrations(empty_database_url) == []
        await until(lambda: stage.host.said("a reload failed"), "it is an alarm")
        stage.releases.make("mended", with_migration)
        await upgrade(stage.host, stage.releases, "mended")
        await only(stage.host, "mended")
        assert await migrations(empty_database_url) == ["9001_next_release.sql"]


async def test_a_migration_that_waits_in_vain(
    folder: Path, empty_database_url: str, servers: Embedded
) -> None:
    async with serving(folder, empty_database_url, servers, with_few_tries) as stage:
        begun_s = time.monotonic()
        before = workers_of(stage.host)
        async with stage.undisturbed():
            async with in_use(empty_database_url, "accounts"):
                await upgrade(stage.host, stage.releases, "bad", code=1)
            assert "waits for a table that others use" in stage.reason()
            assert workers_of(stage.host) == before
            assert await migrations(empty_database_url) == []
        assert stage.manager.said_so("EXTEND_TIMEOUT_USEC=", begun_s)
        await upgrade(stage.host, stage.releases, "bad")
        await only(stage.host, "bad")


async def test_a_migration_that_waits_until_it_can(
    folder: Path, empty_database_url: str, servers: Embedded
) -> None:
    async with serving(folder, empty_database_url, servers, with_migration) as stage:
        async with stage.undisturbed():
            async with in_use(empty_database_url, "accounts"):
                going = asyncio.create_task(upgrade(stage.host, stage.releases, "bad"))
                await asyncio.sleep(7.0)
                assert not going.done()
            await going
        await only(stage.host, "bad")
        assert await migrations(empty_database_url) == ["9001_next_release.sql"]


async def test_a_migration_that_keeps_tables_locked_for_long(
    folder: Path, empty_database_url: str, servers: Embedded
) -> None:
    async with serving(folder, empty_database_url, servers, bringing(IS_LONG)) as stage:
        begun_s = time.monotonic()
        async with stage.undisturbed():
            await upgrade(stage.host, stage.releases, "bad")
        assert time.monotonic() - begun_s > LONG_S
        await only(stage.host, "bad")
        await settle(stage.host, stage.key, 200)


async def test_a_restart_into_a_release_whose_migration_waits(
    folder: Path, empty_database_url: str, servers: Embedded
) -> None:
    found = serving(folder, empty_database_url, servers, reads_its_column, activated=True)
    async with found as stage:
        host, caller = stage.host, Caller(stage.host, stage.key)
        while not stage.leased_ahead():
            await caller.call()
        await until(lambda: is_copied(host), "all is copied, the account's credit too", 40)
        async with in_use(empty_database_url, "accounts"):
            stage.releases.point("bad")
            assert await host.stop() == 0
            begun_s = time.monotonic()
            await host.begin()
            print(f"served {time.monotonic() - begun_s:.1f} s after its start")  # noqa: T201
            assert time.monotonic() - begun_s < SCHEMA_S + START_S
            assert host.said("starting without Postgres")
            assert host.said("serving by the catalog on disk")
            for _ in range(30):
                await caller.call()
            await settle(host, stage.key, 200)
            await only(host, "bad")
            await until(lambda: host.said("waits for a table"), "why, and which migration", 80)
            assert await migrations(empty_database_url) == []
            assert not host.said("child died")
        assert set(caller.statuses) == {200}, (caller.statuses, caller.refusals)

        async def migrated() -> bool:
            return await migrations(empty_database_url) == ["9001_next_release.sql"]

        await until_told(migrated, "it is migrated once it can be")
        await until(lambda: host.said("the catalog is followed again"), "it follows")
        key = await host.make_key("later", "folk")
        await settle(host, key, 200)
        await check_books(empty_database_url, caller.statuses[200])


async def test_a_supervisor_that_leaves_migrations_to_the_next_program(
    folder: Path, empty_database_url: str, servers: Embedded
) -> None:
    """As those of before this did: the next program waits then, and goes back by itself."""
    found = serving(folder, empty_database_url, servers, with_few_tries, before=from_before)
    async with found as stage:
        async with stage.undisturbed():
            async with in_use(empty_database_url, "accounts"):
                await upgrade(stage.host, stage.releases, "bad", code=1)
            assert stage.reason().startswith(f"{Result.GIVEN_UP.value}: migration 9001")
            assert stage.host.said("going back to the release before")
        await upgrade(stage.host, stage.releases, "bad")
        await only(stage.host, "bad")
