"""Goal: the official Anthropic client for Node, which Claude Code is built on, works unchanged.

Method: one process of it plays a scenario a test against a whole data plane with a scripted
upstream behind it; see test_anthropic_client.py for the same in Python, and more.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import pytest
import pytest_asyncio

from relay.mock.options import MockOptions
from relay.mock.script import digest, tool_arguments
from tests.clients.process import ANTHROPIC_NODE, ClientProcess, Failure
from tests.clients.test_anthropic_client import BREAKS, CHUNKS, ENDLESS, LEAVE_S, SAID, TEXT, Stage
from tests.clients.test_anthropic_client import stage as python_stage
from tests.flow.rig import KEY, MODEL

pytestmark = pytest.mark.asyncio(loop_scope="module")

USAGE: Final = [2, CHUNKS]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client() -> AsyncIterator[ClientProcess]:
    process = ClientProcess(ANTHROPIC_NODE)
    yield process
    await process.close()


class Scene(NamedTuple):
    """A stage with the client for Node in front."""

    on: Stage
    client: ClientProcess

    async def see(self, scenario: str, **options: Any) -> dict[str, Any]:
        """Return what the client saw in a scenario that must go well."""
        outcome = await self.client.play(scenario, self._root, KEY, **options)
        assert outcome.failure is None
        assert outcome.value is not None
        return outcome.value

    async def fail(self, scenario: str, *, key: str = KEY, **options: Any) -> Failure:
        """Return the exception that the client raised in a scenario that must fail."""
        outcome = await self.client.play(scenario, self._root, key, **options)
        assert outcome.failure is not None, outcome.value
        assert outcome.failure.request_id is not None
        return outcome.failure

    @property
    def _root(self) -> str:
        return self.on.rig.url.removesuffix("/v1")


@asynccontextmanager
async def stage(
    client: ClientProcess, *, upstream: MockOptions | None = None, fault: str = ""
) -> AsyncIterator[Scene]:
    async with python_stage(upstream=upstream, fault=fault) as on:
        yield Scene(on, client)


async def test_create(client: ClientProcess) -> None:
    async with stage(client) as scene:
        seen = await scene.see("create")
        (end,) = await scene.on.rig.ended()
        request_id = f"req_{end.request_id.hex()}"
        told = {"text": TEXT, "stop_reason": "end_turn", "usage": USAGE}
        assert seen == told | {"request_id": request_id}
        assert [end.input_tokens, end.output_tokens] == USAGE


async def test_the_stream_helper(client: ClientProcess) -> None:
    async with stage(client) as scene:
        seen = await scene.see("stream")
        assert (seen["text"], seen["heard"], seen["usage"]) == (TEXT, TEXT, USAGE)


async def test_tools(client: ClientProcess) -> None:
    async with stage(client) as scene:
        words = "".join(tool_arguments(digest(SAID.encode())))
        assert await scene.see("tools") == {
            "name": "look_up",
            "input": json.loads(words),
            "stop_reason": "tool_use",
        }


async def test_count_tokens_and_models(client: ClientProcess) -> None:
    async with stage(client) as scene:
        assert await scene.see("count_tokens") == {"input_tokens": 2}
        assert await scene.see("models") == {"listed": [MODEL], "found": MODEL}


@pytest.mark.parametrize(
    ("fault", "kind", "status"),
    [
        ("status:400", "BadRequestError", 400),
        ("status:429", "RateLimitError", 429),
        ("status:500", "InternalServerError", 502),
        ("status:529", "OverloadedError", 529),
    ],
)
async def test_what_an_upstream_does_wrong(
    client: ClientProcess, fault: str, kind: str, status: int
) -> None:
    async with stage(client, fault=fault) as scene:
        failure = await scene.fail("create")
        assert (failure.kind, failure.status) == (kind, status)
        assert scene.on.requests == 1


async def test_what_the_relay_refuses(client: ClientProcess) -> None:
    async with stage(client) as scene:
        failure = await scene.fail("create", key="relay_no-such-key")
        assert (failure.kind, failure.status) == ("AuthenticationError", 401)
        failure = await scene.fail("create", model="no-such-model")
        assert (failure.kind, failure.status) == ("NotFoundError", 404)


@pytest.mark.parametrize("fault", BREAKS)
async def test_a_broken_stream_raises(client: ClientProcess, fault: str) -> None:
    async with stage(client, fault=fault) as scene:
        seen = await scene.see("broken_stream")
        assert TEXT.startswith(seen["text"])
        assert 0 < len(seen["text"]) < len(TEXT)
        assert seen["failure"] is not None
        (end,) = await scene.on.rig.ended()
        assert f"req_{end.request_id.hex()}" in seen["failure"]["message"]


async def test_leaving_a_stream_ends_it_upstream(client: ClientProcess) -> None:
    async with stage(client, upstream=ENDLESS) as scene:
        assert await scene.see("leave_stream") == {"seen": 4}
        async with asyncio.timeout(LEAVE_S):
            await scene.on.mock.until(lambda state: state.aborted == 1 and state.in_flight == 0)
