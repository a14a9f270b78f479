"""Goal: only who may come in does, and what they do there is written down with their name.

Method: both sides on a real Postgres; browsers without scripts; the clock of codes is the system's.
"""

import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.console.signin import links, totp
from relay.console.signin.throttle import LEAK_S, PER_NAME_MAX, Throttle
from relay.errors import RateLimited
from tests.console.console_rig import PASSWORD, ConsoleRig, opening

pytestmark = pytest.mark.live

EMAIL = "ann@acme.example"


@pytest.fixture
async def console(database_url: str, tmp_path: Path) -> AsyncIterator[ConsoleRig]:
    async with opening(database_url, tmp_path) as rig:
        await rig.add_account("acme")
        yield rig


def form(**fields: str) -> dict[str, str]:
    return {"email": EMAIL, "password": PASSWORD, **fields}


async def test_an_invitation_makes_a_user_once(console: ConsoleRig) -> None:
    owner = await console.sign_in("boss@acme.example", "acme", "owner")
    _, text, _ = await owner.post(
        "/settings/users", {"email": " Ann@Acme.example", "role": "viewer"}
    )
    invited = await owner.page("/settings")
    assert invited
    user = await console.connection.fetchrow("SELECT * FROM users WHERE email = $1", EMAIL)
    assert user is not None
    assert (user["role"], user["password"]) == ("viewer", None)
    path = await links.make_link(console.connection, console.services.pepper, user["id"], "invite")
    ann = console.browser()
    await ann.page(path)
    status, text, _ = await ann.ask("POST", path, data={"password": "short"})
    assert (status, "12 to" in text) == (400, True)
    status, _, headers = await ann.ask("POST", path, data={"password": PASSWORD})
    assert (status, headers["Location"]) == (303, "/")
    assert (await ann.ask("GET", path))[0] == 404
    assert (await ann.ask("POST", path, data={"password": PASSWORD}))[0] == 404
    await ann.page("/settings")
    acts = [(actor, act) for actor, act, _ in await console.acts()]
    assert ("boss@acme.example", "user.invite") in acts
    assert (EMAIL, "user.invite") in acts


async def test_a_password_lets_in_and_a_wrong_one_does_not(console: ConsoleRig) -> None:
    await console.add_user(EMAIL, "acme", "member")
    browser = console.browser()
    for wrong in (form(password="wrong horse battery"), form(email="nobody@acme.example")):
        status, text, _ = await browser.ask("POST", "/login", data=wrong)
        assert status == 401
        assert PASSWORD not in text
    status, _, headers = await browser.ask("POST", "/login", data=form(next="/keys?x=1"))
    assert (status, headers["Location"]) == (303, "/keys?x=1")
    cookie = headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert "Secure" not in cookie
    assert (await browser.ask("GET", "/keys"))[0] == 200


@pytest.mark.parametrize("next_path", ["//evil.example", "https://evil.example", "/\\evil", "evil"])
async def test_signing_in_leads_to_no_other_site(console: ConsoleRig, next_path: str) -> None:
    await console.add_user(EMAIL, "acme", "member")
    _, _, headers = await console.browser().ask("POST", "/login", data=form(next=next_path))
    assert headers["Location"] == "/"


async def test_behind_tls_the_cookie_is_for_tls_alone(console: ConsoleRig) -> None:
    await console.add_user(EMAIL, "acme", "member")
    _, _, headers = await console.browser().ask(
        "POST", "/login", data=form(), headers={"X-Forwarded-Proto": "https"}
    )
    assert "Secure" in headers["Set-Cookie"]


async def test_who_guesses_has_to_wait(console: ConsoleRig) -> None:
    await console.add_user(EMAIL, "acme", "member")
    browser = console.browser()
    statuses = [
        (await browser.ask("POST", "/login", data=form(password="a wrong password")))[0]
        for _ in range(PER_NAME_MAX + 1)
    ]
    assert statuses == [401] * PER_NAME_MAX + [429]
    status, _, headers = await browser.ask("POST", "/login", data=form())
    assert status == 429
    assert LEAK_S / 2 < int(headers["Retry-After"]) <= LEAK_S


def test_a_throttle_forgives_with_time() -> None:
    now_s = 0.0
    throttle = Throttle(lambda: now_s)
    for _ in range(PER_NAME_MAX):
        throttle.admit("ann", "203.0.113.9")
    with pytest.raises(RateLimited):
        throttle.admit("ann", "203.0.113.9")
    throttle.admit("bob", "203.0.113.9")
    now_s = LEAK_S
    throttle.admit("ann", "203.0.113.10")
    throttle.forgive("ann", "203.0.113.10")
    for _ in range(PER_NAME_MAX):
        throttle.admit("ann", "203.0.113.11")


