"""Goal: a master key is changed without a call that fails, and the one before can be thrown away.

Method: a catalog with two credentials of a channel, a minted token, a second factor and a webhook,
sealed under one key; a night under the next one; then all of it is opened without the first.
"""

import datetime

import pytest

from relay.control.night.rewrap import Rewrap
from relay.control.night.shapes import Turn
from relay.model import Secret
from relay.store import postgres
from relay.store.postgres import Connection
from relay.store.secrets.vault import (
    Vault,
    channel_owner,
    token_owner,
    totp_owner,
    webhook_owner,
)

pytestmark = pytest.mark.live

OLD, NEW = bytes(range(32)), bytes(range(32, 64))
NOW = datetime.datetime(2026, 7, 1, tzinfo=datetime.UTC)
CHANNEL = """
    INSERT INTO channels (name, base_url, models, api_key_sealed, token_sealed)
    VALUES ($1, 'https://up.example/v1', '{"m": "m"}', $2, $3)"""


async def fill(books: Connection, vault: Vault) -> tuple[int, int]:
    """Seal one secret of each kind; return the ids of an account and of a user."""
    for name in ("up", "up#2"):
        await books.execute(
            CHANNEL,
            name,
            vault.seal(Secret(f"key of {name}"), channel_owner(name)),
            vault.seal(Secret(f"token of {name}"), token_owner(name)),
        )
    group = await books.fetchval("INSERT INTO groups (name) VALUES ('g') RETURNING id")
    account: int = await books.fetchval(
        "INSERT INTO accounts (name, group_id) VALUES ('a', $1) RETURNING id", group
    )
    user: int = await books.fetchval(
        "INSERT INTO users (email, role) VALUES ('op@example.org', 'operator') RETURNING id"
    )
    sealed = vault.seal(Secret("factor"), totp_owner(user))
    await books.execute("UPDATE users SET totp_sealed = $1", sealed)
    sealed = vault.seal(Secret("https://hook"), webhook_owner(account))
    await books.execute("INSERT INTO account_contacts VALUES ($1, $2)", account, sealed)
    return account, user


async def opened(books: Connection, vault: Vault, account: int, user: int) -> list[str | None]:
    """Return all secrets as a vault opens them."""
    found = []
    for row in await books.fetch("SELECT * FROM channels ORDER BY name"):
        found.append(vault.open(row["api_key_sealed"], channel_owner(row["name"])))
        found.append(vault.open(row["token_sealed"], token_owner(row["name"])))
    found.append(
        vault.open(await books.fetchval("SELECT totp_sealed FROM users"), totp_owner(user))
    )
    webhook = await books.fetchval("SELECT webhook_sealed FROM account_contacts")
    found.append(vault.open(webhook, webhook_owner(account)))
    return [None if one is None else one.reveal() for one in found]


async def test_what_the_key_before_sealed_is_sealed_anew(database_url: str) -> None:
    books = await postgres.connect(database_url)
    try:
        account, user = await fill(books, Vault(OLD))
        wanted = await opened(books, Vault(OLD), account, user)
        assert None not in wanted
        changing = Vault(NEW, OLD)
        assert await opened(books, changing, account, user) == wanted
        before = await books.fetchval("SELECT generation FROM catalog_generation")
        said = await night(books, changing)
        assert said == [
            "channels.api_key_sealed: 2 of 2 sealed anew",
            "channels.token_sealed: 2 of 2 sealed anew",
            "users.totp_sealed: 1 of 1 sealed anew",
            "account_contacts.webhook_sealed: 1 of 1 sealed anew",
        ]
        assert await opened(books, Vault(NEW), account, user) == wanted
        assert await opened(books, Vault(OLD), account, user) == [None] * 6
        assert await books.fetchval("SELECT generation FROM catalog_generation") > before
        assert all(": 0 of" in one for one in await night(books, changing)), "nothing is left"
    finally:
        await books.close()


async def test_what_neither_key_opens_is_told_and_left(database_url: str) -> None:
    books = await postgres.connect(database_url)
    try:
        await fill(books, Vault(bytes(32)))
        [first, *_] = await night(books, Vault(NEW, OLD))
        assert first == "channels.api_key_sealed: 0 of 2 sealed anew, 2 cannot be opened"
        plan = await Rewrap(Vault(NEW)).plan(books, NOW)
        assert plan.steps == []
        assert plan.note == "no [secrets] master_key_other"
    finally:
        await books.close()


async def night(books: Connection, vault: Vault) -> list[str]:
    plan = await Rewrap(vault).plan(books, NOW)
    return [await step.do(Turn(books, 60.0)) for step in plan.steps]
