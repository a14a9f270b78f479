"""Channels that die at every stage, through the whole data plane: what the client gets and pays.

The upstreams are scripted models that say the same words and go on from any prefix.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest
from openai import APIError, AsyncOpenAI

from relay.config import Config, Timeouts
from relay.mock.faults import MODES
from relay.mock.options import MockOptions
from relay.mock.script import digest, prose
from relay.mock.server import MockServer, start
from relay.model import Resume
from tests.flow.rig import KEY, MODEL, Rig, chat, make_channel, make_snapshot, post, unchunked

CHUNKS = 12
TEXT = "".join(prose(digest(b"hello"), CHUNKS))
FAST = Config(timeouts=Timeouts(first_byte_s=0.6, answer_s=0.6, gap_s=0.6, connect_s=1.0))


@asynccontextmanager
async def standing(
    *fails: str,
    resume: Resume = Resume.NONE,
    line: dict[str, Any] | None = None,
    config: Config = FAST,
    **options: Any,
) -> AsyncIterator[tuple[Rig, list[MockServer]]]:
    """Stand a relay before one mock for each of `fails` ("" = healthy), asked in this order."""
    async with AsyncExitStack() as stack:
        mocks: list[MockServer] = []
        plain: dict[str, Any] = {"models": (f"up-{MODEL}",), "chunks": CHUNKS}
        for fail in fails:
            mock = await start(MockOptions(**(plain | options)))
            stack.push_async_callback(mock.close)
            if fail:
                mock.set_fail(fail)
            mocks.append(mock)
        channels = [
            make_channel(n, mock.port, tier=n, resume=resume) for n, mock in enumerate(mocks, 1)
        ]
        snapshot = make_snapshot(channels)
        changed = msgspec.structs.replace(snapshot.lines[1], **(line or {}))
        snapshot = msgspec.structs.replace(snapshot, lines={1: changed})
        rig = await stack.enter_async_context(Rig(snapshot, config))
        yield rig, mocks


def texts(payload: bytes) -> str:
    """Join the text of a stream's events."""
    found = ""
    for line in payload.split(b"\n"):
        if line.startswith(b"data: {"):
            for choice in json.loads(line[6:]).get("choices", []):
                found += choice["delta"].get("content") or ""
    return found


def cost(input_tokens: int, output_tokens: int) -> int:
    """Return what the rig's price makes of an answer, in nano-dollars."""
    return 500 * input_tokens + 1_000 * output_tokens


async def stream(rig: Rig, **fields: Any) -> bytes:
    return unchunked(await rig.say(post("/v1/chat/completions", chat(stream=True, **fields))))[1]


BEFORE = [
    *("refuse", "hang", "rst-before-head", "rst-after-head", "garbage", "http-09", "huge-head"),
    *("endless-1xx", "two-lengths", "bad-chunk", "gzip", "waf", "error-first", "empty-stream"),
    *("json-for-sse", "html-for-sse", "status:429", "retry-after:9", "status:500", "status:504"),
    *("status:524", "status:529", "status:401", "status:402", "status:403", "status:404"),
    *("status:408", "status:503", "stall-after:0", "cut-after:0"),
]


@pytest.mark.parametrize("fail", BEFORE)
async def test_a_channel_that_dies_before_its_first_event_is_never_seen(fail: str) -> None:
    async with standing(fail, "") as (rig, mocks):
        payload = await stream(rig)
        assert texts(payload) == TEXT
        assert payload.endswith(b"data: [DONE]\n\n")
        assert b'"error"' not in payload
        (end,) = await rig.ended()
        assert (end.reason, end.channel_id, end.attempts) == ("completed", 2, 2)
        served = mocks[1].served[-1]
        assert (end.input_tokens, end.output_tokens) == (
            served.prompt_tokens,
            served.completion_tokens,
        )
        assert end.cost_nanos == cost(served.prompt_tokens, served.completion_tokens)


