"""Goal: keys and money of an account behave as told, exactly, and each act leaves its line.

Method: the API and the pages on a real Postgres; sums are compared to the nano-dollar.
"""

import io
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import aiohttp
import orjson
import pytest

from relay.store.billing import codes, ledger
from tests.console.console_rig import Browser, ConsoleRig, opening
from tests.live.money_rig import SECRET, payment, signed

pytestmark = pytest.mark.live


@pytest.fixture
async def console(database_url: str, tmp_path: Path) -> AsyncIterator[ConsoleRig]:
    async with opening(database_url, tmp_path) as rig:
        await rig.add_account("acme")
        yield rig


@pytest.fixture
async def owner(console: ConsoleRig) -> Browser:
    return await console.sign_in("ann@acme.example", "acme", "owner")


# --- keys -----------------------------------------------------------------------------------------


async def test_a_key_is_told_once_and_kept_as_a_digest(console: ConsoleRig, owner: Browser) -> None:
    body = {
        "name": "ci",
        "models": ["fast"],
        "networks": ["10.0.0.0/8"],
        "quota_usd": "5",
        "rpm": 9,
    }
    status, made = await owner.call("POST", "/account/v1/keys", body)
    assert status == 201
    assert made["key"].startswith("relay_")
    (row,) = (await owner.get("/account/v1/keys"))["keys"]
    assert made["key"] not in str(row)
    assert (row["name"], row["models"], row["networks"]) == ("ci", ["fast"], ["10.0.0.0/8"])
    assert (row["quota_usd"], row["rpm"], row["state"]) == ("5", 9, "active")
    assert (await owner.call("POST", "/account/v1/keys", {"name": "ci"}))[0] == 400


@pytest.mark.parametrize(
    "name", ["a\nb", "a\tb", "\x1b[31mred", "\u202eevil", "a\u200bb", "a\u2028b"]
)
async def test_a_name_is_one_that_logs_and_tables_can_show(owner: Browser, name: str) -> None:
    for path in ("keys", "management-keys"):
        status, told = await owner.call("POST", f"/account/v1/{path}", {"name": name})
        assert status == 400 and "control character" in told["error"]["message"], told
    assert (await owner.get("/account/v1/keys"))["keys"] == []
    for name in ("=cmd|calc", "<b>", "caf\u00e9 \u4e2d", "a b"):
        assert (await owner.call("POST", "/account/v1/keys", {"name": name}))[0] == 201


@pytest.mark.parametrize(
    "query",
    [
        "until=0001-01-01T00:00:00Z",
        "until=9999-12-31T23:59:59Z",
        "id=req_ffffffffffff7fffbfffffffffffffff",
        "since=9999-12-31",
    ],
)
async def test_a_filter_at_the_edge_of_time_finds_nothing(owner: Browser, query: str) -> None:
    for path in ("logs", "usage"):
        if path == "usage" and query.startswith("id"):
            continue
        status, text, _ = await owner.ask("GET", f"/account/v1/{path}?{query}")
        assert status == 200 and '"request_id"' not in text, text


@pytest.mark.parametrize("ip", ["::%25eth0", "fe80::1%251/64"])
async def test_an_address_with_a_zone_is_refused_everywhere(owner: Browser, ip: str) -> None:
    for path in ("logs", "logs/export"):
        status, text, _ = await owner.ask("GET", f"/account/v1/{path}?ip={ip}")
        assert status == 400 and "expected an address" in text
    body = {"name": "ci", "networks": [ip.replace("%25", "%")]}
    assert (await owner.call("POST", "/account/v1/keys", body))[0] == 400


async def test_a_key_is_switched_limited_and_deleted(console: ConsoleRig, owner: Browser) -> None:
    _, made = await owner.call("POST", "/account/v1/keys", {"name": "ci", "tpm": 5})
    path = f"/account/v1/keys/{made['id']}"
    for verb, state in (("disable", "disabled"), ("enable", "active")):
        status, row = await owner.call("POST", f"{path}/{verb}")
        assert (status, row["state"]) == (200, state)
    status, row = await owner.call("POST", f"{path}/limit", {"rpm": 7})
    assert (status, row["rpm"], row["tpm"]) == (200, 7, 5)
    assert (await owner.call("DELETE", path))[1] == {"id": made["id"], "deleted": True}
    assert (await owner.call("DELETE", path))[0] == 404
    assert (await owner.get("/account/v1/keys"))["keys"] == []
    acts = [act for _, act, _ in await console.acts() if act.startswith("key.")]
    assert acts == ["key.create", "key.disable", "key.enable", "key.limit", "key.delete"]


