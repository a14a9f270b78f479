"""Goal: silence is judged the same in every dialect: life by evidence, an end by its last word.

Method: each dialect's own stream over real sockets, in pieces with pauses; an upstream that leaves
its connection open, that only shows progress, or that hangs.
"""

import asyncio
import json
import time
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import pytest

from relay.config import Config, Timeouts
from relay.flow.attempts.attempt import Attempt
from relay.flow.deadlines import DeadlineTable
from relay.flow.request import RequestFacts
from relay.model import Dialect
from relay.routing.breaker import Availability
from relay.slow_models import Deadlines
from tests.flow.rig import (
    DONE,
    KEY,
    MODEL,
    SSE_HEAD,
    Peer,
    Rig,
    Script,
    chunked,
    make_channel,
    make_snapshot,
    unchunked,
)

DEAD_S = 0.4
SHORT = Timeouts(first_byte_s=DEAD_S, answer_s=DEAD_S, gap_s=DEAD_S, last_word_s=0.3)
COMMENT = b": keep-alive\n\n"


def untyped(**said: Any) -> bytes:
    return b"data: " + json.dumps(said).encode() + b"\n\n"


def typed(kind: str, **said: Any) -> bytes:
    return f"event: {kind}\n".encode() + untyped(type=kind, **said)


class Told(NamedTuple):
    """A stream in its dialect: how it opens, goes on, shows that it lives, and ends."""

    path: str
    body: dict[str, Any]
    dialect: Dialect
    opening: bytes
    text: bytes
    life: tuple[bytes, ...]
    end: bytes
    added: bytes = b""
    """What we add to an end that lacks it."""
    broken: bytes = b""
    """Begins what a client of that dialect takes for an error."""


SAID = {"messages": [{"role": "user", "content": "go"}], "max_tokens": 99}
COUNTS = {"input_tokens": 4, "output_tokens": 3}


def choice(**fields: Any) -> bytes:
    return untyped(id="c", choices=[{"index": 0, "finish_reason": None, **fields}])


def candidate(text: str, **fields: Any) -> bytes:
    said = {"content": {"role": "model", "parts": [{"text": text}] if text else []}, **fields}
    usage = {"promptTokenCount": 4, "candidatesTokenCount": 3}
    return untyped(candidates=[said], usageMetadata=usage).replace(b"\n", b"\r\n")


USAGE = untyped(id="c", choices=[], usage={"prompt_tokens": 4, "completion_tokens": 3})
DIALECTS = {
    "chat": Told(
        "/v1/chat/completions",
        {"model": MODEL, "stream": True, "stream_options": {"include_usage": True}, **SAID},
        Dialect.OPENAI,
        choice(delta={"role": "assistant"}),
        choice(delta={"content": "hi"}),
        (COMMENT, choice(delta={}), choice(delta={"content": ""}), b"\n"),
        choice(delta={}, finish_reason="stop") + USAGE,
        added=DONE,
        broken=b'data: {"error":',
    ),
    "completions": Told(
        "/v1/completions",
        {"model": MODEL, "stream": True, "stream_options": {"include_usage": True}, "prompt": "a"},
        Dialect.OPENAI,
        choice(text=""),
        choice(text="hi"),
        (COMMENT, choice(text="")),
        choice(text="", finish_reason="stop") + USAGE,
        added=DONE,
        broken=b'data: {"error":',
    ),
    "responses": Told(
        "/v1/responses",
        {"model": MODEL, "stream": True, "input": "a"},
        Dialect.OPENAI,
        typed("response.created", response={"id": "resp_1", "status": "in_progress"})
        + typed("response.output_item.added", output_index=0, item={"type": "reasoning"}),
        typed("response.output_text.delta", delta="hi"),
        (
            COMMENT,
            typed("response.in_progress", response={"id": "resp_1"}),
            typed("response.web_search_call.searching", output_index=0),
            typed("keepalive"),
        ),
        typed("response.completed", response={"id": "resp_1", "status": "completed",
                                              "usage": COUNTS}),
        broken=b"event: response.failed\ndata: ",
    ),
    "messages": Told(
        "/v1/messages",
        {"model": MODEL, "stream": True, **SAID},
        Dialect.ANTHROPIC,
        typed("message_start", message={"id": "msg_1", "usage": COUNTS}),
        typed("content_block_delta", index=0, delta={"type": "text_delta", "text": "hi"}),
        (COMMENT, typed("ping")),
        typed("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 3})
        + typed("message_stop"),
        broken=b"event: error\ndata: ",
    ),
    "gemini": Told(
        f"/v1beta/models/{MODEL}:streamGenerateContent?alt=sse",
        {"contents": [{"role": "user", "parts": [{"text": "go"}]}]},
        Dialect.GEMINI,
        candidate(""),
        candidate("hi"),
        (COMMENT, candidate("")),
        candidate("", finishReason="STOP"),
        broken=b'data: {"error":',
    ),
}  # fmt: skip


def says(*pieces: bytes, pause_s: float = 0.0) -> Script:
    """Return a script that leaves its connection open."""

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD)
        for piece in pieces:
            writer.write(chunked(piece))
            await writer.drain()
            await asyncio.sleep(pause_s)
        await asyncio.Event().wait()

    return script


def standing(told: Told, peer: Peer, timeouts: Timeouts) -> Rig:
    base = f"http://127.0.0.1:{peer.port}"
    base += "" if told.dialect is Dialect.GEMINI else "/v1"
    channel = make_channel(1, peer.port, protocol=told.dialect, base_url=base)
    return Rig(make_snapshot([channel]), Config(timeouts=timeouts))


