"""Goal: a broken stream of Gemini's goes on over another channel as one answer, or is an error.

Method: upstreams that say what a test says and break off, a second one that goes on in either way.
"""

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest

from relay.model import Dialect, Resume
from relay.splice.anchor import anchor_of
from tests.flow.rig import (
    KEY,
    MODEL,
    SSE_HEAD,
    Peer,
    Rig,
    chunked,
    make_channel,
    make_snapshot,
    unchunked,
)

WORDS = [f"word{n} " for n in range(20)]
TEXT = "".join(WORDS).strip()


def chunk(*parts: Any, number: int, finish: str = "", tokens: int = 1) -> bytes:
    candidate: dict[str, Any] = {"content": {"parts": list(parts), "role": "model"}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    told = {
        "candidates": [candidate],
        "usageMetadata": {
            "promptTokenCount": 100 * number,
            "candidatesTokenCount": tokens,
            "totalTokenCount": 100 * number + tokens,
        },
        "modelVersion": f"gemini-{number}",
        "responseId": f"response-{number}",
    }
    return b"data: " + json.dumps(told).encode() + b"\r\n\r\n"


def text(said: str) -> dict[str, Any]:
    return {"text": said}


def says(*events: bytes, whole: bool = False) -> Any:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD + chunked(b"".join(events)) + (b"0\r\n\r\n" if whole else b""))
        await writer.drain()
        await asyncio.sleep(0.05)

    return script


async def ask(
    first: list[bytes], second: list[bytes], resume: Resume
) -> tuple[list[dict[str, Any]], dict[str, Any], Rig]:
    """Return the chunks that the client has, what the second channel was asked, and the relay."""
    async with AsyncExitStack() as stack:
        peers = [
            await stack.enter_async_context(Peer(says(*first))),
            await stack.enter_async_context(Peer(says(*second, whole=True))),
        ]
        fields = {"protocol": Dialect.GEMINI, "models": {MODEL: "up"}, "resume": resume}
        channels = [
            make_channel(number, peer.port, tier=number, **fields)
            for number, peer in enumerate(peers, 1)
        ]
        snapshot = make_snapshot(channels)
        line = msgspec.structs.replace(snapshot.lines[1], splice=True)
        rig = Rig(msgspec.structs.replace(snapshot, lines={1: line}))
        await stack.enter_async_context(rig)
        body = json.dumps(
            {
                "contents": [{"role": "user", "parts": [{"text": "say it"}]}],
                "generationConfig": {"maxOutputTokens": 400, "temperature": 1},
            }
        ).encode()
        head = (
            f"POST /v1beta/models/{MODEL}:streamGenerateContent?alt=sse HTTP/1.1\r\nHost: r\r\n"
            f"x-goog-api-key: {KEY}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        _, payload = unchunked(await rig.say(head.encode() + body))
        chunks = [json.loads(line[6:]) for line in payload.split(b"\r\n") if line[:6] == b"data: "]
        asked = json.loads(peers[1].requests[0].partition(b"\r\n\r\n")[2])
        assert peers[1].requests[0].startswith(b"POST /v1/models/up:streamGenerateContent?alt=sse ")
        await rig.ended()
        return chunks, asked, rig


def joined(chunks: list[dict[str, Any]]) -> str:
    parts = [part for one in chunks for part in one["candidates"][0]["content"]["parts"]]
    return "".join(part["text"] for part in parts if not part.get("thought"))


CUT = [chunk({"text": "hm", "thought": True}, number=1)]


@pytest.mark.parametrize("resume", [Resume.ANCHORED, Resume.TRAILING])
async def test_a_stream_goes_on_as_one_answer(resume: Resume) -> None:
    anchored = resume is Resume.ANCHORED
    first = [chunk(text(word), number=1) for word in WORDS[:9]]
    anchor = anchor_of("".join(WORDS[:9])) if anchored else ""
    second = [
        chunk({"text": "hm", "thought": True}, number=2),
        chunk(text(anchor + " " + "".join(WORDS[9:15])), number=2, tokens=20),
        chunk(text("".join(WORDS[15:]).strip()), number=2, tokens=30, finish="STOP"),
    ]
    chunks, asked, rig = await ask(first, second, resume)
    assert joined(chunks) == TEXT
    assert {one["responseId"] for one in chunks} == {"response-1"}
    assert chunks[-1]["usageMetadata"]["candidatesTokenCount"] > 30
    assert [turn["role"] for turn in asked["contents"]] == (
        ["user", "model", "user"] if anchored else ["user", "model"]
    )
    assert "model" not in asked and asked["generationConfig"]["maxOutputTokens"] < 500
    (end,) = rig.journal.ends
    assert end.reason == "completed" and end.attempts == 2 and end.estimated


async def test_thoughts_that_were_cut_are_thought_anew_and_told_once() -> None:
    second = [
        chunk({"text": "anew", "thought": True}, number=2),
        chunk(text(TEXT), number=2, finish="STOP"),
    ]
    chunks, asked, _ = await ask(CUT, second, Resume.ANCHORED)
    assert joined(chunks) == TEXT and len(asked["contents"]) == 1
    thoughts = [p for one in chunks for p in one["candidates"][0]["content"]["parts"]]
    assert [part["text"] for part in thoughts if part.get("thought")] == ["hm"]


async def test_words_that_do_not_come_again_end_it_with_an_error() -> None:
    first = [chunk(text(word), number=1) for word in WORDS[:9]]
    second = [chunk(text("I begin anew. " * 40), number=2, finish="STOP")]
    chunks, _, rig = await ask(first, second, Resume.ANCHORED)
    assert "error" in chunks[-1] and joined(chunks[:-1]) == "".join(WORDS[:9])
    assert rig.journal.ends[0].reason == "truncated"
