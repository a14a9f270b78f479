"""Goal: an order is paid at Stripe, from its form to the ledger, once; and nobody else is believed.

Method: a scripted Stripe on a port of its own that makes and shows payment pages as documented; the
console on a real Postgres; events signed, forged, repeated, at once, and about other orders.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from relay.billing.stripe import sign
from relay.config import Billing
from relay.outside import Stripe
from tests.console.console_rig import Browser, ConsoleRig, opening
from tests.local_app import serve_app

pytestmark = pytest.mark.live

KEY = "sk_test_of_tests"
SECRET = "whsec_of_tests"


class ScriptedStripe:
    """Payment pages as Stripe's API has them."""

    def __init__(self) -> None:
        self.pages: dict[str, dict[str, Any]] = {}
        self.down = False
        self.asked: list[dict[str, str]] = []

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/checkout/sessions", self._make)
        app.router.add_get("/v1/checkout/sessions/{id}", self._show)
        return app

    async def _make(self, request: web.Request) -> web.Response:
        if self.down or request.headers["Authorization"] != f"Bearer {KEY}":
            return web.json_response({"error": {"message": "no"}}, status=401)
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.asked.append(form)
        key = request.headers["Idempotency-Key"]
        if key not in self.pages:
            number = f"cs_test_{len(self.pages) + 1}"
            self.pages[key] = {
                "id": number,
                "object": "checkout.session",
                "client_reference_id": form["client_reference_id"],
                "amount_total": int(form["line_items[0][price_data][unit_amount]"]),
                "currency": form["line_items[0][price_data][currency]"],
                "payment_status": "unpaid",
                "status": "open",
                "payment_intent": None,
                "url": f"https://checkout.stripe.com/c/pay/{number}",
                "metadata": {"order": form["metadata[order]"]},
            }
        return web.json_response(self.pages[key])

    async def _show(self, request: web.Request) -> web.Response:
        return web.json_response(self.page(request.match_info["id"]))

    def page(self, number: str) -> dict[str, Any]:
        return next(page for page in self.pages.values() if page["id"] == number)

    def pay(self, number: str) -> dict[str, Any]:
        """Pay a page; return the event that Stripe would send."""
        page = self.page(number)
        page |= {"payment_status": "paid", "status": "complete", "payment_intent": "pi_1"}
        return event(page)


def event(page: dict[str, Any], kind: str = "checkout.session.completed") -> dict[str, Any]:
    return {
        "id": "evt_1",
        "object": "event",
        "api_version": "2026-01-28",
        "created": 1_732_406_400,
        "livemode": False,
        "type": kind,
        "data": {"object": page},
    }


@pytest.fixture
async def stripe() -> AsyncIterator[tuple[ScriptedStripe, str]]:
    scripted = ScriptedStripe()
    async with serve_app(scripted.application()) as port:
        yield scripted, f"http://127.0.0.1:{port}"


@pytest.fixture
async def console(
    database_url: str, tmp_path: Path, stripe: tuple[ScriptedStripe, str]
) -> AsyncIterator[ConsoleRig]:
    for name, text in (("key", KEY), ("hook", SECRET)):
        (tmp_path / name).write_text(text)
    billing = Billing(
        bonus={"100": "0.05"},
        stripe=Stripe(
            secret_key=f"file:{tmp_path / 'key'}",
            webhook_secret=f"file:{tmp_path / 'hook'}",
            api=stripe[1],
        ),
    )
    async with opening(database_url, tmp_path, billing=billing) as rig:
        await rig.add_account("acme")
        await rig.add_account("other")
        yield rig


@pytest.fixture
async def owner(console: ConsoleRig) -> Browser:
    return await console.sign_in("ann@acme.example", "acme", "owner")


async def open_order(owner: Browser, amount: str = "100") -> dict[str, Any]:
    body = {"amount": amount, "provider": "stripe"}
    status, order = await owner.call("POST", "/account/v1/orders", body)
    assert status == 201, order
    found: dict[str, Any] = order
    return found


