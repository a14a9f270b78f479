"""Anthropic's dialect through the whole data plane: what a client gets, what is asked and charged.

The upstreams are scripted models of both dialects, and peers that say exactly what a test tells.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest

from relay.config import Config, Timeouts
from relay.mock.options import MockOptions
from relay.mock.script import digest, prose
from relay.mock.server import MockServer, start
from relay.model import Dialect, OpenAiApi, PriceDetail
from tests.flow.rig import (
    KEY,
    MODEL,
    SSE_HEAD,
    Peer,
    Rig,
    Script,
    chat,
    chunked,
    make_channel,
    make_snapshot,
    unchunked,
)

CHUNKS = 12
TEXT = "".join(prose(digest(b"hello"), CHUNKS))
FAST = Config(timeouts=Timeouts(first_byte_s=0.6, answer_s=0.6, gap_s=0.6, connect_s=1.0))
PING = b'event: ping\ndata: {"type": "ping"}\n\n'
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","type":"message",'
    b'"role":"assistant","content":[],"model":"m","stop_reason":null,"usage":{"input_tokens":20,'
    b'"cache_creation_input_tokens":30,"cache_read_input_tokens":50,"cache_creation":'
    b'{"ephemeral_5m_input_tokens":20,"ephemeral_1h_input_tokens":10},"output_tokens":1}}}   \n\n'
)
BLOCK = (
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
    b'"content_block":{"type":"text","text":""} }\n\n'
)
CLOSED = b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
DELTA = (
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},'
    b'"usage":{"output_tokens":40}}\n\n'
)
OVERLOADED = (
    b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error",'
    b'"message":"SECRET"}}\n\n'
)


def said(text: str) -> bytes:
    return (
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
        b'"delta":{"type":"text_delta","text":%b}}   \n\n' % msgspec.json.encode(text)
    )


EVENTS = [START, BLOCK, PING, said("Hel"), said("lo"), CLOSED, DELTA, STOP]


def play(*pieces: bytes, then_hang: bool = False) -> Script:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)
        if then_hang:
            await asyncio.Event().wait()

    return script


def framed(*events: bytes) -> list[bytes]:
    return [SSE_HEAD, *map(chunked, events), b"0\r\n\r\n"]


def ask(path: str = "/v1/messages", body: Any = None, *headers: str, key: str = KEY) -> bytes:
    """Return a raw POST as Anthropic's clients send it."""
    data = msgspec.json.encode({"max_tokens": 100} | chat() if body is None else body)
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: relay",
        f"x-api-key: {key}",
        "anthropic-version: 2023-06-01",
        "Content-Type: application/json",
        f"Content-Length: {len(data)}",
        "Connection: close",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def streaming(**fields: Any) -> dict[str, Any]:
    return {"max_tokens": 100} | chat(stream=True) | fields


def anthropic(number: int, port: int, **fields: Any) -> Any:
    return make_channel(number, port, protocol=Dialect.ANTHROPIC, **fields)


def texts(payload: bytes) -> str:
    """Join the text of a stream's events."""
    lines = [json.loads(line[6:]) for line in payload.split(b"\n") if line.startswith(b"data: {")]
    return "".join(line["delta"]["text"] for line in lines if line["type"] == "content_block_delta")


def read(raw: bytes) -> tuple[int, dict[str, Any]]:
    head, _, body = raw.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


@asynccontextmanager
async def standing(*fails: str, **options: Any) -> AsyncIterator[tuple[Rig, list[MockServer]]]:
    """Stand a relay before one mock of this dialect for each of `fails` ("" = healthy)."""
    async with AsyncExitStack() as stack:
        mocks: list[MockServer] = []
        for number, fail in enumerate(fails, 1):
            named: dict[str, Any] = {"api_key": f"sk-upstream-{number}", "chunks": CHUNKS} | options
            mock = await start(MockOptions(**named))
            stack.push_async_callback(mock.close)
            mock.set_fail(*filter(None, [fail]))
            mocks.append(mock)
        channels = [anthropic(n, mock.port, tier=n) for n, mock in enumerate(mocks, 1)]
        rig = await stack.enter_async_context(Rig(make_snapshot(channels), FAST))
        yield rig, mocks


