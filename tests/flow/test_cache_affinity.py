"""Goal: the calls of a session find the prompt cache that the last one filled.

Method: three providers that cache what they were sent, sessions of agents that say who they are in
each client's own way, all beginning with the same words; what is read from a cache is counted.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from relay.model import Dialect
from tests.flow.rig import KEY, MODEL, Rig, make_channel, make_snapshot

SYSTEM = "You are an agent. " * 60
SESSIONS, TURNS = 30, 8


class CachingProvider:
    """Tells how many characters of a prompt it has seen before."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.calls = 0

    async def answer(self, request: web.Request) -> web.Response:
        self.calls += 1
        messages = (await request.json())["messages"]
        prefixes = [json.dumps(messages[:count]) for count in range(1, len(messages) + 1)]
        cached = max((len(prefix) for prefix in prefixes if prefix in self.seen), default=0)
        self.seen.update(prefixes)
        whole = len(prefixes[-1])
        if request.path.endswith("/messages"):
            usage: dict[str, Any] = {
                "input_tokens": whole - cached,
                "cache_read_input_tokens": cached,
                "output_tokens": 1,
            }
        else:
            usage = {
                "prompt_tokens": whole,
                "prompt_tokens_details": {"cached_tokens": cached},
                "completion_tokens": 1,
            }
        return web.json_response({"id": "1", "choices": [], "content": [], "usage": usage})


@asynccontextmanager
async def standing(channels: int, dialect: Dialect) -> AsyncIterator[tuple[Rig, list[Any]]]:
    async with AsyncExitStack() as stack:
        providers = [CachingProvider() for _ in range(channels)]
        made = []
        for number, provider in enumerate(providers, 1):
            app = web.Application()
            app.router.add_route("*", "/{tail:.*}", provider.answer)
            runner = web.AppRunner(app)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
            models = {MODEL: MODEL}
            made.append(make_channel(number, port, protocol=dialect, models=models))
        rig = await stack.enter_async_context(Rig(make_snapshot(made)))
        yield rig, providers


async def cached_share(channels: int, path: str, how: str) -> tuple[float, list[int]]:
    """Return the share of the input that came from a cache, and the calls of each channel."""
    dialect = Dialect.ANTHROPIC if path == "messages" else Dialect.OPENAI
    dice = random.Random(7)
    async with standing(channels, dialect) as (rig, providers):
        async with aiohttp.ClientSession() as http:

            async def session(number: int) -> None:
                messages: list[Any] = [{"role": "system", "content": SYSTEM}]
                for turn in range(TURNS):
                    messages.append({"role": "user", "content": f"{number} asks {turn} " * 40})
                    body: dict[str, Any] = {"model": MODEL, "messages": messages, "max_tokens": 9}
                    headers = {"Authorization": f"Bearer {KEY}"}
                    if how == "prompt_cache_key":
                        body[how] = f"session-{number}"
                    elif how:
                        headers[how] = f"session-{number}"
                    async with http.post(f"{rig.url}/{path}", json=body, headers=headers) as told:
                        assert told.status == 200
                    await asyncio.sleep(dice.random() / 500)

            await asyncio.gather(*map(session, range(SESSIONS)))
        ends = await rig.ended(SESSIONS * TURNS)
        share = sum(e.cached_tokens for e in ends) / sum(e.input_tokens for e in ends)
        return share, [provider.calls for provider in providers]


@pytest.mark.parametrize(
    ("path", "how"),
    [
        ("chat/completions", "prompt_cache_key"),
        ("chat/completions", "session_id"),
        ("chat/completions", "x-session-affinity"),
        ("messages", "x-claude-code-session-id"),
    ],
)
async def test_sessions_over_three_channels_are_cached_as_over_one(path: str, how: str) -> None:
    alone, _ = await cached_share(1, path, how)
    shared, calls = await cached_share(3, path, how)
    assert shared >= 0.95 * alone, (shared, alone)
    assert min(calls) >= SESSIONS * TURNS // 10  # and all three have work
