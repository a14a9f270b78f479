"""The catalog of the database, read back in the form in which a file declares it."""

from collections.abc import Sequence
from typing import Final

import asyncpg
import msgspec

from relay.errors import ConfigError
from relay.model import (
    AbortBills,
    Allowance,
    Dialect,
    LineKind,
    LostState,
    OnLoss,
    OpenAiApi,
    Resume,
    Unpriced,
)
from relay.reach import Reach
from relay.store.catalog.channel_entry import ChannelEntry
from relay.store.catalog.declaration import (
    AccountEntry,
    Declaration,
    GroupEntry,
    KeyEntry,
    LineEntry,
    LineModelEntry,
)
from relay.store.catalog.keys import KeyMark
from relay.store.catalog.plan import Catalog, Credentials, identity
from relay.store.catalog.prices import to_entry
from relay.store.catalog.snapshot import PRICES, read_price
from relay.store.postgres import Connection
from relay.store.secrets.vault import Vault, channel_owner
from relay.units import format_multiplier, format_usd

_CHANNELS: Final = "SELECT * FROM channels WHERE deleted_at IS NULL ORDER BY id"
_LINES: Final = """
    SELECT lines.*, ARRAY(
        SELECT channels.name FROM line_channels JOIN channels ON channels.id = channel_id
        WHERE line_id = lines.id ORDER BY position
    ) AS channels
    FROM lines WHERE deleted_at IS NULL ORDER BY id"""
_GROUPS: Final = """
    SELECT groups.*, ARRAY(
        SELECT lines.name FROM group_lines JOIN lines ON lines.id = line_id
        WHERE group_id = groups.id ORDER BY position
    ) AS lines
    FROM groups WHERE deleted_at IS NULL ORDER BY id"""
_ACCOUNTS: Final = """
    SELECT accounts.*, groups.name AS "group"
    FROM accounts JOIN groups ON groups.id = group_id
    WHERE accounts.deleted_at IS NULL ORDER BY accounts.id"""
_KEYS: Final = """
    SELECT keys.*, accounts.name AS account, ARRAY(
        SELECT lines.name FROM unnest(line_ids) WITH ORDINALITY AS chosen (id, place)
        JOIN lines ON lines.id = chosen.id AND lines.deleted_at IS NULL ORDER BY place
    ) AS lines
    FROM keys JOIN accounts ON accounts.id = account_id
    WHERE keys.deleted_at IS NULL ORDER BY keys.id"""


async def read_catalog(connection: Connection, vault: Vault) -> Catalog:
    """Return the whole catalog, soft-deleted rows left out.

    Raises:
        ConfigError: A row holds what no file could declare: it was edited by hand.
    """
    credentials = await connection.fetch(_CHANNELS)
    channels = [row for row in credentials if row["key_of"] is None]
    keys = await connection.fetch(_KEYS)
    try:
        declaration = Declaration(
            channel=[_channel(row) for row in channels],
            line=[_line(row) for row in await connection.fetch(_LINES)],
            group=[_group(row) for row in await connection.fetch(_GROUPS)],
            price=[to_entry(read_price(row)) for row in await connection.fetch(PRICES)],
            account=[_account(row) for row in await connection.fetch(_ACCOUNTS)],
            key=[_key(row) for row in keys],
        )
    except ValueError as error:
        raise ConfigError(f"the catalog in the database is damaged: {error}") from error
    return Catalog(declaration, _credentials(declaration, credentials, keys, vault))


def _credentials(
    declaration: Declaration,
    channels: Sequence[asyncpg.Record],
    keys: Sequence[asyncpg.Record],
    vault: Vault,
) -> Credentials:
    found: Credentials = {}
    for row in channels:
        sealed, owner = row["api_key_sealed"], channel_owner(row["name"])
        found["channel", (row["name"],)] = vault.open(sealed, owner)
    for key, row in zip(declaration.key, keys, strict=True):
        found["key", identity(key)] = KeyMark(
            row["digest"], row["pepper_id"], row["prefix"], row["last4"]
        )
    return found


