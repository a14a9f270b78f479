"""What an upstream may do around an answer that is good: over real sockets, byte by byte.

Trailers, early refusals, odd codings, connections that stay open behind the last word: the client
gets the whole answer at once, nobody is blamed, and no doubtful connection is used again.
"""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from relay.config import Config, Timeouts
from relay.records import CallEnd
from relay.routing.breaker import Availability
from relay.slow_models import Deadlines
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

JSON = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "up",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 4, "completion_tokens": 1, "total_tokens": 5},
    }
).encode()
JSON_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
)
TEXT = event("hello")


def says(*pieces: bytes, pause_s: float = 0.0, stay: bool = True) -> Script:
    """Return a script that sends pieces, a pause between them, and leaves its connection open."""

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)
        if stay:
            await asyncio.Event().wait()

    return script


async def closed(peer: Peer) -> None:
    async with asyncio.timeout(5):
        await peer.closed.wait()


async def ask(
    peer: Peer, *, stream: bool, timeouts: Timeouts | None = None, **fields: object
) -> tuple[bytes, CallEnd, float]:
    """Return the body of an answer, its record, and how long it took."""
    config = Config(timeouts=timeouts or Timeouts())
    async with Rig(make_snapshot([make_channel(1, peer.port)]), config) as rig:
        began_s = time.monotonic()
        raw = await rig.say(post("/v1/chat/completions", chat(stream=stream, **fields)))
        took_s = time.monotonic() - began_s
        body = unchunked(raw)[1] if stream else raw.partition(b"\r\n\r\n")[2]
        (end,) = await rig.ended()
        health = rig.server.engine.balancer.health
        assert health.availability(1, MODEL, int(time.monotonic() * 1e6)) is Availability.READY
    return body, end, took_s


@pytest.mark.parametrize("depth", [500, 990, 5_000])
async def test_an_answer_that_is_nested_without_end_has_an_end(depth: int) -> None:
    """Its usage is the answer's own all the same, and nobody waits for a call that is over."""
    deep = JSON[:-1] + b', "x": ' + b"[" * depth + b"]" * depth + b"}"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    async with Peer(says(head % len(deep) + deep)) as peer:
        body, end, took_s = await ask(peer, stream=False)
    assert (body, took_s < 5) == (deep, True)
    assert (end.status, end.input_tokens, end.output_tokens) == (200, 4, 1)


@pytest.mark.parametrize("told", [True, False], ids=["with usage", "without"])
@pytest.mark.parametrize("stream", [False, True])
async def test_text_that_is_no_utf8_passes_as_it_is_and_is_charged(
    *, stream: bool, told: bool
) -> None:
    """What cannot be read is passed on all the same: some servers cut in the midst of a letter."""
    if stream:
        cut = TEXT.replace(b"hello", b"hel\xe4\xb8")
        said = TEXT + cut + FINISH + (USAGE if told else b"") + DONE
        answer = SSE_HEAD + chunked(TEXT) + chunked(said[len(TEXT) :]) + b"0\r\n\r\n"
    else:
        said = JSON.replace(b'"hi"', b'"h\xe4\xb8"')
        said = said if told else said.replace(b'"usage"', b'"usagi"')
        answer = JSON_HEAD + chunked(said) + b"0\r\n\r\n"
    wish: dict[str, Any] = {"stream_options": {"include_usage": True}} if stream else {}
    async with Peer(says(answer)) as peer:
        body, end, took_s = await ask(peer, stream=stream, **wish)
    assert (body, took_s < 5) == (said, True)
    assert end.status == 200 and end.estimated is not told and end.input_tokens > 0
    if told:
        assert end.output_tokens == (3 if stream else 1)


ENDLESS: list[Callable[[int], bytes]] = [
    lambda n: b"x-%d: a\r\n" % n * 1000,
    lambda n: b"x: %d\r\n" % n * 1000,
    lambda n: b"x: " + b"a" * 8000 if n == 0 else b"a" * 8000,
    lambda n: b"a" * 8000,
    lambda n: b"x: a\r\n" * 1000 + b"x: a\r" if n == 0 else b"\nx: a\r",
    lambda n: b"x: a\r\n" * 1000 + b"y",
]