@pytest.mark.parametrize(
    "fail",
    [*(f for f in BEFORE if "sse" not in f and "stream" not in f), "wrong-length", "mid-event:1"],
)
async def test_the_same_for_a_plain_answer(fail: str) -> None:
    async with standing(fail, "") as (rig, mocks):
        answer = await rig.say(post("/v1/chat/completions", chat()))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert json.loads(body)["choices"][0]["message"]["content"] == TEXT
        (end,) = await rig.ended()
        served = mocks[1].served[-1]
        assert (end.reason, end.channel_id, end.attempts) == ("completed", 2, 2)
        assert end.cost_nanos == cost(served.prompt_tokens, served.completion_tokens)


AFTER = [
    *("rst-after:4", "cut-after:4", "mid-frame:4", "mid-event:4", "stall-after:4"),
    *("error-after:4", "end-after:4"),
]


@pytest.mark.parametrize("fail", AFTER)
async def test_a_stream_that_breaks_is_told_honestly_where_it_cannot_go_on(fail: str) -> None:
    async with standing(fail, "", line={"splice": True}) as (rig, mocks):
        payload = await stream(rig)
        assert TEXT.startswith(texts(payload)) and texts(payload) != TEXT
        assert b'data: {"error":' in payload
        assert b"[DONE]" not in payload and b'"finish_reason":"stop"' not in payload
        (end,) = await rig.ended()
        assert (end.status, end.reason, end.channel_id) == (200, "truncated", 1)
        assert end.estimated and 0 < end.output_tokens <= CHUNKS
        assert end.cost_nanos == cost(end.input_tokens, end.output_tokens)
        assert end.retry_nanos == 0
        assert not mocks[1].served


@pytest.mark.parametrize("fail", AFTER)
@pytest.mark.parametrize("resume", [r for r in Resume if r not in (Resume.NONE, Resume.ANCHORED)])
async def test_a_stream_that_breaks_goes_on_where_a_channel_can(fail: str, resume: Resume) -> None:
    async with standing(
        fail,
        "",
        resume=resume,
        line={"splice": True},
        echo_prefix=resume in (Resume.PREFIX, Resume.ECHO),
    ) as (rig, mocks):
        payload = await stream(rig, stream_options={"include_usage": True})
        assert texts(payload) == TEXT
        assert b'"error"' not in payload
        assert payload.endswith(b"data: [DONE]\n\n")
        assert payload.count(b'"role"') == 1
        chunks = [json.loads(line[6:]) for line in payload.split(b"\n") if line[:7] == b"data: {"]
        for name in ("id", "created", "model"):
            assert len({chunk[name] for chunk in chunks}) == 1
        assert sum(1 for chunk in chunks if chunk.get("usage")) == 1
        (end,) = await rig.ended()
        assert (end.reason, end.channel_id, end.attempts) == ("completed", 2, 2)
        # One answer, one charge: as the client would have paid without the failure.
        (usage,) = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
        assert usage["completion_tokens"] == end.output_tokens == CHUNKS
        assert usage["prompt_tokens"] == end.input_tokens
        assert end.cost_nanos == cost(end.input_tokens, CHUNKS)
        assert mocks[1].served[-1].completion_tokens < CHUNKS
        # What was sent again, prompt and prefix, is the operator's cost, at list price.
        prompt = rig.journal.starts[0].input_estimate
        assert prompt * 1_000 < end.retry_nanos <= (prompt + CHUNKS + 2) * 1_000


async def test_a_deterministic_call_is_replayed_on_any_channel() -> None:
    async with standing("cut-after:4", "", line={"splice": True}) as (rig, _):
        payload = await stream(rig, temperature=0)
        assert texts(payload) == TEXT
        assert payload.endswith(b"data: [DONE]\n\n")


WHOLE = ["finish-then-rst", "no-done", "wrong-length"]


@pytest.mark.parametrize("fail", WHOLE)
async def test_an_answer_that_was_whole_is_a_success(fail: str) -> None:
    async with standing(fail) as (rig, _):
        payload = await stream(rig)
        assert texts(payload) == TEXT
        assert payload.endswith(b"data: [DONE]\n\n")
        (end,) = await rig.ended()
        assert (end.reason, end.attempts) == ("completed", 1)
        assert end.cost_nanos == cost(end.input_tokens, end.output_tokens)
        assert CHUNKS <= end.output_tokens <= 2 * CHUNKS + 2  # counted: the usage was lost


