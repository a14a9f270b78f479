"""Goal: an aborted call costs what its provider bills, within what was delivered, and no more.

Method: real sockets; an upstream that goes on saying its answer, a client that hangs up in the
middle, over one connection kept (asked at once) and over a new one (carried by a task).
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from relay.config import Billing, Config, JournalConfig
from relay.model import AbortBills
from relay.records import CallEnd
from tests.flow.rig import (
    DONE,
    FINISH,
    SSE_HEAD,
    USAGE,
    Peer,
    Rig,
    chat,
    chunked,
    event,
    make_channel,
    make_snapshot,
    post,
    read_request,
)

BEGIN = 3
"""Events that the client waits for."""
NANOS = 1_000
"""A token costs 1,000 nano-USD in, 2,000 out, at list price; the group pays half."""


class Script:
    """An upstream that says three events, waits for `go`, and then its rest."""

    def __init__(self, rest: bytes) -> None:
        self.go = asyncio.Event()
        self.rest = rest

    async def __call__(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD)
        for _number in range(BEGIN):
            writer.write(chunked(event("word")))
        await writer.drain()
        await self.go.wait()
        writer.write(self.rest)
        await writer.drain()


WHOLE = chunked(event("word") * 5 + FINISH) + chunked(USAGE + DONE) + b"0\r\n\r\n"
SILENT = chunked(event("word") * 5 + FINISH + DONE) + b"0\r\n\r\n"
CUT = chunked(event("word"))


@asynccontextmanager
async def standing(
    script: Callable[..., Any], bills: AbortBills, **billing: Any
) -> AsyncIterator[tuple[Rig, Peer]]:
    async with Peer(script) as peer:
        config = Config(billing=Billing(**billing), journal=JournalConfig(checkpoint_s=0.1))
        snapshot = make_snapshot([make_channel(1, peer.port, abort_bills=bills)])
        async with Rig(snapshot, config) as rig:
            yield rig, peer


async def leave_after_three(rig: Rig) -> None:
    """Ask, read three events, hang up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.write(post("/v1/chat/completions", chat(stream=True)))
    for _ in range(BEGIN):
        await reader.readuntil(b"word")
    writer.transport.abort()


def cost(end: CallEnd) -> int:
    """Return what the record's usage must cost."""
    return (end.input_tokens * NANOS + end.output_tokens * 2 * NANOS) // 2


async def ended(rig: Rig) -> CallEnd:
    (end,) = await rig.ended()
    assert end.cost_nanos == cost(end)
    assert (end.status, end.reason, end.error_code) == (499, "client_gone", "client_gone")
    return end


async def test_partial_cancels_at_once_and_charges_what_was_delivered() -> None:
    async with standing(Script(WHOLE), AbortBills.PARTIAL) as (rig, peer):
        await leave_after_three(rig)
        end = await ended(rig)
        async with asyncio.timeout(5):
            await peer.closed.wait()
        assert (end.output_tokens, end.estimated) == (BEGIN, True)
        assert end.input_tokens == rig.journal.starts[0].input_estimate > 0


async def test_full_reads_on_and_charges_what_was_reported() -> None:
    script = Script(WHOLE)
    async with standing(script, AbortBills.FULL) as (rig, peer):
        await leave_after_three(rig)
        async with asyncio.timeout(5):
            while rig.server.counters.inflight:
                await asyncio.sleep(0.005)
        assert not rig.journal.ends
        assert not peer.closed.is_set()
        script.go.set()
        end = await ended(rig)
        assert (end.input_tokens, end.output_tokens, end.estimated) == (9, 3, False)


@pytest.mark.parametrize(
    ("rest", "billing"),
    [
        pytest.param(SILENT, {}, id="whole, but without a usage"),
        pytest.param(CUT, {}, id="cut"),
        pytest.param(None, {"drain_s": 0.2}, id="too long"),
        pytest.param(chunked(event("word" * 500)), {"drain_bytes_max": 1000}, id="too large"),
        pytest.param(WHOLE, {"drains_max": 0}, id="too many"),
    ],
)
async def test_full_beyond_its_bounds_charges_what_was_delivered(
    rest: bytes | None, billing: dict[str, Any]
) -> None:
    script = Script(rest or b"")
    if rest is not None:
        script.go.set()
    hold = asyncio.Event()

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await Script.__call__(script, reader, writer)
        if rest is not None and len(rest) > 1500:
            await hold.wait()

    script.go.clear()
    async with standing(say, AbortBills.FULL, **billing) as (rig, _):
        await leave_after_three(rig)
        async with asyncio.timeout(5):
            while rig.server.counters.inflight:
                await asyncio.sleep(0.005)
        if rest is not None:
            script.go.set()
        end = await ended(rig)
        assert (end.output_tokens, end.estimated) == (BEGIN, True)


