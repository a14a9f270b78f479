"""Goal: a call goes to a channel of another dialect where it must, and honestly from end to end.

Method: scripted upstreams of each dialect on real sockets, clients that send raw requests; what is
asked, told, charged and kept is read from both ends and from the journal.
"""

import asyncio
import json
from typing import Any, Final

import msgspec
import pytest

from relay.config import Config
from relay.model import Channel, Snapshot, Unpriced
from relay.translate import TranslateDialect
from tests.flow.rig import MODEL, SSE_HEAD, Peer, Rig, chunked, make_snapshot
from tests.flow.test_sessions import session, turn
from tests.flow.translated_cells import Answer, Upstream, asking, channel_of
from tests.pure.translate.reading import read_body, read_request, read_stream
from tests.pure.translate.samples import (
    ANTHROPIC,
    BODIES,
    CHAT,
    DIALECTS,
    GEMINI,
    REQUESTS,
    RESPONSES,
    STREAMS,
    Json,
)

FOREIGN: Final = [(one, other) for one in DIALECTS for other in DIALECTS if one is not other]


def standing(*channels: Channel, config: Config | None = None) -> Rig:
    return Rig(make_snapshot(list(channels)), config)


def impatient(**timeouts: float) -> Config:
    return msgspec.convert({"timeouts": timeouts}, Config)


def down(upstream: Upstream) -> Upstream:
    upstream.say("JSON", b'{"error": {"message": "Broken."}}', status=500)
    return upstream


@pytest.mark.parametrize("how", ["stream", "JSON"])
async def test_a_call_goes_from_its_own_dialect_to_another_and_back(how: str) -> None:
    own, other = Upstream(CHAT), Upstream(ANTHROPIC)
    async with (
        own.peer,
        other.peer,
        standing(
            channel_of(CHAT, 1, own.peer.port),
            channel_of(ANTHROPIC, 2, other.peer.port),
            config=msgspec.convert({"switching": {"retries_min": 50}}, Config),
        ) as rig,
    ):
        own.say(how, (STREAMS if how == "stream" else BODIES)[CHAT]("text"))
        other.say(how, (STREAMS if how == "stream" else BODIES)[ANTHROPIC]("text"))
        request = asking(CHAT, REQUESTS[CHAT]("text"), how)
        assert Answer(await rig.say(request)).status == 200
        assert other.peer.requests == []
        down(own)
        for _ in range(4):
            answer = Answer(await rig.say(request))
            assert answer.status == 200
            assert answer.header("x-relay-translated") == "openai>anthropic"
        ends = await rig.ended(5)
        # Three failures in a row open the breaker: then nobody asks in vain any more.
        assert [end.attempts for end in ends] == [1, 2, 2, 2, 1]
        assert [end.translated for end in ends] == ["", *["openai>anthropic"] * 4]
        assert ends[1].tries[0].channel_id == 1 and ends[1].channel_id == 2
        own.say(how, (STREAMS if how == "stream" else BODIES)[CHAT]("text"))
        down(other)
        answer = Answer(await rig.say(request))
        assert answer.status == 200 and not answer.header("x-relay-translated")
        last = (await rig.ended(6))[-1]
        assert (last.translated, last.channel_id, last.attempts) == ("", 1, 2)


async def test_what_cannot_be_carried_is_refused_by_name_before_anybody_is_asked() -> None:
    upstream = Upstream(ANTHROPIC)
    refused: list[tuple[TranslateDialect, Json, str]] = [
        (CHAT, {"n": 2}, "n"),
        (CHAT, {"logprobs": True}, "logprobs"),
        (RESPONSES, {"previous_response_id": "resp_1"}, "previous_response_id"),
    ]
    async with upstream.peer, standing(channel_of(ANTHROPIC, 1, upstream.peer.port)) as rig:
        for client, field, param in refused:
            body = REQUESTS[client]("text") | field
            answer = Answer(await rig.say(asking(client, body, "stream")))
            assert answer.status == 400
            error = json.loads(answer.body)["error"]
            assert (error["param"], error["code"]) == (param, "not_available_on_this_route")
        cached = REQUESTS[GEMINI]("text") | {"cachedContent": "cachedContents/1"}
        answer = Answer(await rig.say(asking(GEMINI, cached, "stream")))
        said = json.loads(answer.body)["error"]
        assert (answer.status, said["status"]) == (400, "INVALID_ARGUMENT")
        assert "cachedContent" in said["message"]
        assert upstream.peer.requests == []
        for end in await rig.ended(4):
            assert (end.cost_nanos, end.attempts, end.reason) == (0, 0, "rejected")


