"""What a stranger can get wrong, over real sockets: a clear answer, nothing echoed, no harm."""

import asyncio
import json
from typing import Any

import msgspec
import pytest

from relay.config import Config, Server, Timeouts
from tests.flow.rig import (
    KEY,
    MODEL,
    Peer,
    Rig,
    chat,
    make_channel,
    make_snapshot,
    post,
)

CANARY = "CANARY7f3a"
ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "up",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 4, "completion_tokens": 1, "total_tokens": 5},
}


async def answer_json(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    body = msgspec.json.encode(ANSWER)
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
        b"Set-Cookie: a=b\r\nopenai-organization: org-secret\r\nServer: x\r\n\r\n%b"
        % (len(body), body)
    )
    await writer.drain()


def read(raw: bytes) -> tuple[int, dict[str, str], dict[str, Any]]:
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    return int(lines[0].split()[1]), headers, json.loads(body)


def get(path: str, *headers: str, method: str = "GET") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: relay", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


AUTH = f"Authorization: Bearer {KEY}"
CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (post(CHAT, b'{"model": "' + CANARY.encode()), 400, None),
        (post(CHAT, b"[1]"), 400, None),
        (post(CHAT, b""), 400, None),
        (post(CHAT, b'{"model":"\xff"}'), 400, None),
        (post(CHAT, b'{"a":' * 50_000), 400, None),
        (post(CHAT, {"messages": []}), 400, None),
        (post(CHAT, {"model": 5}), 400, None),
        (post(CHAT, {"model": ""}), 400, None),
        (post(CHAT, chat(stream=CANARY)), 400, None),
        (post(CHAT, chat(max_tokens="9")), 400, None),
        (post(CHAT, chat(n=0)), 400, None),
        (post(CHAT, chat(), key=CANARY), 401, "invalid_api_key"),
        (post(CHAT, chat(), key=CANARY * 100), 401, "invalid_api_key"),
        (get("/v1/models"), 401, "invalid_api_key"),
        (get("/v1/models", f"Authorization: Basic {CANARY}"), 401, "invalid_api_key"),
        (post(CHAT, {"model": CANARY}), 404, "model_not_found"),
        (get(f"/v1/models/{CANARY}", AUTH), 404, "model_not_found"),
        (get(f"/{CANARY}"), 404, "not_found"),
        (get("/v1/%63hat/completions"), 404, "not_found"),
        (get("/v1//chat/completions"), 404, "not_found"),
        (get(CHAT, AUTH), 405, "method_not_allowed"),
        (get("/v1/models", AUTH, method="DELETE"), 405, "method_not_allowed"),
        (get("/", method="TRACE"), 405, "method_not_allowed"),
        (post(CHAT, b"x" * 5000), 413, "request_too_large"),
        (post(CHAT, b"a=b", "Content-Type: text/plain"), 400, None),
        (post("/v1/audio/transcriptions", b"{}"), 415, "unsupported_media_type"),
        (post(CHAT, chat(), "Content-Encoding: gzip"), 400, None),
        (post(CHAT, chat(), "Content-Encoding: gzip, gzip"), 415, "unsupported_media_type"),
        (post(CHAT, chat(), "Content-Encoding: compress"), 415, "unsupported_media_type"),
        (get("/", "Transfer-Encoding: gzip, chunked"), 501, "not_implemented"),
        (get("/", "Connection: Upgrade", "Upgrade: websocket"), 426, "upgrade_required"),
        (get("/" + "y" * 9000), 414, "uri_too_long"),
        (get("/", *["x: y"] * 200), 431, "request_header_fields_too_large"),
        (b"GET / HTTP/1.1\r\nHost: a@b/c\r\nConnection: close\r\n\r\n", 400, None),
        (b"GET / HTTP/2.0\r\nHost: a\r\nConnection: close\r\n\r\n", 400, None),
        (b"\x16\x03\x01\x02\x00" + CANARY.encode() + b"\r\n\r\n", 400, None),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            400,
            None,
        ),
        (get("/", "Content-Length: 1", "Transfer-Encoding: chunked"), 400, None),
        (get("/", "Cookie: " + "y" * 40_000), 431, "request_header_fields_too_large"),
        (get("/", *["x: " + "y" * 9000] * 12), 431, "request_header_fields_too_large"),
    ],
)
async def test_a_wrong_request_gets_a_clear_answer(
    raw: bytes, status: int, code: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        Peer(answer_json) as peer,
        Rig(
            make_snapshot([make_channel(1, peer.port)]),
            Config(server=Server(body_bytes_max=300_000 if b'"a":' in raw else 4096)),
        ) as rig,
    ):
        answer = await rig.say(raw)
        got, headers, body = read(answer)
        assert got == status
        assert headers["content-type"] == "application/json"
        assert headers["x-request-id"] == headers["request-id"] == body["error"]["request_id"]
        assert body["error"]["message"] and body["error"]["type"]
        assert body["error"]["code"] == code
        assert headers.get("x-should-retry") == "false"
        assert CANARY not in answer.decode()
        assert CANARY not in caplog.text
        assert not peer.requests
        # and the next client is served
        assert read(await rig.say(post(CHAT, chat())))[0] == 200