def _channel(row: asyncpg.Record) -> ChannelEntry:
    models = msgspec.json.decode(row["models"], type=dict[str, str])
    found = msgspec.json.decode(row["models_found"], type=dict[str, str])
    reach = msgspec.json.decode(row["reach"], type=Reach)
    return ChannelEntry(
        name=row["name"],
        base_url=row["base_url"],
        models=[
            *(f"{public}={upstream}" for public, upstream in models.items() if public not in found),
            *row["model_patterns"],
        ],
        models_auto=row["models_auto"],
        protocol=Dialect(row["protocol"]),
        weight=row["weight"],
        tier=row["tier"],
        tpm=row["tpm"],
        rpm=row["rpm"],
        concurrency=row["concurrency"],
        resume=Resume(row["resume"]),
        abort_bills=AbortBills(row["abort_bills"]),
        include_usage=row["include_usage"],
        openai_api=OpenAiApi(row["openai_api"]),
        kind=row["kind"],
        auth=reach.auth,
        headers=reach.headers,
        query=reach.query,
        paths=reach.paths,
        listing=reach.listing,
        egress=reach.egress,
        claude_on=reach.claude_on,
        websocket=reach.websocket,
        cost="" if row["cost_ppm"] is None else format_multiplier(row["cost_ppm"]),
    )


def _line(row: asyncpg.Record) -> LineEntry:
    models = msgspec.json.decode(row["model_limits"], type=dict[str, Allowance])
    return LineEntry(
        name=row["name"],
        channels=list(row["channels"]),
        kind=LineKind(row["kind"]),
        tpm=row["tpm"],
        rpm=row["rpm"],
        concurrency=row["concurrency"],
        splice=row["splice"],
        hedge_ms=row["hedge_ms"],
        on_limiter_loss=OnLoss(row["on_limiter_loss"]),
        input_weight=format_multiplier(row["input_weight_ppm"]),
        cached_weight=format_multiplier(row["cached_weight_ppm"]),
        output_weight=format_multiplier(row["output_weight_ppm"]),
        unpriced=Unpriced(row["unpriced"]),
        lost_state=LostState(row["lost_state"]),
        by_invitation=row["by_invitation"],
        wait_ms=row["wait_ms"],
        translates=row["translates"],
        model=[
            LineModelEntry(name=name, tpm=limit.tpm, rpm=limit.rpm, concurrency=limit.concurrency)
            for name, limit in models.items()
        ],
    )


def _group(row: asyncpg.Record) -> GroupEntry:
    return GroupEntry(
        name=row["name"],
        lines=list(row["lines"]),
        multiplier=format_multiplier(row["multiplier_ppm"]),
    )


def _account(row: asyncpg.Record) -> AccountEntry:
    return AccountEntry(
        name=row["name"],
        group=row["group"],
        credit_limit=format_usd(row["credit_limit_nanos"]),
        low_balance_alert=format_usd(alert) if (alert := row["low_balance_nanos"]) else "",
        tpm=row["tpm"],
        rpm=row["rpm"],
        concurrency=row["concurrency"],
        budgets=list(row["budgets"]),
        disabled=row["disabled"],
    )


def _key(row: asyncpg.Record) -> KeyEntry:
    return KeyEntry(
        account=row["account"],
        name=row["name"],
        key="",
        expires=row["expires_at"],
        models=None if row["models"] is None else list(row["models"]),
        allow_ip=None if row["networks"] is None else [str(ip) for ip in row["networks"]],
        lines=list(row["lines"]) or None,
        quota="" if row["quota_nanos"] is None else format_usd(row["quota_nanos"]),
        budgets=list(row["budgets"]),
        tpm=row["tpm"],
        rpm=row["rpm"],
        concurrency=row["concurrency"],
    )
