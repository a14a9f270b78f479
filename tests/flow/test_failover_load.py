"""Failover under load: upstreams die, fail, are drained and healed beside hundreds of calls.

A whole data plane stands before scripted upstreams; every client checks its own answer to the
letter, and afterwards nothing may be left of any call. The seed of a run is in its report;
RELAY_TEST_SEED repeats it.
"""

import asyncio
import logging
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest

from relay.config import Config, Timeouts
from relay.mock.server import MockServer
from relay.model import Resume
from relay.routing.breaker import BreakerState
from relay.routing.health import Health, HealthChange
from relay.routing.policy import Policy
from tests.flow.load import (
    CHUNKS,
    TTFT_MS,
    Killed,
    Resetting,
    Stopped,
    Told,
    Upstream,
    ask,
    crowd,
    mocks,
    prompts,
    running_calls,
    settled,
    standing,
    until,
    without,
)
from tests.flow.rig import MODEL, Rig, chat, make_channel, post

PLAIN = "gpt-plain"
"""Served by channels that cannot continue an answer."""
INTERVAL_MS = (10.0, 20.0)
STREAM_S = (TTFT_MS + CHUNKS * INTERVAL_MS[1]) / 1000
POLICY = Policy(open_s=0.1, open_s_max=0.8, trial_s=0.5)
"""The default one, 75 times as fast: the long outages are simulated in tests/pure/routing."""
SHORT_OR_LONG = [
    pytest.param(1, id="short"),
    pytest.param(10, id="long", marks=[pytest.mark.slow, pytest.mark.timeout(300)]),
]
"""How many times the usual size or time; the long ones are for `make faults`."""


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Dice whose seed a failing test reports."""
    seed = int(os.environ.get("RELAY_TEST_SEED") or random.SystemRandom().getrandbits(32))
    request.node.add_report_section("setup", "seed", f"RELAY_TEST_SEED={seed}")
    return random.Random(seed)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that happens under load is worth an error in the log."""
    yield
    errors = [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    assert not errors


def count_attempts(found: list[MockServer]) -> int:
    return sum(mock.state.calls for mock in found)


# --- one of two dies --------------------------------------------------------------------------

DEATHS: list[tuple[type[Resetting | Killed], Timeouts]] = [
    (Resetting, Timeouts(first_byte_s=5.0, answer_s=5.0, gap_s=5.0)),
    (Killed, Timeouts(first_byte_s=5.0, answer_s=5.0, gap_s=5.0)),
    (Stopped, Timeouts(first_byte_s=1.0, answer_s=1.0, gap_s=1.0)),
]


@pytest.mark.parametrize("times", SHORT_OR_LONG)
@pytest.mark.parametrize(
    ("kind", "timeouts"), DEATHS, ids=lambda value: getattr(value, "__name__", "")
)
async def test_one_of_two_dies_at_any_moment_and_no_client_sees_it_before_its_first_byte(
    kind: type[Resetting | Killed], timeouts: Timeouts, times: int, rng: random.Random
) -> None:
    async with AsyncExitStack() as stack:
        upstreams: list[Upstream] = [await kind.stand(interval_ms) for interval_ms in INTERVAL_MS]
        for upstream in upstreams:
            stack.push_async_callback(upstream.close)
        ports = [upstream.port for upstream in upstreams]
        able = [make_channel(n, port, resume=Resume.TRAILING) for n, port in enumerate(ports, 1)]
        unable = [make_channel(n, port, models={PLAIN: PLAIN}) for n, port in enumerate(ports, 3)]
        config = Config(timeouts=timeouts)
        rig = await stack.enter_async_context(standing(*able, *unable, config=config, splice=True))
        async with crowd(rig, rng, MODEL, PLAIN, size=200) as told:
            await asyncio.sleep(0.5)
            for n in range(2 * times):
                victim = rng.choice(upstreams)
                await asyncio.sleep(rng.uniform(0.0, 0.5))
                await victim.die()
                # Every other time long enough for a trial that fails, and for deadlines to pass:
                # a gap of 1 s is noticed by sweeps, up to half a second late.
                await asyncio.sleep(rng.uniform(0.1, 0.8) if n % 2 else rng.uniform(1.8, 2.1))
                await victim.heal()
                # A call that has been moved once ends before the other one may die: what both
                # upstreams fail, no relay can save.
                await asyncio.sleep(2 * STREAM_S)
        broken = await judge(rig, told)
        assert broken[MODEL] == 0
        assert broken[PLAIN] > 0
        spliced = [end for end in rig.journal.ends if end.stream and end.attempts > 1]
        assert any(end.model == MODEL for end in spliced)
        for port in ports:
            assert await running_calls(port) == 0


async def judge(rig: Rig, told: list[Told]) -> Counter[str]:
    """Check every answer against its script and its record; return the broken streams by model."""
    ends = await settled(rig)
    assert len(ends) == len(told)
    broken: Counter[str] = Counter()
    for one in told:
        end = ends[one.number]
        assert (one.status, end.status) == (200, 200), one
        if one.whole:
            assert end.reason == "completed"
            check_usage(one, end.output_tokens, estimated=end.estimated)
            continue
        broken[one.model] += 1
        assert one.stream and not one.done and one.errors == 1, one
        assert end.reason == "truncated"
    return broken


def check_usage(one: Told, output_tokens: int, *, estimated: bool) -> None:
    """A whole answer is charged as what it is, in however many parts it came."""
    if one.usage is not None:
        assert output_tokens == one.usage["completion_tokens"] == CHUNKS
    else:  # cut behind its last word: counted from its text, whose words are longer than tokens
        assert estimated and CHUNKS <= output_tokens <= 3 * CHUNKS


# --- one or all fail --------------------------------------------------------------------------


@pytest.mark.slow  # it counts trials in two seconds of real time, which a busy machine bends
@pytest.mark.parametrize("times", SHORT_OR_LONG)
async def test_a_channel_that_fails_every_call_is_seen_by_nobody_and_gets_trials_only(
    times: int, rng: random.Random
) -> None:
    changes: list[HealthChange] = []
    async with mocks(2) as (bad, good):
        bad.set_fail("status:500")
        async with standing(make_channel(1, bad.port), make_channel(2, good.port)) as rig:
            rig.server.engine.balancer._on_changes = changes.extend
            rig.server.engine.balancer.health = Health(POLICY)
            async with crowd(rig, rng, MODEL, size=100) as told:
                await until(lambda: bool(changes))
                await until(lambda: rig.server.engine.balancer._in_flight[1] == 0)
                asked_before, begun_s = bad.state.calls, time.monotonic()
                changes.clear()
                await asyncio.sleep(2.0 * times)
            assert all(one.whole for one in told)
            await settled(rig)
            took_s = time.monotonic() - begun_s
            begun, failed = (
                (BreakerState.OPEN, BreakerState.HALF_OPEN),
                (BreakerState.HALF_OPEN, BreakerState.OPEN),
            )
            assert [(c.before, c.after) for c in changes] == [begun, failed] * (len(changes) // 2)
            trials = len(changes) // 2
            assert bad.state.calls - asked_before == trials
            # The waits double four times, and then each is half of the longest at least.
            assert 2 <= trials <= 5 + took_s / (POLICY.open_s_max / 2)
            assert rig.server.counters.attempts == count_attempts([bad, good])


@pytest.mark.parametrize("times", SHORT_OR_LONG)
async def test_where_all_fail_half_of_their_calls_nothing_storms_and_errors_are_fast(
    times: int, rng: random.Random
) -> None:
    config = Config()
    async with mocks(3, ttft_ms=20.0, seed=rng.getrandbits(32)) as failing:
        for mock in failing:
            mock.set_fail("status:500@0.5")
        channels = [make_channel(n, mock.port) for n, mock in enumerate(failing, 1)]
        async with standing(*channels, config=config) as rig:
            async with crowd(rig, rng, MODEL, size=16) as told:
                await asyncio.sleep(2.5 * times)
            await settled(rig)
        attempts = count_attempts(failing)
    assert attempts == rig.server.counters.attempts
    share_max, retries_min = config.switching.retry_share_max, config.switching.retries_min
    # The first calls find channels that nobody has seen fail yet: those retries are free.
    free = len(channels) * (Policy().strikes_max + 1)
    assert attempts <= len(told) * (1 + share_max) + retries_min + free
    failed = [one for one in told if not one.whole]
    assert len(told) > 100 and failed
    waited_s = sorted(one.took_s for one in failed)
    assert waited_s[len(waited_s) * 98 // 100] < 0.3
    for one in failed:
        assert one.status >= 500, one
        assert b"x-should-retry: " in one.head or b"retry-after: " in one.head


# --- healing ----------------------------------------------------------------------------------

BOUND_S = POLICY.open_s_max + POLICY.trial_s + 1.0
"""The longest wait, a trial that hangs, and what a busy machine and the next call take."""


@pytest.mark.parametrize("times", SHORT_OR_LONG)
async def test_a_channel_that_was_down_has_traffic_again_within_its_bound(
    times: int, rng: random.Random
) -> None:
    async with asyncio.TaskGroup() as tasks:
        for fail in ("refuse", "hang", "status:500", "rst-after:3"):
            down_s = rng.uniform(1.0, 3.0) * (1 if times == 1 else rng.uniform(1, 10))
            tasks.create_task(heal(fail, down_s, random.Random(rng.random())))


async def heal(fail: str, down_s: float, rng: random.Random) -> None:
    """Take one of two channels down for a while; check when it serves again."""
    timeouts = Timeouts(first_byte_s=0.4, answer_s=0.4, gap_s=5.0)
    async with (
        mocks(2, interval_ms=5.0, ttft_ms=5.0) as (ill, well),
        standing(
            make_channel(1, ill.port, resume=Resume.TRAILING),
            make_channel(2, well.port, resume=Resume.TRAILING),
            config=Config(timeouts=timeouts),
            splice=True,
        ) as rig,
    ):
        rig.server.engine.balancer.health = health = Health(POLICY)
        async with crowd(rig, rng, MODEL, size=4) as told:
            await asyncio.sleep(0.3)
            ill.set_fail(fail)
            ill.drop()
            await asyncio.sleep(down_s)
            assert 1 in health.troubled
            ill.set_fail()
            await until(lambda: 1 not in health.troubled, within_s=BOUND_S)
            served = len(ill.served)
            await until(lambda: len(ill.served) >= served + 10)
        assert all(one.whole for one in told)
        await settled(rig)


# --- drained by hand --------------------------------------------------------------------------


@pytest.mark.parametrize("times", SHORT_OR_LONG)
@pytest.mark.parametrize("evicted", [False, True])
async def test_a_drain_under_load_breaks_nothing(
    evicted: bool, times: int, rng: random.Random
) -> None:
    async with mocks(2) as (drained, other):
        able = {"resume": Resume.TRAILING}
        channels = [make_channel(1, drained.port, **able), make_channel(2, other.port, **able)]
        async with standing(*channels, splice=True) as rig:
            running = 0
            async with crowd(rig, rng, MODEL, size=100) as told:
                for _ in range(times):
                    await until(lambda: drained.state.in_flight > 20)
                    await asyncio.sleep(rng.uniform(0.2, 0.6))
                    running += await drain(rig, drained, evicted=evicted)
                    rig.server.swap(rig.snapshot)
                await until(lambda: drained.state.in_flight > 20)
            assert await judge(rig, told) == Counter()
            moved = sum(end.attempts > 1 for end in rig.journal.ends)
            # A stream with its finish reason out has nothing left to be moved for.
            assert running / 2 < moved <= running if evicted else moved == 0


async def drain(rig: Rig, upstream: MockServer, *, evicted: bool) -> int:
    """Drain channel 1 for a while; return how many calls were running there.

    Checks that it is asked nothing more and runs empty.
    """
    # What is on its way there already was decided before the drain.
    running = rig.server.engine.balancer._in_flight[1]
    asked = upstream.state.calls + running - upstream.state.in_flight
    rig.server.swap(without(rig.snapshot, 1, evicted=evicted))
    await until(lambda: upstream.state.in_flight == 0, within_s=0.3 if evicted else 3.0)
    await asyncio.sleep(0.5)
    assert upstream.state.calls <= asked
    return running


# --- clients that go --------------------------------------------------------------------------


@pytest.mark.parametrize("times", SHORT_OR_LONG)
async def test_when_all_clients_hang_up_nothing_goes_on_without_them(
    times: int, rng: random.Random
) -> None:
    async with mocks(2, chunks=200) as upstreams:
        channels = [
            make_channel(n, mock.port, resume=Resume.TRAILING)
            for n, mock in enumerate(upstreams, 1)
        ]
        async with standing(*channels, splice=True) as rig:
            await ask(rig, MODEL, "warm up", stream=False)
            tasks_before = asyncio.all_tasks()
            fresh = prompts(rng)
            heard = [
                sum(await asyncio.gather(*(leave(rig, next(fresh), rng) for _ in range(300))))
                for _ in range(times)
            ]
            await until(lambda: all(m.state.in_flight == 0 for m in upstreams), within_s=1.0)
            await until(lambda: not rig.server._connections.open)
            ends = await settled(rig)
            await until(lambda: asyncio.all_tasks() == tasks_before)
            open_upstream = sum(mock.state.open for mock in upstreams)
            assert open_upstream == rig.server.pool.open_count
        gone = [end for end in ends.values() if end.reason == "client_gone"]
        assert len(gone) == len(ends) - 1
        assert sum(heard) <= sum(end.output_tokens > 0 for end in gone)
        assert sum(heard) > 50 * times


async def leave(rig: Rig, prompt: str, rng: random.Random) -> bool:
    """Begin a stream and hang up at a random moment; tell whether any of it had come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    body = chat(stream=True, messages=[{"role": "user", "content": prompt}])
    writer.write(post("/v1/chat/completions", body))
    heard = b""
    try:
        async with asyncio.timeout(rng.choice((rng.uniform(0.0, 0.1), rng.uniform(0.0, 2.0)))):
            heard = await reader.read(1)
            await reader.read()
    except TimeoutError:
        pass
    if rng.random() < 0.5:
        writer.transport.abort()
    writer.close()
    return bool(heard)
