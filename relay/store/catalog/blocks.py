"""The blocklist and the allow-list in Postgres: entries are added, removed and explained."""

import datetime
from collections.abc import Sequence
from typing import Any, Final

import asyncpg

from relay.errors import BadRequest, NotFound
from relay.model import Block
from relay.store.postgres import Connection

Row = dict[str, Any]

BLOCKS_MAX: Final = 100_000
"""Entries in force: each worker holds them all."""

# Who asks looks at the hour by a clock of its own, as workers do at each call: one of Postgres that
# is ahead must not let in who is kept out. What it counts as over for a day is over by any.
_STANDS: Final = """
    removed_at IS NULL AND (expires_at IS NULL OR expires_at > now() - interval '1 day')"""
OPEN: Final = f"SELECT * FROM blocks WHERE {_STANDS} ORDER BY id"  # noqa: S608  (of this module)
_ADD: Final = f"""
    INSERT INTO blocks (network, path, allow, reason, actor, expires_at)
    SELECT $1, $2, $3, $4, $5, $6
    WHERE (SELECT count(*) FROM blocks WHERE {_STANDS}) < $7
    RETURNING *"""  # noqa: S608
_REMOVE: Final = """
    UPDATE blocks SET removed_at = now(), removed_by = $2 WHERE id = $1 AND removed_at IS NULL
    RETURNING *"""
_COVERING: Final = f"""
    SELECT * FROM blocks WHERE {_STANDS} AND (network IS NULL OR network >>= $1)
    ORDER BY allow DESC, masklen(network) DESC NULLS LAST, id"""  # noqa: S608


async def add_block(  # noqa: PLR0913 - a column a line
    connection: Connection,
    *,
    network: str | None,
    path: str,
    allow: bool,
    reason: str,
    actor: str,
    expires_at: datetime.datetime | None,
) -> Row:
    """Add an entry; every worker goes by it within a second.

    Args:
        connection: To the catalog.
        network: CIDR, None = any address.
        path: How paths begin that it is about, "" = any.
        allow: Let in, in place of refused.
        reason: Why, for whoever looks its code up.
        actor: Who says so.
        expires_at: Until when.

    Raises:
        BadRequest: CLIENT; it says nothing, or there are too many.
    """
    if network is None and not path:
        raise BadRequest("name a network, a path, or both")
    if path and not path.startswith("/"):
        raise BadRequest("a path begins with /")
    row = await connection.fetchrow(
        _ADD, network, path, allow, reason, actor, expires_at, BLOCKS_MAX
    )
    if row is None:
        raise BadRequest(f"there are {BLOCKS_MAX} entries already: name larger networks")
    return to_row(row)


async def list_blocks(connection: Connection) -> list[Row]:
    """Return the entries in force."""
    return _in_force(await connection.fetch(OPEN))


async def remove_block(connection: Connection, block_id: int, actor: str) -> Row:
    """End an entry; every worker knows within a second.

    Raises:
        NotFound: CLIENT; there is none of that id in force.
    """
    row = await connection.fetchrow(_REMOVE, block_id, actor)
    if row is None:
        raise NotFound(f"there is no entry B-{block_id} in force")
    return to_row(row)


async def find_block(connection: Connection, block_id: int) -> Row:
    """Return an entry, whether in force or not.

    Raises:
        NotFound: CLIENT; there never was one of that id.
    """
    row = await connection.fetchrow("SELECT * FROM blocks WHERE id = $1", block_id)
    if row is None:
        raise NotFound(f"there never was an entry B-{block_id}")
    return to_row(row)


async def find_covering(connection: Connection, network: str) -> list[Row]:
    """Return the entries in force that an address or network is in."""
    return _in_force(await connection.fetch(_COVERING, network))


def _in_force(rows: Sequence[asyncpg.Record]) -> list[Row]:
    now = datetime.datetime.now(datetime.UTC)
    return [to_row(row) for row in rows if row["expires_at"] is None or row["expires_at"] > now]


def read_block(row: asyncpg.Record) -> Block:
    """Return the block that a row describes."""
    expires_at = row["expires_at"]
    return Block(
        id=row["id"],
        network=row["network"],
        path=row["path"],
        allow=row["allow"],
        expires_s=None if expires_at is None else int(expires_at.timestamp()),
    )


def to_row(row: asyncpg.Record) -> Row:
    """Return an entry as it is shown."""
    return {
        "code": f"B-{row['id']}",
        "does": "allow" if row["allow"] else "block",
        "network": None if row["network"] is None else str(row["network"]),
        "path": row["path"] or None,
        "reason": row["reason"],
        "actor": row["actor"],
        "created_at": row["created_at"],
        "expires_at": row["expires_at"],
        "removed_at": row["removed_at"],
        "removed_by": row["removed_by"] or None,
    }
