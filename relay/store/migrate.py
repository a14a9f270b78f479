"""Bring a database to the schema of this code: schema/NNNN_name.sql, each applied once, in order.

A file is one transaction and is never changed once it has been applied somewhere: its checksum is
kept in schema_migrations and compared at every start. Several processes may migrate at once; an
advisory lock makes them take turns. A file holds no BEGIN, COMMIT or CONCURRENTLY.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Final, NamedTuple

from relay.errors import ConfigError
from relay.store.postgres import Connection, border

FILE_NAME: Final = re.compile(r"\d{4}_[a-z0-9_]+\.sql")
ADVISORY_LOCK: Final = 7_236_833_209
"""Any number, as long as it is the same for every relay and no other program's."""
SCRIPT_S: Final = 600.0
"""What one file may take: an index over a long request log takes minutes."""
LOCK_S: Final = 30
"""What a statement waits for a table in use: behind it, everybody else would wait too."""

_RECORD_TABLE: Final = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    name text PRIMARY KEY,
    sha256 text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""


class Migration(NamedTuple):
    """One migration. `sha256`: of the file's bytes, in hex."""

    name: str
    sql: str
    sha256: str


async def migrate(connection: Connection) -> list[str]:
    """Apply what is missing; return the names of the files applied, in order.

    Raises:
        ConfigError: The database was migrated by newer code, or by other files of these names.
        DependencyDown: Postgres broke off; what was applied so far stands.
    """
    return await apply_scripts(connection, read_scripts())


async def apply_scripts(connection: Connection, scripts: Sequence[Migration]) -> list[str]:
    """Apply those of `scripts` that are missing; as `migrate`."""
    applied = []
    with border():
        while (name := await _apply_next(connection, scripts)) is not None:
            applied.append(name)
    return applied


def read_scripts() -> list[Migration]:
    """Return the migrations of this code in order.

    Raises:
        ConfigError: A file in the schema folder is not called NNNN_name.sql, or shares its number.
    """
    files = sorted((resources.files("relay.store") / "schema").iterdir(), key=lambda f: f.name)
    scripts = []
    for file in files:
        if FILE_NAME.fullmatch(file.name) is None:
            raise ConfigError(f"migration {file.name} is not called NNNN_name.sql")
        content = file.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        scripts.append(Migration(file.name, content.decode(), digest))
    return scripts


def pending(scripts: Sequence[Migration], recorded: Mapping[str, str]) -> list[Migration]:
    """Return the scripts that are still to be applied.

    Args:
        scripts: All of this code, in order.
        recorded: sha256 by name of those that the database has seen.

    Raises:
        ConfigError: The database has seen scripts that this code does not have, or has otherwise,
            or out of order.
    """
    unknown = recorded.keys() - {script.name for script in scripts}
    if unknown:
        raise ConfigError(
            f"the database is newer than this relay (it has {max(unknown)}): "
            "install the newer version"
        )
    for script in scripts:
        if recorded.get(script.name, script.sha256) != script.sha256:
            raise ConfigError(f"migration {script.name} was changed after it had been applied")
    missing = [script for script in scripts if script.name not in recorded]
    if missing and recorded and missing[0].name < max(recorded):
        raise ConfigError(
            f"migration {missing[0].name} is missing in the database, though {max(recorded)} "
            "was applied"
        )
    return missing


async def _apply_next(connection: Connection, scripts: Sequence[Migration]) -> str | None:
    """Apply the first missing script in a transaction of its own; return its name, None if none."""
    async with connection.transaction():
        await connection.execute(
            f"SET LOCAL statement_timeout = '{SCRIPT_S:.0f}s'; SET LOCAL lock_timeout = '{LOCK_S}s'"
        )
        await connection.execute("SELECT pg_advisory_xact_lock($1)", ADVISORY_LOCK)
        # A role that only serves may not create tables, not even one that is there already.
        if await connection.fetchval("SELECT to_regclass('schema_migrations')") is None:
            await connection.execute(_RECORD_TABLE)
        rows = await connection.fetch("SELECT name, sha256 FROM schema_migrations")
        missing = pending(scripts, {row["name"]: row["sha256"] for row in rows})
        if not missing:
            return None
        script = missing[0]
        await connection.execute(script.sql, timeout=SCRIPT_S)
        await connection.execute(
            "INSERT INTO schema_migrations (name, sha256) VALUES ($1, $2)",
            script.name,
            script.sha256,
        )
    return script.name
