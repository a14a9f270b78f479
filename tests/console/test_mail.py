"""Goal: owners, and whoever made a key, are written to once of what concerns them, and nobody else.

Method: a scripted mail server on a port of its own; rows as the shipper and the watch leave them.
"""

import asyncio
import email
import email.policy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from relay.console.account_notices import AccountNotices, compose
from relay.outside import Mail
from tests.console.console_rig import ConsoleRig, opening

pytestmark = pytest.mark.live


class Postbox:
    """A mail server that keeps what it is given."""

    def __init__(self) -> None:
        self.letters: list[tuple[list[str], email.message.EmailMessage]] = []
        self.refuses = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        to: list[str] = []
        while line := (await reader.readline()).decode().strip():
            verb = line.upper()
            if verb.startswith("RCPT TO:"):
                to.append(line[8:].strip(" <>"))
            if verb == "DATA":
                writer.write(b"354 go on\r\n")
                body = await reader.readuntil(b"\r\n.\r\n")
                parsed = email.message_from_bytes(body[:-5], policy=email.policy.default)
                assert isinstance(parsed, email.message.EmailMessage)
                self.letters.append((to, parsed))
            refused = self.refuses and verb.startswith("MAIL")
            writer.write(b"550 no\r\n" if refused else b"250 ok\r\n")
            if verb == "QUIT":
                break
        writer.close()


@asynccontextmanager
async def postbox() -> AsyncIterator[tuple[Postbox, Mail]]:
    box = Postbox()
    server = await asyncio.start_server(box.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield box, Mail(host="127.0.0.1", port=port, tls="none", sender="relay@relay.example")
    finally:
        server.close()


@pytest.fixture
async def rig(database_url: str, tmp_path: Path) -> AsyncIterator[tuple[ConsoleRig, Postbox]]:
    async with postbox() as (box, mail), opening(database_url, tmp_path, mail=mail) as console:
        await console.add_account("acme")
        await console.add_account("other")
        yield console, box


async def look(console: ConsoleRig) -> int:
    async with aiohttp.ClientSession() as session:
        return await AccountNotices(console.services).look(session)


async def test_owners_and_whose_key_it_is_are_written_to_once(
    rig: tuple[ConsoleRig, Postbox],
) -> None:
    console, box = rig
    await console.add_user("ann@acme.example", "acme", "owner")
    await console.add_user("eve@other.example", "other", "owner")
    await console.add_user("carl@acme.example", "acme", "member")
    bob = await console.sign_in("bob@acme.example", "acme", "member")
    _, made = await bob.call("POST", "/account/v1/keys", {"name": "bob's laptop"})
    # A name of old, from before such were refused.
    await console.connection.execute("UPDATE keys SET name = E'bob''s\\nlaptop' WHERE id = 1")
    await console.connection.execute(
        """INSERT INTO key_addresses (key_id, ip, first_seen, last_seen, requests) VALUES
            (1, '203.0.113.1', now() - interval '9 days', now(), 9),
            (1, '198.51.100.7', now() - interval '1 minute', now(), 1)"""
    )
    assert await look(console) == 1
    assert await look(console) == 0
    ((to, letter),) = box.letters
    assert to == ["ann@acme.example", "bob@acme.example"]
    assert letter["Subject"] == '[acme] Key "bob\'s laptop" was used from a new address'
    assert letter["From"] == "relay@relay.example"
    text = letter.get_content()
    assert "198.51.100.7" in text
    assert f"/keys/{made['id']}" in text


async def test_a_rotated_key_stays_its_makers(rig: tuple[ConsoleRig, Postbox]) -> None:
    console, _ = rig
    bob = await console.sign_in("bob@acme.example", "acme", "member")
    await console.add_user("ann@acme.example", "acme", "owner")
    ann = await console.sign_in("amy@acme.example", "acme", "owner")
    _, made = await bob.call("POST", "/account/v1/keys", {"name": "ci"})
    _, fresh = await ann.call("POST", f"/account/v1/keys/{made['id']}/rotate", {})
    owners = await console.connection.fetch("SELECT user_id FROM keys ORDER BY id")
    assert fresh["id"] > made["id"]
    assert owners[0]["user_id"] == owners[1]["user_id"]


async def test_a_server_that_refuses_stops_nothing(rig: tuple[ConsoleRig, Postbox]) -> None:
    console, box = rig
    box.refuses = True
    await console.add_user("ann@acme.example", "acme", "owner")
    await console.connection.execute(
        """UPDATE accounts SET low_balance_nanos = 5000000000;
        INSERT INTO low_balances (account_id) VALUES (1)"""
    )
    assert await look(console) == 1
    assert box.letters == []


def test_a_letter_says_what_to_do() -> None:
    told = {"balance_nanos": 1_500_000_000, "threshold_nanos": 5_000_000_000}
    subject, text = compose("low_balance", "acme", told, "https://console.example")
    assert subject == "[acme] The balance is below 5 USD"
    assert "1.5 USD" in text
    assert "https://console.example/billing" in text
    subject, text = compose("order_stuck", "acme", {"order": "R-1"}, "https://console.example")
    assert "R-1" in subject
    for status, said in (("credited", "is paid"), ("pending", "is closed")):
        over = {"order": "R-1", "status": status}
        subject, _ = compose("order_stuck_over", "acme", over, "https://console.example")
        assert said in subject
    subject, text = compose("low_balance_over", "acme", told, "https://console.example")
    assert "low no longer" in subject
    assert "1.5 USD" in text
    budget = {"key_id": 7, "key_name": "ci", "begins_anew": "2026-12-01"}
    subject, text = compose("budget_low", "acme", budget, "https://console.example")
    assert subject == '[acme] Most of a budget of the key "ci" is used'
    assert "2026-12-01" in text
    subject, _ = compose("budget_low", "acme", {**budget, "key_id": None}, "https://c.example")
    assert "of the account" in subject