ODD = ["split-bytes", "long-event:300000", "extra-bytes", "continue-100"]


@pytest.mark.parametrize("fail", ODD)
async def test_what_is_only_odd_does_no_harm(fail: str) -> None:
    async with standing(fail) as (rig, _):
        assert texts(await stream(rig)).endswith(TEXT[-20:])
        (end,) = await rig.ended()
        assert (end.attempts, end.output_tokens) == (1, CHUNKS)
        assert end.cost_nanos == cost(end.input_tokens, CHUNKS)


async def test_bytes_that_no_utf_8_has_are_no_answer() -> None:
    async with standing("invalid-utf8", "") as (rig, _):
        assert texts(await stream(rig)) == TEXT
        assert (await rig.ended())[0].channel_id == 2


def test_every_way_to_die_that_the_mock_knows_is_tried() -> None:
    asked_channels = {
        fail.partition(":")[0] for fail in (*BEFORE, *AFTER, *WHOLE, *ODD, "invalid-utf8")
    }
    assert asked_channels == set(MODES)


async def test_the_clients_own_fault_is_not_asked_of_another_channel() -> None:
    async with standing("status:400", "") as (rig, mocks):
        answer = await rig.say(post("/v1/chat/completions", chat()))
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert not mocks[1].served
        (end,) = await rig.ended()
        assert (end.reason, end.cost_nanos) == ("upstream_rejected", 0)
        assert not rig.server.engine.balancer.health.troubled


async def test_all_channels_down_is_told_fast_and_says_what_to_do() -> None:
    async with standing("refuse", "status:500", "retry-after:9") as (rig, _):
        begun = asyncio.get_running_loop().time()
        answer = await rig.say(post("/v1/chat/completions", chat()))
        assert asyncio.get_running_loop().time() - begun < 4.0  # and not the nine that one says
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b"retry-after: " in answer
        (end,) = await rig.ended()
        assert end.attempts == 3
        assert [(one.channel_id, one.outcome, one.status) for one in end.tries] == [
            (1, "refused", 0),
            (2, "server error", 500),
            (3, "limited", 429),
        ]
        moments = [one.asked_us for one in end.tries]
        assert moments == sorted(moments)
        assert all(0 <= one.asked_us + one.took_us <= end.total_us for one in end.tries)


async def test_a_call_that_was_moved_on_remembers_why_and_a_good_one_nothing() -> None:
    async with standing("status:503", "") as (rig, _):
        for _ in range(2):
            await rig.say(post("/v1/chat/completions", chat()))
        ends = await rig.ended(2)
        asked_channels = [
            [(one.channel_id, one.outcome, one.status) for one in end.tries] for end in ends
        ]
        assert sorted(asked_channels) == [[(1, "server error", 503)]] * 2
    async with standing("") as (rig, _):
        await rig.say(post("/v1/chat/completions", chat()))
        assert (await rig.ended())[0].tries == ()


async def test_a_failing_channel_is_left_alone_after_three_strikes_and_comes_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with standing("status:500", "") as (rig, mocks):
        for _ in range(10):
            assert (await rig.say(post("/v1/chat/completions", chat()))).startswith(b"HTTP/1.1 200")
        assert len(mocks[0].served) == 3
        mocks[0].set_fail()
        rig.server.engine.balancer.health.hasten(1, 1 << 62)
        for breaker in rig.server.engine.balancer.health._breakers.values():
            breaker.due_us = 0
        await rig.say(post("/v1/chat/completions", chat()))
        assert len(mocks[0].served) == 4
        assert not rig.server.engine.balancer.health.troubled
        said = [
            (record.getMessage(), record.__dict__["channel"])
            for record in caplog.records
            if record.name == "relay.flow.balancer"
        ]
        assert said == [
            ("a channel is out of service", "channel-1"),
            ("a channel is back in service", "channel-1"),
        ]


