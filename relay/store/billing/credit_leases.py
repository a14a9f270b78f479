"""Credit leases: slices of balances that workers spend without asking (see billing.purse).

    lease          free balance -> held, for one life of a worker; and back, what it does not need
    settle         held -> spent, as its calls arrive in the ledger (ledger.book_calls)
    set_apart      held for a call whose worker is gone -> held for it by itself
    close_owner    all that is left of a dead worker -> free, once its journal is settled
    free_abandoned the same for one whose journal never came, a day after it fell silent and a look

A worker that has not renewed for its lease's time to live must stop spending. Nobody closes a lease
by the clock alone while its journal may still come; where that happens all the same, what it spent
is taken from the balance, as debts are.
"""

import datetime
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from relay.billing.purse import lease_nanos
from relay.billing.shapes import CreditLease, CreditRequest
from relay.errors import Conflict
from relay.store.billing.ledger import lock_balances
from relay.store.postgres import Connection

RECALL_CHANNEL: Final = "relay_credit"
"""A notification on it is an account's id: who has credit of it to spare gives it back."""
ABANDONED_S: Final = 86_400.0
"""A host that is gone for good must not keep its customers' money; its journal may take a day."""

# Whoever leases or closes locks the owner first and balances after it, in the order of ids.
_RENEW: Final = """
    INSERT INTO credit_owners AS kept (owner, expires_at)
    VALUES ($1, now() + make_interval(secs => $2))
    ON CONFLICT (owner) DO UPDATE SET expires_at = excluded.expires_at
    WHERE kept.closed_at IS NULL
    RETURNING owner"""
_STANDING: Final = """
    SELECT account_id, balance_nanos + credit_limit_nanos AS owned_nanos, held_nanos,
        deleted_at IS NULL AND NOT disabled AS good
    FROM balances JOIN accounts ON accounts.id = customer_id
    WHERE account_id = ANY($1::bigint[])
    ORDER BY account_id FOR NO KEY UPDATE OF balances"""
_GIVE_BACK: Final = """
    WITH returned AS (
        SELECT account_id, least(open_nanos, surplus.nanos) AS nanos
        FROM unnest($2::bigint[], $3::bigint[]) AS surplus (account_id, nanos)
        JOIN credit_leases USING (account_id) WHERE owner = $1
    ), leases AS (
        UPDATE credit_leases SET open_nanos = open_nanos - returned.nanos,
            granted_nanos = granted_nanos - returned.nanos
        FROM returned
        WHERE credit_leases.account_id = returned.account_id AND owner = $1
    )
    UPDATE balances SET held_nanos = held_nanos - returned.nanos FROM returned
    WHERE balances.account_id = returned.account_id"""
_GRANT: Final = """
    WITH asked AS (
        SELECT * FROM unnest($2::bigint[], $3::bigint[]) AS row (account_id, nanos)
    ), freed AS (
        UPDATE balances SET held_nanos = held_nanos + nanos FROM asked
        WHERE balances.account_id = asked.account_id AND nanos > 0
    )
    INSERT INTO credit_leases AS kept (account_id, owner, open_nanos, granted_nanos)
    SELECT account_id, $1, nanos, nanos FROM asked
    ON CONFLICT (account_id, owner) DO UPDATE SET
        open_nanos = kept.open_nanos + excluded.open_nanos,
        granted_nanos = kept.granted_nanos + excluded.granted_nanos
    RETURNING account_id, granted_nanos"""
_CLOSE_OWNER: Final = """
    INSERT INTO credit_owners (owner, expires_at, closed_at) VALUES ($1, now(), now())
    ON CONFLICT (owner) DO UPDATE SET closed_at = excluded.closed_at"""
_CLOSE: Final = """
    WITH closed AS (
        DELETE FROM credit_leases WHERE owner = $1 AND account_id = ANY($2::bigint[])
        RETURNING account_id, open_nanos
    ), freed AS (
        UPDATE balances SET held_nanos = held_nanos - open_nanos FROM closed
        WHERE balances.account_id = closed.account_id
    )
    SELECT coalesce(sum(open_nanos), 0)::bigint FROM closed"""
# As balances, windows are locked before any of them is changed, and in order.
_CLOSE_BUDGETS: Final = """
    WITH locked AS (
        SELECT name FROM budget_windows
        WHERE name IN (SELECT window_name FROM budget_leases WHERE owner = $1)
        ORDER BY name FOR NO KEY UPDATE
    ), closed AS (
        DELETE FROM budget_leases USING locked WHERE owner = $1 AND window_name = name
        RETURNING window_name, open
    )
    UPDATE budget_windows SET held = held - open FROM closed
    WHERE budget_windows.name = window_name"""
# Only an owner that is closed has leases that nobody else changes.
_SET_APART: Final = """
    WITH moved AS (
        SELECT account_id, least(open_nanos, $4::bigint) AS nanos FROM credit_leases
        WHERE owner = $1 AND account_id = $3 FOR UPDATE
    ), left_over AS (
        UPDATE credit_leases SET open_nanos = open_nanos - moved.nanos,
            granted_nanos = granted_nanos - moved.nanos
        FROM moved WHERE credit_leases.account_id = moved.account_id AND owner = $1
    )
    INSERT INTO credit_leases (account_id, owner, open_nanos, granted_nanos)
    SELECT account_id, $2, nanos, nanos FROM moved WHERE nanos > 0"""
_EXPIRED: Final = """
    SELECT owner, expires_at FROM credit_owners
    WHERE closed_at IS NULL AND expires_at < now() - make_interval(secs => $1) ORDER BY owner"""
