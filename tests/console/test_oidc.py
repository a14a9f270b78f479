"""Goal: an identity provider lets in whom it vouches for and we have invited, and nobody else.

Method: both sides of the console on a real Postgres, and a scripted provider on a real socket that
signs right and wrong tokens.
"""

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from joserfc.jwk import OctKey, RSAKey
from playwright.async_api import expect

from relay.console.signin import journey, links, totp
from relay.console.signin.throttle import PER_NAME_MAX
from relay.model import Secret
from relay.outside import Oidc
from relay.store.secrets.vault import Pepper
from tests.console.chromium import open_chromium
from tests.console.console_rig import PASSWORD, Browser, ConsoleRig, opening
from tests.console.identity_provider import CLIENT_ID, SECRET, Provider, provider

pytestmark = pytest.mark.live

EMAIL = "ann@acme.example"


@pytest.fixture
async def idp() -> AsyncIterator[Provider]:
    async with provider() as found:
        yield found


@pytest.fixture
async def console(database_url: str, tmp_path: Path, idp: Provider) -> AsyncIterator[ConsoleRig]:
    file = tmp_path / "oidc.secret"
    file.write_text(SECRET)
    oidc = Oidc(
        issuer=idp.issuer, client_id=CLIENT_ID, client_secret=f"file:{file}", name="Acme ID"
    )
    async with opening(database_url, tmp_path, oidc=oidc) as rig:
        await rig.add_account("acme")
        yield rig


async def begin(browser: Browser, following: str = "") -> str:
    """Go to sign in; return the provider's address."""
    path = f"/oidc/start?next={following}" if following else "/oidc/start"
    status, text, headers = await browser.ask("GET", path)
    assert status == 303, text
    return headers["Location"]


async def come_back(browser: Browser, address: str) -> tuple[int, str, dict[str, str]]:
    """Follow a provider's redirect to wherever the console of the test is."""
    parts = urlsplit(address)
    return await browser.ask("GET", f"{parts.path}?{parts.query}")


async def sign_in(
    browser: Browser, idp: Provider, following: str = "", **more: str
) -> tuple[int, str, dict[str, str]]:
    return await come_back(browser, idp.answer(await begin(browser, following), **more))


async def test_who_was_invited_signs_in_without_a_password(
    console: ConsoleRig, idp: Provider
) -> None:
    await console.add_user(EMAIL, "acme", "member")
    await console.connection.execute("UPDATE users SET password = NULL")
    browser = console.browser()
    assert "Sign in with Acme ID" in await browser.page("/login")
    address = await begin(browser, "/keys%3Fx=1")
    asked = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
    assert address.startswith(f"{idp.issuer}/authorize?")
    assert (asked["response_type"], asked["code_challenge_method"]) == ("code", "S256")
    assert (asked["client_id"], asked["scope"]) == (CLIENT_ID, "openid email")
    status, text, headers = await come_back(browser, idp.answer(address))
    assert (status, headers.get("Location")) == (303, "/keys?x=1"), text
    assert (await browser.ask("GET", "/keys"))[0] == 200
    assert (EMAIL, "session.oidc", EMAIL) in await console.acts()
    owner = await console.sign_in("boss@acme.example", "acme", "owner")
    assert "invited" not in (await owner.page("/settings")).split(EMAIL)[1][:400]
    # The same answer does not count a second time in another browser.
    assert (await come_back(console.browser(), idp.answer(address)))[0] == 401


WRONG: dict[str, dict[str, Any]] = {
    "nonce": {"nonce": "of another attempt"},
    "no nonce": {"nonce": None},
    "audience": {"aud": "another-client"},
    "two audiences": {"aud": [CLIENT_ID, "another-client"]},
    "party": {"aud": [CLIENT_ID, "other"], "azp": "other"},
    "issuer": {"iss": "https://evil.example"},
    "expired": {"exp": 1_700_000_000, "iat": 1_699_999_000},
    "no end": {"exp": None},
    "from the future": {"iat": 4_000_000_000, "exp": 4_000_000_300},
    "not verified": {"email_verified": False},
    "verified by a word": {"email_verified": "true"},
    "silent about it": {"email_verified": None},
    "no e-mail": {"email": None},
    "no subject": {"sub": None},
    "a stranger": {"email": "stranger@acme.example"},
}