async def test_a_rotated_key_has_a_successor_and_a_grace_time(
    console: ConsoleRig, owner: Browser
) -> None:
    body = {"name": "ci", "tpm": 5, "quota_usd": "10"}
    _, first = await owner.call("POST", "/account/v1/keys", body)
    await console.connection.execute("UPDATE keys SET spent_nanos = 4000000000")
    rotate = f"/account/v1/keys/{first['id']}/rotate"
    status, second = await owner.call("POST", rotate, {"grace_hours": 2})
    assert (status, second["name"], second["old_id"]) == (201, "ci", first["id"])
    assert second["key"] != first["key"]
    old, new = (await owner.get("/account/v1/keys"))["keys"]
    assert (old["state"], old["expires_at"]) == ("retiring", second["old_expires_at"])
    assert (new["name"], new["tpm"], new["quota_usd"], new["state"]) == ("ci", 5, "6", "active")
    assert (await owner.call("POST", rotate, {}))[0] == 400
    again = f"/account/v1/keys/{second['id']}/rotate"
    status, _ = await owner.call("POST", again, {"grace_hours": 0})
    assert status == 201
    states = [row["state"] for row in (await owner.get("/account/v1/keys"))["keys"]]
    assert states == ["retiring", "disabled", "active"]


async def test_a_leaked_key_is_replaced_in_one_step(console: ConsoleRig, owner: Browser) -> None:
    _, made = await owner.call("POST", "/account/v1/keys", {"name": "ci"})
    status, _, _ = await owner.post(f"/keys/{made['id']}/replace")
    assert status == 200
    old, new = (await owner.get("/account/v1/keys"))["keys"]
    assert (old["state"], new["state"], new["name"]) == ("disabled", "active", "ci")


async def test_a_management_key_manages_and_makes_no_other(
    console: ConsoleRig, owner: Browser
) -> None:
    _, made = await owner.call("POST", "/account/v1/management-keys", {"name": "bot"})
    stranger = console.browser()
    status, key = await stranger.call("POST", "/account/v1/keys", {"name": "k"}, key=made["key"])
    assert status == 201
    status, _ = await stranger.call("POST", "/account/v1/management-keys", {}, key=made["key"])
    assert status == 403
    assert (await stranger.call("GET", "/account/v1/keys", key=key["key"]))[0] == 401
    assert (await stranger.ask("GET", "/", headers=bearer(made["key"])))[0] == 303
    assert ("key bot", "key.create", f"{key['id']} (k)") in await console.acts()
    status, _ = await owner.call("DELETE", f"/account/v1/management-keys/{made['id']}")
    assert status == 200
    assert (await stranger.call("GET", "/account/v1/keys", key=made["key"]))[0] == 401


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


# --- money ----------------------------------------------------------------------------------------


async def test_an_order_is_opened_paid_and_credited(console: ConsoleRig, owner: Browser) -> None:
    body = {"amount": "720", "currency": "CNY"}
    status, order = await owner.call("POST", "/account/v1/orders", body)
    assert (status, order["status"], order["paid_usd"], order["bonus_usd"]) == (
        *(201, "pending", "100"),
        "5",
    )
    paid = payment(order["order"], amount="720", currency="CNY")
    content = orjson.dumps(paid)
    for headers, wanted in ((signed(content, "forged"), 401), (signed(content, SECRET), 200)):
        status, text, _ = await owner.ask("POST", "/hooks/payment", data=content, headers=headers)
        assert status == wanted, text
    (row,) = (await owner.get("/account/v1/orders"))["orders"]
    assert (row["order"], row["status"]) == (order["order"], "credited")
    assert (await owner.get("/account/v1/balance"))["balance_usd"] == "105"
    assert ("ann@acme.example", "order.open", order["order"]) in await console.acts()


