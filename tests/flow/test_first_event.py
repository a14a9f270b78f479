"""Goal: an agent hears the first of an answer within 50 ms of when it would from its provider.

Method: calls as Codex, Claude Code and opencode make them, growing turn by turn, over HTTP and over
WebSockets, to a scripted provider and to the relay before it, by turns; the median of what the
relay adds to the first event that is output. What comes before that (`response.created` and its
like) is held until then, so that a provider that fails before it has said anything can be left.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from statistics import median
from typing import Any, Final

import aiohttp
import msgspec
import pytest
from aiohttp import web

from relay.model import Dialect
from tests.flow import test_spliced_messages as messages
from tests.flow.rig import KEY, MODEL, Rig, make_channel, make_snapshot
from tests.flow.test_spliced_responses import Answer
from tests.local_app import serve_app

ADDED_MS_MAX: Final = 50.0
TURNS: Final = 30
THINKS_S: Final = 0.01
"""Between what a provider says at once and its first output."""
TOOLS: Final = [
    {"type": "function", "name": f"tool_{n}", "description": "It does something. " * 40}
    for n in range(24)
]
INSTRUCTIONS: Final = "You are a coding agent in the repository of your user. " * 400
"""Some 22 KB, and the tools 18 KB, as agents send them with each turn."""
OUTPUT: Final = (b'"response.output_text.delta"', b'"content_block_delta"')


class PacedUpstream:
    """A provider that says at once that it has begun, and has its first output a moment later."""

    def __init__(self) -> None:
        self.over: list[str] = []
        self.made = 0

    async def __aenter__(self) -> "PacedUpstream":
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{tail:.*}", self._serve)
        self._parts = AsyncExitStack()
        self.port = await self._parts.enter_async_context(serve_app(app))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._parts.aclose()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._session(request)
        await request.read()
        self.over.append("http")
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        async for event in self._events(request.path):
            await answer.write(event)
        await answer.write_eof()
        return answer

    async def _session(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        async for _ in socket:
            self.over.append("websocket")
            async for event in self._events("/responses"):
                await socket.send_str(event.split(b"data: ", 1)[1].decode().strip())
        return socket

    async def _events(self, path: str) -> AsyncIterator[bytes]:
        self.made += 1
        if path.endswith("/messages"):
            events = [messages.start(self.made), messages.said(0, "Well"), messages.end(4)]
        else:
            events = Answer(self.made).say("Well, ", "then").end(4)
        yield events[0]
        await asyncio.sleep(THINKS_S)
        for event in events[1:]:
            yield event


@asynccontextmanager
async def standing(dialect: Dialect) -> AsyncIterator[tuple[PacedUpstream, list[str]]]:
    """Stand a provider; give its root and a relay's."""
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(PacedUpstream())
        channels = [
            make_channel(n, upstream.port, protocol=dialect, models={MODEL: "up"}) for n in (1, 2)
        ]
        rig = await stack.enter_async_context(Rig(make_snapshot(channels)))
        yield upstream, [f"http://127.0.0.1:{upstream.port}/v1", rig.url]


def history(turn: int) -> list[dict[str, Any]]:
    """Return what was said before a turn, a few KB for each."""
    said: list[dict[str, Any]] = []
    for number in range(turn + 1):
        said.append({"role": "user", "content": f"Turn {number}: look at what is there. " * 30})
        said.append({"role": "assistant", "content": f"I have looked, {number}. " * 60})
    return said[:-1]


def codex(turn: int) -> tuple[str, dict[str, Any], dict[str, str]]:
    items = [{"type": "message", **one} for one in history(turn)]
    body = {
        "model": MODEL,
        "instructions": INSTRUCTIONS,
        "input": items,
        "tools": TOOLS,
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "thread",
        "stream": True,
    }
    return "/responses", body, {"session_id": "thread", "originator": "codex_exec"}


def claude_code(turn: int) -> tuple[str, dict[str, Any], dict[str, str]]:
    tools = [{"name": t["name"], "description": t["description"]} for t in TOOLS]
    cached = {"cache_control": {"type": "ephemeral"}}
    body = {
        "model": MODEL,
        "max_tokens": 32_000,
        "system": [{"type": "text", "text": INSTRUCTIONS, **cached}],
        "messages": history(turn),
        "tools": tools,
        "stream": True,
    }
    headers = {
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14",
        "x-claude-code-session-id": "session",
    }
    return "/messages?beta=true", body, headers


