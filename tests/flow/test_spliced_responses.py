"""Goal: a broken stream of `/v1/responses` goes on over another channel as one response, or fails.

Method: upstreams that send what a test says and break off, a second one that follows the request to
begin with the last words (or does not), the official client's own helper to put it together: it
refuses an index that begins twice, an item that changes its id, and one that never ends.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest
from openai import AsyncOpenAI, NotFoundError
from openai.types.responses import Response, ResponseFailedEvent

from relay.model import LostState, Resume
from relay.splice.anchor import anchor_of
from tests.flow.rig import KEY, MODEL, SSE_HEAD, Peer, Rig, chunked, make_channel, make_snapshot

CARRIED = "carried_on_by_anchor"
WORDS = [f"word{n} " for n in range(30)]
TEXT = "".join(WORDS).strip()
BLOB = "gAAAA" + "b" * 64


class Failed(Exception):
    """The response failed, in its own words."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.error)
        self.response = response


class Answer:
    """What one upstream tells of one response, event by event."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.events: list[bytes] = []
        self.items: list[dict[str, Any]] = []
        for kind in ("response.created", "response.in_progress"):
            self._tell(kind, response=self._response("in_progress"))

    def _tell(self, kind: str, **fields: Any) -> None:
        told = {"type": kind, "sequence_number": len(self.events), **fields}
        self.events.append(b"event: %b\ndata: %b\n\n" % (kind.encode(), json.dumps(told).encode()))

    def _response(self, status: str, **fields: Any) -> dict[str, Any]:
        response: dict[str, Any] = {
            "id": f"resp_{self.number}",
            "object": "response",
            "created_at": 1_790_000_000 + self.number,
            "model": "up",
            "status": status,
            "output": [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
        }
        return response | fields

    def _begin(self, kind: str, prefix: str, **fields: Any) -> dict[str, Any]:
        item = {"id": f"{prefix}_{self.number}_{len(self.items)}", "type": kind, **fields}
        self._tell("response.output_item.added", output_index=len(self.items), item=item)
        return item

    def _end(self, item: dict[str, Any], **fields: Any) -> None:
        item = item | fields
        self._tell("response.output_item.done", output_index=len(self.items), item=item)
        self.items.append(item)

    def _at(self, item: dict[str, Any], **fields: Any) -> dict[str, Any]:
        return {"item_id": item["id"], "output_index": len(self.items), **fields}

    def think(self, *parts: str) -> "Answer":
        item = self._begin("reasoning", "rs", summary=[])
        summary = []
        for number, text in enumerate(parts):
            at = self._at(item, summary_index=number)
            empty, part = ({"type": "summary_text", "text": said} for said in ("", text))
            self._tell("response.reasoning_summary_part.added", **at, part=empty)
            self._tell("response.reasoning_summary_text.delta", **at, delta=text)
            self._tell("response.reasoning_summary_text.done", **at, text=text)
            self._tell("response.reasoning_summary_part.done", **at, part=part)
            summary.append(part)
        self._end(item, summary=summary, encrypted_content=f"{BLOB}{self.number}")
        return self

    def say(self, *pieces: str) -> "Answer":
        item = self._begin("message", "msg", role="assistant", status="in_progress", content=[])
        at = self._at(item, content_index=0)
        part: dict[str, Any] = {"type": "output_text", "text": "", "annotations": []}
        self._tell("response.content_part.added", **at, part=part)
        for piece in pieces:
            self._tell("response.output_text.delta", **at, delta=piece, logprobs=[])
        part = part | {"text": "".join(pieces)}
        self._tell("response.output_text.done", **at, text=part["text"], logprobs=[])
        self._tell("response.content_part.done", **at, part=part)
        self._end(item, status="completed", content=[part])
        return self

    def call(self, name: str, *pieces: str, custom: bool = False, call_id: str = "") -> "Answer":
        holds = "input" if custom else "arguments"
        kind = "custom_tool_call" if custom else "function_call"
        said = "custom_tool_call_input" if custom else "function_call_arguments"
        ids = {"call_id": call_id or f"call_{self.number}_{len(self.items)}", "name": name}
        item = self._begin(kind, "fc", status="in_progress", **ids, **{holds: ""})
        for piece in pieces:
            self._tell(f"response.{said}.delta", **self._at(item, delta=piece))
        whole = {holds: "".join(pieces)}
        self._tell(f"response.{said}.done", **self._at(item, **whole))
        self._end(item, status="completed", **whole)
        return self

    def end(self, tokens: int) -> list[bytes]:
        usage = {
            "input_tokens": 100,
            "input_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 0},
            "output_tokens": tokens,
            "output_tokens_details": {"reasoning_tokens": 3},
            "total_tokens": 100 + tokens,
        }
        whole = self._response("completed", output=self.items, usage=usage)
        self._tell("response.completed", response=whole)
        return self.events

    def cut(self, before: str, nth: int = 1) -> bytes:
        """Return what is told before the nth event of a type."""
        places = [
            n
            for n, one in enumerate(self.events)
            if one.startswith(b"event: %b\n" % before.encode())
        ]
        return b"".join(self.events[: places[nth - 1]])


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
        channels = [
            make_channel(number, peer.port, tier=number, models={MODEL: "up"}, resume=resume)
            for number, peer in enumerate(peers, 1)
        ]
        snapshot = make_snapshot(channels)
        line = msgspec.structs.replace(snapshot.lines[1], splice=True)
        rig = Rig(msgspec.structs.replace(snapshot, lines={1: line}))
        yield await stack.enter_async_context(rig), peers[-1]


async def assemble(rig: Rig, **fields: Any) -> Response:
    """Return the response that the official client puts together; its events follow each other."""
    asked: dict[str, Any] = {"model": MODEL, "input": "Say it.", **fields}
    numbers: list[int] = []
    async with (
        AsyncOpenAI(base_url=rig.url, api_key=KEY, max_retries=0) as client,
        client.responses.stream(**asked) as stream,
    ):
        async for event in stream:
            numbers.append(event.sequence_number)
            if isinstance(event, ResponseFailedEvent):
                raise Failed(event.response)
        assert numbers == list(range(len(numbers)))
        return await stream.get_final_response()


def asked_of(peer: Peer) -> dict[str, Any]:
    body = json.loads(peer.requests[0].partition(b"\r\n\r\n")[2])
    assert isinstance(body, dict)
    return body


def kinds(response: Response) -> list[str]:
    return [item.type for item in response.output]


def rest_behind(cut: int, *, preamble: str = "") -> str:
    return preamble + anchor_of("".join(WORDS[:cut])) + " " + "".join(WORDS[cut:]).strip()


@pytest.mark.parametrize("cut", [3, 7, 16, 29])
@pytest.mark.parametrize("preamble", ["", 'Sure: "', "\n"])
async def test_a_text_goes_on_from_its_last_words(cut: int, preamble: str) -> None:
    first = Answer(1).think("hm").say(*WORDS).cut("response.output_text.delta", cut + 1)
    rest = rest_behind(cut, preamble=preamble)
    second = Answer(2).think("what was it").say(rest[:9], rest[9:]).end(40)
    async with standing(first, b"".join(second)) as (rig, peer):
        response = await assemble(rig, max_output_tokens=500)
        assert kinds(response) == ["reasoning", "message"] and response.output_text == TEXT
        assert response.id == "resp_1" and response.created_at == 1_790_000_001
        reasoning, message = response.output
        assert (reasoning.id, message.id) == ("rs_1_0", "msg_1_1")
        assert response.usage is not None and response.usage.input_tokens < 100
        used = response.usage
        assert used.total_tokens == used.input_tokens + used.output_tokens
        asked = asked_of(peer)
        question, partial, notice = asked["input"]
        assert question == {"role": "user", "content": "Say it."}
        assert partial["content"][0]["text"] == "".join(WORDS[:cut]).strip()
        assert anchor_of("".join(WORDS[:cut])) in notice["content"][0]["text"]
        assert notice["role"] == "user" and asked["max_output_tokens"] <= 500
        (ended,) = await rig.ended()
        assert ended.status == 200 and ended.reason == "completed" and ended.attempts == 2
        assert ended.estimated and ended.output_tokens >= 40
        assert rig.server.counters.splices["line", CARRIED] == 1


async def test_an_answer_may_be_carried_on_twice_and_no_more() -> None:
    legs = [Answer(1).say(*WORDS).cut("response.output_text.delta", 10)]
    for number, begun in ((2, 9), (3, 18)):
        anchor = anchor_of("".join(WORDS[:begun]))
        answer = Answer(number).say(f"{anchor} ", *WORDS[begun:])
        legs.append(answer.cut("response.output_text.delta", 11))
    last = Answer(3).say(f"{anchor_of(''.join(WORDS[:18]))} ", *WORDS[18:]).end(40)
    async with standing(*legs[:2], b"".join(last)) as (rig, _):
        response = await assemble(rig)
        assert response.output_text.strip() == TEXT and response.id == "resp_1"
        (ended,) = await rig.ended()
        assert ended.attempts == 3 and rig.server.counters.splices["line", CARRIED] == 2
    async with standing(*legs, b"".join(last)) as (rig, peer):
        with pytest.raises(Failed):
            await assemble(rig)
        assert peer.requests == []
        assert rig.server.counters.splices["line", "spliced_before"] == 1


async def test_a_model_that_does_not_repeat_is_not_believed() -> None:
    first = Answer(1).say(*WORDS).cut("response.output_text.delta", 10)
    second = Answer(2).say("Sorry, where were we? " * 20).end(40)
    async with standing(first, b"".join(second)) as (rig, _):
        with pytest.raises(Failed) as failed:
            await assemble(rig)
        assert failed.value.response.id == "resp_1"
        (ended,) = await rig.ended()
        assert ended.reason == "truncated"


@pytest.mark.parametrize(
    "before", ["response.reasoning_summary_text.done", "response.output_item.done"]
)
async def test_open_thinking_is_asked_anew_under_its_id(before: str) -> None:
    first = Answer(1).think("hm").cut(before)
    second = Answer(2).think("all of it").say(TEXT).call("look", "{}").end(40)
    async with standing(first, b"".join(second)) as (rig, peer):
        response = await assemble(rig)
        assert kinds(response) == ["reasoning", "message", "function_call"]
        thought = response.output[0].model_dump()
        assert thought["id"] == "rs_1_0" and thought["encrypted_content"] == f"{BLOB}2"
        assert [part["text"] for part in thought["summary"]] == ["hm", "all of it"]
        assert response.output_text == TEXT and asked_of(peer)["input"] == "Say it."


async def test_thinking_that_has_only_begun_leaves_no_trace() -> None:
    first = Answer(1).think("hm").cut("response.reasoning_summary_part.added")
    second = Answer(2).think("hm").say(TEXT).end(40)
    async with standing(first, b"".join(second)) as (rig, _):
        response = await assemble(rig)
        summary = response.output[0].model_dump()["summary"]
        assert [part["text"] for part in summary] == ["hm"] and response.output_text == TEXT


@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize("nth", [1, 2])
async def test_half_a_tool_call_is_made_again_under_its_ids(nth: int, *, custom: bool) -> None:
    said = "custom_tool_call_input" if custom else "function_call_arguments"
    calling = Answer(1).think("hm").call("look", '{"a"', ":1}", custom=custom)
    first = calling.cut(f"response.{said}.delta", nth)
    second = Answer(2).think("again").call("look", '{"', 'a":', "1}", custom=custom).end(40)
    async with standing(first, b"".join(second)) as (rig, _):
        response = await assemble(rig)
        call = response.output[1].model_dump()
        assert (call["id"], call["call_id"]) == ("fc_1_1", "call_1_1")
        assert call["input" if custom else "arguments"] == '{"a":1}'
        assert len(response.output) == 2


async def test_another_tool_call_than_the_one_that_is_out_is_no_rest_of_it() -> None:
    first = Answer(1).call("look", '{"a"', ":1}").cut("response.function_call_arguments.delta", 2)
    for second in (Answer(2).call("look", '{"b":2}'), Answer(2).call("see", '{"a":1}')):
        async with standing(first, b"".join(second.end(40))) as (rig, _):
            with pytest.raises(Failed):
                await assemble(rig)
            (ended,) = await rig.ended()
            assert ended.reason == "truncated"


async def test_what_comes_behind_the_seam_is_numbered_on() -> None:
    first = Answer(1).think("hm").say(*WORDS).cut("response.output_text.delta", 10)
    second = Answer(2).say(rest_behind(9)).call("look", '{"a":1}').call("see", "{}").end(40)
    async with standing(first, b"".join(second)) as (rig, _):
        response = await assemble(rig)
        assert kinds(response) == ["reasoning", "message", "function_call", "function_call"]
        assert response.output_text == TEXT
        assert response.output[2].model_dump()["call_id"] == "call_2_1"


async def test_a_cut_behind_a_whole_message_goes_on_with_another_item() -> None:
    first = Answer(1).say(*WORDS[:9]).call("look", "{}").cut("response.output_item.added", 2)
    anchor = anchor_of("".join(WORDS[:9]))
    second = Answer(2).say(anchor).call("look", "{}").end(40)
    async with standing(first, b"".join(second)) as (rig, _):
        response = await assemble(rig)
        assert kinds(response) == ["message", "function_call"]
        assert response.output_text == "".join(WORDS[:9])
    more = Answer(2).say(anchor, " and more.").end(40)
    async with standing(first, b"".join(more)) as (rig, _):
        response = await assemble(rig)
        assert kinds(response) == ["message", "message"]
        assert response.output_text == "".join(WORDS[:9]) + "and more."


async def test_reasoning_that_only_the_dead_channel_reads_is_left_out_where_its_line_says_so() -> (
    None
):
    """An agent sends the encrypted reasoning of its last turn; the next one breaks off."""
    first = b"".join(Answer(1).think("hm").say("Hello.").end(9))
    cut = Answer(3).think("hm").say(*WORDS).cut("response.output_text.delta", 10)
    rest = b"".join(Answer(2).say(rest_behind(9)).end(40))
    for lost_state in LostState:
        legs = iter((says(first, whole=True), says(cut)))

        async def turns(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await next(legs)(reader, writer)  # noqa: B023 - asked within this very round

        async with AsyncExitStack() as stack:
            peers = [await stack.enter_async_context(Peer(s)) for s in (turns, says(rest))]
            channels = [
                make_channel(n, p.port, tier=n, models={MODEL: "up"}, resume=Resume.ANCHORED)
                for n, p in enumerate(peers, 1)
            ]
            snapshot = make_snapshot(channels)
            line = msgspec.structs.replace(snapshot.lines[1], splice=True, lost_state=lost_state)
            rig = Rig(msgspec.structs.replace(snapshot, lines={1: line}))
            await stack.enter_async_context(rig)
            said = [item.model_dump() for item in (await assemble(rig, store=False)).output]
            question = [*said, {"role": "user", "content": "Go on."}]
            if lost_state is LostState.REFUSE:
                with pytest.raises(Failed):
                    await assemble(rig, input=question, store=False)
                assert rig.server.counters.splices["line", "no_channel_can"] == 1
                continue
            response = await assemble(rig, input=question, store=False)
            assert response.output_text == TEXT and response.id == "resp_3"
            asked = asked_of(peers[1])["input"]
            assert [item.get("type") for item in asked] == ["message", None, "message", "message"]


async def test_a_whole_tool_call_is_kept_and_ends_the_turn() -> None:
    first = Answer(1).think("hm").say(*WORDS).call("look", '{"a":1}').end(40)
    async with standing(b"".join(first[:-1]), b"".join(Answer(2).say(TEXT).end(40))) as (rig, peer):
        response = await assemble(rig)
        assert kinds(response) == ["reasoning", "message", "function_call"]
        assert response.status == "completed" and response.id == "resp_1"
        assert response.output_text == "".join(WORDS) and peer.requests == []
        assert response.usage is not None and response.usage.output_tokens > 0
        (ended,) = await rig.ended()
        assert ended.reason == "completed" and ended.estimated and ended.cost_nanos > 0
        assert dict(rig.server.counters.splices) == {("line", "carried_on_by_whole_call"): 1}


async def test_the_id_of_a_spliced_response_is_nobodys() -> None:
    first = Answer(1).say(*WORDS).cut("response.output_text.delta", 10)
    async with standing(first, b"".join(Answer(2).say(rest_behind(9)).end(40))) as (rig, peer):
        assert (await assemble(rig)).id == "resp_1"
        async with AsyncOpenAI(base_url=rig.url, api_key=KEY, max_retries=0) as client:
            with pytest.raises(NotFoundError) as lost:
                await client.responses.create(
                    model=MODEL, input="go on", previous_response_id="resp_1"
                )
        assert lost.value.code == "previous_response_not_found" and len(peer.requests) == 1


@pytest.mark.parametrize(
    ("first", "fields", "why"),
    [
        (
            Answer(1).say(*WORDS).cut("response.output_text.delta", 10),
            {"store": True},
            "kept_by_its_provider",
        ),
        (
            Answer(1).say(*WORDS).cut("response.output_text.delta", 10),
            {"tool_choice": "required"},
            "forced_tool",
        ),
        (
            Answer(1).call("look", "{}").say("x").cut("response.output_text.delta"),
            {},
            "tool_call",
        ),
        (Answer(1).say("Hi", "!").cut("response.output_text.delta", 2), {}, "no_channel_can"),
        (
            Answer(1).say(*WORDS).think("hm").cut("response.reasoning_summary_part.added"),
            {},
            "open_thinking",
        ),
    ],
)
async def test_what_cannot_go_on_honestly_fails_and_is_counted(
    first: bytes, fields: dict[str, Any], why: str
) -> None:
    async with standing(first, b"".join(Answer(2).say(TEXT).end(40))) as (rig, peer):
        with pytest.raises(Failed):
            await assemble(rig, **fields)
        assert rig.server.counters.splices["line", why] == 1 and peer.requests == []


async def test_a_deterministic_answer_is_taken_from_any_channel_if_it_is_the_same() -> None:
    first = Answer(1).say(*WORDS).cut("response.output_text.delta", 10)
    second = b"".join(Answer(2).say(*WORDS).end(40))
    async with standing(first, second, resume=Resume.NONE) as (rig, _):
        response = await assemble(rig, temperature=0)
        assert response.output_text == "".join(WORDS) and response.id == "resp_1"
        assert rig.server.counters.splices["line", "carried_on_by_replay"] == 1