async def test_a_line_that_strips_searches_has_the_rest_translated() -> None:
    upstream = Upstream(ANTHROPIC)
    upstream.say("JSON", BODIES[ANTHROPIC]("text"))
    async with upstream.peer as peer:
        snapshot = make_snapshot([channel_of(ANTHROPIC, 1, peer.port)])
        body = REQUESTS[RESPONSES]("tools")
        asked = asking(
            RESPONSES, body | {"tools": [*body["tools"], {"type": "web_search"}]}, "JSON"
        )
        async with Rig(snapshot) as rig:
            assert Answer(await rig.say(asked)).status == 400
        line = msgspec.structs.replace(snapshot.lines[1], unpriced=Unpriced.STRIP)
        async with Rig(msgspec.structs.replace(snapshot, lines={1: line})) as rig:
            answer = Answer(await rig.say(asked))
        assert answer.status == 200 and answer.header("x-relay-dropped")
        assert [tool.name for tool in read_request(ANTHROPIC, upstream.asked).tools] == ["weather"]


async def test_a_channel_that_can_be_told_is_asked_where_another_cannot() -> None:
    first, second = Upstream(ANTHROPIC), Upstream(GEMINI)
    second.say("JSON", BODIES[GEMINI]("text"))
    async with (
        first.peer,
        second.peer,
        standing(
            channel_of(ANTHROPIC, 1, first.peer.port),
            channel_of(GEMINI, 2, second.peer.port, tier=1),
        ) as rig,
    ):
        body = REQUESTS[CHAT]("text") | {"response_format": {"type": "json_object"}}
        answer = Answer(await rig.say(asking(CHAT, body, "JSON")))
        assert answer.header("x-relay-translated") == "openai>gemini"
        assert first.peer.requests == []


async def test_what_an_answer_is_made_without_is_named() -> None:
    upstream = Upstream(ANTHROPIC)
    async with upstream.peer, standing(channel_of(ANTHROPIC, 1, upstream.peer.port)) as rig:
        for how in ("stream", "JSON"):
            upstream.say(how, (STREAMS if how == "stream" else BODIES)[ANTHROPIC]("text"))
            body = REQUESTS[CHAT]("text") | {"seed": 7, "presence_penalty": 1}
            answer = Answer(await rig.say(asking(CHAT, body, how)))
            assert answer.header("x-relay-dropped") == "seed,presence_penalty"


@pytest.mark.parametrize(("client", "dialect"), FOREIGN, ids=lambda one: one.value)
async def test_a_prompt_that_is_too_long_is_told_in_the_clients_words(
    client: TranslateDialect, dialect: TranslateDialect
) -> None:
    wordings: dict[TranslateDialect, Json] = {
        CHAT: {"message": "This model's maximum context length is 9 tokens.", "param": "messages"},
        RESPONSES: {"message": "Your input exceeds the context window.", "param": "input"},
        ANTHROPIC: {"type": "invalid_request_error", "message": "prompt is too long: 9 > 8"},
        GEMINI: {"code": 400, "message": "The input token count (9) exceeds the maximum (8)"},
    }
    said = wordings[dialect]
    upstream = Upstream(dialect)
    upstream.say("JSON", json.dumps({"type": "error", "error": said}).encode(), status=400)
    async with upstream.peer, standing(channel_of(dialect, 1, upstream.peer.port)) as rig:
        answer = Answer(await rig.say(asking(client, REQUESTS[client]("text"), "stream")))
    error = json.loads(answer.body)["error"]
    assert answer.status == 400 and str(said["message"]) in error["message"]
    if client is ANTHROPIC:
        assert "prompt is too long" in error["message"]
        assert error["type"] == "invalid_request_error"
    elif client is GEMINI:
        assert error["status"] == "INVALID_ARGUMENT"
    else:
        assert error["code"] == "context_length_exceeded"


