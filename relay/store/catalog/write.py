"""Writes the changes of a plan to the catalog's tables, one entry at a time.

Rows are never removed: `deleted_at` is set, or (prices) a newer row says that there is none.
"""

from typing import Final

import msgspec

from relay.model import Allowance, Price, Secret
from relay.store.catalog.canonical import choose_models
from relay.store.catalog.channel_entry import ChannelEntry, key_name
from relay.store.catalog.declaration import (
    AccountEntry,
    GroupEntry,
    KeyEntry,
    LineEntry,
    PriceEntry,
)
from relay.store.catalog.entry import Entry
from relay.store.catalog.keys import (
    KeyMark,
    KeyTerms,
    insert_key,
    set_account_budgets,
    set_key_budgets,
)
from relay.store.catalog.plan import CREDENTIAL, CatalogChange, ChangeKind, Credentials, identity
from relay.store.catalog.prices import to_price
from relay.store.postgres import Connection
from relay.store.secrets.vault import Vault, channel_owner
from relay.units import parse_multiplier, parse_usd

# $13 NULL: the file does not say, the channel keeps what it has. Of another one a new token is due.
_CHANNEL: Final = """
    INSERT INTO channels AS old (name, base_url, models, protocol, weight, tier, tpm, rpm,
        concurrency, resume, abort_bills, include_usage, api_key_sealed, kind, reach, cost_ppm,
        model_patterns, models_found, models_auto, openai_api)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, COALESCE($13::bytea, ''), $14, $15,
        $16, $17, $18, $19, $20)
    ON CONFLICT (name) WHERE deleted_at IS NULL DO UPDATE SET
        base_url = excluded.base_url, models = excluded.models, protocol = excluded.protocol,
        weight = excluded.weight, tier = excluded.tier, tpm = excluded.tpm, rpm = excluded.rpm,
        concurrency = excluded.concurrency, resume = excluded.resume,
        abort_bills = excluded.abort_bills, include_usage = excluded.include_usage,
        openai_api = excluded.openai_api,
        kind = excluded.kind, reach = excluded.reach, cost_ppm = excluded.cost_ppm,
        model_patterns = excluded.model_patterns, models_found = excluded.models_found,
        models_auto = excluded.models_auto,
        api_key_sealed = COALESCE($13::bytea, old.api_key_sealed),
        token_expires_at = CASE WHEN $13::bytea IS NULL THEN old.token_expires_at END"""
_COPIED: Final = (
    *("base_url", "models", "protocol", "weight", "tier", "tpm", "rpm", "concurrency", "resume"),
    *("abort_bills", "include_usage", "openai_api", "kind", "reach", "cost_ppm", "model_patterns"),
    *("models_found", "models_auto"),
)
"""What a channel's further credentials have as it has it; all else of their rows is their own."""
FOLLOW_CHANNEL: Final = f"""
    UPDATE channels AS further
    SET {", ".join(f"{column} = first.{column}" for column in _COPIED)}
    FROM channels AS first
    WHERE first.name = $1 AND first.deleted_at IS NULL
      AND further.key_of = first.id AND further.deleted_at IS NULL"""  # noqa: S608 - our own columns
_ADD_KEY: Final = f"""
    INSERT INTO channels (name, api_key_sealed, key_of, {", ".join(_COPIED)})
    SELECT $2, $3, id, {", ".join(_COPIED)} FROM channels WHERE name = $1 AND deleted_at IS NULL
    ON CONFLICT (name) WHERE deleted_at IS NULL DO UPDATE SET
        api_key_sealed = excluded.api_key_sealed, token_expires_at = NULL"""  # noqa: S608 - our own columns
_DROP_KEYS: Final = """
    UPDATE channels SET deleted_at = now()
    WHERE deleted_at IS NULL AND NOT name = ANY ($2::text[])
      AND key_of = (SELECT id FROM channels WHERE name = $1 AND deleted_at IS NULL)"""
