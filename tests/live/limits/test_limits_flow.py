"""Goal: limits of every scope hold for real calls, and each way out of a call settles them.

Method: a data plane on a limiter and a real server; what the bank holds is read from it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from relay.limits.limit_set import LimitSet
from relay.limits.scopes import Scope, limit_of
from relay.mock.options import MockOptions
from relay.mock.server import MockServer, start
from relay.model import Allowance, Channel, Dialect, OnLoss, Snapshot
from relay.store.limits.limiter import Limiter
from tests.flow.rig import (
    MODEL,
    SSE_HEAD,
    Peer,
    Rig,
    chat,
    chunked,
    event,
    make_channel,
    make_snapshot,
    post,
)
from tests.live.limit_rig import limiter_on, until

pytestmark = pytest.mark.live


def limited(
    channels: list[Channel],
    *,
    account: Allowance | None = None,
    key: Allowance | None = None,
    **line: Any,
) -> Snapshot:
    """Return a catalog with limits; `line` changes its one line."""
    own = msgspec.structs.asdict(key) if key else {}
    snapshot = make_snapshot(channels, **own)
    whose = msgspec.structs.asdict(account) if account else {}
    return msgspec.structs.replace(
        snapshot,
        lines={1: msgspec.structs.replace(snapshot.lines[1], **line)},
        accounts={1: msgspec.structs.replace(snapshot.accounts[1], **whose)},
    )


@contextlib.asynccontextmanager
async def upstream(**options: Any) -> AsyncIterator[MockServer]:
    mock = await start(MockOptions(**({"chunks": 5} | options)))
    try:
        yield mock
    finally:
        await mock.close()


class Told:
    """An answer as a client reads it."""

    def __init__(self, raw: bytes) -> None:
        head, _, body = raw.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = dict(line.lower().split(": ", 1) for line in lines[1:])
        self.body = body

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(self.body)["error"]
        return found


async def call(rig: Rig, **fields: Any) -> Told:
    return Told(await rig.say(post("/v1/chat/completions", chat(**fields))))


def used(limiter: Limiter, scope: str, measure: str = "tokens") -> int:
    """Return what is missing in a bucket, as far as this worker knows."""
    return sum(
        lease.bucket.rule.capacity
        - lease.bucket.rule.remaining(lease.standing_ms(limiter._now_ms()))
        - lease.balance
        for lease in limiter._broker.leases
        if (lease.bucket.scope, lease.bucket.measure) == (scope, measure)
    )


@pytest.fixture
async def limiter(redis_url: str) -> AsyncIterator[Limiter]:
    async with limiter_on(redis_url) as limiter:
        yield limiter


ONE = Allowance(rpm=1)
SLOW = 600
"""Tokens a minute that flow in slowly enough for a test to see what is missing."""


@pytest.mark.parametrize(
    ("scope", "limits"),
    [
        ("line", {"rpm": 1}),
        ("model", {"model_limits": {MODEL: ONE}}),
        ("account", {"account": ONE}),
        ("key", {"key": ONE}),
    ],
)
async def test_each_scope_refuses_and_says_so(
    limiter: Limiter, scope: str, limits: dict[str, Any]
) -> None:
    async with upstream() as mock:
        snapshot = limited([make_channel(1, mock.port)], **limits)
        async with Rig(snapshot, limiter=limiter) as rig:
            good = await call(rig)
            assert good.status == 200
            assert good.headers["x-ratelimit-limit-requests"] == "1"
            assert good.headers["x-ratelimit-remaining-requests"] == "0"
            assert good.headers["x-ratelimit-reset-requests"].endswith("s")
            refused = await call(rig)
            assert refused.status == 429
            assert refused.headers["x-ratelimit-limit-requests"] == "1"
            assert 50_000 <= int(refused.headers["retry-after-ms"]) <= 60_000
            assert 50 <= int(refused.headers["retry-after"]) <= 60
            assert refused.error["type"] == "requests"
            assert refused.error["code"] == "rate_limit_exceeded"
            assert refused.error["param"] is None
            said = refused.error["message"]
            assert said.startswith(
                f"Rate limit reached for {MODEL} in organization acme on requests per min (RPM): "
                "Limit 1, Used 1, Requested 1. Please try again in "
            )
            assert f"This limit is the {scope}'s." in said
            assert rig.server.counters.limited == {("line", scope, "requests"): 1}
            assert rig.journal.ends[-1].status == 429


async def test_tokens_are_told_as_openai_tells_them(limiter: Limiter) -> None:
    async with upstream() as mock:
        snapshot = limited([make_channel(1, mock.port)], key=Allowance(tpm=1_000))
        async with Rig(snapshot, limiter=limiter) as rig:
            assert (await call(rig, max_tokens=900)).status == 200
            rig.snapshot = limited([make_channel(1, mock.port)], key=Allowance(tpm=100))
            rig.server.swap(rig.snapshot)
            last = await call(rig, max_tokens=90)
            while last.status == 200:
                last = await call(rig, max_tokens=90)
            assert last.status == 429
            assert last.error["type"] == "tokens"
            assert "on tokens per min (TPM): Limit 100, Used " in last.error["message"]
            assert last.headers["x-ratelimit-limit-tokens"] == "100"
            assert int(last.headers["x-ratelimit-remaining-tokens"]) < 91


async def test_a_small_key_can_always_send_its_first_call(limiter: Limiter) -> None:
    """Also on a server that has just been started, and though it asks for more than it may have."""
    async with upstream() as mock:
        snapshot = limited([make_channel(1, mock.port)], key=Allowance(tpm=60, rpm=1))
        async with Rig(snapshot, limiter=limiter) as rig:
            assert (await call(rig, max_tokens=100_000)).status == 200


async def test_what_can_never_pass_is_a_bad_request(limiter: Limiter) -> None:
    async with upstream() as mock:
        snapshot = limited([make_channel(1, mock.port)], key=Allowance(tpm=60))
        async with Rig(snapshot, limiter=limiter) as rig:
            prompt = "a prompt of many words " * 200
            told = await call(rig, messages=[{"role": "user", "content": prompt}])
            assert told.status == 400
            assert told.error["code"] == "request_exceeds_limit"
            assert "must be reduced" in told.error["message"]
            assert told.headers["x-should-retry"] == "false"


async def test_the_difference_is_settled_when_usage_is_known(limiter: Limiter) -> None:
    async with upstream() as mock:
        snapshot = limited([make_channel(1, mock.port)], tpm=SLOW)
        async with Rig(snapshot, limiter=limiter) as rig:
            assert (await call(rig, max_tokens=5_000)).status == 200
            [end] = await rig.ended()
            assert abs(used(limiter, "line") - end.input_tokens - end.output_tokens) <= 5
            assert rig.server.counters.line_tokens == {"line": end.input_tokens + end.output_tokens}


async def test_a_failed_call_gives_its_tokens_back_but_counts(limiter: Limiter) -> None:
    async with upstream(fail=("status:500",)) as mock:
        snapshot = limited([make_channel(1, mock.port)], tpm=SLOW, rpm=10)
        async with Rig(snapshot, limiter=limiter) as rig:
            assert (await call(rig)).status == 502
            await rig.ended()
            assert used(limiter, "line") <= 1
            assert used(limiter, "line", "requests") == 1


async def test_a_client_that_leaves_pays_for_what_was_reserved(limiter: Limiter) -> None:
    async def say_little(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD + chunked(event("one")))
        await asyncio.sleep(30)

    async with Peer(say_little) as peer:
        snapshot = limited([make_channel(1, peer.port)], tpm=SLOW, concurrency=4)
        async with Rig(snapshot, limiter=limiter) as rig:
            await rig.say(post("/v1/chat/completions", chat(stream=True)), until=b"one")
            [end] = await rig.ended()
            assert end.status == 499 and end.estimated
            assert used(limiter, "line") >= 500, "an estimate gives nothing back"
            assert limiter._permits._leases["relay:{l:1}:seats"].used == 0


async def test_a_long_stream_runs_into_debt_while_it_runs(limiter: Limiter) -> None:
    more = asyncio.Event()

    async def say_much(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD + b"".join(chunked(event("word")) for _ in range(1_000)))
        await more.wait()

    async with Peer(say_much) as peer:
        snapshot = limited([make_channel(1, peer.port)], tpm=SLOW)
        async with Rig(snapshot, limiter=limiter) as rig:
            body = post("/v1/chat/completions", chat(stream=True))
            reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
            writer.write(body)
            await reader.readuntil(b"word")
            await until(lambda: rig.server.engine.running_calls.calls()[0].events_out == 1_000)
            before = used(limiter, "line")
            [running] = rig.server.engine.running_calls.calls()
            rig.server.engine.running_calls._checkpoint(running)
            # What is reserved is cut to what the bucket holds at once: the rest is debt.
            assert 300 <= used(limiter, "line") - before <= 430
            more.set()
            writer.close()
            await rig.ended()


async def test_seats_are_freed_by_every_ending(limiter: Limiter) -> None:
    async with upstream() as mock:
        snapshot = limited([make_channel(1, mock.port)], key=Allowance(concurrency=2))
        async with Rig(snapshot, limiter=limiter) as rig:
            for fail in (None, "status:400", "status:500", "rst-after:2", None):
                if fail is None:
                    mock.set_fail()
                else:
                    mock.set_fail(fail)
                await call(rig)
                await call(rig, stream=True)
            await rig.ended(10)
            assert limiter._permits._leases["relay:{a:1}:key1:seats"].used == 0


async def test_a_full_room_refuses(limiter: Limiter) -> None:
    more = asyncio.Event()

    async def wait(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD + chunked(event("one")))
        await more.wait()

    async with Peer(wait) as peer:
        snapshot = limited([make_channel(1, peer.port)], key=Allowance(concurrency=1))
        async with Rig(snapshot, limiter=limiter) as rig:
            reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
            writer.write(post("/v1/chat/completions", chat(stream=True)))
            await reader.readuntil(b"one")
            refused = await call(rig)
            assert refused.status == 429
            assert "on requests at once: Limit 1, Used 1" in refused.error["message"]
            assert rig.server.counters.limited == {("line", "key", "concurrency"): 1}
            more.set()
            writer.close()
            await rig.ended(2)


async def test_a_limit_is_changed_while_the_bucket_stays(limiter: Limiter) -> None:
    async with upstream() as mock:
        channels = [make_channel(1, mock.port)]
        async with Rig(limited(channels, key=Allowance(rpm=1)), limiter=limiter) as rig:
            assert (await call(rig)).status == 200
            assert (await call(rig)).status == 429
            rig.server.swap(limited(channels, key=Allowance(rpm=600)))
            await asyncio.sleep(0.11)
            told = await call(rig)
            assert told.headers["x-ratelimit-limit-requests"] == "600"
            rig.server.swap(limited(channels))
            free = await call(rig)
            assert free.status == 200 and "x-ratelimit-limit-requests" not in free.headers


@pytest.mark.parametrize("second", [Dialect.OPENAI, Dialect.ANTHROPIC])
async def test_a_channel_whose_quota_is_spent_is_passed_over(
    limiter: Limiter, second: Dialect
) -> None:
    async with upstream() as one, upstream() as two:
        channels = [
            make_channel(1, one.port, rpm=1),
            make_channel(2, two.port, tier=1, rpm=20, protocol=second),
        ]
        async with Rig(limited(channels), limiter=limiter) as rig:
            told = [await call(rig) for _ in range(4)]
            assert [t.status for t in told] == [200, 200, 200, 429]
            ends = await rig.ended(4)
            assert [end.channel_id for end in ends[:3]] == [1, 2, 2]
            assert [end.attempts for end in ends] == [1, 1, 1, 0]
            assert told[3].error["code"] == "upstream_rate_limited"
            assert 1 <= int(told[3].headers["retry-after"]) <= 60
            # Nothing of this is held against the channels.
            assert not rig.server.engine.balancer.health.troubled


async def test_a_call_waits_for_its_channels_quota_where_its_line_lets_it(
    limiter: Limiter,
) -> None:
    async with upstream() as mock:
        channels = [make_channel(1, mock.port, rpm=60)]  # six at once, then one a second
        async with Rig(limited(channels, wait_ms=5_000), limiter=limiter) as rig:
            told = await asyncio.gather(*(call(rig) for _ in range(9)))
            assert [t.status for t in told] == [200] * 9
            waits = sorted(int(t.headers.get("x-relay-queue-ms", "0")) for t in told)
            assert waits[:6] == [0] * 6
            assert [round(wait / 1_000) for wait in waits[6:]] == [1, 2, 3]
            assert {end.attempts for end in await rig.ended(9)} == {1}


async def test_an_upstreams_own_429_closes_its_channel_for_all_workers(
    limiter: Limiter, redis_url: str
) -> None:
    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 429 X\r\nRetry-After: 20\r\nContent-Length: 0\r\n\r\n")

    async with Peer(refuse) as peer, upstream() as mock, limiter_on(redis_url) as other:
        channels = [make_channel(1, peer.port, rpm=6_000), make_channel(2, mock.port, tier=1)]
        async with Rig(limited(channels), limiter=limiter) as rig:
            assert (await call(rig)).status == 200
            quotas = rig.server.engine.balancer.quotas
            [(_, _, limit_set)] = quotas._limit_sets.values()
            await until(lambda: limit_set.leases[0].hold_ms == 0)
            denied = await other.wait(LimitSet((limit_of(Scope.CHANNEL, 1, channels[0]),)), [1])
            assert getattr(denied, "wait_ms", 0) > 15_000


@pytest.mark.parametrize("loss", [OnLoss.CLOSED, OnLoss.OPEN, OnLoss.SHARE])
async def test_a_line_says_what_happens_without_redis(loss: OnLoss) -> None:
    async with upstream() as mock, limiter_on("unix:///nowhere/redis.sock") as limiter:
        await until(lambda: limiter.losses > 0)
        snapshot = limited([make_channel(1, mock.port)], rpm=60, on_limiter_loss=loss)
        async with Rig(snapshot, limiter=limiter) as rig:
            told = [await call(rig) for _ in range(4)]
            statuses = {t.status for t in told}
            if loss is OnLoss.CLOSED:
                assert statuses == {503}
                assert told[0].headers["retry-after"] in ("1", "2")
            elif loss is OnLoss.OPEN:
                assert statuses == {200}
            else:
                assert 429 in statuses


@pytest.mark.parametrize("turns", range(12))
async def test_a_client_that_leaves_at_any_turn_leaks_no_seat(limiter: Limiter, turns: int) -> None:
    """The client hangs up while its call is read, waits for its limits, is asked or answered."""
    async with upstream(ttft_ms=5.0) as mock:
        channels = [make_channel(1, mock.port, concurrency=3)]
        snapshot = limited(channels, key=Allowance(concurrency=2), tpm=60_000, concurrency=5)
        async with Rig(snapshot, limiter=limiter) as rig:
            for _ in range(3):
                _, writer = await asyncio.open_connection("127.0.0.1", rig.port)
                writer.write(post("/v1/chat/completions", chat(stream=True)))
                for _ in range(turns):
                    await asyncio.sleep(0)
                writer.transport.abort()
            await asyncio.sleep(0.02)
            await until(lambda: rig.server.counters.inflight == 0)
            assert all(
                block.used == block.waiting == 0 for block in limiter._permits._leases.values()
            )
            assert all(lease.asked == 0 for lease in limiter._broker.leases)
            assert (await call(rig)).status == 200


async def test_the_other_dialect_has_its_own_words(limiter: Limiter) -> None:
    async with upstream() as mock:
        channels = [make_channel(1, mock.port, protocol=Dialect.ANTHROPIC)]
        snapshot = limited(channels, key=Allowance(tpm=60_000, rpm=1))
        async with Rig(snapshot, limiter=limiter) as rig:
            body = chat(max_tokens=5)
            good = Told(await rig.say(post("/v1/messages", body)))
            assert good.status == 200
            assert good.headers["anthropic-ratelimit-tokens-limit"] == "60000"
            refused = Told(await rig.say(post("/v1/messages", body)))
            assert refused.status == 429 and refused.error["type"] == "rate_limit_error"
            assert refused.headers["anthropic-ratelimit-requests-remaining"] == "0"
            assert 50 <= int(refused.headers["retry-after"]) <= 60