async def test_an_upstreams_own_limit_is_no_word_of_another_dialect() -> None:
    upstream = Upstream(GEMINI)
    said = {
        "error": {"code": 429, "message": "Quota of project 1.", "status": "RESOURCE_EXHAUSTED"}
    }
    upstream.say("JSON", json.dumps(said).encode(), status=429)
    async with upstream.peer, standing(channel_of(GEMINI, 1, upstream.peer.port)) as rig:
        answer = Answer(await rig.say(asking(ANTHROPIC, REQUESTS[ANTHROPIC]("text"), "JSON")))
    error = json.loads(answer.body)["error"]
    assert (answer.status, error["type"]) == (429, "rate_limit_error")
    assert "Quota" not in error["message"]


def held_back(dialect: TranslateDialect, gate: asyncio.Event, *, comment: bytes = b"") -> Peer:
    """Return an upstream that begins, waits, and then says the rest."""
    events = STREAMS[dialect]("text").replace(b"\r\n", b"\n").split(b"\n\n")
    begun = {CHAT: 2, ANTHROPIC: 4, GEMINI: 1, RESPONSES: 3}[dialect]

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD + chunked(b"\n\n".join(events[:begun]) + b"\n\n"))
        while not gate.is_set():
            if comment:
                writer.write(chunked(comment))
            await writer.drain()
            await asyncio.sleep(0.05)
        writer.write(chunked(b"\n\n".join(events[begun:])) + b"0\r\n\r\n")
        await writer.drain()

    return Peer(script)


@pytest.mark.parametrize(
    ("client", "spoken"), [(CHAT, b": keepalive"), (ANTHROPIC, b"event: ping"), (GEMINI, b"")]
)
async def test_a_client_is_kept_in_touch_in_its_own_way(
    client: TranslateDialect, spoken: bytes
) -> None:
    """An upstream's pings keep no client's way open: they are not passed on."""
    gate = asyncio.Event()
    dialect = CHAT if client is ANTHROPIC else ANTHROPIC
    ping = b": x\n\n" if dialect is CHAT else b'event: ping\ndata: {"type": "ping"}\n\n'
    async with (
        held_back(dialect, gate, comment=ping) as peer,
        standing(
            channel_of(dialect, 1, peer.port), config=impatient(keepalive_comment_s=0.3)
        ) as rig,
    ):
        asyncio.get_running_loop().call_later(1.2, gate.set)
        answer = Answer(await rig.say(asking(client, REQUESTS[client]("text"), "stream")))
        told = answer.body.count(spoken) if spoken else answer.body.count(b"\n:")
        assert answer.header("x-relay-translated")
        assert 2 <= told <= 4 if spoken else told == 0
        assert read_stream(client, answer.body.replace(b'data: {"type": "ping"}\n', b"")).ending
        if client is GEMINI:
            assert all(
                line.startswith(b"data: ") for line in answer.body.split(b"\n") if line.strip()
            )


@pytest.mark.parametrize("client", [CHAT, ANTHROPIC], ids=lambda one: one.value)
async def test_a_stream_that_a_comment_opened_says_that_it_is_translated(
    client: TranslateDialect,
) -> None:
    body = STREAMS[GEMINI]("text")

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.8)
        writer.write(SSE_HEAD + chunked(body) + b"0\r\n\r\n")
        await writer.drain()

    patience = impatient(keepalive_comment_s=0.2)
    async with (
        Peer(script) as peer,
        standing(channel_of(GEMINI, 1, peer.port), config=patience) as rig,
    ):
        answer = Answer(await rig.say(asking(client, REQUESTS[client]("cache"), "stream")))
        assert answer.body.startswith((b": keepalive", b"event: ping"))
        assert answer.header("x-relay-translated").endswith(">gemini")
        assert answer.header("x-relay-dropped") in ("prompt_cache_key", "cache_control")