_FOUND: Final = "SELECT models_found FROM channels WHERE name = $1 AND deleted_at IS NULL"
_LINE: Final = """
    INSERT INTO lines (name, kind, tpm, rpm, concurrency, splice, hedge_ms, on_limiter_loss,
        input_weight_ppm, cached_weight_ppm, output_weight_ppm, model_limits, unpriced,
        by_invitation, lost_state, wait_ms, translates)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16,
        $17)
    ON CONFLICT (name) WHERE deleted_at IS NULL DO UPDATE SET
        kind = excluded.kind, tpm = excluded.tpm, rpm = excluded.rpm,
        concurrency = excluded.concurrency, splice = excluded.splice,
        hedge_ms = excluded.hedge_ms, on_limiter_loss = excluded.on_limiter_loss,
        input_weight_ppm = excluded.input_weight_ppm,
        cached_weight_ppm = excluded.cached_weight_ppm,
        output_weight_ppm = excluded.output_weight_ppm, model_limits = excluded.model_limits,
        unpriced = excluded.unpriced, by_invitation = excluded.by_invitation,
        lost_state = excluded.lost_state, wait_ms = excluded.wait_ms,
        translates = excluded.translates
    RETURNING id"""
_LINE_CHANNELS: Final = """
    INSERT INTO line_channels (line_id, position, channel_id)
    SELECT $1, wanted.place - 1, channels.id
    FROM unnest($2::text[]) WITH ORDINALITY AS wanted (name, place)
    JOIN channels ON channels.name = wanted.name AND channels.deleted_at IS NULL"""
_GROUP: Final = """
    INSERT INTO groups (name, multiplier_ppm) VALUES ($1, $2)
    ON CONFLICT (name) WHERE deleted_at IS NULL DO UPDATE SET
        multiplier_ppm = excluded.multiplier_ppm
    RETURNING id"""
_GROUP_LINES: Final = """
    INSERT INTO group_lines (group_id, position, line_id)
    SELECT $1, wanted.place - 1, lines.id
    FROM unnest($2::text[]) WITH ORDINALITY AS wanted (name, place)
    JOIN lines ON lines.name = wanted.name AND lines.deleted_at IS NULL"""
_PRICE: Final = """
    INSERT INTO prices (model, input, output, cached_input, cache_write, per_call,
        model_multiplier_ppm, completion_multiplier_ppm, detail, withdrawn)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"""
_ACCOUNT: Final = """
    INSERT INTO accounts (name, group_id, credit_limit_nanos, tpm, rpm, concurrency, disabled,
        low_balance_nanos, budgets)
    SELECT $1, id, $3, $4, $5, $6, $7, $8, $9 FROM groups WHERE name = $2 AND deleted_at IS NULL
    ON CONFLICT (name) WHERE deleted_at IS NULL DO UPDATE SET
        group_id = excluded.group_id, credit_limit_nanos = excluded.credit_limit_nanos,
        tpm = excluded.tpm, rpm = excluded.rpm, concurrency = excluded.concurrency,
        disabled = excluded.disabled, low_balance_nanos = excluded.low_balance_nanos,
        budgets = excluded.budgets"""
_ACCOUNT_ID: Final = "SELECT id FROM accounts WHERE name = $1 AND deleted_at IS NULL"
_KEY_ID: Final = """
    SELECT keys.id FROM keys JOIN accounts ON accounts.id = account_id
    WHERE accounts.name = $1 AND accounts.deleted_at IS NULL
      AND keys.name = $2 AND keys.deleted_at IS NULL"""
_KEY_TERMS: Final = """
    UPDATE keys SET expires_at = $3, models = $4, networks = $5, quota_nanos = $6,
        tpm = $7, rpm = $8, concurrency = $9, line_ids = line_ids_of($10), budgets = $11
    FROM accounts
    WHERE accounts.id = account_id AND accounts.deleted_at IS NULL AND accounts.name = $1
      AND keys.name = $2 AND keys.deleted_at IS NULL"""
