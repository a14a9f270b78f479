"""What the load tests of failover found, each case alone: upstreams that fail on cue, few calls."""

import asyncio
import logging

import pytest

from relay.clock import now_us
from relay.config import Config, Timeouts
from relay.model import Resume
from relay.routing.health import Failure
from relay.routing.table import Outcome
from tests.flow.load import CHUNKS, ask, mocks, settled, standing, until, without
from tests.flow.rig import MODEL, Rig, chat, make_channel, make_snapshot, post

IMPATIENT = Config(timeouts=Timeouts(gap_s=0.3))
FRAMES = 1 + CHUNKS + 1
"""Events of an answer: the role, the tokens, the finish reason; usage and [DONE] come last."""


async def test_a_stream_that_stalls_behind_its_finish_reason_is_whole() -> None:
    async with (
        mocks(1, interval_ms=1.0) as (mock,),
        standing(make_channel(1, mock.port), config=IMPATIENT) as rig,
    ):
        mock.set_fail(f"stall-after:{FRAMES}")
        assert (await ask(rig, MODEL, "hello", stream=True)).whole
        (end,) = (await settled(rig)).values()
        assert (end.reason, end.estimated) == ("completed", True)
        assert not rig.server.engine.balancer.health.troubled


async def test_the_same_for_a_stream_that_was_carried_on() -> None:
    able = {"resume": Resume.TRAILING}
    async with (
        mocks(2, interval_ms=1.0) as (cut, stalling),
        standing(
            make_channel(1, cut.port, **able),
            make_channel(2, stalling.port, tier=1, **able),
            config=IMPATIENT,
            splice=True,
        ) as rig,
    ):
        cut.set_fail("cut-after:5")
        stalling.set_fail(f"stall-after:{FRAMES - 4}")
        assert (await ask(rig, MODEL, "hello", stream=True)).whole
        (end,) = (await settled(rig)).values()
        assert (end.reason, end.attempts) == ("completed", 2)


@pytest.mark.parametrize("reset", [False, True])
async def test_clients_that_hang_up_are_no_error_in_the_log(
    reset: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        mocks(1, chunks=10_000, ttft_ms=0.0, interval_ms=1.0) as (mock,),
        standing(make_channel(1, mock.port)) as rig,
    ):
        await asyncio.gather(*(hang_up(rig, reset=reset) for _ in range(20)))
        async with asyncio.timeout(5):
            await mock.until(lambda state: state.in_flight == 0)
        ends = await settled(rig)
        assert [end.reason for end in ends.values()] == ["client_gone"] * 20
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def hang_up(rig: Rig, *, reset: bool) -> None:
    """Begin a stream and leave in the middle of it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.write(post("/v1/chat/completions", chat(stream=True)))
    await reader.readuntil(b"\r\n\r\n")
    if reset:
        writer.transport.abort()
    writer.close()


async def test_a_refusal_leaves_its_connection_to_the_next_call() -> None:
    async with mocks(1, ttft_ms=0.0) as (mock,), standing(make_channel(1, mock.port)) as rig:
        mock.set_fail("status:500")
        for _ in range(3):
            assert (await ask(rig, MODEL, "hello", stream=False)).status == 502
        assert (mock.state.calls, mock.state.connections) == (3, 1)
        assert repr(rig.server.pool) == "<UpstreamPool 1 open, 1 idle>"


async def test_an_eviction_costs_no_call_though_the_other_channel_failed_lately() -> None:
    async with (
        mocks(2, ttft_ms=300.0) as (drained, other),
        standing(make_channel(1, drained.port), make_channel(2, other.port, tier=1)) as rig,
    ):
        health = rig.server.engine.balancer.health
        health.fail(2, MODEL, Failure(Outcome.CUT, now_us()), now_us=now_us(), dice=0.0)
        calls = [
            asyncio.create_task(ask(rig, MODEL, "hello", stream=bool(n % 2))) for n in range(10)
        ]
        await until(lambda: drained.state.in_flight == 10)
        rig.server.swap(without(rig.snapshot, 1, evicted=True))
        assert [one.status for one in await asyncio.gather(*calls)] == [200] * 10
        assert all(end.channel_id == 2 for end in (await settled(rig)).values())


async def test_a_question_that_cannot_be_framed_leaves_nothing_under_way() -> None:
    """A bug of ours, had by a URL that no catalog takes: over a kept connection, and a new one."""
    async with mocks(1) as (mock,), standing(make_channel(1, mock.port)) as rig:
        question = post("/v1/chat/completions", chat())
        assert (await rig.say(question)).startswith(b"HTTP/1.1 200 ")
        broken = make_channel(1, mock.port, base_url=f"http://127.0.0.1:{mock.port}/v1\udcff")
        rig.server.swap(make_snapshot([broken]))
        assert len(rig.server.pool._open) == 1
        for _ in range(2):
            assert await rig.say(question) == b""
            assert not rig.server.pool._open
            assert not any(rig.server.engine.balancer._in_flight.values())
        ends = await rig.ended(3)
        assert [(end.status, end.cost_nanos > 0) for end in ends] == [
            (200, True),
            (500, False),
            (500, False),
        ]
