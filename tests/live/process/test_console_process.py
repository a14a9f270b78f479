"""Goal: the console is a process of its own, both its sides are reached, its death hurts nobody.

Method: the real command with the console's listener; its child is killed while calls are made.
"""

import json
import os
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from tests.live.relay_process import RelayProcess, ask, question, send, until, until_told

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]


@pytest.fixture
async def relay(reachable: Path) -> AsyncIterator[RelayProcess]:
    environ = {"RELAY_SERVER__CONSOLE": "127.0.0.1:0"}
    async with RelayProcess.start(reachable / "console", environ=environ) as relay:
        yield relay


def links(relay: RelayProcess) -> tuple[str, str]:
    """Return the links that sign in as the account's owner and as an operator."""
    said = relay.words.read_text()
    found = re.search(r"owner, once: (\S+)\n.*operator, once: +(\S+)\n", said)
    assert found is not None, said
    return found[1], found[2]


def pid_of(relay: RelayProcess, child: str) -> int:
    """Return the newest process of that name."""
    events = [json.loads(line) for line in relay.words.read_text().splitlines() if line[:1] == "{"]
    pids = [
        one["pid"] for one in events if one["event"] == "child started" and one["child"] == child
    ]
    return int(pids[-1])


async def sign_in(link: str) -> aiohttp.ClientSession:
    session = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))

    async def enter() -> bool:
        async with session.post(link, allow_redirects=False) as answer:
            return answer.status == 303

    await until_told(enter, "the console signs in")
    return session


async def test_both_sides_are_reached_and_a_killed_console_comes_back(relay: RelayProcess) -> None:
    owner_link, operator_link = links(relay)
    owner, operator = await sign_in(owner_link), await sign_in(operator_link)
    base = owner_link.partition("/link/")[0]
    try:
        await ask(relay, relay.key, question("demo-model"))

        async def logged() -> bool:
            async with owner.get(f"{base}/account/v1/logs") as answer:
                return bool((await answer.json())["logs"])

        await until_told(logged, "the call is in the account's log")
        async with operator.get(f"http://{relay.admin}/channels") as answer:
            assert answer.status == 200
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        async with owner.get(f"{base}/channels") as answer:
            assert answer.status == 404

        killed = pid_of(relay, "console")
        os.kill(killed, signal.SIGKILL)
        assert (await send(f"http://{relay.admin}/livez")).status == 200
        answers = [await ask(relay, relay.key, question("demo-model")) for _ in range(5)]
        assert [one.status for one in answers] == [200] * 5
        await until(lambda: pid_of(relay, "console") != killed, "another console starts")
        await until_told(logged_again(owner, base), "the session still holds")
        async with operator.get(f"http://{relay.admin}/") as answer:
            assert answer.status == 200
    finally:
        await owner.close()
        await operator.close()


def logged_again(owner: aiohttp.ClientSession, base: str) -> Callable[[], Awaitable[bool]]:
    """Return a question whether the owner's session is known, wherever it is asked."""

    async def look() -> bool:
        try:
            async with owner.get(f"{base}/account/v1/balance") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    return look


async def test_users_and_management_keys_are_made_by_commands(relay: RelayProcess) -> None:
    base = links(relay)[0].partition("/link/")[0]
    made = json.loads(await relay.cli("key", "create", "--account", "demo", "--manage", "--json"))
    headers = {"Authorization": f"Bearer {made['key']}"}

    async def answered() -> bool:
        return (await send(f"{base}/account/v1/balance", headers=headers)).status == 200

    await until_told(answered, "the management key is good")
    refused = await ask(relay, made["key"], question("demo-model"))
    assert refused.status == 401
    model_key = {"Authorization": f"Bearer {relay.key}"}
    assert (await send(f"{base}/account/v1/balance", headers=model_key)).status == 401
    words = ("user", "invite", "--email", "x@demo.example", "--json")
    account = json.loads(await relay.cli(*words, "--account", "demo", "--role", "viewer"))
    operator = json.loads(await relay.cli(*words, "--operator"))
    assert set(account) == set(operator) == {"url"}
    assert "/invite/" in account["url"]
    listed = json.loads(await relay.cli("user", "list", "--json"))
    assert {row["role"] for row in listed} >= {"owner", "viewer", "operator"}
