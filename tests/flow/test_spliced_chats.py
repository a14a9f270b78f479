"""Goal: a broken chat goes on over a channel that takes no beginning, by its last words.

Method: upstreams that say what a test says; the second one begins as it was asked to, and thinks.
"""

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import msgspec
from openai import AsyncOpenAI

from relay.model import Resume
from relay.records import CallEnd
from relay.splice.anchor import anchor_of
from tests.flow.load import without
from tests.flow.rig import (
    DONE,
    FINISH,
    KEY,
    MODEL,
    SSE_HEAD,
    USAGE,
    Peer,
    Rig,
    chunked,
    event,
    make_channel,
    make_snapshot,
)

WORDS = [f"word{n} " for n in range(20)]
TEXT = "".join(WORDS).strip()


def says(*events: bytes, whole: bool = False) -> Any:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD + chunked(b"".join(events)) + (b"0\r\n\r\n" if whole else b""))
        await writer.drain()
        await asyncio.sleep(0.05)

    return script


def thinks(text: str) -> bytes:
    return event("", choices=[{"index": 0, "delta": {"reasoning_content": text}}])


async def joined(*first: bytes, second: tuple[bytes, ...]) -> tuple[str, str, Rig, list[Any]]:
    """Return text and thoughts that the client has, the relay, and what the second was asked."""
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(Peer(says(*first)))
        other = await stack.enter_async_context(
            Peer(says(*second, FINISH, USAGE, DONE, whole=True))
        )
        channels = [
            make_channel(number, peer.port, tier=number, resume=Resume.ANCHORED)
            for number, peer in enumerate((one, other), 1)
        ]
        snapshot = make_snapshot(channels)
        line = msgspec.structs.replace(snapshot.lines[1], splice=True)
        rig = Rig(msgspec.structs.replace(snapshot, lines={1: line}))
        await stack.enter_async_context(rig)
        client = AsyncOpenAI(base_url=rig.url, api_key=KEY, max_retries=0)
        await stack.enter_async_context(client)
        text = thoughts = ""
        stream = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "go"}], stream=True
        )
        async for chunk in stream:
            for choice in chunk.choices:
                text += choice.delta.content or ""
                thoughts += getattr(choice.delta, "reasoning_content", None) or ""
        body = json.loads(other.requests[0].partition(b"\r\n\r\n")[2])
        return text, thoughts, rig, body["messages"]


async def test_a_chat_goes_on_by_its_last_words() -> None:
    anchor = anchor_of("".join(WORDS[:9]))
    rest = (thinks("again"), event(anchor), event(" " + "".join(WORDS[9:]).strip()))
    text, thoughts, rig, messages = await joined(*map(event, WORDS[:9]), second=rest)
    assert text == TEXT and thoughts == ""
    assert [turn["role"] for turn in messages] == ["user", "assistant", "user"]
    assert anchor in messages[-1]["content"]
    assert rig.server.counters.splices["line", "carried_on_by_anchor"] == 1
    (end,) = await rig.ended()
    assert end.reason == "completed" and end.estimated and end.attempts == 2
    assert [one.outcome for one in end.tries] == ["cut, carried on by anchor"]


async def test_thinking_that_was_cut_is_thought_anew_and_told_once() -> None:
    rest = (thinks("anew"), *map(event, WORDS[:-1]), event(WORDS[-1].strip()))
    text, thoughts, rig, messages = await joined(thinks("hm"), second=rest)
    assert text == TEXT and thoughts == "hm" and len(messages) == 1
    assert rig.server.counters.splices["line", "carried_on_by_restart"] == 1


async def test_a_chat_that_an_operator_moves_is_counted_once() -> None:
    moved = asyncio.Event()

    async def first(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD + chunked(b"".join(map(event, WORDS[:9]))))
        await writer.drain()
        await moved.wait()

    anchor = anchor_of("".join(WORDS[:9]))
    rest = (event(anchor), event(" " + "".join(WORDS[9:]).strip()), FINISH, USAGE, DONE)
    async with Peer(first) as one, Peer(says(*rest, whole=True)) as other:
        channels = [
            make_channel(number, peer.port, tier=number, resume=Resume.ANCHORED)
            for number, peer in enumerate((one, other), 1)
        ]
        snapshot = make_snapshot(channels)
        line = msgspec.structs.replace(snapshot.lines[1], splice=True)
        snapshot = msgspec.structs.replace(snapshot, lines={1: line})
        async with (
            Rig(snapshot) as rig,
            AsyncOpenAI(base_url=rig.url, api_key=KEY, max_retries=0) as client,
        ):
            text = ""
            stream = await client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "go"}], stream=True
            )
            async for chunk in stream:
                for choice in chunk.choices:
                    text += choice.delta.content or ""
                if text.count("word") == 9:
                    rig.server.swap(without(snapshot, 1, evicted=True))
            assert text == TEXT
            moved.set()
            assert rig.server.counters.splices == {("line", "carried_on_by_anchor"): 1}
            (end,) = await rig.ended()
            assert [one.outcome for one in end.tries] == ["drained, carried on by anchor"]


