"""Goal: wherever a stream is cut, its client has one right answer, or an honest end with a reason.

Method: fifty answers of each dialect, of text, thinking and tools, each cut at a place of its own
(in the middle of an event, too); a second channel whose model does what it is asked to, or does
not. What the client puts together is held against what one healthy channel would have given.
"""

import asyncio
import json
import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest
from anthropic import APIStatusError
from openai import APIError, AsyncOpenAI

from relay.model import Dialect, Resume
from relay.splice.anchor import anchor_of
from tests.flow import test_spliced_gemini as gemini
from tests.flow import test_spliced_messages as messages
from tests.flow import test_spliced_responses as responses
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
    post,
    unchunked,
)
from tests.flow.test_spliced_chats import thinks

CUTS = 50
Events = list[bytes]
Write = Callable[[str, int], Events]
"""The events of an answer: what it says, and the number of its channel."""


class Case:
    """One answer, where it is cut, and whether the second model does as it is asked."""

    def __init__(self, dialect: str, number: int) -> None:
        dice = random.Random(f"{dialect} {number}")
        self.words = [
            f"{dice.choice(('so', 'word', 'then'))}{n} " for n in range(dice.randint(8, 30))
        ]
        self.text = "".join(self.words).strip()
        self.thinks = number % 3 == 0
        self.tool = number % 4 == 0
        self.follows = number % 5 != 4
        self.at, self.half = dice.random(), dice.random() < 0.5

    def cut(self, events: Events) -> bytes:
        """Return what comes of the first channel's answer: its opening at the least."""
        last = 1 + int(self.at * (len(events) - 2))
        torn = events[last][: len(events[last]) // 2] if self.half else b""
        return b"".join(events[:last]) + torn

    def rest(self, given: str) -> str:
        """Return what the second model says that was given so much of the answer."""
        if not self.follows:
            return "Sorry, where were we? " * 20
        assert self.text.startswith(given), (self.text, given)
        return anchor_of(given) + self.text[len(given) :]


def tears(raw: bytes) -> Any:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD + chunked(raw))
        await writer.drain()
        await asyncio.sleep(0.02)

    return script