async def test_the_stream_helper_of_the_official_client_assembles_a_spliced_stream() -> None:
    async with standing("rst-after:5", "", resume=Resume.TRAILING, line={"splice": True}) as (
        rig,
        _,
    ):
        client = AsyncOpenAI(base_url=rig.url, api_key=KEY, max_retries=0)
        messages: Any = [{"role": "user", "content": "hello"}]
        async with client.chat.completions.stream(model=MODEL, messages=messages) as found:
            async for _ in found:
                pass
            whole = await found.get_final_completion()
        assert whole.choices[0].message.content == TEXT
        assert whole.choices[0].message.role == "assistant"
        assert whole.choices[0].finish_reason == "stop"
        await client.close()


async def test_the_official_client_raises_on_a_stream_that_was_cut() -> None:
    async with standing("cut-after:4") as (rig, _):
        client = AsyncOpenAI(base_url=rig.url, api_key=KEY, max_retries=0)
        messages: Any = [{"role": "user", "content": "hello"}]
        found = await client.chat.completions.create(model=MODEL, messages=messages, stream=True)
        with pytest.raises(APIError):
            async for _ in found:
                pass
        await client.close()


async def test_a_hedged_line_takes_the_faster_channel_and_drops_the_other() -> None:
    patient = Config(timeouts=Timeouts(first_byte_s=30.0, gap_s=30.0))
    async with standing("hang", "", line={"hedge_ms": 100}, config=patient, interval_ms=20) as (
        rig,
        mocks,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        begun = asyncio.get_running_loop().time()
        writer.write(post("/v1/chat/completions", chat(stream=True)))
        await reader.readuntil(b"data: ")
        assert asyncio.get_running_loop().time() - begun < 5  # a sixth of what the other may take
        async with asyncio.timeout(5):
            await mocks[0].until(lambda state: state.in_flight == 0)
        assert b"data: [DONE]" in await reader.read()
        writer.close()
        (end,) = await rig.ended()
        assert (end.channel_id, end.attempts, end.reason) == (2, 2, "completed")
        (served,) = mocks[1].served
        assert end.cost_nanos == cost(served.prompt_tokens, served.completion_tokens)
        assert end.output_tokens == CHUNKS
        assert end.retry_nanos == 0  # the loser never took the question on
        assert [one.channel_id for one in end.tries] == [1]


async def test_a_hedge_that_both_lose_fails_once() -> None:
    async with standing("hang", "status:500", line={"hedge_ms": 100}) as (rig, _):
        answer = await rig.say(post("/v1/chat/completions", chat()))
        assert answer.startswith(b"HTTP/1.1 50")
        assert len(await rig.ended()) == 1


async def test_a_drained_channel_finishes_what_runs_and_an_evicted_one_hands_it_over() -> None:
    for evicted in (False, True):
        async with standing(
            "", "", resume=Resume.TRAILING, line={"splice": True}, interval_ms=40
        ) as (rig, mocks):
            running = asyncio.create_task(stream(rig))
            await mocks[0].until(lambda state: state.in_flight == 1)
            await asyncio.sleep(0.15)
            old = rig.snapshot
            drained = msgspec.structs.replace(old.channels[1], drained=True, evicted=evicted)
            route = dict.fromkeys(old.routes, (old.channels[2],))
            rig.server.swap(
                msgspec.structs.replace(
                    old, channels={1: drained, 2: old.channels[2]}, routes=route
                )
            )
            assert texts(await running) == TEXT
            (end,) = await rig.ended()
            assert (end.channel_id, end.reason) == (2 if evicted else 1, "completed")
            assert texts(await stream(rig)) == TEXT
            assert (await rig.ended(2))[1].channel_id == 2


async def test_a_retry_carries_a_large_body() -> None:
    async with standing("rst-before-head", "") as (rig, _):
        body = chat(messages=[{"role": "user", "content": "x" * 3_000_000}])
        answer = await rig.say(post("/v1/chat/completions", body))
        assert answer.startswith(b"HTTP/1.1 200 ")
