"""Goal: a channel that speaks Gemini's dialect is served natively, byte for byte.

Method: what the google-genai clients send, and answers as the provider was recorded to give them,
in pieces that are cut at random.
"""

import asyncio
import json
import random
from typing import Any

import msgspec
import pytest

from relay.model import Dialect, PriceDetail, Snapshot
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
from tests.recorded import recorded_streams

SEED = 20_261_130
STREAMS = {path.stem: path.read_bytes() for path in recorded_streams("gemini")}
ANSWER = (
    b'{\n  "candidates": [{"content": {"parts": [{"text": "Hi"}],"role": "model"},'
    b'"finishReason": "STOP"}],\n  "usageMetadata": {"promptTokenCount": 9,'
    b'"candidatesTokenCount": 2,"thoughtsTokenCount": 5,"toolUsePromptTokenCount": 3,'
    b'"cachedContentTokenCount": 4,"totalTokenCount": 19}\n}\n'
)
CONTENTS: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}
KEYED = f"x-goog-api-key: {KEY}"


def ask(verb: str, body: Any, *headers: str, query: str = "", version: str = "/v1beta") -> bytes:
    data = json.dumps(body).encode()
    lines = [
        f"POST {version}/models/{MODEL}:{verb}{query} HTTP/1.1",
        "Host: relay",
        "Content-Type: application/json",
        f"Content-Length: {len(data)}",
        "Connection: close",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join(
        (f"GET {path} HTTP/1.1", "Host: a", "Connection: close", *headers, "", "")
    ).encode()


def standing(*peers: Peer) -> Rig:
    return Rig(
        make_snapshot(
            [
                make_channel(
                    n,
                    p.port,
                    tier=n,
                    protocol=Dialect.GEMINI,
                    base_url=f"http://127.0.0.1:{p.port}",
                )
                for n, p in enumerate(peers, 1)
            ]
        )
    )


def saying(body: bytes, status: int = 200) -> Any:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 %d X\r\nContent-Type: application/json; charset=UTF-8\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (status, len(body), body)
        )
        await writer.drain()

    return script


def streaming(body: bytes, dice: random.Random, *, whole: bool = True) -> Any:
    """Return a script that sends `body` in chunks that begin anywhere."""
    cuts = sorted(dice.sample(range(1, len(body)), min(12, len(body) - 1)))
    pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD)
        for piece in pieces:
            writer.write(chunked(piece))
            await writer.drain()
            await asyncio.sleep(0)
        if whole:
            writer.write(b"0\r\n\r\n")
            await writer.drain()

    return script


@pytest.mark.parametrize("version", ["/v1beta", "/v1", "/v1alpha", "/v1beta/v1beta", ""])
async def test_an_answer_goes_through_and_is_counted(version: str) -> None:
    async with Peer(saying(ANSWER)) as peer, standing(peer) as rig:
        raw = await rig.say(ask("generateContent", CONTENTS, KEYED, version=version))
        head, _, body = raw.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ") and body == ANSWER
        (request,) = peer.requests
        assert request.startswith(f"POST /v1beta/models/up-{MODEL}:generateContent HTTP".encode())
        assert b"\r\nx-goog-api-key: sk-upstream-1\r\n" in request
        assert KEY.encode() not in request
        (end,) = await rig.ended()
        assert (end.input_tokens, end.cached_tokens) == (12, 4)
        assert (end.output_tokens, end.reasoning_tokens, end.estimated) == (7, 5, False)
        assert (end.endpoint, end.model) == ("models:generateContent", MODEL)


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("seed", range(3))
async def test_recorded_streams_go_through_however_they_are_cut(name: str, seed: int) -> None:
    body = STREAMS[name]
    script = streaming(body, random.Random(SEED + seed))
    async with Peer(script) as peer, standing(peer) as rig:
        raw = await rig.say(ask("streamGenerateContent", CONTENTS, KEYED, query="?alt=sse"))
        head, payload = unchunked(raw)
        assert b"text/event-stream" in head and payload == body
        assert b":streamGenerateContent?alt=sse HTTP" in peer.requests[0]
        (end,) = await rig.ended()
        assert end.reason == "completed" and end.stream and not end.estimated
        said = json.loads(body.strip().rpartition(b"data: ")[2])["usageMetadata"]
        thoughts = said.get("thoughtsTokenCount", 0)
        assert end.input_tokens == said["promptTokenCount"]
        assert end.output_tokens == said.get("candidatesTokenCount", 0) + thoughts


