"""Goal: calls whose channels have spent their quota wait as calls over any other limit do.

Method: a data plane with real sockets, whose line has no limit and whose channels have; the limiter
is one bucket in memory, which knows ahead that it is empty, or finds out when it is asked; then the
queues by themselves, with more calls than sockets would carry.
"""

import asyncio
import contextlib
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import msgspec
import pytest

from relay.clock import clock_s
from relay.config import Config, Timeouts
from relay.errors import ChannelSpent
from relay.flow.call import Call
from relay.flow.request import RequestFacts, Rights
from relay.flow.reserve.channel_queues import ChannelQueues
from relay.flow.reserve.channel_quotas import ChannelQuotas
from relay.limits.estimate import Estimator
from relay.model import Account, Channel, Key, Line
from relay.wire.api_keys import digest
from tests.flow.one_bucket import OneBucket
from tests.flow.rig import (
    MODEL,
    PEPPER,
    SSE_HEAD,
    Peer,
    Rig,
    chat,
    chunked,
    make_channel,
    make_snapshot,
    post,
)

if TYPE_CHECKING:
    from relay.flow.ports import Client

FORESEES = pytest.mark.parametrize("foresees", [True, False])


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    event = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n'
    writer.write(SSE_HEAD + chunked(event + b"data: [DONE]\n\n") + b"0\r\n\r\n")


def rig_of(
    channels: Sequence[Channel],
    limiter: OneBucket,
    wait_ms: int,
    *,
    comment_s: float = 15.0,
    hedge_ms: int = 0,
) -> Rig:
    snapshot = make_snapshot(list(channels))
    line = msgspec.structs.replace(snapshot.lines[1], wait_ms=wait_ms, hedge_ms=hedge_ms)
    config = Config(timeouts=Timeouts(keepalive_comment_s=comment_s))
    return Rig(msgspec.structs.replace(snapshot, lines={1: line}), config, limiter)


def a_stream(max_tokens: int = 10, key: str | None = None) -> bytes:
    body = chat(stream=True, max_tokens=max_tokens)
    path = "/v1/chat/completions"
    return post(path, body) if key is None else post(path, body, key=key)


def queue_ms(told: bytes) -> int:
    return int(told.split(b"x-relay-queue-ms: ")[1].split(b"\r\n")[0])


@FORESEES
@pytest.mark.parametrize("hedge_ms", [0, 2_000])
async def test_a_call_waits_for_its_channel_s_quota_and_is_told_how_long(
    foresees: bool, hedge_ms: int
) -> None:
    limiter = OneBucket(per_s=0, foresees=foresees)
    async with Peer(answer) as peer:
        channel = make_channel(1, peer.port, tpm=60_000)
        async with rig_of([channel], limiter, 5_000, hedge_ms=hedge_ms) as rig:
            asked = asyncio.create_task(rig.say(a_stream()))
            async with asyncio.timeout(5):
                while not rig.server.counters.inflight:
                    await asyncio.sleep(0.005)
            await asyncio.sleep(0.15)
            assert not asked.done()
            limiter.tokens = 1e6
            told = await asked
            assert told.startswith(b"HTTP/1.1 200")
            assert 100 <= queue_ms(told) < 3_000
            assert b"[DONE]" in told
            # Who need not wait is told of no wait.
            assert b"x-relay-queue-ms" not in await rig.say(a_stream())
            ends = await rig.ended(2)
            assert [(end.status, end.channel_id, end.attempts) for end in ends] == [(200, 1, 1)] * 2
    assert not rig.server.counters.inflight


@FORESEES
async def test_a_line_that_lets_nobody_wait_refuses_at_once(foresees: bool) -> None:
    async with Peer(answer) as peer:
        channel = make_channel(1, peer.port, tpm=60_000)
        async with rig_of([channel], OneBucket(per_s=0, foresees=foresees), 0) as rig:
            told = await rig.say(a_stream())
            assert told.startswith(b"HTTP/1.1 429")
            assert b"quota" in told
            assert rig.server.counters.limited == {("line", "channel", "tokens"): 1}


@FORESEES
async def test_a_wait_that_would_be_too_long_is_refused_at_once_with_its_true_length(
    foresees: bool,
) -> None:
    async with Peer(answer) as peer:
        channel = make_channel(1, peer.port, tpm=60_000)
        async with rig_of([channel], OneBucket(per_s=1, foresees=foresees), 5_000) as rig:
            begun_s = clock_s()
            told = await rig.say(a_stream())
            assert told.startswith(b"HTTP/1.1 429")
            assert clock_s() - begun_s < 2.5
            assert int(told.split(b"retry-after: ")[1].split(b"\r\n")[0]) >= 1
            assert rig.server.counters.limited == {("line", "channel", "tokens"): 1}


