"""Redemption codes: made by the batch, shown once, redeemed once; the books are in orders.py."""

import os
from datetime import datetime
from typing import Any, Final

import msgspec

from relay.billing import codes
from relay.errors import BadRequest
from relay.model import Secret
from relay.store.billing import orders
from relay.store.postgres import Connection
from relay.store.secrets.vault import Pepper
from relay.units import format_usd

CODES_MAX: Final = 1_000
"""Codes of one call."""

Row = dict[str, Any]

_LIST: Final = """
    SELECT redemption_codes.id, amount_nanos, actor, redemption_codes.created_at, expires_at,
        redeemed_at, accounts.name AS account
    FROM redemption_codes LEFT JOIN accounts ON accounts.id = account_id
    ORDER BY redemption_codes.id DESC LIMIT $1"""


class FreshCode(msgspec.Struct, frozen=True):
    """A code just made: the only time that anybody sees it."""

    id: int
    code: Secret


async def create_codes(
    connection: Connection,
    pepper: Pepper,
    nanos: int,
    count: int,
    *,
    actor: str,
    expires_at: datetime | None = None,
) -> list[FreshCode]:
    """Make `count` codes worth `nanos` nano-USD each, or none."""
    assert 0 < count <= CODES_MAX
    assert nanos > 0
    made = []
    async with connection.transaction():
        for _ in range(count):
            code = codes.mint(os.urandom(codes.RANDOM_BYTES))
            code_id = await orders.issue_code(
                connection,
                codes.digest(pepper.value, code),
                nanos,
                actor=actor,
                expires_at=expires_at,
            )
            made.append(FreshCode(code_id, Secret(code)))
    return made


async def redeem_code(connection: Connection, pepper: Pepper, code: str, account_id: int) -> int:
    """Credit a code, as a person typed it, to an account; return its nano-USD.

    Raises:
        BadRequest: CLIENT; not a code, or an unknown, used or expired one.
    """
    try:
        digest = codes.digest(pepper.value, code)
    except ValueError:
        raise BadRequest("this code is unknown, used or expired") from None
    return await orders.redeem(connection, digest, account_id)


async def list_codes(connection: Connection, limit: int) -> list[Row]:
    """Return codes as rows, newest first; nobody can tell what they are."""
    return [
        {
            "id": row["id"],
            "amount_usd": format_usd(row["amount_nanos"]),
            **{name: row[name] for name in ("actor", "created_at", "expires_at", "redeemed_at")},
            "account": row["account"],
        }
        for row in await connection.fetch(_LIST, limit)
    ]
