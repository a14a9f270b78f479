"""A change of the catalog breaks no running stream, and the next call goes by the new one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from relay.mock.server import MockServer
from relay.model import Channel, Resume, Snapshot, index_routes
from tests.flow.load import Told, ask, mocks, settled, standing
from tests.flow.rig import MODEL, Rig, chat, make_channel, post

SLOW = {"ttft_ms": 1.0, "interval_ms": 25.0}


def with_channels(snapshot: Snapshot, *channels: Channel) -> Snapshot:
    """Return the catalog with these channels only."""
    by_id = {channel.id: channel for channel in channels}
    line = msgspec.structs.replace(snapshot.lines[1], channel_ids=tuple(by_id))
    return msgspec.structs.replace(
        snapshot, lines={1: line}, channels=by_id, routes=index_routes({1: line}, by_id)
    )


@asynccontextmanager
async def running(rig: Rig, upstream: MockServer) -> AsyncIterator[asyncio.Task[Told]]:
    """Have a stream in its middle on `upstream`; at the end it is over."""
    task = asyncio.create_task(ask(rig, MODEL, "hello", stream=True))
    await upstream.until(lambda state: state.in_flight == 1)
    await asyncio.sleep(0.15)
    yield task
    await task


async def test_a_new_price_is_paid_by_the_next_call() -> None:
    async with mocks(1, **SLOW) as (mock,), standing(make_channel(1, mock.port)) as rig:
        old = rig.snapshot
        async with running(rig, mock) as stream:
            price = msgspec.structs.replace(old.prices[MODEL], id=8, output=6_000_000_000)
            rig.server.swap(msgspec.structs.replace(old, prices={MODEL: price}))
        assert (await stream).whole
        assert (await ask(rig, MODEL, "hello", stream=True)).whole
        first, second = rig.journal.ends
        assert (first.price_id, second.price_id) == (7, 8)
        assert first.output_tokens == second.output_tokens
        assert second.cost_nanos - first.cost_nanos == first.output_tokens * 2_000


async def test_a_new_address_is_asked_by_the_next_call() -> None:
    async with mocks(2, **SLOW) as (before, after), standing(make_channel(1, before.port)) as rig:
        async with running(rig, before) as stream:
            moved = make_channel(1, after.port, version=2)
            rig.server.swap(with_channels(rig.snapshot, moved))
        assert (await stream).whole
        assert (await ask(rig, MODEL, "again", stream=True)).whole
        assert (len(before.served), len(after.served)) == (1, 1)
        await settled(rig)


@pytest.mark.parametrize("breaks", [False, True])
async def test_a_stream_outlives_its_channel_s_removal(breaks: bool) -> None:
    able = {"resume": Resume.TRAILING}
    async with (
        mocks(2, **SLOW) as (gone, kept),
        standing(
            make_channel(1, gone.port, **able),
            make_channel(2, kept.port, tier=1, **able),
            splice=True,
        ) as rig,
    ):
        async with running(rig, gone) as stream:
            rig.server.swap(with_channels(rig.snapshot, rig.snapshot.channels[2]))
            assert (await ask(rig, MODEL, "another", stream=False)).whole
            if breaks:
                gone.drop()
        assert (await stream).whole
        # What it did there is remembered by nobody: it could never be put right again.
        assert not rig.server.engine.balancer.health.troubled
        ends = await settled(rig)
        assert sorted(end.attempts for end in ends.values()) == ([1, 2] if breaks else [1, 1])


async def test_a_model_whose_channels_are_all_drained_comes_back() -> None:
    async with mocks(1) as (mock,), standing(make_channel(1, mock.port)) as rig:
        drained = msgspec.structs.replace(rig.snapshot.channels[1], drained=True)
        rig.server.swap(with_channels(rig.snapshot, drained))
        for name, status in ((MODEL, 503), ("unheard-of", 404)):
            told = await rig.say(post("/v1/chat/completions", chat(model=name)))
            assert told.startswith(b"HTTP/1.1 %d" % status), told
            assert (b"retry-after: " in told) == (status == 503)
        rig.server.swap(rig.snapshot)
        assert (await ask(rig, MODEL, "another", stream=False)).whole


async def test_a_model_that_is_no_longer_sold_ends_no_stream_of_it() -> None:
    async with mocks(1, **SLOW) as (mock,), standing(make_channel(1, mock.port)) as rig:
        async with running(rig, mock) as stream:
            rig.server.swap(with_channels(rig.snapshot))
            assert (await ask(rig, MODEL, "another", stream=False)).status == 404
        assert (await stream).whole
        assert [end.reason for end in rig.journal.ends] == ["rejected", "completed"]