async def test_a_stream_that_breaks_off_ends_in_an_error_its_clients_raise_on() -> None:
    body = STREAMS["vertex-gemini-4"]
    first = body[: body.index(b"\r\n\r\n") + 4]
    async with (
        Peer(streaming(first + b'data: {"cand', random.Random(1), whole=False)) as peer,
        standing(peer) as rig,
    ):
        raw = await rig.say(ask("streamGenerateContent", CONTENTS, KEYED, query="?alt=sse"))
        _, payload = unchunked(raw)
        assert payload.startswith(first)
        told = payload[len(first) :]
        assert told.startswith(b'data: {"error":{"code":502')
        (end,) = await rig.ended()
        assert end.reason == "truncated"


async def test_a_blocked_prompt_is_whole_and_nobodys_fault() -> None:
    body = b'data: {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}\r\n\r\n'
    async with Peer(streaming(body, random.Random(1))) as peer, standing(peer) as rig:
        raw = await rig.say(ask("streamGenerateContent", CONTENTS, KEYED, query="?alt=sse"))
        assert unchunked(raw)[1] == body
        assert (await rig.ended())[0].reason == "completed"


async def test_a_stream_without_events_is_a_list() -> None:
    body = b"[" + ANSWER.strip() + b"\n,\r\n" + ANSWER.strip() + b"\n]\n"
    async with Peer(saying(body)) as peer, standing(peer) as rig:
        raw = await rig.say(ask("streamGenerateContent", CONTENTS, KEYED))
        assert raw.endswith(b"\r\n\r\n" + body)
        assert b":streamGenerateContent HTTP" in peer.requests[0]
        (end,) = await rig.ended()
        assert (end.input_tokens, end.output_tokens, end.stream) == (12, 7, False)