async def test_a_hedge_may_be_won_by_another_dialect() -> None:
    gate = asyncio.Event()
    other = Upstream(ANTHROPIC)
    other.say("stream", STREAMS[ANTHROPIC]("text"))

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gate.wait()

    async with Peer(silent) as own, other.peer as peer:
        snapshot = make_snapshot(
            [channel_of(CHAT, 1, own.port), channel_of(ANTHROPIC, 2, peer.port)]
        )
        hedged = msgspec.structs.replace(snapshot.lines[1], hedge_ms=50)
        async with Rig(msgspec.structs.replace(snapshot, lines={1: hedged})) as rig:
            answer = Answer(await rig.say(asking(CHAT, REQUESTS[CHAT]("text"), "stream")))
            assert answer.header("x-relay-translated") == "openai>anthropic"
            assert read_stream(CHAT, answer.body).ending is not None
            (end,) = await rig.ended()
            assert (end.channel_id, end.translated) == (2, "openai>anthropic")
        gate.set()


async def test_a_client_that_leaves_takes_its_upstream_along() -> None:
    gate = asyncio.Event()
    async with (
        held_back(ANTHROPIC, gate) as peer,
        standing(channel_of(ANTHROPIC, 1, peer.port)) as rig,
    ):
        request = asking(CHAT, REQUESTS[CHAT]("text"), "stream")
        await rig.say(request, until=b"Rain")
        async with asyncio.timeout(5):
            await peer.closed.wait()
        (end,) = await rig.ended()
        assert (end.reason, end.translated) == ("client_gone", "openai>anthropic")
        assert end.input_tokens == 100 and end.cost_nanos > 0


@pytest.mark.parametrize(("client", "dialect"), FOREIGN, ids=lambda one: one.value)
async def test_an_upstream_that_falls_silent_is_told_as_an_error(
    client: TranslateDialect, dialect: TranslateDialect
) -> None:
    async with (
        held_back(dialect, asyncio.Event()) as peer,
        standing(channel_of(dialect, 1, peer.port), config=impatient(gap_s=0.3)) as rig,
    ):
        answer = Answer(await rig.say(asking(client, REQUESTS[client]("text"), "stream")))
        said = read_stream(client, answer.body)
        assert said.trouble is not None and said.ending is None
        assert b"[DONE]" not in answer.body
        (end,) = await rig.ended()
        assert (end.reason, end.status) == ("truncated", 200)
        assert end.input_tokens and end.cost_nanos


async def test_a_stream_that_only_thought_in_secret_may_still_move() -> None:
    """Nothing of the thinking was shown, so that another channel can begin the answer."""
    begun = STREAMS[ANTHROPIC]("thinking").split(b"event: content_block_stop")[0]
    first, second = Upstream(ANTHROPIC), Upstream(CHAT)
    first.say("stream", begun, whole=False)
    second.say("stream", STREAMS[CHAT]("text"))
    async with (
        first.peer,
        second.peer,
        standing(
            channel_of(ANTHROPIC, 1, first.peer.port),
            channel_of(CHAT, 2, second.peer.port, tier=1),
        ) as rig,
    ):
        answer = Answer(await rig.say(asking(GEMINI, REQUESTS[GEMINI]("text"), "stream")))
        said = read_stream(GEMINI, answer.body)
        assert said.trouble is None and [one.text for one in said.texts()] == ["Rain in Paris."]
        (end,) = await rig.ended()
        assert (end.attempts, end.translated) == (2, "gemini>openai")


