"""Goal: calls over their limits wait, fairly and announced, for as long as their line says.

Method: a data plane with real sockets and a limiter that is one bucket in memory; streams and plain
calls that wait, are served, are refused, or whose clients leave; then the queues by themselves,
with ten thousand calls that are cancelled at random moments.
"""

import asyncio
import random

import msgspec
import pytest

from relay.clock import clock_s
from relay.config import Config, Timeouts
from relay.flow.reserve.line_queues import LineQueues, QueuedCall
from relay.limits.bucket import Rule
from relay.limits.decision import Denied
from relay.limits.limit_set import Grant, LimitSet
from relay.limits.scopes import Bucket, Limit, Measure, Scope
from relay.model import Line
from tests.flow.one_bucket import OneBucket
from tests.flow.rig import SSE_HEAD, Peer, Rig, chat, chunked, make_channel, make_snapshot, post

LINE_BUCKET = Bucket("l", "l", Scope.LINE, Measure.TOKENS, Rule(60_000, 1_000))
SET = LimitSet((Limit((LINE_BUCKET,), None),))


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    event = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n'
    writer.write(SSE_HEAD + chunked(event + b"data: [DONE]\n\n") + b"0\r\n\r\n")


def rig_of(peer: Peer, limiter: OneBucket, wait_ms: int, comment_s: float = 15.0) -> Rig:
    snapshot = make_snapshot([make_channel(1, peer.port)])
    line = msgspec.structs.replace(snapshot.lines[1], tpm=60_000, wait_ms=wait_ms)
    timeouts = Timeouts(keepalive_comment_s=comment_s)
    snapshot = msgspec.structs.replace(snapshot, lines={1: line})
    return Rig(snapshot, Config(timeouts=timeouts), limiter)


def a_stream() -> bytes:
    return post("/v1/chat/completions", chat(stream=True, max_tokens=10))


async def test_a_call_over_its_limit_waits_and_is_told_how_long() -> None:
    limiter = OneBucket(per_s=0)
    async with Peer(answer) as peer, rig_of(peer, limiter, wait_ms=5_000) as rig:
        asked = asyncio.create_task(rig.say(a_stream()))
        async with asyncio.timeout(5):
            while not rig.server.counters.inflight:
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.15)
        assert not asked.done()
        limiter.tokens = 1e6
        told = await asked
        assert told.startswith(b"HTTP/1.1 200")
        waited_ms = int(told.split(b"x-relay-queue-ms: ")[1].split(b"\r\n")[0])
        assert 100 <= waited_ms < 3_000
        assert b"[DONE]" in told
        # Who need not wait is told of no wait.
        assert b"x-relay-queue-ms" not in await rig.say(a_stream())


async def test_a_line_that_lets_nobody_wait_refuses_at_once() -> None:
    async with Peer(answer) as peer, rig_of(peer, OneBucket(per_s=0), wait_ms=0) as rig:
        assert (await rig.say(a_stream())).startswith(b"HTTP/1.1 429")


async def test_a_wait_that_would_be_too_long_is_refused_at_once_with_its_true_length() -> None:
    async with Peer(answer) as peer, rig_of(peer, OneBucket(per_s=1), wait_ms=5_000) as rig:
        begun_s = clock_s()
        told = await rig.say(a_stream())
        assert told.startswith(b"HTTP/1.1 429")
        assert clock_s() - begun_s < 2.5
        assert int(told.split(b"retry-after: ")[1].split(b"\r\n")[0]) >= 1


async def test_a_stream_that_waits_hears_comments_and_a_refusal_in_band() -> None:
    limiter = OneBucket(per_s=0)
    async with Peer(answer) as peer, rig_of(peer, limiter, wait_ms=700, comment_s=0.1) as rig:
        told = await rig.say(a_stream())
        assert told.startswith(b"HTTP/1.1 200")
        assert b"x-relay-queue-ms: " in told
        assert told.count(b"\n: ") + told.count(b"\r\n: ") + told.count(b"\n:") >= 3
        assert b"rate_limit_exceeded" in told
        assert told.endswith(b"0\r\n\r\n")
        end = (await rig.ended())[0]
        assert end.error_code == "rate_limit_exceeded"
        # One that is served in the end is served behind its comments.
        asked = asyncio.create_task(rig.say(a_stream()))
        await asyncio.sleep(0.3)
        limiter.tokens = 1e6
        assert b"[DONE]" in await asked


