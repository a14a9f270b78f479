"""Credit leases: slices of balances that workers spend without asking (see billing.credit).

    lease       free balance -> held, for one life of a worker
    settle      held -> spent, as its calls arrive in the ledger (ledger.settle_batch)
    give_back   held -> free
    close_owner all that is left of a dead worker -> free, once its journal is settled

A worker that has not renewed for its lease's time to live must stop spending: its leases may be
closed any moment. Nobody closes them by the clock alone while its journal is unsettled.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from relay.billing.credit import lease_nanos
from relay.store.ledger import lock_balances
from relay.store.postgres import Connection

_FREE: Final = """
    SELECT account_id, balance_nanos - held_nanos + credit_limit_nanos AS free_nanos
    FROM balances JOIN accounts ON accounts.id = customer_id
    WHERE account_id = ANY($1::bigint[]) AND deleted_at IS NULL AND NOT disabled
    ORDER BY account_id FOR NO KEY UPDATE OF balances"""
_GRANT: Final = """
    WITH granted AS (
        SELECT * FROM unnest($2::bigint[], $3::bigint[]) AS row (account_id, nanos)
    ), leases AS (
        INSERT INTO credit_leases (account_id, owner, open_nanos, expires_at)
        SELECT account_id, $1, nanos, now() FROM granted
        ON CONFLICT (account_id, owner)
        DO UPDATE SET open_nanos = credit_leases.open_nanos + excluded.open_nanos
    )
    UPDATE balances SET held_nanos = held_nanos + nanos FROM granted
    WHERE balances.account_id = granted.account_id"""
_RENEW: Final = """
    UPDATE credit_leases SET expires_at = now() + make_interval(secs => $2) WHERE owner = $1"""
_GIVE_BACK: Final = """
    WITH returned AS (
        SELECT account_id, least(open_nanos, surplus.nanos) AS nanos
        FROM unnest($2::bigint[], $3::bigint[]) AS surplus (account_id, nanos)
        JOIN credit_leases USING (account_id) WHERE owner = $1
    ), leases AS (
        UPDATE credit_leases SET open_nanos = open_nanos - returned.nanos FROM returned
        WHERE credit_leases.account_id = returned.account_id AND owner = $1
    )
    UPDATE balances SET held_nanos = held_nanos - returned.nanos FROM returned
    WHERE balances.account_id = returned.account_id"""
_CLOSE: Final = """
    WITH closed AS (
        DELETE FROM credit_leases WHERE owner = $1 AND account_id = ANY($2::bigint[])
        RETURNING account_id, open_nanos
    ), freed AS (
        UPDATE balances SET held_nanos = held_nanos - open_nanos FROM closed
        WHERE balances.account_id = closed.account_id
    )
    SELECT coalesce(sum(open_nanos), 0)::bigint FROM closed"""


class LeaseAsk(msgspec.Struct, frozen=True):
    """What a worker asks for an account: at least the hold that waits, better some seconds."""

    account_id: int
    needed_nanos: int
    wanted_nanos: int


async def lease(
    connection: Connection, owner: str, asks: Sequence[LeaseAsk], *, ttl_s: float
) -> dict[int, int]:
    """Lease what the balances allow, and renew all leases of `owner` for `ttl_s` seconds.

    Args:
        connection: To the database of the ledger.
        owner: One life of a worker.
        asks: At most one for each account; none at all just renews.
        ttl_s: For how long the worker may spend without renewing.

    Returns:
        account id -> nano-USD granted; an account that can pay nothing is left out.
    """
    asked = {ask.account_id: ask for ask in asks}
    assert len(asked) == len(asks)
    granted: dict[int, int] = {}
    async with connection.transaction():
        for row in await connection.fetch(_FREE, list(asked)):
            ask = asked[row["account_id"]]
            nanos = lease_nanos(
                row["free_nanos"], needed_nanos=ask.needed_nanos, wanted_nanos=ask.wanted_nanos
            )
            if nanos:
                granted[ask.account_id] = nanos
        await connection.execute(_GRANT, owner, list(granted), list(granted.values()))
        await connection.execute(_RENEW, owner, ttl_s)
    return granted


async def give_back(connection: Connection, owner: str, surplus: Mapping[int, int]) -> None:
    """Return leased money that is not needed: account id -> nano-USD."""
    async with connection.transaction():
        await lock_balances(connection, set(surplus))
        await connection.execute(_GIVE_BACK, owner, list(surplus), list(surplus.values()))


async def close_owner(connection: Connection, owner: str) -> int:
    """End all leases of a worker that is gone; return the nano-USD set free.

    Only after its journal was settled: before, what it spent would be free a second time.
    """
    async with connection.transaction():
        leased = await connection.fetch(
            "SELECT account_id FROM credit_leases WHERE owner = $1", owner
        )
        account_ids = {row["account_id"] for row in leased}
        await lock_balances(connection, account_ids)
        freed: int = await connection.fetchval(_CLOSE, owner, list(account_ids))
    return freed


async def list_expired_owners(connection: Connection) -> list[str]:
    """Return the owners that did not renew in time: candidates for `close_owner`."""
    rows = await connection.fetch(
        "SELECT owner FROM credit_leases GROUP BY owner HAVING max(expires_at) < now()"
    )
    return sorted(row["owner"] for row in rows)
