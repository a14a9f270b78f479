"""What the catalog's list commands show: rows of plain values, money as decimal strings."""

from typing import Any, Final

import asyncpg
import msgspec

from relay.errors import NotFound
from relay.store.postgres import Connection
from relay.store.secrets.vault import Vault, channel_owner
from relay.units import format_multiplier, format_usd

Row = dict[str, Any]

_CHANNELS: Final = "SELECT * FROM channels WHERE deleted_at IS NULL ORDER BY tier, name"
_LINES: Final = """
    SELECT id, name, kind, ARRAY(
        SELECT channels.name FROM line_channels JOIN channels ON channels.id = channel_id
        WHERE line_id = lines.id ORDER BY position
    ) AS channels, tpm, rpm, concurrency, splice, hedge_ms, on_limiter_loss,
        input_weight_ppm, cached_weight_ppm, output_weight_ppm, model_limits,
        by_invitation, translates
    FROM lines WHERE deleted_at IS NULL ORDER BY name"""
_ACCOUNTS: Final = """
    SELECT accounts.id, accounts.name, groups.name AS "group", multiplier_ppm, ARRAY(
        SELECT lines.name FROM group_lines JOIN lines ON lines.id = line_id
        WHERE group_lines.group_id = groups.id ORDER BY position
    ) AS lines, ARRAY(
        SELECT lines.name FROM lines
        WHERE lines.id = ANY (granted_line_ids) AND deleted_at IS NULL ORDER BY name
    ) AS granted_lines, credit_limit_nanos, low_balance_nanos, tpm, rpm, concurrency, disabled,
    budgets,
    (SELECT count(*) FROM keys WHERE account_id = accounts.id AND keys.deleted_at IS NULL) AS keys
    FROM accounts JOIN groups ON groups.id = group_id
    WHERE accounts.deleted_at IS NULL AND ($1::text IS NULL OR accounts.name = $1)
    ORDER BY accounts.name"""
# An account that has it keeps it once; the order is that of the grants.
_GRANT: Final = """
    UPDATE accounts SET granted_line_ids = array_remove(granted_line_ids, lines.id)
        || CASE WHEN $3 THEN ARRAY[lines.id] ELSE '{}'::bigint[] END
    FROM lines
    WHERE accounts.name = $1 AND accounts.deleted_at IS NULL
      AND lines.name = $2 AND lines.deleted_at IS NULL
    RETURNING accounts.id"""
_ACCOUNT_EXISTS: Final = "SELECT 1 FROM accounts WHERE name = $1 AND deleted_at IS NULL"
_DRAIN: Final = """
    UPDATE channels SET drained = $2, evicted = $3
    WHERE deleted_at IS NULL AND (name = $1 OR key_of IN
        (SELECT id FROM channels WHERE name = $1 AND deleted_at IS NULL))
    RETURNING id"""


async def list_channels(connection: Connection, vault: Vault) -> list[Row]:
    """Return all channels; `api_key` says only "set", "none" or "unreadable"."""
    return [_channel(row, vault) for row in await connection.fetch(_CHANNELS)]


async def list_lines(connection: Connection) -> list[Row]:
    """Return all lines with the names of their channels."""
    return [_line(row) for row in await connection.fetch(_LINES)]


async def list_accounts(connection: Connection, name: str | None = None) -> list[Row]:
    """Return all accounts, or the one of that name, with what their group gives them."""
    return [_account(row) for row in await connection.fetch(_ACCOUNTS, name)]


async def set_drained(
    connection: Connection, channel: str, *, drained: bool, evicted: bool = False
) -> None:
    """Take a channel out of service for new calls, or back in.

    All of its credentials with it; NAME#2 is the second one alone. Calls that run on it go on;
    `evicted`: they are moved to other channels where they can be.

    Raises:
        NotFound: There is no channel of that name.
    """
    assert drained or not evicted, "who is moved off a channel must not come back to it"
    if await connection.fetchval(_DRAIN, channel, drained, evicted) is None:
        raise NotFound(f"there is no channel {channel!r}")


async def set_granted(connection: Connection, account: str, line: str, *, granted: bool) -> None:
    """Let an account use a line, or no longer; every worker knows within a second.

    Raises:
        NotFound: There is no such account, or no such line.
    """
    if await connection.fetchval(_GRANT, account, line, granted) is None:
        known = await connection.fetchval(_ACCOUNT_EXISTS, account)
        what = f"line {line!r}" if known else f"account {account!r}"
        raise NotFound(f"there is no {what}")


def _channel(row: asyncpg.Record, vault: Vault) -> Row:
    api_key = vault.open(row["api_key_sealed"], channel_owner(row["name"]))
    state = "unreadable" if api_key is None else "set" if api_key.reveal() else "none"
    shown = ("id", "name", "kind", "protocol", "base_url")
    limits = ("tpm", "rpm", "concurrency", "resume", "abort_bills", "include_usage", "openai_api")
    return {
        **{field: row[field] for field in shown},
        "api_key": state,
        "models": msgspec.json.decode(row["models"]),
        "model_patterns": list(row["model_patterns"]),
        "models_auto": row["models_auto"],
        "reach": msgspec.json.decode(row["reach"]),
        "cost": None if row["cost_ppm"] is None else format_multiplier(row["cost_ppm"]),
        "tier": row["tier"],
        "weight": row["weight"],
        **{field: row[field] for field in limits},
        "drained": row["drained"],
        "evicted": row["evicted"],
    }


def _line(row: asyncpg.Record) -> Row:
    shown = dict(row)
    for field in ("input_weight", "cached_weight", "output_weight"):
        shown[field] = format_multiplier(shown.pop(f"{field}_ppm"))
    shown["model_limits"] = msgspec.json.decode(shown["model_limits"])
    return shown


def _account(row: asyncpg.Record) -> Row:
    shown = dict(row)
    shown["multiplier"] = format_multiplier(shown.pop("multiplier_ppm"))
    shown["credit_limit_usd"] = format_usd(shown.pop("credit_limit_nanos"))
    alert = shown.pop("low_balance_nanos")
    shown["low_balance_alert_usd"] = None if alert is None else format_usd(alert)
    return shown