_FORGET: Final = """
    DELETE FROM credit_owners WHERE closed_at < now() - make_interval(secs => $1)
        AND NOT EXISTS (SELECT FROM credit_leases AS kept WHERE kept.owner = credit_owners.owner)
        AND NOT EXISTS (SELECT FROM budget_leases AS kept WHERE kept.owner = credit_owners.owner)"""


async def lease(
    connection: Connection,
    owner: str,
    asks: Sequence[CreditRequest],
    *,
    ttl_s: float,
    surplus: Mapping[int, int] | None = None,
) -> dict[int, CreditLease]:
    """Lease what the balances allow, take back what is surplus, and renew all leases of `owner`.

    Args:
        connection: To the database of the ledger.
        owner: One life of a worker.
        asks: At most one for each account; none at all just renews.
        ttl_s: For how long the worker may spend without renewing.
        surplus: account id -> nano-USD that are given back, before anything is leased.

    Returns:
        account id -> how it stands; an account that does not exist, or may not call, is left out.

    Raises:
        Conflict: The owner was closed: it counts as dead.
    """
    surplus = surplus or {}
    asked = {ask.account_id: ask for ask in asks}
    assert len(asked) == len(asks)
    async with connection.transaction():
        if not await renew(connection, owner, ttl_s):
            raise Conflict("The leases of this worker were closed.")
        if not (asked or surplus):
            return {}
        if surplus:
            await lock_balances(connection, surplus.keys() | asked.keys())
            await connection.execute(_GIVE_BACK, owner, list(surplus), list(surplus.values()))
        if not asked:
            return {}
        standing = [row for row in await connection.fetch(_STANDING, list(asked)) if row["good"]]
        granted = {
            row["account_id"]: lease_nanos(
                row["owned_nanos"] - row["held_nanos"],
                needed_nanos=asked[row["account_id"]].needed_nanos,
                wanted_nanos=asked[row["account_id"]].wanted_nanos,
            )
            for row in standing
        }
        told = await connection.fetch(_GRANT, owner, list(granted), list(granted.values()))
        lacking = [
            row["account_id"]
            for row in standing
            if not granted[row["account_id"]]
            and 0 < asked[row["account_id"]].needed_nanos <= row["owned_nanos"]
        ]
        await _recall(connection, lacking)
    total = {row["account_id"]: row["granted_nanos"] for row in told}
    return {
        row["account_id"]: CreditLease(
            total[row["account_id"]],
            row["owned_nanos"] - row["held_nanos"] - granted[row["account_id"]],
            row["owned_nanos"],
        )
        for row in standing
    }


async def renew(connection: Connection, owner: str, ttl_s: float) -> bool:
    """Renew all that an owner leases; False: it was closed. Locks its row."""
    return await connection.fetchval(_RENEW, owner, ttl_s) is not None


async def _recall(connection: Connection, account_ids: Collection[int]) -> None:
    """Tell all workers that somebody lacks what they may have to spare."""
    if account_ids:
        await connection.execute(
            "SELECT pg_notify($1, id::text) FROM unnest($2::bigint[]) AS id",
            RECALL_CHANNEL,
            list(account_ids),
        )


async def close_owner(connection: Connection, owner: str) -> int:
    """End all leases of a worker that is gone, for good; return the nano-USD set free.

    Only after its journal was settled: before, what it spent would be free a second time.
    """
    async with connection.transaction():
        await connection.execute(_CLOSE_OWNER, owner)
        await connection.execute(_CLOSE_BUDGETS, owner)
        leased = await connection.fetch(
            "SELECT account_id FROM credit_leases WHERE owner = $1", owner
        )
        account_ids = {row["account_id"] for row in leased}
        await lock_balances(connection, account_ids)
        freed: int = await connection.fetchval(_CLOSE, owner, list(account_ids))
    return freed


async def set_apart(
    connection: Connection, owner: str, heir: str, account_id: int, nanos: int, *, ttl_s: float
) -> None:
    """Have an heir hold what a worker that is gone held for one call, as far as it is there.

    Args:
        connection: In the transaction that closes `owner`, before it does.
        owner: A life of a worker that has ended.
        heir: Who holds it from now on, for this one call.
        account_id: Whose money it is.
        nanos: What was held.
        ttl_s: For how long.
    """
    await connection.execute(_CLOSE_OWNER, owner)
    await renew(connection, heir, ttl_s)
    await connection.execute(_SET_APART, owner, heir, account_id, nanos)


async def list_expired_owners(connection: Connection, *, for_s: float = 0.0) -> list[str]:
    """Return the owners that ought to have renewed `for_s` seconds ago, or earlier."""
    return [row["owner"] for row in await connection.fetch(_EXPIRED, for_s)]


async def free_abandoned(
    connection: Connection, suspects: dict[str, datetime.datetime], *, silent_s: float = ABANDONED_S
) -> int:
    """Close owners that fell silent so long ago that nobody will settle them; return their money.

    Owners that were closed as long ago are forgotten: no question of theirs is still on its way.

    Args:
        connection: To the database of the ledger.
        suspects: Who was silent at the last look, and until when they had renewed; renewed here.
            Only who has not renewed since is closed: a clock of Postgres that was set forward by a
            day makes the living look silent too, once.
        silent_s: For how long.
    """
    freed = 0
    silent = {row["owner"]: row["expires_at"] for row in await connection.fetch(_EXPIRED, silent_s)}
    for owner, expires_at in silent.items():
        if suspects.get(owner) == expires_at:
            freed += await close_owner(connection, owner)
    suspects.clear()
    suspects.update(silent)
    await connection.execute(_FORGET, silent_s)
    return freed
