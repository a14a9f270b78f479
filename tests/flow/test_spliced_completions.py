"""A text completion that breaks goes on over any channel: what is out is the end of its prompt.

Method: a scripted model breaks off, and a peer that reads the prompt goes on from where it ends.
"""

import asyncio
import json
from typing import Any

import msgspec
import pytest

from relay.mock.options import MockOptions
from relay.mock.script import digest, prose
from relay.mock.server import start
from tests.flow.rig import (
    DONE,
    MODEL,
    SSE_HEAD,
    Peer,
    Rig,
    chunked,
    make_channel,
    make_snapshot,
    post,
    unchunked,
)

CHUNKS = 12
WORDS = prose(digest(b"hello"), CHUNKS)
PROMPT_TOKENS = 2
"""Tokens of the client's own prompt, as every upstream counts it."""


def event(text: str, finish: str | None = None, usage: Any = None) -> bytes:
    choices = [] if usage else [{"index": 0, "text": text, "finish_reason": finish}]
    chunk = {"id": "cmpl-2", "object": "text_completion", "created": 2, "model": "other"}
    return b"data: " + msgspec.json.encode(chunk | {"choices": choices, "usage": usage}) + b"\n\n"


class Continuing:
    """A peer that goes on from any prefix of the answer, in one event for each word left."""

    def __init__(self) -> None:
        self.peer = Peer(self._answer)

    @property
    def asked(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.peer.requests[-1].partition(b"\r\n\r\n")[2])
        return found

    async def _answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        given = self.asked["prompt"].removeprefix("hello")
        begun = next(n for n in range(CHUNKS + 1) if "".join(WORDS[:n]) == given)
        usage = {
            "prompt_tokens": PROMPT_TOKENS + begun,
            "completion_tokens": CHUNKS - begun,
            "total_tokens": PROMPT_TOKENS + CHUNKS,
        }
        writer.write(SSE_HEAD)
        for word in WORDS[begun:]:
            writer.write(chunked(event(word)))
        writer.write(chunked(event("", "stop") + event("", usage=usage) + DONE) + b"0\r\n\r\n")
        await writer.drain()


@pytest.mark.parametrize("fail", ["cut-after:4", "rst-after:4", "mid-event:4", "error-after:4"])
async def test_a_text_completion_goes_on_over_a_channel_of_no_capability(fail: str) -> None:
    mock = await start(MockOptions(models=(f"up-{MODEL}",), chunks=CHUNKS))
    mock.set_fail(fail)
    other = Continuing()
    async with other.peer:
        channels = [make_channel(1, mock.port), make_channel(2, other.peer.port, tier=1)]
        snapshot = make_snapshot(channels)
        line = msgspec.structs.replace(snapshot.lines[1], splice=True)
        async with Rig(msgspec.structs.replace(snapshot, lines={1: line})) as rig:
            body = {
                "model": MODEL,
                "prompt": "hello",
                "max_tokens": 50,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            payload = unchunked(await rig.say(post("/v1/completions", body)))[1]
            (end,) = await rig.ended()
    await mock.close()
    lines = [line[6:] for line in payload.split(b"\n") if line.startswith(b"data: {")]
    chunks = [json.loads(one) for one in lines]
    assert "".join(c["text"] for one in chunks for c in one["choices"]) == "".join(WORDS)
    assert payload.endswith(DONE) and payload.count(DONE) == 1 and b'"error"' not in payload
    for name in ("id", "created", "model"):
        assert len({one[name] for one in chunks}) == 1
    begun = 50 - other.asked["max_tokens"]
    assert other.asked["prompt"] == "hello" + "".join(WORDS[:begun]) and 0 < begun < CHUNKS
    (usage,) = [one["usage"] for one in chunks if one.get("usage")]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (PROMPT_TOKENS, CHUNKS)
    assert (end.reason, end.channel_id, end.attempts) == ("completed", 2, 2)
    assert (end.input_tokens, end.output_tokens) == (PROMPT_TOKENS, CHUNKS)
    assert end.cost_nanos == 500 * PROMPT_TOKENS + 1_000 * CHUNKS
