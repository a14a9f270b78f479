"""Bring a database to the schema of this code: schema/NNNN_name.sql, each applied once, in order.

A file is one transaction and is never changed once it has been applied somewhere: its checksum is
kept in schema_migrations and compared at every start. Several processes may migrate at once; an
advisory lock makes them take turns. A file holds no BEGIN, COMMIT or CONCURRENTLY.

Releases run beside each other while hosts are upgraded, and go back where one does not serve. So
a file only adds (expand), and the release before runs on the newer schema. What takes something
away says so in its first line, `-- contract`: no start applies it, only `relay db migrate
--contract`, once no older release is left; such a database refuses those.
"""

import asyncio
import functools
import hashlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final, NamedTuple

import asyncpg

from relay.backoff import Backoff
from relay.errors import ConfigError, DependencyDown
from relay.store.postgres import DOWN, Connection, border, connect

NUMBER_DIGITS: Final = 4
FILE_NAME: Final = re.compile(r"\d{4}_[a-z0-9_]+\.sql")
ADVISORY_LOCK: Final = 7_236_833_209
"""Any number, as long as it is the same for every relay and no other program's."""
CONTRACT: Final = "-- contract\n"
SCRIPT_S: Final = 600.0
"""What one file may take: an index over a long request log takes minutes."""
LOCK_S: Final = 3
"""What a statement waits for a table in use: behind it, everybody else waits too."""
LOCK_TRIES: Final = 10
"""So often a file is tried while a table of its is in use."""
PAUSE_S: Final = 1.0
"""Before the second try; longer before each that follows."""
PAUSE_S_MAX: Final = 5.0
QUOTES_ROWS: Final = ("22", "23")
"""Classes of SQLSTATE whose messages quote what is in the tables."""

_RECORD_TABLE: Final = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    name text PRIMARY KEY,
    sha256 text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""
_RECORD_CONTRACTS: Final = """
ALTER TABLE schema_migrations ADD COLUMN IF NOT EXISTS contracts boolean NOT NULL DEFAULT false"""
# Older databases have no such column, and a role that only serves cannot make it.
_RECORDS: Final = """
SELECT name, sha256, coalesce((to_jsonb(schema_migrations) ->> 'contracts')::boolean, false)
    AS contracts
FROM schema_migrations"""


class MigrationDelayed(DependencyDown):
    """A migration could not be applied for now: tables are in use, or it takes too long."""


class Migration(NamedTuple):
    """One migration. `sha256`: of the file's bytes, in hex."""

    name: str
    sql: str
    sha256: str

    @property
    def contracts(self) -> bool:
        """Whether it takes away what the release before needs."""
        return self.sql.startswith(CONTRACT)


async def migrate(connection: Connection, *, contract: bool = False) -> list[str]:
    """Apply what is missing; return the names of the files applied, in order.

    Args:
        connection: As the owner of the tables, where something is missing.
        contract: Also what the release before cannot live with.

    Raises:
        ConfigError: The database has lost what this code needs, or was migrated by other files of
            these names; or Postgres refuses a file.
        MigrationDelayed: Tables are in use, or a file takes too long.
        DependencyDown: Postgres broke off. In any case what was applied so far stands.
    """
    return await apply_scripts(connection, read_scripts(), contract=contract)


async def apply_scripts(
    connection: Connection, scripts: Sequence[Migration], *, contract: bool = False
) -> list[str]:
    """Apply those of `scripts` that are missing; as `migrate`."""
    applied: list[str] = []
    waiting = Backoff(first_s=PAUSE_S, most_s=PAUSE_S_MAX)
    with border():
        while True:
            try:
                name = await _apply_next(connection, scripts, contract=contract)
            except _TableInUse as error:
                waiting.fail()
                if waiting.failures >= LOCK_TRIES:
                    raise MigrationDelayed(
                        f"migration {error} waits for a table that others use: it was tried "
                        f"{LOCK_TRIES} times"
                    ) from error.__cause__
                await asyncio.sleep(waiting.wait_s())
                continue
            if name is None:
                return applied
            applied.append(name)
            waiting.succeed()


def read_scripts(folder: Traversable | None = None) -> list[Migration]:
    """Return the migrations of this code in order.

    Args:
        folder: Where they are, None: in this package.

    Raises:
        ConfigError: A file in the schema folder is not called NNNN_name.sql, or shares its number.
    """
    folder = folder or resources.files("relay.store") / "schema"
    files = sorted(folder.iterdir(), key=lambda f: f.name)
    scripts: list[Migration] = []
    for file in files:
        if FILE_NAME.fullmatch(file.name) is None:
            raise ConfigError(f"migration {file.name} is not called NNNN_name.sql")
        content = file.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if scripts and scripts[-1].name[:NUMBER_DIGITS] == file.name[:NUMBER_DIGITS]:
            raise ConfigError(f"migrations {scripts[-1].name} and {file.name} share a number")
        scripts.append(Migration(file.name, content.decode(), digest))
    return scripts


