"""Goal: a Postgres that refuses to write, is full of others, or whose answer is lost costs nothing.

Method: a whole host; its Postgres is made read-only, or has no connection left, or stands behind a
door that hangs up between a COMMIT and its answer. Calls go on meanwhile; afterwards each is in the
log once, and the books are exact.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from relay.store import postgres
from relay.store.billing.audit import run_audit
from relay.store.embedded.embedded import Embedded
from tests.live.host_rig import Host, own_databases
from tests.live.one_host import one_host
from tests.live.relay_process import ask, until_told
from tests.live.two_hosts import MIB, pump

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(120)]

CALLS: Final = 20
COMMIT: Final = b"COMMIT"


async def calls(host: Host, key: str, count: int = CALLS) -> int:
    """Make calls that must succeed; return how many."""
    answers = [await ask(host, key) for _ in range(count)]
    assert {answer.status for answer in answers} == {200}
    return count


async def warm_up(host: Host, key: str) -> int:
    """Make calls until credit is leased ahead, as for any account in use; return how many."""
    made = 0
    for _ in range(4):
        made += await calls(host, key)
        await host.figures_published()
    return made


async def check_books(url: str, made: int) -> None:
    """Wait until each call is in the log; see that none is twice, and that the books are exact."""
    books = await postgres.connect(url)
    try:

        async def booked() -> bool:
            return int(await books.fetchval("SELECT count(*) FROM request_log")) >= made

        await until_told(booked, f"{made} calls are in the log", 40.0)
        assert await books.fetchval("SELECT count(*) FROM request_log") == made
        assert (await run_audit(books)).drifts == []
    finally:
        await books.close()


async def test_a_postgres_that_is_read_only_for_a_while(
    reachable: Path, empty_database_url: str, servers: Embedded
) -> None:
    """As after a failover, when the address is still that of the one before."""
    name = urlsplit(empty_database_url).path[1:]
    folder = reachable / "read-only"
    async with one_host(folder, empty_database_url, servers.redis_url) as (host, key):
        made = await warm_up(host, key)
        admin = await asyncpg.connect(servers.database_url)
        try:
            await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
            await hang_up_on(admin, name)
            for _ in range(3):
                made += await calls(host, key)
                await asyncio.sleep(1.0)
            await admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
            await hang_up_on(admin, name)
        finally:
            await admin.close()
        made += await calls(host, key)
        await check_books(empty_database_url, made)


async def test_a_postgres_without_a_connection_left(reachable: Path) -> None:
    async with (
        own_databases(reachable / "crowded") as databases,
        one_host(reachable / "crowded-host", databases.database_url, databases.redis_url) as found,
    ):
        host, key = found
        made = await warm_up(host, key)
        others = [await asyncpg.connect(databases.database_url)]
        await hang_up_on(others[0], "relay")
        with contextlib.suppress(asyncpg.PostgresError):
            while True:
                others.append(await asyncpg.connect(databases.database_url))
        for _ in range(3):
            made += await calls(host, key)
            await asyncio.sleep(1.0)
        for other in others:
            await other.close()
        await check_books(databases.database_url, made)


async def test_commits_whose_answer_is_lost(
    reachable: Path, empty_database_url: str, servers: Embedded
) -> None:
    door = ForgetfulDoor(empty_database_url)
    async with (
        door.open() as url,
        one_host(reachable / "forgetful", url, servers.redis_url) as (host, key),
    ):
        door.forgets = 6
        made = 0
        while door.forgets:
            made += await calls(host, key, 5)
            await asyncio.sleep(0.2)
        made += await calls(host, key)
        await check_books(empty_database_url, made)


class ForgetfulDoor:
    """A way to Postgres that hangs up when a COMMIT went through, as often as `forgets` says."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self.forgets = 0

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
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
        with contextlib.suppress(OSError):
            while some := await reader.read(MIB):
                if self.forgets and COMMIT in some:
                    self.forgets -= 1
                    answers.cancel()  # from now on nothing goes back
                    far_writer.write(some)
                    await far_reader.read(1)  # it has been committed
                    break
                far_writer.write(some)
                await far_writer.drain()
        answers.cancel()
        for side in (writer, far_writer):
            side.close()


async def hang_up_on(admin: "asyncpg.Connection[asyncpg.Record]", name: str) -> None:
    """End all other sessions of a database: a new setting is for new ones."""
    await admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = $1 AND pid <> pg_backend_pid()",
        name,
    )
