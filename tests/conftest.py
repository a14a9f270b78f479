"""Fixtures of the whole suite: real servers once a session, a database of its own for each test.

The servers are the relay's own embedded ones, so what tests run on is what `relay serve` runs on.
Tests run on uvloop, as the relay does; RELAY_TEST_LOOP=asyncio runs them on the standard loop.
"""

import asyncio
import itertools
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from pathlib import Path

import asyncpg
import pytest
import uvloop
from redis.asyncio import Redis

from relay.store import postgres
from relay.store.embedded.embedded import Embedded
from relay.store.migrate import migrate

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}
os.environ.setdefault("RELAY_SERVER__CONSOLE", "")
"""Relays of tests run beside each other: only those of the console's own tests listen for it."""

TEMPLATE = "template_relay"
MEMORY = "/dev/shm"
MEMORY_BYTES_MIN = 1024 * 1024 * 1024

_numbers = itertools.count(1)


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Return the one loop that this run is about."""
    name = os.environ.get("RELAY_TEST_LOOP", "uvloop")
    return {name: LOOPS[name]}


@pytest.fixture(scope="session")
def reachable() -> Iterator[Path]:
    """A folder that the servers' user can reach, unlike pytest's tmp_path; removed at the end."""
    with tempfile.TemporaryDirectory(prefix="relay-tests-", dir=_fast_folder()) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="session")
def servers(reachable: Path) -> Iterator[Embedded]:
    """Postgres and Valkey of this session, started when the first test asks for one of them."""
    embedded = Embedded(reachable / "servers", durable=False)
    run(embedded.start())
    try:
        yield embedded
    finally:
        run(embedded.stop())


@pytest.fixture(scope="session")
def template(servers: Embedded) -> str:
    """Name of a database with the whole schema, from which each test's own is copied."""
    run(_make_template(servers.database_url))
    return TEMPLATE


def _fast_folder() -> str | None:
    """Return the folder in memory, where copying a database is ten times faster; None if unfit."""
    try:
        found = os.statvfs(MEMORY)
    except OSError:
        return None
    roomy = found.f_bavail * found.f_frsize > MEMORY_BYTES_MIN
    # A copy of the servers' programs may have to go there too.
    fit = roomy and not found.f_flag & os.ST_NOEXEC and os.access(MEMORY, os.W_OK)
    return MEMORY if fit else None


def run(work: Coroutine[None, None, None]) -> None:
    """Run fixture work of the session outside of any test's loop."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(work)


async def _make_template(url: str) -> None:
    await _administer(url, f"CREATE DATABASE {TEMPLATE}")
    connection = await postgres.connect(sibling(url, TEMPLATE))
    try:
        await migrate(connection)
    finally:
        await connection.close()


async def _administer(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def sibling(url: str, database: str) -> str:
    """Return the URL of another database of the same server."""
    return url.replace("@/relay?", f"@/{database}?")


@pytest.fixture
async def database_url(servers: Embedded, template: str) -> AsyncIterator[str]:
    """URL of a fresh database with the whole schema, dropped after the test."""
    name = f"test_{next(_numbers)}"
    await _administer(
        servers.database_url, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy"
    )
    yield sibling(servers.database_url, name)
    await _administer(servers.database_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def empty_database_url(servers: Embedded) -> AsyncIterator[str]:
    """URL of a fresh database without any table, dropped after the test."""
    name = f"test_{next(_numbers)}"
    await _administer(servers.database_url, f"CREATE DATABASE {name}")
    yield sibling(servers.database_url, name)
    await _administer(servers.database_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def redis_url(servers: Embedded) -> str:
    """URL of a Valkey that is empty when the test begins."""
    client = Redis.from_url(servers.redis_url)
    try:
        await client.flushall()
    finally:
        await client.aclose()
    return servers.redis_url
