"""Goal: over three channels prompts are read from a cache as over one, and none of them is hot.

Method: providers that cache as the real ones do (caching_providers), many agents at once with
growing prompts and a system message in common, in each dialect, with and without a name for their
sessions; the cached share of all input is compared with what one channel gives, and the calls of
each channel with an equal share. Then a channel refuses for a while, and comes back.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from relay.model import Dialect
from relay.routing.affinity import CACHED_TOKENS_MIN, EIGHTHS_LONG
from tests.flow.caching_providers import CachingProvider, Clock
from tests.flow.rig import KEY, MODEL, Rig, make_channel, make_snapshot
from tests.local_app import serve_app

SYSTEM = "You are an agent that works in a repository of its user. " * 110
SESSIONS, TURNS = 60, 8
SHARE_OF_ONE = 0.95
LOAD_OF_EQUAL = 1 + EIGHTHS_LONG / 8
"""What the rules of affinity let a channel carry of its equal share."""
S_A_CALL = 1.0
"""Of the providers' clock: sessions that all take turns ask again within a minute."""

DIALECTS = {
    "chat": (Dialect.OPENAI, "/v1/chat/completions"),
    "responses": (Dialect.OPENAI, "/v1/responses"),
    "messages": (Dialect.ANTHROPIC, "/v1/messages"),
    "gemini": (Dialect.GEMINI, f"/v1beta/models/{MODEL}:generateContent"),
}


def said(session: int, turn: int) -> str:
    return f"Session {session} asks for the step {turn} of its work. " * 44


def answered(session: int, turn: int) -> str:
    return f"Of session {session} the step {turn} is done. " * 38


def chat_body(session: int, turn: int) -> dict[str, Any]:
    messages: list[Any] = [{"role": "system", "content": SYSTEM}]
    for step in range(turn):
        messages.append({"role": "user", "content": said(session, step)})
        messages.append({"role": "assistant", "content": answered(session, step)})
    messages.append({"role": "user", "content": said(session, turn)})
    return {"model": MODEL, "messages": messages, "max_tokens": 9}


def responses_body(session: int, turn: int) -> dict[str, Any]:
    items = chat_body(session, turn)["messages"]
    items[0] = {"role": "developer", "content": SYSTEM}
    return {"model": MODEL, "input": items, "store": False}


def messages_body(session: int, turn: int) -> dict[str, Any]:
    marked = {"cache_control": {"type": "ephemeral"}}
    messages = chat_body(session, turn)["messages"][1:]
    messages[-1] = {
        "role": "user",
        "content": [{"type": "text", "text": said(session, turn), **marked}],
    }
    system = [{"type": "text", "text": SYSTEM, **marked}]
    return {"model": MODEL, "system": system, "messages": messages, "max_tokens": 9}


def gemini_body(session: int, turn: int) -> dict[str, Any]:
    contents = [
        {"role": {"assistant": "model"}.get(m["role"], "user"), "parts": [{"text": m["content"]}]}
        for m in chat_body(session, turn)["messages"][1:]
    ]
    return {"systemInstruction": {"parts": [{"text": SYSTEM}]}, "contents": contents}


BODIES = {
    "chat": chat_body,
    "responses": responses_body,
    "messages": messages_body,
    "gemini": gemini_body,
}


@asynccontextmanager
async def standing(channels: int, dialect: Dialect) -> AsyncIterator["Agents"]:
    async with AsyncExitStack() as stack:
        clock = Clock()
        providers = [CachingProvider(clock) for _ in range(channels)]
        made = []
        for number, provider in enumerate(providers, 1):
            app = web.Application()
            app.router.add_route("*", "/{tail:.*}", provider.answer)
            port = await stack.enter_async_context(serve_app(app))
            root = "" if dialect is Dialect.GEMINI else "/v1"
            made.append(
                make_channel(
                    number,
                    port,
                    protocol=dialect,
                    models={MODEL: MODEL},
                    base_url=f"http://127.0.0.1:{port}{root}",
                )
            )
        rig = await stack.enter_async_context(Rig(make_snapshot(made)))
        connector = aiohttp.TCPConnector(limit=0)
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        yield Agents(rig, providers, clock, http)