@pytest.mark.parametrize(
    ("fields", "status", "word"),
    [
        ({"disabled": True}, 401, "disabled"),
        ({"expires_at_s": 1}, 401, "expired"),
        ({"models": frozenset({"other"})}, 403, "model"),
        ({"networks": ()}, 403, "address"),
        ({"quota_nanos": 10, "spent_nanos": 10}, 429, "quota"),
    ],
)
async def test_a_key_without_the_right(fields: dict[str, Any], status: int, word: str) -> None:
    async with (
        Peer(answer_json) as peer,
        Rig(make_snapshot([make_channel(1, peer.port)], **fields)) as rig,
    ):
        got, headers, body = read(await rig.say(post(CHAT, chat())))
        assert got == status
        assert word in body["error"]["message"]
        assert headers["x-should-retry"] == "false"
        (end,) = await rig.ended()
        assert (end.status, end.reason, end.cost_nanos) == (status, "rejected", 0)
        assert not peer.requests


async def test_a_plain_call_is_answered_metered_and_kept_alive() -> None:
    async with (
        Peer(answer_json) as peer,
        Rig(make_snapshot([make_channel(1, peer.port)])) as rig,
    ):
        for path in (CHAT, "/chat/completions", "/v1/v1/chat/completions", CHAT + "?a=b"):
            got, headers, body = read(await rig.say(post(path, chat())))
            assert (got, body) == (200, ANSWER)
            assert set(headers) == {
                *("content-type", "content-length", "x-request-id", "request-id", "connection"),
                "date",
                "x-relay-line",
            }
        (end, *_) = await rig.ended(4)
        assert (end.input_tokens, end.output_tokens, end.endpoint) == (4, 1, "chat/completions")


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with (
        Peer(answer_json) as peer,
        Rig(make_snapshot([make_channel(1, peer.port)])) as rig,
    ):
        raw = get("/v1/models", AUTH).replace(b"Connection: close\r\n", b"")
        answer = await rig.say(raw * 3 + get("/v1/models", AUTH))
        assert answer.count(b"HTTP/1.1 200 OK") == 4
        assert answer.count(b'"id":"' + MODEL.encode()) == 4


async def test_models_and_greetings() -> None:
    async with Rig(make_snapshot([make_channel(1, 1)])) as rig:
        _, _, body = read(await rig.say(get("/v1/models", AUTH)))
        assert [model["id"] for model in body["data"]] == [MODEL]
        _, _, body = read(await rig.say(get(f"/v1/models/{MODEL}", AUTH)))
        assert body["id"] == MODEL and body["object"] == "model"
        assert (await rig.say(get("/", method="HEAD"))).startswith(b"HTTP/1.1 200 OK")


async def test_expect_continue_is_answered_before_the_body() -> None:
    async with (
        Peer(answer_json) as peer,
        Rig(make_snapshot([make_channel(1, peer.port)])) as rig,
    ):
        raw = post(CHAT, chat(), "Expect: 100-continue")
        head, _, body = raw.partition(b"\r\n\r\n")
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(head + b"\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")
        writer.close()


