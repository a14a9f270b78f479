"""Goal: the official anthropic client takes the relay for Anthropic, with only URL and key set.

Method: the client in the test's own loop against a whole data plane with a scripted upstream behind
it; what it returns is compared with what the upstream says it said, and with what was counted.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import anthropic
import pytest
from anthropic import AsyncAnthropic
from anthropic.types import MessageParam, ToolParam

from relay.config import Config, Server, Timeouts
from relay.mock.options import MockOptions
from relay.mock.script import digest, prose, tool_arguments
from relay.mock.server import MockServer, start
from relay.model import Dialect
from tests.flow.rig import KEY, MODEL, Rig, make_channel, make_snapshot

SAID: Final = "Tell me."
ASKED: Final[list[MessageParam]] = [{"role": "user", "content": SAID}]
CHUNKS: Final = 8
TEXT: Final = "".join(prose(digest(SAID.encode()), CHUNKS))
ENDLESS: Final = MockOptions(chunks=3000, interval_ms=10)
SILENT: Final = MockOptions(ttft_ms=60_000)
LEAVE_S: Final = 1.0
"""Within this the upstream must know that a client has left."""
BREAKS: Final = ("cut-after:6", "rst-after:6", "end-after:6", "error-after:6", "mid-event:6")
TOOL: Final[ToolParam] = {
    "name": "look_up",
    "input_schema": {
        "type": "object",
        "properties": {"query": {"type": "string"}, "note": {"type": "string"}},
        "required": ["query", "note"],
    },
}


class Stage(NamedTuple):
    """A relay with one channel, the upstream behind it, and the client in front."""

    rig: Rig
    mock: MockServer
    client: AsyncAnthropic

    @property
    def requests(self) -> int:
        """How many requests the relay has answered."""
        return sum(self.rig.server.counters.requests.values())

    async def create(self, **fields: Any) -> anthropic.types.Message:
        plain: dict[str, Any] = {"model": MODEL, "max_tokens": 1000, "messages": ASKED}
        message = await self.client.messages.create(**(plain | fields))
        assert isinstance(message, anthropic.types.Message)
        return message

    async def fail(self, **fields: Any) -> anthropic.APIStatusError:
        """Return what the client raised, for a call that must fail."""
        with pytest.raises(anthropic.APIStatusError) as caught:
            await self.create(**fields)
        error = caught.value
        assert isinstance(error.body, dict)
        assert error.body["type"] == "error"
        # A provider's own words come with its own id; ours is in the header always.
        assert error.body["request_id"] in (error.request_id, "req_mock")
        return error


@asynccontextmanager
async def stage(
    *,
    upstream: MockOptions | None = None,
    config: Config | None = None,
    fault: str = "",
    key: str = KEY,
    **key_fields: Any,
) -> AsyncIterator[Stage]:
    """Set a scene: MODEL is sound, or has the mock's `fault`."""
    mock = await start(upstream or MockOptions(chunks=CHUNKS, api_key="sk-upstream-1"))
    mock.set_fail(*filter(None, [fault]))
    channel = make_channel(1, mock.port, protocol=Dialect.ANTHROPIC)
    try:
        async with Rig(make_snapshot([channel], **key_fields), config) as rig:
            root = rig.url.removesuffix("/v1")
            async with AsyncAnthropic(base_url=root, api_key=key) as client:
                yield Stage(rig, mock, client)
    finally:
        await mock.close()


# --- what goes well -----------------------------------------------------------------------------


async def test_create() -> None:
    async with stage() as scene:
        message = await scene.create()
        (block,) = message.content
        assert (block.type == "text" and block.text, message.stop_reason) == (TEXT, "end_turn")
        (end,) = await scene.rig.ended()
        assert message._request_id == f"req_{end.request_id.hex()}"
        usage = message.usage
        assert (end.input_tokens, end.output_tokens) == (usage.input_tokens, usage.output_tokens)


@pytest.mark.parametrize("prefix", ["/v1", "/v1/"])
async def test_a_base_url_with_v1_in_it(prefix: str) -> None:
    async with stage() as scene:
        root = scene.rig.url.removesuffix("/v1") + prefix
        async with AsyncAnthropic(base_url=root, auth_token=KEY) as client:
            message = await client.messages.create(model=MODEL, max_tokens=99, messages=ASKED)
            assert message.stop_reason == "end_turn"
            assert [model.id async for model in client.models.list()] == [MODEL]


async def test_the_stream_helper() -> None:
    async with stage() as scene:
        async with scene.client.messages.stream(
            model=MODEL, max_tokens=1000, messages=ASKED
        ) as stream:
            text = "".join([text async for text in stream.text_stream])
            final = await stream.get_final_message()
        assert (text, final.stop_reason) == (TEXT, "end_turn")
        (end,) = await scene.rig.ended()
        usage = final.usage
        assert (end.input_tokens, end.output_tokens) == (usage.input_tokens, usage.output_tokens)
        assert not end.estimated


