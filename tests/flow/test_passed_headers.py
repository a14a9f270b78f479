"""Goal: of a client's headers an upstream gets what its dialect lists, and the other way round.

Method: a client that sends all of them, good and bad, and an upstream that answers with its own.
"""

import asyncio

import pytest

from relay.model import Dialect
from tests.flow.rig import (
    DONE,
    FINISH,
    MODEL,
    SSE_HEAD,
    Peer,
    Rig,
    chat,
    chunked,
    event,
    make_channel,
    make_snapshot,
    post,
)

GOOD = b'{"id":"1","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
ALL = (
    *("OpenAI-Beta: responses=experimental", "Idempotency-Key: i-1", "X-Client-Request-Id: c-1"),
    *(
        "originator: codex_cli_rs",
        "session_id: s-1",
        "X-Codex-Turn-State: abc",
        "x-codex-window: 1",
    ),
    *("traceparent: 00-ab-cd-01", "X-Session-Affinity: a"),
)
NOT = (
    *("Cookie: a=SECRET", "OpenAI-Organization: SECRET", "OpenAI-Project: SECRET"),
    *("X-Forwarded-For: 1.2.3.4", "X-Mine: SECRET", "x-goog-user-project: SECRET"),
)


async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Request-Id: up-1\r\n"
        b"x-codex-turn-state: turn-2\r\nopenai-organization: SECRET\r\nSet-Cookie: SECRET\r\n"
        b"x-ratelimit-limit-requests: SECRET\r\nContent-Length: %d\r\n\r\n%b" % (len(GOOD), GOOD)
    )
    await writer.drain()


async def stream(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = SSE_HEAD.replace(b"\r\n\r\n", b"\r\nx-codex-turn-state: turn-2\r\n\r\n")
    writer.write(head + chunked(event("a") + FINISH + DONE) + b"0\r\n\r\n")
    await writer.drain()


async def fail(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(SSE_HEAD.replace(b"\r\n\r\n", b"\r\nx-codex-turn-state: turn-1\r\n\r\n"))
    await writer.drain()


async def test_what_is_listed_goes_on_and_nothing_else() -> None:
    async with Peer(answer) as peer, Rig(make_snapshot([make_channel(1, peer.port)])) as rig:
        raw = await rig.say(post("/v1/chat/completions", chat(), *ALL, *NOT))
        (request,) = peer.requests
        head = request.partition(b"\r\n\r\n")[0].lower()
        for line in ALL:
            assert line.lower().encode() in head
        assert b"secret" not in head and b"1.2.3.4" not in head
        told = raw.partition(b"\r\n\r\n")[0]
        assert b"\r\nx-upstream-request-id: up-1\r\n" in told
        assert b"\r\nx-codex-turn-state: turn-2" in told
        assert b"SECRET" not in told


@pytest.mark.parametrize("script", [stream, answer])
async def test_only_the_channel_that_served_is_told_of(script: object) -> None:
    assert callable(script)
    async with Peer(fail) as first, Peer(script) as second:
        channels = [make_channel(n, p.port, tier=n) for n, p in enumerate((first, second), 1)]
        async with Rig(make_snapshot(channels)) as rig:
            body = chat(stream=script is stream)
            raw = await rig.say(post("/v1/chat/completions", body))
            told = raw.partition(b"\r\n\r\n")[0]
            assert told.count(b"x-codex-turn-state") == 1 and b"turn-2" in told


async def test_sessions_of_claude_code_go_on() -> None:
    channel = {"protocol": Dialect.ANTHROPIC, "models": {MODEL: "claude"}}
    async with (
        Peer(answer) as peer,
        Rig(make_snapshot([make_channel(1, peer.port, **channel)])) as rig,
    ):
        headers = ("x-claude-code-session-id: s-1", "anthropic-workspace-id: SECRET")
        await rig.say(post("/v1/messages", chat(max_tokens=5), *headers, *NOT))
        (request,) = peer.requests
        assert b"x-claude-code-session-id: s-1\r\n" in request and b"SECRET" not in request