async def test_a_broken_translated_stream_is_not_spliced() -> None:
    events = STREAMS[ANTHROPIC]("text").split(b"\n\n")
    first, second = Upstream(ANTHROPIC), Upstream(ANTHROPIC)
    first.say("stream", b"\n\n".join(events[:4]) + b"\n\n", whole=False)
    async with first.peer as one, second.peer as two:
        channels = [channel_of(ANTHROPIC, 1, one.port), channel_of(ANTHROPIC, 2, two.port, tier=1)]
        snapshot = make_snapshot(channels)
        spliced = msgspec.structs.replace(snapshot.lines[1], splice=True)
        async with Rig(msgspec.structs.replace(snapshot, lines={1: spliced})) as rig:
            answer = Answer(await rig.say(asking(CHAT, REQUESTS[CHAT]("text"), "stream")))
            assert read_stream(CHAT, answer.body).trouble is not None
            assert second.peer.requests == []
            (end,) = await rig.ended()
            assert end.reason == "truncated"


async def test_gemini_without_events_gets_an_array() -> None:
    upstream = Upstream(CHAT)
    upstream.say("JSON", BODIES[CHAT]("text"))
    async with upstream.peer, standing(channel_of(CHAT, 1, upstream.peer.port)) as rig:
        request = asking(GEMINI, REQUESTS[GEMINI]("text"), "stream").replace(b"?alt=sse", b"")
        answer = Answer(await rig.say(request))
        (found,) = json.loads(answer.body)
        assert found["candidates"][0]["content"]["parts"] == [{"text": "Rain in Paris."}]


async def test_trace_headers_go_on_and_those_of_a_dialect_do_not() -> None:
    upstream = Upstream(ANTHROPIC)
    upstream.say("JSON", BODIES[ANTHROPIC]("text"))
    async with upstream.peer, standing(channel_of(ANTHROPIC, 1, upstream.peer.port)) as rig:
        headers = ("traceparent: 00-1-2-01", "openai-beta: x", "session-id: s")
        await rig.say(asking(CHAT, REQUESTS[CHAT]("text"), "JSON", *headers))
        head = upstream.peer.requests[0].partition(b"\r\n\r\n")[0].lower()
        assert b"traceparent: 00-1-2-01" in head and b"anthropic-version: 2023-06-01" in head
        assert b"openai-beta" not in head and b"session-id" not in head


@pytest.mark.parametrize("path", ["/v1/models", "/v1beta/models"])
async def test_every_dialects_list_shows_what_translation_reaches(path: str) -> None:
    async with standing(channel_of(ANTHROPIC, 1, 9)) as rig:
        request = f"GET {path} HTTP/1.1\r\nHost: a\r\nx-goog-api-key: relay_test-key\r\n"
        answer = Answer(await rig.say(request.encode() + b"Connection: close\r\n\r\n"))
        assert MODEL in answer.body.decode()


def unpriced(snapshot: Snapshot) -> Snapshot:
    return msgspec.structs.replace(snapshot, prices={})


async def test_a_model_without_a_price_is_not_given_away_by_translation() -> None:
    upstream = Upstream(ANTHROPIC)
    async with (
        upstream.peer as peer,
        Rig(unpriced(make_snapshot([channel_of(ANTHROPIC, 1, peer.port)]))) as rig,
    ):
        answer = Answer(await rig.say(asking(CHAT, REQUESTS[CHAT]("text"), "JSON")))
        assert answer.status == 404 and upstream.peer.requests == []


async def test_only_generation_is_translated() -> None:
    async with standing(channel_of(ANTHROPIC, 1, 9)) as rig:
        body: dict[str, Any] = {"model": MODEL, "input": "x"}
        request = asking(CHAT, body, "JSON").replace(b"/v1/chat/completions", b"/v1/embeddings")
        answer = Answer(await rig.say(request))
        assert answer.status == 404 and b"nothing is translated at this endpoint" in answer.body