async def test_the_stream_helper_over_pings_in_a_silence() -> None:
    config = Config(timeouts=Timeouts(keepalive_comment_s=0.01))
    slow = MockOptions(chunks=CHUNKS, ttft_ms=600)
    async with (
        stage(upstream=slow, config=config) as scene,
        scene.client.messages.stream(model=MODEL, max_tokens=1000, messages=ASKED) as stream,
    ):
        assert await stream.get_final_text() == TEXT


async def test_raw_events_come_in_order() -> None:
    async with stage() as scene:
        stream = await scene.client.messages.create(
            model=MODEL, max_tokens=1000, messages=ASKED, stream=True
        )
        kinds = [event.type async for event in stream]
        assert kinds == [
            *("message_start", "content_block_start"),
            *["content_block_delta"] * CHUNKS,
            *("content_block_stop", "message_delta", "message_stop"),
        ]


@pytest.mark.parametrize("streamed", [False, True])
async def test_tools(*, streamed: bool) -> None:
    async with stage() as scene:
        asked: dict[str, Any] = {"tools": [TOOL], "tool_choice": {"type": "any"}}
        if streamed:
            async with scene.client.messages.stream(
                model=MODEL, max_tokens=1000, messages=ASKED, **asked
            ) as stream:
                message: anthropic.types.Message = await stream.get_final_message()
        else:
            message = await scene.create(**asked)
        (block,) = message.content
        assert block.type == "tool_use"
        words = "".join(tool_arguments(digest(SAID.encode())))
        assert (block.name, message.stop_reason) == ("look_up", "tool_use")
        assert block.input == json.loads(words)


async def test_betas_go_on() -> None:
    async with stage() as scene:
        message = await scene.client.beta.messages.create(
            model=MODEL, max_tokens=99, messages=[{"role": "user", "content": SAID}], betas=["x-1"]
        )
        assert message.stop_reason == "end_turn"


async def test_count_tokens() -> None:
    async with stage() as scene:
        counted = await scene.client.messages.count_tokens(model=MODEL, messages=ASKED)
        assert counted.input_tokens == scene.mock.served[0].prompt_tokens
        (end,) = await scene.rig.ended()
        assert (end.input_tokens, end.cost_nanos) == (0, 0)


async def test_models() -> None:
    async with stage() as scene:
        assert [model.id async for model in scene.client.models.list()] == [MODEL]
        found = await scene.client.models.retrieve(MODEL)
        assert (found.id, found.display_name, found.lifecycle) == (MODEL, MODEL, "active")
        with pytest.raises(anthropic.NotFoundError):
            await scene.client.models.retrieve("no-such-model")


# --- errors -------------------------------------------------------------------------------------


class Cause(NamedTuple):
    """A fault of the upstream, the status that the relay makes of it, the client's class."""

    fault: str
    status: int
    kind: type[anthropic.APIStatusError]
    type: str


CAUSES: Final = (
    Cause("status:400", 400, anthropic.BadRequestError, "invalid_request_error"),
    Cause("status:401", 502, anthropic.InternalServerError, "api_error"),  # not the client's key
    Cause("status:409", 409, anthropic.ConflictError, "invalid_request_error"),
    Cause("status:413", 413, anthropic.RequestTooLargeError, "request_too_large"),
    Cause("status:422", 422, anthropic.UnprocessableEntityError, "invalid_request_error"),
    Cause("status:429", 429, anthropic.RateLimitError, "rate_limit_error"),
    Cause("status:500", 502, anthropic.InternalServerError, "api_error"),
    Cause("status:504", 504, anthropic.DeadlineExceededError, "timeout_error"),
    Cause("status:529", 529, anthropic.OverloadedError, "overloaded_error"),
    Cause("refuse", 502, anthropic.InternalServerError, "api_error"),
)


def assert_told(scene: Stage, error: anthropic.APIStatusError, cause: Cause) -> None:
    """Assert the class, the status and the type, and that the client did not come back in vain."""
    assert (type(error), error.status_code) == (cause.kind, cause.status)
    assert error.type == cause.type
    assert "SECRET" not in str(error.body)
    # What a conflict waits for may be over: then the client's own rule holds.
    assert scene.requests == 1 or cause.status == 409


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.fault)
async def test_what_an_upstream_does_wrong(cause: Cause) -> None:
    async with stage(fault=cause.fault) as scene:
        assert_told(scene, await scene.fail(), cause)


