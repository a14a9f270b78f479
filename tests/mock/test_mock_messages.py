"""Goal: the mock is a fair stand-in for Anthropic, so that tests against it mean something.

Method: the official client straight against the mock; what it refuses, on raw HTTP.
"""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import anthropic
import pytest
from anthropic import AsyncAnthropic

from relay.mock.options import MockOptions
from relay.mock.script import digest, prose
from relay.mock.server import MockServer, start

CHUNKS = 10
SAID = "Tell me."
TEXT = "".join(prose(digest(SAID.encode()), CHUNKS))
ASKED: list[Any] = [{"role": "user", "content": [{"type": "text", "text": SAID}]}]
KEY = "sk-ant-mock"


@pytest.fixture
async def mock() -> AsyncIterator[MockServer]:
    server = await start(MockOptions(chunks=CHUNKS, api_key=KEY, cached_tokens=1))
    yield server
    await server.close()


@pytest.fixture
async def client(mock: MockServer) -> AsyncIterator[AsyncAnthropic]:
    root = mock.url.removesuffix("/v1")
    async with AsyncAnthropic(base_url=root, default_headers={"x-api-key": KEY}) as client:
        yield client


async def ask(client: AsyncAnthropic, **fields: Any) -> anthropic.types.Message:
    plain: dict[str, Any] = {"model": "m", "max_tokens": 100, "messages": ASKED}
    async with client.messages.stream(**(plain | fields)) as stream:
        return await stream.get_final_message()


def text_of(message: anthropic.types.Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


async def test_it_counts_the_caches_apart(client: AsyncAnthropic) -> None:
    message = await ask(client, system="x" * 40)
    usage = message.usage
    read, written = usage.cache_read_input_tokens, usage.cache_creation_input_tokens
    assert (usage.input_tokens, read, written, usage.output_tokens) == (9, 1, 2, CHUNKS)
    assert usage.cache_creation is not None
    creation = usage.cache_creation
    kept = (creation.ephemeral_5m_input_tokens, creation.ephemeral_1h_input_tokens)
    assert kept == (1, 1)


async def test_it_stops_at_the_limit(client: AsyncAnthropic) -> None:
    message = await ask(client, max_tokens=3)
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 3)
    assert TEXT.startswith(text_of(message))


async def test_it_goes_on_from_a_trailing_turn(client: AsyncAnthropic, mock: MockServer) -> None:
    message = await ask(client, messages=[*ASKED, {"role": "assistant", "content": TEXT[:9]}])
    assert TEXT[:9] + text_of(message) == TEXT
    assert mock.served[0].resume == "trailing"


@pytest.mark.parametrize(
    ("headers", "fields", "status", "kind"),
    [
        ({}, {}, 401, "authentication_error"),
        ({"authorization": f"Bearer {KEY}"}, {}, 401, "authentication_error"),
        ({"x-api-key": KEY}, {"max_tokens": None}, 400, "invalid_request_error"),
        ({"x-api-key": KEY}, {"messages": []}, 400, "invalid_request_error"),
    ],
)
async def test_it_refuses_what_anthropic_refuses(
    mock: MockServer, headers: dict[str, str], fields: dict[str, Any], status: int, kind: str
) -> None:
    body = {"model": "m", "max_tokens": 9, "messages": ASKED} | fields
    headers = {"anthropic-version": "2023-06-01"} | headers
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{mock.url}/messages", json=body, headers=headers) as answer,
    ):
        told = await answer.json()
        assert (answer.status, told["type"], told["error"]["type"]) == (status, "error", kind)


async def test_it_insists_on_a_version(mock: MockServer) -> None:
    body = {"model": "m", "max_tokens": 9, "messages": ASKED}
    headers = {"x-api-key": KEY}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{mock.url}/messages", json=body, headers=headers) as answer,
    ):
        assert answer.status == 400
