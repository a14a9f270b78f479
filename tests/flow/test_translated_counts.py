"""Goal: an agent learns how long its prompt is, whatever its model's provider speaks, for nothing.

Method: clients of each dialect count over scripted upstreams of each other one, on real sockets.
"""

import json
from typing import Any, Final

import msgspec
import pytest

from relay.model import Channel, OpenAiApi
from relay.reach import ClaudeHost, Reach
from relay.translate import TranslateDialect
from tests.flow.rig import MODEL, Peer, Rig, make_channel, make_snapshot, post
from tests.flow.test_claude_hosts import read
from tests.flow.test_converse import answers, body_of
from tests.flow.translated_cells import channel_of
from tests.pure.translate.samples import ANTHROPIC, CHAT, GEMINI, REQUESTS, RESPONSES

PATHS: Final = {
    ANTHROPIC: "/v1/messages/count_tokens",
    GEMINI: f"/v1beta/models/{MODEL}:countTokens",
    RESPONSES: "/v1/responses/input_tokens",
}
TOLD: Final[dict[TranslateDialect, dict[str, Any]]] = {
    ANTHROPIC: {"input_tokens": 17},
    GEMINI: {"totalTokens": 17, "promptTokensDetails": []},
    RESPONSES: {"object": "response.input_tokens", "input_tokens": 17},
}
UPSTREAMS: Final = {ANTHROPIC: ANTHROPIC, GEMINI: GEMINI, CHAT: RESPONSES, RESPONSES: RESPONSES}
PAIRS: Final = [
    (client, kind) for client in PATHS for kind, counts in UPSTREAMS.items() if counts is not client
]
BOUNDS: Final = {"max_tokens", "max_output_tokens", "stream", "store", "temperature"}


def question(client: TranslateDialect, kind: str = "tools") -> dict[str, Any]:
    body = dict(REQUESTS[client](kind))
    if client is ANTHROPIC:
        body.pop("max_tokens", None)
    if client is not GEMINI:
        body["model"] = MODEL
    return body


def standing(kind: TranslateDialect, port: int) -> Channel:
    """Return a channel that counts; one of OpenAI's has both of its ways of asking."""
    return make_channel(1, port) if kind is CHAT else channel_of(kind, 1, port)


@pytest.mark.parametrize(("client", "kind"), PAIRS)
async def test_a_count_is_asked_of_a_channel_of_another_dialect(
    client: TranslateDialect, kind: TranslateDialect
) -> None:
    counts = UPSTREAMS[kind]
    async with (
        Peer(answers(TOLD[counts])) as peer,
        Rig(make_snapshot([standing(kind, peer.port)])) as rig,
    ):
        raw = await rig.say(post(PATHS[client], question(client)))
        told = body_of(raw)
        assert told == {k: v for k, v in TOLD[client].items() if k != "promptTokensDetails"}
        assert b"x-relay-translated: " in raw
        (end,) = await rig.ended()
        assert end.status == 200 and end.cost_nanos == 0 and end.translated
    target, _, body = read(peer.requests[0])
    assert target.endswith(PATHS[counts].rpartition("/")[2].rpartition(":")[2])
    asked = body.get("generateContentRequest", body)
    assert "weather" in json.dumps(asked["tools"]) and not BOUNDS & body.keys()
    if counts is GEMINI:
        assert asked["model"].startswith("models/")


async def test_geminis_whole_request_is_counted() -> None:
    async with (
        Peer(answers(TOLD[ANTHROPIC])) as peer,
        Rig(make_snapshot([channel_of(ANTHROPIC, 1, peer.port)])) as rig,
    ):
        whole = {"model": f"models/{MODEL}", **question(GEMINI)}
        raw = await rig.say(post(PATHS[GEMINI], {"generateContentRequest": whole}))
        assert body_of(raw) == {"totalTokens": 17}
    assert "weather" in json.dumps(read(peer.requests[0])[2]["tools"])


async def test_vertex_takes_the_parts_as_they_are() -> None:
    async with Peer(answers(TOLD[GEMINI])) as peer:
        base = f"http://127.0.0.1:{peer.port}/v1/projects/p/locations/l/publishers/google"
        channel = msgspec.structs.replace(channel_of(GEMINI, 1, peer.port), base_url=base)
        async with Rig(make_snapshot([channel])) as rig:
            await rig.say(post(PATHS[ANTHROPIC], question(ANTHROPIC)))
    assert {"contents", "tools"} <= read(peer.requests[0])[2].keys()


async def test_a_channel_that_counts_nothing_is_not_asked() -> None:
    async with Peer(answers(TOLD[RESPONSES])) as peer:
        chat = channel_of(CHAT, 1, peer.port, openai_api=OpenAiApi.CHAT)
        hosted = channel_of(ANTHROPIC, 2, peer.port, reach=Reach(claude_on=ClaudeHost.BEDROCK))
        for channel, client in ((chat, ANTHROPIC), (hosted, GEMINI)):
            async with Rig(make_snapshot([channel])) as rig:
                raw = await rig.say(post(PATHS[client], question(client)))
                assert raw.startswith(b"HTTP/1.1 404 ")
        assert peer.requests == []


async def test_an_answer_without_a_count_is_none() -> None:
    async with (
        Peer(answers({"input_tokens": "many"})) as peer,
        Rig(make_snapshot([channel_of(ANTHROPIC, 1, peer.port)])) as rig,
    ):
        raw = await rig.say(post(PATHS[GEMINI], question(GEMINI)))
        assert raw.startswith(b"HTTP/1.1 502 ")


async def test_what_cannot_be_said_is_refused_by_name() -> None:
    async with (
        Peer(answers(TOLD[ANTHROPIC])) as peer,
        Rig(make_snapshot([channel_of(ANTHROPIC, 1, peer.port)])) as rig,
    ):
        body = question(RESPONSES) | {"previous_response_id": "resp_1"}
        raw = await rig.say(post(PATHS[RESPONSES], body))
        assert raw.startswith(b"HTTP/1.1 400 ") and b"previous_response_id" in raw
        assert peer.requests == []


async def test_a_server_that_counts_nothing_loses_no_call_by_it() -> None:
    body = {"error": {"message": "Unknown path."}}
    async with (
        Peer(answers(body, b"500 Internal Server Error")) as peer,
        Rig(make_snapshot([standing(CHAT, peer.port)])) as rig,
    ):
        for _ in range(12):
            raw = await rig.say(post(PATHS[ANTHROPIC], question(ANTHROPIC)))
            assert raw.startswith(b"HTTP/1.1 50")
        assert not rig.server.engine.balancer.health.troubled
