"""Channels that take calls and never answer: who is caught waits for a moment, nobody after him.

Goal: a hang is found out long before the deadline that leaves reasoning models time to think, and
a trial that hangs holds neither its client nor the next trial up. Method: scripted upstreams that
hang, and deadlines far apart: whoever waits for the long one fails the test.
"""

import asyncio
import itertools
import time

from relay.clock import now_us
from relay.config import Config, Timeouts
from relay.mock.server import MockServer
from relay.routing.breaker import BreakerState
from relay.routing.health import Condition, Health
from tests.flow.load import Told, ask, mocks, settled, standing, until
from tests.flow.rig import MODEL, Rig, make_channel

FAR_S = 60.0
"""Nobody waits for this long."""
SHORT_S = 0.4
CONFIG = Config(timeouts=Timeouts(first_byte_s=FAR_S, answer_s=FAR_S, trial_first_byte_s=SHORT_S))
SWEEPS_S = 0.7
"""Two looks of the watch, and what a busy machine takes."""


def conditions(rig: Rig) -> list[Condition]:
    return rig.server.engine.balancer.health.describe(now_us())


_prompts = itertools.count()


async def call(rig: Rig) -> Told:
    """Ask what nobody has asked yet, so that no affinity draws it anywhere."""
    return await ask(rig, MODEL, f"question {next(_prompts)}", stream=False)


async def learn(rig: Rig, *upstreams: MockServer) -> None:
    """Have every upstream answer, so that it is known how long the model takes."""
    while not all(upstream.served for upstream in upstreams):
        assert (await call(rig)).whole


def expire(health: Health) -> None:
    """Let every wait be over."""
    for breaker in health._breakers.values():
        if breaker.state is BreakerState.OPEN:
            breaker.due_us = 0


async def test_a_hanging_channel_is_found_out_by_its_silence_and_its_calls_move_on() -> None:
    async with (
        mocks(2, ttft_ms=1.0, interval_ms=1.0) as (ill, well),
        standing(make_channel(1, ill.port), make_channel(2, well.port), config=CONFIG) as rig,
    ):
        await learn(rig, ill, well)
        ill.set_fail("hang")
        begun_s = time.monotonic()
        told = await asyncio.gather(*(call(rig) for _ in range(40)))
        assert all(one.whole for one in told)
        assert time.monotonic() - begun_s < SHORT_S + SWEEPS_S + 1.0
        assert [found.state for found in conditions(rig)] == [BreakerState.OPEN]
        asked = ill.state.calls
        assert (await call(rig)).took_s < SHORT_S
        assert ill.state.calls == asked
        await settled(rig)


async def test_one_call_that_thinks_for_long_is_left_alone() -> None:
    """A single silence proves nothing: its channel stays in service, and the call waits on."""
    async with (
        mocks(2, ttft_ms=1.0, interval_ms=1.0) as (slow, well),
        standing(
            make_channel(1, slow.port), make_channel(2, well.port, tier=1), config=CONFIG
        ) as rig,
    ):
        assert (await call(rig)).whole
        slow.set_fail("hang")
        thinking = asyncio.create_task(call(rig))
        await slow.until(lambda state: state.in_flight == 1)
        slow.set_fail()
        await until(lambda: rig.server.engine.balancer._in_flight[1] == 0)  # no load any more
        assert not thinking.done() and conditions(rig) == []
        for _ in range(5):  # what answers beside it shows that the channel lives
            assert (await call(rig)).whole
        assert conditions(rig) == [] and not well.served
        slow.drop()
        assert (await thinking).whole  # a cut it was, in the end
        assert conditions(rig) == []
        await settled(rig)


async def test_a_trial_that_hangs_costs_its_client_a_moment_and_makes_way_for_the_next() -> None:
    async with (
        mocks(2, ttft_ms=1.0, interval_ms=1.0) as (ill, well),
        standing(
            make_channel(1, ill.port), make_channel(2, well.port, tier=1), config=CONFIG
        ) as rig,
    ):
        health = rig.server.engine.balancer.health
        ill.set_fail("status:500")
        for _ in range(3):
            assert (await call(rig)).whole
        ill.set_fail("hang")
        for openings in (2, 3):
            expire(health)
            trial = asyncio.create_task(call(rig))
            await ill.until(lambda state: state.in_flight == 1)
            assert [found.state for found in conditions(rig)] == [BreakerState.HALF_OPEN]
            assert (await call(rig)).took_s < SHORT_S  # the others go elsewhere meanwhile
            told = await trial
            assert told.whole and SHORT_S <= told.took_s < SHORT_S + SWEEPS_S
            (found,) = conditions(rig)
            assert (found.state, found.openings) == (BreakerState.OPEN, openings)
        ill.set_fail()
        expire(health)
        served = len(ill.served)
        assert (await call(rig)).whole and len(ill.served) == served + 1
        assert conditions(rig) == []
        await settled(rig)


async def test_the_last_channel_of_a_model_gets_all_the_time_there_is() -> None:
    async with (
        mocks(1, ttft_ms=1.0, interval_ms=1.0) as (only,),
        standing(
            make_channel(1, only.port),
            config=Config(
                timeouts=Timeouts(first_byte_s=3.0, answer_s=3.0, trial_first_byte_s=0.2)
            ),
        ) as rig,
    ):
        only.set_fail("status:500")
        for _ in range(3):
            assert (await call(rig)).status == 502
        expire(rig.server.engine.balancer.health)
        only.set_fail("hang")
        trial = asyncio.create_task(call(rig))
        await only.until(lambda state: state.in_flight == 1)
        await until(lambda: rig.server.engine.balancer._in_flight[1] == 0)
        await asyncio.sleep(0.6)  # two looks more: it is left waiting
        assert not trial.done()
        told = await trial
        assert told.status == 504 and told.took_s > 2.99
        await settled(rig)