async def test_a_stream_passes_byte_exact_and_is_metered() -> None:
    async with (
        Peer(play(*framed(*EVENTS))) as peer,
        Rig(make_snapshot([anthropic(1, peer.port)])) as rig,
    ):
        head, payload = unchunked(await rig.say(ask(body=streaming())))
        assert payload == b"".join(EVENTS)
        assert b"request-id: req_" in head
        (end,) = await rig.ended()
        # 20 are new, 30 were written to a cache (10 for an hour), 50 came from one.
        assert (end.input_tokens, end.cached_tokens, end.cache_write_tokens) == (100, 50, 30)
        assert (end.output_tokens, end.estimated, end.endpoint) == (40, False, "messages")
        # 50 x 1 + 50 x 0.5 + 40 x 2 = 155 micro-dollars, x 0.5
        assert end.cost_nanos == 77_500


async def test_what_is_written_to_a_cache_costs_by_how_long_it_is_kept() -> None:
    async with Peer(play(*framed(*EVENTS))) as peer:
        snapshot = make_snapshot([anthropic(1, peer.port)])
        price = msgspec.structs.replace(
            snapshot.prices[MODEL],
            cache_write=1_250_000_000,
            detail=PriceDetail(cache_write_1h=2_000_000_000),
        )
        async with Rig(msgspec.structs.replace(snapshot, prices={MODEL: price})) as rig:
            await rig.say(ask(body=streaming()))
            (end,) = await rig.ended()
            # 20 x 1 + 20 x 1.25 + 10 x 2 + 50 x 0.5 + 40 x 2 = 170 micro-dollars, x 0.5
            assert end.cost_nanos == 85_000


async def test_what_the_upstream_is_asked() -> None:
    betas = ["anthropic-beta: one-2025-01-01,two-2025-02-02", "anthropic-beta: three-2025-03-03"]
    async with (
        Peer(play(*framed(*EVENTS))) as peer,
        Rig(make_snapshot([anthropic(1, peer.port)])) as rig,
    ):
        question = ask(
            "/v1/messages?beta=true&key=SECRET", streaming(), *betas, "X-Mine: 1", "Cookie: c"
        )
        assert b"message_stop" in await rig.say(question)
        (request,) = peer.requests
        head, _, body = request.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        assert lines[0] == b"POST /v1/messages?beta=true HTTP/1.1"
        assert b"x-api-key: sk-upstream-1" in lines
        assert b"anthropic-version: 2023-06-01" in lines
        assert b"anthropic-beta: one-2025-01-01,two-2025-02-02,three-2025-03-03" in lines
        for alien in (b"uthorization", b"X-Mine", b"Cookie", b"SECRET", KEY.encode()):
            assert alien not in head
        assert json.loads(body) == streaming(model=f"up-{MODEL}")


@pytest.mark.parametrize("root", ["", "/", "/v1", "/v1/"])
async def test_a_channel_s_address_is_taken_with_and_without_v1(root: str) -> None:
    async with Peer(play(*framed(*EVENTS))) as peer:
        channel = anthropic(1, peer.port, base_url=f"http://127.0.0.1:{peer.port}/anthropic{root}")
        async with Rig(make_snapshot([channel])) as rig:
            question = ask(body=streaming()).replace(b"anthropic-version: 2023-06-01\r\n", b"")
            await rig.say(question)
        assert peer.requests[0].startswith(b"POST /anthropic/v1/messages HTTP/1.1\r\n")
        assert b"anthropic-version: 2023-06-01\r\n" in peer.requests[0]