async def test_nothing_delivered_is_nothing_charged_and_not_read_on() -> None:
    asked = asyncio.Event()

    async def say(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD)
        asked.set()
        await asyncio.Event().wait()

    async with standing(say, AbortBills.FULL) as (rig, peer):
        _, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(post("/v1/chat/completions", chat(stream=True)))
        await asked.wait()
        writer.transport.abort()
        (end,) = await rig.ended()
        assert (end.cost_nanos, end.output_tokens, end.price_id) == (0, 0, 0)
        async with asyncio.timeout(5):
            await peer.closed.wait()


async def test_a_running_stream_is_written_down_again_and_again() -> None:
    script = Script(WHOLE)
    async with standing(script, AbortBills.PARTIAL) as (rig, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(post("/v1/chat/completions", chat(stream=True)))
        async with asyncio.timeout(5):
            while len(rig.journal.checkpoints) < 2:
                await asyncio.sleep(0.01)
        first = rig.journal.checkpoints[0]
        start = rig.journal.starts[0]
        assert (first.request_id, first.channel_id) == (start.request_id, 1)
        assert (first.input_tokens, first.output_estimate) == (start.input_estimate, BEGIN)
        assert first.cost_nanos == (start.input_estimate * NANOS + BEGIN * 2 * NANOS) // 2
        assert (first.price_id, first.group_multiplier_ppm) == (7, 500_000)
        script.go.set()
        await reader.read()
        writer.close()
        (end,) = await rig.ended()
        assert (end.output_tokens, end.estimated) == (3, False)


async def test_a_failed_try_is_the_operators_cost() -> None:
    async def cut(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD + chunked(b": ping\n\n"))
        await writer.drain()

    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    good = Script(WHOLE)
    good.go.set()
    async with Peer(cut) as first, Peer(refuse) as second, Peer(good) as third:
        ports = [first.port, second.port, third.port]
        channels = [make_channel(n, port, tier=n) for n, port in enumerate(ports, 1)]
        async with Rig(make_snapshot(channels)) as rig:
            await rig.say(post("/v1/chat/completions", chat(stream=True)))
            (end,) = await rig.ended()
            assert (end.reason, end.attempts, end.output_tokens) == ("completed", 3, 3)
            assert end.cost_nanos == cost(end)
            # The first took the prompt on, the second refused it; at list price.
            assert end.retry_nanos == rig.journal.starts[0].input_estimate * NANOS


async def test_all_parts_of_a_usage_are_written_down() -> None:
    usage = {
        "prompt_tokens": 50,
        "completion_tokens": 20,
        "total_tokens": 70,
        "prompt_tokens_details": {"cached_tokens": 10, "audio_tokens": 7},
        "completion_tokens_details": {"audio_tokens": 5, "reasoning_tokens": 2},
    }
    body = msgspec.json.encode({"id": "c", "choices": [], "usage": usage})

    async def say(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        writer.write((head % len(body)).encode() + body)
        await writer.drain()

    async with standing(say, AbortBills.PARTIAL) as (rig, _):
        await rig.say(post("/v1/chat/completions", chat()))
        (end,) = await rig.ended()
        assert (end.audio_input_tokens, end.audio_output_tokens, end.retry_nanos) == (7, 5, 0)
        assert (end.cached_tokens, end.reasoning_tokens) == (10, 2)


async def test_a_call_asked_at_once_is_read_on_as_well() -> None:
    """The second call of a kept connection over a kept upstream: no task carries it."""
    go = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            for number in range(2):
                await read_request(reader)
                writer.write(SSE_HEAD + chunked(event("word")) * BEGIN)
                if number:
                    await go.wait()
                writer.write(WHOLE)
            await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as upstream:
        port = upstream.sockets[0].getsockname()[1]
        channel = make_channel(1, port, abort_bills=AbortBills.FULL)
        async with Rig(make_snapshot([channel])) as rig:
            question = post("/v1/chat/completions", chat(stream=True))
            question = question.replace(b"Connection: close", b"Connection: keep-alive")
            reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
            writer.write(question)
            await reader.readuntil(b"\r\n0\r\n\r\n")
            await rig.ended()
            writer.write(question)
            for _ in range(BEGIN):
                await reader.readuntil(b"word")
            writer.transport.abort()
            async with asyncio.timeout(5):
                while rig.server.counters.inflight:
                    await asyncio.sleep(0.005)
            assert len(rig.journal.ends) == 1
            go.set()
            _, end = await rig.ended(2)
            assert (end.status, end.reason) == (499, "client_gone")
            assert (end.input_tokens, end.output_tokens, end.estimated) == (9, 3, False)


async def test_who_leaves_before_the_usage_pays_what_it_says() -> None:
    go = asyncio.Event()

    async def say(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD + chunked(event("several words at once ") * 4) + chunked(FINISH))
        await writer.drain()
        await go.wait()
        writer.write(chunked(USAGE + DONE) + b"0\r\n\r\n")
        await writer.drain()

    async with standing(say, AbortBills.PARTIAL) as (rig, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(post("/v1/chat/completions", chat(stream=True)))
        await reader.readuntil(b"finish_reason")
        await asyncio.sleep(0)
        writer.transport.abort()
        async with asyncio.timeout(5):
            while rig.server.counters.inflight:
                await asyncio.sleep(0.005)
        go.set()
        end = await ended(rig)
        assert (end.input_tokens, end.output_tokens, end.estimated) == (9, 3, False)


async def test_events_of_several_tokens_are_charged_by_their_bytes() -> None:
    words = "several words that one event brings at once "

    async def say(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD + chunked(event(words)) * 100)
        await writer.drain()
        await asyncio.Event().wait()

    async with standing(say, AbortBills.PARTIAL) as (rig, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(post("/v1/chat/completions", chat(stream=True)))
        for _ in range(100):
            await reader.readuntil(b"brings")
        writer.transport.abort()
        end = await ended(rig)
        tokens = 100 * len(words) / 4.3
        assert end.estimated and 0.75 * tokens < end.output_tokens < 1.25 * tokens


@pytest.mark.parametrize("counted_as", [0.85, 1.0, 1.2])
async def test_a_model_that_counts_otherwise_is_charged_by_its_own_count(
    counted_as: float,
) -> None:
    words = "several words that one event brings at once "
    tokens = round(100 * len(words) / 4.3 * counted_as)
    said = SSE_HEAD + chunked(event(words)) * 100
    usage = f'{{"choices": [], "usage": {{"prompt_tokens": 9, "completion_tokens": {tokens}}}}}'
    whole = said + chunked(FINISH + f"data: {usage}\n\n".encode() + DONE) + b"0\r\n\r\n"
    told = itertools.chain([True] * 12, [False])

    async def say(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = next(told)
        writer.write(whole if ends else said)
        await writer.drain()
        if not ends:
            await asyncio.Event().wait()

    async with standing(say, AbortBills.PARTIAL) as (rig, _):
        for _ in range(12):
            await rig.say(post("/v1/chat/completions", chat(stream=True)))
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(post("/v1/chat/completions", chat(stream=True)))
        for _ in range(100):
            await reader.readuntil(b"brings")
        writer.transport.abort()
        end = (await rig.ended(13))[-1]
        assert end.estimated and end.output_tokens == pytest.approx(tokens, rel=0.04)


@pytest.mark.parametrize(("bound", "charged"), [(None, 60), (50, 50)])
async def test_where_a_token_comes_an_event_a_cut_stream_is_charged_by_its_events(
    bound: int | None, charged: int
) -> None:
    """Its last events are long words: by these it would be taken for three times as much."""
    words = [*[" were", " the", " so"] * 18, *[" extraordinary", " circumstances"] * 3]
    said = [chunked(event(word)) for word in words]
    told = len(words) * 3 + 6
    usage = f'{{"choices": [], "usage": {{"prompt_tokens": 9, "completion_tokens": {told}}}}}'
    last = chunked(FINISH + f"data: {usage}\n\n".encode() + DONE) + b"0\r\n\r\n"
    whole = [*said, *said, *said, *said[:6], last]
    ends = itertools.chain([True] * 8, [False])

    async def say(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD)
        for frame in whole if next(ends) else said:  # each in a read of its own
            writer.write(frame)
            await writer.drain()
            await asyncio.sleep(0.0005)

    async with standing(say, AbortBills.PARTIAL) as (rig, _):
        asked = post("/v1/chat/completions", chat(stream=True))
        for _ in range(8):
            await rig.say(asked)
        bounded = {} if bound is None else {"max_tokens": bound}
        await rig.say(post("/v1/chat/completions", chat(stream=True, **bounded)))
        end = (await rig.ended(9))[-1]
        assert end.estimated and end.output_tokens == charged


@pytest.mark.parametrize("answers", [True, False])
async def test_a_plain_answer_that_is_billed_in_full_is_read_without_its_client(
    *, answers: bool
) -> None:
    asked, go = asyncio.Event(), asyncio.Event()
    body = msgspec.json.encode(
        {"id": "c", "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3}}
    )

    async def say(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await go.wait()
        head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        writer.write((head % len(body)).encode() + body)
        await writer.drain()

    async with standing(say, AbortBills.FULL, drain_s=0.3) as (rig, _):
        _, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(post("/v1/chat/completions", chat()))
        await asked.wait()
        writer.transport.abort()
        async with asyncio.timeout(5):
            while rig.server.counters.inflight:
                await asyncio.sleep(0.005)
        if answers:
            go.set()
        end = await ended(rig)
        prompt_nanos = rig.journal.starts[0].input_estimate * NANOS
        if answers:
            assert (end.input_tokens, end.output_tokens, end.estimated) == (9, 3, False)
            assert end.retry_nanos == 0
        else:
            assert (end.cost_nanos, end.retry_nanos) == (0, prompt_nanos)
