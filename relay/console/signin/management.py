"""Management keys: a Bearer for /account/v1. No worker knows them, so they call no model."""

import datetime
from typing import Final

import asyncpg
import msgspec

from relay.console.queries.forms import format_moment
from relay.console.rows import FreshKey, KeyRow
from relay.console.signin import tokens
from relay.errors import Conflict, NotFound
from relay.store.catalog.keys import check_shown
from relay.store.postgres import Connection
from relay.store.secrets.vault import Pepper

KEYS_MAX: Final = 100
USED_EVERY_S: Final = 60

_FIND: Final = """
    SELECT management_keys.id, management_keys.name, account_id, accounts.name AS account,
        last_used_at IS NULL OR last_used_at < now() - make_interval(secs => $2) AS stale
    FROM management_keys JOIN accounts ON accounts.id = account_id
    WHERE digest = $1 AND management_keys.deleted_at IS NULL
        AND coalesce(expires_at > now(), true)
        AND NOT accounts.disabled AND accounts.deleted_at IS NULL"""


class Management(msgspec.Struct, frozen=True):
    """A key that was shown, and whose it is."""

    id: int
    name: str
    account_id: int
    account: str


async def make_key(
    connection: Connection,
    pepper: Pepper,
    account_id: int,
    name: str,
    expires_at: datetime.datetime | None = None,
) -> FreshKey:
    """Make a management key; it is told this once. Name "" = named by its last four characters.

    Raises:
        Conflict: CLIENT; there is one of that name, or there are too many.
    """
    key = tokens.mint_management()
    name = name or f"manage-{key[-4:]}"
    check_shown(name)
    try:
        key_id: int | None = await connection.fetchval(
            """INSERT INTO management_keys (account_id, name, digest, last4, expires_at)
            SELECT $1, $2, $3, $4, $5 WHERE (
                SELECT count(*) FROM management_keys WHERE account_id = $1 AND deleted_at IS NULL
            ) < $6 RETURNING id""",
            account_id,
            name,
            tokens.digest(pepper, key, "manage"),
            key[-4:],
            expires_at,
            KEYS_MAX,
        )
    except asyncpg.UniqueViolationError:
        raise Conflict("there is a management key of that name already") from None
    if key_id is None:
        raise Conflict(f"an account has at most {KEYS_MAX} management keys")
    return FreshKey(id=key_id, name=name, key=key)


async def find_key(connection: Connection, pepper: Pepper, key: str) -> Management | None:
    """Return whose key it is; None: nobody's."""
    digest = tokens.digest(pepper, key, "manage")
    row = await connection.fetchrow(_FIND, digest, USED_EVERY_S)
    if row is None:
        return None
    if row["stale"]:
        await connection.execute(
            "UPDATE management_keys SET last_used_at = now() WHERE id = $1", row["id"]
        )
    return Management(row["id"], row["name"], row["account_id"], row["account"])


async def list_keys(connection: Connection, account_id: int) -> list[KeyRow]:
    """Return an account's management keys."""
    rows = await connection.fetch(
        """SELECT *, coalesce(expires_at <= now(), false) AS expired FROM management_keys
        WHERE account_id = $1 AND deleted_at IS NULL ORDER BY id LIMIT $2""",
        account_id,
        KEYS_MAX,
    )
    return [
        KeyRow(
            id=row["id"],
            name=row["name"],
            last4=row["last4"],
            state="expired" if row["expired"] else "active",
            created_at=format_moment(row["created_at"]),
            expires_at=None if row["expires_at"] is None else format_moment(row["expires_at"]),
            models=None,
            networks=None,
            quota_usd=None,
            budgets=[],
            spent_usd="0",
            tpm=0,
            rpm=0,
            concurrency=0,
            last_used_at=None
            if row["last_used_at"] is None
            else format_moment(row["last_used_at"]),
            last_used_from=None,
        )
        for row in rows
    ]


async def delete_key(connection: Connection, account_id: int, key_id: int) -> str:
    """Delete a management key of an account; return its name.

    Raises:
        NotFound: CLIENT; there is none of that id there.
    """
    name: str | None = await connection.fetchval(
        """UPDATE management_keys SET deleted_at = now()
        WHERE id = $1 AND account_id = $2 AND deleted_at IS NULL RETURNING name""",
        key_id,
        account_id,
    )
    if name is None:
        raise NotFound("there is no such management key")
    return name
