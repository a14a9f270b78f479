"""An account's keys: listed, made, changed, rotated. Every statement names the account as well."""

import datetime
from typing import Any, Final

import asyncpg
import msgspec

from relay.console.queries.forms import format_moment
from relay.console.rows import AddressRow, FreshKey, KeyRow
from relay.errors import BadRequest, NotFound
from relay.store.billing.budget_leases import carry_on
from relay.store.catalog import keys
from relay.store.catalog.keys import KeyTerms
from relay.store.log import addresses
from relay.store.postgres import Connection
from relay.store.secrets.vault import Pepper
from relay.units import format_usd

KEYS_SHOWN: Final = 1_000
ADDRESSES_SHOWN: Final = 200
NEW_DAYS: Final = 7
GRACE_HOURS_MAX: Final = 30 * 24

_LIST: Final = """
    SELECT keys.*, coalesce(expires_at <= now(), false) AS expired, host(place.ip) AS used_from,
        CASE WHEN line_ids IS NOT NULL THEN ARRAY(
            SELECT lines.name FROM unnest(line_ids) WITH ORDINALITY AS chosen (id, place)
            JOIN lines ON lines.id = chosen.id AND lines.deleted_at IS NULL ORDER BY place
        ) END AS lines
    FROM keys LEFT JOIN LATERAL (
        SELECT ip FROM key_addresses WHERE key_id = keys.id ORDER BY last_seen DESC LIMIT 1
    ) AS place ON true
    WHERE account_id = $1 AND deleted_at IS NULL AND ($2::bigint IS NULL OR keys.id = $2)
    ORDER BY keys.id LIMIT $3"""

# As relay.model.lines_of: the group's and those granted; one by invitation only where granted.
_USABLE: Final = """
    SELECT lines.name FROM accounts
    JOIN lines ON lines.deleted_at IS NULL
    LEFT JOIN group_lines ON group_lines.group_id = accounts.group_id
        AND group_lines.line_id = lines.id
    WHERE accounts.id = $1 AND (lines.id = ANY (granted_line_ids)
        OR (group_lines.line_id IS NOT NULL AND NOT by_invitation))
    ORDER BY position, array_position(granted_line_ids, lines.id)"""


async def list_lines(connection: Connection, account_id: int) -> list[str]:
    """Return the lines that an account may use, its default first."""
    return [row["name"] for row in await connection.fetch(_USABLE, account_id)]


async def check_lines(connection: Connection, account_id: int, names: list[str]) -> None:
    """Refuse lines that an account may not use: which others there are, it is not told.

    Raises:
        BadRequest: CLIENT; one of them is none of its.
    """
    usable = await list_lines(connection, account_id) if names else []
    for name in names:
        if name not in usable:
            raise BadRequest(f"lines: the account has no line {name!r}", param="lines")


async def set_lines(
    connection: Connection, account_id: int, key_id: int, names: list[str] | None
) -> KeyRow:
    """Choose the lines of a key, its default first; None: all that its account may use.

    Raises:
        NotFound: CLIENT; there is none of that id there.
        BadRequest: CLIENT; a line that the account may not use.
    """
    await find_key(connection, account_id, key_id)
    await check_lines(connection, account_id, names or [])
    await connection.execute(
        "UPDATE keys SET line_ids = line_ids_of($2) WHERE id = $1", key_id, names or None
    )
    return await find_key(connection, account_id, key_id)


async def list_keys(connection: Connection, account_id: int) -> list[KeyRow]:
    """Return an account's keys, the oldest first."""
    return [to_row(row) for row in await connection.fetch(_LIST, account_id, None, KEYS_SHOWN)]


async def find_key(connection: Connection, account_id: int, key_id: int) -> KeyRow:
    """Return a key of an account.

    Raises:
        NotFound: CLIENT; there is none of that id there.
    """
    row = await connection.fetchrow(_LIST, account_id, key_id, 1)
    if row is None:
        raise NotFound("there is no such key")
    return to_row(row)


async def make_key(
    connection: Connection, pepper: Pepper, account: str, name: str, terms: KeyTerms
) -> FreshKey:
    """Make a key; as `relay.store.catalog.keys.create_key`."""
    made = await keys.create_key(connection, pepper, account, name, terms)
    return FreshKey(id=made.id, name=made.name, key=made.key.reveal())


async def set_owner(connection: Connection, key_id: int, user_id: int | None) -> None:
    """Keep whose key it is: who is told when it is used from an unfamiliar address."""
    await connection.execute("UPDATE keys SET user_id = $2 WHERE id = $1", key_id, user_id)


async def set_disabled(
    connection: Connection, account_id: int, key_id: int, *, disabled: bool
) -> KeyRow:
    """Switch a key of an account off or on; every worker knows within a second.

    Raises:
        NotFound: CLIENT; there is none of that id there.
    """
    await find_key(connection, account_id, key_id)
    await keys.set_disabled(connection, key_id, disabled=disabled)
    return await find_key(connection, account_id, key_id)


async def delete_key(connection: Connection, account_id: int, key_id: int) -> KeyRow:
    """Delete a key of an account for good; the log keeps its name.

    Raises:
        NotFound: CLIENT; there is none of that id there.
    """
    row = await find_key(connection, account_id, key_id)
    await keys.delete_key(connection, key_id)
    return row


async def set_limits(
    connection: Connection,
    account_id: int,
    key_id: int,
    limits: dict[str, int | None],
    budgets: list[str] | None = None,
) -> KeyRow:
    """Change a key's own limits and budgets; None = leave as it is.

    Raises:
        NotFound: CLIENT; there is none of that id there.
    """
    await find_key(connection, account_id, key_id)
    await keys.set_limits(
        connection,
        key_id,
        tpm=limits.get("tpm"),
        rpm=limits.get("rpm"),
        concurrency=limits.get("concurrency"),
    )
    if budgets is not None:
        await keys.set_key_budgets(connection, key_id, budgets)
    return await find_key(connection, account_id, key_id)


