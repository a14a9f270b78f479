"""Where keys are used from, and which of these places nobody has seen them at before.

The shipper keeps (key, address) rows with the calls it ships: an IPv4 address or an IPv6 /64. Each
row is judged once, by whoever comes first of many hosts.
"""

import datetime
from typing import Any, Final

import msgspec

from relay.store.postgres import Connection

JUDGED_PER_LOOK: Final = 200
KEPT_DAYS: Final = 400
"""An address that a key was not seen at for so long is forgotten: it is personal, and stale."""

Row = dict[str, Any]

_JUDGE: Final = """
    WITH fresh AS (
        SELECT key_id, ip FROM key_addresses WHERE NOT judged
        ORDER BY first_seen LIMIT $1 FOR UPDATE SKIP LOCKED
    ), claimed AS (
        UPDATE key_addresses SET judged = true FROM fresh
        WHERE key_addresses.key_id = fresh.key_id AND key_addresses.ip = fresh.ip
        RETURNING key_addresses.key_id, key_addresses.ip, first_seen
    )
    SELECT claimed.key_id, keys.name AS key_name, accounts.name AS account, host(ip) AS ip,
        family(ip) AS family, first_seen
    FROM claimed JOIN keys ON keys.id = key_id JOIN accounts ON accounts.id = account_id
    WHERE EXISTS (
        SELECT FROM key_addresses AS older
        WHERE older.key_id = claimed.key_id AND older.ip <> claimed.ip
            AND (older.first_seen, older.ip) < (claimed.first_seen, claimed.ip)
            AND older.first_seen <= claimed.first_seen - make_interval(secs => $2))
    ORDER BY first_seen, claimed.key_id"""
_LIST: Final = """
    SELECT host(ip) AS ip, family(ip) AS family, first_seen, last_seen, requests
    FROM key_addresses WHERE key_id = $1 ORDER BY first_seen DESC LIMIT $2"""


class Unfamiliar(msgspec.Struct, frozen=True):
    """A known key at a place it was never used from before."""

    key_id: int
    key_name: str
    account: str
    address: str
    first_seen: datetime.datetime


async def judge_addresses(connection: Connection, familiar_s: float) -> list[Unfamiliar]:
    """Return what is new since the last look, of keys that had been used elsewhere before.

    Args:
        connection: To the database of the request log.
        familiar_s: For so many seconds after a key's first use every address is familiar.
    """
    rows = await connection.fetch(_JUDGE, JUDGED_PER_LOOK, familiar_s)
    return [
        Unfamiliar(
            row["key_id"],
            row["key_name"],
            row["account"],
            _place(row["ip"], row["family"]),
            row["first_seen"],
        )
        for row in rows
    ]


async def list_addresses(connection: Connection, key_id: int, limit: int) -> list[Row]:
    """Return where a key was used from, the newest place first."""
    return [
        {
            "address": _place(row["ip"], row["family"]),
            **{name: row[name] for name in ("first_seen", "last_seen", "requests")},
        }
        for row in await connection.fetch(_LIST, key_id, limit)
    ]


async def forget_addresses(connection: Connection) -> None:
    """Drop the places that no key was seen at for KEPT_DAYS."""
    await connection.execute(
        "DELETE FROM key_addresses WHERE last_seen < now() - make_interval(days => $1)", KEPT_DAYS
    )


def _place(ip: str, family: int) -> str:
    return f"{ip}/64" if family == 6 else ip