def opencode(turn: int) -> tuple[str, dict[str, Any], dict[str, str]]:
    items = [{"role": "developer", "content": INSTRUCTIONS}, *history(turn)]
    body = {"model": MODEL, "input": items, "tools": TOOLS, "store": False, "stream": True}
    return "/responses", body, {"x-session-affinity": "session"}


AGENTS = {"codex": codex, "claude_code": claude_code, "opencode": opencode}


async def first_over_http(
    http: aiohttp.ClientSession, root: str, asked: tuple[str, dict[str, Any], dict[str, str]]
) -> float:
    """Return the milliseconds from a request to the first output of its answer."""
    path, body, headers = asked
    said = msgspec.json.encode(body)
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json", **headers}
    began_s = time.monotonic()
    async with http.post(root + path, data=said, headers=headers) as told:
        assert told.status == 200
        heard, first_ms = b"", 0.0
        async for part in told.content.iter_any():
            heard += part
            if not first_ms and any(word in heard for word in OUTPUT):
                first_ms = (time.monotonic() - began_s) * 1e3
    assert first_ms
    return first_ms


async def first_over_websocket(
    socket: aiohttp.ClientWebSocketResponse, body: dict[str, Any]
) -> tuple[float, str]:
    """Return the same of a turn of a session, and the id of its response."""
    said = msgspec.json.encode({"type": "response.create", **body}).decode()
    began_s, first_ms = time.monotonic(), 0.0
    await socket.send_str(said)
    while True:
        event = await socket.receive_json()
        if event["type"] == "response.output_text.delta" and not first_ms:
            first_ms = (time.monotonic() - began_s) * 1e3
        if event["type"] == "response.completed":
            assert first_ms
            return first_ms, event["response"]["id"]
        assert event["type"] != "error", event


@pytest.mark.parametrize("agent", sorted(AGENTS))
async def test_the_first_event_over_http(agent: str) -> None:
    dialect = Dialect.ANTHROPIC if agent == "claude_code" else Dialect.OPENAI
    async with standing(dialect) as (upstream, roots), aiohttp.ClientSession() as http:
        taken: list[list[float]] = [[], []]
        for turn in range(TURNS):
            for root, found in zip(roots, taken, strict=True):
                found.append(await first_over_http(http, root, AGENTS[agent](turn)))
        assert upstream.over == ["http"] * 2 * TURNS
    added_ms = median(by - at for at, by in zip(*taken, strict=True))
    assert min(taken[0]) >= THINKS_S * 1e3 - 1
    assert added_ms < ADDED_MS_MAX, added_ms


@pytest.mark.parametrize("agent", ["codex", "opencode"])
async def test_the_first_event_over_a_websocket(agent: str) -> None:
    """Codex sends what is new since the turn before, opencode all of it."""
    headers = {"Authorization": f"Bearer {KEY}"}
    headers["OpenAI-Beta"] = "responses_websockets=2026-02-06"
    async with (
        standing(Dialect.OPENAI) as (upstream, roots),
        aiohttp.ClientSession() as http,
        AsyncExitStack() as stack,
    ):
        sockets = [
            await stack.enter_async_context(
                http.ws_connect(f"{root}/responses", headers=headers, max_msg_size=0)
            )
            for root in roots
        ]
        taken: list[list[float]] = [[], []]
        before = ["", ""]
        for turn in range(TURNS):
            for at, socket in enumerate(sockets):
                _, body, _ = AGENTS[agent](turn)
                del body["stream"]
                if agent == "codex" and before[at]:
                    body |= {"previous_response_id": before[at], "input": body["input"][-1:]}
                first_ms, before[at] = await first_over_websocket(socket, body)
                taken[at].append(first_ms)
        assert upstream.over == ["websocket"] * 2 * TURNS
    added_ms = median(by - at for at, by in zip(*taken, strict=True))
    assert min(taken[0]) >= THINKS_S * 1e3 - 1
    assert added_ms < ADDED_MS_MAX, added_ms
