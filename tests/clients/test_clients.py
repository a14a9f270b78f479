"""Goal: the official openai clients take the relay for OpenAI, with only base URL and key set.

Method: each client is a process of its own (Python 2.x and 3.x, Node 6.x and 7.x) that plays one
scenario a test against a whole data plane with a scripted upstream behind it; what it reports is
compared with what the upstream says it said, and with what the relay and the upstream counted.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import msgspec
import pytest
import pytest_asyncio

from relay.config import Config, Server, Timeouts
from relay.mock.options import MockOptions
from relay.mock.script import digest, json_object, prose, tool_arguments
from relay.mock.server import MockServer, start
from relay.model import PriceDetail
from tests.clients.process import ANSWER_S, CLIENTS, ClientProcess, Failure
from tests.flow.rig import KEY, MODEL, Rig, chat, make_channel, make_snapshot, post

pytestmark = pytest.mark.asyncio(loop_scope="module")

SAID: Final = b"Tell me."
FILE: Final = bytes(range(256)) * 40
CHUNKS: Final = 8
TEXT: Final = "".join(prose(digest(SAID), CHUNKS))
USAGE: Final = [2, CHUNKS]
ENDLESS: Final = MockOptions(chunks=3000, interval_ms=10)
SILENT: Final = MockOptions(ttft_ms=60_000)
LEAVE_S: Final = 1.0
"""Within this the upstream must know that a client has left."""

BREAKS: Final = ("cut-after:4", "rst-after:4", "end-after:4", "error-after:4", "mid-event:4")
RESPONSES_BREAKS: Final = ("cut-after:6", "error-after:6")


@pytest_asyncio.fixture(params=CLIENTS, scope="module", loop_scope="module")
async def client(request: pytest.FixtureRequest) -> AsyncIterator[ClientProcess]:
    process = ClientProcess(request.param)
    yield process
    await process.close()


class Stage(NamedTuple):
    """A relay with one channel, the upstream behind it, and the client in front."""

    rig: Rig
    mock: MockServer
    client: ClientProcess

    async def see(self, scenario: str, **options: Any) -> dict[str, Any]:
        """Return what the client saw in a scenario that must go well."""
        outcome = await self.client.play(scenario, self.rig.url, KEY, **options)
        assert outcome.failure is None
        assert outcome.value is not None
        return outcome.value

    async def fail(self, scenario: str, *, key: str = KEY, **options: Any) -> Failure:
        """Return the exception that the client raised in a scenario that must fail."""
        outcome = await self.client.play(scenario, self.rig.url, key, **options)
        assert outcome.failure is not None, outcome.value
        return outcome.failure

    @property
    def requests(self) -> int:
        """How many requests the relay has answered."""
        return sum(self.rig.server.counters.requests.values())


@asynccontextmanager
async def stage(
    client: ClientProcess,
    *,
    upstream: MockOptions | None = None,
    config: Config | None = None,
    fault: str = "",
    **key_fields: Any,
) -> AsyncIterator[Stage]:
    """Set a scene: MODEL is sound, or has the mock's `fault`."""
    mock = await start(upstream or MockOptions(chunks=CHUNKS))
    mock.set_fail(*filter(None, [fault]))
    channel = make_channel(1, mock.port)
    try:
        snapshot = make_snapshot([channel], **key_fields)
        snapshot.prices[MODEL] = msgspec.structs.replace(
            snapshot.prices[MODEL], detail=PriceDetail(character=1_000_000)
        )
        async with Rig(snapshot, config) as rig:
            yield Stage(rig, mock, client)
    finally:
        await mock.close()


@pytest_asyncio.fixture(loop_scope="module")
async def scene(client: ClientProcess) -> AsyncIterator[Stage]:
    async with stage(client) as scene:
        yield scene


async def test_the_client_is_the_one_it_should_be(scene: Stage) -> None:
    major = scene.client.name.rpartition("-")[2]
    assert (await scene.see("version"))["version"].startswith(f"{major}.")


# --- text -------------------------------------------------------------------------------------


async def test_chat(scene: Stage) -> None:
    seen = await scene.see("chat")
    assert (seen["text"], seen["finish_reason"], seen["usage"]) == (TEXT, "stop", USAGE)
    (end,) = await scene.rig.ended()
    assert seen["request_id"] == f"req_{end.request_id.hex()}"


@pytest.mark.parametrize("include_usage", [False, True])
async def test_chat_stream(scene: Stage, include_usage: bool) -> None:
    seen = await scene.see("chat_stream", include_usage=include_usage)
    assert seen == {
        "text": TEXT,
        "finish_reasons": ["stop"],
        "usages": [USAGE] if include_usage else [],
        "empty_chunks": 1 if include_usage else 0,
    }
    (end,) = await scene.rig.ended()
    assert ([end.input_tokens, end.output_tokens], end.estimated) == (USAGE, False)


