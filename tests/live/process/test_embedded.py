"""The embedded servers start, stop and recover from every kind of kill. Method: real servers.

As root this covers the change of user too; as a plain user the same tests hold without one.
"""

import asyncio
import os
import shutil
import signal
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis

from relay import config
from relay.config import Config
from relay.errors import ConfigError, DependencyDown
from relay.store.embedded import locate
from relay.store.embedded.embedded import Embedded
from relay.store.embedded.process import LOG_BYTES_MAX, ServerProcess, Step
from relay.store.embedded.servers import POSTGRES_STEPS

pytestmark = pytest.mark.live

SUPERVISOR = """
import asyncio, sys
from pathlib import Path
from relay.store.embedded.embedded import Embedded

async def hold():
    embedded = Embedded(Path(sys.argv[1]), durable=False)
    await embedded.start()
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(hold())
"""


@pytest.fixture(scope="module")
def kept(reachable: Path) -> Path:
    """A data dir that most tests start on again, so that it is made only once."""
    return reachable / "kept"


@pytest.fixture
def fresh(reachable: Path, request: pytest.FixtureRequest) -> Path:
    """A data dir that is not there yet."""
    return reachable / f"fresh-{hash(request.node.nodeid)}"


@asynccontextmanager
async def running(data_dir: Path, *, postgres: bool = True) -> AsyncIterator[Embedded]:
    embedded = Embedded(data_dir, postgres=postgres, durable=False)
    await embedded.start()
    try:
        yield embedded
    finally:
        await embedded.stop()


