"""Goal: a Postgres that refuses to write, is full of others, or loses its answers costs nothing.

Method: a whole host; its Postgres is made read-only, or has no connection left, or stands behind a
door that hangs up between a COMMIT and its answer. Calls go on meanwhile; afterwards each is in the
log once, what the account has paid is what its calls cost, and the books are exact.

    in use           has credit leased ahead: goes on
    idle             has the outage's advance, and 503 beyond it: nobody knows what is left
    answer lost      the lease or the batch went in: asked again, it is not made a second time
"""

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

import asyncpg
import msgspec
import pytest

from relay.store import postgres
from relay.store.billing.audit import run_audit
from relay.store.embedded.embedded import Embedded
from relay.store.outage import balances, checked
from tests.live.host_rig import Host, own_databases
from tests.live.one_host import one_host
from tests.live.relay_process import ask, settle, until, until_told
from tests.live.two_hosts import MIB, pump

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(150)]

CALLS: Final = 20
CALL_NANOS: Final = 1_000_000
"""What one_host's catalog charges for a call."""
ADVANCE_CALLS: Final = 8
COMMIT: Final = b"COMMIT"
APPLICATION: Final = re.compile(rb"application_name\0([^\0]*)\0")
IDLE: Final = """
[[account]]
name = "idle"
group = "folk"
credit_limit = "1000"
"""


async def calls(host: Host, key: str, count: int = CALLS) -> int:
    """Make calls that must succeed; return how many."""
    answers = [await ask(host, key) for _ in range(count)]
    assert Counter(answer.status for answer in answers) == {200: count}
    return count


async def warm_up(host: Host, key: str) -> int:
    """Make calls until credit is leased ahead, as for any account in use; return how many."""
    made = 0
    for _ in range(4):
        made += await calls(host, key)
        await host.figures_published()
    return made


async def check_books(url: str, made: int) -> None:
    """Wait until each call is in the log; see that none is twice, and that all was paid once."""
    books = await postgres.connect(url)
    served = "SELECT count(*) FROM request_log WHERE status = 200"
    paid = "SELECT -sum(balance_nanos)::bigint FROM balances WHERE account_id > 0"
    try:

        async def booked() -> bool:
            return int(await books.fetchval(served)) >= made

        await until_told(booked, f"{made} calls are in the log", 40.0)
        assert await books.fetchval(served) == made
        assert await books.fetchval(paid) == made * CALL_NANOS
        assert (await run_audit(books)).drifts == []
    finally:
        await books.close()


@contextlib.asynccontextmanager
async def read_only(url: str, admin_url: str) -> AsyncIterator[None]:
    """As after a failover, when the address is still that of the one before."""
    name = urlsplit(url).path[1:]
    admin = await asyncpg.connect(admin_url)
    try:
        await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        await hang_up_on(admin, name)
        yield
        await admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        await hang_up_on(admin, name)
    finally:
        await admin.close()


async def hang_up_on(admin: "asyncpg.Connection[asyncpg.Record]", name: str) -> None:
    """End all other sessions of a database: a new setting is for new ones."""
    await admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = $1 AND pid <> pg_backend_pid()",
        name,
    )


async def test_a_postgres_that_is_read_only_for_a_while(
    reachable: Path, empty_database_url: str, servers: Embedded
) -> None:
    folder = reachable / "read-only"
    async with one_host(folder, empty_database_url, servers.redis_url) as (host, key):
        made = await warm_up(host, key)
        async with read_only(empty_database_url, servers.database_url):
            for _ in range(3):
                made += await calls(host, key)
                await asyncio.sleep(1.0)
            await until(lambda: host.said("calls do not reach the request log"), "it is told")
        made += await calls(host, key)
        await check_books(empty_database_url, made)