async def test_a_head_that_comes_again_is_forwarded_again() -> None:
    async with standing("") as (rig, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        question = ask("/v1/messages?beta=true").replace(b"Connection: close\r\n", b"")
        for _ in range(3):
            writer.write(question)
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            assert json.loads(await reader.readexactly(size))["content"][0]["text"] == TEXT
        writer.close()
        assert {end.status for end in await rig.ended(3)} == {200}


@pytest.mark.parametrize(
    "header",
    ["anthropic-version: 2023 06 01", "anthropic-version: \x00x", "anthropic-beta: a\x01b"],
)
async def test_a_malformed_header_is_not_passed_on(header: str) -> None:
    async with standing("") as (rig, mocks):
        question = ask().replace(b"anthropic-version: 2023-06-01\r\n", b"")
        raw = await rig.say(question.replace(b"Host:", header.encode() + b"\r\nHost:"))
        assert raw.startswith(b"HTTP/1.1 400 ")
        assert not mocks[0].served


BEFORE = [
    *("refuse", "hang", "rst-before-head", "rst-after-head", "garbage", "gzip", "waf"),
    *("error-first", "empty-stream", "json-for-sse", "html-for-sse", "retry-after:9"),
    *("status:429", "status:500", "status:529", "status:401", "status:403", "status:404"),
    *("stall-after:0", "cut-after:0", "cut-after:2", "stall-after:3", "error-after:3"),
]


@pytest.mark.parametrize("fail", BEFORE)
async def test_a_channel_that_dies_before_its_first_output_is_never_seen(fail: str) -> None:
    async with standing(fail, "") as (rig, mocks):
        _, payload = unchunked(await rig.say(ask(body=streaming())))
        assert texts(payload) == TEXT
        assert payload.count(b"event: message_start") == 1
        assert payload.endswith(STOP)
        (end,) = await rig.ended()
        assert (end.reason, end.channel_id, end.attempts) == ("completed", 2, 2)
        served = mocks[1].served[-1]
        assert (end.input_tokens, end.output_tokens) == (
            served.prompt_tokens,
            served.completion_tokens,
        )


AFTER = [
    *("rst-after:6", "cut-after:6", "mid-frame:6", "mid-event:6", "stall-after:6"),
    *("error-after:6", "end-after:6", "no-done", "finish-then-rst"),
]


@pytest.mark.parametrize("fail", AFTER)
async def test_a_stream_that_breaks_is_told_honestly(fail: str) -> None:
    async with standing(fail, "") as (rig, mocks):
        _, payload = unchunked(await rig.say(ask(body=streaming())))
        assert texts(payload) and TEXT.startswith(texts(payload))
        *_, last = payload.removesuffix(b"\n\n").split(b"\n\n")
        kinds = {"stall-after:6": b"timeout_error", "error-after:6": b"overloaded_error"}
        kind = kinds.get(fail, b"api_error")
        opening = b'event: error\ndata: {"type":"error","error":{"type":"%b"' % kind
        assert last.startswith(opening)
        assert b"message_stop" not in payload
        (end,) = await rig.ended()
        assert (end.status, end.reason, end.channel_id) == (200, "truncated", 1)
        # Its first event told the input; what came of the output is counted.
        assert end.input_tokens == mocks[0].served[0].prompt_tokens
        assert end.estimated and 0 < end.output_tokens < 3 * CHUNKS + 8
        assert not mocks[1].served


async def test_an_error_in_the_middle_is_told_in_our_words() -> None:
    pieces = framed(*EVENTS[:4], said("lo") + OVERLOADED)
    async with (
        Peer(play(*pieces)) as peer,
        Rig(make_snapshot([anthropic(1, peer.port)])) as rig,
    ):
        _, payload = unchunked(await rig.say(ask(body=streaming())))
        assert payload.startswith(b"".join(EVENTS[:5]) + b"event: error\n")
        assert b"SECRET" not in payload


async def test_a_silence_is_filled_with_pings() -> None:
    async with Peer(play(SSE_HEAD, chunked(START), then_hang=True)) as silent:
        timeouts = Timeouts(keepalive_comment_s=0.3, first_byte_s=1.2)
        async with standing("") as (_, (mock,)):
            channels = [anthropic(2, silent.port), anthropic(1, mock.port, tier=1)]
            async with Rig(make_snapshot(channels), Config(timeouts=timeouts)) as rig:
                _, payload = unchunked(await rig.say(ask(body=streaming())))
        assert payload.startswith(PING)
        assert payload.replace(PING, b"").startswith(b"event: message_start\n")
        assert texts(payload) == TEXT


async def test_plain_answers_and_their_caches_are_metered() -> None:
    async with standing("", cached_tokens=8) as (rig, mocks):
        status, answer = read(await rig.say(ask(body=streaming(stream=False, system="x" * 100))))
        assert (status, answer["content"]) == (200, [{"type": "text", "text": TEXT}])
        (end,) = await rig.ended()
        served = mocks[0].served[0]
        assert end.input_tokens == served.prompt_tokens == 27
        assert (end.cached_tokens, end.cache_write_tokens) == (8, 4)
        assert (end.output_tokens, end.estimated) == (CHUNKS, False)


async def test_counting_tokens_needs_a_channel_and_costs_nothing() -> None:
    async with standing("status:500", "") as (rig, mocks):
        raw = await rig.say(ask("/v1/messages/count_tokens", chat()))
        assert read(raw) == (200, {"input_tokens": 2})
        (end,) = await rig.ended()
        assert mocks[1].served[0].endpoint == end.endpoint == "messages/count_tokens"
        assert (end.input_tokens, end.output_tokens, end.cost_nanos, end.price_id) == (0, 0, 0, 0)
        assert rig.journal.starts[0].input_estimate == 0
        assert not rig.server.counters.tokens["input"]


@pytest.mark.parametrize("path", ["/messages", "/v1/messages", "/v1/v1/messages"])
@pytest.mark.parametrize("header", [f"x-api-key: {KEY}", f"Authorization: Bearer {KEY}"])
async def test_base_url_slips_and_both_forms_of_a_key(path: str, header: str) -> None:
    async with standing("") as (rig, _):
        question = ask(path).replace(f"x-api-key: {KEY}".encode(), header.encode())
        assert read(await rig.say(question))[0] == 200


async def test_of_two_keys_the_one_of_ours_is_meant() -> None:
    async with standing("") as (rig, _):
        raw = await rig.say(ask("/v1/messages", None, "Authorization: Bearer sk-ant-oat01-other"))
        assert read(raw)[0] == 200


async def test_a_channel_of_the_clients_dialect_is_asked_where_one_is_well() -> None:
    both, mine = "shared-model", "own-model"
    async with AsyncExitStack() as stack:
        mocks = [await start(MockOptions(chunks=CHUNKS)) for _ in range(2)]
        for mock in mocks:
            stack.push_async_callback(mock.close)
        channels = [
            make_channel(
                1, mocks[0].port, models={both: both, mine: mine}, openai_api=OpenAiApi.CHAT
            ),
            anthropic(2, mocks[1].port, models={both: both}, tier=1),
        ]
        rig = await stack.enter_async_context(Rig(make_snapshot(channels), FAST))
        for path, model, status in [
            ("/v1/messages", both, 200),
            ("/v1/chat/completions", both, 200),
            ("/v1/messages", mine, 200),
            ("/v1/messages/count_tokens", mine, 404),
            ("/v1/chat/completions", mine, 200),
        ]:
            raw = await rig.say(ask(path, streaming(stream=False, model=model)))
            found, answer = read(raw)
            assert found == status
            if status == 404:
                assert answer["error"]["type"] == "not_found_error"
                assert "/v1/chat/completions only" in answer["error"]["message"]
        assert {call.endpoint for call in mocks[0].served} == {"chat/completions"}
        assert {call.endpoint for call in mocks[1].served} == {"messages"}
        ways = [(end.channel_id, end.translated) for end in await rig.ended(5)]
        assert ways == [(2, ""), (1, ""), (1, "anthropic>openai"), (0, ""), (1, "")]
        mocks[1].set_fail("status:500")
        assert read(await rig.say(ask(body=streaming(stream=False, model=both))))[0] == 200
        end = (await rig.ended(6))[-1]
        assert (end.channel_id, end.translated, end.attempts) == (1, "anthropic>openai", 2)


@pytest.mark.parametrize(
    ("path", "headers", "ids"),
    [
        ("/v1/models", ["anthropic-version: 2023-06-01"], ["a", "b", "c"]),
        ("/v1/models?limit=1000", ["anthropic-version: 2023-06-01"], ["a", "b", "c"]),
        ("/models", ["anthropic-version: 2023-06-01"], ["a", "b", "c"]),
        ("/v1/v1/models", [], ["a", "b", "c"]),
        ("/v1/models?limit=1000", [], ["a", "b", "c"]),
    ],
)
async def test_models_are_listed_in_the_dialect_they_are_asked_for(
    path: str, headers: list[str], ids: list[str]
) -> None:
    channels = [
        make_channel(1, 1, models={"b": "b", "c": "c"}),
        anthropic(2, 1, models={"b": "b", "a": "a"}),
    ]
    async with Rig(make_snapshot(channels)) as rig:
        lines = [f"GET {path} HTTP/1.1", "Host: r", f"x-api-key: {KEY}", "Connection: close"]
        status, found = read(await rig.say("\r\n".join([*lines, *headers, "", ""]).encode()))
        assert (status, [row["id"] for row in found["data"]]) == (200, ids)
        if headers:
            assert (found["has_more"], found["first_id"], found["last_id"]) == (False, "a", "c")
            assert {row["type"] for row in found["data"]} == {"model"}
        else:
            assert found["object"] == "list"


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/v1/message", "/v1/messages"),
        ("/v1/messages/", "/v1/messages"),
        ("/api/anthropic/v1/messages", "/v1/messages"),
        ("/v1/v1/v1/messages/count_tokens", "/v1/messages/count_tokens"),
        ("/openai/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/model", "/v1/models"),
        ("/SECRET-" + "x" * 2000, "/v1/messages"),
    ],
)
async def test_a_wrong_path_is_told_what_was_meant(path: str, named: str) -> None:
    async with standing("") as (rig, _):
        status, answer = read(await rig.say(ask(path)))
        assert (status, answer["type"]) == (404, "error")
        assert named in answer["error"]["message"]
        assert "SECRET" not in answer["error"]["message"]
