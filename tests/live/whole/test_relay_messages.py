"""Goal: an operator declares a channel of Anthropic's; its client works, and the log has the calls.

Method: the real commands on a real relay of two workers, and the official client.
"""

import json

import anthropic
import pytest

from tests.live.relay_process import RelayProcess, ask, question, settle

pytestmark = [pytest.mark.live, pytest.mark.timeout(60)]

CATALOG = """
[[channel]]
name = "messages"
protocol = "anthropic"
base_url = "{root}"
models = ["prose", "steady"]
[[line]]
name = "town"
channels = ["mock", "messages"]
[[price]]
model = "prose"
input = "3"
output = "15"
cached_input = "0.3"
"""


async def test_a_channel_of_anthropics_goes_live_and_is_metered(
    relay: RelayProcess, upstream: str
) -> None:
    await relay.apply(CATALOG.format(root=upstream.removesuffix("/v1")))
    key = await relay.make_key("messages")
    said: list[anthropic.types.MessageParam] = [{"role": "user", "content": "Hello"}]
    found = json.loads(await relay.cli("channel", "test", "messages", "--json"))
    assert found["ok"]

    # All workers must have heard of the channel.
    await settle(relay, key, 200, "messages/count_tokens", {"model": "prose", "messages": said})
    assert (await ask(relay, key, question("steady"))).status == 200


async def test_another_dialects_client_is_served_by_translation(
    relay: RelayProcess, upstream: str
) -> None:
    await relay.apply(CATALOG.format(root=upstream.removesuffix("/v1")))
    key = await relay.make_key("translated")
    await settle(relay, key, 200, "chat/completions", question("prose"))
    before = len(await relay.rows("translated", 1))
    answer = await ask(relay, key, question("prose"))
    assert (answer.status, answer.headers["x-relay-translated"]) == (200, "openai>anthropic")
    usage = json.loads(answer.body)["usage"]
    assert usage["completion_tokens"] == 5
    row, *_ = await relay.rows("translated", before + 1)
    assert (row["channel"], row["endpoint"], row["model"]) == (
        *("messages", "chat/completions"),
        "prose",
    )
    assert (row["output_tokens"], row["input_tokens"]) == (5, usage["prompt_tokens"])
    shown = json.loads(await relay.cli("logs", "show", answer.request_id, "--json"))
    assert shown["translated"] == "openai>anthropic" and float(shown["cost_usd"]) > 0
    assert "openai>anthropic" in await relay.cli("logs", "show", answer.request_id)
    refused = await ask(relay, key, question("prose", n=2))
    assert (refused.status, refused.error["param"]) == (400, "n")
    native = await ask(relay, key, question("steady"))
    assert "x-relay-translated" not in native.headers


async def test_its_client_is_served_and_its_calls_are_written_down(
    relay: RelayProcess, upstream: str
) -> None:
    await relay.apply(CATALOG.format(root=upstream.removesuffix("/v1")))
    key = await relay.make_key("messages-calls")
    said: list[anthropic.types.MessageParam] = [{"role": "user", "content": "Hello"}]
    root = relay.url.removesuffix("/v1")
    async with anthropic.AsyncAnthropic(base_url=root, api_key=key) as client:
        assert (await client.messages.count_tokens(model="prose", messages=said)).input_tokens == 2
        for model in ("prose", "steady"):
            async with client.messages.stream(model=model, max_tokens=5, messages=said) as stream:
                message = await stream.get_final_message()
            assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 5)
    rows = await relay.rows("messages-calls", 3)
    calls = {(row["model"], row["endpoint"]): row for row in rows}
    assert {row["channel"] for row in rows} == {"messages"}
    free = calls["prose", "messages/count_tokens"]
    assert (free["cost_usd"], free["input_tokens"]) == ("0", 0)
    for model in ("prose", "steady"):
        row = calls[model, "messages"]
        assert (row["output_tokens"], row["estimated"]) == (5, False)
        assert float(row["cost_usd"]) > 0
