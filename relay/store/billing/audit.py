"""Checks the books against themselves: whatever differs by a single nano-dollar is a drift.

Everything is read in one REPEATABLE READ transaction, so it may run while the relay serves. It
finds the sums of all entries, leases, orders and settlements again, and computes each charge of the
request log again from its usage, its price row and its multipliers.
"""

from typing import Final

import asyncpg
import msgspec

from relay.billing.price import charge
from relay.extras import NO_EXTRAS
from relay.model import Price
from relay.records import IMAGE_ENDPOINTS, VIDEO_ENDPOINTS, Endpoint, EndReason
from relay.store.billing.ledger import RETRY_COST
from relay.store.catalog.snapshot import read_price
from relay.store.log.reports import read_usage
from relay.store.postgres import Connection, border
from relay.usage import COUNTS

DRIFTS_MAX: Final = 100
"""Drifts told of each kind; where there are more, something is broken as a whole."""
ROWS_PER_FETCH: Final = 2_000
PROVEN_DAYS: Final = 390
"""Settlements are kept for 400 days; of a batch older than this some may be gone already."""

# Each finds (subject, expected, found) where the two differ.
_SUMS: Final = {
    "transfer does not balance": """
        SELECT transfer_id::text, 0::bigint, sum(amount_nanos)::bigint
        FROM entries GROUP BY transfer_id HAVING sum(amount_nanos) <> 0""",
    "balance is not the sum of its entries": """
        SELECT account_id::text, coalesce(sum(amount_nanos), 0)::bigint, balance_nanos
        FROM balances LEFT JOIN entries USING (account_id) WHERE account_id > 0
        GROUP BY account_id, balance_nanos
        HAVING coalesce(sum(amount_nanos), 0) <> balance_nanos""",
    "held is not the sum of open leases": """
        SELECT account_id::text, coalesce(sum(open_nanos), 0)::bigint, held_nanos
        FROM balances LEFT JOIN credit_leases USING (account_id)
        GROUP BY account_id, held_nanos HAVING coalesce(sum(open_nanos), 0) <> held_nanos""",
    # Both ways: a settlement that no entry charges, and an entry that no settlement explains. The
    # retry cost of a batch is one entry, under the relay's own account.
    "usage entry is not the sum of its settlements": f"""
        WITH usage AS (
            SELECT id AS transfer_id FROM transfers
            WHERE kind = 'usage' AND created_at > now() - interval '{PROVEN_DAYS} days'
        ), settled AS (
            SELECT transfer_id, account_id, sum(cost_nanos)::bigint AS nanos
            FROM settlements JOIN usage USING (transfer_id) GROUP BY transfer_id, account_id
            HAVING sum(cost_nanos) <> 0
            UNION ALL
            SELECT transfer_id, {RETRY_COST}, sum(retry_nanos)::bigint
            FROM settlements JOIN usage USING (transfer_id) GROUP BY transfer_id
            HAVING sum(retry_nanos) <> 0
        ), booked AS (
            SELECT transfer_id, account_id, -amount_nanos AS nanos
            FROM entries JOIN usage USING (transfer_id)
            WHERE account_id > 0 OR account_id = {RETRY_COST}
        )
        SELECT transfer_id || ' of account ' || account_id, coalesce(settled.nanos, 0),
            coalesce(booked.nanos, 0)
        FROM settled FULL JOIN booked USING (transfer_id, account_id)
        WHERE coalesce(settled.nanos, 0) <> coalesce(booked.nanos, 0)""",  # noqa: S608 - numbers
    "order is not credited as it was opened": """
        SELECT order_no, owed, coalesce(entries.amount_nanos, 0)
        FROM (SELECT *, CASE status WHEN 'credited' THEN paid_nanos + bonus_nanos ELSE 0 END AS owed
              FROM orders) AS opened
        LEFT JOIN transfers ON transfers.kind = 'order' AND ref = order_no
        LEFT JOIN entries ON transfer_id = transfers.id AND entries.account_id = opened.account_id
        WHERE owed <> coalesce(entries.amount_nanos, 0)""",
    "code is not credited as it was issued": """
        SELECT 'code ' || issued.id, owed, coalesce(entries.amount_nanos, 0)
        FROM (SELECT *, CASE WHEN redeemed_at IS NULL THEN 0 ELSE amount_nanos END AS owed
              FROM redemption_codes) AS issued
        LEFT JOIN transfers ON transfers.kind = 'code' AND ref = encode(digest, 'hex')
        LEFT JOIN entries ON transfer_id = transfers.id AND entries.account_id > 0
            AND (issued.account_id IS NULL OR entries.account_id = issued.account_id)
        WHERE owed <> coalesce(entries.amount_nanos, 0)""",
    "credit names no order and no code": """
        SELECT kind || ' transfer ' || id, 0::bigint, amount_nanos
        FROM transfers JOIN entries ON transfer_id = id AND account_id > 0
        WHERE kind = 'order' AND NOT EXISTS (SELECT FROM orders WHERE order_no = ref)
            OR kind = 'code'
            AND NOT EXISTS (SELECT FROM redemption_codes WHERE encode(digest, 'hex') = ref)""",
    "call is not settled as it was logged": """
        SELECT request_id::text, request_log.cost_nanos, coalesce(settlements.cost_nanos, 0)
        FROM request_log LEFT JOIN settlements USING (request_id)
        WHERE request_log.cost_nanos <> coalesce(settlements.cost_nanos, 0)""",
    "call is settled but not logged": """
        SELECT request_id::text, 0::bigint, settlements.cost_nanos
        FROM settlements LEFT JOIN request_log USING (request_id)
        WHERE request_log.request_id IS NULL AND settlements.cost_nanos > 0
            AND request_id > (SELECT request_id FROM request_log ORDER BY request_id LIMIT 1)""",
}
_CHARGES: Final = f"""
    SELECT request_id, cost_nanos, price_id, group_multiplier_ppm, model_multiplier_ppm,
        {", ".join(COUNTS)}, estimated, extras, endpoint, reason
    FROM request_log"""  # noqa: S608 (names of our own fields)


