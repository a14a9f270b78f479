"""Goal: an account sees its own only, a role does what the table says, a side has its own paths.

Method: every route and page of both sides is asked by everybody: strangers, each role, another
account with the ids of this one, keys of both kinds, the other side's cookie.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.console.routes import Page
from relay.console.signin.actor import ROLES, Permit
from relay.console.sites import ACCOUNT_PAGES, ACCOUNT_ROUTES, OPERATOR_PAGES
from relay.store.catalog.keys import KeyTerms, create_key
from relay.store.log.writer import Mark, Part, write_batch
from tests.console.console_rig import ConsoleRig, fill, opening
from tests.live.journals import make_end, make_start

pytestmark = pytest.mark.live

ROLES_OF_ACCOUNT = ("owner", "member", "viewer")
BODIES: dict[str, object] = {
    "/account/v1/orders": {"amount": "10"},
    "/account/v1/codes/redeem": {"code": "x"},
}


@pytest.fixture
async def console(database_url: str, tmp_path: Path) -> AsyncIterator[ConsoleRig]:
    async with opening(database_url, tmp_path) as rig:
        await rig.add_account("acme")
        await rig.add_account("other")
        yield rig


@pytest.mark.parametrize("role", ROLES_OF_ACCOUNT)
async def test_a_role_may_do_what_the_table_says(console: ConsoleRig, role: str) -> None:
    await console.sign_in("first@acme.example", "acme", "owner")
    browser = await console.sign_in("one@acme.example", "acme", role)
    for route in ACCOUNT_ROUTES:
        body = BODIES.get(route.path, {})
        status, found, _ = await browser.ask(
            route.method,
            fill(route, id=999),
            json=None if route.method == "GET" else body,
            headers={"x-csrf-token": browser.csrf},
        )
        allowed = role in ROLES[route.permit]
        assert (status == 403) != allowed, (route.path, status, found)
    for page in ACCOUNT_PAGES:
        if page.permit is Permit.PUBLIC or page.path == "/logout":
            continue
        if page.path.startswith("/settings/") and page.permit is Permit.SELF:
            continue  # asks for the password as well: see test_signing_in
        send = browser.ask if page.method == "GET" else None
        path = fill(page, id=999)
        status, text, _ = await (send("GET", path) if send else browser.post(path))
        assert (status == 403) != (role in ROLES[page.permit]), (page.path, status, text)


async def test_a_stranger_gets_nothing(console: ConsoleRig) -> None:
    stranger, outsider = console.browser(), console.browser("operator")
    for route in ACCOUNT_ROUTES:
        status, _ = await stranger.call(route.method, fill(route), None)
        assert status == 401, route.path
        for key in ("relaym_nonsense", "relay_nonsense", "", "x" * 300):
            status, _ = await stranger.call(route.method, fill(route), None, key=key or " ")
            assert status == 401, route.path
    for browser, pages in ((stranger, ACCOUNT_PAGES), (outsider, OPERATOR_PAGES)):
        for page in pages:
            if page.permit is Permit.PUBLIC:
                continue
            status, _, headers = await browser.ask(page.method, fill(page))
            assert status == 303, page.path
            assert headers["Location"].startswith("/login"), page.path
    status, _, headers = await stranger.ask("GET", "/prices")
    assert (status, headers["Location"][:6]) == (303, "/login")


async def test_no_path_of_the_one_side_is_on_the_other(console: ConsoleRig) -> None:
    owner = await console.sign_in("one@acme.example", "acme", "owner")
    operator = await console.sign_in("op@relay.example", None, "operator")
    common = {page.path for page in ACCOUNT_PAGES} & {page.path for page in OPERATOR_PAGES}
    for page in OPERATOR_PAGES:
        if page.path not in common and not page.path.startswith("/{"):
            status, _, _ = await owner.ask(page.method, fill(page))
            assert status in {404, 405}, page.path
    for route in ACCOUNT_ROUTES:
        status, _, _ = await operator.ask(route.method, fill(route))
        assert status == 404, route.path


async def test_a_cookie_of_one_side_is_nothing_on_the_other(console: ConsoleRig) -> None:
    user_id = await console.add_user("both@acme.example", "acme", "owner")
    assert user_id
    operator = await console.sign_in("both@acme.example", None, "operator")
    _, _, headers = await operator.ask("GET", "/")
    token = operator.cookie("relay_operator")
    stranger = console.browser()
    for name in ("relay_session", "relay_operator"):
        status, _, headers = await stranger.ask("GET", "/", headers={"Cookie": f"{name}={token}"})
        assert (status, headers["Location"][:6]) == (303, "/login")


async def test_ids_of_another_account_mean_nothing(console: ConsoleRig) -> None:
    """Everything with an id in its path is asked with the ids of another account."""
    await fill_other(console)
    thief = await console.sign_in("thief@acme.example", "acme", "owner")
    key = await console.management_key("acme")
    made = await create_key(console.connection, console.services.pepper, "other", "k", KeyTerms())
    user_id = await console.add_user("victim@other.example", "other", "owner")
    await console.management_key("other")
    management_id: int = await console.connection.fetchval("SELECT max(id) FROM management_keys")
    order = await open_order(console)
    log_id = f"req_{(1).to_bytes(16, 'big').hex()}"
    named = {"{order}": order, "{id}": log_id}
    for path in (*ACCOUNT_ROUTES, *ACCOUNT_PAGES):
        if path.permit is Permit.PUBLIC or "{" not in path.path or "month" in path.path:
            continue
        at = path.path
        for place, value in named.items():
            at = at.replace(place, value)
        number = user_id if "/users/" in at else management_id if "management" in at else made.id
        at = fill(Page(method="GET", path=at, permit=Permit.LOOK, work=path.work), number)
        form = {"role": "viewer", "note": "x"}
        if isinstance(path, Page):
            status, text, _ = (
                await thief.ask("GET", at) if path.method == "GET" else await thief.post(at, form)
            )
        else:
            asked = {field: form[field] for field in form if at.endswith(f"/{field}")}
            body = None if path.method == "GET" else asked
            status, told = await thief.call(path.method, at, body)
            text = json.dumps(told)
            by_key, _ = await thief.call(path.method, at, body, key=key)
            assert by_key in {403, 404}, path.path
        assert status == 404, (path.path, at, status, text)
        assert "other" not in text.replace("another", ""), path.path
    row = await console.connection.fetchrow("SELECT disabled, deleted_at, name FROM keys")
    assert tuple(row or ()) == (False, None, "k")
    assert await console.connection.fetchval("SELECT note FROM orders") == ""


async def test_lists_hold_ones_own_only(console: ConsoleRig) -> None:
    await fill_other(console)
    await create_key(console.connection, console.services.pepper, "other", "theirs", KeyTerms())
    await open_order(console)
    await console.add_user("victim@other.example", "other", "owner")
    me = await console.sign_in("me@acme.example", "acme", "owner")
    for route in ACCOUNT_ROUTES:
        if route.method == "GET" and "{" not in route.path:
            for query in ("", "?key=theirs", "?key=1", "?since=30d"):
                status, text, _ = await me.ask("GET", route.path + query)
                assert status in {200, 400}, (route.path, text)
                for secret in ("other", "theirs", "203.0.113.77", "R-"):
                    assert secret not in text, (route.path, secret, text)
    for page in ACCOUNT_PAGES:
        if page.method == "GET" and "{" not in page.path:
            text = (await me.ask("GET", page.path))[1]
            for secret in ("victim@", "theirs", "203.0.113.77", "R-2"):
                assert secret not in text, (page.path, secret)


async def fill_other(console: ConsoleRig) -> None:
    """Give the other account a call in the log."""
    other: int = await console.connection.fetchval("SELECT id FROM accounts WHERE name = 'other'")
    start = make_start(
        request_id=(1).to_bytes(16, "big"), account_id=other, key_id=1, ip="203.0.113.77"
    )
    await write_batch(console.connection, [Part("w", Mark(1, 1), [make_end(start)])])


async def open_order(console: ConsoleRig) -> str:
    """Return the number of an order of the other account."""
    owner = await console.sign_in("payer@other.example", "other", "owner")
    status, order = await owner.call("POST", "/account/v1/orders", {"amount": "10"})
    assert status == 201
    number: str = order["order"]
    return number