async def stand(
    stack: AsyncExitStack, case: Case, write: Write, given_in: Any, dialect: Dialect
) -> Rig:
    """Stand a line that splices before a channel that breaks off, and one that goes on."""

    async def answers(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD)
        given = given_in(json.loads(second.requests[-1].partition(b"\r\n\r\n")[2]))
        said = case.text if given is None else case.rest(given)
        writer.write(b"".join(map(chunked, write(said, 2))) + b"0\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.02)

    first = await stack.enter_async_context(Peer(tears(case.cut(write(case.text, 1)))))
    second = Peer(answers)
    await stack.enter_async_context(second)
    fields = {"protocol": dialect, "models": {MODEL: "up"}, "resume": Resume.ANCHORED}
    channels = [
        make_channel(number, peer.port, tier=number, **fields)
        for number, peer in enumerate((first, second), 1)
    ]
    snapshot = make_snapshot(channels)
    line = msgspec.structs.replace(snapshot.lines[1], splice=True)
    rig = Rig(msgspec.structs.replace(snapshot, lines={1: line}))
    return await stack.enter_async_context(rig)


def refused_with_a_reason(rig: Rig) -> bool:
    """Tell whether it was counted why a stream was not carried on, or that it did not work."""
    (end,) = rig.journal.ends
    whys = [what for _, what in rig.server.counters.splices if not what.startswith("carried_on")]
    return end.reason == "truncated" and bool(whys or len(end.tries) > 1)


# --- Anthropic's ----------------------------------------------------------------------------------


def message_events(case: Case) -> Write:
    def write(said: str, number: int) -> Events:
        raw = messages.start(number)
        index = 0
        if case.thinks:
            raw, index = raw + messages.thought(0), 1
        raw += messages.said(index, *_pieces(said))
        if case.tool:
            asked = messages.delta(index + 1, "input_json_delta", partial_json='{"a":1}')
            named: dict[str, Any] = {"id": "toolu_1", "name": "look", "input": {}}
            raw += messages.block(index + 1, "tool_use", asked, **named)
        raw += messages.end(40)
        return [f"event{one}".encode() for one in raw.decode().split("event")[1:]]

    return write


def _pieces(text: str) -> list[str]:
    return [text[at : at + 7] for at in range(0, len(text), 7)]


def given_to_claude(body: dict[str, Any]) -> str | None:
    if len(body["messages"]) == 1:
        return None
    given = body["messages"][-2]["content"]
    return given if isinstance(given, str) else str(given[-1]["text"])


@pytest.mark.parametrize("number", range(CUTS))
async def test_a_message_is_whole_or_ends_honestly(number: int) -> None:
    case = Case("messages", number)
    async with AsyncExitStack() as stack:
        rig = await stand(stack, case, message_events(case), given_to_claude, Dialect.ANTHROPIC)
        try:
            message = await messages.assemble(rig)
        except APIStatusError:
            await rig.ended()
            assert refused_with_a_reason(rig)
            return
        said = [part.model_dump() for part in message.content]
        text = "".join(part["text"] for part in said if part["type"] == "text")
        assert " ".join(text.split()) == case.text
        tools = [part["input"] for part in said if part["type"] == "tool_use"]
        assert tools == ([{"a": 1}] if case.tool else [])
        assert sum(part["type"] == "thinking" for part in said) <= 1
        (end,) = await rig.ended()
        assert end.reason == "completed"


# --- Gemini's -------------------------------------------------------------------------------------


def content_events(case: Case) -> Write:
    def write(said: str, number: int) -> Events:
        thought = [gemini.chunk({"text": "hm", "thought": True}, number=number)]
        events = thought if case.thinks else []
        events = events + [gemini.chunk(gemini.text(p), number=number) for p in _pieces(said)]
        last: dict[str, Any] = gemini.text("")
        if case.tool:
            last = {"functionCall": {"name": "look", "args": {"a": 1}}}
        return [*events, gemini.chunk(last, number=number, finish="STOP", tokens=40)]

    return write


def given_to_gemini(body: dict[str, Any]) -> str | None:
    if len(body["contents"]) == 1:
        return None
    return "".join(part.get("text", "") for part in body["contents"][-2]["parts"])


@pytest.mark.parametrize("number", range(CUTS))
async def test_geminis_answer_is_whole_or_ends_honestly(number: int) -> None:
    case = Case("gemini", number)
    async with AsyncExitStack() as stack:
        rig = await stand(stack, case, content_events(case), given_to_gemini, Dialect.GEMINI)
        body = {"contents": [{"role": "user", "parts": [{"text": "say it"}]}]}
        path = f"/v1beta/models/{MODEL}:streamGenerateContent?alt=sse"
        _, payload = unchunked(await rig.say(post(path, body)))
        lines = payload.replace(b"\r\n", b"\n").split(b"\n")
        chunks = [json.loads(line[6:]) for line in lines if line.startswith(b"data: ")]
        (end,) = await rig.ended()
        if "error" in chunks[-1]:
            assert refused_with_a_reason(rig)
            return
        parts = [p for one in chunks for p in one["candidates"][0]["content"]["parts"]]
        text = "".join(p.get("text", "") for p in parts if not p.get("thought"))
        assert " ".join(text.split()) == case.text and end.reason == "completed"
        assert sum("functionCall" in part for part in parts) == case.tool
        assert sum(bool(part.get("thought")) for part in parts) <= 1
        assert {one["responseId"] for one in chunks} == {"response-1"}


# --- OpenAI's -------------------------------------------------------------------------------------


def chat_events(case: Case) -> Write:
    def write(said: str, number: int) -> Events:
        events = [thinks("hm")] if case.thinks else []
        return [*events, *map(event, _pieces(said)), FINISH, USAGE, DONE]

    return write


def given_to_chat(body: dict[str, Any]) -> str | None:
    return None if len(body["messages"]) == 1 else str(body["messages"][-2]["content"])


@pytest.mark.parametrize("number", range(CUTS))
async def test_a_chat_is_whole_or_ends_honestly(number: int) -> None:
    case = Case("chat", number)
    async with AsyncExitStack() as stack:
        rig = await stand(stack, case, chat_events(case), given_to_chat, Dialect.OPENAI)
        client = AsyncOpenAI(base_url=rig.url, api_key=KEY, max_retries=0)
        await stack.enter_async_context(client)
        text, ends = "", []
        try:
            stream = await client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "go"}], stream=True
            )
            async for chunk in stream:
                for choice in chunk.choices:
                    text += choice.delta.content or ""
                    ends += [choice.finish_reason] if choice.finish_reason else []
        except APIError:
            await rig.ended()
            assert refused_with_a_reason(rig)
            return
        assert " ".join(text.split()) == case.text and ends == ["stop"]
        assert (await rig.ended())[0].reason == "completed"


def given_to_response(body: dict[str, Any]) -> str | None:
    if isinstance(body["input"], str):
        return None
    return str(body["input"][-2]["content"][0]["text"])


def response_events(case: Case) -> Write:
    def write(said: str, number: int) -> Events:
        answer = responses.Answer(number)
        if case.thinks:
            answer.think("hm", "let me see")
        answer.say(*_pieces(said))
        if case.tool:
            answer.call("look", '{"a"', ":1}")
        return answer.end(40)

    return write


TOO_SHORT = frozenset({2})
"""Of the fifty the one that is cut before enough is out to be repeated."""


@pytest.mark.parametrize("number", range(CUTS))
async def test_a_response_is_whole_or_ends_honestly(number: int) -> None:
    case = Case("responses", number)
    async with AsyncExitStack() as stack:
        rig = await stand(stack, case, response_events(case), given_to_response, Dialect.OPENAI)
        try:
            response = await responses.assemble(rig)
        except responses.Failed as failed:
            # Codex and opencode resend a turn that failed so.
            assert failed.response.status == "failed" and failed.response.id == "resp_1"
            assert not case.follows or number in TOO_SHORT
            await rig.ended()
            assert refused_with_a_reason(rig)
            return
        assert " ".join(response.output_text.split()) == case.text
        calls = [item.arguments for item in response.output if item.type == "function_call"]
        assert calls == (['{"a":1}'] if case.tool else [])
        assert sum(item.type == "reasoning" for item in response.output) <= 1
        assert response.id in ("resp_1", "resp_2") and response.status == "completed"
        (end,) = await rig.ended()
        assert end.reason == "completed"