async def ask(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def ping(url: str) -> bool:
    client = Redis.from_url(url)
    try:
        return bool(await client.ping())
    finally:
        await client.aclose()


def postmaster(data_dir: Path) -> int:
    return int((data_dir / "embedded/postgres/postmaster.pid").read_text().split()[0])


def alive(pid: int) -> bool:
    with suppress(OSError):
        return "Z" not in Path("/proc", str(pid), "stat").read_text().rpartition(")")[2]
    return False


def owner(pid: int) -> int:
    return Path("/proc", str(pid)).stat().st_uid


def environment(pid: int) -> set[str]:
    pairs = Path("/proc", str(pid), "environ").read_text().split("\0")
    return {pair.partition("=")[0] for pair in pairs if pair}


async def ended(pid: int) -> None:
    """Return when the process is dead; it need not be a child of ours."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    dead = asyncio.Event()
    asyncio.get_running_loop().add_reader(descriptor, dead.set)
    try:
        await dead.wait()
    finally:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)


async def test_both_answer_and_are_found_and_are_gone_after_the_stop(kept: Path) -> None:
    async with running(kept) as embedded:
        assert locate.database_url(Config(), kept) == embedded.database_url
        assert locate.redis_url(Config(), kept) == embedded.redis_url
        assert await ask(embedded.database_url, "SELECT current_database()") == "relay"
        assert await ping(embedded.redis_url)
        pid = postmaster(kept)
        assert owner(pid) != 0
        assert {log.name for log in (kept / "log").iterdir()} == {"postgres.log", "valkey.log"}
    assert not alive(pid)
    assert (embedded.database_url, embedded.redis_url) == ("", "")
    with pytest.raises(DependencyDown, match=r"relay serve.*\[database\] url"):
        locate.database_url(Config(), kept)
    await embedded.stop()  # A second stop has nothing to do.


async def test_no_secret_of_ours_is_in_their_environment(kept: Path) -> None:
    async with running(kept):
        assert environment(postmaster(kept)) == {"LC_ALL", "PATH"}


async def test_only_their_own_user_and_root_can_reach_them(kept: Path) -> None:
    async with running(kept) as embedded:
        home = (kept / "embedded").stat()
        assert stat.S_IMODE(home.st_mode) == 0o700
        assert await ask(embedded.database_url, "SHOW listen_addresses") == ""
        client = Redis.from_url(embedded.redis_url)
        assert (await client.config_get("port"))["port"] == "0"
        assert (await client.config_get("maxmemory-policy"))["maxmemory-policy"] == "noeviction"
        await client.aclose()


async def test_data_outlive_a_restart(kept: Path) -> None:
    async with running(kept) as embedded:
        await ask(embedded.database_url, "CREATE TABLE IF NOT EXISTS kept AS SELECT 7 AS seven")
    async with running(kept) as embedded:
        assert await ask(embedded.database_url, "SELECT seven FROM kept") == 7


async def test_a_second_supervisor_is_refused_and_the_first_goes_on(kept: Path) -> None:
    async with running(kept) as embedded:
        with pytest.raises(ConfigError, match="another"):
            await Embedded(kept).start()
        assert locate.database_url(Config(), kept)
        assert await ping(embedded.redis_url)


@pytest.mark.parametrize("turns", [0, 1, 10, 100, 1000])
async def test_a_cancelled_start_leaves_nothing(kept: Path, turns: int) -> None:
    """`turns` of the loop are given to the start, so that it is cut at different places."""
    embedded = Embedded(kept, durable=False)
    start = asyncio.create_task(embedded.start())
    for _ in range(turns):
        await asyncio.sleep(0)
    start.cancel()
    with suppress(asyncio.CancelledError):
        await start
    await embedded.stop()
    with pytest.raises(DependencyDown):
        locate.database_url(Config(), kept)
    async with running(kept) as embedded:
        assert await ping(embedded.redis_url)


async def test_a_killed_postgres_is_revived_with_its_data(kept: Path) -> None:
    async with running(kept) as embedded:
        await ask(embedded.database_url, "CREATE TABLE IF NOT EXISTS kept AS SELECT 7 AS seven")
        assert await embedded.revive() == []
        pid = postmaster(kept)
        os.kill(pid, signal.SIGKILL)
        await ended(pid)
        assert await embedded.revive() == ["postgres"]
        assert await ask(embedded.database_url, "SELECT seven FROM kept") == 7


@pytest.mark.parametrize("path", [os.environ["PATH"], "/nonexistent"], ids=["tied", "untied"])
async def test_a_start_after_the_supervisor_was_killed(kept: Path, path: str) -> None:
    """`untied`: without setpriv the servers survive it, and the start has to stop them."""
    supervisor = await start_supervisor(kept, {**os.environ, "PATH": path})
    pid = postmaster(kept)
    supervisor.kill()
    await supervisor.wait()
    async with running(kept) as embedded:
        assert not alive(pid)
        assert await ask(embedded.database_url, "SELECT 1") == 1


async def start_supervisor(
    data_dir: Path, environment: dict[str, str]
) -> asyncio.subprocess.Process:
    supervisor = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        SUPERVISOR,
        str(data_dir),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
    )
    assert supervisor.stdout is not None
    assert await supervisor.stdout.readline() == b"ready\n"
    return supervisor


async def test_the_servers_end_with_a_killed_supervisor(kept: Path) -> None:
    supervisor = await start_supervisor(kept, dict(os.environ))
    pid = postmaster(kept)
    supervisor.kill()
    await supervisor.wait()
    await ended(pid)
    with pytest.raises(DependencyDown):
        locate.database_url(Config(), kept)


async def test_pid_files_that_name_a_living_stranger_do_not_matter(kept: Path) -> None:
    async with running(kept):
        stranger = (kept / "embedded/postgres/postmaster.pid").read_text().split("\n")
    stranger[0] = str(os.getpid())
    (kept / "embedded/postgres/postmaster.pid").write_text("\n".join(stranger))
    (kept / "embedded/sockets/.s.PGSQL.5432.lock").write_text("\n".join(stranger))
    (kept / "embedded/sockets/.s.PGSQL.5432").touch()
    (kept / "embedded/sockets/valkey.sock").touch()
    async with running(kept) as embedded:
        assert await ask(embedded.database_url, "SELECT 1") == 1
        assert await ping(embedded.redis_url)


async def test_data_of_another_major_version_are_left_alone(kept: Path) -> None:
    async with running(kept):
        pass
    version = kept / "embedded/postgres/PG_VERSION"
    right = version.read_text()
    version.write_text("9\n")
    try:
        with pytest.raises(ConfigError, match="Postgres 9"):
            await Embedded(kept).start()
    finally:
        version.write_text(right)
    with pytest.raises(DependencyDown):  # Valkey had been started before, and is stopped again.
        locate.redis_url(Config(), kept)


async def test_below_a_closed_folder(tmp_path: Path) -> None:
    """Pytest makes tmp_path for one user; as root the servers' user cannot go there."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    link = closed / "var" / "embedded"
    try:
        async with running(closed / "var") as embedded:
            assert await ask(embedded.database_url, "SELECT 1") == 1
            assert link.is_symlink() == (os.geteuid() == 0)
            place = link.resolve()
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
        async with running(closed / "var", postgres=False) as embedded:
            assert await ping(embedded.redis_url)
            assert link.resolve() == place
    finally:
        shutil.rmtree(link.resolve())
    if link.is_symlink():
        with pytest.raises(ConfigError, match="gone"):
            await Embedded(closed / "var").start()


async def test_two_data_dirs_at_once_one_of_them_too_long_for_a_socket(fresh: Path) -> None:
    long = fresh / ("very " * 20 + "long")
    async with (
        running(fresh, postgres=False) as first,
        running(long, postgres=False) as second,
    ):
        assert await ping(first.redis_url)
        assert await ping(second.redis_url)
        assert first.database_url == ""
        with pytest.raises(DependencyDown):
            locate.database_url(Config(), long)
        sockets = Path(second.redis_url.removeprefix("unix://")).parent
        assert not sockets.is_relative_to(long)
    assert not sockets.exists()


@pytest.mark.parametrize("place", [".", "embedded"])
async def test_a_file_where_a_folder_should_be(fresh: Path, place: str) -> None:
    put_file(fresh / place)
    with pytest.raises(ConfigError, match="cannot use"):
        await Embedded(fresh).start()


def put_file(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("a file")


def test_configured_urls_win(fresh: Path) -> None:
    configured = Config(
        database=config.Database(url="postgresql://a/b"), redis=config.Redis(url="redis://c")
    )
    assert locate.database_url(configured, fresh) == "postgresql://a/b"
    assert locate.redis_url(configured, fresh) == "redis://c"


@pytest.mark.parametrize("record", [b"", b"{}", b'{"valkey": 7}', b'{"valkey": {"url": ""}}'])
def test_a_garbled_record_is_no_record(fresh: Path, record: bytes) -> None:
    path = locate.record_path(fresh)
    path.parent.mkdir(parents=True)
    path.write_bytes(record)
    with pytest.raises(DependencyDown):
        locate.redis_url(Config(), fresh)


def shell(folder: Path, *, wait_s: float) -> ServerProcess:
    """Return a shell in the place of a server; it can wait forever by reading the pipe `gate`."""
    os.mkfifo(folder / "gate")
    steps = (Step(signal.SIGTERM, wait_s), Step(signal.SIGKILL, 10.0))
    return ServerProcess("sh", folder.resolve(), folder / "log", None, steps=steps)


async def never() -> bool:
    return False


async def test_a_server_that_exits_is_reported_with_its_last_words(tmp_path: Path) -> None:
    process = shell(tmp_path, wait_s=10.0)
    process.start(["sh", "-c", "echo no room; echo; exit 3"])
    with pytest.raises(DependencyDown, match="no room"):
        await process.wait_until(never, wait_s=20.0)
    assert process.exited


async def test_a_server_that_is_never_ready_is_given_up(tmp_path: Path) -> None:
    process = shell(tmp_path, wait_s=10.0)
    process.start(["sh", "-c", "read line <gate"])
    with pytest.raises(DependencyDown, match="not ready in 0 s: it said nothing"):
        await process.wait_until(never, wait_s=0.02)
    await process.stop()
    assert process.exited


async def test_a_server_deaf_to_the_polite_signal_is_killed(tmp_path: Path) -> None:
    process = shell(tmp_path, wait_s=0.02)
    process.start(["sh", "-c", "trap '' TERM; echo deaf; read line <gate"])

    async def is_deaf() -> bool:
        return b"deaf" in (tmp_path / "log").read_bytes()

    await process.wait_until(is_deaf, wait_s=20.0)
    await process.stop()
    assert process.exited


async def test_a_server_that_cannot_be_executed(tmp_path: Path) -> None:
    process = ServerProcess("x", tmp_path / "nowhere", tmp_path / "log", None, steps=POSTGRES_STEPS)
    with pytest.raises(DependencyDown, match="cannot start x"):
        process.start(["x"])


async def test_a_long_log_is_put_aside(tmp_path: Path) -> None:
    process = shell(tmp_path, wait_s=10.0)
    with (tmp_path / "log").open("wb") as log:
        log.truncate(LOG_BYTES_MAX + 1)
    process.start(["sh", "-c", "exit 0"])
    await process.stop()
    assert (tmp_path / "log.1").stat().st_size == LOG_BYTES_MAX + 1
    assert (tmp_path / "log").stat().st_size == 0