@functools.cache
def _scripts() -> tuple[Migration, ...]:
    return tuple(read_scripts())


async def connect_migrated(url: str, *, application: str) -> Connection:
    """Return a connection, as `connect`, to a database that has all that this code reads.

    A start that finds tables in use serves on while it migrates (`launch`); until then a database
    counts as away, for a row without a column of ours would be taken for a mistake of ours.

    Raises:
        DependencyDown: Postgres cannot be reached, or its schema is still to be migrated.
        ConfigError: Postgres refused the login, or the database has lost what this code needs.
    """
    connection = await connect(url, application=application)
    try:
        with border():
            missing = pending(_scripts(), *await read_records(connection))
    except BaseException:
        connection.terminate()
        raise
    if missing:
        connection.terminate()
        raise DependencyDown(f"the schema of the database is still without {missing[0].name}")
    return connection


async def check_schema(connection: Connection) -> None:
    """See whether this code could migrate the database and run on it; change nothing.

    Raises:
        ConfigError: As `migrate`.
    """
    with border():
        pending(read_scripts(), *await read_records(connection))


def pending(
    scripts: Sequence[Migration],
    recorded: Mapping[str, str],
    contracted: Collection[str] = (),
    *,
    contract: bool = False,
) -> list[Migration]:
    """Return the scripts that are still to be applied.

    Args:
        scripts: All of this code, in order.
        recorded: sha256 by name of those that the database has seen.
        contracted: Names of those that took something away.
        contract: Whether those that take something away are to be applied.

    Raises:
        ConfigError: The database has seen scripts that take away what this code may need, or has
            seen its scripts otherwise, or out of order.
    """
    lost = set(contracted) - {script.name for script in scripts}
    if lost:
        raise ConfigError(
            f"the database has dropped what this relay needs (by {max(lost)}): "
            "install the newer version"
        )
    for script in scripts:
        if recorded.get(script.name, script.sha256) != script.sha256:
            raise ConfigError(f"migration {script.name} was changed after it had been applied")
    missing = [
        script
        for script in scripts
        if script.name not in recorded and (contract or not script.contracts)
    ]
    applied = recorded.keys() - set(contracted)
    if missing and applied and not missing[0].contracts and missing[0].name < max(applied):
        raise ConfigError(
            f"migration {missing[0].name} is missing in the database, though {max(applied)} "
            "was applied"
        )
    return missing


async def read_records(connection: Connection) -> tuple[dict[str, str], list[str]]:
    """Return sha256 by name of what was applied, and the names of what took something away."""
    if await connection.fetchval("SELECT to_regclass('schema_migrations')") is None:
        return {}, []
    rows = await connection.fetch(_RECORDS)
    return (
        {row["name"]: row["sha256"] for row in rows},
        [row["name"] for row in rows if row["contracts"]],
    )


async def _apply_next(
    connection: Connection, scripts: Sequence[Migration], *, contract: bool
) -> str | None:
    """Apply the first missing script in a transaction of its own; return its name, None if none."""
    async with connection.transaction():
        # Another host that migrates is waited for; it may be making a large index.
        await connection.execute(f"SET LOCAL statement_timeout = '{SCRIPT_S:.0f}s'")
        with _told("of another host"):
            await connection.execute(
                "SELECT pg_advisory_xact_lock($1)", ADVISORY_LOCK, timeout=SCRIPT_S
            )
        # A role that only serves may not create tables, not even one that is there already.
        if await connection.fetchval("SELECT to_regclass('schema_migrations')") is None:
            await connection.execute(_RECORD_TABLE)
        missing = pending(scripts, *await read_records(connection), contract=contract)
        if not missing:
            return None
        script = missing[0]
        await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_S}s'")
        with _told(script.name):
            await connection.execute(_RECORD_CONTRACTS)
            await connection.execute(script.sql, timeout=SCRIPT_S)
        await connection.execute(
            "INSERT INTO schema_migrations (name, sha256, contracts) VALUES ($1, $2, $3)",
            script.name,
            script.sha256,
            script.contracts,
        )
    return script.name


class _TableInUse(Exception):
    """A file has to be tried again; its name."""


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Say which migration failed, and why, without a word of what is in the tables."""
    try:
        yield
    except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
        raise _TableInUse(name) from error
    except (asyncpg.QueryCanceledError, TimeoutError) as error:
        raise MigrationDelayed(f"migration {name} did not end within {SCRIPT_S:.0f} s") from error
    except asyncpg.PostgresError as error:
        if isinstance(error, DOWN):
            raise
        quotes = (error.sqlstate or "").startswith(QUOTES_ROWS)
        words = "" if quotes else f": {error}"
        raise ConfigError(f"migration {name} failed ({type(error).__name__}{words})") from error