class Agents:
    """Sessions that ask over a relay, all at once."""

    def __init__(
        self, rig: Rig, providers: list[CachingProvider], clock: Clock, http: aiohttp.ClientSession
    ) -> None:
        self.rig = rig
        self.providers = providers
        self.clock = clock
        self._http = http
        self._asked = 0

    async def ask(self, dialect: str, how: str, session: int, turn: int) -> None:
        """Take one turn; `how`: the field or the header that names the session, "" = none."""
        body = BODIES[dialect](session, turn)
        headers = {"Authorization": f"Bearer {KEY}", "x-session-id": f"{session}.{turn}"}
        if how == "prompt_cache_key":
            body[how] = f"session-{session}"
        elif how:
            headers[how] = f"session-{session}"
        url = self.rig.url.removesuffix("/v1") + DIALECTS[dialect][1]
        async with self._http.post(url, json=body, headers=headers) as told:
            assert told.status == 200, await told.text()
            await told.read()
        self.clock.now_s += S_A_CALL
        self._asked += 1

    async def take_turns(self, dialect: str, how: str, turns: range) -> float:
        """Have all sessions take some turns; return the cached share of their input."""

        async def session(number: int) -> None:
            for turn in turns:
                await self.ask(dialect, how, number, turn)

        before = len(self.rig.journal.ends)
        await asyncio.gather(*map(session, range(SESSIONS)))
        ends = (await self.rig.ended(self._asked))[before:]
        return sum(end.cached_tokens for end in ends) / sum(end.input_tokens for end in ends)

    def switches(self) -> int:
        """Return how often a turn was served elsewhere than the one before it."""
        where = {
            (session, turn): number
            for number, provider in enumerate(self.providers)
            for session, turns in provider.turns.items()
            for turn in turns
        }
        return sum(
            turn > 0 and where.get((session, turn - 1)) != number
            for (session, turn), number in where.items()
        )


async def cached_share(channels: int, dialect: str, how: str) -> tuple[float, list[int]]:
    """Return the share of the input that came from a cache, and the calls of each channel."""
    async with standing(channels, DIALECTS[dialect][0]) as agents:
        share = await agents.take_turns(dialect, how, range(TURNS))
        return share, [provider.calls for provider in agents.providers]


@pytest.mark.parametrize(
    ("dialect", "how"),
    [
        ("chat", "prompt_cache_key"),
        ("chat", "session_id"),
        ("chat", "x-session-affinity"),
        ("chat", ""),
        ("responses", "prompt_cache_key"),
        ("responses", ""),
        ("messages", "x-claude-code-session-id"),
        ("messages", ""),
        ("gemini", ""),
    ],
)
async def test_three_channels_cache_as_one_at_equal_load(dialect: str, how: str) -> None:
    alone, _ = await cached_share(1, dialect, how)
    shared, calls = await cached_share(3, dialect, how)
    assert alone > 0.6, "what is compared with has to be worth something"
    assert shared >= SHARE_OF_ONE * alone, (shared, alone)
    assert max(calls) <= LOAD_OF_EQUAL * SESSIONS * TURNS / 3, calls


async def test_a_channel_that_refuses_gives_its_sessions_up_and_gets_none_back_at_once() -> None:
    """Half of the turns run while one of three channels is spent, or just after."""
    async with standing(3, Dialect.OPENAI) as agents:
        await agents.take_turns("chat", "prompt_cache_key", range(3))
        before = agents.switches()
        away = agents.providers[0]
        moved = {session for session, turns in away.turns.items() if turns[-1] == 2}
        away.limited = True
        await agents.take_turns("chat", "prompt_cache_key", range(3, 5))
        away.limited = False
        await asyncio.sleep(1.3)  # what it asked for is over: it is well again
        share = await agents.take_turns("chat", "prompt_cache_key", range(5, 8))
        assert away.calls > sum(turn < 3 for turns in away.turns.values() for turn in turns)
        back = agents.switches() - before - len(moved)
        # No session has lost its cache a second time but those that even out the load.
        assert back <= SESSIONS // 3 + SESSIONS // 6, (back, len(moved))
    async with standing(1, Dialect.OPENAI) as agents:
        await agents.take_turns("chat", "prompt_cache_key", range(5))
        alone = await agents.take_turns("chat", "prompt_cache_key", range(5, 8))
    assert share >= SHARE_OF_ONE * alone, (share, alone)


async def test_the_share_is_counted_by_line_channel_and_model() -> None:
    async with standing(3, Dialect.OPENAI) as agents:
        await agents.take_turns("chat", "prompt_cache_key", range(3))
        counters = agents.rig.server.counters
        asked: dict[tuple[str, ...], int] = {}
        cached: dict[tuple[str, ...], int] = {}
        for end in agents.rig.journal.ends:
            where = ("line", f"channel-{end.channel_id}", MODEL)
            if end.input_tokens >= CACHED_TOKENS_MIN:
                asked[where] = asked.get(where, 0) + end.input_tokens
                cached[where] = cached.get(where, 0) + end.cached_tokens
        assert dict(counters.prompt_tokens) == asked and len(asked) == 3
        assert dict(counters.cached_tokens) == cached and min(cached.values()) > 0
