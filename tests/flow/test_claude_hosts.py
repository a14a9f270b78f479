"""Goal: Claude at Vertex and at Bedrock is Claude to a client: same events, usage and errors.

Method: a rig over scripted hosts that keep what they are asked and answer in their own form; frames
cut anywhere, changed on their way, and broken off.
"""

import asyncio
import json
from typing import Any

import pytest

from relay.model import Channel, Dialect, Secret
from relay.reach import Auth, ClaudeHost, Reach
from tests.flow.rig import MODEL, Peer, Rig, Script, chat, make_channel, make_snapshot, post
from tests.pure.wire.test_event_stream import chunk, frame

EVENTS: list[dict[str, Any]] = [
    {
        "type": "message_start",
        "message": {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": "claude",
            "usage": {"input_tokens": 7, "output_tokens": 1},
        },
    },
    {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "text", "text": ""},
    },
    {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "text_delta", "text": "Hello"},
    },
    {"type": "content_block_stop", "index": 0},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn"},
        "usage": {"output_tokens": 5},
    },
    {"type": "message_stop", "amazon-bedrock-invocationMetrics": {"inputTokenCount": 7}},
]
FRAMES = [chunk(event) for event in EVENTS]
WHOLE = json.dumps(
    {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 7, "output_tokens": 5},
    }
).encode()
STREAMED = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n"


def framed(*pieces: bytes, whole: bool = True) -> Script:
    """Return an upstream that sends these pieces of an event stream, a chunk each."""

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAMED % b"application/vnd.amazon.eventstream")
        for piece in pieces:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
            await asyncio.sleep(0)
        if whole:
            writer.write(b"0\r\n\r\n")
        await writer.drain()

    return script


