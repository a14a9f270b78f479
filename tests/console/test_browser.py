"""Goal: what people do on the pages works in a browser, by hand and by keyboard, for everybody.

Method: a real Chromium. It drives both sides of the console on a real Postgres; axe-core looks at
every sample page, light and wide, dark and narrow. A page that broke its policy, or a script that
failed, fails the test: both are errors on the browser's console.
"""

import datetime
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
from playwright.async_api import Browser, Page, ViewportSize, expect

from relay.records import CallEnd
from relay.store.billing import codes
from relay.store.log.writer import Mark, Part, write_batch
from tests.console.chromium import open_chromium, read_axe
from tests.console.console_rig import PASSWORD, ConsoleRig, opening
from tests.console.rig import preview
from tests.console.samples import samples
from tests.live.journals import make_end, make_start
from tests.local_app import serve_app

pytestmark = [pytest.mark.live, pytest.mark.timeout(180)]

EMAIL: Final = "ann@acme.example"
WIDE: Final = ViewportSize(width=1280, height=820)
NARROW: Final = ViewportSize(width=390, height=844)
PENDING_MS: Final = 10_000
AGE_S: Final = 100
"""Of a call of number 0."""


@pytest.fixture
async def chromium() -> AsyncIterator[Browser]:
    async with open_chromium() as browser:
        yield browser


@pytest.fixture
async def console(database_url: str, tmp_path: Path) -> AsyncIterator[ConsoleRig]:
    async with opening(database_url, tmp_path) as rig:
        await rig.add_account("acme")
        await rig.add_user(EMAIL, "acme", "owner")
        yield rig


@asynccontextmanager
async def opened(chromium: Browser, *, scripts: bool = True) -> AsyncIterator[Page]:
    """Open a page that must do nothing wrong until it is closed."""
    wrong: list[str] = []
    context = await chromium.new_context(
        java_script_enabled=scripts, viewport=WIDE, locale="en-US", timezone_id="Asia/Shanghai"
    )
    context.set_default_timeout(PENDING_MS)
    page = await context.new_page()
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    yield page
    await context.close()
    assert wrong == []


async def sign_in(page: Page, base: str, email: str = EMAIL) -> None:
    await page.goto(f"{base}/login")
    await page.get_by_label("E-mail").fill(email)
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("heading", name="Overview")).to_be_visible()


async def write_calls(console: ConsoleRig, first: int, count: int, **fields: object) -> None:
    """Add calls of the account's key 1 to the log, a second apart; a higher number is later."""
    now_us = int(datetime.datetime.now(datetime.UTC).timestamp() * 1e6)
    ends: list[CallEnd] = []
    for number in range(first, first + count):
        start = make_start(
            request_id=number.to_bytes(16, "big"), account_id=1, key_id=1, ip="203.0.113.9"
        )
        plain = {"time_us": now_us - (AGE_S - number) * 1_000_000, "price_id": 0}
        ends.append(make_end(start, **{**plain, **fields}))
    await write_batch(console.connection, [Part("w", Mark(1, first + count), ends)])


# --- the account's side ---------------------------------------------------------------------------


async def test_the_log_is_filtered_opened_and_followed(
    console: ConsoleRig, chromium: Browser
) -> None:
    await write_calls(console, 1, 6)
    await write_calls(
        console, 7, 2, status=429, reason="rejected", error_code="rate_limit_exceeded"
    )
    async with opened(chromium) as page:
        base = console.browser().base
        await sign_in(page, base)
        await page.get_by_role("link", name="Log", exact=True).click()
        rows = page.locator("#log tbody tr")
        await expect(rows).to_have_count(8)
        await expect(page.locator("[data-zone]")).to_have_text("UTC+8")
        await page.get_by_label("status").select_option("4xx")
        await expect(rows).to_have_count(2)
        assert "status=4xx" in page.url
        assert "min_usd" not in page.url
        await page.go_back()
        await expect(rows).to_have_count(8)

        await page.keyboard.press("j")
        await page.keyboard.press("j")
        await page.keyboard.press("Enter")
        drawer = page.get_by_role("dialog")
        await expect(drawer.get_by_text(f"req_{7:032x}")).to_be_visible()
        assert page.url.endswith(f"/logs/req_{7:032x}")
        await page.keyboard.press("Escape")
        await expect(drawer).to_have_count(0)
        assert page.url.endswith("/logs")

        await page.get_by_role("button", name="Tail").click()
        await write_calls(console, 20, 1)
        await expect(rows).to_have_count(9)
        await expect(rows.first).to_have_attribute("data-id", f"req_{20:032x}")
        await page.get_by_role("button", name="Tail").click()