@pytest.mark.parametrize("name", WRONG)
async def test_a_token_that_does_not_fit_lets_nobody_in(
    console: ConsoleRig, idp: Provider, name: str
) -> None:
    await console.add_user(EMAIL, "acme", "owner")
    idp.claims = WRONG[name]
    browser = console.browser()
    status, text, _ = await sign_in(browser, idp)
    assert status == 401, text
    assert "Acme ID" in text
    assert (await browser.ask("GET", "/keys"))[0] == 303
    assert await console.connection.fetchval("SELECT count(*) FROM user_identities") == 0
    idp.claims = {}
    assert (await sign_in(browser, idp))[0] == 303


def unsigned(idp: Provider) -> str:
    """Return a token of algorithm none."""
    body = idp.sign().split(".")[1]
    head = base64.urlsafe_b64encode(json.dumps({"alg": "none"}).encode()).rstrip(b"=").decode()
    return f"{head}.{body}."


@pytest.mark.parametrize("how", ["stranger's key", "secret", "public key as secret", "none", "no"])
async def test_a_token_that_the_provider_did_not_sign_lets_nobody_in(
    console: ConsoleRig, idp: Provider, how: str
) -> None:
    await console.add_user(EMAIL, "acme", "owner")
    browser = console.browser()
    address = idp.answer(await begin(browser))
    if how == "stranger's key":
        idp.signed_by = RSAKey.generate_key(2048, {"kid": "one"}, private=True)
    elif how in {"secret", "public key as secret"}:
        pem = idp.keys[0].as_bytes(private=False)
        idp.algorithm = "HS256"
        secret = SECRET.encode() * 2 if how == "secret" else pem
        idp.signed_by = OctKey.import_key(base64.urlsafe_b64encode(secret).decode())
    else:
        idp.token = unsigned(idp) if how == "none" else "no.token.at-all"
    status, text, _ = await come_back(browser, address)
    assert status == 401, text
    assert "not signed by it" in text


async def test_rotated_keys_are_read_anew_and_not_for_every_wrong_token(
    console: ConsoleRig, idp: Provider
) -> None:
    await console.add_user(EMAIL, "acme", "owner")
    assert (await sign_in(console.browser(), idp))[0] == 303
    assert idp.keys_read == 1
    idp.rotate()
    assert (await sign_in(console.browser(), idp))[0] == 401  # read a moment ago
    assert idp.keys_read == 1
    client = console.services.oidc_of("account")
    assert client is not None
    client._keys_s -= 11
    assert (await sign_in(console.browser(), idp))[0] == 303
    assert idp.keys_read == 2


async def test_an_answer_counts_in_the_browser_and_the_side_that_asked_alone(
    console: ConsoleRig, idp: Provider
) -> None:
    await console.add_user(EMAIL, "acme", "owner")
    mine, theirs = console.browser(), console.browser()
    begun = await begin(mine)
    address = idp.answer(begun)
    await begin(theirs)
    assert (await come_back(theirs, address))[0] == 401
    for wrong in (
        {"state": "another"},
        {"iss": "https://evil.example"},
        {"code": "x"},
        {"code": ""},
    ):
        assert (await sign_in(console.browser(), idp, **wrong))[0] == 401
    assert (await come_back(mine, idp.answer(begun)))[0] == 303
    operator = console.browser("operator")
    assert (await operator.ask("GET", "/oidc/start"))[0] == 404
    assert (await operator.ask("GET", "/oidc/callback?code=x&state=y"))[0] == 404
    assert "Acme ID" not in await operator.page("/login")


def test_an_attempt_that_somebody_wrote_or_that_is_old_is_none() -> None:
    pepper = Pepper(b"p" * 32, "one")
    begun = journey.begin("account", "/keys", 1_000.0)
    sealed = journey.seal(pepper, begun)
    assert len(sealed) < journey.CHARS_MAX
    assert journey.open_journey(pepper, sealed, "account", 1_599.0) == begun
    assert journey.open_journey(pepper, sealed, "account", 1_600.0) is None
    assert journey.open_journey(pepper, sealed, "operator", 1_001.0) is None
    for wrong in ("", ".", "00" + sealed, sealed[:-1], sealed.partition(".")[0] + "."):
        assert journey.open_journey(pepper, wrong, "account", 1_001.0) is None
    far = journey.begin("account", "/" + "x" * 500, 0.0)
    assert far.following == ""


async def test_an_address_that_changed_hands_is_not_its_owner_of_before(
    console: ConsoleRig, idp: Provider
) -> None:
    user_id = await console.add_user(EMAIL, "acme", "owner")
    assert (await sign_in(console.browser(), idp))[0] == 303
    idp.claims = {"sub": "another-person"}
    status, text, _ = await sign_in(console.browser(), idp)
    assert (status, "another identity" in text) == (401, True)
    # Until the operator vouches for them by a link to choose another password.
    path = await links.make_link(console.connection, console.services.pepper, user_id, "reset")
    form = {"password": "another horse battery"}
    assert (await console.browser().ask("POST", path, data=form))[0] == 303
    assert (await sign_in(console.browser(), idp))[0] == 303


