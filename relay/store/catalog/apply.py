"""`relay apply`: makes a declaration hold in Postgres, in one transaction.

Two applies at once take turns (advisory lock), and a second apply of a file changes nothing.
"""

from collections.abc import Mapping
from typing import Final

from relay.errors import ClientError, ConfigError, Conflict
from relay.model import Secret
from relay.reach import DOCUMENTS, Auth
from relay.store.catalog.channel_entry import ChannelEntry, key_name
from relay.store.catalog.declaration import Declaration, KeyEntry
from relay.store.catalog.keys import KeyMark, mark_key
from relay.store.catalog.plan import (
    Catalog,
    CatalogChange,
    Credentials,
    compare,
    digest_of,
    identity,
)
from relay.store.catalog.read import read_catalog
from relay.store.catalog.sale.official import check_ceiling
from relay.store.catalog.write import Writer
from relay.store.postgres import Connection
from relay.store.secrets.refs import resolve
from relay.store.secrets.vault import Pepper, Vault
from relay.wire.kinds.oauth import parse_account
from relay.wire.kinds.sigv4 import parse_key

KEY_CHARS_MIN: Final = 8
"""A declared key was made elsewhere; one shorter than this could be guessed."""

LOCK: Final = 0x72656C6179  # "relay" in ASCII: a number that no other user of the database takes.


def resolve_credentials(
    declaration: Declaration, environ: Mapping[str, str], pepper: Pepper
) -> Catalog:
    """Return the declaration with what its secret references stand for.

    Raises:
        ConfigError: A reference leads nowhere, or to what cannot be a key.
    """
    found: Credentials = {}
    for at, channel in enumerate(declaration.channel):
        for number, reference in enumerate(channel.references, start=1):
            path = f"$.channel[{at}].api_key"
            document = channel.auth in DOCUMENTS
            api_key = resolve(reference, environ, path=path, optional=True, document=document)
            if document and api_key.reveal():
                _check_document(channel, api_key, path)
            found["channel", (key_name(channel.name, number),)] = api_key
    for at, key in enumerate(declaration.key):
        found["key", identity(key)] = _mark(key, environ, pepper, path=f"$.key[{at}].key")
    return Catalog(declaration, found)


async def apply(  # noqa: PLR0913 - what is applied, and under which rules
    connection: Connection,
    wanted: Catalog,
    vault: Vault,
    *,
    prune: bool,
    dry_run: bool,
    ceiling: str = "",
    seen: str | None = None,
) -> list[CatalogChange]:
    """Make a declared catalog hold and return what that changed (or would change).

    Args:
        connection: Outside of any transaction.
        wanted: From `resolve_credentials`.
        vault: Opens and seals the channels' credentials.
        prune: Whether entries that the file does not mention go (see `plan.compare`).
        dry_run: Whether to leave the database as it is.
        ceiling: How many times an official price may be asked; "" = as often as one likes.
        seen: The digest of the changes that somebody was shown and wants; None = whatever they are.

    Raises:
        Conflict: CLIENT; they are others by now; nothing was changed.
        ConfigError: What is declared cannot hold; nothing was changed.
        DependencyDown: Postgres did not answer; nothing was changed.
    """
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
        present = await read_catalog(connection, vault)
        changes = compare(present, wanted, prune=prune)
        if seen is not None and seen != digest_of(changes):
            raise Conflict("The catalog has changed since this was shown: look again")
        if ceiling:
            await check_ceiling(connection, present.entries, wanted.entries, ceiling)
        if not dry_run:
            writer = Writer(connection, vault, wanted.credentials)
            for change in changes:
                await _write(writer, change)
    return changes


async def _write(writer: Writer, change: CatalogChange) -> None:
    try:
        await writer.write(change)
    except ClientError as error:
        raise ConfigError(error.message) from error


def _check_document(channel: ChannelEntry, credential: Secret, path: str) -> None:
    try:
        if channel.auth is Auth.AWS:
            parse_key(credential.reveal(), channel.base_url)
        else:
            parse_account(channel.auth, credential.reveal())
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def _mark(key: KeyEntry, environ: Mapping[str, str], pepper: Pepper, *, path: str) -> KeyMark:
    found = resolve(key.key, environ, path=path).reveal()
    if len(found) < KEY_CHARS_MIN or " " in found:
        raise ConfigError(f"{path}: a key is {KEY_CHARS_MIN} characters or more, no space in it")
    return mark_key(pepper, found)
