"""Goal: the mock offers what the benchmark's routers and mixes need. Method: ask it, count."""

import json

import aiohttp

from relay.mock.options import MockOptions
from relay.mock.server import start


async def test_health_is_told_without_a_key() -> None:
    mock = await start(MockOptions(api_key="sk-secret"))
    root = mock.url.removesuffix("/v1")
    try:
        async with aiohttp.ClientSession() as session, session.get(f"{root}/health") as answer:
            assert answer.status == 200
    finally:
        await mock.close()


async def test_several_tokens_in_an_event_count_as_many_and_say_the_same() -> None:
    said = []
    for size, events in ((1, 10), (4, 3)):
        mock = await start(MockOptions(chunks=10, tokens_per_event=size))
        body = {
            "model": "mock-model",
            "stream": True,
            "stream_options": {"include_usage": True},
            "messages": [{"role": "user", "content": "hello"}],
        }
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.post(f"{mock.url}/chat/completions", json=body) as answer,
            ):
                text = await answer.text()
        finally:
            await mock.close()
        assert '"completion_tokens":10' in text
        found = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
        deltas = [choice["delta"] for event in found for choice in event["choices"]]
        pieces = [delta["content"] for delta in deltas if delta.get("content")]
        assert len(pieces) == events
        said.append("".join(pieces))
    assert said[0] == said[1]