class Drift(msgspec.Struct, frozen=True):
    """Something that should be equal and is not; nano-USD."""

    what: str
    subject: str
    expected_nanos: int
    found_nanos: int


class Audit(msgspec.Struct, frozen=True):
    """What was looked at, and what was found; at most DRIFTS_MAX drifts of each kind."""

    accounts: int
    transfers: int
    charges: int
    drifts: list[Drift]


async def run_audit(connection: Connection) -> Audit:
    """Recompute every balance and every charge that the log still holds.

    Raises:
        DependencyDown: Postgres does not answer.
    """
    with border():
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            # A log of months takes longer to add up than a statement may take elsewhere.
            await connection.execute("SET LOCAL statement_timeout = 0")
            drifts = [
                Drift(what, *row)
                for what, statement in _SUMS.items()
                for row in await connection.fetch(f"{statement} LIMIT {DRIFTS_MAX}", timeout=None)
            ]
            charges, wrong = await _audit_charges(connection)
            return Audit(
                accounts=await connection.fetchval(
                    "SELECT count(*) FROM balances WHERE account_id > 0"
                ),
                transfers=await connection.fetchval("SELECT count(*) FROM transfers"),
                charges=charges,
                drifts=drifts + wrong,
            )


async def _audit_charges(connection: Connection) -> tuple[int, list[Drift]]:
    """Return how many calls of the log were computed again, and those that come out differently."""
    prices = {row["id"]: read_price(row) for row in await connection.fetch("SELECT * FROM prices")}
    charges = 0
    wrong: list[Drift] = []
    async for row in connection.cursor(_CHARGES, prefetch=ROWS_PER_FETCH):
        charges += 1
        if len(wrong) < DRIFTS_MAX and (drift := _find_drift(row, prices)) is not None:
            wrong.append(drift)
    return charges, wrong


def _find_drift(row: asyncpg.Record, prices: dict[int, Price]) -> Drift | None:
    """Return what is wrong with the charge of a call, None for nothing."""
    expected_nanos, found_nanos = _recompute(row, prices), row["cost_nanos"]
    subject = str(row["request_id"])
    if expected_nanos != found_nanos:
        what = "charge is not what its price makes of its usage"
        return Drift(what, subject, expected_nanos, found_nanos)
    if _lacks_its_unit(row, prices):
        return Drift("call is charged for none of its units", subject, 1, found_nanos)
    return None


def _lacks_its_unit(row: asyncpg.Record, prices: dict[int, Price]) -> bool:
    """Tell whether a whole answer counts nothing of what its endpoint is priced by."""
    price = prices.get(row["price_id"])
    if price is None or price.detail is None or row["reason"] != EndReason.COMPLETED:
        return False
    usage = read_usage(row)
    if row["endpoint"] in IMAGE_ENDPOINTS:
        return not usage.images and bool(price.detail.per_image or price.detail.image_classes)
    extras = usage.extras or NO_EXTRAS
    if row["endpoint"] == Endpoint.SPEECH:
        return not extras.characters and price.detail.character > 0
    if row["endpoint"] in VIDEO_ENDPOINTS and row["price_id"]:  # a failed one has no price
        priced = price.detail.per_video_second or price.detail.video_classes
        return not extras.video_ms and bool(priced)
    return False


def _recompute(row: asyncpg.Record, prices: dict[int, Price]) -> int:
    price = prices.get(row["price_id"])
    if price is None:
        return 0  # Nothing was charged: no price was applied.
    price = msgspec.structs.replace(price, model_multiplier_ppm=row["model_multiplier_ppm"])
    return charge(
        read_usage(row), price, group_multiplier_ppm=row["group_multiplier_ppm"]
    ).cost_nanos