async def test_an_idle_account_while_postgres_is_read_only(
    reachable: Path, empty_database_url: str, servers: Embedded
) -> None:
    """It has the outage's advance, by the copy of its balance; beyond it nobody knows: 503."""
    advance_usd = f"{ADVANCE_CALLS * CALL_NANOS / 1e9}"
    environ = {"RELAY_BILLING__OUTAGE_USD": advance_usd}
    folder = reachable / "idle"
    found = one_host(folder, empty_database_url, servers.redis_url, environ, workers=1)
    async with found as (host, _):
        await host.apply(host.catalog_file.read_text() + IDLE)
        idle = (await host.api("keys", {"account": "idle", "name": "i"}))["key"]
        await settle(host, idle, 200)
        await until(lambda: len(copied(host.data_dir)) == 2, "its balance is copied", 30.0)
        async with read_only(empty_database_url, servers.database_url):
            answers = [await ask(host, idle) for _ in range(ADVANCE_CALLS + 2)]
            statuses = [answer.status for answer in answers]
            assert statuses == [200] * ADVANCE_CALLS + [503] * 2
            assert all("retry-after" in answer.headers for answer in answers[ADVANCE_CALLS:])

        async def serves() -> bool:
            return (await ask(host, idle)).status == 200

        await until_told(serves, "it is served again")
        await check_books(empty_database_url, ADVANCE_CALLS + 1)


def copied(data_dir: Path) -> dict[int, int]:
    """Return the balances that this host has a copy of."""
    path = balances.copy_path(data_dir)
    if not path.exists():
        return {}
    return msgspec.msgpack.decode(checked.read(path).content, type=dict[int, int])


async def test_a_postgres_without_a_connection_left(reachable: Path) -> None:
    async with (
        own_databases(reachable / "crowded") as databases,
        one_host(reachable / "crowded-host", databases.database_url, databases.redis_url) as found,
    ):
        host, key = found
        made = await warm_up(host, key)
        async with contextlib.AsyncExitStack() as crowd:
            admin = await crowd.enter_async_context(session(databases.database_url))
            await hang_up_on(admin, "relay")
            with contextlib.suppress(asyncpg.TooManyConnectionsError):
                while True:
                    await crowd.enter_async_context(session(databases.database_url))
            for _ in range(3):
                made += await calls(host, key)
                await asyncio.sleep(1.0)
        await check_books(databases.database_url, made)


@contextlib.asynccontextmanager
async def session(url: str) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
    """A connection that is closed behind the block."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def test_commits_whose_answer_is_lost(
    reachable: Path, empty_database_url: str, servers: Embedded
) -> None:
    """The first lease of an account is among them: its call is served all the same."""
    door = ForgetfulDoor(empty_database_url, {"relay credit": 4, "relay shipper": 4})
    async with (
        door.open() as url,
        one_host(reachable / "forgetful", url, servers.redis_url) as (host, key),
    ):
        made = 0
        door.forgetting = True
        while door.left.total():
            made += await calls(host, key, 5)
            await asyncio.sleep(0.2)
        made += await calls(host, key)
        assert host.said("credit is leased again")
        await until(lambda: host.said("shipping goes on"), "the batch was written again")
        await check_books(empty_database_url, made)


class ForgetfulDoor:
    """A way to Postgres that hangs up between a COMMIT that went through and its answer.

    `left`: how often it still does so to whom, by application. Only while it is `forgetting`.
    """

    def __init__(self, url: str, left: dict[str, int]) -> None:
        self._parts = urlsplit(url)
        self.left = Counter(left)
        self.forgetting = False

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """Serve while the block runs; yield the URL there."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=MIB)
        async with server:
            port = server.sockets[0].getsockname()[1]
            parts = self._parts
            yield f"{parts.scheme}://{parts.username}@127.0.0.1:{port}{parts.path}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        options = parse_qs(self._parts.query)
        path = f"{options['host'][0]}/.s.PGSQL.{options['port'][0]}"
        far_reader, far_writer = await asyncio.open_unix_connection(path)
        answers = asyncio.create_task(pump(far_reader, writer))
        who = ""
        try:
            while some := await reader.read(MIB):
                if found := APPLICATION.search(some):
                    who = found[1].decode()
                if self.forgetting and self.left[who] and COMMIT in some:
                    answers.cancel()  # from now on nothing goes back
                    await asyncio.gather(answers, return_exceptions=True)
                    far_writer.write(some)
                    assert await far_reader.read(1), "it has been committed"
                    self.left[who] -= 1
                    return
                far_writer.write(some)
                await far_writer.drain()
        except OSError:
            pass  # either side hung up
        finally:
            answers.cancel()
            await asyncio.gather(answers, return_exceptions=True)
            for side in (writer, far_writer):
                side.close()
