"""Goal: an account is told once of what concerns it, at a place that everybody reaches.

Method: rows as the shipper and the watch leave them, on a real Postgres; a post that only listens.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import orjson
import pytest

from relay.console.account_notices import AccountNotices, is_public, may_ask
from tests.console.console_rig import ConsoleRig, opening

URL = "https://hooks.acme.example/relay?token=secret"


@pytest.fixture
async def console(database_url: str, tmp_path: Path) -> AsyncIterator[ConsoleRig]:
    async with opening(database_url, tmp_path) as rig:
        await rig.add_account("acme")
        yield rig


@pytest.mark.live
async def test_an_account_is_told_once_of_each(console: ConsoleRig) -> None:
    owner = await console.sign_in("ann@acme.example", "acme", "owner")
    assert (await owner.post("/settings/webhook", {"url": "https://127.0.0.1/x"}))[0] == 400
    assert (await owner.post("/settings/webhook", {"url": URL}))[0] == 303
    await owner.call("POST", "/account/v1/keys", {"name": "ci"})
    await owner.call("POST", "/account/v1/orders", {"amount": "10"})
    await console.connection.execute(
        """UPDATE orders SET created_at = now() - interval '11 minutes';
        UPDATE accounts SET low_balance_nanos = 5000000000;
        INSERT INTO low_balances (account_id) VALUES (1);
        INSERT INTO key_addresses (key_id, ip, first_seen, last_seen, requests) VALUES
            (1, '203.0.113.1', now() - interval '9 days', now(), 9),
            (1, '198.51.100.7', now() - interval '1 minute', now(), 1)"""
    )
    told = []

    async def post(_session: aiohttp.ClientSession, url: str, body: bytes) -> bool:
        assert url == URL
        told.append(orjson.loads(body))
        return True

    notices = AccountNotices(console.services, post)
    async with aiohttp.ClientSession() as session:
        assert await notices.look(session) == 3
        assert await notices.look(session) == 0
    by_event = {one["event"]: one for one in told}
    assert by_event.keys() == {"unfamiliar_ip", "low_balance", "order_stuck"}
    assert by_event["unfamiliar_ip"]["address"] == "198.51.100.7"
    assert by_event["low_balance"]["threshold_usd"] == "5"
    assert {one["account"] for one in told} == {"acme"}

    told.clear()
    await console.connection.execute(
        "DELETE FROM low_balances; UPDATE orders SET closed_at = now()"
    )
    async with aiohttp.ClientSession() as session:
        assert await notices.look(session) == 2
        assert await notices.look(session) == 0
    assert {one["event"] for one in told} == {"low_balance_over", "order_stuck_over"}
    sealed = await console.connection.fetchval("SELECT webhook_sealed FROM account_contacts")
    assert b"token" not in sealed


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("https://hooks.example/x", True),
        ("https://8.8.8.8/x", True),
        ("http://hooks.example/x", False),
        ("https://10.0.0.7/x", False),
        ("https://[::1]/x", False),
        ("https://[::ffff:10.0.0.7]/x", False),
        ("https://169.254.169.254/latest", False),
        ("https://user@hooks.example/x", False),
        ("ftp://hooks.example", False),
        ("nonsense", False),
    ],
)
def test_only_public_addresses_may_be_asked(url: str, good: bool) -> None:
    assert may_ask(url) is good


def test_what_is_public() -> None:
    assert is_public("8.8.8.8")
    for host in ("127.0.0.1", "192.168.0.1", "fe80::1%eth0", "0.0.0.0", "224.0.0.1", "name"):
        assert not is_public(host)