@pytest.mark.parametrize("trailer", ENDLESS)
@pytest.mark.parametrize("stream", [False, True])
async def test_trailers_without_end_end_an_answer_that_is_whole(
    trailer: Callable[[int], bytes], *, stream: bool
) -> None:
    sent = 0

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        if stream:
            writer.write(SSE_HEAD + chunked(TEXT + FINISH + USAGE + DONE))
        else:
            writer.write(JSON_HEAD + chunked(JSON))
        writer.write(b"0\r\n")
        for n in range(100_000):
            piece = trailer(n)
            writer.write(piece)
            sent += len(piece)
            await writer.drain()
            await asyncio.sleep(0)

    async with Peer(script) as peer:
        body, end, took_s = await ask(peer, stream=stream)
        assert body == (TEXT + FINISH + DONE if stream else JSON)
        assert (end.reason, end.attempts) == ("completed", 1)
        assert took_s < 4
        await closed(peer)
    assert sent < 32 * 1024 * 1024


@pytest.mark.parametrize("stream", [False, True])
async def test_a_chunk_head_without_end_is_no_answer(*, stream: bool) -> None:
    head = SSE_HEAD if stream else JSON_HEAD
    endless = [head, b"5;a=", *[b"a" * 8000] * 100]
    async with (
        Peer(says(*endless)) as peer,
        Rig(make_snapshot([make_channel(1, peer.port)])) as rig,
    ):
        raw = await rig.say(post("/v1/chat/completions", chat(stream=stream)))
        (end,) = await rig.ended()
    assert raw.startswith(b"HTTP/1.1 502 ")
    assert end.status == 502


TRAILERS = b"x-trailer: %b\r\n" % (b"t" * 4000) * 20


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("end", "status"),
    [
        (b"0\r\n", 200),
        (b"0\r\nx: y\r\n", 200),
        (b"0\r\n" + TRAILERS, 200),
        (b"0;last\r\n", 200),
        (b"000\r\n", 200),
        # What may have been the beginning of another chunk ends nothing.
        (b"", 502),
        (b"0", 502),
        (b"0\r", 502),
        (b"5\r\n", 502),
        (b"5\r\nhel", 502),
        (b"5\r\nhello", 502),
        (b"5\r\nhello\r\n", 502),
    ],
)
async def test_a_connection_lost_behind_the_last_chunk_costs_nothing_of_the_answer(
    end: bytes, status: int, *, stream: bool
) -> None:
    body = TEXT + FINISH if stream else JSON[:-1] + b" }"
    whole = status == 200 or stream  # a stream's own last word tells that it is whole
    said = (SSE_HEAD if stream else JSON_HEAD) + chunked(body) + end
    async with (
        Peer(says(said, stay=False)) as peer,
        Rig(make_snapshot([make_channel(1, peer.port)])) as rig,
    ):
        raw = await rig.say(post("/v1/chat/completions", chat(stream=stream)))
        (ended,) = await rig.ended()
    assert (ended.reason == "completed") is whole, raw[-300:]
    assert raw.startswith(b"HTTP/1.1 200 " if whole else b"HTTP/1.1 502 ")


async def test_trailers_of_a_common_size_do_not_cost_the_connection() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        writer.write(JSON_HEAD + chunked(JSON) + b"0\r\nx-checksum: " + b"a" * 900 + b"\r\n\r\n")
        await asyncio.Event().wait()

    async with Peer(script) as peer, Rig(make_snapshot([make_channel(1, peer.port)])) as rig:
        assert (await rig.say(post("/v1/chat/completions", chat()))).endswith(JSON)
        assert not peer.closed.is_set()