async def test_the_log_is_paged_and_exported(
    console: ConsoleRig, chromium: Browser, tmp_path: Path
) -> None:
    await write_calls(console, 1, 60)
    async with opened(chromium) as page:
        await sign_in(page, console.browser().base)
        await page.get_by_role("link", name="Log", exact=True).click()
        await page.get_by_role("link", name="Older calls").click()
        await expect(page.locator("#log tbody tr")).to_have_count(10)
        await page.go_back()
        await expect(page.locator("#log tbody tr")).to_have_count(50)
        async with page.expect_download() as coming:
            await page.get_by_role("link", name="CSV", exact=True).click()
        await (await coming.value).save_as(tmp_path / "log.csv")
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 61


async def test_a_brushed_chart_leads_to_its_calls(console: ConsoleRig, chromium: Browser) -> None:
    minute_us = 60_000_000
    now_us = int(datetime.datetime.now(datetime.UTC).timestamp() * 1e6)
    for at in range(1, 30):
        await write_calls(console, at, 1, time_us=now_us - at * minute_us)
    async with opened(chromium) as page:
        await sign_in(page, console.browser().base)
        await page.goto(f"{console.browser().base}/usage?by=minute&since=1h")
        over = page.locator('[data-chart="tokens"] .u-over')
        box = await over.bounding_box()
        assert box is not None
        middle = box["y"] + box["height"] / 2
        await page.mouse.move(box["x"] + box["width"] * 0.25, middle)
        await page.mouse.down()
        await page.mouse.move(box["x"] + box["width"] * 0.75, middle, steps=5)
        await page.mouse.up()
        await page.get_by_role("link", name="These calls in the log").click()
        await expect(page.get_by_role("heading", name="Log")).to_be_visible()
        assert re.search(r"since=2.*&until=2", page.url)
        await expect(page.locator("#log tbody tr").first).to_be_visible()
        shown = await page.locator("#log tbody tr").count()
        assert 8 <= shown <= 20


async def test_keys_and_codes_work_by_hand_without_scripts(
    console: ConsoleRig, chromium: Browser
) -> None:
    (made,) = await codes.create_codes(
        console.connection, console.services.pepper, 7_000_000_001, 1, actor="x"
    )
    async with opened(chromium, scripts=False) as page:
        await sign_in(page, console.browser().base)
        await page.get_by_role("link", name="Keys", exact=True).click()
        await page.get_by_label("name").first.fill("ci")
        await page.get_by_role("button", name="Make a key", exact=True).click()
        key = await page.locator("#fresh-key").inner_text()
        assert key.startswith("relay_")
        await expect(page.locator("pre", has_text=key).first).to_be_visible()

        await page.get_by_role("link", name="ci", exact=True).click()
        await page.get_by_text("Disable", exact=True).click()
        await page.get_by_role("button", name="Disable now").click()
        await expect(page.get_by_role("status")).to_contain_text("refused everywhere")
        await expect(page.locator(".dot.muted")).to_have_text("disabled")

        await page.get_by_role("link", name="Billing").click()
        await page.get_by_label("code").fill(made.code.reveal())
        await page.get_by_role("button", name="Redeem").click()
        await expect(page.get_by_role("status")).to_contain_text("7.000000001 USD")
        await expect(page.locator("tr", has_text="code").first).to_contain_text("+7.000000001")


