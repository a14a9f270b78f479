"""The catalog as a worker holds it: whole at first, then only what changed.

Both ways read in one REPEATABLE READ transaction, so a snapshot is never a mixture of two
generations. Keys and accounts may be many: of them only rows newer than the old snapshot are read.
"""

import logging
from collections.abc import Callable
from typing import Final, TypeVar

import asyncpg
import msgspec

from relay.billing.budget import read_budgets
from relay.errors import ConfigError, NotFound
from relay.facts import ModelFacts
from relay.model import (
    WAIT_MS,
    AbortBills,
    Account,
    Allowance,
    Channel,
    Dialect,
    Group,
    Key,
    Line,
    LineKind,
    LostState,
    OnLoss,
    OpenAiApi,
    Price,
    PriceDetail,
    Resume,
    Secret,
    Snapshot,
    Unpriced,
    index_routes,
)
from relay.reach import MINTED, NOTHING, Reach
from relay.store.catalog import blocks
from relay.store.postgres import Connection
from relay.store.secrets.vault import Vault, channel_owner, token_owner

EMPTY: Final = Snapshot(
    generation=0, keys={}, accounts={}, groups={}, lines={}, channels={}, prices={}, routes={}
)

_CHANNELS: Final = "SELECT * FROM channels WHERE deleted_at IS NULL ORDER BY id"
_CHANNEL: Final = "SELECT * FROM channels WHERE deleted_at IS NULL AND name = $1"
_LINES: Final = """
    SELECT lines.*, ARRAY(
        SELECT channels.id FROM line_channels
        JOIN channels ON channels.id = channel_id OR channels.key_of = channel_id
        WHERE line_id = lines.id AND channels.deleted_at IS NULL ORDER BY position, channels.id
    ) AS channel_ids
    FROM lines WHERE deleted_at IS NULL ORDER BY id"""
_GROUPS: Final = """
    SELECT groups.*, ARRAY(
        SELECT line_id FROM group_lines WHERE group_id = groups.id ORDER BY position
    ) AS line_ids
    FROM groups WHERE deleted_at IS NULL ORDER BY id"""
_ACCOUNTS: Final = "SELECT * FROM accounts WHERE generation > $1 ORDER BY id"
_KEYS: Final = "SELECT * FROM keys WHERE generation > $1 ORDER BY id"
PRICES: Final = """
    SELECT * FROM (SELECT DISTINCT ON (model) * FROM prices ORDER BY model, id DESC) AS newest
    WHERE NOT withdrawn"""
_FACTS: Final = """
    SELECT name, context_tokens, output_tokens, input_modalities, output_modalities FROM models"""
_SPENT: Final = """
    SELECT digest, spent_nanos FROM keys
    WHERE quota_nanos IS NOT NULL AND deleted_at IS NULL
      AND spent_at > now() - make_interval(secs => $1)"""

_log = logging.getLogger(__name__)

_Identity = TypeVar("_Identity")
_Noun = TypeVar("_Noun")


async def load_snapshot(connection: Connection, vault: Vault) -> Snapshot:
    """Return the whole catalog.

    Raises:
        DependencyDown: Postgres did not answer.
    """
    return await refresh(connection, vault, EMPTY)


async def load_channel(connection: Connection, vault: Vault, name: str) -> Channel:
    """Return one channel with its credential.

    Raises:
        NotFound: There is no channel of that name.
        ConfigError: Its credential cannot be decrypted.
    """
    row = await connection.fetchrow(_CHANNEL, name)
    if row is None:
        raise NotFound(f"there is no channel {name!r}")
    if vault.open(row["api_key_sealed"], channel_owner(name)) is None:
        raise ConfigError(
            f"channel {name}: its api_key was sealed under another master key: apply it again"
        )
    return _channel(row, vault, EMPTY)


async def load_channels(connection: Connection, vault: Vault) -> dict[int, Channel]:
    """Return all channels by id; one whose credential cannot be opened comes drained."""
    rows = await connection.fetch(_CHANNELS)
    return {row["id"]: _channel(row, vault, EMPTY) for row in rows}


async def load_shared(connection: Connection, vault: Vault) -> Snapshot:
    """Return lines and their channels alone: enough to tell how they share quotas."""
    channels = await load_channels(connection, vault)
    lines = {row["id"]: _line(row, EMPTY) for row in await connection.fetch(_LINES)}
    return msgspec.structs.replace(EMPTY, lines=lines, channels=channels)