async def test_a_key_in_the_query_is_taken_and_goes_nowhere(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Peer(saying(ANSWER)) as peer, standing(peer) as rig:
        query = f"?key={KEY}&alt=json"
        raw = await rig.say(ask("generateContent", CONTENTS, query=query))
        assert raw.startswith(b"HTTP/1.1 200 ")
        assert KEY.encode() not in peer.requests[0] + raw
        assert KEY not in caplog.text + repr(rig.journal.ends) + repr(rig.journal.starts)


@pytest.mark.parametrize(
    ("verb", "body", "sent"),
    [
        ("countTokens", CONTENTS, CONTENTS),
        (
            "countTokens",
            {"generateContentRequest": {"model": f"models/{MODEL}", **CONTENTS}},
            {"generateContentRequest": {"model": f"models/up-{MODEL}", **CONTENTS}},
        ),
        (
            "embedContent",
            {"model": f"models/{MODEL}", "content": {}},
            {"model": f"models/up-{MODEL}", "content": {}},
        ),
        (
            "batchEmbedContents",
            {"requests": [{"model": f"models/{MODEL}", "content": {"parts": []}}, {"content": {}}]},
            {
                "requests": [
                    {"model": f"models/up-{MODEL}", "content": {"parts": []}},
                    {"content": {}},
                ]
            },
        ),
    ],
)
async def test_other_methods_name_the_upstreams_model(verb: str, body: Any, sent: Any) -> None:
    async with Peer(saying(b'{"totalTokens": 3}')) as peer, standing(peer) as rig:
        raw = await rig.say(ask(verb, body, KEYED))
        assert raw.endswith(b'{"totalTokens": 3}')
        (request,) = peer.requests
        assert f"/models/up-{MODEL}:{verb} HTTP".encode() in request
        assert json.loads(request.partition(b"\r\n\r\n")[2]) == sent
        (end,) = await rig.ended()
        assert (end.cost_nanos == 0) is (verb == "countTokens")


@pytest.mark.parametrize("config", ["generationConfig", "generation_config"])
@pytest.mark.parametrize("bound", ["maxOutputTokens", "max_output_tokens"])
async def test_bad_bounds_are_refused_in_either_spelling(config: str, bound: str) -> None:
    async with Peer(saying(ANSWER)) as peer, standing(peer) as rig:
        for value in (-1, "many", 2**40):
            body = CONTENTS | {config: {bound: value}}
            raw = await rig.say(ask("generateContent", body, KEYED))
            assert raw.startswith(b"HTTP/1.1 400 ")
            error = json.loads(raw.partition(b"\r\n\r\n")[2])["error"]
            assert (error["code"], error["status"]) == (400, "INVALID_ARGUMENT")
        assert not peer.requests


async def test_models_are_listed_as_its_clients_read_them() -> None:
    async with Peer(saying(ANSWER)) as peer, standing(peer) as rig:
        for path, header in (
            ("/v1beta/models?pageSize=50", KEYED),
            (f"/v1beta/models?key={KEY}", "A: b"),
        ):
            listed = json.loads((await rig.say(get(path, header))).partition(b"\r\n\r\n")[2])
            assert [model["name"] for model in listed["models"]] == [f"models/{MODEL}"]
        one = json.loads(
            (await rig.say(get(f"/v1beta/models/{MODEL}", KEYED))).partition(b"\r\n\r\n")[2]
        )
        assert one["name"] == f"models/{MODEL}"


@pytest.mark.parametrize(
    ("raw", "status", "said"),
    [
        (ask("generateContent", CONTENTS), 401, "UNAUTHENTICATED"),
        (ask("generateContent", CONTENTS, "x-goog-api-key: relay_no"), 401, "UNAUTHENTICATED"),
        (get("/v1beta/models/none", KEYED), 404, "NOT_FOUND"),
        (get("/v1beta/nothing", KEYED), 404, "NOT_FOUND"),
        (get(f"/v1beta/models/{MODEL}:generateContent", KEYED), 405, "UNIMPLEMENTED"),
        (ask("generateContent", [1], KEYED), 400, "INVALID_ARGUMENT"),
    ],
)
async def test_errors_are_in_its_shape(raw: bytes, status: int, said: str) -> None:
    async with Peer(saying(ANSWER)) as peer, standing(peer) as rig:
        answer = await rig.say(raw)
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
        assert (error["code"], error["status"]) == (status, said)
        assert not peer.requests


async def test_an_overloaded_channel_is_left_for_another() -> None:
    busy = b'{"error":{"code":503,"message":"The model is overloaded.","status":"UNAVAILABLE"}}'
    async with (
        Peer(saying(busy, 503)) as first,
        Peer(saying(ANSWER)) as second,
        standing(first, second) as rig,
    ):
        raw = await rig.say(ask("generateContent", CONTENTS, KEYED))
        assert raw.endswith(ANSWER) and len(first.requests) == 1


def untranslated(snapshot: Snapshot) -> Snapshot:
    """Return a catalog whose line serves calls of its channels' own dialects only."""
    line = msgspec.structs.replace(snapshot.lines[1], translates=False)
    return msgspec.structs.replace(snapshot, lines={1: line})


async def test_a_model_of_another_dialect_is_pointed_to() -> None:
    async with (
        Peer(saying(ANSWER)) as peer,
        Rig(untranslated(make_snapshot([make_channel(1, peer.port)]))) as rig,
    ):
        raw = await rig.say(ask("embedContent", CONTENTS, KEYED))
        assert b"/v1/chat/completions only" in raw and raw.startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize("per_search", [None, 14_000_000])
async def test_a_search_that_grounds_an_answer_is_refused_or_charged(
    per_search: int | None,
) -> None:
    grounding = b'"groundingMetadata": {"webSearchQueries": ["who?", "when?"]},"finishReason"'
    answer = ANSWER.replace(b'"finishReason"', grounding)
    body = CONTENTS | {"tools": [{"googleSearch": {}}]}
    async with Peer(saying(answer)) as peer, standing(peer) as rig:
        detail = None if per_search is None else PriceDetail(per_search=per_search)
        prices = {
            name: msgspec.structs.replace(price, detail=detail)
            for name, price in rig.snapshot.prices.items()
        }
        rig.server.swap(msgspec.structs.replace(rig.snapshot, prices=prices))
        raw = await rig.say(ask("generateContent", body, KEYED))
        (end,) = await rig.ended()
        if per_search is None:
            assert raw.startswith(b"HTTP/1.1 400") and b"tools.web_search" in raw
            assert not peer.requests and end.cost_nanos == 0
        else:
            assert raw.startswith(b"HTTP/1.1 200") and raw.endswith(answer)
            assert end.extras is not None and end.extras.searches == 2
            tokens = 8 * 1_000 + 4 * 500 + 7 * 2_000
            assert end.cost_nanos == (tokens + 2 * per_search) // 2  # the group pays half
