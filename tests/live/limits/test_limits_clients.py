"""Goal: the official clients back off for as long as they are told, and succeed by themselves.

Method: a data plane with a small limit, and calls with the clients' own retries on.
"""

import time
from collections.abc import AsyncIterator

import anthropic
import openai
import pytest

from relay.mock.options import MockOptions
from relay.mock.server import MockServer, start
from relay.model import Allowance, Dialect
from relay.store.limits.limiter import Limiter
from tests.flow.rig import KEY, MODEL, Rig, make_channel
from tests.live.limit_rig import limiter_on
from tests.live.limits.test_limits_flow import limited

pytestmark = pytest.mark.live

AT_ONCE = 6
"""Calls allowed of 60 a minute: the next one has to wait for about a second."""


@pytest.fixture
async def limiter(redis_url: str) -> AsyncIterator[Limiter]:
    async with limiter_on(redis_url) as limiter:
        yield limiter


@pytest.fixture
async def mock() -> AsyncIterator[MockServer]:
    mock = await start(MockOptions(chunks=3))
    yield mock
    await mock.close()


async def test_openai(limiter: Limiter, mock: MockServer) -> None:
    snapshot = limited([make_channel(1, mock.port)], key=Allowance(rpm=60))
    async with (
        Rig(snapshot, limiter=limiter) as rig,
        openai.AsyncOpenAI(base_url=rig.url, api_key=KEY, max_retries=2) as client,
    ):
        begun_s = time.monotonic()
        for _ in range(AT_ONCE + 1):
            answer = await client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "hello"}]
            )
            assert answer.choices[0].message.content
        took_s = time.monotonic() - begun_s
        statuses = [end.status for end in await rig.ended(AT_ONCE + 2)]
        assert statuses == [200] * AT_ONCE + [429, 200], "one refusal, and one more try"
        assert 0.8 < took_s < 8
        with pytest.raises(openai.RateLimitError) as caught:
            await client.with_options(max_retries=0).chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "hello"}]
            )
        assert caught.value.code == "rate_limit_exceeded"
        assert caught.value.type == "requests"
        assert caught.value.response.headers["x-ratelimit-limit-requests"] == "60"


async def test_anthropic(limiter: Limiter, mock: MockServer) -> None:
    channel = make_channel(1, mock.port, protocol=Dialect.ANTHROPIC)
    snapshot = limited([channel], key=Allowance(rpm=60))
    base_url = ""
    async with Rig(snapshot, limiter=limiter) as rig:
        base_url = f"http://127.0.0.1:{rig.port}"
        async with anthropic.AsyncAnthropic(
            base_url=base_url, api_key=KEY, max_retries=2
        ) as client:
            begun_s = time.monotonic()
            for _ in range(AT_ONCE + 1):
                answer = await client.messages.create(
                    model=MODEL, max_tokens=50, messages=[{"role": "user", "content": "hello"}]
                )
                assert answer.content
            took_s = time.monotonic() - begun_s
            statuses = [end.status for end in await rig.ended(AT_ONCE + 2)]
            assert statuses == [200] * AT_ONCE + [429, 200], "one refusal, and one more try"
            assert 0.8 < took_s < 8
            with pytest.raises(anthropic.RateLimitError) as caught:
                await client.with_options(max_retries=0).messages.create(
                    model=MODEL, max_tokens=50, messages=[{"role": "user", "content": "hello"}]
                )
            headers = caught.value.response.headers
            assert headers["anthropic-ratelimit-requests-limit"] == "60"
            assert headers["anthropic-ratelimit-requests-remaining"] == "0"
            assert headers["anthropic-ratelimit-requests-reset"].endswith("Z")
            assert "x-ratelimit-limit-requests" not in headers