async def test_a_stream_that_waits_hears_comments_and_a_refusal_in_band() -> None:
    limiter = OneBucket(per_s=0, foresees=True)
    async with Peer(answer) as peer:
        channel = make_channel(1, peer.port, tpm=60_000)
        async with rig_of([channel], limiter, 700, comment_s=0.1) as rig:
            told = await rig.say(a_stream())
            assert told.startswith(b"HTTP/1.1 200")
            assert b"x-relay-queue-ms: " in told
            assert told.count(b"\n:") >= 3
            assert b"quota" in told
            assert told.endswith(b"0\r\n\r\n")
            assert not (await rig.ended())[0].channel_id


async def test_a_channel_without_a_quota_is_asked_before_anybody_waits() -> None:
    limiter = OneBucket(per_s=0, foresees=True)
    async with Peer(answer) as peer:
        channels = [make_channel(1, peer.port, tpm=60_000), make_channel(2, peer.port, tier=1)]
        async with rig_of(channels, limiter, 5_000) as rig:
            assert b"x-relay-queue-ms" not in await rig.say(a_stream())
            assert (await rig.ended())[0].channel_id == 2


async def test_a_client_that_leaves_is_out_of_the_queue_at_once_and_took_nothing() -> None:
    limiter = OneBucket(per_s=0, foresees=True)
    async with Peer(answer) as peer:
        channel = make_channel(1, peer.port, tpm=60_000)
        async with rig_of([channel], limiter, 60_000) as rig:
            for _ in range(5):
                _, writer = await asyncio.open_connection("127.0.0.1", rig.port)
                writer.write(a_stream())
                async with asyncio.timeout(5):
                    while not rig.server.counters.inflight:
                        await asyncio.sleep(0.005)
                await asyncio.sleep(0.05)
                writer.transport.abort()
                async with asyncio.timeout(5):
                    while rig.server.counters.inflight:
                        await asyncio.sleep(0.005)
            ends = await rig.ended(5)
            assert {end.reason for end in ends} == {"client_gone"}
            assert limiter.taken == 0
            assert rig.server.counters.inflight == 0


async def test_three_hundred_clients_that_leave_at_random_leak_nothing() -> None:
    dice = random.Random(7)
    limiter = OneBucket(per_s=2_000, foresees=True)
    async with Peer(answer) as peer:
        channel = make_channel(1, peer.port, tpm=60_000)
        async with rig_of([channel], limiter, 60_000) as rig:

            async def ask(patience_s: float) -> None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(patience_s):
                        await rig.say(a_stream())

            for _ in range(10):
                await asyncio.gather(*(ask(0.02 + dice.random() * 0.3) for _ in range(30)))
            async with asyncio.timeout(5):
                while rig.server.counters.inflight or rig.server.engine.balancer.quotas.waited:
                    await asyncio.sleep(0.01)
            ends = rig.journal.ends
            odd = [e for e in ends if e.status != 200 and e.reason != "client_gone"]
            assert not odd, [(e.status, e.error_code, e.reason, e.total_us) for e in odd]
            assert sum(end.status == 200 for end in ends) > 10
            await asyncio.sleep(0.1)
            assert b"x-relay-queue-ms" not in await rig.say(a_stream())


@FORESEES
async def test_those_who_wait_go_before_those_who_come(foresees: bool) -> None:
    limiter = OneBucket(per_s=0, foresees=foresees)
    async with Peer(answer) as peer:
        channel = make_channel(1, peer.port, tpm=600_000)
        async with rig_of([channel], limiter, 8_000) as rig:
            large = asyncio.create_task(rig.say(a_stream(2_000)))
            await asyncio.sleep(0.15)
            limiter.tokens = 100.0  # enough for a small call, and not for the first
            small = asyncio.create_task(rig.say(a_stream(1)))
            await asyncio.sleep(0.3)
            assert not small.done()
            limiter.tokens = 1e6
            assert all(b"[DONE]" in told for told in await asyncio.gather(large, small))
    assert limiter.granted[0] > 100 > limiter.granted[1]


CHANNEL = make_channel(1, 9, tpm=12_000_000)
LINE = Line(id=1, name="line", channel_ids=(1,), wait_ms=60_000)


