"""What a client gets of a stream, and what is written down of it: real sockets, scripted peers."""

import asyncio
from typing import Any

import pytest

from relay.config import Config, Timeouts
from tests.flow.rig import (
    DONE,
    FINISH,
    MODEL,
    SSE_HEAD,
    USAGE,
    Peer,
    Rig,
    Script,
    chat,
    chunked,
    event,
    make_channel,
    make_snapshot,
    post,
    unchunked,
)

EVENTS = [event("Hel"), event("lo"), FINISH, USAGE, DONE]
WHOLE = b"".join(EVENTS)


def play(*pieces: bytes, pause_s: float = 0.0, then_hang: bool = False) -> Script:
    """Return a script that writes the pieces one by one, then closes or hangs."""

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)
        if then_hang:
            await asyncio.Event().wait()

    return script


def framed(*events: bytes) -> list[bytes]:
    return [SSE_HEAD, *map(chunked, events), b"0\r\n\r\n"]


async def stream(rig: Rig, **fields: Any) -> tuple[bytes, bytes]:
    body = chat(stream=True, stream_options={"include_usage": True}) | fields
    return unchunked(await rig.say(post("/v1/chat/completions", body)))


@pytest.mark.parametrize("pause_s", [0.0, 0.01])
async def test_a_stream_passes_byte_exact_and_is_metered(pause_s: float) -> None:
    async with (
        Peer(play(*framed(*EVENTS), pause_s=pause_s)) as peer,
        Rig(make_snapshot([make_channel(1, peer.port)])) as rig,
    ):
        head, payload = await stream(rig)
        assert payload == WHOLE
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Content-Type: text/event-stream" in head
        assert b"x-request-id: req_" in head and b"request-id: req_" in head
        (end,) = await rig.ended()
        assert (end.input_tokens, end.output_tokens, end.estimated) == (9, 3, False)
        assert (end.status, end.reason, end.attempts) == (200, "completed", 1)
        assert (end.model, end.served_model) == (MODEL, f"up-{MODEL}")
        # (9 x 1 USD + 3 x 2 USD) / 1M tokens, x 0.5
        assert (end.cost_nanos, end.price_id) == (7_500, 7)
        assert rig.journal.starts[0].request_id == end.request_id
        assert 0 < end.ttft_us <= end.total_us


async def test_the_upstream_sees_our_head_and_its_own_model_name() -> None:
    async with (
        Peer(play(*framed(*EVENTS))) as peer,
        Rig(make_snapshot([make_channel(1, peer.port)])) as rig,
    ):
        await rig.say(post("/v1/chat/completions?x=1", chat(stream=True), "Cookie: c", "X-Mine: 1"))
        (request,) = peer.requests
        assert request.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
        assert b"Authorization: Bearer sk-upstream-1\r\n" in request
        assert b"relay_test-key" not in request
        assert b"Cookie" not in request and b"X-Mine" not in request
        assert b'"model":"up-gpt-test"' in request
        assert b'"include_usage":true' in request


async def test_usage_that_only_we_asked_for_is_kept_from_the_client() -> None:
    async with (
        Peer(play(*framed(*EVENTS))) as peer,
        Rig(make_snapshot([make_channel(1, peer.port)])) as rig,
    ):
        _, payload = unchunked(await rig.say(post("/v1/chat/completions", chat(stream=True))))
        assert payload == WHOLE.replace(USAGE, b"")
        (end,) = await rig.ended()
        assert (end.input_tokens, end.output_tokens, end.estimated) == (9, 3, False)


async def test_a_channel_that_rejects_the_option_is_not_asked() -> None:
    async with (
        Peer(play(*framed(event("a"), FINISH, DONE))) as peer,
        Rig(make_snapshot([make_channel(1, peer.port, include_usage=False)])) as rig,
    ):
        await rig.say(post("/v1/chat/completions", chat(stream=True)))
        assert b"include_usage" not in peer.requests[0]
        (end,) = await rig.ended()
        assert end.estimated and end.output_tokens > 0 and end.input_tokens > 0


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
async def test_any_chunking_gives_the_same_stream(size: int) -> None:
    raw = b"".join(framed(*EVENTS))
    pieces = [raw[at : at + size] for at in range(0, len(raw), size)]
    async with (
        Peer(play(*pieces)) as peer,
        Rig(make_snapshot([make_channel(1, peer.port)])) as rig,
    ):
        assert (await stream(rig))[1] == WHOLE


async def test_a_missing_done_is_added() -> None:
    async with (
        Peer(play(*framed(event("a"), FINISH))) as peer,
        Rig(make_snapshot([make_channel(1, peer.port)])) as rig,
    ):
        assert (await stream(rig))[1] == event("a") + FINISH + DONE
        assert (await rig.ended())[0].reason == "completed"


async def test_a_reset_after_the_last_word_is_a_success() -> None:
    async with (
        Peer(play(SSE_HEAD, chunked(event("a")), chunked(FINISH))) as peer,
        Rig(make_snapshot([make_channel(1, peer.port)])) as rig,
    ):
        assert (await stream(rig))[1] == event("a") + FINISH + DONE


