"""Goal: whoever takes over a background response charges what its own worker would have charged.

Method: notes as a worker leaves them, a provider that tells how its responses ended, a store that
only remembers; the sums are done here by hand.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from relay.clock import wall_us
from relay.errors import DependencyDown
from relay.extras import Asked
from relay.flow.state.adopted import VAIN_LOOKS, AdoptedCalls, end_of, lost_end_of
from relay.flow.state.background import GONE_MAX
from relay.model import Price, PriceDetail
from relay.process.composition import adopt
from relay.records import CallCheckpoint, CallEnd, CallStart, Unended, UnendedCall
from relay.usage import Usage
from relay.wire.state.jobs import JobEnd
from tests.flow.provider import Provider
from tests.flow.rig import MODEL, Rig, make_snapshot
from tests.flow.studio import Studio

NOW_US = wall_us()
PRICE = Price(
    id=7, model=MODEL, input=1_000_000_000, output=2_000_000_000, cached_input=500_000_000
)


def left(
    name: str = "resp_1",
    gone: int = 0,
    stream: bool = False,
    endpoint: str = "responses",
    **said: Any,
) -> UnendedCall:
    """Return a call as its dead worker wrote it down."""
    unended = Unended(name, 99, 5_000, 114, "", None, 7, 500_000, 1_000_000, "up", 1, 12)
    unended = msgspec.structs.replace(unended, **said)
    id_ = bytes(15) + b"\1"
    start = CallStart(id_, NOW_US, 1, 2, "192.0.2.1", endpoint, MODEL, 1, stream, 40)
    return UnendedCall(start, CallCheckpoint(id_, 1, 3, 40, unended=unended), PRICE, gone)


class Store:
    """Remembers what became of a call."""

    def __init__(self, *calls: UnendedCall) -> None:
        self.calls = list(calls)
        self.ends: list[CallEnd] = []
        self.gone = 0
        self.down = False
        self.looks = 0

    async def claim(self, count: int) -> list[UnendedCall]:
        self.looks += 1
        return self.calls[:count]

    async def settle(self, end: CallEnd) -> bool:
        if self.down:
            raise DependencyDown("gone")
        if end.request_id in {one.request_id for one in self.ends}:
            return False
        self.ends.append(end)
        return True

    async def note_gone(self, request_id: bytes) -> None:
        self.gone += 1


@asynccontextmanager
async def looking(*calls: UnendedCall) -> AsyncIterator[tuple[AdoptedCalls, Store, Provider]]:
    async with Provider(1) as provider, Rig(make_snapshot([provider.channel()])) as rig:
        store = Store(*calls)
        yield adopt(rig.server, store), store, provider


async def test_it_is_charged_once_by_what_its_provider_says() -> None:
    async with looking(left()) as (adopted, store, provider):
        provider.responses["resp_1"] = {"id": "resp_1", "status": "in_progress", "usage": None}
        await adopted.look()
        assert store.ends == []
        provider.end("resp_1")
        for _ in range(3):
            await adopted.look()
        (end,) = store.ends
        assert (end.cost_nanos, end.reason, end.estimated) == (20_000, "completed", False)
        assert (end.input_tokens, end.output_tokens, end.served_model) == (20, 10, "up")
        assert adopted.settled == 1


async def test_a_store_that_is_away_loses_nothing() -> None:
    async with looking(left()) as (adopted, store, provider):
        provider.responses["resp_1"] = {"id": "resp_1", "status": "completed"}
        provider.end("resp_1")
        store.down = True
        await adopted.look()
        store.down = False
        await adopted.look()
        assert len(store.ends) == 1


async def test_what_its_provider_does_not_know_is_asked_for_a_few_times_then_given_up() -> None:
    async with looking(left()) as (adopted, store, provider):
        await adopted.look()
        assert (store.gone, store.ends) == (1, [])
        store.calls = [left(gone=GONE_MAX - 1)]
        await adopted.look()
        (end,) = store.ends
        assert (end.reason, end.estimated) == ("interrupted", True)
        assert end.cost_nanos == (40 * 1_000 + 3 * 2_000) // 2
        provider.dead = True
        store.calls = [left(gone=GONE_MAX - 1)]
        store.ends.clear()
        await adopted.look()  # a provider that is down has forgotten nothing
        assert store.ends == []


async def test_an_id_that_is_none_for_a_path_is_asked_for_whole() -> None:
    async with looking(left("a b/c")) as (adopted, _, provider):
        await adopted.look()
        assert provider.calls == [("GET", "/responses/a b/c")]


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_what_failed_without_usage_is_free_unless_something_was_read(status: str) -> None:
    assert end_of(left(), JobEnd(None, free_unread=True), NOW_US).cost_nanos == 0
    read = end_of(left(), JobEnd(None, free_unread=True), NOW_US, 9)
    assert read.estimated and read.cost_nanos == (40 * 1_000 + 9 * 2_000) // 2
    begun = end_of(left(stream=True), JobEnd(None, free_unread=True), NOW_US)
    assert begun.cost_nanos == (40 * 1_000 + 3 * 2_000) // 2


def test_a_claim_beyond_what_can_be_is_cut() -> None:
    end = end_of(left(), JobEnd(Usage(6_000, 0, 0, 9_999)), NOW_US)
    assert (end.input_tokens, end.output_tokens) == (5_000, 114)
    assert end.extras is not None and end.extras.disputed_output_tokens == 9_999 - 114


def test_the_price_of_then_holds_whatever_the_catalog_says_by_now() -> None:
    call = left(group_multiplier_ppm=2_000_000, model_multiplier_ppm=500_000)
    raised = msgspec.structs.replace(call.price, model_multiplier_ppm=9_000_000)
    end = end_of(msgspec.structs.replace(call, price=raised), JobEnd(Usage(20, 0, 0, 10)), 0)
    assert end.cost_nanos == 20 * 1_000 + 10 * 2_000
    assert (end.price_id, end.group_multiplier_ppm, end.model_multiplier_ppm) == (
        *(7, 2_000_000),
        500_000,
    )


def test_what_was_asked_beside_tokens_is_charged_where_nobody_tells() -> None:
    end = end_of(left(asked=Asked(searches=5)), JobEnd(None), NOW_US)
    assert end.extras is not None and end.extras.searches == 1


def test_its_row_says_how_long_it_took_and_never_ends_before_it_began() -> None:
    assert end_of(left(), JobEnd(Usage(1)), NOW_US + 5).total_us == 5
    assert lost_end_of(left(), NOW_US - 1).total_us == 0


FILM = Price(
    id=7,
    model=MODEL,
    input=0,
    output=0,
    cached_input=0,
    per_call=1_000,
    detail=PriceDetail(per_video_second=100_000_000),
)


def begun(gone: int = 0) -> UnendedCall:
    """Return a video of 8 seconds as its dead worker wrote it down."""
    asked = Asked(videos=1, video_ms=8_000, video_class="1280x720")
    call = left("video_1", gone=gone, endpoint="videos", asked=asked)
    return msgspec.structs.replace(call, price=FILM)


@pytest.mark.parametrize(
    ("said", "cost_nanos"),
    [
        ({"status": "completed", "seconds": "8", "size": "1280x720"}, (800_000_000 + 1_000) // 2),
        ({"status": "completed", "seconds": "4"}, (400_000_000 + 1_000) // 2),
        ({"status": "completed"}, (800_000_000 + 1_000) // 2),
        ({"status": "failed", "seconds": "8"}, 0),
        ({"status": "cancelled"}, 0),
    ],
)
async def test_a_video_is_charged_once_by_what_was_made_and_not_where_it_failed(
    said: dict[str, Any], cost_nanos: int
) -> None:
    async with Studio(1) as studio, Rig(make_snapshot([studio.channel()])) as rig:
        store = Store(begun())
        adopted = adopt(rig.server, store)
        studio.videos["video_1"] = {"id": "video_1", "status": "in_progress"}
        await adopted.look()
        assert store.ends == []
        studio.videos["video_1"] |= said
        for _ in range(2):
            await adopted.look()
        (end,) = store.ends
        assert (end.cost_nanos, end.endpoint, end.reason) == (cost_nanos, "videos", "completed")
        assert studio.calls == [("GET", "/videos/video_1")] * 3


async def test_a_video_that_nobody_knows_any_more_costs_nothing() -> None:
    async with looking(begun(gone=GONE_MAX - 1)) as (adopted, store, _):
        await adopted.look()
        (end,) = store.ends
        assert (end.cost_nanos, end.reason, end.price_id) == (0, "interrupted", 0)


async def test_where_nothing_is_left_it_is_looked_for_seldom() -> None:
    async with Provider(1) as provider, Rig(make_snapshot([provider.channel()])) as rig:
        store = Store()
        adopted = AdoptedCalls(lambda: None, store, rig.server.engine.background, look_s=0.02)
        adopted.start()
        try:
            await asyncio.sleep(0.02 * (VAIN_LOOKS + 5))
            looks = store.looks
            assert looks >= VAIN_LOOKS
            await asyncio.sleep(0.5)
            assert store.looks - looks <= 8
        finally:
            await adopted.stop()