class Silent:
    """A client that no byte is written to."""

    unsent_bytes = 0


def queues_over(limiter: OneBucket) -> tuple[ChannelQueues, ChannelQuotas]:
    """Return the queues of calls that all want CHANNEL, without sockets."""
    quotas = ChannelQuotas(limiter, Estimator())

    def choose(call: Call) -> Channel | None:
        return CHANNEL if quotas.bars(call, CHANNEL) is None else None

    return ChannelQueues(choose, quotas, lambda call, error: None, 15.0), quotas


def a_call(account_id: int, tokens: int) -> Call:
    call = Call(bytes(16), cast("Client", Silent()), 0)
    key = Key(id=account_id, account_id=account_id, name="k", digest=b"", last4="")
    account = Account(id=account_id, name=f"account-{account_id}", group_id=1)
    call.rights = Rights(key, account, line=LINE, channels=(CHANNEL,))
    call.request = RequestFacts(MODEL, body_bytes=100)
    call.reserved = (tokens, 0, 0)
    return call


@FORESEES
@pytest.mark.timeout(120)
async def test_accounts_share_what_a_channel_has_whoever_offers_most(foresees: bool) -> None:
    """Ten of them, one of which offers a hundred times as much as each of the others."""
    limiter = OneBucket(per_s=400_000, foresees=foresees)
    queues, _ = queues_over(limiter)
    served: dict[int, int] = dict.fromkeys(range(1, 11), 0)

    async def offer(account_id: int) -> None:
        while True:
            try:
                assert await queues.find(a_call(account_id, 2_000)) is not None
                served[account_id] += 1
            except ChannelSpent:
                await asyncio.sleep(0.01)

    callers = [offer(account_id) for account_id in range(2, 11) for _ in range(8)]
    callers += [offer(1) for _ in range(800)]
    tasks = [asyncio.create_task(caller) for caller in callers]
    while sum(served.values()) < 1_500:
        await asyncio.sleep(0.02)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    fair = sum(served.values()) / 10
    assert min(served[account_id] for account_id in range(2, 11)) >= 0.95 * fair, served


@pytest.mark.timeout(240)
async def test_ten_thousand_random_cancels_leak_nobody_and_nothing() -> None:
    dice = random.Random(13)
    limiter = OneBucket(per_s=400_000, foresees=True)
    queues, quotas = queues_over(limiter)
    granted = cancelled = 0

    async def ask(patience_s: float) -> None:
        nonlocal granted, cancelled
        try:
            async with asyncio.timeout(patience_s):
                assert await queues.find(a_call(dice.randrange(10), 50)) is not None
                granted += 1
        except TimeoutError:
            cancelled += 1

    while cancelled < 10_000:
        await asyncio.gather(*(ask(dice.random() * 0.05) for _ in range(900)))
    assert granted > 100
    async with asyncio.timeout(5):
        while queues.waiting() or queues.is_busy(LINE) or quotas.waited:
            await asyncio.sleep(0.01)
    assert limiter.taken == 50 * granted


async def test_accounts_share_a_channel_over_sockets_too() -> None:
    limiter = OneBucket(per_s=50_000, foresees=True)
    async with Peer(answer) as peer:
        rig = rig_of([make_channel(1, peer.port, tpm=12_000_000)], limiter, 60_000)
        names = {number: f"sk-relay-{number:043d}" for number in range(1, 5)}
        keys = [
            Key(
                id=number,
                account_id=number,
                name=f"key-{number}",
                digest=digest(PEPPER, name),
                last4="0000",
            )
            for number, name in names.items()
        ]
        rig.snapshot = msgspec.structs.replace(
            rig.snapshot,
            keys={key.digest: key for key in keys},
            accounts={n: Account(id=n, name=f"account-{n}", group_id=1) for n in names},
        )
        async with rig:

            async def offer(number: int) -> None:
                while True:
                    await rig.say(a_stream(max_tokens=1_000, key=names[number]))

            callers = [offer(number) for number in names for _ in range(30)]
            tasks = [asyncio.create_task(c) for c in (*callers, *(offer(1) for _ in range(120)))]
            await asyncio.sleep(4.0)
            served = [end for end in rig.journal.ends if end.status == 200]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    counts = {n: sum(end.account_id == n for end in served) for n in names}
    fair = sum(counts.values()) / len(counts)
    assert fair > 10, counts
    assert min(counts[n] for n in (2, 3, 4)) >= 0.85 * fair, counts
