"""Goal: what holders and operators do in a browser happens to real calls, and is seen there.

Method: a whole relay with two workers and its console, a real Chromium on both sides of it, and
calls that a client makes meanwhile.
"""

import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
from playwright.async_api import Page, expect

from tests.console.chromium import open_chromium
from tests.live.money_rig import SECRET, payment, signed
from tests.live.relay_process import RelayProcess, ask, question, send, settle, until_told

pytestmark = [pytest.mark.live, pytest.mark.timeout(180)]

BODY = question("demo-model")
FRESH_S = 3.0
"""By when a call is in the log that somebody looks at."""


@pytest.fixture
async def relay(reachable: Path) -> AsyncIterator[RelayProcess]:
    environ = {
        "RELAY_SERVER__CONSOLE": "127.0.0.1:0",
        "RELAY_BILLING__PAYMENT_SECRET": "env:HOOK_SECRET",
        "HOOK_SECRET": SECRET,
    }
    async with RelayProcess.start(reachable / "pages", environ=environ) as relay:
        yield relay


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    async with open_chromium() as chromium:
        context = await chromium.new_context(locale="en-US")
        page = await context.new_page()
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        yield page
        assert wrong == []


def links(relay: RelayProcess) -> tuple[str, str]:
    """Return the links that sign in as the account's owner and as an operator."""
    found = re.search(r"owner, once: (\S+)\n.*operator, once: +(\S+)\n", relay.words.read_text())
    assert found is not None
    return found[1], found[2]


async def enter(page: Page, link: str) -> str:
    """Sign in by a link; return the address of that side."""
    await page.goto(link)
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    return re.sub(r"/link/.*", "", link)


async def status_of(relay: RelayProcess, key: str) -> int:
    return (await ask(relay, key, BODY)).status


async def make_key(page: Page, base: str) -> str:
    await page.goto(f"{base}/keys")
    await page.get_by_label("name").first.fill("ci")
    await page.get_by_role("button", name="Make a key", exact=True).click()
    return await page.locator("#fresh-key").inner_text()


async def test_a_key_that_is_made_serves_is_seen_rotated_and_refused(
    relay: RelayProcess, page: Page
) -> None:
    base = await enter(page, links(relay)[0])
    key = await make_key(page, base)
    await settle(relay, key, 200)

    await page.goto(f"{base}/logs")
    await page.get_by_role("button", name="Tail").click()
    rows = page.locator("#log tbody tr", has_text="ci")
    begun_s = time.monotonic()
    assert await status_of(relay, key) == 200
    await expect(rows.first).to_be_visible()
    assert time.monotonic() - begun_s < FRESH_S
    await rows.first.get_by_role("link").first.click()
    summed = page.locator(".sum")
    await expect(summed).to_be_visible()
    await expect(summed.locator(".last")).to_contain_text("cost_usd")

    await page.goto(f"{base}/keys")
    await page.get_by_role("link", name="ci", exact=True).click()
    await page.get_by_text("Rotate", exact=True).first.click()
    await page.get_by_role("button", name="Rotate").click()
    newer = await page.locator("#fresh-key").inner_text()
    assert newer != key
    await settle(relay, newer, 200)
    assert await status_of(relay, key) == 200  # for as long as was said

    await page.goto(f"{base}/keys")
    await page.get_by_role("link", name="ci", exact=True).first.click()
    disabled_here = page.url
    await page.get_by_text("Disable", exact=True).click()
    begun_s = time.monotonic()
    await page.get_by_role("button", name="Disable now").click()

    async def refused() -> str:
        statuses = {one: await status_of(relay, one) for one in (key, newer)}
        return next((one for one, status in statuses.items() if status == 401), "")

    off = await until_told(refused, "one of the two keys is refused")
    await settle(relay, off, 401)
    assert time.monotonic() - begun_s < 3.0
    await page.goto(disabled_here)
    await page.get_by_role("button", name="Enable").click()
    await settle(relay, off, 200)


async def test_a_paid_order_is_a_balance_and_a_call_takes_from_it(
    relay: RelayProcess, page: Page
) -> None:
    base = await enter(page, links(relay)[0])
    await page.goto(f"{base}/billing")
    await page.get_by_label("amount").fill("12.5")
    await page.get_by_role("button", name="Open an order").click()
    row = page.locator("tr", has_text="R-20").first
    await expect(row).to_contain_text("12.5")
    number = (await row.locator("td").first.inner_text()).strip()
    content = orjson.dumps(payment(number, account="demo", amount="12.5"))
    for secret, status in (("forged", 401), (SECRET, 200), (SECRET, 200)):
        answer = await send(f"{base}/hooks/payment", content, signed(content, secret))
        assert answer.status == status, answer.body
    await page.reload()
    await expect(page.locator("tr", has_text=number).first).to_contain_text("credited")
    await expect(page.locator("tr", has_text="+12.500000000")).to_have_count(1)
    assert await status_of(relay, relay.key) == 200

    async def charged() -> int:
        await page.reload()
        return await page.locator("tr", has_text="usage").count()

    await until_told(charged, "the call's cost is in the ledger")


async def test_a_channel_that_an_operator_drains_serves_nobody_until_enabled(
    relay: RelayProcess, page: Page
) -> None:
    assert await status_of(relay, relay.key) == 200
    base = await enter(page, links(relay)[1])
    await page.goto(f"{base}/channels")
    await page.get_by_text("Drain", exact=True).click()
    await page.get_by_role("button", name="Drain: running calls finish").click()
    await expect(page.get_by_role("status")).to_contain_text("is drained")
    await settle(relay, relay.key, 503, "chat/completions", BODY)
    await page.get_by_role("button", name="Enable").click()
    await settle(relay, relay.key, 200, "chat/completions", BODY)