# The account may have gone a moment ago, in this very transaction.
_KEY_REMOVAL: Final = """
    UPDATE keys SET deleted_at = now() FROM accounts
    WHERE accounts.id = account_id AND accounts.name = $1
      AND keys.name = $2 AND keys.deleted_at IS NULL"""
_REMOVALS: Final = {
    "channel": """UPDATE channels SET deleted_at = now()
        WHERE deleted_at IS NULL AND (name = $1 OR key_of IN
            (SELECT id FROM channels WHERE name = $1 AND deleted_at IS NULL))""",
    "line": "UPDATE lines SET deleted_at = now() WHERE name = $1 AND deleted_at IS NULL",
    "group": "UPDATE groups SET deleted_at = now() WHERE name = $1 AND deleted_at IS NULL",
    "account": "UPDATE accounts SET deleted_at = now() WHERE name = $1 AND deleted_at IS NULL",
    "key": _KEY_REMOVAL,
}


class Writer:
    """Writes changes within the transaction its connection is in.

    Args:
        connection: Inside a transaction.
        vault: Seals the channels' credentials.
        credentials: What the entries' secret references stand for.
    """

    def __init__(self, connection: Connection, vault: Vault, credentials: Credentials) -> None:
        self._connection = connection
        self._vault = vault
        self._credentials = credentials

    async def write(self, change: CatalogChange) -> None:
        """Write one change; names it refers to must have been written before.

        Raises:
            BadRequest: A key that is stored under another name, or was deleted.
        """
        entry = change.entry
        if change.action is ChangeKind.REMOVED:
            await self._remove(change.kind, entry)
            return
        match entry:
            case ChannelEntry():
                await self._write_channel(entry)
            case LineEntry():
                await self._write_line(entry)
            case GroupEntry():
                await self._write_group(entry)
            case PriceEntry():
                await insert_price(self._connection, to_price(entry))
            case AccountEntry():
                await self._write_account(change, entry)
            case KeyEntry():
                await self._write_key(change, entry)

    async def _remove(self, kind: str, entry: Entry) -> None:
        if isinstance(entry, PriceEntry):
            await insert_price(self._connection, to_price(entry), withdrawn=True)
        else:
            await self._connection.execute(_REMOVALS[kind], *identity(entry))

    async def _write_channel(self, entry: ChannelEntry) -> None:
        api_key = self._credentials.get(("channel", identity(entry)))
        sealed = None
        if isinstance(api_key, Secret):
            sealed = self._vault.seal(api_key, channel_owner(entry.name))
        found = await self._found_before(entry)
        await self._connection.execute(
            _CHANNEL,
            entry.name,
            entry.base_url,
            msgspec.json.encode(found | entry.named_models).decode(),
            entry.protocol.value,
            entry.weight,
            entry.tier,
            entry.tpm,
            entry.rpm,
            entry.concurrency,
            entry.resume.value,
            entry.abort_bills.value,
            entry.include_usage,
            sealed,
            entry.kind,
            msgspec.json.encode(entry.reach).decode(),
            parse_multiplier(entry.cost) if entry.cost else None,
            entry.patterns,
            msgspec.json.encode(found).decode(),
            entry.models_auto,
            entry.openai_api.value,
        )
        await self._write_further_keys(entry)

    async def _write_further_keys(self, entry: ChannelEntry) -> None:
        """Write a channel's credentials beyond the first; without any said, they stay."""
        await self._connection.execute(FOLLOW_CHANNEL, entry.name)
        numbers = range(2, len(entry.references) + 1)
        names = [key_name(entry.name, number) for number in numbers]
        for name in names:
            api_key = self._credentials["channel", (name,)]
            assert isinstance(api_key, Secret)
            sealed = self._vault.seal(api_key, channel_owner(name))
            await self._connection.execute(_ADD_KEY, entry.name, name, sealed)
        if entry.references:
            await self._connection.execute(_DROP_KEYS, entry.name, names)

    async def _found_before(self, entry: ChannelEntry) -> dict[str, str]:
        """Return what a channel's list had, as far as its patterns still choose it."""
        raw = await self._connection.fetchval(_FOUND, entry.name) if entry.patterns else None
        found = {} if raw is None else msgspec.json.decode(raw, type=dict[str, str])
        chosen = choose_models(entry.patterns, found)
        return {name: found[name] for name in chosen if name not in entry.named_models}

    async def _write_line(self, entry: LineEntry) -> None:
        connection = self._connection
        line_id = await connection.fetchval(
            _LINE,
            entry.name,
            entry.kind.value,
            entry.tpm,
            entry.rpm,
            entry.concurrency,
            entry.splice,
            entry.hedge_ms,
            entry.on_limiter_loss.value,
            parse_multiplier(entry.input_weight),
            parse_multiplier(entry.cached_weight),
            parse_multiplier(entry.output_weight),
            msgspec.json.encode(_model_limits(entry)).decode(),
            entry.unpriced.value,
            entry.by_invitation,
            entry.lost_state.value,
            entry.wait_ms,
            entry.translates,
        )
        await connection.execute("DELETE FROM line_channels WHERE line_id = $1", line_id)
        await connection.execute(_LINE_CHANNELS, line_id, entry.channels)

    async def _write_group(self, entry: GroupEntry) -> None:
        connection = self._connection
        group_id = await connection.fetchval(_GROUP, entry.name, parse_multiplier(entry.multiplier))
        await connection.execute("DELETE FROM group_lines WHERE group_id = $1", group_id)
        await connection.execute(_GROUP_LINES, group_id, entry.lines)

    async def _write_account(self, change: CatalogChange, entry: AccountEntry) -> None:
        if change.action is ChangeKind.CHANGED and "budgets" in change.fields:
            account_id = await self._connection.fetchval(_ACCOUNT_ID, entry.name)
            await set_account_budgets(self._connection, account_id, entry.budgets)
        await self._connection.execute(
            _ACCOUNT,
            entry.name,
            entry.group,
            parse_usd(entry.credit_limit),
            entry.tpm,
            entry.rpm,
            entry.concurrency,
            entry.disabled,
            parse_usd(entry.low_balance_alert) if entry.low_balance_alert else None,
            entry.budgets,
        )

    async def _write_key(self, change: CatalogChange, entry: KeyEntry) -> None:
        terms = KeyTerms(
            expires_at=entry.expires,
            models=entry.models,
            networks=entry.allow_ip,
            quota_nanos=parse_usd(entry.quota) if entry.quota else None,
            tpm=entry.tpm,
            rpm=entry.rpm,
            concurrency=entry.concurrency,
            lines=entry.lines,
            budgets=entry.budgets,
        )
        if change.action is ChangeKind.CHANGED and CREDENTIAL not in change.fields:
            if "budgets" in change.fields:
                key_id = await self._connection.fetchval(_KEY_ID, *identity(entry))
                await set_key_budgets(self._connection, key_id, entry.budgets)
            values = msgspec.structs.astuple(terms)
            await self._connection.execute(_KEY_TERMS, *identity(entry), *values)
            return
        mark = self._credentials["key", identity(entry)]
        assert isinstance(mark, KeyMark)
        if change.action is ChangeKind.CHANGED:
            # A key never changes under its id: another one takes its place and its name.
            await self._connection.execute(_KEY_REMOVAL, *identity(entry))
        await insert_key(self._connection, entry.account, entry.name, mark, terms)


def _model_limits(entry: LineEntry) -> dict[str, Allowance]:
    return {
        model.name: Allowance(tpm=model.tpm, rpm=model.rpm, concurrency=model.concurrency)
        for model in entry.model
    }


async def insert_price(connection: Connection, price: Price, *, withdrawn: bool = False) -> None:
    """Put a price in force; `withdrawn`: its model has none from now on."""
    detail = price.detail
    await connection.execute(
        _PRICE,
        price.model,
        price.input,
        price.output,
        price.cached_input,
        price.cache_write,
        price.per_call,
        price.model_multiplier_ppm,
        price.completion_multiplier_ppm,
        None if detail is None else msgspec.json.encode(detail).decode(),
        withdrawn,
    )
