"""Goal: a key's quota is held by every call while it runs, and by none that has ended.

Method: an upstream that answers when it is told to, or misbehaves; calls of one key at the same
moment, over each endpoint and each way in which a call ends. In the end the quota is what it was
less what was charged: to the nano, by what the next call is let to hold.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from relay.config import Billing, Config, JournalConfig, Timeouts
from relay.errors import CreditExhausted, RelayError
from relay.flow.call import Call
from relay.flow.reserve.key_quotas import KeyQuotas
from relay.model import Resume, Snapshot
from relay.usage import Usage
from relay.wire.api_keys import digest
from tests.flow.rig import (
    DONE,
    FINISH,
    KEY,
    MODEL,
    PEPPER,
    SSE_HEAD,
    USAGE,
    Peer,
    Rig,
    chat,
    chunked,
    event,
    make_channel,
    make_snapshot,
    post,
)

CHAT = "/v1/chat/completions"
QUOTA = 100_000
"""Nano-USD: a call that may bring 85 tokens holds some 95,000 of it."""
COST = 100 * 500 + 10 * 1_000
"""What an answer here costs: 100 tokens in and 10 out, of which the group pays half."""
CALL = post(CHAT, chat(max_tokens=85))
STREAM = post(CHAT, chat(max_tokens=85, stream=True))
SERVED, SPENT = b"HTTP/1.1 200", b"HTTP/1.1 429"
IMPATIENT = Config(timeouts=Timeouts(answer_s=0.3, first_byte_s=0.3, gap_s=0.3))


class Upstream:
    """Answers when it may, in the way that it was told."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.way = "served"
        self.at_once: list[str] = []
        """How the first ones are answered, without waiting."""
        self.asked = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked += 1
        if self.at_once:
            self._end(writer, self.at_once.pop(0))
            return
        if self.way.startswith("stream"):
            writer.write(SSE_HEAD + chunked(event("words " * 3)))
        if self.way == "streamed at length":
            for _ in range(40):
                writer.write(chunked(event("many words " * 20)))
        await self.go.wait()
        self._end(writer, self.way)
        with contextlib.suppress(ConnectionError):
            await writer.drain()

    def _end(self, writer: asyncio.StreamWriter, way: str) -> None:
        if way == "served":
            usage = {"prompt_tokens": 100, "completion_tokens": 10}
            body = msgspec.json.encode(
                {"id": "c", "choices": [{"message": {"content": "hi"}}], "usage": usage}
            )
            writer.write(head(200, len(body)) + body)
        elif way == "refused":
            writer.write(head(400, 2) + b"{}")
        elif way == "failed":
            writer.write(head(500, 2) + b"{}")
        elif way == "denied":
            writer.write(head(401, 2) + b"{}")
        elif way == "late":
            writer.write(SSE_HEAD + b"".join(map(chunked, (FINISH, USAGE, DONE))) + b"0\r\n\r\n")
        elif way.startswith("streamed"):
            writer.write(b"".join(map(chunked, (FINISH, USAGE, DONE))) + b"0\r\n\r\n")
        # "cut" and "stream cut": nothing more, and closed


def head(status: int, size: int) -> bytes:
    return (
        f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
    ).encode()


class Door:
    """A reservation behind the quota's that refuses, or makes wait, as a test says."""

    def __init__(self) -> None:
        self.refusal: RelayError | None = None
        self.waits: asyncio.Event | None = None

    def take(self, call: Call) -> bool:
        if self.refusal is not None:
            raise self.refusal
        return self.waits is None

    async def wait(self, call: Call) -> None:
        assert self.waits is not None
        await self.waits.wait()

    def update(self, call: Call, usage: Usage) -> None:
        """Nothing."""

    def close(self, call: Call, usage: Usage, cost_nanos: int) -> None:
        """Nothing."""


def with_quota(snapshot: Snapshot, quota_nanos: int = QUOTA, **fields: Any) -> Snapshot:
    keys = {
        name: msgspec.structs.replace(key, quota_nanos=quota_nanos, **fields)
        for name, key in snapshot.keys.items()
    }
    return msgspec.structs.replace(snapshot, keys=keys)


class Place:
    """A relay, its upstream, and who asks."""

    def __init__(self, rig: Rig, upstream: Upstream, door: Door) -> None:
        self.rig, self.upstream, self.door = rig, upstream, door

    async def begin(self, raw: bytes = CALL) -> asyncio.Task[bytes]:
        """Begin a call; return it when an upstream has it."""
        before = self.upstream.asked
        call = asyncio.create_task(self.rig.say(raw))
        async with asyncio.timeout(5):
            while self.upstream.asked == before:
                await asyncio.sleep(0.002)
        return call

    @property
    def left(self) -> int:
        """What the next call may hold."""
        snapshot, own = self.rig.server.engine.current(), digest(PEPPER, KEY)
        assert snapshot is not None
        return self.quotas.left_nanos(snapshot.keys.get(own) or self.rig.snapshot.keys[own])

    @property
    def quotas(self) -> KeyQuotas:
        return self.rig.server.engine._admission._key_quotas

    async def is_settled(self, calls: int) -> None:
        """See that nothing is held by `calls` that have ended, and that they were charged."""
        ends = await self.rig.ended(calls)
        assert self.quotas._held == {}
        assert self.left == QUOTA - sum(end.cost_nanos for end in ends)