async def read_generation(connection: Connection) -> int:
    """Return the generation the catalog is at: the cheapest question of all."""
    generation: int = await connection.fetchval("SELECT generation FROM catalog_generation")
    return generation


async def refresh(connection: Connection, vault: Vault, old: Snapshot) -> Snapshot:
    """Return the catalog as it is now, read as the difference to `old`; `old` is not touched.

    A channel whose credential cannot be opened comes drained: one bad row must not keep a revoked
    key alive in every worker.
    """
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        generation = await read_generation(connection)
        if generation < old.generation:
            old = EMPTY  # Another database, or one restored from a backup: nothing is known of it.
        channel_rows = await connection.fetch(_CHANNELS)
        line_rows = await connection.fetch(_LINES)
        group_rows = await connection.fetch(_GROUPS)
        fact_rows = await connection.fetch(_FACTS)
        price_rows = await connection.fetch(PRICES)
        block_rows = await connection.fetch(blocks.OPEN)
        account_rows = await connection.fetch(_ACCOUNTS, old.generation)
        key_rows = await connection.fetch(_KEYS, old.generation)
    channels = {row["id"]: _channel(row, vault, old) for row in channel_rows}
    lines = {row["id"]: _line(row, old) for row in line_rows}
    same = channels == old.channels and lines == old.lines
    return Snapshot(
        generation=generation,
        keys=_merge(old.keys, key_rows, "digest", read_key),
        accounts=_merge(old.accounts, account_rows, "id", _account),
        groups={row["id"]: _group(row) for row in group_rows},
        lines=lines,
        channels=channels,
        prices={row["model"]: read_price(row) for row in price_rows},
        facts={row["name"]: _facts(row) for row in fact_rows},
        routes=old.routes if same else index_routes(lines, channels),
        blocks=tuple(map(blocks.read_block, block_rows)),
    )


async def refresh_spent(connection: Connection, old: Snapshot, *, within_s: float) -> Snapshot:
    """Return `old` with what keys with a quota have spent by now; `old` itself if nothing moved.

    Args:
        connection: To the catalog.
        old: The snapshot to bring up to date; it is not touched.
        within_s: Only keys whose spending was booked so many seconds ago or less are read. A
            booking becomes visible when its transaction ends, so this must exceed the longest.
    """
    changed = {}
    for row in await connection.fetch(_SPENT, within_s):
        key = old.keys.get(row["digest"])
        if key is not None and key.spent_nanos != row["spent_nanos"]:
            changed[key.digest] = msgspec.structs.replace(key, spent_nanos=row["spent_nanos"])
    return msgspec.structs.replace(old, keys=old.keys | changed) if changed else old


def _merge(
    old: dict[_Identity, _Noun],
    rows: list[asyncpg.Record],
    identity: str,
    read: Callable[[asyncpg.Record], _Noun],
) -> dict[_Identity, _Noun]:
    if not rows:
        return old
    merged = dict(old)
    for row in rows:
        if row["deleted_at"] is None:
            merged[row[identity]] = read(row)
        else:
            merged.pop(row[identity], None)
    return merged


def _channel(row: asyncpg.Record, vault: Vault, old: Snapshot) -> Channel:
    known = old.channels.get(row["id"])
    if known is not None and known.version == row["generation"]:
        return known
    reach = msgspec.json.decode(row["reach"], type=Reach)
    api_key = _credential(row, reach, vault)
    return Channel(
        id=row["id"],
        name=row["name"],
        base_url=row["base_url"],
        api_key=api_key or Secret(""),
        models=msgspec.json.decode(row["models"], type=dict[str, str]),
        protocol=Dialect(row["protocol"]),
        kind=row["kind"],
        reach=None if reach == NOTHING else reach,
        weight=row["weight"],
        tier=row["tier"],
        tpm=row["tpm"],
        rpm=row["rpm"],
        concurrency=row["concurrency"],
        resume=Resume(row["resume"]),
        abort_bills=AbortBills(row["abort_bills"]),
        include_usage=row["include_usage"],
        openai_api=OpenAiApi(row["openai_api"]),
        drained=row["drained"] or api_key is None,
        evicted=row["evicted"],
        version=row["generation"],
    )


