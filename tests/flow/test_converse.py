"""Goal: any model of Bedrock's Converse is one to clients of any dialect: events, usage, errors.

Method: a rig over a scripted Converse that keeps what it is asked; frames cut anywhere, changed on
their way and broken off; clients of Anthropic's, OpenAI's and Gemini's dialects before it.
"""

import asyncio
import json
from typing import Any

import pytest

from relay.model import Channel, Dialect, Secret
from relay.reach import Auth, ClaudeHost, Reach
from tests.flow.rig import MODEL, Peer, Rig, Script, chat, make_channel, make_snapshot, post
from tests.flow.test_claude_hosts import framed, read, types_in
from tests.pure.wire.test_event_stream import frame

USAGE = {
    "inputTokens": 30,
    "outputTokens": 12,
    "totalTokens": 52,
    "cacheReadInputTokens": 10,
    "cacheWriteInputTokens": 0,
}
SAID: list[tuple[str, dict[str, Any]]] = [
    ("messageStart", {"role": "assistant"}),
    ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "Hello"}}),
    ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": " you"}}),
    ("contentBlockStop", {"contentBlockIndex": 0}),
    (
        "contentBlockStart",
        {"contentBlockIndex": 1, "start": {"toolUse": {"toolUseId": "tooluse_1", "name": "look"}}},
    ),
    ("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"toolUse": {"input": '{"at":'}}}),
    ("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"toolUse": {"input": '"x"}'}}}),
    ("contentBlockStop", {"contentBlockIndex": 1}),
    ("messageStop", {"stopReason": "tool_use"}),
    ("metadata", {"usage": USAGE, "metrics": {"latencyMs": 5}}),
]
TYPES = [
    "message_start",
    *("content_block_start", "content_block_delta", "content_block_delta", "content_block_stop"),
    *("content_block_start", "content_block_delta", "content_block_delta", "content_block_stop"),
    *("message_delta", "message_stop"),
]
WHOLE = {
    "output": {
        "message": {
            "role": "assistant",
            "content": [
                {"text": "Hello you"},
                {"toolUse": {"toolUseId": "tooluse_1", "name": "look", "input": {"at": "x"}}},
            ],
        }
    },
    "stopReason": "tool_use",
    "usage": USAGE,
    "metrics": {"latencyMs": 5},
}
TOOL = {"name": "look", "description": "Look.", "input_schema": {"type": "object"}}


def frames(said: list[tuple[str, dict[str, Any]]] = SAID) -> list[bytes]:
    return [
        frame(json.dumps(told).encode(), event_type=kind, message_type="event")
        for kind, told in said
    ]


def answers(body: dict[str, Any], status: bytes = b"200 OK") -> Script:
    told = json.dumps(body).encode()

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nx-amzn-RequestId: r-1\r\n"
        writer.write(head % status + b"Content-Length: %d\r\n\r\n" % len(told) + told)
        await writer.drain()

    return script


def converse(port: int, model: str = "amazon.nova-pro-v1:0", auth: Auth = Auth.BEARER) -> Channel:
    fields: dict[str, Any] = {
        "protocol": Dialect.ANTHROPIC,
        "models": {MODEL: model},
        "base_url": f"http://127.0.0.1:{port}",
        "reach": Reach(auth=auth, claude_on=ClaudeHost.CONVERSE),
    }
    if auth is Auth.AWS:
        document = {"access_key_id": "AK", "secret_access_key": "CANARY", "region": "eu-west-1"}
        fields["api_key"] = Secret(json.dumps(document))
    return make_channel(1, port, **fields)


async def ask(channel: Channel, path: str = "/v1/messages", **fields: Any) -> tuple[bytes, Rig]:
    async with Rig(make_snapshot([channel])) as rig:
        body = fields.pop("body", None) or chat(max_tokens=9, **fields)
        raw = await rig.say(post(path, body))
        await rig.ended()
        return raw, rig


def body_of(raw: bytes) -> dict[str, Any]:
    found = json.loads(raw.partition(b"\r\n\r\n")[2])
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("auth", [Auth.BEARER, Auth.AWS])
async def test_frames_of_any_model_are_anthropics_events(auth: Auth) -> None:
    async with Peer(framed(*frames())) as peer:
        raw, rig = await ask(converse(peer.port, auth=auth), stream=True, tools=[TOOL])
    assert types_in(raw) == TYPES
    (end,) = rig.journal.ends
    assert (end.input_tokens, end.cached_tokens, end.output_tokens) == (40, 10, 12)
    assert end.reason == "completed" and not end.estimated
    target, head, body = read(peer.requests[0])
    assert target == "/model/amazon.nova-pro-v1%3A0/converse-stream"
    assert body == {
        "messages": [{"role": "user", "content": [{"text": "hello"}]}],
        "inferenceConfig": {"maxTokens": 9},
        "toolConfig": {
            "tools": [
                {
                    "toolSpec": {
                        "name": "look",
                        "description": "Look.",
                        "inputSchema": {"json": {"type": "object"}},
                    }
                }
            ]
        },
    }
    assert (b"AWS4-HMAC-SHA256" in head) == (auth is Auth.AWS)
    assert b"anthropic-" not in head.lower() and b"CANARY" not in head


async def test_a_whole_answer_is_anthropics() -> None:
    async with Peer(answers(WHOLE)) as peer:
        raw, rig = await ask(converse(peer.port), tools=[TOOL])
    told = body_of(raw)
    assert told["type"] == "message" and told["stop_reason"] == "tool_use"
    assert told["content"] == [
        {"type": "text", "text": "Hello you"},
        {"type": "tool_use", "id": "tooluse_1", "name": "look", "input": {"at": "x"}},
    ]
    (end,) = rig.journal.ends
    assert (end.input_tokens, end.cached_tokens, end.output_tokens) == (40, 10, 12)
    assert read(peer.requests[0])[0].endswith("/converse")


@pytest.mark.parametrize("size", [1, 7, 64, 333])
async def test_frames_may_be_cut_anywhere(size: int) -> None:
    joined = b"".join(frames())
    pieces = [joined[at : at + size] for at in range(0, len(joined), size)]
    async with Peer(framed(*pieces)) as peer:
        raw, _ = await ask(converse(peer.port), stream=True)
    assert types_in(raw) == TYPES


@pytest.mark.parametrize("at", range(2, len(SAID)))
async def test_a_frame_that_was_changed_cuts_the_stream_honestly(at: int) -> None:
    pieces = frames()
    changed = bytearray(pieces[at])
    changed[-6] ^= 1
    async with Peer(framed(*pieces[:at], bytes(changed), *pieces[at + 1 :])) as peer:
        raw, rig = await ask(converse(peer.port), stream=True)
    assert types_in(raw)[-1] == "error" and "message_stop" not in types_in(raw)
    assert rig.journal.ends[0].reason == "truncated"


async def test_a_stream_that_breaks_off_is_told() -> None:
    async with Peer(framed(*frames()[:4], whole=False)) as peer:
        raw, rig = await ask(converse(peer.port), stream=True)
    assert types_in(raw)[-1] == "error"
    assert rig.journal.ends[0].reason == "truncated"


async def test_a_message_whose_usage_is_never_told_is_whole_and_estimated() -> None:
    async with Peer(framed(*frames()[:-1])) as peer:
        raw, rig = await ask(converse(peer.port), stream=True)
    assert types_in(raw) == TYPES
    (end,) = rig.journal.ends
    assert end.reason == "completed" and end.estimated and end.output_tokens > 0


@pytest.mark.parametrize(
    ("name", "kind"),
    [("throttlingException", "rate_limit_error"), ("modelStreamErrorException", "api_error")],
)
async def test_an_exception_in_a_stream_is_an_error_to_the_client(name: str, kind: str) -> None:
    busy = frame(b'{"message":"Slow down."}', exception_type=name, message_type="exception")
    async with Peer(framed(*frames()[:3], busy)) as peer:
        raw, rig = await ask(converse(peer.port), stream=True)
    assert types_in(raw)[-1] == "error" and kind.encode() in raw
    assert rig.journal.ends[0].reason == "truncated"


async def test_a_refusal_is_told_in_the_providers_words() -> None:
    refusal = answers({"message": "The model does not take images."}, b"400 Bad Request")
    async with Peer(refusal) as peer:
        raw, _ = await ask(converse(peer.port))
    assert raw.startswith(b"HTTP/1.1 400 ") and b"does not take images" in raw


@pytest.mark.parametrize("stream", [False, True])
async def test_openais_clients_are_served_by_translation(*, stream: bool) -> None:
    async with Peer(framed(*frames()) if stream else answers(WHOLE)) as peer:
        tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
        raw, rig = await ask(
            converse(peer.port), "/v1/chat/completions", body=chat(stream=stream, tools=[tool])
        )
    assert b'"tool_calls"' in raw and b"tooluse_1" in raw and b"look" in raw
    (end,) = rig.journal.ends
    assert (end.translated, end.input_tokens, end.output_tokens) == ("openai>anthropic", 40, 12)


async def test_geminis_clients_are_served_by_translation() -> None:
    async with Peer(answers(WHOLE)) as peer:
        body = {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}
        raw, _ = await ask(
            converse(peer.port), f"/v1beta/models/{MODEL}:generateContent", body=body
        )
    assert body_of(raw)["candidates"][0]["content"]["parts"][0] == {"text": "Hello you"}


async def test_tokens_are_counted_where_the_model_can() -> None:
    async with Peer(answers({"inputTokens": 17})) as peer:
        channel = converse(peer.port, "anthropic.claude-x")
        async with Rig(make_snapshot([channel])) as rig:
            raw = await rig.say(post("/v1/messages/count_tokens", chat(system="Be brief.")))
    assert body_of(raw) == {"input_tokens": 17}
    target, _, body = read(peer.requests[0])
    assert target.endswith("/model/anthropic.claude-x/count-tokens")
    assert body["input"]["converse"]["system"] == [{"text": "Be brief."}]


async def test_what_converse_cannot_say_is_refused_by_name_and_costs_nothing() -> None:
    async with Peer(answers(WHOLE)) as peer:
        raw, rig = await ask(converse(peer.port), tools=[{"type": "bash_20250124", "name": "bash"}])
        assert raw.startswith(b"HTTP/1.1 400 ") and b"tools[0].type" in raw
        assert rig.journal.ends[0].cost_nanos == 0 and peer.requests == []


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": "x"},
        {"tools": 5},
        {"messages": [{"role": "user", "content": [{"type": "image", "source": "x"}]}]},
        {"messages": [{"role": "user", "content": 5}]},
        {"output_config": 5, "system": 7},
    ],
)
async def test_fields_of_odd_types_are_a_clear_refusal(fields: dict[str, Any]) -> None:
    async with Peer(answers(WHOLE)) as peer:
        raw, _ = await ask(converse(peer.port), **fields)
        assert raw.startswith(b"HTTP/1.1 400 ") and peer.requests == []