@pytest.mark.parametrize(
    "raw",
    [b"", b"POST /v1/chat", post(CHAT, chat())[:-5]],
    ids=["silent", "half a head", "half a body"],
)
async def test_a_client_that_dawdles_is_cut(raw: bytes) -> None:
    timeouts = Timeouts(head_s=0.5, body_s=0.5, idle_s=0.5)
    async with (
        Peer(answer_json) as peer,
        Rig(make_snapshot([make_channel(1, peer.port)]), Config(timeouts=timeouts)) as rig,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(raw)
        async with asyncio.timeout(5):
            try:
                answer = await reader.read()
            except ConnectionResetError:
                answer = b""
        writer.close()
        if raw.startswith(b"POST /v1/chat/"):
            assert answer.startswith(b"HTTP/1.1 408 ")
        else:
            assert answer == b""


async def test_http_1_0_gets_a_body_that_ends_with_the_connection() -> None:
    async with (
        Peer(answer_json) as peer,
        Rig(make_snapshot([make_channel(1, peer.port)])) as rig,
    ):
        raw = post(CHAT, chat()).replace(b"HTTP/1.1", b"HTTP/1.0", 1)
        got, headers, body = read(await rig.say(raw))
        assert (got, body) == (200, ANSWER)
        assert headers["connection"] == "close"


async def test_an_unhealthy_journal_refuses_new_calls() -> None:
    async with (
        Peer(answer_json) as peer,
        Rig(make_snapshot([make_channel(1, peer.port)])) as rig,
    ):
        rig.journal.healthy = False
        got, headers, _ = read(await rig.say(post(CHAT, chat())))
        assert got == 503
        assert int(headers["retry-after-ms"]) > 0
        assert not peer.requests


async def test_no_channel_left_says_when_to_come_back_or_not_to() -> None:
    async def limited(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 429 Slow\r\nRetry-After: 3\r\nContent-Length: 22\r\n\r\n"
            b'{"error":"' + CANARY.encode() + b'"}'
        )

    async with Peer(limited) as peer, Rig(make_snapshot([make_channel(1, peer.port)])) as rig:
        answer = await rig.say(post(CHAT, chat()))
        got, headers, body = read(answer)
        assert got == 429
        assert 3000 <= int(headers["retry-after-ms"]) <= 4000
        assert CANARY not in answer.decode()
    async with Rig(make_snapshot([make_channel(1, 1)])) as rig:
        got, headers, body = read(await rig.say(post(CHAT, chat())))
        assert (got, headers["x-should-retry"]) == (502, "false")
        assert body["error"]["code"] == "upstream_unreachable"
        (end,) = await rig.ended()
        assert (end.reason, end.cost_nanos, end.attempts) == ("upstream_failed", 0, 1)


async def test_a_large_body_passes_with_its_length_and_is_metered() -> None:
    vectors = {
        "object": "list",
        "data": [{"embedding": [0.25] * 100_000}],
        "usage": {"prompt_tokens": 6, "total_tokens": 6},
    }
    body = msgspec.json.encode(vectors)

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            % len(body)
        )
        writer.write(body)
        await writer.drain()

    async with Peer(answer) as peer, Rig(make_snapshot([make_channel(1, peer.port)])) as rig:
        got, headers, found = read(
            await rig.say(post("/v1/embeddings", {"model": MODEL, "input": "x"}))
        )
        assert (got, found) == (200, vectors)
        assert headers["content-length"] == str(len(body))
        (end,) = await rig.ended()
        assert (end.input_tokens, end.output_tokens, end.estimated) == (6, 0, False)


async def test_a_plain_body_that_is_cut_short_is_asked_of_another_channel() -> None:
    async def cut(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
        )

    async with (
        Peer(cut) as bad,
        Peer(answer_json) as good,
        Rig(make_snapshot([make_channel(1, bad.port), make_channel(2, good.port, tier=1)])) as rig,
    ):
        got, _, body = read(await rig.say(post(CHAT, chat())))
        assert (got, body) == (200, ANSWER)


async def test_a_stale_kept_alive_connection_is_not_held_against_the_channel() -> None:
    answered = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal answered
        answered += 1
        await answer_json(reader, writer)
        await asyncio.sleep(0.05)
        # The peer closes its kept-alive connection now, whoever may want to use it.

    async with Peer(serve) as peer, Rig(make_snapshot([make_channel(1, peer.port)])) as rig:
        for _ in range(3):
            assert read(await rig.say(post(CHAT, chat())))[0] == 200
            await asyncio.sleep(0.05)
        assert [end.attempts for end in await rig.ended(3)] == [1, 1, 1]


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"gpt-test","messages":[],"tools":[{"type":"function","x":%b}]}',
        b'{"model":"gpt-test","messages":[],"stream_options":{"x":%b}}',
        b'{"model":"gpt-test","messages":[],"web_search":%b}',
    ],
)
async def test_nesting_of_whatever_depth_gets_an_answer(
    body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Each look at a body is as deep in our own calls as it is: none may be one too deep."""
    async with Peer(answer_json) as peer, Rig(make_snapshot([make_channel(1, peer.port)])) as rig:
        for depth in range(900, 1_000):
            raw = await rig.say(post(CHAT, body % (b"[" * depth + b"]" * depth)))
            assert raw.split(b" ", 2)[1] in (b"200", b"400"), depth
    assert "unexpected failure" not in caplog.text
