"""The relay's own Postgres and Valkey, for when none is configured: one command and it runs.

    DATA_DIR/run/embedded.lock    held while they run: one supervisor per data dir
    DATA_DIR/run/embedded.json    where they answer; relay.store.embedded.locate reads it
    DATA_DIR/log/                 what they say
    DATA_DIR/embedded             their files; relay.store.embedded.home says where that is

Instances with different data dirs do not know each other. The servers die with the supervisor;
where they could not, the next start stops them first. The data of the last run are kept.
"""

import fcntl
import os
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from relay.errors import ConfigError, DependencyDown
from relay.store.embedded.binaries import find_postgres, find_valkey
from relay.store.embedded.home import Home, leave, settle
from relay.store.embedded.locate import POSTGRES, VALKEY, ServerAddress, record_path
from relay.store.embedded.process import in_thread
from relay.store.embedded.servers import EmbeddedServer, PostgresServer, ValkeyServer


class Embedded:
    """The embedded servers of one data dir.

    Args:
        data_dir: Made if it is not there.
        postgres: Whether a Postgres is wanted; False where one is configured.
        valkey: Whether a Valkey is wanted.
        durable: False gives up the safety of the data for speed: for tests.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        postgres: bool = True,
        valkey: bool = True,
        durable: bool = True,
    ) -> None:
        self._data_dir = data_dir.absolute()
        self._postgres_wanted = postgres
        self._valkey_wanted = valkey
        self._durable = durable
        self._servers: list[EmbeddedServer] = []
        self._addresses: dict[str, ServerAddress] = {}
        self._home: Home | None = None
        self._lock: int | None = None

    @property
    def database_url(self) -> str:
        """Where Postgres answers; "" where it is not started."""
        return self._addresses[POSTGRES].url if POSTGRES in self._addresses else ""

    @property
    def redis_url(self) -> str:
        """Where Valkey answers; "" where it is not started."""
        return self._addresses[VALKEY].url if VALKEY in self._addresses else ""

    async def start(self, *, adopt: bool = False) -> None:
        """Start what is wanted: both are ready on return, or nothing of them runs.

        Args:
            adopt: Take those that an earlier program of this process has started.

        To be called from the main thread: the kernel ends the servers when the thread that started
        them ends.

        Raises:
            ConfigError: Another supervisor uses the data dir, or it cannot be used.
            DependencyDown: A server was not found or did not start.
        """
        assert self._lock is None, "started twice"
        self._lock = _lock(self._data_dir)
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self.stop)
            try:
                self._servers = await in_thread(self._choose)
                for server in self._servers:
                    if not (adopt and server.adopt()):
                        await server.start()
                self._publish()
            except OSError as error:
                path = error.filename or self._data_dir
                raise DependencyDown(
                    f"the embedded servers need {path}: {error.strerror}"
                ) from error
            undo.pop_all()

    async def revive(self) -> list[str]:
        """Start again what died on its own, at the same URL; return the names of what did.

        Raises:
            DependencyDown: It did not start; try again later.
        """
        dead = [server for server in self._servers if server.exited]
        for server in dead:
            await server.start()
        return [server.name for server in dead]

    async def stop(self) -> None:
        """Stop both cleanly, by force past their deadlines. May be called twice, or too early."""
        if self._lock is None:
            return
        record_path(self._data_dir).unlink(missing_ok=True)
        self._addresses = {}
        async with AsyncExitStack() as steps:
            steps.callback(self._unlock)
            if self._home is not None:
                steps.callback(leave, self._home)
            for server in self._servers:
                steps.push_async_callback(server.stop)

    def _choose(self) -> list[EmbeddedServer]:
        self._home = home = settle(self._data_dir)
        logs = self._data_dir / "log"
        logs.mkdir(exist_ok=True)
        servers: list[EmbeddedServer] = []
        if self._valkey_wanted:
            servers.append(ValkeyServer(home, find_valkey(home), logs / "valkey.log"))
        if self._postgres_wanted:
            programs = find_postgres(home)
            log = logs / "postgres.log"
            servers.append(PostgresServer(home, programs, log, durable=self._durable))
        return servers

    def _publish(self) -> None:
        """Say where the servers answer; the record appears whole."""
        self._addresses = {server.name: server.address for server in self._servers}
        record = record_path(self._data_dir)
        draft = record.with_suffix(".draft")
        draft.write_bytes(msgspec.json.encode(self._addresses))
        draft.replace(record)

    def _unlock(self) -> None:
        assert self._lock is not None
        os.close(self._lock)
        self._lock = None
        self._servers = []


def _lock(data_dir: Path) -> int:
    """Make the data dir ours; return the descriptor that keeps it so until it is closed."""
    path = data_dir / "run" / "embedded.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot use {data_dir}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ConfigError(
            f"another `relay serve` runs on {data_dir}: stop it, or choose another --data-dir"
        ) from error
    return descriptor
