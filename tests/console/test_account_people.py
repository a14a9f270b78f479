"""Goal: what an owner does with people and notices on the pages is done by the API as well.

Method: the account's side on a real Postgres, by a session and by a management key.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.console.console_rig import PASSWORD, Browser, ConsoleRig, opening

pytestmark = pytest.mark.live

ANN = "ann@acme.example"


@pytest.fixture
async def console(database_url: str, tmp_path: Path) -> AsyncIterator[ConsoleRig]:
    async with opening(database_url, tmp_path) as rig:
        await rig.add_account("acme")
        await rig.add_account("other")
        yield rig


@pytest.fixture
async def owner(console: ConsoleRig) -> Browser:
    return await console.sign_in("boss@acme.example", "acme", "owner")


async def test_somebody_is_invited_promoted_and_switched_off(
    console: ConsoleRig, owner: Browser
) -> None:
    status, guest = await owner.call(
        "POST", "/account/v1/users", {"email": " Ann@acme.example ", "role": "viewer"}
    )
    assert (status, guest["email"]) == (201, ANN)
    path = guest["url"].partition("/invite/")[2]
    ann = console.browser()
    form = {"password": PASSWORD}
    assert (await ann.ask("POST", f"/invite/{path}", data=form))[0] == 303
    rows = {row["email"]: row for row in (await owner.get("/account/v1/users"))["users"]}
    assert (rows[ANN]["role"], rows[ANN]["state"]) == ("viewer", "active")
    place = f"/account/v1/users/{rows[ANN]['id']}"
    status, row = await owner.call("POST", f"{place}/role", {"role": "member"})
    assert (status, row["role"]) == (200, "member")
    status, row = await owner.call("POST", f"{place}/disable")
    assert (status, row["state"]) == (200, "disabled")
    assert (await ann.ask("GET", "/keys"))[0] == 303
    assert (await owner.call("POST", f"{place}/enable"))[1]["state"] == "active"
    acts = [row["act"] for row in (await owner.get("/account/v1/audit?act=user."))["audit"]]
    assert acts[:4] == ["user.enable", "user.disable", "user.role", "user.invite"]


async def test_the_last_owner_stays_and_other_accounts_are_none(
    console: ConsoleRig, owner: Browser
) -> None:
    rows = (await owner.get("/account/v1/users"))["users"]
    place = f"/account/v1/users/{rows[0]['id']}"
    for path, body in (("role", {"role": "viewer"}), ("disable", None)):
        assert (await owner.call("POST", f"{place}/{path}", body))[0] == 409
    stranger = await console.sign_in("eve@other.example", "other", "owner")
    for path, body in (("role", {"role": "viewer"}), ("disable", None), ("enable", None)):
        assert (await stranger.call("POST", f"{place}/{path}", body))[0] == 404
    assert [row["email"] for row in (await stranger.get("/account/v1/users"))["users"]] == [
        "eve@other.example"
    ]
    taken = {"email": "boss@acme.example", "role": "viewer"}
    assert (await stranger.call("POST", "/account/v1/users", taken))[0] == 409
    assert (await owner.call("POST", "/account/v1/users", {"email": ANN, "role": "operator"}))[
        0
    ] == 400


async def test_notices_and_notes_are_set_by_a_management_key_as_far_as_it_may(
    console: ConsoleRig, owner: Browser
) -> None:
    key = await console.management_key("acme")
    status, found = await owner.call(
        "POST", "/account/v1/contacts/alert", {"low_balance_usd": "25"}, key=key
    )
    assert (status, found) == (200, {"webhook": False, "low_balance_usd": "25"})
    hook = {"url": "https://hooks.example/relay?token=secret"}
    assert (await owner.call("POST", "/account/v1/contacts/webhook", hook, key=key))[0] == 403
    status, found = await owner.call("POST", "/account/v1/contacts/webhook", hook)
    assert (status, found) == (200, {"webhook": True, "low_balance_usd": "25"})
    inward = {"url": "http://10.0.0.1/"}
    assert (await owner.call("POST", "/account/v1/contacts/webhook", inward))[0] == 400
    off = {"low_balance_usd": None}
    assert (await owner.call("POST", "/account/v1/contacts/alert", off, key=key))[1] == {
        "webhook": True,
        "low_balance_usd": None,
    }
    order = (await owner.call("POST", "/account/v1/orders", {"amount": "10"}, key=key))[1]["order"]
    place = f"/account/v1/orders/{order}/note"
    status, row = await owner.call("POST", place, {"note": "paid at noon"}, key=key)
    assert (status, row["note"]) == (200, "paid at noon")
    assert (await owner.call("POST", place, {"note": ""}, key=key))[0] == 400
    assert "secret" not in str(await owner.get("/account/v1/audit"))
