"""Goal: a blocked network is refused by every worker within a second, and support finds out why.

Method: a real relay with two workers, clients from addresses of the loopback network, the commands
an operator types; many new connections, so that every worker is asked.
"""

import asyncio
import json
import time

import pytest

from tests.live.relay_process import Answer, RelayProcess, send, until

pytestmark = [pytest.mark.live, pytest.mark.timeout(60)]

THEM = "127.0.3.9"
US = "127.0.4.9"


async def look(relay: RelayProcess, key: str, ip: str, count: int = 12) -> list[Answer]:
    """Ask so often over new connections that every worker has answered."""
    headers = {"Authorization": f"Bearer {key}"}
    url = f"{relay.url}/models"
    return list(
        await asyncio.gather(*(send(url, None, headers, local_ip=ip) for _ in range(count)))
    )


async def test_a_blocked_network_is_refused_everywhere_within_a_second(
    relay: RelayProcess,
) -> None:
    key = await relay.make_key("blocked")
    assert {answer.status for answer in await look(relay, key, THEM)} == {200}
    added = json.loads(
        await relay.cli(
            "block",
            "add",
            "--network",
            "127.0.3.0/24",
            "--reason",
            "abuse of 30 Nov",
            "--json",
            "--expires",
            "1h",
        )
    )
    begun_s, last_good_s = time.monotonic(), 0.0
    while time.monotonic() < begun_s + 1.5:
        for answer in await look(relay, key, THEM):
            if answer.status == 200:
                last_good_s = answer.at_s - begun_s
            else:
                assert (answer.status, answer.error["code"]) == (403, added["code"])
    assert last_good_s < 1.0
    assert {answer.status for answer in await look(relay, key, US)} == {200}
    await until(
        lambda: f'"code":"{added["code"]}"' in relay.words.read_text(), "the log has the code"
    )

    told = json.loads(await relay.cli("block", "explain", added["code"], "--json"))
    assert (told["state"], told["reason"]) == ("in force", "abuse of 30 Nov")
    named = json.loads(await relay.cli("block", "explain", THEM, "--json"))
    assert named["entries"] == [f"{added['code']} (block): abuse of 30 Nov"]
    listed = json.loads(await relay.cli("block", "list", "--json"))
    assert [row["network"] for row in listed if row["code"] == added["code"]] == ["127.0.3.0/24"]

    await relay.cli("block", "remove", added["code"])
    async with asyncio.timeout(2):
        while {answer.status for answer in await look(relay, key, THEM)} != {200}:
            pass
    told = json.loads(await relay.cli("block", "explain", added["code"], "--json"))
    assert told["state"] == "removed"
    await relay.cli("block", "remove", added["code"], code=1)


async def test_a_flood_of_wrong_keys_gets_a_code_that_explains_itself(relay: RelayProcess) -> None:
    key = await relay.make_key("neighbour")
    code = ""
    for _ in range(40):
        answers = await look(relay, "relay_wrong", "127.0.5.9", 50)
        refused = [answer for answer in answers if answer.status in (403, 429)]
        if refused:
            code = refused[-1].error["code"]
            break
    assert code.startswith("W-")
    told = json.loads(await relay.cli("block", "explain", code, "--json"))
    assert told["address"] == "127.0.5.9/32"
    assert "wrong API keys" in told["meaning"]
    assert {answer.status for answer in await look(relay, key, "127.0.5.9", 4)} == {200}


async def test_what_says_nothing_is_no_entry(relay: RelayProcess) -> None:
    await relay.cli("block", "add", "--reason", "x", code=1)
    await relay.cli("block", "add", "--network", "none", "--reason", "x", code=2)
    await relay.cli("block", "add", "--path", "v1", "--reason", "x", code=1)
    await relay.cli("block", "explain", "B-999999", code=1)