async def test_a_picture_of_the_receipt_reaches_support_and_nobody_else(
    console: ConsoleRig, owner: Browser
) -> None:
    await console.add_account("other")
    _, order = await owner.call("POST", "/account/v1/orders", {"amount": "10"})
    path = f"/billing/orders/{order['order']}"
    png = b"\x89PNG\r\n\x1a\n" + bytes(2_000_000)

    async def send(body: bytes) -> tuple[int, str]:
        form = aiohttp.FormData({"csrf": owner.csrf, "note": "paid at noon"})
        form.add_field("picture", io.BytesIO(body), filename="a.png", content_type="text/html")
        status, text, _ = await owner.ask("POST", f"{path}/note", data=form)
        return status, text

    assert (await owner.ask("GET", f"{path}/picture"))[0] == 404
    for wrong, status in ((b"<script>", 400), (png + bytes(3_000_000), 413)):
        assert (await send(wrong))[0] == status
    assert (await send(b""))[0] == 303  # a note alone
    assert not (await owner.get("/account/v1/orders"))["orders"][0]["picture"]
    assert (await send(png))[0] == 303
    assert (await owner.get("/account/v1/orders"))["orders"][0]["picture"]
    operator = await console.sign_in("op@relay.example", None, "operator")
    for browser, where in ((owner, path), (operator, path.removeprefix("/billing"))):
        async with browser.session.get(f"{browser.base}{where}/picture") as answer:
            assert answer.headers["Content-Type"] == "image/png"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert await answer.read() == png
    assert "receipt" in await operator.page("/orders")
    stranger = await console.sign_in("bob@other.example", "other", "owner")
    assert (await stranger.ask("GET", f"{path}/picture"))[0] == 404
    assert (await stranger.post(f"{path}/note", {"note": "mine"}))[0] == 404
    await console.connection.execute(
        """UPDATE orders SET status = 'credited', paid_at = now(), credited_at = now()
        WHERE order_no = $1""",
        order["order"],
    )
    assert (await send(png))[0] == 409


async def test_a_stuck_order_reaches_support_and_is_credited_with_who_and_why(
    console: ConsoleRig, owner: Browser
) -> None:
    _, order = await owner.call("POST", "/account/v1/orders", {"amount": "10"})
    number = order["order"]
    await console.connection.execute("UPDATE orders SET created_at = now() - interval '11 minutes'")
    assert (await owner.post(f"/billing/orders/{number}/note", {"note": "receipt 4711"}))[0] == 303
    (row,) = (await owner.get("/account/v1/orders"))["orders"]
    assert (row["stuck"], row["note"]) == (True, "receipt 4711")
    operator = await console.sign_in("op@relay.example", None, "operator")
    assert (await operator.post(f"/orders/{number}/credit", {}))[0] == 400
    reason = {"reason": "seen on the bank's statement"}
    assert (await operator.post(f"/orders/{number}/credit", reason))[0] == 303
    assert (await operator.post(f"/orders/{number}/credit", reason))[0] == 303
    assert (await owner.get("/account/v1/balance"))["balance_usd"] == "10"
    assert ("op@relay.example", "order.credit", number) in await console.acts()


async def test_a_code_is_redeemed_once_and_guessing_is_slow(
    console: ConsoleRig, owner: Browser
) -> None:
    (made,) = await codes.create_codes(
        console.connection, console.services.pepper, 7_000_000_001, 1, actor="x"
    )
    code = {"code": made.code.reveal()}
    status, found = await owner.call("POST", "/account/v1/codes/redeem", code)
    assert (status, found["amount_usd"]) == (200, "7.000000001")
    statuses = [(await owner.call("POST", "/account/v1/codes/redeem", code))[0] for _ in range(7)]
    assert statuses == [400] * 6 + [429]


async def test_pages_of_the_ledger_join_and_its_balances_run(
    console: ConsoleRig, owner: Browser
) -> None:
    for number in range(25):
        await ledger.credit(
            *(console.connection, 1, (-1) ** number * (number + 1) * 1_000_000_007),
            ref=str(number),
            actor="x",
            reason="y",
        )
    entries, cursor = [], ""
    while True:
        page = await owner.get(f"/account/v1/ledger?limit=10&cursor={cursor}")
        entries += page["entries"]
        if page["next"] is None:
            break
        cursor = page["next"]
    assert [entry["ref"] for entry in entries] == [str(number) for number in range(24, -1, -1)]
    balance = Decimal((await owner.get("/account/v1/balance"))["balance_usd"])
    for entry in entries:
        assert Decimal(entry["balance_usd"]) == balance
        balance -= Decimal(entry["amount_usd"])
    assert balance == 0


