"""Goal: money over the admin API: the same rules as the commands', and only for the token.

Method: the admin API in this process on a real Postgres.
"""

import datetime
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.config import Billing
from relay.store.postgres import Connection
from tests.live.money_rig import Shop, assert_no_drift, connected, make_account, opening

pytestmark = pytest.mark.live

PAID = {"account": "acme", "amount": "100.50", "order": "A-1"}
POSTS = ("/recharges", "/orders", "/credits", "/codes", "/codes/redeem")


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url) as connection:
        await make_account(connection, "acme")
        yield connection
        await assert_no_drift(connection)


@pytest.fixture
async def shop(database_url: str, connection: Connection, tmp_path: Path) -> AsyncIterator[Shop]:
    async with opening(database_url, tmp_path) as shop:
        yield shop


@pytest.mark.parametrize("path", [*POSTS, "/ledger?account=acme", "/balance?account=acme"])
async def test_without_the_token_nothing_is_told_or_done(shop: Shop, path: str) -> None:
    method = "POST" if path in POSTS else "GET"
    for token in ("", "wrong", "\u00e9"):
        assert (await shop.api(method, path, PAID, token=token))[0] == 401


async def test_a_recharge_is_credited_once_by_its_number(shop: Shop) -> None:
    status, row = await shop.api("POST", "/recharges", PAID)
    assert (status, row["credited"], row["balance_usd"]) == (201, True, "105.525")
    status, row = await shop.api("POST", "/recharges", PAID)
    assert (status, row["credited"], row["balance_usd"]) == (200, False, "105.525")
    assert (await shop.api("POST", "/recharges", {**PAID, "amount": "1"}))[0] == 409
    assert shop.mailbox.events() == ["payment_refused"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/recharges", {**PAID, "amount": "-1"}, 400),
        ("/recharges", {**PAID, "amount": "1e-10"}, 400),
        ("/recharges", {**PAID, "amount": "Infinity"}, 400),
        ("/recharges", {**PAID, "account": "nobody"}, 404),
        ("/recharges", {**PAID, "order": ""}, 400),
        ("/recharges", {**PAID, "order": "x" * 129}, 400),
        ("/recharges", {**PAID, "currency": "EUR"}, 400),
        ("/recharges", [PAID], 400),
        ("/credits", {"account": "acme", "amount_usd": "0", "reason": "r", "actor": "a"}, 400),
        ("/credits", {"account": "acme", "amount_usd": "1", "reason": " ", "actor": "a"}, 400),
        ("/credits", {"account": "acme", "amount_usd": "1", "reason": "r"}, 400),
        ("/codes", {"amount_usd": "1", "count": 0}, 400),
        ("/codes", {"amount_usd": "1", "count": 1001}, 400),
        ("/codes", {"amount_usd": "-1"}, 400),
        ("/codes/redeem", {"account": "acme", "code": "nonsense"}, 400),
    ],
)
async def test_what_cannot_be_is_refused_and_changes_nothing(
    shop: Shop, connection: Connection, path: str, body: Any, status: int
) -> None:
    found, answer = await shop.api("POST", path, body)
    assert found == status
    assert answer["error"]["message"]
    assert await connection.fetchval("SELECT count(*) FROM transfers") == 0


async def test_codes_are_shown_once_and_redeemed_once(shop: Shop, connection: Connection) -> None:
    status, made = await shop.api("POST", "/codes", {"amount_usd": "2.5", "count": 3})
    assert (status, len(made["codes"])) == (201, 3)
    code = made["codes"][0]["code"]
    rows = (await shop.api("GET", "/codes"))[1]["codes"]
    assert [row["redeemed_at"] for row in rows] == [None] * 3
    dump = str(await connection.fetch("SELECT * FROM redemption_codes"))
    assert code not in dump
    assert code.replace("-", "") not in str(rows)
    wanted = {"account": "acme", "code": code.lower()}
    assert (await shop.api("POST", "/codes/redeem", wanted))[1]["balance_usd"] == "2.5"
    status, answer = await shop.api("POST", "/codes/redeem", wanted)
    assert status == 400
    assert code.lower() not in str(answer).lower()
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=1)
    late = {"amount_usd": "1", "expires": past.isoformat()}
    code = (await shop.api("POST", "/codes", late))[1]["codes"][0]["code"]
    assert (await shop.api("POST", "/codes/redeem", {**wanted, "code": code}))[0] == 400


async def test_every_change_is_written_down(shop: Shop, database_url: str) -> None:
    await shop.api("POST", "/recharges", PAID)
    await shop.api("POST", "/recharges", {"account": "nobody"})
    await shop.api("GET", "/ledger?account=acme")
    async with connected(database_url) as connection:
        rows = await connection.fetch("SELECT actor, act, target, host(ip) AS ip FROM audit_log")
    assert [tuple(row) for row in rows] == [
        ("admin API", "api.post", "/admin/v1/recharges", "127.0.0.1")
    ]


async def test_the_ledger_shows_the_balance_after_each_entry(shop: Shop) -> None:
    await shop.api("POST", "/recharges", PAID)
    credit = {"account": "acme", "reason": "outage of monday", "actor": "ann", "ref": "T-1"}
    for status in (201, 200):
        assert (await shop.api("POST", "/credits", {**credit, "amount_usd": "-5.525"}))[0] == status
    entries = (await shop.api("GET", "/ledger?account=acme"))[1]["entries"]
    told = [(row["kind"], row["amount_usd"], row["balance_usd"], row["actor"]) for row in entries]
    assert told == [
        ("manual", "-5.525", "100", "admin API for ann"),
        ("order", "105.525", "105.525", "admin API"),
    ]
    (newest,) = (await shop.api("GET", "/ledger?account=acme&limit=1"))[1]["entries"]
    assert (newest["balance_usd"], newest["reason"]) == ("100", "outage of monday")
    assert (await shop.api("GET", "/balance?account=acme"))[1]["balance_usd"] == "100"
    assert (await shop.api("GET", "/ledger?account=nobody"))[0] == 404
    assert (await shop.api("GET", "/ledger?limit=5"))[0] == 400


async def test_a_recharge_that_earns_it_promotes_and_is_told(
    database_url: str, connection: Connection, tmp_path: Path
) -> None:
    await make_account(connection, "vip", group="enterprise", multiplier_ppm=800_000)
    billing = Billing(enterprise_group="enterprise", enterprise_cny="720")
    async with opening(database_url, tmp_path, billing=billing) as shop:
        row = (await shop.api("POST", "/recharges", {**PAID, "amount": "100"}))[1]
        assert row["promoted_to"] == "enterprise"
        assert shop.mailbox.events() == ["enterprise"]
