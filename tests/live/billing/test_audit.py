"""Goal: an audit finds every kind of drift, and none in clean books.

Method: a clean ledger and request log as the control, then one thing at a time falsified by an
owner who disabled the triggers that would have refused it.
"""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from relay.billing.price import charge
from relay.billing.recharge import Credit, Currency
from relay.model import Price, PriceDetail
from relay.store import postgres
from relay.store.billing import orders
from relay.store.billing.audit import DRIFTS_MAX, Audit, run_audit
from relay.store.billing.ledger import CallCharge
from relay.store.billing.orders import Order
from relay.store.catalog.snapshot import read_price
from relay.store.postgres import Connection
from relay.usage import Usage
from tests.live.money_rig import settle_batch

pytestmark = pytest.mark.live

USD = 1_000_000_000
USAGE = Usage(
    input_tokens=1_234,
    cached_tokens=1_000,
    output_tokens=567,
    reasoning_tokens=400,
    audio_output_tokens=100,
)
GROUP_PPM = 690_000


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    """A connection to books in which every table has something, and all is well."""
    connection = await postgres.connect(database_url)
    account_id = await connection.fetchval(
        """WITH made AS (INSERT INTO groups (name) VALUES ('g') RETURNING id)
        INSERT INTO accounts (name, group_id) SELECT 'acme', id FROM made RETURNING id"""
    )
    await connection.execute(
        """INSERT INTO prices (model, input, output, cached_input, model_multiplier_ppm, detail)
        SELECT model, 5000000000, 30000000000, 500000000, multiplier_ppm, detail::jsonb
        FROM (VALUES ('plain', 1000000, NULL), ('fine', 2000000, '{"audio_output": 80000000000}'))
            AS row (model, multiplier_ppm, detail)"""
    )
    prices = [read_price(row) for row in await connection.fetch("SELECT * FROM prices ORDER BY id")]
    assert prices[1].detail == PriceDetail(audio_output=80 * USD)
    await orders.recharge(
        connection,
        Order(
            order_no="A-1",
            account_id=account_id,
            amount_nanos=USD,
            currency=Currency.USD,
            cny_per_usd_nanos=7 * USD,
            credit=Credit(USD, 0),
        ),
    )
    await orders.issue_code(connection, b"d" * 32, USD, actor="test")
    await orders.redeem(connection, b"d" * 32, account_id)
    calls = [await log_call(connection, account_id, price) for price in prices]
    await log_call(connection, account_id, None)
    await settle_batch(connection, calls)
    yield connection
    await connection.close()


async def log_call(connection: Connection, account_id: int, price: Price | None) -> CallCharge:
    """Write the row of the request log that a call leaves; return what is settled for it."""
    number = await connection.fetchval("SELECT count(*) FROM request_log")
    ms = int(datetime.now(UTC).timestamp() * 1000)
    request_id = ms.to_bytes(6) + b"\x70\x00\x80\x00" + int(number).to_bytes(6)
    cost_nanos, price_id, model_ppm = 0, 0, 0
    if price is not None:
        charged = charge(USAGE, price, group_multiplier_ppm=GROUP_PPM)
        cost_nanos, price_id = charged.cost_nanos, charged.price_id
        model_ppm = charged.model_multiplier_ppm
    await connection.execute(
        """INSERT INTO request_log (request_id, ended_at, account_id, key_id, line_id, channel_id,
            input_tokens, cached_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
            audio_output_tokens, ttft_us, total_us, cost_nanos, price_id, group_multiplier_ppm,
            model_multiplier_ppm, attempts, status, stream, estimated, endpoint, model,
            served_model, reason, error_code)
        VALUES (encode($1, 'hex')::uuid, now(), $2, 1, 1, 1, $3, $4, 0, $5, $6, $7, 1, 1, $8, $9,
            $10, $11, 1, 200, true, false, 'chat/completions', 'm', 'm', 'completed', '')""",
        request_id,
        account_id,
        USAGE.input_tokens,
        USAGE.cached_tokens,
        USAGE.output_tokens,
        USAGE.reasoning_tokens,
        USAGE.audio_output_tokens,
        cost_nanos,
        price_id,
        GROUP_PPM,
        model_ppm,
    )
    return CallCharge(request_id, account_id, cost_nanos)


async def test_clean_books_have_no_drift(connection: Connection) -> None:
    assert await run_audit(connection) == Audit(accounts=1, transfers=3, charges=3, drifts=[])


@pytest.mark.parametrize(
    ("falsify", "found"),
    [
        (
            "UPDATE entries SET amount_nanos = amount_nanos + 1 WHERE account_id = -1",
            {"transfer does not balance"},
        ),
        (
            "UPDATE balances SET balance_nanos = balance_nanos + 1 WHERE account_id > 0",
            {"balance is not the sum of its entries"},
        ),
        (
            "UPDATE balances SET held_nanos = 1 WHERE account_id > 0",
            {"held is not the sum of open leases"},
        ),
        (
            "UPDATE settlements SET cost_nanos = cost_nanos + 1",
            {
                "usage entry is not the sum of its settlements",
                "call is not settled as it was logged",
            },
        ),
        (
            "UPDATE orders SET bonus_nanos = 1",
            {"order is not credited as it was opened"},
        ),
        (
            "UPDATE redemption_codes SET amount_nanos = 1",
            {"code is not credited as it was issued"},
        ),
        (
            "UPDATE redemption_codes SET redeemed_at = NULL, account_id = NULL",
            {"code is not credited as it was issued"},
        ),
        ("DELETE FROM orders", {"credit names no order and no code"}),
        ("DELETE FROM redemption_codes", {"credit names no order and no code"}),
        (
            "UPDATE settlements SET retry_nanos = 1",
            {"usage entry is not the sum of its settlements"},
        ),
        (
            "DELETE FROM settlements",
            {
                "usage entry is not the sum of its settlements",
                "call is not settled as it was logged",
            },
        ),
        (
            'INSERT INTO orders SELECT (jsonb_populate_record(orders, \'{"order_no": "A-2"}\')).*'
            " FROM orders",
            {"order is not credited as it was opened"},
        ),
        (
            "DELETE FROM request_log WHERE request_id = (SELECT request_id FROM request_log"
            " ORDER BY request_id OFFSET 1 LIMIT 1)",
            {"call is settled but not logged"},
        ),
        (
            "UPDATE request_log SET output_tokens = output_tokens + 1 WHERE price_id > 0",
            {"charge is not what its price makes of its usage"},
        ),
        (
            "UPDATE request_log SET audio_output_tokens = 0 WHERE model_multiplier_ppm = 2000000",
            {"charge is not what its price makes of its usage"},
        ),
        (
            "UPDATE request_log SET cost_nanos = 1 WHERE price_id = 0",
            {
                "call is not settled as it was logged",
                "charge is not what its price makes of its usage",
            },
        ),
    ],
)
async def test_what_was_falsified_is_found(
    connection: Connection, falsify: str, found: set[str]
) -> None:
    await connection.execute("SET session_replication_role = replica")
    await connection.execute(falsify)
    assert {drift.what for drift in (await run_audit(connection)).drifts} == found


async def test_a_broken_log_is_not_told_row_by_row(connection: Connection) -> None:
    account_id = await connection.fetchval("SELECT id FROM accounts")
    for _ in range(DRIFTS_MAX + 5):
        await log_call(connection, account_id, None)
    await connection.execute("UPDATE request_log SET cost_nanos = 1 WHERE price_id = 0")
    found = await run_audit(connection)
    assert found.charges == DRIFTS_MAX + 8
    assert len(found.drifts) == 2 * DRIFTS_MAX
