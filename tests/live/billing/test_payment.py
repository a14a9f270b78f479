"""Goal: whatever a shop sends, each paid order is credited once, and nothing else ever is.

Method: the admin API in this process on a real Postgres, and callbacks signed, forged, repeated,
reordered, at once, cut off between their two steps.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from relay.billing.recharge import Currency
from relay.config import Billing, Config
from relay.control.api.payment import BODY_BYTES_MAX
from relay.control.watch.money import MoneyWatch
from relay.control.watch.notices import Notices
from relay.errors import NotFound
from relay.store.billing import orders, recharges
from relay.store.postgres import Connection
from tests.live.money_rig import (
    SECRET,
    USD,
    Mailbox,
    Shop,
    assert_no_drift,
    balance_of,
    connected,
    make_account,
    opening,
    payment,
    signed,
)

pytestmark = pytest.mark.live


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url) as connection:
        await make_account(connection, "acme")
        await make_account(connection, "other")
        yield connection


@pytest.fixture
async def shop(database_url: str, connection: Connection, tmp_path: Path) -> AsyncIterator[Shop]:
    """The shop; an order of 100 USD or more brings 5 % on top."""
    async with opening(database_url, tmp_path) as shop:
        yield shop


async def acme(connection: Connection) -> int:
    return await balance_of(connection, await recharges.find_account(connection, "acme"))


async def test_a_paid_order_is_credited_and_says_so(shop: Shop, connection: Connection) -> None:
    status, opened = await shop.api(
        "POST", "/orders", {"account": "acme", "amount": "100", "order": "A-1"}
    )
    assert (status, opened) == (201, {"order": "A-1", "status": "pending"})
    assert await acme(connection) == 0
    status, paid = await shop.pay("A-1", payment="ch_1")
    assert (status, paid) == (
        200,
        {
            "order": "A-1",
            "status": "credited",
            "credited": True,
            "paid_usd": "100",
            "bonus_usd": "5",
        },
    )
    assert (await shop.pay("A-1"))[1]["credited"] is False
    assert await acme(connection) == 105 * USD
    (row,) = (await shop.api("GET", "/orders?account=acme&status=credited"))[1]["orders"]
    assert (row["order"], row["payment"], row["amount"]) == ("A-1", "ch_1", "100")
    await assert_no_drift(connection)


async def test_duplicates_at_once_and_in_any_order_credit_once(
    shop: Shop, connection: Connection
) -> None:
    """Twenty orders, each told thirteen times, some before they are opened, failures in between."""
    dice = random.Random(2026)
    sent = [
        shop.pay(f"A-{number}", status=status)
        for number in range(20)
        for status in ["paid"] * 8 + ["pending"] * 3 + ["failed"] * 2
    ] + [
        shop.api("POST", "/orders", {"account": "acme", "amount": "100", "order": f"A-{number}"})
        for number in range(20)
    ]
    dice.shuffle(sent)
    answers = await asyncio.gather(*sent)
    assert {status for status, _ in answers} <= {200, 201}
    assert sum(body.get("credited", False) for _, body in answers) == 20
    assert await acme(connection) == 20 * 105 * USD
    assert shop.mailbox.sent == []
    await assert_no_drift(connection)


@pytest.mark.parametrize(
    "fields",
    [
        {"amount": "100.01"},
        {"amount": "99"},
        {"currency": "CNY"},
        {"account": "other"},
    ],
)
@pytest.mark.parametrize("credited_before", [False, True])
async def test_a_callback_that_contradicts_its_order_is_a_409_and_an_alarm(
    shop: Shop, connection: Connection, fields: dict[str, str], *, credited_before: bool
) -> None:
    await shop.api("POST", "/orders", {"account": "acme", "amount": "100", "order": "A-1"})
    if credited_before:
        await shop.pay("A-1")
    before = await acme(connection)
    status, body = await shop.pay("A-1", **fields)
    assert status == 409
    assert "another account, amount or currency" in body["error"]["message"]
    (told,) = shop.mailbox.sent
    assert (told["event"], told["order"]) == ("payment_refused", "A-1")
    assert await acme(connection) == before
    await assert_no_drift(connection)


async def test_an_order_opened_again_with_other_terms_is_a_409(shop: Shop) -> None:
    opened = {"account": "acme", "amount": "100", "order": "A-1"}
    assert (await shop.api("POST", "/orders", opened))[0] == 201
    assert (await shop.api("POST", "/orders", opened))[0] == 201
    assert (await shop.api("POST", "/orders", {**opened, "amount": "1"}))[0] == 409


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"not json",
        orjson.dumps(payment("A-1", amount="-5")),
        orjson.dumps(payment("A-1", amount="NaN")),
        orjson.dumps(payment("A-1", amount="9000000000")),
        orjson.dumps(payment("A-1", amount="10000000.000000001", currency="CNY")),
        orjson.dumps(payment("A-1", amount="1e400000")),
        orjson.dumps(payment("A-1", currency="EUR")),
        orjson.dumps(payment("A-1", account="nobody")),
        orjson.dumps(payment("A-1", typo="x")),
        orjson.dumps(payment("A-1", amount=100)),
        orjson.dumps(payment(" A-1")),
        orjson.dumps(payment("A\x00-1")),
        orjson.dumps({"order": "A-1", "status": "paid"}),
    ],
)
async def test_signed_nonsense_credits_nothing_and_is_told(
    shop: Shop, connection: Connection, body: bytes
) -> None:
    status, _ = await shop.post(body, signed(body))
    assert status in (400, 404)
    assert shop.mailbox.events() == ["payment_refused"]
    assert await connection.fetchval("SELECT count(*) FROM orders") == 0


async def test_what_is_not_signed_now_by_us_is_refused(shop: Shop, connection: Connection) -> None:
    body = orjson.dumps(payment("A-1"))
    good = signed(body)
    for headers in (
        {},
        {**good, "x-relay-signature": ""},
        {**good, "x-relay-signature": "0" * 64},
        {**good, "x-relay-timestamp": "0"},
        {**good, "x-relay-timestamp": str(int(good["x-relay-timestamp"]) + 1)},
        signed(body, secret="another"),
        signed(body, age_s=301),
        signed(body, age_s=-301),
        signed(body + b" "),
    ):
        status, answer = await shop.post(body, headers)
        assert status == 401
        assert SECRET not in str(answer)
    assert shop.mailbox.sent == []
    assert await connection.fetchval("SELECT count(*) FROM orders") == 0
    assert (await shop.post(body, signed(body, age_s=290)))[0] == 200


async def test_a_callback_has_a_bound(shop: Shop) -> None:
    body = b" " * (BODY_BYTES_MAX + 1)
    assert (await shop.post(body, signed(body)))[0] == 413
    body = b" " * (1024 * 1024)
    assert (await shop.post(body, signed(body)))[0] == 413


async def test_without_a_secret_every_callback_is_refused(
    database_url: str, connection: Connection, tmp_path: Path
) -> None:
    async with opening(database_url, tmp_path, billing=Billing()) as shop:
        body = orjson.dumps(payment("A-1"))
        for secret in ("", SECRET):
            status, _ = await shop.post(body, signed(body, secret=secret))
            assert status == 503
    assert await connection.fetchval("SELECT count(*) FROM orders") == 0


async def test_a_death_between_paid_and_credited_loses_nothing(
    shop: Shop, connection: Connection
) -> None:
    billing = Billing()
    order = await recharges.compose_order(
        connection, billing, "acme", ("10", Currency.USD), order_no="A-1", actor="test"
    )
    await orders.mark_paid(connection, order, payment="ch_1")
    assert await acme(connection) == 0
    (row,) = await orders.list_orders(connection, "acme", "paid", 10)
    assert row["credited_at"] is None

    async def connect() -> Connection:
        raise AssertionError("one look needs no connection of its own")

    watch = MoneyWatch(Config(), connect, Notices(Mailbox(), lambda: 0.0))
    await watch.look(connection)
    await watch.look(connection)
    assert await acme(connection) == 10 * USD
    # The shop, which got no answer, sends it again.
    assert (await shop.pay("A-1", amount="10"))[1]["credited"] is False
    assert await acme(connection) == 10 * USD
    await assert_no_drift(connection)


async def test_an_order_that_cannot_be_booked_holds_up_nobody(connection: Connection) -> None:
    await connection.execute(
        """INSERT INTO orders (order_no, account_id, currency, amount_nanos, cny_per_usd_nanos,
            paid_nanos, bonus_nanos, status, paid_at)
        SELECT order_no, accounts.id, 'USD', 1, 1, paid, paid, 'paid', now()
        FROM accounts, (VALUES ('A-0', 9000000000000000000), ('A-1', 5)) AS made (order_no, paid)
        WHERE accounts.name = 'acme'"""
    )

    async def connect() -> Connection:
        raise AssertionError("one look needs no connection of its own")

    mailbox = Mailbox()
    watch = MoneyWatch(Config(), connect, Notices(mailbox, lambda: 0.0))
    await watch.look(connection)
    await watch.look(connection)
    assert await acme(connection) == 10
    (told,) = mailbox.sent
    assert (told["event"], told["order"]) == ("order_set_aside", "A-0")
    (row,) = await orders.list_orders(connection, "acme", "paid", 10)
    assert row["set_aside_at"] is not None and row["fault"] == told["fault"]
    await orders.take_up(connection, "A-0")
    await watch.look(connection)
    assert mailbox.events() == ["order_set_aside"] * 2
    with pytest.raises(NotFound):
        await orders.take_up(connection, "A-1")


async def test_cny_is_credited_at_the_rate_of_the_day_it_was_opened(
    database_url: str, connection: Connection, tmp_path: Path
) -> None:
    terms = {"account": "acme", "amount": "720", "currency": "CNY", "order": "A-1"}
    async with opening(database_url, tmp_path, billing=Billing(cny_per_usd="7.2")) as shop:
        await shop.api("POST", "/orders", terms)
    file = tmp_path / "hook.secret"
    file.write_text(SECRET)
    later = Billing(cny_per_usd="8", payment_secret=f"file:{file}", bonus={"1": "0.5"})
    async with opening(database_url, tmp_path, billing=later) as shop:
        assert (await shop.pay("A-1", amount="720", currency="CNY"))[1]["paid_usd"] == "100"
    assert await acme(connection) == 100 * USD


async def test_orders_go_forward_only_whoever_asks(connection: Connection) -> None:
    order = await recharges.compose_order(
        connection, Billing(), "acme", ("10", Currency.USD), order_no="A-1", actor="test"
    )
    await orders.recharge(connection, order)
    for change in (
        "status = 'pending', paid_at = NULL, credited_at = NULL",
        "status = 'paid', credited_at = NULL",
        "paid_nanos = 1",
        "account_id = account_id + 1",
    ):
        with pytest.raises(Exception, match=r"go back|terms"):
            await connection.execute(f"UPDATE orders SET {change}")