REFUSALS: Final[tuple[tuple[dict[str, Any], dict[str, Any], Cause], ...]] = (
    (
        {"key": "relay_no-such-key"},
        {},
        Cause("", 401, anthropic.AuthenticationError, "authentication_error"),
    ),
    (
        {"models": frozenset({"another"})},
        {},
        Cause("", 403, anthropic.PermissionDeniedError, "permission_error"),
    ),
    (
        {},
        {"model": "no-such-model"},
        Cause("", 404, anthropic.NotFoundError, "not_found_error"),
    ),
    ({"quota_nanos": 0}, {}, Cause("", 402, anthropic.PaymentRequiredError, "billing_error")),
    (
        {"config": Config(server=Server(body_bytes_max=10_000))},
        {"system": "x" * 4_000_000},
        Cause("", 413, anthropic.RequestTooLargeError, "request_too_large"),
    ),
    ({}, {"model": ""}, Cause("", 400, anthropic.BadRequestError, "invalid_request_error")),
)


@pytest.mark.parametrize(
    ("scenery", "fields", "cause"), REFUSALS, ids=[refusal[2].type for refusal in REFUSALS]
)
async def test_what_the_relay_refuses(
    scenery: dict[str, Any], fields: dict[str, Any], cause: Cause
) -> None:
    async with stage(**scenery) as scene:
        assert_told(scene, await scene.fail(**fields), cause)
        assert not scene.mock.served
        statuses = {end.status for end in scene.rig.journal.ends}
        assert statuses <= {cause.status}, "the log has the status that the client saw"


async def test_an_overloaded_relay_is_tried_again_when_it_says() -> None:
    async with stage() as scene:
        scene.rig.journal.healthy = False
        error = await scene.fail()
        assert (type(error), error.status_code) == (anthropic.OverloadedError, 529)
        assert error.response.headers["retry-after"] in ("1", "2")
        assert scene.requests == 3
        playing = asyncio.create_task(scene.create())
        async with asyncio.timeout(5):
            while scene.requests == 3:
                await asyncio.sleep(0.005)
        scene.rig.journal.healthy = True
        assert (await playing).stop_reason == "end_turn"
        assert scene.requests == 5


async def test_the_client_waits_as_told_and_succeeds() -> None:
    async with stage(fault="retry-after:1") as scene:
        begun_s = asyncio.get_running_loop().time()
        playing = asyncio.create_task(scene.create())
        async with asyncio.timeout(5):
            await scene.mock.until(lambda state: state.calls == 1 and not state.in_flight)
        scene.mock.set_fail()
        assert (await playing).stop_reason == "end_turn"
        # Our jitter adds up to a quarter, and a quarter of a second; nothing is sooner.
        assert 1.0 <= asyncio.get_running_loop().time() - begun_s < 3.0
        assert scene.requests == 2


async def test_where_waiting_helps_the_client_comes_back() -> None:
    async with stage(fault="retry-after:0") as scene:
        error = await scene.fail()
        assert (type(error), scene.requests) == (anthropic.RateLimitError, 3)


# --- streams that break, clients that leave -----------------------------------------------------


@pytest.mark.parametrize("fault", BREAKS)
async def test_a_broken_stream_raises(fault: str) -> None:
    async with stage(fault=fault) as scene:
        text = ""
        with pytest.raises(anthropic.APIStatusError) as caught:
            async with scene.client.messages.stream(
                model=MODEL, max_tokens=1000, messages=ASKED
            ) as stream:
                async for piece in stream.text_stream:
                    text += piece
        assert TEXT.startswith(text)
        assert 0 < len(text) < len(TEXT)
        (end,) = await scene.rig.ended()
        assert isinstance(caught.value.body, dict)
        assert caught.value.body["request_id"] == f"req_{end.request_id.hex()}"
        assert scene.requests == 1


async def assert_upstream_left(scene: Stage) -> None:
    async with asyncio.timeout(LEAVE_S):
        await scene.mock.until(lambda state: state.aborted == 1 and state.in_flight == 0)
    (end,) = await scene.rig.ended()
    assert (end.status, end.reason) == (499, "client_gone")


async def test_leaving_a_stream_ends_it_upstream() -> None:
    async with stage(upstream=ENDLESS) as scene:
        async with scene.client.messages.stream(
            model=MODEL, max_tokens=9000, messages=ASKED
        ) as stream:
            async for _ in stream.text_stream:
                break
        await assert_upstream_left(scene)


@pytest.mark.parametrize("streamed", [False, True])
async def test_leaving_before_the_answer_ends_it_upstream(*, streamed: bool) -> None:
    async with stage(upstream=SILENT) as scene:
        leaving = asyncio.create_task(scene.create(stream=streamed))
        async with asyncio.timeout(5):
            await scene.mock.until(lambda state: state.in_flight == 1)
        leaving.cancel()
        await asyncio.wait([leaving])
        await assert_upstream_left(scene)