@asynccontextmanager
async def standing(
    channels: int = 1, quota_nanos: int = QUOTA, config: Config = IMPATIENT, **line: Any
) -> AsyncIterator[Place]:
    upstream, door = Upstream(), Door()
    async with contextlib.AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(Peer(upstream)) for _ in range(channels)]
        serving = [
            make_channel(n, peer.port, tier=n, resume=Resume.TRAILING)
            for n, peer in enumerate(peers, 1)
        ]
        snapshot = with_quota(make_snapshot(serving), quota_nanos)
        lines = {1: msgspec.structs.replace(snapshot.lines[1], **line)}
        snapshot = msgspec.structs.replace(snapshot, lines=lines)
        rig = Rig(snapshot, config, paid_by=[door])
        await stack.enter_async_context(rig)
        yield Place(rig, upstream, door)
        upstream.go.set()


# --- calls at the same moment ---------------------------------------------------------------------

BESIDE = {
    "json": CALL,
    "stream": STREAM,
    "choices": post(CHAT, chat(max_tokens=28, n=3)),
    "completion": post("/v1/completions", {"model": MODEL, "prompt": "hello", "max_tokens": 85}),
    "response": post(
        "/v1/responses", {"model": MODEL, "input": "hello", "max_output_tokens": 85, "store": False}
    ),
    "of http/1.0": CALL.replace(b"HTTP/1.1", b"HTTP/1.0"),
}


async def test_sixty_calls_at_once_are_one_where_the_quota_covers_one() -> None:
    """A quota of 1 USD, and calls that may cost 0.90."""
    async with standing(quota_nanos=10**9) as place:
        calls = [
            asyncio.create_task(place.rig.say(post(CHAT, chat(max_tokens=850_000))))
            for _ in range(60)
        ]
        await place.rig.ended(59)
        assert place.upstream.asked == 1
        place.upstream.go.set()
        answers = [await call for call in calls]
        assert sum(answer.startswith(SERVED) for answer in answers) == 1
        assert sum(answer.startswith(SPENT) for answer in answers) == 59


@pytest.mark.parametrize("second", BESIDE)
@pytest.mark.parametrize("first", BESIDE)
async def test_what_one_call_holds_no_other_may_whatever_they_ask_for(
    first: str, second: str
) -> None:
    async with standing() as place:
        place.upstream.way = "streamed" if first == "stream" else "served"
        running = await place.begin(BESIDE[first])
        assert 0 < place.left < 10_000
        answer = await place.rig.say(BESIDE[second])
        assert b" 429 " in answer[:13] and b"insufficient_quota" in answer
        assert place.upstream.asked == 1
        place.upstream.go.set()
        assert b" 200 " in (await running)[:13]
        await place.is_settled(2)


async def test_what_is_left_beside_a_call_serves_who_needs_no_more() -> None:
    async with standing() as place:
        running = await place.begin(post(CHAT, chat(max_tokens=50)))
        assert (await place.rig.say(CALL)).startswith(SPENT)
        beside = await place.begin(post(CHAT, chat(max_tokens=30)))
        assert (await place.rig.say(post(CHAT, chat(max_tokens=30)))).startswith(SPENT)
        place.upstream.go.set()
        assert (await running).startswith(SERVED) and (await beside).startswith(SERVED)


async def test_the_quota_of_one_key_holds_back_no_other_key() -> None:
    async with standing() as place:
        snapshot = place.rig.snapshot
        own = snapshot.keys[digest(PEPPER, KEY)]
        other = msgspec.structs.replace(own, id=2, name="other", digest=digest(PEPPER, "relay_b"))
        free = msgspec.structs.replace(
            own, id=3, name="free", digest=digest(PEPPER, "relay_c"), quota_nanos=None
        )
        keys = {key.digest: key for key in (own, other, free)}
        place.rig.server.swap(msgspec.structs.replace(snapshot, generation=2, keys=keys))
        keys_asking = (KEY, "relay_b", "relay_c", "relay_c")
        running = [
            await place.begin(post(CHAT, chat(max_tokens=85), key=key)) for key in keys_asking
        ]
        for key in (KEY, "relay_b"):
            answer = await place.rig.say(post(CHAT, chat(max_tokens=85), key=key))
            assert answer.startswith(SPENT)
        place.upstream.go.set()
        assert all([(await call).startswith(SERVED) for call in running])


