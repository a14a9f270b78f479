"""The two embedded servers: what their command lines say, and when they are ready.

Both listen on a unix socket in a private folder and nowhere else, so neither needs a password.
Everything is set on the command line: a setting never comes from a file an earlier version wrote.
"""

import shutil
import signal
from pathlib import Path
from typing import Final, Protocol

from redis.asyncio import Redis
from redis.exceptions import RedisError

from relay.errors import ConfigError, DependencyDown
from relay.store import postgres
from relay.store.embedded.binaries import PostgresPrograms
from relay.store.embedded.home import Home, make_private
from relay.store.embedded.locate import POSTGRES, VALKEY, ServerAddress
from relay.store.embedded.process import ServerProcess, Step, in_thread, run

INITDB_S: Final = 60.0
POSTGRES_READY_S: Final = 120.0
"""Usually 0.1 s. After a crash it first replays its log, which max_wal_size bounds."""
VALKEY_READY_S: Final = 10.0

POSTGRES_STEPS: Final = (
    Step(signal.SIGINT, 20.0),  # fast shutdown: ends sessions, writes a checkpoint
    Step(signal.SIGQUIT, 5.0),  # immediate: recovers at the next start
    Step(signal.SIGKILL, 5.0),
)
VALKEY_STEPS: Final = (Step(signal.SIGTERM, 3.0), Step(signal.SIGKILL, 3.0))

POSTGRES_SETTINGS: Final = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    "shared_buffers": "128MB",
    "max_connections": "100",
    "synchronous_commit": "on",
    # No replica hangs on an embedded server, so its log need only serve recovery.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "jit": "off",  # Our queries are short; compiling them costs more than it saves.
    "timezone": "UTC",
    "log_timezone": "UTC",
    "cluster_name": "relay",
    # Nothing of a statement is logged: neither its text, nor its parameters, nor a row's values.
    "log_statement": "none",
    "log_min_error_statement": "panic",
    "log_parameter_max_length_on_error": "0",
    "log_error_verbosity": "terse",
    "log_checkpoints": "off",
}
UNSAFE_SETTINGS: Final = {"fsync": "off", "full_page_writes": "off"}

VALKEY_SETTINGS: Final = {
    "port": "0",
    "unixsocketperm": "700",
    "daemonize": "no",
    "dir": ".",
    # Leases and buckets are rebuilt from nothing, so nothing is written to disk.
    "save": "",
    "appendonly": "no",
    "hz": "1",  # its housekeeping; it wakes up ten times a second for that, unless it is told
    # A limiter must not forget a bucket under pressure: refuse the write instead.
    "maxmemory": "256mb",
    "maxmemory-policy": "noeviction",
}


class EmbeddedServer(Protocol):
    """What the supervisor knows of an embedded server."""

    name: str
    address: ServerAddress

    @property
    def exited(self) -> bool:
        """Whether it is not running."""

    def adopt(self) -> bool:
        """Take it as it runs, started by an earlier program of this process."""

    async def start(self) -> None:
        """Start it afresh, after stopping what an earlier supervisor left; ready on return."""

    async def stop(self) -> None:
        """Stop it within its deadlines."""