async def test_chat_stream_assembled(scene: Stage) -> None:
    seen = await scene.see("chat_stream_assembled")
    assert (seen["text"], seen["finish_reason"]) == (TEXT, "stop")


@pytest.mark.parametrize("scenario", ["tools", "tools_stream"])
async def test_tools(scene: Stage, scenario: str) -> None:
    assert await scene.see(scenario) == {
        "name": "look_up",
        "arguments": "".join(tool_arguments(digest(SAID))),
        "finish_reason": "tool_calls",
    }


async def test_json_mode(scene: Stage) -> None:
    seen = await scene.see("json_mode")
    assert seen["text"] == "".join(json_object(digest(SAID), CHUNKS))


async def test_structured_parse(scene: Stage) -> None:
    seen = await scene.see("parse")
    assert seen["answer"] == "".join(prose(digest(SAID), CHUNKS - 2))


async def test_completions(scene: Stage) -> None:
    assert await scene.see("completions") == {"whole": TEXT, "streamed": TEXT}


async def test_responses(scene: Stage) -> None:
    seen = await scene.see("responses")
    assert seen == {"text": TEXT, "status": "completed", "usage": USAGE}


async def test_responses_stream(scene: Stage) -> None:
    seen = await scene.see("responses_stream")
    assert seen == {"text": TEXT, "status": "completed", "last": "response.completed"}


async def test_comments_in_a_silence_are_not_seen(client: ClientProcess) -> None:
    slow = MockOptions(chunks=CHUNKS, ttft_ms=500)
    config = Config(timeouts=Timeouts(keepalive_comment_s=0.01))
    async with stage(client, upstream=slow, config=config) as scene:
        question = post("/v1/chat/completions", chat(stream=True))
        seen, raw = await asyncio.gather(
            scene.see("chat_stream", include_usage=False), scene.rig.say(question)
        )
        assert seen["text"] == TEXT
        assert b": keepalive" in raw


# --- beside text ------------------------------------------------------------------------------


async def test_embeddings_are_the_same_as_floats_and_packed(scene: Stage) -> None:
    seen = await scene.see("embeddings")
    assert [len(vector) for vector in seen["plain"]] == [8, 8]
    assert seen["packed"] == seen["plain"]


async def test_models(scene: Stage) -> None:
    assert await scene.see("models") == {"listed": [MODEL], "found": MODEL}


async def test_moderations(scene: Stage) -> None:
    assert await scene.see("moderations") == {"flagged": [False, False]}


async def test_images(scene: Stage) -> None:
    seen = await scene.see("images")
    assert [len(seen["made"]), len(seen["edited"])] == [2, 1]
    assert {tuple(image) for image in seen["made"] + seen["edited"]} == {tuple(seen["made"][0])}


async def test_speech_is_bytes(scene: Stage) -> None:
    seen = await scene.see("speech")
    audio = (b"\xff\xfb\x90\x64" + (digest(SAID) * 32)[:413]) * CHUNKS
    assert seen["audio"] == [len(audio), hashlib.sha256(audio).hexdigest()]


async def test_an_uploaded_file_arrives_whole(scene: Stage) -> None:
    words = "".join(prose(digest(FILE), CHUNKS))
    assert await scene.see("transcriptions") == {"whole": words, "streamed": words}


# --- errors -----------------------------------------------------------------------------------


class Cause(NamedTuple):
    """A fault of the upstream, the status that the relay makes of it, the client's class."""

    fault: str
    status: int
    kind: str


CAUSES: Final = (
    Cause("status:400", 400, "BadRequestError"),
    Cause("status:401", 502, "InternalServerError"),  # the channel's credential, not the client's
    Cause("status:409", 409, "ConflictError"),
    Cause("status:422", 422, "UnprocessableEntityError"),
    Cause("status:429", 429, "RateLimitError"),
    Cause("status:500", 502, "InternalServerError"),
    Cause("status:504", 504, "InternalServerError"),
    Cause("refuse", 502, "InternalServerError"),
)


PROVIDERS_WORDS = ("status:400", "status:409")
"""What a provider finds wrong in a request is told in its own words."""


def assert_told(
    scene: Stage, failure: Failure, kind: str, status: int, *, provider_words: bool = False
) -> None:
    """Assert what every refusal has: its class, its status, a request id that support can use."""
    assert (failure.kind, failure.status) == (kind, status)
    assert failure.request_id is not None
    own = failure.request_id in failure.message
    assert own is not provider_words, "ours has our request id, a provider's own has its words"
    # What a conflict waits for may be over: then the client's own rule holds.
    assert scene.requests == 1 or status == 409, "it came back, though that cannot help"


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.fault)
async def test_what_an_upstream_does_wrong(client: ClientProcess, cause: Cause) -> None:
    async with stage(client, fault=cause.fault) as scene:
        failure = await scene.fail("chat")
        words = cause.fault in PROVIDERS_WORDS
        assert_told(scene, failure, cause.kind, cause.status, provider_words=words)