async def test_a_client_that_leaves_is_out_of_the_queue_at_once() -> None:
    limiter = OneBucket(per_s=0)
    async with Peer(answer) as peer, rig_of(peer, limiter, wait_ms=60_000) as rig:
        for _ in range(5):
            _, writer = await asyncio.open_connection("127.0.0.1", rig.port)
            writer.write(a_stream())
            await asyncio.sleep(0.05)
            writer.transport.abort()
        ends = await rig.ended(5)
        assert {end.reason for end in ends} == {"client_gone"}
        assert limiter.taken == 0
        assert rig.server.counters.inflight == 0


async def call_once(
    queues: LineQueues, line: Line, dice: random.Random, patience_s: float
) -> Grant | Denied | None:
    ticket = QueuedCall(dice.randrange(10), 100, SET, [50], 50, lambda: None)
    try:
        async with asyncio.timeout(patience_s):
            return await queues.pass_through(line, ticket)
    except TimeoutError:
        return None


@pytest.mark.timeout(240)
async def test_ten_thousand_random_cancels_leak_nothing() -> None:
    dice = random.Random(11)
    limiter = OneBucket(per_s=400_000)
    queues = LineQueues(limiter, 15.0)
    line = Line(id=1, name="line", channel_ids=(), wait_ms=2_000)
    found: list[Grant | Denied | None] = []
    while found.count(None) < 10_000:
        batch = (call_once(queues, line, dice, dice.random() * 0.05) for _ in range(900))
        found += await asyncio.gather(*batch)
    granted = sum(isinstance(one, Grant) for one in found)
    assert granted > 100
    async with asyncio.timeout(5):
        while queues.waiting() or queues.is_busy(line):
            await asyncio.sleep(0.01)
    assert limiter.taken == 50 * granted


@pytest.mark.timeout(120)
async def test_accounts_share_what_there_is_whoever_offers_most() -> None:
    limiter = OneBucket(per_s=400_000)
    queues = LineQueues(limiter, 15.0)
    line = Line(id=1, name="line", channel_ids=(), wait_ms=60_000)
    served: dict[int, int] = dict.fromkeys(range(10), 0)

    async def offer(account_id: int) -> None:
        while True:
            ticket = QueuedCall(account_id, 100, SET, [2_000], 2_000, lambda: None)
            decision = await queues.pass_through(line, ticket)
            if isinstance(decision, Grant):
                served[account_id] += 1
            else:
                await asyncio.sleep(0.01)

    callers = [offer(account_id) for account_id in range(1, 10) for _ in range(8)]
    callers += [offer(0) for _ in range(800)]
    tasks = [asyncio.create_task(caller) for caller in callers]
    while sum(served.values()) < 1_500:
        await asyncio.sleep(0.02)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    fair = sum(served.values()) / 10
    assert min(served[account_id] for account_id in range(1, 10)) >= 0.95 * fair, served


@pytest.mark.parametrize("kind", ["chat", "stream"])
async def test_those_who_wait_go_before_those_who_come(kind: str) -> None:
    limiter = OneBucket(per_s=0)
    async with Peer(answer) as peer, rig_of(peer, limiter, wait_ms=100_000) as rig:
        first = asyncio.create_task(rig.say(a_stream(), within_s=100.0))
        await asyncio.sleep(0.1)
        limiter.tokens = 30.0  # enough for a small call, and not for the first
        second = asyncio.create_task(
            rig.say(
                post("/v1/chat/completions", chat(stream=kind == "stream", max_tokens=1)),
                within_s=100.0,
            )
        )
        await asyncio.sleep(0.1)
        limiter.tokens = 1e6
        answers = await asyncio.gather(first, second)
        assert all(told.startswith((b"HTTP/1.1 200", b"HTTP/1.1 502")) for told in answers)