@pytest.mark.parametrize("way", ["hedged", "failed over"])
async def test_a_call_that_asks_two_channels_holds_once(way: str) -> None:
    hedged = way == "hedged"
    line: dict[str, Any] = {"hedge_ms": 10} if hedged else {}
    async with standing(channels=2, **line) as place:
        place.upstream.at_once = [] if hedged else ["failed"]
        place.upstream.way = "late" if hedged else "served"
        first = await place.begin(STREAM if hedged else CALL)
        async with asyncio.timeout(5):
            while place.upstream.asked < 2:
                await asyncio.sleep(0.002)
        assert 0 < place.left < 10_000
        assert (await place.rig.say(CALL)).startswith(SPENT)
        place.upstream.go.set()
        assert (await first).startswith(SERVED)
        await place.is_settled(2)


async def test_a_stream_that_outgrows_its_hold_holds_what_it_has_used() -> None:
    """Without a bound of its client's: the guess for it is capped, and it says more than that."""
    billing, journal = Billing(hold_usd_max="0.00001"), JournalConfig(checkpoint_s=0.2)
    async with standing(config=Config(billing=billing, journal=journal)) as place:
        place.upstream.way = "streamed at length"
        running = await place.begin(post(CHAT, chat(stream=True)))
        async with asyncio.timeout(5):
            while place.left > 0:
                await asyncio.sleep(0.01)
        assert not place.rig.journal.ends
        assert (await place.rig.say(post(CHAT, chat(max_tokens=1)))).startswith(SPENT)
        place.upstream.go.set()
        assert (await running).startswith(SERVED)
        await place.is_settled(2)


# --- ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "raw"),
    [
        *(("served", CALL), ("refused", CALL), ("failed", CALL), ("denied", CALL), ("cut", CALL)),
        *(("silent", CALL), ("silent", STREAM), ("failed", STREAM), ("cut", STREAM)),
        *(("streamed", STREAM), ("stream cut", STREAM), ("stream silent", STREAM)),
    ],
)
@pytest.mark.parametrize("ended_by", ["upstream", "client", "operator"])
async def test_however_a_call_ends_it_leaves_what_it_did_not_use(
    way: str, raw: bytes, ended_by: str
) -> None:
    """By its upstream's doing or a deadline, by a client that leaves, by a key that is disabled."""
    async with standing() as place:
        place.upstream.way = way
        running = await place.begin(raw)
        assert 0 < place.left < 10_000
        if ended_by == "client":
            running.cancel()
        elif ended_by == "operator":
            place.rig.server.swap(msgspec.structs.replace(place.rig.snapshot, keys={}))
        elif not way.endswith("silent"):
            place.upstream.go.set()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await place.is_settled(1)


@pytest.mark.parametrize("ended_by", ["refusal", "client"])
async def test_a_call_that_pays_nothing_else_gives_its_quota_back(ended_by: str) -> None:
    """What is asked behind the quota says no, or has the call wait until its client leaves."""
    async with standing() as place:
        if ended_by == "refusal":
            place.door.refusal = CreditExhausted("The balance does not cover this call.")
            await place.rig.say(CALL)
        else:
            place.door.waits = asyncio.Event()
            waiting = asyncio.create_task(place.rig.say(CALL))
            async with asyncio.timeout(5):
                while place.left == QUOTA:
                    await asyncio.sleep(0.002)
            waiting.cancel()
        await place.is_settled(1)
        assert place.upstream.asked == 0 and place.left == QUOTA


# --- what the ledger says ---------------------------------------------------------------------


@pytest.mark.parametrize("booked", [0, COST // 2, COST])
async def test_what_the_ledger_has_booked_counts_once_beside_what_runs(booked: int) -> None:
    """The ledger's figure comes late, and in parts, while a call holds the rest."""
    async with standing() as place:
        place.upstream.go.set()
        assert (await place.rig.say(CALL)).startswith(SERVED)
        await place.rig.ended(1)
        assert place.left == QUOTA - COST
        place.upstream.go.clear()
        running = await place.begin(post(CHAT, chat(max_tokens=20)))
        held = QUOTA - COST - place.left
        place.rig.server.swap(with_quota(place.rig.snapshot, spent_nanos=booked))
        assert place.left == QUOTA - COST - held
        place.upstream.go.set()
        await running
        await place.rig.ended(2)
        place.rig.server.swap(with_quota(place.rig.snapshot, spent_nanos=2 * COST))
        assert place.left == QUOTA - 2 * COST


@pytest.mark.parametrize("quota_nanos", [0, 50_000, 200_000])
async def test_a_quota_that_is_changed_holds_for_what_runs_already(quota_nanos: int) -> None:
    async with standing() as place:
        running = await place.begin()
        held = QUOTA - place.left
        place.rig.server.swap(with_quota(place.rig.snapshot, quota_nanos))
        assert place.left == quota_nanos - held
        beside = asyncio.create_task(place.rig.say(CALL))
        place.upstream.go.set()
        assert (await running).startswith(SERVED)
        assert (await beside).startswith(SERVED if quota_nanos == 200_000 else SPENT)
