"""Goal: what an operator does to a key holds in every worker within a second, streams included.

Method: the real commands on a real relay of two workers, which is asked over many connections.
"""

import json
import time

import pytest

from tests.live.relay_process import RelayProcess, ask, question, send, settle, streaming

pytestmark = [pytest.mark.live, pytest.mark.timeout(60)]

STREAMS = 8


async def create(relay: RelayProcess, name: str, *terms: str) -> str:
    """Make a key by the command."""
    made = await relay.cli("key", "create", "--account", "folk", "--name", name, *terms, "--json")
    key: str = json.loads(made)["key"]
    return key


async def test_a_new_key_works_at_once(relay: RelayProcess) -> None:
    key = await create(relay, "fresh")
    made_s = time.monotonic()
    assert await settle(relay, key, 200) < made_s + 1
    assert (await ask(relay, key)).status == 200


@pytest.mark.parametrize("command", ["disable", "delete"])
async def test_a_key_taken_away_is_refused_everywhere_and_its_streams_end(
    relay: RelayProcess, command: str
) -> None:
    name = f"to-{command}"
    key = await relay.make_key(name)
    flags = ["--yes"] if command == "delete" else []
    async with streaming(relay, key, STREAMS) as streams:
        await relay.cli("key", command, name, *flags)
        done_s = time.monotonic()
        assert await settle(relay, key, 401) < done_s + 1
    for stream in streams:
        assert stream.ended_s < done_s + 1.5
        assert not stream.broken
        assert stream.error is not None, stream.events[-1]
        assert stream.error["code"] == "invalid_api_key"
    rows = {row["request_id"]: row for row in await relay.rows(name, STREAMS, "status=2xx")}
    assert rows.keys() == {stream.request_id for stream in streams}
    assert {row["reason"] for row in rows.values()} == {"key_revoked"}
    refused = (await ask(relay, key)).error
    assert refused["code"] == "invalid_api_key"


async def test_a_disabled_key_works_again_when_it_is_enabled(relay: RelayProcess) -> None:
    key = await relay.make_key("on-and-off")
    await relay.cli("key", "disable", "on-and-off")
    await settle(relay, key, 401)
    await relay.cli("key", "enable", "on-and-off")
    enabled_s = time.monotonic()
    assert await settle(relay, key, 200) < enabled_s + 1


async def test_another_key_s_streams_go_on(relay: RelayProcess) -> None:
    kept = await relay.make_key("kept")
    await relay.make_key("taken")
    async with streaming(relay, kept, 4, question(max_tokens=100)) as streams:
        await relay.cli("key", "disable", "taken")
    assert all(stream.whole for stream in streams)


async def test_a_key_expires_by_itself(relay: RelayProcess) -> None:
    key = await create(relay, "brief", "--expires", "3s")
    made_s = time.monotonic()
    await settle(relay, key, 200)
    assert made_s + 1 < await settle(relay, key, 401) < made_s + 4.5
    assert "expired" in (await ask(relay, key)).error["message"]


async def test_a_key_for_some_models_may_use_no_other(relay: RelayProcess) -> None:
    key = await create(relay, "narrow", "--models", "steady")
    await settle(relay, key, 200)
    assert (await ask(relay, key)).status == 200
    refused = await ask(relay, key, question("other"))
    assert (refused.status, refused.error["code"]) == (403, "permission_denied")
    headers = {"Authorization": f"Bearer {key}"}
    listed = json.loads((await send(f"{relay.url}/models", headers=headers)).body)
    assert [model["id"] for model in listed["data"]] == ["steady"]


async def test_a_key_for_one_network_is_refused_from_another(relay: RelayProcess) -> None:
    key = await create(relay, "near", "--allow-ip", "127.0.0.2/32", "--allow-ip", "10.0.0.0/8")
    await settle(relay, key, 403)
    refused = await ask(relay, key, local_ip="127.0.0.1")
    assert (refused.status, refused.error["code"]) == (403, "permission_denied")
    served = await ask(relay, key, local_ip="127.0.0.2")
    assert served.status == 200
    (row,) = await relay.rows("near", 1, "status=2xx")
    assert (row["request_id"], row["ip"]) == (served.request_id, "127.0.0.2")
    assert {row["ip"] for row in await relay.rows("near", 1, "status=403")} == {"127.0.0.1"}


async def test_a_quota_that_does_not_cover_a_call_is_refused_by_every_worker(
    relay: RelayProcess,
) -> None:
    # Less than a call may cost: no worker lets it begin, for what it may cost is held of it.
    key = await create(relay, "spent", "--quota", "0.000001")
    await settle(relay, key, 429, "chat/completions", question())
    refused = await ask(relay, key)
    assert (refused.status, refused.error["code"]) == (429, "insufficient_quota")
    assert refused.headers["x-should-retry"] == "false"
    (listed,) = [
        row
        for row in json.loads(await relay.cli("key", "list", "--json"))
        if row["name"] == "spent"
    ]
    assert (float(listed["spent_usd"]), float(listed["quota_usd"])) == (0.0, 0.000001)