@pytest.mark.parametrize(
    "pieces",
    [
        [SSE_HEAD, chunked(event("a")), chunked(event("b"))],
        [SSE_HEAD, chunked(event("a")), chunked(event("b")), b"0\r\n\r\n"],
        [SSE_HEAD, chunked(event("a")), chunked(event("b")), chunked(event("c")[:20])],
        [SSE_HEAD, chunked(event("a")), chunked(event("b")), b"zz\r\n"],
        [
            SSE_HEAD,
            chunked(event("a")),
            chunked(event("b") + b'data: {"error":{"message":"SECRET","code":"x"}}\n\n'),
        ],
    ],
    ids=["cut", "ended", "mid-event", "garbage", "error-event"],
)
async def test_a_broken_stream_ends_in_an_error_event(pieces: list[bytes]) -> None:
    async with (
        Peer(play(*pieces, pause_s=0.01)) as peer,
        Rig(make_snapshot([make_channel(1, peer.port)])) as rig,
    ):
        _, payload = await stream(rig)
        sent = event("a") + event("b")
        assert payload.startswith(sent + b'data: {"error":')
        assert DONE not in payload
        assert b"SECRET" not in payload
        (end,) = await rig.ended()
        assert (end.status, end.reason) == (200, "truncated")
        assert end.estimated and end.output_tokens == 1 and end.cost_nanos > 0


GOOD = [event("ok"), FINISH, USAGE, DONE]


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"],
        [b"HTTP/1.1 429 No\r\nContent-Length: 2\r\n\r\n{}"],
        [b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\n{}"],
        [b"nonsense\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>"],
        [b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"],
        [SSE_HEAD, chunked(b'data: {"error":{"message":"busy"}}\n\n')],
        [SSE_HEAD, b"0\r\n\r\n"],
        [SSE_HEAD, chunked(b": ping\n\n")],
        [b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n\r\n"],
        [b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 20],
        [b"HTTP/1.1 200 OK\r\n" + b"x-pad: " + b"x" * 70_000 + b"\r\n"],
    ],
)
async def test_before_the_first_byte_another_channel_takes_over(pieces: list[bytes]) -> None:
    async with (
        Peer(play(*pieces)) as bad,
        Peer(play(*framed(*GOOD))) as good,
        Rig(make_snapshot([make_channel(1, bad.port), make_channel(2, good.port, tier=1)])) as rig,
    ):
        head, payload = await stream(rig)
        assert head.startswith(b"HTTP/1.1 200")
        assert payload == b"".join(GOOD)
        (end,) = await rig.ended()
        assert (end.attempts, end.channel_id, end.reason) == (2, 2, "completed")
        assert len(bad.requests) == 1


async def test_a_silent_upstream_is_left_and_meanwhile_the_client_hears_comments() -> None:
    timeouts = Timeouts(first_byte_s=1.0, keepalive_comment_s=0.3)
    async with (
        Peer(play(then_hang=True)) as silent,
        Peer(play(*framed(*GOOD))) as good,
        Rig(
            make_snapshot([make_channel(1, silent.port), make_channel(2, good.port, tier=1)]),
            Config(timeouts=timeouts),
        ) as rig,
    ):
        _, payload = await stream(rig)
        assert payload.startswith(b":")
        assert payload.endswith(b"".join(GOOD))
        async with asyncio.timeout(2):
            await silent.closed.wait()


async def test_a_stall_in_mid_stream_ends_in_an_error_event() -> None:
    async with (
        Peer(play(SSE_HEAD, chunked(event("a")), then_hang=True)) as peer,
        Rig(
            make_snapshot([make_channel(1, peer.port)]), Config(timeouts=Timeouts(gap_s=0.5))
        ) as rig,
    ):
        _, payload = await stream(rig)
        assert payload.startswith(event("a") + b'data: {"error":')


@pytest.mark.parametrize("pieces", [[], [SSE_HEAD], [SSE_HEAD, chunked(event("a"))]])
async def test_a_client_that_hangs_up_cancels_its_upstream(pieces: list[bytes]) -> None:
    async with (
        Peer(play(*pieces, then_hang=True)) as peer,
        Rig(make_snapshot([make_channel(1, peer.port)])) as rig,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(post("/v1/chat/completions", chat(stream=True)))
        async with asyncio.timeout(2):
            while not peer.requests:
                await asyncio.sleep(0.01)
            if len(pieces) == 2:
                await reader.readuntil(b"\n\n")
        writer.close()
        async with asyncio.timeout(5):
            await peer.closed.wait()
        (end,) = await rig.ended()
        assert (end.status, end.reason) == (499, "client_gone")
        assert (end.cost_nanos > 0) is (len(pieces) == 2)


async def test_a_slow_client_pauses_its_upstream_and_memory_stays_bounded() -> None:
    sent = 0

    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(SSE_HEAD)
        piece = chunked(event("x" * 1000)) * 16
        while True:
            writer.write(piece)
            await writer.drain()
            sent += len(piece)

    async with (
        Peer(flood) as peer,
        Rig(make_snapshot([make_channel(1, peer.port)])) as rig,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port, limit=1024)
        writer.write(post("/v1/chat/completions", chat(stream=True)))
        before = -1
        async with asyncio.timeout(20):
            while sent != before:
                before = sent
                await asyncio.sleep(0.5)
        assert 0 < sent < 32 * 1024 * 1024
        assert max(c.unsent_bytes for c in rig.server._connections.open) < 1024 * 1024
        writer.close()
        async with asyncio.timeout(5):
            await peer.closed.wait()
        del reader