LONG = [event(f"alpha{n} bravo charlie delta ") for n in range(20)]
TOLD = event("", usage={"prompt_tokens": 5, "completion_tokens": 110, "total_tokens": 115})
ASK = {"model": MODEL, "messages": [{"role": "user", "content": "go"}], "stream": True}


def learning(before: int) -> Any:
    """Answer whole, so that it is known how the model counts, and break off in the next one."""
    asked = 0

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        whole = asked <= before
        events = (*LONG, FINISH, TOLD, DONE) if whole else LONG[:18]
        writer.write(SSE_HEAD + chunked(b"".join(events)) + (b"0\r\n\r\n" if whole else b""))
        await writer.drain()
        await asyncio.sleep(0.05)

    return script


async def test_what_is_left_of_a_bound_is_told_as_the_model_counts() -> None:
    """Four bytes are no token of long words: by them nothing would be left of 120."""
    async with (
        Peer(learning(6)) as one,
        Peer(says(*LONG[18:], FINISH, TOLD, DONE, whole=True)) as other,
    ):
        channels = [
            make_channel(number, peer.port, tier=number, resume=Resume.TRAILING)
            for number, peer in enumerate((one, other), 1)
        ]
        snapshot = make_snapshot(channels)
        line = msgspec.structs.replace(snapshot.lines[1], splice=True)
        async with Rig(msgspec.structs.replace(snapshot, lines={1: line})) as rig:
            url = f"{rig.url}/chat/completions"
            headers = {"authorization": f"Bearer {KEY}"}
            async with aiohttp.ClientSession() as session:
                for _ in range(7):
                    asked = {**ASK, "max_tokens": 120}
                    async with session.post(url, json=asked, headers=headers) as answer:
                        text = await answer.text()
            assert "bravo" in text and "error" not in text
            assert sum(rig.server.counters.splices.values()) == 1
            assert [why for _, why in rig.server.counters.splices] == ["carried_on_by_continue"]


async def ask_for(
    tokens: int, one: Peer, other: Peer, times: int
) -> tuple[str, Rig, list[CallEnd]]:
    """Return what the last of some streams brought, that began at the one; and how each ended."""
    channels = [
        make_channel(number, peer.port, tier=number, resume=Resume.TRAILING)
        for number, peer in enumerate((one, other), 1)
    ]
    snapshot = make_snapshot(channels)
    line = msgspec.structs.replace(snapshot.lines[1], splice=True)
    text = ""
    async with Rig(msgspec.structs.replace(snapshot, lines={1: line})) as rig:
        headers = {"authorization": f"Bearer {KEY}"}
        async with aiohttp.ClientSession() as session:
            for _ in range(times):
                asked = {**ASK, "max_tokens": tokens}
                url = f"{rig.url}/chat/completions"
                async with session.post(url, json=asked, headers=headers) as answer:
                    text = await answer.text()
        ends = await rig.ended(times)
    return text, rig, ends


def bound_of(peer: Peer) -> int:
    body = json.loads(peer.requests[0].partition(b"\r\n\r\n")[2])
    bound: int = body["max_tokens"]
    return bound


async def test_what_is_out_is_counted_to_the_token_where_events_hold_equally_many() -> None:
    """The last few events would be taken for a third more or less than all of them."""
    rest = says(*LONG[18:], FINISH, TOLD, DONE, whole=True)
    async with Peer(learning(6)) as one, Peer(rest) as other:
        text, rig, _ = await ask_for(110, one, other, times=7)
        assert "error" not in text
        assert text.count("bravo") == 20
        assert bound_of(other) == 11  # 18 of 20 events are out, of 5.5 tokens each
        assert rig.server.counters.splices == {("line", "carried_on_by_continue"): 1}


async def test_where_a_bound_is_reached_by_our_count_only_the_last_word_comes() -> None:
    """Nobody knows yet how the model counts: by four bytes a token all of the bound is out."""
    last = {"prompt_tokens": 150, "completion_tokens": 1, "total_tokens": 151}
    rest = says(event("one more"), FINISH, event("", usage=last), DONE, whole=True)
    async with Peer(learning(0)) as one, Peer(rest) as other:
        text, rig, ends = await ask_for(100, one, other, times=1)
        assert "error" not in text
        assert text.count("bravo") == 18
        assert "one more" not in text
        assert '"finish_reason":"' in text
        assert text.endswith("data: [DONE]\n\n")
        assert bound_of(other) == 1
        assert rig.server.counters.splices == {("line", "carried_on_by_continue"): 1}
        assert [end.output_tokens for end in ends] == [100]