@pytest.mark.parametrize(
    "coding",
    ["none", "Identity", "IDENTITY", "identity, identity", " identity ", "", "None", "identity,"],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_codings_that_are_none_are_none(coding: str, *, stream: bool) -> None:
    head = (SSE_HEAD if stream else JSON_HEAD)[:-2] + f"Content-Encoding: {coding}\r\n\r\n".encode()
    body = TEXT + FINISH + USAGE + DONE if stream else JSON
    async with Peer(says(head + chunked(body) + b"0\r\n\r\n")) as peer:
        got, end, _ = await ask(peer, stream=stream)
    assert got == body.replace(USAGE, b"")
    assert end.reason == "completed"


@pytest.mark.parametrize("coding", ["gzip", "br", "identity, gzip", "x"])
async def test_other_codings_are_not_what_was_asked_for(coding: str) -> None:
    head = JSON_HEAD[:-2] + f"Content-Encoding: {coding}\r\n\r\n".encode()
    async with (
        Peer(says(head + chunked(JSON) + b"0\r\n\r\n")) as peer,
        Rig(make_snapshot([make_channel(1, peer.port)])) as rig,
    ):
        raw = await rig.say(post("/v1/chat/completions", chat()))
    assert raw.startswith(b"HTTP/1.1 502 ")


EARLY = b'HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{"error":1}'


@pytest.mark.parametrize("status", ["413 Too Large", "401 No", "429 Later", "500 Broken", "200 OK"])
async def test_a_connection_whose_question_is_not_out_is_never_asked_again(status: str) -> None:
    """The upstream answers before it has read 8 MB, and leaves the rest unread."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(EARLY.replace(b"%b", status.encode()))
        await writer.drain()
        # No more is read: beyond its limit a StreamReader stops by itself.

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1024)
    port = server.sockets[0].getsockname()[1]
    big = chat(messages=[{"role": "user", "content": "x" * 8_000_000}])
    async with Rig(make_snapshot([make_channel(1, port)])) as rig:
        for count in (1, 2):
            async with asyncio.timeout(8):
                await rig.say(post("/v1/chat/completions", big))
            await rig.ended(count)
            assert len(writers) == count
    for writer in writers:
        writer.close()
    server.close()


@pytest.mark.parametrize("size", [70_000, 200_000, 1_000_000])
@pytest.mark.parametrize("status", ["413 Too Large", "400 No", "429 Later", "500 Broken"])
async def test_nor_is_one_that_refused_a_long_question_which_the_kernel_may_still_hold(
    status: str, size: int
) -> None:
    """What the upstream never read lies in its socket: the next question would lie behind it."""
    asked: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(EARLY.replace(b"%b", status.encode()))
        await writer.drain()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1024)
    port = server.sockets[0].getsockname()[1]
    big = chat(messages=[{"role": "user", "content": "x" * size}])
    async with Rig(make_snapshot([make_channel(1, port)])) as rig:
        for count in (1, 2):
            async with asyncio.timeout(8):
                await rig.say(post("/v1/chat/completions", big))
            await rig.ended(count)
            assert len(asked) == count
    for writer in asked:
        writer.close()
    server.close()


# --- the last word said, the connection left open -------------------------------------------------


def typed(kind: str, **fields: object) -> bytes:
    return (
        f"event: {kind}\n".encode()
        + b"data: "
        + json.dumps({"type": kind, **fields}).encode()
        + b"\n\n"
    )


PING = typed("ping")


@pytest.mark.parametrize(
    ("pieces", "sent", "within_s"),
    [
        ([TEXT + FINISH + USAGE + DONE], TEXT + FINISH + USAGE + DONE, 1.0),
        ([TEXT, FINISH, DONE], TEXT + FINISH + DONE, 1.0),
        ([TEXT + DONE], TEXT + DONE, 1.0),
        ([TEXT + FINISH + USAGE], TEXT + FINISH + USAGE + DONE, 1.0),
        # Usage may still come behind a finish reason: it is waited for, and not for long.
        ([TEXT + FINISH], TEXT + FINISH + DONE, 1.7),
        ([TEXT, FINISH + b"data: [DO"], TEXT + FINISH + DONE, 1.7),
        ([TEXT, FINISH, USAGE[:-3]], TEXT + FINISH + DONE, 1.7),
        # Signs of life behind the last word are no reason to wait.
        (
            [TEXT, FINISH + USAGE + DONE, *[b": ping\n\n"] * 30],
            None,
            1.0,
        ),
        ([TEXT, FINISH, *[PING] * 30], None, 1.9),
    ],
)
async def test_a_stream_ends_with_its_last_word(
    pieces: list[bytes], sent: bytes | None, within_s: float
) -> None:
    script = says(SSE_HEAD, *map(chunked, pieces), pause_s=0.1)
    async with Peer(script) as peer:
        body, end, took_s = await ask(
            peer,
            stream=True,
            timeouts=Timeouts(last_word_s=0.8),
            stream_options={"include_usage": True},
        )
        await closed(peer)
    if sent is None:
        body = body.replace(b": ping\n\n", b"").replace(PING, b"")
        sent = b"".join(pieces).replace(b": ping\n\n", b"").replace(PING, b"")
        sent = sent.removesuffix(DONE) + DONE
    assert body == sent
    assert (end.reason, end.attempts, end.estimated) == (
        "completed",
        1,
        not any(USAGE in piece for piece in pieces),
    )
    assert took_s < within_s + 0.3


async def test_usage_that_comes_late_behind_a_finish_reason_is_read() -> None:
    script = says(SSE_HEAD + chunked(TEXT), chunked(FINISH), chunked(USAGE), pause_s=0.7)
    async with Peer(script) as peer:
        _, end, _ = await ask(peer, stream=True, timeouts=Timeouts(last_word_s=1.5))
    assert not end.estimated
    assert end.output_tokens == 3


async def test_the_second_of_two_choices_is_waited_for() -> None:
    late = event("", choices=[{"index": 1, "delta": {"content": "late"}, "finish_reason": None}])
    last = event("", choices=[{"index": 1, "delta": {}, "finish_reason": "stop"}])
    script = says(SSE_HEAD + chunked(TEXT + FINISH), chunked(late + last + DONE), pause_s=0.9)
    async with Peer(script) as peer:
        body, end, _ = await ask(peer, stream=True, n=2, timeouts=Timeouts(last_word_s=0.2))
    assert body == TEXT + FINISH + late + last + DONE
    assert end.reason == "completed"


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n",
        JSON_HEAD,
    ],
)
async def test_json_that_is_whole_ends_though_its_framing_does_not_say_so(head: bytes) -> None:
    body = chunked(JSON) if b"chunked" in head else JSON
    async with Peer(says(head + body)) as peer:
        got, end, took_s = await ask(peer, stream=False, timeouts=Timeouts(last_word_s=0.3))
        await closed(peer)
    assert got == JSON
    assert (end.reason, end.output_tokens) == ("completed", 1)
    assert took_s < 2


# --- what counts as life --------------------------------------------------------------------------

SHORT = Timeouts(first_byte_s=0.8, answer_s=0.8, gap_s=0.8)
ROLE = event("", choices=[{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}])


@pytest.mark.parametrize("life", [b": keep-alive\n\n", PING, b"\n", ROLE])
@pytest.mark.parametrize("before", [[], [ROLE], [TEXT]])
async def test_comments_and_pings_are_life(life: bytes, before: list[bytes]) -> None:
    pieces = [*before, *[life] * 8, TEXT + FINISH + USAGE + DONE]
    script = says(SSE_HEAD, *map(chunked, pieces), b"0\r\n\r\n", pause_s=0.25)
    async with Peer(script) as peer:
        body, end, took_s = await ask(peer, stream=True, timeouts=SHORT)
    assert took_s > 2
    assert body.endswith(TEXT + FINISH + DONE)
    assert (end.reason, end.attempts) == ("completed", 1)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("before", [[], [TEXT]])
@pytest.mark.parametrize(
    "slow",
    [
        {"models": {"gpt-t*": Deadlines(first_byte_s=9.0, answer_s=9.0, gap_s=9.0)}},
        {"models": {"up-*": Deadlines(first_byte_s=9.0, answer_s=9.0, gap_s=9.0)}},
        {"channels": {"channel-?": Deadlines(first_byte_s=9.0, answer_s=9.0, gap_s=9.0)}},
    ],
)
async def test_deadlines_are_by_model_and_channel(
    slow: dict[str, Any], before: list[bytes], *, stream: bool
) -> None:
    if stream:
        pieces = [SSE_HEAD + b"".join(map(chunked, before)), chunked(TEXT + FINISH + DONE)]
        pieces[1] += b"0\r\n\r\n"
    else:
        pieces = [JSON_HEAD, chunked(JSON) + b"0\r\n\r\n"]
    timeouts = Timeouts(first_byte_s=0.3, answer_s=0.3, gap_s=0.3, **slow)
    async with Peer(says(*pieces, pause_s=1.2)) as peer:
        _, end, _ = await ask(peer, stream=stream, timeouts=timeouts)
    assert end.reason == "completed"