async def test_a_leaked_key_is_replaced_in_three_clicks(
    console: ConsoleRig, chromium: Browser
) -> None:
    async with opened(chromium) as page:
        await sign_in(page, console.browser().base)
        await page.goto(console.browser().base + "/keys")
        await page.get_by_label("name").first.fill("ci")
        await page.get_by_role("button", name="Make a key", exact=True).click()
        old = await page.locator("#fresh-key").inner_text()
        await write_calls(console, 1, 3)
        await page.get_by_role("link", name="Log", exact=True).click()

        await page.locator("#log").get_by_role("link", name="203.0.113.9").first.click()
        await page.get_by_text("Not yours?").click()
        await page.get_by_role("button", name="Disable it now and make a new one").click()
        new = await page.locator("#fresh-key").inner_text()
        assert new.startswith("relay_")
        assert new != old
        state = "SELECT disabled FROM keys ORDER BY id"
        assert [row["disabled"] for row in await console.connection.fetch(state)] == [True, False]


async def test_a_language_and_a_light_are_kept(console: ConsoleRig, chromium: Browser) -> None:
    async with opened(chromium) as page:
        await sign_in(page, console.browser().base)
        await page.get_by_role("button", name="简体中文").click()
        await expect(page.get_by_role("heading", name="概览")).to_be_visible()
        dark = "getComputedStyle(document.body).backgroundColor"
        before = await page.evaluate(dark)
        await page.get_by_role("button", name="明暗切换").click()
        after = await page.evaluate(dark)
        assert after != before
        await page.reload()
        assert await page.evaluate(dark) == after


# --- the operator's side --------------------------------------------------------------------------


async def test_an_operator_sets_a_price_after_its_preview(
    console: ConsoleRig, chromium: Browser
) -> None:
    await console.add_user("op@relay.example", None, "operator")
    async with opened(chromium) as page:
        await sign_in(page, console.browser("operator").base, "op@relay.example")
        await page.get_by_role("link", name="Prices").click()
        await page.get_by_text("Set a price").click()
        await page.get_by_label("model", exact=True).first.fill("gpt-4o-mini")
        await page.get_by_label("in, USD/M", exact=True).first.fill("0.2")
        await page.get_by_role("button", name="Show what it would do").first.click()
        await expect(page.get_by_text("would have cost in the last 30 days")).to_be_visible()
        await page.get_by_role("button", name="Set this price").click()
        await expect(page.get_by_role("status")).to_contain_text("holds for calls from now on")
        await page.get_by_role("link", name="Audit").click()
        await expect(page.locator("tr", has_text="price.set")).to_contain_text("op@relay.example")


async def test_an_operator_drains_a_channel(console: ConsoleRig, chromium: Browser) -> None:
    await console.add_user("op@relay.example", None, "operator")
    await console.connection.execute(
        """INSERT INTO channels (name, models, base_url)
        VALUES ('up', '{"fast": "fast"}', 'http://127.0.0.1:9/v1')"""
    )
    async with opened(chromium) as page:
        await sign_in(page, console.browser("operator").base, "op@relay.example")
        await page.get_by_role("link", name="Channels").click()
        await page.get_by_text("Drain", exact=True).click()
        await page.get_by_role("button", name="Drain: running calls finish").click()
        await expect(page.get_by_role("status")).to_contain_text("Channel up is drained")
    drained = "SELECT drained FROM channels WHERE name = 'up'"
    assert await console.connection.fetchval(drained) is True


# --- every page -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("theme", "size"), [("light", WIDE), ("dark", NARROW)])
async def test_axe_finds_no_serious_fault_and_nothing_sticks_out(
    theme: str, size: ViewportSize, chromium: Browser
) -> None:
    faults: list[str] = []
    async with serve_app(preview()) as port:
        context = await chromium.new_context(
            bypass_csp=True,
            viewport=size,
            locale="en-US",
            color_scheme="dark" if theme == "dark" else "light",
        )
        try:
            page, axe = await context.new_page(), read_axe()
            page.on("pageerror", lambda error: faults.append(str(error)))
            for name in samples():
                await page.goto(f"http://127.0.0.1:{port}/{name}")
                await page.add_script_tag(content=axe)
                found = await page.evaluate(_AXE)
                faults += [f"{name}: {fault}" for fault in found]
                if await page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                    faults.append(f"{name}: wider than the window")
        finally:
            await context.close()
    assert faults == []


_AXE: Final = """axe.run().then((found) => found.violations
    .filter((fault) => ["serious", "critical"].includes(fault.impact))
    .flatMap((fault) => fault.nodes.map((node) => `${fault.id} ${node.html.slice(0, 200)}`)))"""
