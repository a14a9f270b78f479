"""Goal: a price that was planned is announced, holds from its moment on, once; or is taken back.

Method: both sides of the console on a real Postgres, and the control process's watch over it.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.config import Billing, Config
from relay.control.watch.money import MoneyWatch
from relay.control.watch.notices import Notices
from relay.store import postgres
from relay.store.catalog import planned
from tests.console.console_rig import Browser, ConsoleRig, opening
from tests.live.money_rig import Mailbox

pytestmark = pytest.mark.live

OFFER = """
    INSERT INTO channels (name, base_url, models)
        VALUES ('c', 'http://127.0.0.1:9', '{"fast": "f"}');
    INSERT INTO lines (name) VALUES ('standard');
    INSERT INTO line_channels (line_id, position, channel_id) VALUES (1, 0, 1);
    INSERT INTO group_lines (group_id, position, line_id) SELECT group_id, 0, 1 FROM accounts"""
DRAFT = {"model": "fast", "input_usd": "0.2", "output_usd": "0.8", "confirmed": "1"}


@pytest.fixture
async def console(database_url: str, tmp_path: Path) -> AsyncIterator[ConsoleRig]:
    async with opening(database_url, tmp_path) as rig:
        await rig.add_account("acme")
        await rig.connection.execute(
            """INSERT INTO prices (model, input, output, cached_input, detail)
            VALUES ('fast', 100000000, 400000000, 50000000, '{}')"""
        )
        await rig.connection.execute(OFFER)
        yield rig


@pytest.fixture
async def operator(console: ConsoleRig) -> Browser:
    return await console.sign_in("op@relay.example", None, "operator")


async def prices_of(console: ConsoleRig) -> list[tuple[int, str | None]]:
    rows = await console.connection.fetch("SELECT input, detail FROM prices ORDER BY id")
    return [(row["input"], row["detail"]) for row in rows]


async def look(
    console: ConsoleRig,
    database_url: str,
    config: Config | None = None,
    notices: Notices | None = None,
) -> None:
    async def connect() -> postgres.Connection:
        return await postgres.connect(database_url)

    watch = MoneyWatch(config or Config(), connect, notices or Notices(None, time.monotonic))
    await watch.look(console.connection)


async def test_a_planned_price_is_announced_and_holds_from_its_moment_on(
    console: ConsoleRig, operator: Browser, database_url: str
) -> None:
    status, text, _ = await operator.post("/prices/preview", {**DRAFT, "effective": "7d"})
    assert status == 200
    assert "Announce this price" in text
    assert (await operator.post("/prices", {**DRAFT, "effective": "7d"}))[0] == 303
    owner = await console.sign_in("ann@acme.example", "acme", "owner")
    (change,) = (await owner.get("/account/v1/changes"))["changes"]
    assert (change["announced"], change["model"]) == (True, "fast")
    assert (change["before"]["input_usd"], change["after"]["input_usd"]) == ("0.1", "0.2")
    assert "fast" in await operator.page("/prices")
    await look(console, database_url)
    assert len(await prices_of(console)) == 1
    await console.connection.execute("UPDATE price_changes SET effective_at = now()")
    await look(console, database_url)
    await look(console, database_url)
    assert await prices_of(console) == [(100_000_000, "{}"), (200_000_000, "{}")]
    (change,) = (await owner.get("/account/v1/changes"))["changes"]
    assert change["announced"] is False
    assert ("op@relay.example", "price.plan", "fast") in await console.acts()


async def test_of_many_hosts_one_puts_it_into_force(
    console: ConsoleRig, operator: Browser, database_url: str
) -> None:
    await operator.post("/prices", {**DRAFT, "effective": "7d"})
    await console.connection.execute("UPDATE price_changes SET effective_at = now()")
    connections = [await postgres.connect(database_url) for _ in range(4)]
    await asyncio.gather(*(planned.force_due(one) for one in connections))
    assert len(await prices_of(console)) == 2
    for one in connections:
        await one.close()


async def test_a_planned_price_is_taken_back(
    console: ConsoleRig, operator: Browser, database_url: str
) -> None:
    await operator.post("/prices", {**DRAFT, "effective": "7d"})
    plan_id = await console.connection.fetchval("SELECT id FROM price_changes")
    assert (await operator.post(f"/prices/planned/{plan_id}/cancel"))[0] == 303
    assert (await operator.post(f"/prices/planned/{plan_id}/cancel"))[0] == 404
    await console.connection.execute("UPDATE price_changes SET effective_at = now()")
    await look(console, database_url)
    assert len(await prices_of(console)) == 1


@pytest.mark.parametrize("effective", ["yesterday", "2020-01-01"])
async def test_a_moment_that_cannot_be_is_said(operator: Browser, effective: str) -> None:
    status, text, _ = await operator.post("/prices", {**DRAFT, "effective": effective})
    assert status == 400, text


OFFICIAL = """
    INSERT INTO models (name, official, official_source)
    VALUES ('fast', '{"id": 0, "model": "fast", "input": 200000000, "output": 800000000,
        "cached_input": 200000000}', 'list')
    ON CONFLICT (name) DO UPDATE SET official = excluded.official"""
CEILING = Billing(official_max="1")


@pytest.fixture
async def capped(database_url: str, tmp_path: Path) -> AsyncIterator[ConsoleRig]:
    """A console of a relay that asks nobody more than the official price."""
    async with opening(database_url, tmp_path, billing=CEILING) as rig:
        await rig.add_account("acme")
        await rig.connection.execute(
            """INSERT INTO prices (model, input, output, cached_input, detail)
            VALUES ('fast', 100000000, 400000000, 50000000, '{}')"""
        )
        await rig.connection.execute(OFFER)
        await rig.connection.execute(OFFICIAL)
        yield rig


@pytest.mark.parametrize("effective", ["7d", ""])
@pytest.mark.parametrize(
    ("dearer", "rate"),
    [
        ({"output_usd": "0.81"}, "output 0.81"),
        ({"input_usd": "0.3"}, "input 0.3"),
        ({"model_multiplier": "1.01"}, "input"),
        ({"completion_multiplier": "4.1"}, "output 0.82"),
        ({"per_call_usd": "0.001"}, "per_call"),
    ],
)
async def test_a_price_above_the_official_one_is_refused_when_it_is_set_or_planned(
    capped: ConsoleRig, effective: str, dearer: dict[str, str], rate: str
) -> None:
    operator = await capped.sign_in("op@relay.example", None, "operator")
    for path in ("/prices", "/prices/preview"):
        status, text, _ = await operator.post(path, {**DRAFT, "effective": effective, **dearer})
        assert status == 400 and "billing.official_max" in text and rate in text, text
    assert (await operator.post("/prices", {**DRAFT, "effective": effective}))[0] == 303
    assert await capped.connection.fetchval("SELECT count(*) FROM price_changes") == bool(effective)
    assert len(await prices_of(capped)) == 2 - bool(effective)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE models SET official = jsonb_set(official, '{output}', '700000000')",
        "UPDATE groups SET multiplier_ppm = 1100000",
    ],
)
async def test_a_plan_that_became_too_dear_is_taken_back_in_its_moment_and_told(
    capped: ConsoleRig, database_url: str, change: str
) -> None:
    operator = await capped.sign_in("op@relay.example", None, "operator")
    assert (await operator.post("/prices", {**DRAFT, "effective": "7d"}))[0] == 303
    await capped.connection.execute(change)
    await capped.connection.execute("UPDATE price_changes SET effective_at = now()")
    mailbox = Mailbox()
    notices = Notices(mailbox, time.monotonic)
    for _ in range(2):
        await look(capped, database_url, Config(billing=CEILING), notices)
    assert await prices_of(capped) == [(100_000_000, "{}")]
    assert {told["event"] for told in mailbox.sent} == {"price_refused"}
    rates = [told["rate"] for told in mailbox.sent]
    assert "output" in rates and len(rates) == len(set(rates)) == notices.counts["price_refused"]
    assert await planned.list_plans(capped.connection) == []
