"""One call, explained: the sum to the nano-dollar, the channels asked, where it was booked."""

from typing import Any

import asyncpg

from relay.billing.price import itemise
from relay.billing.shapes import Item
from relay.console.queries.calls import read_page
from relay.console.queries.forms import CallFilter, format_moment, from_us, to_us
from relay.console.rows import CallDetail, CallRow, ReceiptItem, TryRow
from relay.errors import NotFound
from relay.store.catalog.snapshot import read_price
from relay.store.log.reports import explain_call, find_call, read_usage
from relay.store.postgres import Connection
from relay.units import TOKENS_PER_PRICE

__all__ = ["format_moment", "read_detail"]

SCALED_PER_USD = 10**15
"""A rate is nano-USD times a million."""


async def read_detail(
    connection: Connection, request_id: str, account_id: int | None
) -> CallDetail:
    """Return all there is of a call, of one account or of any (None).

    Raises:
        BadRequest: CLIENT; that is no request id.
        NotFound: CLIENT; there is no such call there.
    """
    record = await find_call(connection, request_id, account_id)
    told = await explain_call(connection, record)
    return CallDetail(
        call=await _read_row(connection, record),
        started=told["started"],
        price_id=told["price_id"],
        items=await _itemise(connection, record),
        group_multiplier=told["group_multiplier"],
        model_multiplier=told["model_multiplier"],
        receipt=told["receipt"],
        transfer=told["transfer"],
        tries=[TryRow(**one) for one in told["tries"]],
    )


async def _read_row(connection: Connection, record: asyncpg.Record) -> CallRow:
    """Return the call as the log's page shows it."""
    ended_us = to_us(record["ended_at"])
    wanted = CallFilter(
        account_id=record["account_id"],
        since=record["ended_at"],
        until=from_us(ended_us + 1),
        request_id=record["request_id"],
    )
    page = await read_page(connection, wanted, 1)
    if not page.logs:
        raise NotFound("there is no call of this id in the request log")
    return page.logs[0]


async def _itemise(connection: Connection, record: asyncpg.Record) -> list[ReceiptItem]:
    row = await connection.fetchrow("SELECT * FROM prices WHERE id = $1", record["price_id"])
    if row is None:
        return []
    return [_to_item(item) for item in itemise(read_usage(record), read_price(row))]


def _to_item(item: Item) -> ReceiptItem:
    rate = _exact(item.rate_scaled, SCALED_PER_USD)
    # Sound is counted in milliseconds and priced by the second.
    count = item.count / item.per if item.per == 1_000 else item.count
    named: dict[str, Any] = {"name": item.name, "count": count}
    return ReceiptItem(
        usd_per_million=rate if item.per == TOKENS_PER_PRICE else None,
        usd_apiece=None if item.per == TOKENS_PER_PRICE else rate,
        amount_usd=_exact(item.cost_scaled, SCALED_PER_USD * TOKENS_PER_PRICE),
        **named,
    )


def _exact(value: int, scale: int) -> str:
    """Return value / scale (a power of ten) as a decimal that is exact."""
    whole, part = divmod(value, scale)
    digits = str(part).rjust(len(str(scale)) - 1, "0").rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)
