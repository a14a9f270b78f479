"""Goal: a broken stream of Anthropic's goes on over another channel as one answer, or is an error.

Method: upstreams that send what a test says and break off, a second one that follows the request to
begin with the last words (or does not), the official client's own helper to put it together.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest
from anthropic import APIStatusError, AsyncAnthropic
from anthropic.types import Message

from relay.model import Dialect, Resume
from relay.splice.anchor import AnchorOverlap, anchor_of
from tests.flow.rig import KEY, MODEL, SSE_HEAD, Peer, Rig, chunked, make_channel, make_snapshot

CARRIED = "carried_on_by_anchor"
WORDS = [f"word{n} " for n in range(30)]
TEXT = "".join(WORDS).strip()


def event(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (
        kind.encode(),
        json.dumps({"type": kind, **fields}).encode(),
    )


def start(number: int) -> bytes:
    message: dict[str, Any] = {
        "id": f"msg_{number}",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 100 * number, "output_tokens": 1},
    }
    return event("message_start", message=message)


def block(index: int, kind: str, *deltas: bytes, stop: bool = True, **fields: Any) -> bytes:
    begun = event("content_block_start", index=index, content_block={"type": kind, **fields})
    ended = event("content_block_stop", index=index) if stop else b""
    return begun + b"".join(deltas) + ended


def delta(index: int, kind: str, **fields: Any) -> bytes:
    return event("content_block_delta", index=index, delta={"type": kind, **fields})


def said(index: int, *texts: str, stop: bool = True) -> bytes:
    deltas = [delta(index, "text_delta", text=text) for text in texts]
    return block(index, "text", *deltas, stop=stop, text="")


def thought(index: int, *, signed: bool = True) -> bytes:
    deltas = [delta(index, "thinking_delta", thinking="Let me see.")]
    if signed:
        deltas.append(delta(index, "signature_delta", signature="s" * 64))
    return block(index, "thinking", *deltas, stop=signed, thinking="", signature="")


def end(tokens: int) -> bytes:
    told = {"stop_reason": "end_turn", "stop_sequence": None}
    usage = {"input_tokens": 7, "output_tokens": tokens}
    return event("message_delta", delta=told, usage=usage) + event("message_stop")


def says(raw: bytes, *, whole: bool = False) -> Any:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD + chunked(raw) + (b"0\r\n\r\n" if whole else b""))
        await writer.drain()
        await asyncio.sleep(0.05)

    return script


@asynccontextmanager
async def standing(
    *legs: bytes, resume: Resume = Resume.ANCHORED
) -> AsyncIterator[tuple[Rig, Peer]]:
    """Stand a line that splices before upstreams that break off, and a last one that does not."""
    async with AsyncExitStack() as stack:
        scripts = [says(leg, whole=leg is legs[-1]) for leg in legs]
        peers = [await stack.enter_async_context(Peer(script)) for script in scripts]
        fields = {"protocol": Dialect.ANTHROPIC, "models": {MODEL: "claude"}, "resume": resume}
        channels = [
            make_channel(number, peer.port, tier=number, **fields)
            for number, peer in enumerate(peers, 1)
        ]
        snapshot = make_snapshot(channels)
        line = msgspec.structs.replace(snapshot.lines[1], splice=True)
        rig = Rig(msgspec.structs.replace(snapshot, lines={1: line}))
        yield await stack.enter_async_context(rig), peers[-1]


async def assemble(rig: Rig, **fields: Any) -> Message:
    """Return the message that the official client puts together."""
    asked: dict[str, Any] = {
        "model": MODEL,
        "max_tokens": 500,
        "messages": [{"role": "user", "content": "Say it."}],
        **fields,
    }
    url = rig.url.removesuffix("/v1")
    async with (
        AsyncAnthropic(base_url=url, api_key=KEY, max_retries=0) as client,
        client.messages.stream(**asked) as stream,
    ):
        return await stream.get_final_message()


def asked_of(peer: Peer) -> dict[str, Any]:
    body = json.loads(peer.requests[0].partition(b"\r\n\r\n")[2])
    assert isinstance(body, dict)
    return body


@pytest.mark.parametrize("cut", [3, 7, 16, 29])
@pytest.mark.parametrize("preamble", ["", 'Sure: "', "\n"])
async def test_a_text_goes_on_from_its_last_words(cut: int, preamble: str) -> None:
    anchor = anchor_of("".join(WORDS[:cut]))
    answered = preamble + anchor + " " + "".join(WORDS[cut:]).strip()
    second = start(2) + thought(0) + said(1, answered[:9], answered[9:]) + end(40)
    async with standing(start(1) + said(0, *WORDS[:cut], stop=False), second) as (rig, peer):
        message = await assemble(rig)
        assert [part.type for part in message.content] == ["text"]
        assert message.content[0].model_dump()["text"] == TEXT and message.id == "msg_1"
        assert message.stop_reason == "end_turn" and message.usage.input_tokens == 100
        *_, partial, notice = asked_of(peer)["messages"]
        assert partial == {"role": "assistant", "content": "".join(WORDS[:cut]).strip()}
        assert notice["role"] == "user" and anchor in notice["content"]
        (ended,) = await rig.ended()
        assert ended.status == 200 and ended.reason == "completed" and ended.attempts == 2
        assert ended.estimated and ended.output_tokens >= 40
        splices = rig.server.counters.splices
        assert splices["line", "carried_on_by_anchor"] == 1


async def test_an_answer_may_be_carried_on_twice_and_no_more() -> None:
    parts = [WORDS[:9], WORDS[9:18], WORDS[18:]]
    anchors = ["", anchor_of("".join(WORDS[:9])), anchor_of("".join(WORDS[:18]))]
    legs = [
        start(number) + thought(0) + said(1, f"{anchor} " if anchor else "", *part, stop=False)
        for number, (anchor, part) in enumerate(zip(anchors, parts, strict=True), 1)
    ]
    whole = legs[2] + event("content_block_stop", index=1) + end(40)
    async with standing(*legs[:2], whole) as (rig, last):
        message = await assemble(rig)
        assert message.content[1].model_dump()["text"].strip() == TEXT
        assert asked_of(last)["messages"][1]["content"] == "".join(WORDS[:18]).strip()
        (ended,) = await rig.ended()
        assert ended.attempts == 3 and ended.reason == "completed"
        assert ended.output_tokens > 40 and rig.server.counters.splices["line", CARRIED] == 2
    again = [legs[0], legs[1], legs[2], start(4) + said(0, TEXT) + end(40)]
    async with standing(*again) as (rig, last):
        with pytest.raises(APIStatusError):
            await assemble(rig)
        assert last.requests == []
        assert rig.server.counters.splices["line", "spliced_before"] == 1


async def test_a_model_that_does_not_repeat_is_not_believed() -> None:
    second = start(2) + said(0, "Sorry, where were we? " * 20) + end(40)
    async with standing(start(1) + said(0, *WORDS[:9], stop=False), second) as (rig, _):
        with pytest.raises(APIStatusError):
            await assemble(rig)
        (ended,) = await rig.ended()
        assert ended.reason == "truncated"


async def test_signed_thinking_stays_and_is_not_thought_twice() -> None:
    anchor = anchor_of("".join(WORDS[:9]))
    second = start(2) + thought(0) + said(1, anchor, " " + "".join(WORDS[9:]).strip()) + end(40)
    first = start(1) + thought(0) + said(1, *WORDS[:9], stop=False)
    async with standing(first, second) as (rig, _):
        message = await assemble(rig)
        assert [part.type for part in message.content] == ["thinking", "text"]
        assert message.content[1].model_dump()["text"] == TEXT


async def test_what_comes_behind_the_seam_is_numbered_on() -> None:
    anchor = anchor_of("".join(WORDS[:9]))
    tool = block(
        1,
        "tool_use",
        delta(1, "input_json_delta", partial_json='{"a":1}'),
        id="toolu_1",
        name="look",
        input={},
    )
    second = start(2) + said(0, anchor + " " + "".join(WORDS[9:]).strip()) + tool + end(40)
    first = start(1) + thought(0) + said(1, *WORDS[:9], stop=False)
    async with standing(first, second) as (rig, _):
        message = await assemble(rig)
        assert [part.type for part in message.content] == ["thinking", "text", "tool_use"]
        assert message.content[2].model_dump()["input"] == {"a": 1}


async def test_a_cut_between_blocks_goes_on_with_another_one() -> None:
    first = start(1) + said(0, *WORDS[:9])
    anchor = anchor_of("".join(WORDS[:9]))
    second = start(2) + said(0, anchor + " and more.") + end(40)
    async with standing(first, second) as (rig, _):
        message = await assemble(rig)
        texts = [part.model_dump()["text"] for part in message.content]
        assert texts == ["".join(WORDS[:9]), "and more."]


async def test_a_channel_that_takes_a_beginning_is_given_it() -> None:
    second = start(2) + said(0, " " + "".join(WORDS[9:]).strip()) + end(40)
    first = start(1) + said(0, *WORDS[:9], stop=False)
    async with standing(first, second, resume=Resume.TRAILING) as (rig, peer):
        message = await assemble(rig)
        assert message.content[0].model_dump()["text"] == TEXT
        given = {"role": "assistant", "content": "".join(WORDS[:9]).strip()}
        assert asked_of(peer)["messages"][-1] == given
        assert rig.server.counters.splices["line", "carried_on_by_continue"] == 1


async def test_before_any_text_the_answer_begins_anew_under_the_same_id() -> None:
    second = start(2) + said(0, TEXT) + end(40)
    first = start(1) + thought(0) + block(1, "text", stop=False, text="")
    async with standing(first, second) as (rig, peer):
        message = await assemble(rig)
        assert message.id == "msg_1" and message.content[1].model_dump()["text"] == TEXT
        assert len(asked_of(peer)["messages"]) == 1


@pytest.mark.parametrize(
    ("first", "why"),
    [
        (start(1) + thought(0, signed=False), "open_thinking"),
        (
            start(1)
            + said(0, *WORDS[:9])
            + block(1, "tool_use", stop=False, id="t", name="n", input={}),
            "tool_call",
        ),
        (start(1) + said(0, "Hi", stop=False), "no_channel_can"),
    ],
)
async def test_what_cannot_go_on_honestly_ends_with_an_error_and_is_counted(
    first: bytes, why: str
) -> None:
    async with standing(first, start(2) + said(0, TEXT) + end(40)) as (rig, peer):
        with pytest.raises(APIStatusError):
            await assemble(rig)
        assert rig.server.counters.splices["line", why] == 1 and peer.requests == []


def test_words_are_found_however_their_blanks_and_quotes_are_written() -> None:
    delivered = 'He said "no", and then\nhe left the room.  '
    overlap = AnchorOverlap(delivered, anchor_of(delivered))
    parts = ("He said \u201cno\u201d, and then he left ", "the room. ", " So")
    told = [overlap.feed(text) for text in parts]
    assert "".join(told) == "So" and overlap.end() == "" and not overlap.broken
    silent = AnchorOverlap(delivered, anchor_of(delivered))
    assert silent.feed("He") == "" and silent.end() == "" and silent.broken
    assert anchor_of("too short") == ""
