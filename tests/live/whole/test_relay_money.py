"""Goal: on a whole relay, a payment is credited and a leaked key is told of within ten seconds.

Method: `relay serve` with a payment secret and a webhook of ours; a key used from two addresses; a
shop that signs; then one command that disables the key, and an audit that finds nothing.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from tests.live.money_rig import SECRET, payment, signed
from tests.live.relay_process import RelayProcess, ask, send, settle
from tests.local_app import serve_app

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

ALERT_S = 10.0
CATALOG = """
[[channel]]
name = "mock"
base_url = "{upstream}"
models = ["steady"]
[[line]]
name = "town"
channels = ["mock"]
[[group]]
name = "folk"
lines = ["town"]
[[group]]
name = "enterprise"
multiplier = "0.8"
lines = ["town"]
[[price]]
model = "steady"
input = "1"
output = "2"
[[account]]
name = "acme"
group = "folk"
credit_limit = "1"
low_balance_alert = "5"
"""


class Pager:
    """The operator's webhook."""

    def __init__(self) -> None:
        self.url = ""
        self.told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def answer(self, request: web.Request) -> web.Response:
        self.told.put_nowait(orjson.loads(await request.read()))
        return web.Response()

    async def wait_for(self, event: str) -> dict[str, Any]:
        """Return the next notice of that event; others are passed over."""
        while True:
            notice = await self.told.get()
            if notice["event"] == event:
                return notice


@asynccontextmanager
async def paging() -> AsyncIterator[Pager]:
    pager = Pager()
    app = web.Application()
    app.router.add_post("/page", pager.answer)
    async with serve_app(app) as port:
        pager.url = f"http://127.0.0.1:{port}/page"
        yield pager


async def pay(relay: RelayProcess, order: str, **fields: Any) -> tuple[int, dict[str, Any]]:
    body = orjson.dumps(payment(order, **fields))
    answer = await send(f"http://{relay.admin}/hooks/payment", body, signed(body))
    return answer.status, json.loads(answer.body)


async def test_money_and_keys_are_looked_after(reachable: Path, upstream: str) -> None:
    async with paging() as pager:
        relay = RelayProcess.start(
            reachable / "money",
            environ={
                "HOOK_SECRET": SECRET,
                "RELAY_BILLING__PAYMENT_SECRET": "env:HOOK_SECRET",
                "RELAY_BILLING__ENTERPRISE_GROUP": "enterprise",
                "RELAY_ALERTS__WEBHOOK": pager.url,
            },
        )
        async with relay:
            await relay.apply(CATALOG.format(upstream=upstream))
            low = await pager.wait_for("low_balance")
            assert (low["account"], low["balance_usd"], low["threshold_usd"]) == ("acme", "0", "5")

            answers = await asyncio.gather(*(pay(relay, "A-1") for _ in range(10)))
            assert [status for status, _ in answers] == [200] * 10
            assert sum(body["credited"] for _, body in answers) == 1
            assert (await pay(relay, "A-1", amount="1"))[0] == 409
            refused = await pager.wait_for("payment_refused")
            assert refused["order"] == "A-1"
            assert (await pay(relay, "A-2", amount="3000", currency="CNY"))[0] == 200
            promoted = await pager.wait_for("enterprise")
            assert (promoted["account"], promoted["to_group"]) == ("acme", "enterprise")

            key = await relay.make_key("ci", "acme")
            assert (await ask(relay, key)).status == 200
            await relay.rows("ci", 1)
            begun_s = time.monotonic()
            assert (await ask(relay, key, local_ip="127.0.0.9")).status == 200
            stranger = await pager.wait_for("unfamiliar_ip")
            assert time.monotonic() - begun_s < ALERT_S
            assert (stranger["key_name"], stranger["address"]) == ("ci", "127.0.0.9")
            places = json.loads(await relay.cli("key", "addresses", "ci", "--json"))
            assert {place["address"] for place in places} == {"127.0.0.1", "127.0.0.9"}
            assert 'relay_money_notices_total{event="unfamiliar_ip"} 1.0' in await relay.metrics()
            await relay.cli("key", "disable", f"id:{stranger['key_id']}")
            await settle(relay, key, 401)

            audited = json.loads(await relay.cli("audit", "--json"))
            assert audited["drifts"] == []
            words = relay.words.read_text()
            assert SECRET not in words
