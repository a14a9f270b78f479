"""Bring a database to the schema of this code: schema/NNNN_name.sql, each applied once, in order.

A file is one transaction and is never changed once it has been applied somewhere: its checksum is
kept in schema_migrations and compared at every start. Several processes may migrate at once; an
advisory lock makes them take turns. A file holds no BEGIN, COMMIT or CONCURRENTLY.

Releases run beside each other while hosts are upgraded, and go back where one does not serve. So
a file only adds (expand), and the release before runs on the newer schema. What takes something
away says so in its first line, `-- contract`: no start applies it, only `relay db migrate
--contract`, once no older release is left; such a database refuses those.
"""

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final, NamedTuple

from relay.errors import ConfigError
from relay.store.postgres import Connection, border

NUMBER_DIGITS: Final = 4
FILE_NAME: Final = re.compile(r"\d{4}_[a-z0-9_]+\.sql")
ADVISORY_LOCK: Final = 7_236_833_209
"""Any number, as long as it is the same for every relay and no other program's."""
CONTRACT: Final = "-- contract\n"
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
_RECORD_CONTRACTS: Final = """
ALTER TABLE schema_migrations ADD COLUMN IF NOT EXISTS contracts boolean NOT NULL DEFAULT false"""
# Older databases have no such column, and a role that only serves cannot make it.
_RECORDS: Final = """
SELECT name, sha256, coalesce((to_jsonb(schema_migrations) ->> 'contracts')::boolean, false)
    AS contracts
FROM schema_migrations"""


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
            these names.
        DependencyDown: Postgres broke off; what was applied so far stands.
    """
    return await apply_scripts(connection, read_scripts(), contract=contract)


async def apply_scripts(
    connection: Connection, scripts: Sequence[Migration], *, contract: bool = False
) -> list[str]:
    """Apply those of `scripts` that are missing; as `migrate`."""
    applied = []
    with border():
        while (name := await _apply_next(connection, scripts, contract=contract)) is not None:
            applied.append(name)
    return applied


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
        await connection.execute(
            f"SET LOCAL statement_timeout = '{SCRIPT_S:.0f}s'; SET LOCAL lock_timeout = '{LOCK_S}s'"
        )
        await connection.execute("SELECT pg_advisory_xact_lock($1)", ADVISORY_LOCK)
        # A role that only serves may not create tables, not even one that is there already.
        if await connection.fetchval("SELECT to_regclass('schema_migrations')") is None:
            await connection.execute(_RECORD_TABLE)
        missing = pending(scripts, *await read_records(connection), contract=contract)
        if not missing:
            return None
        script = missing[0]
        await connection.execute(_RECORD_CONTRACTS)
        await connection.execute(script.sql, timeout=SCRIPT_S)
        await connection.execute(
            "INSERT INTO schema_migrations (name, sha256, contracts) VALUES ($1, $2, $3)",
            script.name,
            script.sha256,
            script.contracts,
        )
    return script.name