async def test_a_wrong_key(scene: Stage) -> None:
    failure = await scene.fail("chat", key="relay_no-such-key")
    assert_told(scene, failure, "AuthenticationError", 401)


async def test_a_model_that_the_key_may_not_use(client: ClientProcess) -> None:
    async with stage(client, models=frozenset({"another"})) as scene:
        failure = await scene.fail("chat")
        assert_told(scene, failure, "PermissionDeniedError", 403)


async def test_a_model_that_is_not_there(scene: Stage) -> None:
    failure = await scene.fail("chat", model="no-such-model")
    assert_told(scene, failure, "NotFoundError", 404)


async def test_a_spent_quota(client: ClientProcess) -> None:
    async with stage(client, quota_nanos=0) as scene:
        failure = await scene.fail("chat")
        assert_told(scene, failure, "RateLimitError", 429)


async def test_a_body_that_is_too_large(client: ClientProcess) -> None:
    config = Config(server=Server(body_bytes_max=10_000))
    async with stage(client, config=config) as scene:
        failure = await scene.fail("chat", padding_bytes=4_000_000)
        generic = "APIError" if scene.client.name.startswith("node") else "APIStatusError"
        assert_told(scene, failure, generic, 413)


async def test_where_waiting_helps_the_client_comes_back(client: ClientProcess) -> None:
    async with stage(client, fault="retry-after:0") as scene:
        failure = await scene.fail("chat")
        assert (failure.kind, failure.status) == ("RateLimitError", 429)
        assert scene.requests == 3


async def test_an_overloaded_relay(scene: Stage) -> None:
    scene.rig.journal.healthy = False
    failure = await scene.fail("chat", max_retries=0)
    assert_told(scene, failure, "InternalServerError", 503)


async def test_an_overloaded_relay_is_tried_again_when_it_says(scene: Stage) -> None:
    scene.rig.journal.healthy = False
    playing = asyncio.create_task(scene.see("chat"))
    async with asyncio.timeout(ANSWER_S):
        while not scene.requests:
            await asyncio.sleep(0.005)
    scene.rig.journal.healthy = True
    assert (await playing)["text"] == TEXT
    assert scene.requests == 2


# --- streams that break -----------------------------------------------------------------------


@pytest.mark.parametrize("fault", BREAKS)
async def test_a_broken_stream_raises(client: ClientProcess, fault: str) -> None:
    async with stage(client, fault=fault) as scene:
        seen = await scene.see("broken_stream")
        assert TEXT.startswith(seen["text"])
        assert 0 < len(seen["text"]) < len(TEXT)
        assert seen["failure"]["kind"] == "APIError"
        (end,) = await scene.rig.ended()
        assert f"req_{end.request_id.hex()}" in seen["failure"]["message"]
        assert scene.requests == 1


@pytest.mark.parametrize("fault", RESPONSES_BREAKS)
async def test_a_broken_responses_stream_says_so(client: ClientProcess, fault: str) -> None:
    async with stage(client, fault=fault) as scene:
        assert await scene.see("broken_responses_stream") == {"last": "response.failed"}


@pytest.mark.parametrize("fault", RESPONSES_BREAKS)
async def test_a_broken_response_is_assembled_as_failed(client: ClientProcess, fault: str) -> None:
    async with stage(client, fault=fault) as scene:
        assert await scene.see("broken_responses_assembled") == {"status": "failed"}


# --- clients that leave -----------------------------------------------------------------------


async def assert_upstream_left(scene: Stage) -> None:
    async with asyncio.timeout(LEAVE_S):
        await scene.mock.until(lambda state: state.aborted == 1 and state.in_flight == 0)
    (end,) = await scene.rig.ended()
    assert (end.status, end.reason) == (499, "client_gone")


async def test_leaving_a_stream_ends_it_upstream(client: ClientProcess) -> None:
    async with stage(client, upstream=ENDLESS) as scene:
        assert await scene.see("leave_stream") == {"seen": 2}
        await assert_upstream_left(scene)


@pytest.mark.parametrize("stream", [False, True])
async def test_leaving_before_the_answer_ends_it_upstream(
    client: ClientProcess, stream: bool
) -> None:
    async with stage(client, upstream=SILENT) as scene:
        leaving = asyncio.create_task(scene.see("leave_before_answer", stream=stream))
        async with asyncio.timeout(ANSWER_S):
            await scene.mock.until(lambda state: state.in_flight == 1)
        client.nudge()
        assert await leaving == {"cancelled": True}
        await assert_upstream_left(scene)


async def test_a_client_that_times_out_ends_it_upstream(client: ClientProcess) -> None:
    async with stage(client, upstream=SILENT) as scene:
        failure = await scene.fail("time_out")
        node = scene.client.name.startswith("node")
        assert failure.kind == ("APIConnectionTimeoutError" if node else "APITimeoutError")
        await assert_upstream_left(scene)