async def test_a_line_may_keep_to_its_own_dialects() -> None:
    upstream = Upstream(ANTHROPIC)
    async with upstream.peer as peer:
        snapshot = make_snapshot([channel_of(ANTHROPIC, 1, peer.port)])
        line = msgspec.structs.replace(snapshot.lines[1], translates=False)
        async with Rig(msgspec.structs.replace(snapshot, lines={1: line})) as rig:
            answer = Answer(await rig.say(asking(CHAT, REQUESTS[CHAT]("text"), "JSON")))
            assert answer.status == 404 and b"/v1/messages only" in answer.body
            upstream.say("JSON", BODIES[ANTHROPIC]("text"))
            asked = asking(ANTHROPIC, REQUESTS[ANTHROPIC]("text"), "JSON")
            assert Answer(await rig.say(asked)).status == 200


# --- signed thinking ------------------------------------------------------------------------------


def second_turn(client: TranslateDialect) -> Json:
    """Return the request that answers the call of the samples, call_0."""
    return REQUESTS[client]("tools")


@pytest.mark.parametrize("how", ["stream", "JSON"])
@pytest.mark.parametrize("dialect", [ANTHROPIC, GEMINI, RESPONSES], ids=lambda one: one.value)
@pytest.mark.parametrize("client", DIALECTS, ids=lambda one: one.value)
async def test_signed_thinking_comes_back_to_who_signed_it(
    client: TranslateDialect, dialect: TranslateDialect, how: str
) -> None:
    if client is dialect:
        return
    upstream = Upstream(dialect)
    signed = {ANTHROPIC: b'"signature":"c2ln"', GEMINI: b'"thoughtSignature":"c2ln"'}
    wanted = signed.get(dialect, b'"encrypted_content":"c2ln"')
    async with upstream.peer as peer, standing(channel_of(dialect, 1, peer.port)) as rig:
        thinking = REQUESTS[client]("thinking")
        upstream.say(how, (STREAMS if how == "stream" else BODIES)[dialect]("tools"))
        answer = Answer(await rig.say(asking(client, thinking, how)))
        assert answer.status == 200 and b"c2ln" not in answer.body
        read = read_stream if how == "stream" else read_body
        assert [call.id for call in read(client, answer.body).calls.values()] == ["call_0"]
        upstream.say(how, (STREAMS if how == "stream" else BODIES)[dialect]("text"))
        asked = thinking | second_turn(client)
        assert Answer(await rig.say(asking(client, asked, how))).status == 200
        assert wanted in upstream.asked.replace(b": ", b":")


# --- over a WebSocket -----------------------------------------------------------------------------


async def test_a_session_goes_on_over_a_channel_of_another_dialect() -> None:
    upstream = Upstream(ANTHROPIC)
    async with (
        upstream.peer as peer,
        standing(channel_of(ANTHROPIC, 1, peer.port)) as rig,
        session(rig) as socket,
    ):
        upstream.say("stream", STREAMS[ANTHROPIC]("tools"))
        asked = REQUESTS[RESPONSES]("tools")
        first = await turn(socket, said="Weather?", tools=asked["tools"])
        output = first[-1]["response"]["output"]
        assert [item["call_id"] for item in output if item["type"] == "function_call"] == ["call_0"]
        upstream.say("stream", STREAMS[ANTHROPIC]("text"))
        answer = {"type": "function_call_output", "call_id": "call_0", "output": "Rain 0."}
        previous = first[-1]["response"]["id"]
        second = await turn(
            socket, said=[answer], previous_response_id=previous, tools=asked["tools"]
        )
        assert second[-1]["response"]["output"][-1]["content"][0]["text"] == "Rain in Paris."
        ask = read_request(ANTHROPIC, upstream.asked)
        said = [part for turn in ask.turns for part in turn.parts]
        assert [type(part).__name__ for part in said] == ["Text", "Call", "Result"]
        ends = await rig.ended(2)
        assert [end.translated for end in ends] == ["responses>anthropic"] * 2
