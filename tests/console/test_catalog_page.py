"""Goal: a catalog file is shown as what it would change, and that, no more, is what is applied.

Method: the operator's side on a real Postgres, and a real Chromium that uploads a file.
"""

import io
import re
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from playwright.async_api import expect

from relay.console.pages.operator_catalog import CATALOG_BYTES_MAX
from tests.console.chromium import open_chromium
from tests.console.console_rig import PASSWORD, Browser, ConsoleRig, opening

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

FILE = """
[[channel]]
name = "one"
base_url = "https://one.example/v1"
models = ["fast"]

[[line]]
name = "standard"
channels = ["one"]

[[group]]
name = "retail"
multiplier = "1.0"
lines = ["standard"]

[[price]]
model = "fast"
input = "0.10"
output = "0.40"
"""


@pytest.fixture
async def console(database_url: str, tmp_path: Path) -> AsyncIterator[ConsoleRig]:
    async with opening(database_url, tmp_path) as rig:
        yield rig


@pytest.fixture
async def operator(console: ConsoleRig) -> Browser:
    return await console.sign_in("op@relay.example", None, "operator")


def seen_in(page: str) -> str:
    found = re.search(r'name="seen" value="(\w+)"', page)
    assert found is not None, page
    return found[1]


async def test_a_file_is_shown_first_and_applied_as_it_was_shown(
    console: ConsoleRig, operator: Browser
) -> None:
    status, shown, _ = await operator.post("/catalog/preview", {"catalog": FILE})
    assert status == 200
    assert "This would change 4 entries" in shown
    assert 'name="credential:one"' in shown
    assert await console.connection.fetchval("SELECT count(*) FROM lines") == 0
    fields = {"catalog": FILE, "seen": seen_in(shown), "credential:one": "sk-of-the-upstream"}
    status, text, headers = await operator.post("/catalog", fields)
    assert (status, headers.get("Location")) == (303, "/catalog"), text
    assert await console.connection.fetchval("SELECT count(*) FROM lines") == 1
    act = (await console.connection.fetch("SELECT * FROM audit_log WHERE act = 'catalog.apply'"))[0]
    assert act["actor"] == "op@relay.example"
    assert "channel one added" in act["detail"]
    assert "sk-of" not in str(dict(act))
    _, again, _ = await operator.post("/catalog/preview", {"catalog": FILE})
    assert "nothing would change" in again


async def test_what_has_moved_since_is_shown_anew(console: ConsoleRig, operator: Browser) -> None:
    _, shown, _ = await operator.post("/catalog/preview", {"catalog": FILE})
    fields = {"catalog": FILE, "credential:one": "sk-of-the-upstream"}
    assert (await operator.post("/catalog", {**fields, "seen": seen_in(shown)}))[0] == 303
    changed = FILE.replace('"0.40"', '"0.50"')
    _, shown, _ = await operator.post("/catalog/preview", {"catalog": changed})
    assert "0.4" in shown
    other = FILE.replace('"0.40"', '"0.45"')  # somebody else is faster
    _, theirs, _ = await operator.post("/catalog/preview", {"catalog": other})
    fields = {"catalog": other, "seen": seen_in(theirs)}
    assert (await operator.post("/catalog", fields))[0] == 303
    fields = {"catalog": changed, "seen": seen_in(shown)}
    status, text, _ = await operator.post("/catalog", fields)
    assert status == 409
    assert "look again" in text
    assert seen_in(text) != seen_in(shown)
    output = "SELECT output FROM prices ORDER BY id DESC LIMIT 1"
    assert await console.connection.fetchval(output) == 450_000_000


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("[[channel", "catalog"),
        ('[[line]]\nname = "a"\nchannels = ["nowhere"]', "nowhere"),
        ('[[line]]\nname = "a"\nchanels = []', "chanels"),
        (FILE.replace("[[line]]", 'api_key = "file:/etc/passwd"\n[[line]]'), "api_key"),
        (FILE + '[[key]]\naccount = "a"\nname = "k"\nkey = "env:X"', "[[key]]"),
        (" ", "choose one"),
    ],
)
async def test_a_wrong_file_is_told_and_changes_nothing(
    console: ConsoleRig, operator: Browser, file: str, said: str
) -> None:
    for path, fields in (("/catalog/preview", {}), ("/catalog", {"seen": "x"})):
        status, text, _ = await operator.post(path, {"catalog": file, **fields})
        assert status == 400, (path, text)
        assert said.replace("[", "[") in text.replace("&#34;", '"'), (path, text)
        assert "root:" not in text
    assert await console.connection.fetchval("SELECT count(*) FROM channels") == 0


async def test_a_file_larger_than_it_may_be_is_refused(operator: Browser) -> None:
    for size, wanted in ((400_000, 200), (CATALOG_BYTES_MAX + 200_000, 413)):
        form = aiohttp.FormData({"csrf": operator.csrf})
        body = FILE.encode() + b"#" + b"a" * size
        form.add_field("file", io.BytesIO(body), filename="catalog.toml")
        assert (await operator.ask("POST", "/catalog/preview", data=form))[0] == wanted


async def test_an_operator_uploads_a_file_in_a_browser(console: ConsoleRig, tmp_path: Path) -> None:
    await console.add_user("op@relay.example", None, "operator")
    file = tmp_path / "catalog.toml"
    file.write_text(FILE)
    async with open_chromium() as chromium:
        context = await chromium.new_context(extra_http_headers={"x-relay-peer": "203.0.113.9"})
        page = await context.new_page()
        await page.goto(f"{console.browser('operator').base}/login")
        await page.get_by_label("E-mail").fill("op@relay.example")
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Sign in").click()
        await page.get_by_role("link", name="Catalog", exact=True).click()
        await page.get_by_label("catalog file").set_input_files(file)
        await page.get_by_role("button", name="Show what it would change").click()
        await expect(page.get_by_text("This would change 4 entries")).to_be_visible()
        await page.get_by_label("one", exact=True).fill("sk-of-the-upstream")
        await page.get_by_role("button", name="Make these 4 changes").click()
        await expect(page.get_by_text("4 entries were changed")).to_be_visible()
    assert await console.connection.fetchval("SELECT name FROM channels") == "one"