class PostgresServer:
    """Postgres with one database, `relay`, owned by the user of the same name.

    Args:
        home: Where it lives.
        programs: What is run.
        log: File its output is appended to.
        durable: False gives up the safety of the data for speed: for tests.
    """

    name = POSTGRES

    def __init__(self, home: Home, programs: PostgresPrograms, log: Path, *, durable: bool) -> None:
        self._folder = home.folder / "postgres"
        self._home = home
        self._programs = programs
        self._durable = durable
        self._process = ServerProcess(
            "postgres", self._folder, log, home.identity, steps=POSTGRES_STEPS
        )
        self.address = ServerAddress(self._url("relay"), f"{home.sockets}/.s.PGSQL.5432")

    @property
    def exited(self) -> bool:
        """Whether it is not running."""
        return self._process.exited

    def adopt(self) -> bool:
        """Take it as it runs; see EmbeddedServer."""
        return self._process.adopt()

    async def start(self) -> None:
        """Start it on the data of the last run, or on a new database; ready on return.

        Raises:
            ConfigError: The data are of another major version.
            DependencyDown: It did not start.
        """
        await self._process.stop()
        # No postgres lives here now, so a pid in these files is somebody else's by now; Postgres
        # would take that process for a running server and refuse to start.
        _remove(self._home.sockets, ".s.PGSQL.*")
        _remove(self._folder, "postmaster.pid")
        if not self._folder.exists():
            await in_thread(self._initialise)
        self._check_version()
        self._process.start(self._command())
        await self._process.wait_until(self._answers, wait_s=POSTGRES_READY_S)

    async def stop(self) -> None:
        """Shut down cleanly; by force past the deadline, and then it recovers at the next start."""
        await self._process.stop()

    def _url(self, database: str) -> str:
        return f"postgresql://relay@/{database}?host={self._home.sockets}&port=5432"

    def _command(self) -> list[str | Path]:
        settings = POSTGRES_SETTINGS | {"unix_socket_directories": str(self._home.sockets)}
        settings |= {} if self._durable else UNSAFE_SETTINGS
        program = self._programs.folder / "postgres"
        pairs = (["-c", f"{name}={value}"] for name, value in settings.items())
        return [program, "-D", self._folder, *(word for pair in pairs for word in pair)]

    def _initialise(self) -> None:
        """Make an empty cluster; it appears whole or not at all."""
        draft = self._folder.with_name("postgres-draft")
        command: list[str | Path] = [self._programs.folder / "initdb", "--pgdata", draft]
        command += ["--username=relay", "--auth-local=trust", "--auth-host=reject"]
        command += ["--encoding=UTF8", "--locale=C", "--data-checksums", "--no-instructions"]
        command += [] if self._durable else ["--no-sync"]
        shutil.rmtree(draft, ignore_errors=True)
        try:
            done = run(command, self._home.identity, wait_s=INITDB_S)
        except OSError as error:
            raise DependencyDown(f"initdb failed: {error}") from error
        if done.returncode != 0:
            words = done.stdout.decode(errors="replace").strip()
            raise DependencyDown(f"initdb failed: {words[-500:]}")
        draft.rename(self._folder)

    def _check_version(self) -> None:
        major = (self._folder / "PG_VERSION").read_text().strip()
        if major != str(self._programs.major):
            raise ConfigError(
                f"the database in {self._folder} was made by Postgres {major}, and this is "
                f"{self._programs.major}: install that version, or dump, remove and restore it"
            )

    async def _answers(self) -> bool:
        try:
            connection = await postgres.connect(self._url("postgres"))
        except DependencyDown:
            return False
        try:
            known = "SELECT true FROM pg_database WHERE datname = 'relay'"
            with postgres.border():
                if not await connection.fetchval(known):
                    await connection.execute("CREATE DATABASE relay")
        finally:
            await connection.close()
        return True


class ValkeyServer:
    """Valkey (or Redis) that keeps nothing on disk.

    Args:
        home: Where it lives.
        program: What is run.
        log: File its output is appended to.
    """

    name = VALKEY

    def __init__(self, home: Home, program: Path, log: Path) -> None:
        self._folder = home.folder / "valkey"
        self._home = home
        self._program = program
        self._process = ServerProcess(
            program.name, self._folder, log, home.identity, steps=VALKEY_STEPS
        )
        socket = f"{home.sockets}/valkey.sock"
        self.address = ServerAddress(f"unix://{socket}?db=0", socket)

    @property
    def exited(self) -> bool:
        """Whether it is not running."""
        return self._process.exited

    def adopt(self) -> bool:
        """Take it as it runs; see EmbeddedServer."""
        return self._process.adopt()

    async def start(self) -> None:
        """Start it empty; ready on return.

        Raises:
            DependencyDown: It did not start.
        """
        make_private(self._folder, self._home.identity)
        await self._process.stop()
        settings = VALKEY_SETTINGS | {"unixsocket": self.address.socket}
        pairs = ([f"--{name}", value] for name, value in settings.items())
        self._process.start([self._program, *(word for pair in pairs for word in pair)])
        await self._process.wait_until(self._answers, wait_s=VALKEY_READY_S)

    async def stop(self) -> None:
        """Stop it; what it held is forgotten."""
        await self._process.stop()

    async def _answers(self) -> bool:
        client = Redis.from_url(self.address.url)
        try:
            await client.ping()
        except RedisError:
            return False
        finally:
            await client.aclose()
        return True


def _remove(folder: Path, pattern: str) -> None:
    for path in folder.glob(pattern):
        path.unlink()