async def plain(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    writer.write(head % len(WHOLE) + WHOLE)
    await writer.drain()


async def events(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    said = b"".join(
        b"event: %b\ndata: %b\n\n" % (str(one["type"]).encode(), json.dumps(one).encode())
        for one in EVENTS
    )
    writer.write(STREAMED % b"text/event-stream" + b"%x\r\n%b\r\n0\r\n\r\n" % (len(said), said))
    await writer.drain()


def hosted(port: int, host: ClaudeHost, auth: Auth = Auth.BEARER) -> Channel:
    fields: dict[str, Any] = {
        "protocol": Dialect.ANTHROPIC,
        "models": {MODEL: "anthropic.claude-x:0"},
        "base_url": f"http://127.0.0.1:{port}/host",
        "reach": Reach(auth=auth, claude_on=host),
    }
    if auth is Auth.AWS:
        document = {"access_key_id": "AK", "secret_access_key": "CANARY", "region": "eu-west-1"}
        fields["api_key"] = Secret(json.dumps(document))
    return make_channel(1, port, **fields)


async def ask(channel: Channel, **fields: Any) -> tuple[bytes, Rig]:
    async with Rig(make_snapshot([channel])) as rig:
        body = chat(max_tokens=9, **fields)
        raw = await rig.say(post("/v1/messages", body, "anthropic-beta: b-1,b-2"))
        await rig.ended()
        return raw, rig


def read(request: bytes) -> tuple[str, bytes, dict[str, Any]]:
    """Return the target of a request, its head and its body."""
    head, _, body = request.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    return head.split(b" ")[1].decode(), head, json.loads(body)


def types_in(raw: bytes) -> list[str]:
    return [
        line.removeprefix(b"event: ").decode()
        for line in raw.split(b"\n")
        if line.startswith(b"event: ")
    ]


@pytest.mark.parametrize("auth", [Auth.BEARER, Auth.AWS])
async def test_bedrocks_frames_are_anthropics_events(auth: Auth) -> None:
    async with Peer(framed(*FRAMES)) as peer:
        raw, rig = await ask(hosted(peer.port, ClaudeHost.BEDROCK, auth), stream=True)
    assert raw.startswith(b"HTTP/1.1 200 ")
    assert b"text/event-stream" in raw
    assert types_in(raw) == [event["type"] for event in EVENTS]
    (end,) = rig.journal.ends
    assert (end.input_tokens, end.output_tokens, end.reason) == (7, 5, "completed")
    target, head, body = read(peer.requests[0])
    assert target == "/host/model/anthropic.claude-x%3A0/invoke-with-response-stream"
    assert body["anthropic_version"] == "bedrock-2023-05-31"
    assert body["anthropic_beta"] == ["b-1", "b-2"]
    assert not {"model", "stream"} & body.keys()
    assert b"anthropic-" not in head.lower()
    assert (b"AWS4-HMAC-SHA256" in head) == (auth is Auth.AWS)
    assert b"CANARY" not in head


async def test_a_whole_answer_of_bedrocks_is_anthropics() -> None:
    async with Peer(plain) as peer:
        raw, rig = await ask(hosted(peer.port, ClaudeHost.BEDROCK))
    assert raw.endswith(WHOLE)
    assert rig.journal.ends[0].output_tokens == 5
    assert read(peer.requests[0])[0].endswith("/invoke")


@pytest.mark.parametrize("stream", [False, True])
async def test_vertex_is_asked_by_its_paths(*, stream: bool) -> None:
    async with Peer(events if stream else plain) as peer:
        raw, rig = await ask(hosted(peer.port, ClaudeHost.VERTEX), stream=stream)
    assert raw.startswith(b"HTTP/1.1 200 ")
    assert rig.journal.ends[0].output_tokens == 5
    target, head, body = read(peer.requests[0])
    verb = "streamRawPredict" if stream else "rawPredict"
    assert target == f"/host/models/anthropic.claude-x%3A0:{verb}"
    assert body["anthropic_version"] == "vertex-2023-10-16"
    assert "model" not in body
    assert b"anthropic-beta: b-1,b-2" in head
    assert b"Authorization: Bearer sk-upstream-1" in head


@pytest.mark.parametrize("size", [1, 7, 64, 333])
async def test_frames_may_be_cut_anywhere(size: int) -> None:
    joined = b"".join(FRAMES)
    pieces = [joined[at : at + size] for at in range(0, len(joined), size)]
    async with Peer(framed(*pieces)) as peer:
        raw, _ = await ask(hosted(peer.port, ClaudeHost.BEDROCK), stream=True)
    assert types_in(raw) == [event["type"] for event in EVENTS]


async def test_a_frame_that_was_changed_ends_the_stream_honestly() -> None:
    changed = bytearray(FRAMES[3])
    changed[-6] ^= 1
    async with Peer(framed(*FRAMES[:3], bytes(changed), *FRAMES[4:])) as peer:
        raw, rig = await ask(hosted(peer.port, ClaudeHost.BEDROCK), stream=True)
    assert types_in(raw) == [*(event["type"] for event in EVENTS[:3]), "error"]
    assert rig.journal.ends[0].reason == "truncated"


async def test_an_exception_in_a_stream_is_an_error_to_the_client() -> None:
    busy = frame(
        b'{"message":"Slow down."}',
        exception_type="throttlingException",
        message_type="exception",
    )
    async with Peer(framed(*FRAMES[:3], busy)) as peer:
        raw, rig = await ask(hosted(peer.port, ClaudeHost.BEDROCK), stream=True)
    assert types_in(raw)[-1] == "error"
    assert rig.journal.ends[0].reason == "truncated"


async def test_a_stream_that_breaks_off_is_told() -> None:
    async with Peer(framed(*FRAMES[:3], FRAMES[3][:9], whole=False)) as peer:
        raw, rig = await ask(hosted(peer.port, ClaudeHost.BEDROCK), stream=True)
    assert types_in(raw)[-1] == "error"
    assert rig.journal.ends[0].reason == "truncated"
