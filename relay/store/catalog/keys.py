"""API keys in Postgres: made, listed, switched off and on, deleted.

A key exists in full only in what `create_key` returns; the row holds its keyed digest.
"""

import datetime
import os
from collections.abc import Sequence
from typing import Final

import asyncpg
import msgspec

from relay.billing.budget import read_budgets
from relay.errors import BadRequest, ConfigError, NotFound
from relay.model import Allowance, Secret
from relay.store.billing.budget_leases import begin
from relay.store.catalog.canonical import check_name
from relay.store.postgres import Connection
from relay.store.secrets.vault import Pepper
from relay.wire import api_keys

_INSERT: Final = """
    INSERT INTO keys (account_id, name, digest, pepper_id, prefix, last4,
                      expires_at, models, networks, quota_nanos, tpm, rpm, concurrency, line_ids,
                      budgets)
    SELECT id, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, line_ids_of($14), $15
    FROM accounts WHERE name = $1 AND deleted_at IS NULL
    RETURNING id"""
_LIST: Final = """
    SELECT keys.*, accounts.name AS account, ARRAY(
        SELECT lines.name FROM unnest(line_ids) WITH ORDINALITY AS chosen (id, place)
        JOIN lines ON lines.id = chosen.id AND lines.deleted_at IS NULL ORDER BY place
    ) AS lines
    FROM keys JOIN accounts ON accounts.id = keys.account_id
    WHERE keys.deleted_at IS NULL AND ($1::text IS NULL OR accounts.name = $1)
    ORDER BY accounts.name, keys.id"""
# A name first: the end of a key, or `id:7`, counts only where no name is so. A bare number is never
# an id: it would lead to somebody else's key.
_FIND: Final = """
    WITH found AS (
        SELECT keys.*, accounts.name AS account, CASE
            WHEN keys.name = $1 OR accounts.name || '/' || keys.name = $1 THEN 0
            WHEN keys.last4 = $1 THEN 1 ELSE 2 END AS rank
        FROM keys JOIN accounts ON accounts.id = keys.account_id
        WHERE keys.deleted_at IS NULL
          AND (keys.name = $1 OR keys.last4 = $1 OR accounts.name || '/' || keys.name = $1
               OR 'id:' || keys.id = $1)
    )
    SELECT * FROM found WHERE rank = (SELECT min(rank) FROM found) ORDER BY id"""
_SWITCH: Final = "UPDATE keys SET disabled = $2 WHERE id = $1 AND deleted_at IS NULL"
_LIMIT: Final = """
    UPDATE keys SET tpm = COALESCE($2, tpm), rpm = COALESCE($3, rpm),
        concurrency = COALESCE($4, concurrency)
    WHERE id = $1 AND deleted_at IS NULL
    RETURNING tpm, rpm, concurrency"""
_LINES: Final = "SELECT name FROM lines WHERE name = ANY ($1::text[]) AND deleted_at IS NULL"
_BUDGETS: Final = """
    SELECT account_id, budgets FROM keys WHERE id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE"""
_ACCOUNT_BUDGETS: Final = """
    SELECT budgets FROM accounts WHERE id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE"""
_PEPPERS: Final = """
    SELECT pepper_id, count(*) AS keys FROM keys WHERE deleted_at IS NULL
    GROUP BY pepper_id ORDER BY keys DESC"""
_DELETE: Final = "UPDATE keys SET deleted_at = now() WHERE id = $1 AND deleted_at IS NULL"


class KeyMark(msgspec.Struct, frozen=True):
    """The digest of a key under the pepper `pepper_id`, and what may be shown of the key."""

    digest: bytes
    pepper_id: str
    prefix: str
    last4: str


def mark_key(pepper: Pepper, key: str) -> KeyMark:
    """Return the mark of a key, minted here or elsewhere (then nothing but its end is shown)."""
    prefix = api_keys.PREFIX if api_keys.is_well_formed(key) else ""
    return KeyMark(api_keys.digest(pepper.value, key), pepper.id, prefix, api_keys.last4(key))


async def check_pepper(connection: Connection, pepper: Pepper) -> None:
    """See that keys can be recognised: some were stored under this pepper, or there are none.

    Raises:
        ConfigError: All of them were stored under another one.
    """
    if await connection.fetchval("SELECT to_regclass('keys')") is None:
        return
    rows = await connection.fetch(_PEPPERS)
    if rows and pepper.id not in {row["pepper_id"] for row in rows}:
        raise ConfigError(
            f"secrets.pepper is {pepper.id}, and all keys were stored under pepper "
            f"{rows[0]['pepper_id']}: no key would be known. Every host needs the same pepper"
        )


class KeyTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What a key may do; None = no bound. `networks`: CIDRs. `quota_nanos`: nano-USD in all.

    `tpm`, `rpm`, `concurrency`: tokens and calls a minute, calls at once; 0 = no limit of its own.
    `lines`: names, the default first; None = all that the account may use. `budgets`: in canonical
    form (billing.budget).
    """

    expires_at: datetime.datetime | None = None
    models: list[str] | None = None
    networks: list[str] | None = None
    quota_nanos: int | None = None
    tpm: int = 0
    rpm: int = 0
    concurrency: int = 0
    lines: list[str] | None = None
    budgets: list[str] = []


class FreshKey(msgspec.Struct, frozen=True):
    """A key just made: the only time that anybody sees it."""

    id: int
    name: str
    key: Secret


async def create_key(
    connection: Connection, pepper: Pepper, account: str, name: str, terms: KeyTerms
) -> FreshKey:
    """Make a key for an account; name "" = named by its last four characters.

    Raises:
        NotFound: There is no such account.
        BadRequest: It has a key of that name.
    """
    key = api_keys.mint(os.urandom(api_keys.RANDOM_BYTES))
    mark = mark_key(pepper, key)
    name = name or f"key-{mark.last4}"
    key_id = await insert_key(connection, account, name, mark, terms)
    return FreshKey(key_id, name, Secret(key))


def check_shown(name: str) -> None:
    """Refuse a name that a log or a table could not show faithfully.

    Raises:
        BadRequest: CLIENT; it has such characters.
    """
    try:
        check_name(name)
    except ValueError as error:
        raise BadRequest(str(error), param="name") from None


async def insert_key(
    connection: Connection, account: str, name: str, mark: KeyMark, terms: KeyTerms
) -> int:
    """Store a key by its mark and return its id.

    Raises:
        NotFound: There is no such account.
        BadRequest: The name is in use or cannot be shown, or the key is stored already, or was.
    """
    check_shown(name)
    await check_lines(connection, terms.lines or ())
    try:
        key_id: int | None = await connection.fetchval(
            _INSERT,
            account,
            name,
            mark.digest,
            mark.pepper_id,
            mark.prefix,
            mark.last4,
            terms.expires_at,
            terms.models,
            terms.networks,
            terms.quota_nanos,
            terms.tpm,
            terms.rpm,
            terms.concurrency,
            terms.lines,
            terms.budgets,
        )
    except asyncpg.UniqueViolationError as error:
        if error.constraint_name == "keys_name":
            raise BadRequest(f"account {account!r} has a key named {name!r} already") from error
        raise BadRequest(
            f"key {account}/{name}: this key is stored under another name, or was deleted: "
            "make another one"
        ) from error
    if key_id is None:
        raise NotFound(f"there is no account {account!r}")
    return key_id


async def check_lines(connection: Connection, names: Sequence[str]) -> None:
    """Refuse names of lines that there are not.

    Raises:
        NotFound: There is no such line.
    """
    there = {row["name"] for row in await connection.fetch(_LINES, names)} if names else set()
    for name in names:
        if name not in there:
            raise NotFound(f"there is no line {name!r}")


async def list_keys(connection: Connection, account: str | None) -> list[asyncpg.Record]:
    """Return the rows of all keys, or of one account's, each with its `account` name."""
    return await connection.fetch(_LIST, account)


async def find_key(connection: Connection, wanted: str) -> asyncpg.Record:
    """Return the row of the one key meant by an id, a name, account/name or the last four.

    Raises:
        NotFound: It means no key.
        BadRequest: It means several; the message names them.
    """
    found: Sequence[asyncpg.Record] = await connection.fetch(_FIND, wanted)
    exact = [row for row in found if str(row["id"]) == wanted]
    if len(exact) == 1:
        return exact[0]
    if not found:
        raise NotFound(f"there is no key {wanted!r}")
    if len(found) > 1:
        named = ", ".join(f"{row['id']} ({row['account']}/{row['name']})" for row in found[:10])
        raise BadRequest(f"{wanted!r} means several keys, say which by id: {named}")
    return found[0]


async def set_disabled(connection: Connection, key_id: int, *, disabled: bool) -> None:
    """Switch a key off or on; every worker knows within a second."""
    await connection.execute(_SWITCH, key_id, disabled)


async def set_limits(
    connection: Connection,
    key_id: int,
    *,
    tpm: int | None,
    rpm: int | None,
    concurrency: int | None,
) -> Allowance:
    """Change a key's own limits, None = leave as it is; return what they are now."""
    row = await connection.fetchrow(_LIMIT, key_id, tpm, rpm, concurrency)
    if row is None:
        raise NotFound(f"there is no key {key_id}")
    return Allowance(tpm=row["tpm"], rpm=row["rpm"], concurrency=row["concurrency"])


async def set_key_budgets(connection: Connection, key_id: int, budgets: Sequence[str]) -> None:
    """Give a key other budgets; those it did not have begin with what the log holds of today.

    Args:
        connection: To the catalog, which is the log's too.
        key_id: Whose.
        budgets: In canonical form; none: it has none any more.

    Raises:
        NotFound: There is no such key.
    """
    async with connection.transaction():
        row = await connection.fetchrow(_BUDGETS, key_id)
        if row is None:
            raise NotFound(f"there is no key {key_id}")
        await connection.execute("UPDATE keys SET budgets = $2 WHERE id = $1", key_id, budgets)
        now, before = read_budgets(budgets), read_budgets(row["budgets"])
        await begin(connection, row["account_id"], key_id, now, before)


async def set_account_budgets(
    connection: Connection, account_id: int, budgets: Sequence[str]
) -> None:
    """Give an account other budgets; as set_key_budgets."""
    async with connection.transaction():
        row = await connection.fetchrow(_ACCOUNT_BUDGETS, account_id)
        if row is None:
            raise NotFound(f"there is no account {account_id}")
        await connection.execute(
            "UPDATE accounts SET budgets = $2 WHERE id = $1", account_id, budgets
        )
        now, before = read_budgets(budgets), read_budgets(row["budgets"])
        await begin(connection, account_id, None, now, before)


async def delete_key(connection: Connection, key_id: int) -> None:
    """Delete a key for good: it can never be stored again; the request log keeps its name."""
    await connection.execute(_DELETE, key_id)