async def rotate_key(
    connection: Connection,
    pepper: Pepper,
    account: tuple[int, str],
    key_id: int,
    *,
    grace: datetime.timedelta,
) -> FreshKey:
    """Make another key under a key's name and terms; the old one works for a grace time.

    Call it in a transaction. With no grace the old one is disabled at once.

    Raises:
        NotFound: CLIENT; there is no such key in this account.
        BadRequest: CLIENT; it was rotated before.
    """
    account_id, account_name = account
    old = await connection.fetchrow(
        """SELECT * FROM keys WHERE id = $1 AND account_id = $2 AND deleted_at IS NULL
        FOR NO KEY UPDATE""",
        key_id,
        account_id,
    )
    if old is None:
        raise NotFound("there is no such key")
    if old["replaced_by"] is not None:
        raise BadRequest("this key was rotated already: rotate the one that took its name")
    ends = datetime.datetime.now(datetime.UTC) + grace
    if old["expires_at"] is not None:
        ends = min(ends, old["expires_at"])
    await connection.execute(
        "UPDATE keys SET name = $2, expires_at = $3, disabled = disabled OR $4 WHERE id = $1",
        key_id,
        f"{old['name'][:100]} (until {ends:%Y-%m-%d %H:%M}, {old['last4']})",
        ends,
        not grace,
    )
    made = await keys.create_key(connection, pepper, account_name, old["name"], _terms(old))
    # By their ids: a line that is gone stays in the choice, which must not become wider by that.
    await connection.execute(
        "UPDATE keys SET line_ids = $2, user_id = $3 WHERE id = $1",
        made.id,
        old["line_ids"],
        old["user_id"],
    )
    await connection.execute("UPDATE keys SET replaced_by = $2 WHERE id = $1", key_id, made.id)
    await carry_on(connection, key_id, made.id)
    return FreshKey(
        id=made.id,
        name=made.name,
        key=made.key.reveal(),
        old_id=key_id,
        old_expires_at=format_moment(ends),
    )


def _terms(old: asyncpg.Record) -> KeyTerms:
    """Return what a key may do; its quota goes on where the old one's stands."""
    quota = old["quota_nanos"]
    networks = None if old["networks"] is None else [str(one) for one in old["networks"]]
    return KeyTerms(
        expires_at=old["expires_at"],
        models=old["models"],
        networks=networks,
        quota_nanos=None if quota is None else max(0, quota - old["spent_nanos"]),
        tpm=old["tpm"],
        rpm=old["rpm"],
        concurrency=old["concurrency"],
        budgets=list(old["budgets"]),
    )


async def list_addresses(connection: Connection, account_id: int, key_id: int) -> list[AddressRow]:
    """Return where a key of an account was used from, the newest place first.

    Raises:
        NotFound: CLIENT; there is none of that id there.
    """
    await find_key(connection, account_id, key_id)
    rows = await addresses.list_addresses(connection, key_id, ADDRESSES_SHOWN)
    return to_addresses(rows)


async def list_places(
    connection: Connection, account_id: int, since: datetime.datetime
) -> list[AddressRow]:
    """Return the places that an account's keys were used from since a moment, the newest first."""
    rows = await connection.fetch(
        """SELECT host(ip) || CASE family(ip) WHEN 6 THEN '/64' ELSE '' END AS address,
            min(first_seen) AS first_seen, max(last_seen) AS last_seen,
            sum(requests)::bigint AS requests
        FROM key_addresses JOIN keys ON keys.id = key_id
        WHERE account_id = $1 AND last_seen >= $2
        GROUP BY 1 ORDER BY 2 DESC LIMIT $3""",
        account_id,
        since,
        ADDRESSES_SHOWN,
    )
    return to_addresses([dict(row) for row in rows])


def to_addresses(rows: list[dict[str, Any]]) -> list[AddressRow]:
    """Return places with a mark on those that are new and not the first of all."""
    oldest = min((row["first_seen"] for row in rows), default=None)
    recent = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=NEW_DAYS)
    return [
        AddressRow(
            address=row["address"],
            first_seen=format_moment(row["first_seen"]),
            last_seen=format_moment(row["last_seen"]),
            requests=row["requests"],
            is_new=row["first_seen"] > recent and row["first_seen"] != oldest,
        )
        for row in rows
    ]


def to_row(row: asyncpg.Record) -> KeyRow:
    """Return a record as it is shown: nothing that could be used as a key."""
    quota = row["quota_nanos"]
    return msgspec.convert(
        {
            **{name: row[name] for name in ("id", "name", "last4", "models", "tpm", "rpm")},
            **{name: row[name] for name in ("concurrency", "lines")},
            "state": _state(row),
            "networks": None if row["networks"] is None else [str(one) for one in row["networks"]],
            "quota_usd": None if quota is None else format_usd(quota),
            "budgets": list(row["budgets"]),
            "spent_usd": format_usd(row["spent_nanos"]),
            **{name: _moment(row[name]) for name in ("created_at", "expires_at", "last_used_at")},
            "last_used_from": row["used_from"],
        },
        KeyRow,
    )


def _state(row: asyncpg.Record) -> str:
    if row["disabled"]:
        return "disabled"
    if row["expired"]:
        return "expired"
    return "retiring" if row["replaced_by"] is not None else "active"


def _moment(moment: datetime.datetime | None) -> str | None:
    return None if moment is None else format_moment(moment)