async def test_a_second_factor_is_asked_for_and_each_code_is_good_once(console: ConsoleRig) -> None:
    ann = await console.sign_in(EMAIL, "acme", "member")
    page = await ann.page("/settings")
    assert page
    secret = b"12345678901234567890"
    code = totp.code_at(secret, int(time.time_ns() // 10**9) // totp.STEP_S)
    good = {"secret": totp.to_base32(secret), "code": code}
    assert (await ann.post("/settings/totp", {**good, "code": "000000"}))[0] == 400
    assert (await ann.post("/settings/totp", good))[0] == 303
    other = console.browser()
    status, text, _ = await other.ask("POST", "/login", data=form())
    assert status == 200
    assert 'name="code"' in text
    found = re.search(r'name="half" value="([^"]+)"', text)
    assert found is not None
    step = {"half": found[1], "code": code}
    assert (await other.ask("POST", "/login", data=step))[0] == 401  # used when it was set up
    following = totp.code_at(secret, int(time.time_ns() // 10**9) // totp.STEP_S + 1)
    assert (await other.ask("POST", "/login", data={**step, "code": following}))[0] == 303
    assert (await other.ask("POST", "/login", data={**step, "code": following}))[0] == 401
    forged = found[1].replace(found[1][-4:], "0000")
    assert (await other.ask("POST", "/login", data={"half": forged, "code": "1"}))[0] == 401
    sealed = await console.connection.fetchval("SELECT totp_sealed FROM users")
    assert totp.to_base32(secret).encode() not in sealed


def test_codes_are_those_of_the_standard() -> None:
    """Source: RFC 6238, appendix B, SHA-1, the last six digits."""
    secret = b"12345678901234567890"
    assert totp.code_at(secret, 59 // 30) == "287082"
    assert totp.code_at(secret, 1111111109 // 30) == "081804"
    assert totp.code_at(secret, 20000000000 // 30) == "353130"
    assert totp.find_step(secret, "287082", 59.0, 0) == 1
    assert totp.find_step(secret, "287082", 59.0, 1) is None
    assert totp.from_base32(totp.to_base32(secret)) == secret
    assert totp.from_base32("not base32!") == b""


async def test_a_form_of_another_site_changes_nothing(console: ConsoleRig) -> None:
    owner = await console.sign_in(EMAIL, "acme", "owner")
    sites = {"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}
    for headers in sites:
        assert (await owner.post("/keys", {"name": "x"}, headers=headers))[0] == 403
    owner.csrf = "0" * 32
    assert (await owner.post("/keys", {"name": "x"}))[0] == 403
    assert (await owner.call("POST", "/account/v1/keys", {}))[0] == 403
    assert await console.connection.fetchval("SELECT count(*) FROM keys") == 0


async def test_a_switched_off_user_is_out_at_once(console: ConsoleRig) -> None:
    owner = await console.sign_in("boss@acme.example", "acme", "owner")
    ann = await console.sign_in(EMAIL, "acme", "member")
    user_id = await console.connection.fetchval("SELECT id FROM users WHERE email = $1", EMAIL)
    assert (await owner.post(f"/settings/users/{user_id}/disable"))[0] == 303
    assert (await ann.ask("GET", "/"))[0] == 303
    assert (await ann.ask("POST", "/login", data=form()))[0] == 401
    assert (await owner.post(f"/settings/users/{user_id}/enable"))[0] == 303
    assert (await ann.ask("POST", "/login", data=form()))[0] == 303


async def test_the_last_owner_stays(console: ConsoleRig) -> None:
    owner = await console.sign_in("boss@acme.example", "acme", "owner")
    user_id = await console.connection.fetchval("SELECT id FROM users")
    assert (await owner.post(f"/settings/users/{user_id}/disable"))[0] == 409
    assert (await owner.post(f"/settings/users/{user_id}/role", {"role": "viewer"}))[0] == 409


async def test_a_changed_password_ends_every_other_session(console: ConsoleRig) -> None:
    ann = await console.sign_in(EMAIL, "acme", "member")
    other = console.browser()
    assert (await other.ask("POST", "/login", data=form()))[0] == 303
    wrong = {"current": "a wrong password", "password": "another good password"}
    assert (await ann.post("/settings/password", wrong))[0] == 403
    good = {"current": PASSWORD, "password": "another good password"}
    assert (await ann.post("/settings/password", good))[0] == 303
    assert (await ann.ask("GET", "/"))[0] == 200
    assert (await other.ask("GET", "/"))[0] == 303


async def test_signing_out_ends_the_session_itself(console: ConsoleRig) -> None:
    ann = await console.sign_in(EMAIL, "acme", "member")
    token = ann.cookie("relay_session")
    assert (await ann.post("/logout"))[0] == 303
    stranger = console.browser()
    headers = {"Cookie": f"relay_session={token}"}
    assert (await stranger.ask("GET", "/", headers=headers))[0] == 303


async def test_the_actor_is_who_acts_whatever_is_said(console: ConsoleRig) -> None:
    operator = await console.sign_in("op@relay.example", None, "operator")
    said = {"amount_usd": "5", "reason": "goodwill", "actor": "somebody else"}
    assert (await operator.post("/accounts/acme/credit", said))[0] == 303
    row = await console.connection.fetchrow("SELECT actor, reason FROM transfers")
    assert row is not None
    assert tuple(row) == ("op@relay.example", "goodwill")
    act = await console.connection.fetchrow(
        "SELECT actor, act, target, host(ip) AS ip FROM audit_log ORDER BY id DESC LIMIT 1"
    )
    assert act is not None
    assert tuple(act) == ("op@relay.example", "credit.book", "acme", "203.0.113.9")


async def test_no_table_holds_what_signs_in(console: ConsoleRig) -> None:
    ann = await console.sign_in(EMAIL, "acme", "owner")
    key = await console.management_key("acme")
    token = ann.cookie("relay_session")
    for table in ("users", "sessions", "sign_in_links", "management_keys", "audit_log"):
        rows = await console.connection.fetch(f"SELECT t::text AS text FROM {table} AS t")
        text = "".join(row["text"] for row in rows)
        for secret in (PASSWORD, token, key):
            assert secret not in text
            assert secret.encode().hex() not in text


async def test_what_was_done_cannot_be_undone(console: ConsoleRig) -> None:
    await console.sign_in(EMAIL, "acme", "owner")
    for statement in ("UPDATE audit_log SET actor = 'x'", "DELETE FROM audit_log"):
        with pytest.raises(Exception, match="what was done was done"):
            await console.connection.execute(statement)