async def test_one_sees_who_one_is_there_and_unlinks_it(console: ConsoleRig, idp: Provider) -> None:
    await console.add_user("ben@acme.example", "acme", "member")
    idp.claims = {"sub": "ben-at-acme-id", "email": "ben@acme.example"}
    assert (await sign_in(console.browser(), idp))[0] == 303
    idp.claims = {}
    user_id = await console.add_user(EMAIL, "acme", "owner")
    browser = console.browser()
    assert "Linked identities" not in await (
        await console.sign_in("boss@acme.example", "acme", "owner")
    ).page("/settings")
    assert (await sign_in(browser, idp))[0] == 303
    page = await browser.page("/settings")
    assert idp.issuer in page
    assert "ben-at-acme-id" not in page
    await browser.read_csrf()
    link = {"issuer": idp.issuer}
    unlink = "/settings/identities/unlink"
    assert (await browser.post(unlink, link | {"password": "a wrong password"}))[0] == 403
    nobody = {"issuer": "https://nobody.example", "password": PASSWORD}
    assert (await browser.post(unlink, nobody))[0] == 404
    assert (await browser.post(unlink, link | {"password": PASSWORD}))[0] == 303
    assert "Linked identities" not in await browser.page("/settings")
    assert (EMAIL, "user.unlink", EMAIL) in await console.acts()
    assert await console.connection.fetchval("SELECT count(*) FROM user_identities") == 1
    # Whoever the provider vouches for by that address is linked by the next sign-in.
    idp.claims = {"sub": "another-person"}
    assert (await sign_in(browser, idp))[0] == 303
    await browser.read_csrf()
    # Who has no password cannot be asked for it.
    await console.connection.execute("UPDATE users SET password = NULL WHERE id = $1", user_id)
    assert (
        'name="password" type="password" autocomplete="current'
        not in (await browser.page("/settings")).split("Linked identities")[1].split("</table>")[0]
    )
    assert (await browser.post(unlink, link))[0] == 303


async def test_who_is_switched_off_stays_out_and_a_second_factor_is_asked_for(
    console: ConsoleRig, idp: Provider
) -> None:
    user_id = await console.add_user(EMAIL, "acme", "owner")
    await console.connection.execute("UPDATE users SET disabled = true")
    assert (await sign_in(console.browser(), idp))[0] == 401
    sealed = console.services.vault.seal(Secret(totp.to_base32(b"k" * 20)), f"user:{user_id}:totp")
    await console.connection.execute("UPDATE users SET disabled = false, totp_sealed = $1", sealed)
    browser = console.browser()
    status, text, _ = await sign_in(browser, idp)
    assert (status, 'name="code"' in text) == (200, True)
    assert (await browser.ask("GET", "/keys"))[0] == 303


async def test_who_tries_codes_has_to_wait(console: ConsoleRig, idp: Provider) -> None:
    statuses = [
        (await sign_in(console.browser(), idp, code="guess"))[0] for _ in range(PER_NAME_MAX + 1)
    ]
    assert statuses == [401] * PER_NAME_MAX + [429]


async def test_a_provider_that_is_not_one_is_told_as_away(
    console: ConsoleRig, idp: Provider
) -> None:
    idp.named_issuer = "https://evil.example"
    status, text, _ = await console.browser().ask("GET", "/oidc/start")
    assert status == 503
    assert "evil" not in text


@pytest.mark.parametrize("following", ["//evil.example", "https://evil.example", "/\\evil"])
async def test_signing_in_leads_to_no_other_site(
    console: ConsoleRig, idp: Provider, following: str
) -> None:
    await console.add_user(EMAIL, "acme", "owner")
    _, _, headers = await sign_in(console.browser(), idp, following)
    assert headers["Location"] == "/"


async def test_a_person_signs_in_with_a_browser(console: ConsoleRig, idp: Provider) -> None:
    await console.add_user(EMAIL, "acme", "owner")
    idp.sends_back_to = base = console.browser().base
    async with open_chromium() as chromium:
        page = await chromium.new_page()
        await page.goto(f"{base}/keys")
        await page.get_by_role("link", name="Sign in with Acme ID").click()
        await expect(page.get_by_role("heading", name="Keys", exact=True)).to_be_visible()
        assert page.url == f"{base}/keys"
        names = {cookie["name"] for cookie in await page.context.cookies()}
        assert "relay_session" in names
