"""Goal: what has no price is refused by name or taken out, and quotas are held.

Method: a real client asks over a rig whose upstream keeps what it was sent.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from relay.config import Config
from relay.model import Price, PriceDetail, ServiceTier, Snapshot, Unpriced
from tests.flow.rig import Peer, Rig, chat, make_channel, make_snapshot, post

NANOS = 1_000
ANSWER = msgspec.json.encode(
    {
        "id": "c",
        "choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10},
        "service_tier": "priority",
    }
)


class Upstream:
    """Answers every call, and keeps its body."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        await self.go.wait()
        writer.write((head % len(ANSWER)).encode() + ANSWER)
        await writer.drain()


def changed(snapshot: Snapshot, **changes: Any) -> Snapshot:
    return msgspec.structs.replace(snapshot, **changes)


@asynccontextmanager
async def standing(
    detail: PriceDetail | None = None,
    unpriced: Unpriced = Unpriced.REFUSE,
    quota_nanos: int | None = None,
) -> AsyncIterator[tuple[Rig, Upstream, Peer]]:
    upstream = Upstream()
    async with Peer(upstream) as peer:
        snapshot = make_snapshot([make_channel(1, peer.port)])
        prices = {
            name: msgspec.structs.replace(price, detail=detail)
            for name, price in snapshot.prices.items()
        }
        lines = {
            id_: msgspec.structs.replace(line, unpriced=unpriced)
            for id_, line in snapshot.lines.items()
        }
        keys = {
            digest: msgspec.structs.replace(key, quota_nanos=quota_nanos)
            for digest, key in snapshot.keys.items()
        }
        async with Rig(changed(snapshot, prices=prices, lines=lines, keys=keys), Config()) as rig:
            yield rig, upstream, peer


async def test_a_tier_without_a_price_is_refused_by_name() -> None:
    async with standing() as (rig, _, peer):
        answer = await rig.say(post("/v1/chat/completions", chat(service_tier="priority")))
        assert answer.startswith(b"HTTP/1.1 400")
        assert b'"code":"unpriced"' in answer and b"service_tier" in answer
        (end,) = await rig.ended()
        assert (end.cost_nanos, end.reason, end.error_code) == (0, "rejected", "unpriced")
        assert not peer.requests


async def test_a_tier_with_a_price_is_charged_as_served() -> None:
    tier = ServiceTier(name="priority", input=10**10, output=2 * 10**10, cached_input=0)
    async with standing(PriceDetail(service_tiers=(tier,))) as (rig, _, _peer):
        await rig.say(post("/v1/chat/completions", chat(service_tier="priority", max_tokens=50)))
        (end,) = await rig.ended()
        assert end.extras is not None and end.extras.tier == "priority"
        assert end.cost_nanos == (100 * 10_000 + 10 * 20_000) // 2  # the group pays half


async def test_a_line_may_take_out_what_has_no_price() -> None:
    async with standing(unpriced=Unpriced.STRIP) as (rig, _, peer):
        tools = [{"type": "web_search"}, {"type": "function", "function": {"name": "f"}}]
        body = chat(service_tier="flex", tools=tools)
        answer = await rig.say(post("/v1/chat/completions", body))
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"x-relay-dropped: service_tier, tools.web_search" in answer
        sent = json.loads(peer.requests[0].partition(b"\r\n\r\n")[2])
        assert "service_tier" not in sent
        assert sent["tools"] == tools[1:]


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("images/generations", "images"),
        ("audio/speech", "characters"),
        ("rerank", "search units"),
    ],
)
async def test_a_model_without_the_unit_of_its_endpoint_is_refused(path: str, unit: str) -> None:
    async with standing() as (rig, _, peer):
        snapshot = make_snapshot([make_channel(1, peer.port)])
        free = {
            name: Price(id=1, model=name, input=0, output=0, cached_input=0)
            for name in snapshot.prices
        }
        rig.server.swap(changed(snapshot, prices=free))
        body = chat() | {"input": "a", "prompt": "a", "query": "a"}
        answer = await rig.say(post(f"/v1/{path}", body))
        assert answer.startswith(b"HTTP/1.1 404") and unit.encode() in answer
        assert not peer.requests


async def test_a_quota_is_held_by_calls_at_the_same_moment() -> None:
    """A call may cost a bit over 90,000 nano-USD: a quota of 100,000 lets one run at a time."""
    async with standing(quota_nanos=100_000) as (rig, upstream, peer):
        upstream.go.clear()
        question = post("/v1/chat/completions", chat(max_tokens=90))
        first = asyncio.create_task(rig.say(question))
        async with asyncio.timeout(5):
            while not peer.requests:
                await asyncio.sleep(0.005)
        others = [await rig.say(question) for _ in range(5)]
        assert all(answer.startswith(b"HTTP/1.1 429") for answer in others)
        upstream.go.set()
        assert (await first).startswith(b"HTTP/1.1 200")
        await rig.ended(6)
        # The first one cost 60,000 in place of what it held: 40,000 are left, and not enough.
        assert (await rig.say(question)).startswith(b"HTTP/1.1 429")
        small = post("/v1/chat/completions", chat(max_tokens=5))
        assert (await rig.say(small)).startswith(b"HTTP/1.1 200")