def _credential(row: asyncpg.Record, reach: Reach, vault: Vault) -> Secret | None:
    """Return what a channel sends; None: nothing that could be good, so it is drained."""
    name = row["name"]
    if reach.auth not in MINTED:
        api_key = vault.open(row["api_key_sealed"], channel_owner(name))
        if api_key is None:
            _log.error("channel %s is drained: its api_key cannot be decrypted", name)
        return api_key
    token = vault.open(row["token_sealed"], token_owner(name))
    if token is None or not token.reveal():
        _log.warning("channel %s is drained: no token was minted for it yet", name)
        return None
    return token


def _line(row: asyncpg.Record, old: Snapshot) -> Line:
    line = Line(
        id=row["id"],
        name=row["name"],
        channel_ids=tuple(row["channel_ids"]),
        kind=LineKind(row["kind"]),
        tpm=row["tpm"],
        rpm=row["rpm"],
        concurrency=row["concurrency"],
        splice=row["splice"],
        hedge_ms=row["hedge_ms"],
        model_limits=msgspec.json.decode(row["model_limits"], type=dict[str, Allowance]),
        on_limiter_loss=OnLoss(row["on_limiter_loss"]),
        input_weight_ppm=row["input_weight_ppm"],
        cached_weight_ppm=row["cached_weight_ppm"],
        output_weight_ppm=row["output_weight_ppm"],
        unpriced=Unpriced(row["unpriced"]),
        lost_state=LostState(row["lost_state"]),
        by_invitation=row["by_invitation"],
        wait_ms=WAIT_MS[LineKind(row["kind"])] if row["wait_ms"] is None else row["wait_ms"],
        translates=row["translates"],
    )
    known = old.lines.get(line.id)
    # What workers have worked out for a line is kept for as long as it is this very object.
    return known if known == line else line


def _facts(row: asyncpg.Record) -> ModelFacts:
    return ModelFacts(
        context_tokens=row["context_tokens"],
        output_tokens=row["output_tokens"],
        input_modalities=tuple(row["input_modalities"]),
        output_modalities=tuple(row["output_modalities"]),
    )


def _group(row: asyncpg.Record) -> Group:
    return Group(
        id=row["id"],
        name=row["name"],
        line_ids=tuple(row["line_ids"]),
        multiplier_ppm=row["multiplier_ppm"],
    )


def _account(row: asyncpg.Record) -> Account:
    return Account(
        id=row["id"],
        name=row["name"],
        group_id=row["group_id"],
        credit_limit_nanos=row["credit_limit_nanos"],
        tpm=row["tpm"],
        rpm=row["rpm"],
        concurrency=row["concurrency"],
        disabled=row["disabled"],
        granted_line_ids=tuple(row["granted_line_ids"]),
        budgets=read_budgets(row["budgets"]),
    )


def read_key(row: asyncpg.Record) -> Key:
    """Return the key a row of `keys` describes."""
    expires_at = row["expires_at"]
    return Key(
        id=row["id"],
        account_id=row["account_id"],
        name=row["name"],
        digest=row["digest"],
        last4=row["last4"],
        disabled=row["disabled"],
        expires_at_s=None if expires_at is None else int(expires_at.timestamp()),
        models=None if row["models"] is None else frozenset(row["models"]),
        networks=None if row["networks"] is None else tuple(row["networks"]),
        quota_nanos=row["quota_nanos"],
        spent_nanos=row["spent_nanos"],
        tpm=row["tpm"],
        rpm=row["rpm"],
        concurrency=row["concurrency"],
        line_ids=None if row["line_ids"] is None else tuple(row["line_ids"]),
        budgets=read_budgets(row["budgets"]),
    )


def read_price(row: asyncpg.Record) -> Price:
    """Return the price a row of `prices` describes."""
    detail = row["detail"]
    return Price(
        id=row["id"],
        model=row["model"],
        input=row["input"],
        output=row["output"],
        cached_input=row["cached_input"],
        cache_write=row["cache_write"],
        per_call=row["per_call"],
        model_multiplier_ppm=row["model_multiplier_ppm"],
        completion_multiplier_ppm=row["completion_multiplier_ppm"],
        detail=None if detail is None else msgspec.json.decode(detail, type=PriceDetail),
    )