async def test_a_statement_adds_up_to_the_nano_dollar(console: ConsoleRig, owner: Browser) -> None:
    for ref, nanos in (("a", 10_000_000_001), ("b", -3_333_333_333)):
        await ledger.credit(console.connection, 1, nanos, ref=ref, actor="x", reason="y")
    await console.connection.execute(
        "UPDATE ledger_months SET month = (month - interval '1 month')::date"
    )
    await ledger.credit(console.connection, 1, 5, ref="c", actor="x", reason="y")
    now, before = (await owner.get("/account/v1/statements"))["statements"]
    assert (now["opening_usd"], now["manual_usd"]) == ("6.666666668", "0.000000005")
    assert (before["opening_usd"], before["closing_usd"]) == ("0", "6.666666668")
    assert now["closing_usd"] == (await owner.get("/account/v1/balance"))["balance_usd"]
    _, text, _ = await owner.ask("GET", f"/billing/statements/{now['month']}.csv")
    assert "6.666666673" in text


async def test_prices_are_official_and_ones_own(console: ConsoleRig, owner: Browser) -> None:
    await console.connection.execute(
        """INSERT INTO channels (name, base_url, models) VALUES ('c', 'x', '{"fast": "f"}');
        INSERT INTO lines (name) VALUES ('l');
        INSERT INTO line_channels (line_id, position, channel_id) VALUES (1, 0, 1);
        INSERT INTO group_lines (group_id, position, line_id) VALUES (1, 0, 1);
        UPDATE groups SET multiplier_ppm = 800000;
        INSERT INTO prices (model, input, output, cached_input, model_multiplier_ppm)
            VALUES ('fast', 150000000, 600000000, 75000000, 1500000), ('hidden', 1, 1, 1, 1000000);
        INSERT INTO prices (model, input, output, cached_input, model_multiplier_ppm)
            VALUES ('fast', 200000000, 600000000, 75000000, 1500000)"""
    )
    found = await owner.get("/account/v1/prices")
    (row,) = found["prices"]
    assert (row["model"], row["input_usd"], row["yours_input_usd"]) == ("fast", "0.2", "0.24")
    assert (row["yours_output_usd"], row["yours_cached_input_usd"]) == ("0.72", "0.09")
    (change,) = (await owner.get("/account/v1/changes"))["changes"]
    assert (change["before"]["input_usd"], change["after"]["input_usd"]) == ("0.15", "0.2")
    assert (await owner.get("/account/v1/prices?search=FAS"))["prices"] == [row]
    assert (await owner.get("/account/v1/prices?search=none"))["prices"] == []


async def test_tools_of_other_relays_find_balance_and_usage(
    console: ConsoleRig, owner: Browser
) -> None:
    await ledger.credit(console.connection, 1, 10 * 10**9, ref="a", actor="x", reason="y")
    key = await console.management_key("acme")
    _, told = await owner.call("GET", "/v1/dashboard/billing/subscription", key=key)
    assert told["hard_limit_usd"] == 10.0
    _, told = await owner.call("GET", "/v1/dashboard/billing/usage?start_date=2026-01-01", key=key)
    assert told["total_usage"] == 0.0
    _, told = await owner.call("GET", "/api/usage/token", key=key)
    assert told["data"]["total_available"] == 5_000_000


async def test_an_operator_sees_what_a_price_would_do_before_it_holds(console: ConsoleRig) -> None:
    operator = await console.sign_in("op@relay.example", None, "operator")
    draft = {"model": "fast", "input_usd": "0.2", "output_usd": "0.8"}
    assert (await operator.post("/prices", draft))[0] == 200  # a preview: not confirmed
    assert await console.connection.fetchval("SELECT count(*) FROM prices") == 0
    assert (await operator.post("/prices", {**draft, "confirmed": "1"}))[0] == 303
    row = await console.connection.fetchrow("SELECT model, input FROM prices")
    assert row is not None
    assert tuple(row) == ("fast", 200_000_000)
    assert (await operator.post("/prices", {**draft, "input_usd": "-1"}))[0] == 400


@pytest.mark.parametrize(
    "path",
    ["/", "/logs?since=7d&status=5xx", "/usage?by=day&group=model", "/keys", "/billing", "/prices"],
)
async def test_every_page_of_an_empty_account_is_there(owner: Browser, path: str) -> None:
    assert "<h1>" in await owner.page(path)


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/lines", "/accounts", "/prices", "/orders", "/maintenance", "/audit", "/users"),
        *("/settings", "/orders?status=pending", "/accounts?search=a", "/audit?act=user"),
    ],
)
async def test_every_page_of_an_operator_is_there(console: ConsoleRig, path: str) -> None:
    operator = await console.sign_in("op@relay.example", None, "operator")
    assert "<h1>" in await operator.page(path)