async def send(
    browser: Browser, told: dict[str, Any], *, secret: str = SECRET, age_s: int = 0
) -> tuple[int, dict[str, Any]]:
    body = json.dumps(told).encode()
    at = str(time.time_ns() // 1_000_000_000 - age_s)
    headers = {"Stripe-Signature": f"t={at},v1={sign(secret.encode(), at, body)}"}
    status, text, _ = await browser.ask("POST", "/hooks/stripe", data=body, headers=headers)
    return status, json.loads(text)


async def balance(owner: Browser) -> str:
    return str((await owner.get("/account/v1/balance"))["balance_usd"])


async def test_an_order_is_paid_at_stripe_and_credited_once(
    console: ConsoleRig, owner: Browser, stripe: tuple[ScriptedStripe, str]
) -> None:
    order = await open_order(owner)
    assert order["checkout_url"] == "https://checkout.stripe.com/c/pay/cs_test_1"
    (form,) = stripe[0].asked
    assert form["line_items[0][price_data][unit_amount]"] == "10000"
    assert form["line_items[0][price_data][currency]"] == "usd"
    assert order["checkout_url"] in await owner.page("/billing")
    told = stripe[0].pay("cs_test_1")
    answers = await asyncio.gather(*(send(console.browser(), told) for _ in range(5)))
    assert [status for status, _ in answers] == [200] * 5
    assert sum(body["credited"] for _, body in answers) == 1
    assert await balance(owner) == "105"
    (row,) = (await owner.get("/account/v1/orders"))["orders"]
    assert (row["status"], row["payment"], row["checkout_url"]) == ("credited", "pi_1", "")


async def test_what_is_not_stripes_word_is_refused(
    console: ConsoleRig, owner: Browser, stripe: tuple[ScriptedStripe, str]
) -> None:
    await open_order(owner)
    told = stripe[0].pay("cs_test_1")
    browser = console.browser()
    assert (await send(browser, told, secret="whsec_other"))[0] == 401
    assert (await send(browser, told, age_s=301))[0] == 401
    assert (await browser.ask("POST", "/hooks/stripe", json=told))[0] == 401
    page = told["data"]["object"]
    for change in (
        {"amount_total": 9_999},
        {"currency": "cny"},
        {"id": "cs_test_2"},
        {"amount_total": None},
    ):
        status, body = await send(browser, event({**page, **change}))
        assert status == 409, (change, body)
    for reference in ("R-unknown", None):
        assert (await send(browser, event({**page, "client_reference_id": reference})))[0] == 404
    assert (await send(browser, {"type": "checkout.session.completed"}))[0] == 400
    assert await balance(owner) == "0"


async def test_an_order_of_another_kind_is_not_credited_by_stripe(
    console: ConsoleRig, owner: Browser
) -> None:
    _, order = await owner.call("POST", "/account/v1/orders", {"amount": "100"})
    page = {
        "id": "",
        "client_reference_id": order["order"],
        "amount_total": 10_000,
        "currency": "usd",
        "payment_status": "paid",
    }
    assert (await send(console.browser(), event(page)))[0] == 409
    assert await balance(owner) == "0"


async def test_money_that_is_still_to_come_is_waited_for(
    console: ConsoleRig, owner: Browser, stripe: tuple[ScriptedStripe, str]
) -> None:
    await open_order(owner)
    page = {**stripe[0].page("cs_test_1"), "payment_status": "unpaid", "status": "complete"}
    status, body = await send(console.browser(), event(page))
    assert (status, body["credited"]) == (200, False)
    page["payment_status"] = "paid"
    told = event(page, "checkout.session.async_payment_succeeded")
    assert (await send(console.browser(), told))[1]["credited"] is True
    assert (await send(console.browser(), {**told, "type": "invoice.paid"}))[1] == {"ignored": True}
    assert await balance(owner) == "105"


async def test_a_page_that_ran_out_leaves_the_queue_and_is_credited_all_the_same(
    console: ConsoleRig, owner: Browser, stripe: tuple[ScriptedStripe, str]
) -> None:
    order = await open_order(owner)
    await console.connection.execute("UPDATE orders SET created_at = now() - interval '1 hour'")
    operator = await console.sign_in("op@relay.example", None, "operator")
    assert "Pending for more than ten minutes" in await operator.page("/orders")
    page = stripe[0].page("cs_test_1")
    expired = event({**page, "status": "expired"}, "checkout.session.expired")
    assert (await send(console.browser(), expired))[0] == 200
    assert "Pending for more than ten minutes" not in await operator.page("/orders")
    (row,) = (await owner.get("/account/v1/orders"))["orders"]
    assert (row["order"], row["stuck"]) == (order["order"], False)
    assert row["closed_at"]
    assert (await send(console.browser(), stripe[0].pay("cs_test_1")))[1]["credited"] is True
    assert await balance(owner) == "105"


async def test_an_event_that_was_lost_is_made_up_for_by_asking(
    console: ConsoleRig, owner: Browser, stripe: tuple[ScriptedStripe, str]
) -> None:
    order = await open_order(owner)
    path = f"/billing/orders/{order['order']}/check"
    _, _, headers = await owner.post(path)
    assert "no payment" in (await owner.page("/billing")), headers
    stripe[0].pay("cs_test_1")
    await owner.post(path)
    assert await balance(owner) == "105"
    stranger = await console.sign_in("eve@other.example", "other", "owner")
    status, _ = await stranger.call("POST", f"/account/v1/orders/{order['order']}/check")
    assert status == 404


async def test_an_operator_checks_and_closes_what_is_stuck(
    console: ConsoleRig, owner: Browser, stripe: tuple[ScriptedStripe, str]
) -> None:
    first, second = await open_order(owner), await open_order(owner, "20")
    await console.connection.execute("UPDATE orders SET created_at = now() - interval '1 hour'")
    operator = await console.sign_in("op@relay.example", None, "operator")
    stripe[0].pay("cs_test_1")
    await operator.post(f"/orders/{first['order']}/check")
    await operator.post(f"/orders/{second['order']}/close")
    assert await balance(owner) == "105"
    assert "Pending for more than ten minutes" not in await operator.page("/orders")
    acts = [act for _, act, _ in await console.acts()]
    assert acts[-2:] == ["order.check", "order.close"]


async def test_an_order_stands_while_stripe_is_down_and_its_page_is_made_later(
    owner: Browser, stripe: tuple[ScriptedStripe, str]
) -> None:
    stripe[0].down = True
    order = await open_order(owner)
    assert (order["status"], order["checkout_url"]) == ("pending", "")
    stripe[0].down = False
    await owner.post(f"/billing/orders/{order['order']}/pay")
    (row,) = (await owner.get("/account/v1/orders"))["orders"]
    assert row["checkout_url"].startswith("https://checkout.stripe.com/")
    assert len(stripe[0].pages) == 1


@pytest.mark.parametrize("amount", ["0.49", "10.001"])
async def test_amounts_that_stripe_cannot_take_open_nothing(owner: Browser, amount: str) -> None:
    body = {"amount": amount, "provider": "stripe"}
    assert (await owner.call("POST", "/account/v1/orders", body))[0] == 400
    assert (await owner.get("/account/v1/orders"))["orders"] == []