async def ask(rig: Rig, told: Told) -> tuple[bytes, float]:
    """Return what a client was sent, and how long that took."""
    body = json.dumps(told.body).encode()
    head = (
        f"POST {told.path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        "anthropic-version: 2023-06-01\r\nConnection: close\r\n\r\n"
    )
    begun_s = time.monotonic()
    async with asyncio.timeout(20):
        raw = await rig.say(head.encode() + body)
    took_s = time.monotonic() - begun_s
    return unchunked(raw)[1], took_s


@pytest.mark.parametrize("name", DIALECTS)
async def test_the_last_word_ends_a_stream_whose_connection_stays_open(name: str) -> None:
    told = DIALECTS[name]
    timeouts = Timeouts(gap_s=30.0, last_word_s=0.3)
    async with (
        Peer(says(told.opening, told.text, told.end)) as peer,
        standing(told, peer, timeouts) as rig,
    ):
        payload, took_s = await ask(rig, told)
        (end,) = await rig.ended()
        assert payload == told.opening + told.text + told.end + told.added
        assert took_s < 3
        assert (end.reason, end.attempts, end.estimated) == ("completed", 1, False)
        assert (end.input_tokens, end.output_tokens) == (4, 3)
        now_us = int(time.monotonic() * 1e6)
        health = rig.server.engine.balancer.health
        assert health.availability(1, MODEL, now_us) is Availability.READY
        async with asyncio.timeout(5):
            await peer.closed.wait()  # a doubtful connection is not used again


LIVES = [(name, life) for name, told in DIALECTS.items() for life in told.life]


@pytest.mark.parametrize(("name", "life"), LIVES, ids=lambda of: of if isinstance(of, str) else "")
async def test_whatever_shows_progress_is_life(name: str, life: bytes) -> None:
    """Between the opening and the first text a model is silent for three times its deadline."""
    told = DIALECTS[name]
    pieces = [told.opening, *[life] * 12, told.text, told.end]
    async with Peer(says(*pieces, pause_s=DEAD_S / 4)) as peer, standing(told, peer, SHORT) as rig:
        payload, took_s = await ask(rig, told)
        (end,) = await rig.ended()
        assert took_s > 2 * DEAD_S
        assert payload.endswith(told.text + told.end + told.added)
        assert (end.reason, end.attempts) == ("completed", 1)


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("lives", [0, 2])
async def test_a_hang_behind_the_first_text_is_told_in_the_clients_words(
    name: str, lives: int
) -> None:
    told = DIALECTS[name]
    pieces = [told.opening, told.text, *[told.life[0]] * lives]
    async with Peer(says(*pieces, pause_s=0.05)) as peer, standing(told, peer, SHORT) as rig:
        payload, took_s = await ask(rig, told)
        (end,) = await rig.ended()
        assert payload.startswith(told.opening + told.text)
        assert told.broken in payload and told.end not in payload
        assert took_s < 5 * DEAD_S
        assert end.reason == "truncated"


@pytest.mark.parametrize("name", DIALECTS)
async def test_a_slow_model_is_given_its_time_in_every_dialect(name: str) -> None:
    """Silent behind the opening for longer than others may be: its name says that it thinks."""
    told = DIALECTS[name]
    slow = Deadlines(first_byte_s=9.0, answer_s=9.0, gap_s=9.0)
    timeouts = Timeouts(first_byte_s=0.3, gap_s=0.3, last_word_s=0.3, models={MODEL: slow})
    pieces = [told.opening, told.text, told.end]
    async with Peer(says(*pieces, pause_s=0.6)) as peer, standing(told, peer, timeouts) as rig:
        payload, took_s = await ask(rig, told)
        (end,) = await rig.ended()
        assert took_s > 1 and payload.endswith(told.text + told.end + told.added)
        assert (end.reason, end.attempts) == ("completed", 1)


@pytest.mark.parametrize(
    ("model", "first_s", "answer_s"),
    [
        ("gpt-4o", 300, 600),
        ("claude-opus-4-5", 300, 600),
        ("deepseek-reasoner", 300, 600),
        ("o3", 600, 1800),
        ("openai/o4-mini", 600, 1800),
        ("o1-pro-2025-03-19", 1800, 3600),
        ("gpt-5-pro", 1800, 3600),
        ("azure/gpt-5.2-pro", 1800, 3600),
        ("o3-deep-research", 1800, 3600),
        ("o4-mini-deep-research-2025-06-26", 1800, 3600),
    ],
)
@pytest.mark.parametrize("public", [True, False])
def test_the_defaults_survive_todays_slowest_models(
    model: str, first_s: float, answer_s: float, *, public: bool
) -> None:
    """135 s of silence were measured; SDKs wait for 600. Its own name or the channel's tells it."""
    assert first_s > 2 * 135 and answer_s >= 600
    known, own = (model, "up") if public else ("fast", model)
    table = DeadlineTable(Timeouts())
    for stream, expected in ((True, first_s), (False, answer_s)):
        call = SimpleNamespace(request=RequestFacts(known, stream=stream))
        attempt = cast(
            "Attempt", SimpleNamespace(channel=make_channel(1, 1, models={known: own}), call=call)
        )
        assert (table.first_s(attempt), table.gap_s(attempt)) == (expected, first_s)
