"""Goal: a video is held for when it is begun, and paid for once, when it is there; else not at all.

Method: providers that make videos whenever a test says so, relays with one shared memory before
them, the official client beside raw requests; sums are done here by hand.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest
from openai import AsyncOpenAI

from relay.extras import Extras
from relay.flow.state import background
from relay.model import ImagePrice, Price, PriceDetail, VideoPrice
from relay.records import CallEnd
from relay.wire.state.jobs import VIDEO_JOB
from tests.flow.rig import KEY, MODEL, Rig
from tests.flow.studio import PIECE, Studio
from tests.flow.test_state import OTHER_KEY, SharedMemory, ask, catalog, get

# OpenAI's client says so of each of its methods: its own models are gone, the API is others' too.
pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")

DIME = 100_000_000
PER_SECOND = PriceDetail(
    per_video_second=DIME,
    video_classes=(VideoPrice(per_second=3 * DIME, size="1792x1024"),),
)
ASKED = {"model": MODEL, "prompt": "a dog", "seconds": "8", "size": "1280x720"}


def price_of(detail: PriceDetail | None = PER_SECOND, per_call: int = 0) -> Price:
    return Price(
        id=7, model=MODEL, input=0, output=0, cached_input=0, per_call=per_call, detail=detail
    )


@asynccontextmanager
async def standing(
    channels: int = 1, relays: int = 1, price: Price | None = None, **line: Any
) -> AsyncIterator[tuple[list[Rig], list[Studio]]]:
    memory = SharedMemory()
    async with AsyncExitStack() as stack:
        made = [Studio(number) for number in range(1, channels + 1)]
        studios = [await stack.enter_async_context(one) for one in made]
        snapshot = catalog([*studios], **line)
        snapshot = msgspec.structs.replace(snapshot, prices={MODEL: price or price_of()})
        rigs = [
            await stack.enter_async_context(Rig(snapshot, owner_store=memory))
            for _ in range(relays)
        ]
        yield rigs, studios


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VIDEO_JOB, "most_s", 0.02)
    for name in ("FIRST_S", "LOOK_S"):
        monkeypatch.setattr(background, name, 0.02)


async def begin(rig: Rig, **fields: Any) -> str:
    status, made = await ask(rig, "/v1/videos", ASKED | fields)
    assert status == 200 and made["status"] == "queued", made
    name: str = made["id"]
    return name


def paid(*rigs: Rig) -> list[CallEnd]:
    """Return the ends of what began a video."""
    return [end for rig in rigs for end in rig.journal.ends if end.endpoint in ("videos", REMIX)]


REMIX = "videos/{id}/remix"


@pytest.mark.usefixtures("hurry")
async def test_the_official_client_makes_a_video_of_a_picture_over_any_worker() -> None:
    async with (
        standing(channels=3, relays=2) as (rigs, studios),
        AsyncOpenAI(base_url=rigs[0].url, api_key=KEY, max_retries=0) as here,
        AsyncOpenAI(base_url=rigs[1].url, api_key=KEY, max_retries=0) as there,
    ):
        picture = ("frame.png", b"\x89PNG" + bytes(range(256)) * 300, "image/png")
        made = await here.videos.create(
            model=MODEL, prompt="a dog", seconds="8", size="1280x720", input_reference=picture
        )
        (studio,) = (one for one in studios if made.id in one.videos)
        assert picture[1] in studio.forms[0] and f"up-{MODEL}".encode() in studio.forms[0]
        assert (await there.videos.retrieve(made.id)).status == "queued"
        assert paid(*rigs) == []
        studio.finish(made.id)
        done = await there.videos.poll(made.id)
        assert (done.status, done.seconds) == ("completed", "8")
        film = await there.videos.download_content(made.id, variant="video")
        assert film.read() == PIECE * studio.pieces
        assert ("GET", f"/videos/{made.id}/content?variant=video") in studio.calls
        await rigs[0].ended(1)
        again = await there.videos.remix(made.id, prompt="a cat")
        assert again.remixed_from_video_id == made.id and again.id in studio.videos
        studio.finish(again.id)
        await there.videos.delete(made.id)
        assert made.id not in studio.videos
        await rigs[1].ended(5)
        first, second = sorted(paid(*rigs), key=lambda end: end.endpoint)
        for end in (first, second):
            assert end.cost_nanos == 8 * DIME // 2 and not end.estimated
            assert end.extras == Extras(video_ms=8_000, video_class="1280x720")
            assert (end.model, end.served_model) == (MODEL, f"up-{MODEL}")
        free = [end for rig in rigs for end in rig.journal.ends if end not in (first, second)]
        assert {end.cost_nanos for end in free} == {0}


@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize(
    ("asked", "told", "cost_nanos"),
    [
        ({}, {}, 8 * DIME // 2),
        ({"size": "1792x1024"}, {}, 8 * 3 * DIME // 2),
        ({"seconds": 12}, {}, 12 * DIME // 2),
        ({}, {"seconds": "6"}, 6 * DIME // 2),
        ({}, {"seconds": None}, 8 * DIME // 2),
        ({"seconds": None, "size": None}, {"seconds": "x", "size": 3}, 4 * 3 * DIME // 2),
        ({}, {"seconds": "1000000"}, 8 * DIME // 2),
    ],
)
async def test_it_costs_the_seconds_that_were_made_at_their_size(
    asked: dict[str, Any], told: dict[str, Any], cost_nanos: int
) -> None:
    async with standing() as ([rig], [studio]):
        name = await begin(rig, **asked)
        studio.finish(name, **told)
        (end,) = await rig.ended(1)
        assert end.cost_nanos == cost_nanos


@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize("status", ["failed", "cancelled", "expired"])
async def test_what_was_not_made_costs_nothing_not_even_its_price_a_video(status: str) -> None:
    async with standing(price=price_of(per_call=DIME)) as ([rig], [studio]):
        studio.finish(await begin(rig), status)
        (end,) = await rig.ended(1)
        assert (end.cost_nanos, end.price_id, end.extras) == (0, 0, None)


@pytest.mark.usefixtures("hurry")
async def test_a_price_a_video_is_charged_once_for_each() -> None:
    async with standing(price=price_of(None, per_call=DIME)) as ([rig], [studio]):
        studio.finish(await begin(rig))
        (end,) = await rig.ended(1)
        assert end.cost_nanos == DIME // 2


@pytest.mark.parametrize(("status", "cost_nanos"), [("completed", 8 * DIME // 2), ("failed", 0)])
async def test_what_has_ended_in_its_very_answer_is_settled_there(
    status: str, cost_nanos: int
) -> None:
    async with standing() as ([rig], [studio]):
        studio.at_once = status
        assert (await ask(rig, "/v1/videos", ASKED))[0] == 200
        (end,) = await rig.ended(1)
        assert end.cost_nanos == cost_nanos


@pytest.mark.usefixtures("hurry")
async def test_what_its_provider_has_lost_costs_nothing() -> None:
    async with standing() as ([rig], [studio]):
        del studio.videos[await begin(rig)]
        (end,) = await rig.ended(1)
        assert end.cost_nanos == 0


async def test_what_is_deleted_before_it_was_counted_is_charged_and_what_runs_is_not_deleted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(background, "FIRST_S", 0.5)
    async with standing(relays=2) as (rigs, [studio]):
        made, failed = await begin(rigs[0]), await begin(rigs[0])
        status, told = await get(rigs[1], "DELETE", f"/v1/videos/{made}")
        assert status == 409 and "has not ended" in told["error"]["message"]
        studio.finish(made)
        studio.finish(failed, "failed")
        for name in (made, failed):
            assert (await get(rigs[1], "DELETE", f"/v1/videos/{name}"))[1]["deleted"] is True
        await rigs[0].ended(2)
        assert sorted(end.cost_nanos for end in paid(*rigs)) == [0, 8 * DIME // 2]


async def test_what_is_begun_is_written_down_before_its_client_hears_of_it() -> None:
    async with standing() as ([rig], _):
        name = await begin(rig)
        await rig.server.drain(0.0)
        assert rig.journal.ends == []
        (note,) = rig.journal.checkpoints
        unended = note.unended
        assert unended is not None and (unended.name, unended.price_id) == (name, 7)
        assert unended.asked is not None and unended.asked.video_ms == 8_000


async def test_another_account_has_none_of_it() -> None:
    async with standing() as ([rig], [studio]):
        name = await begin(rig)
        asked = len(studio.calls)
        for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", ""), ("POST", "/remix")):
            status, told = await get(rig, method, f"/v1/videos/{name}{path}", key=OTHER_KEY)
            assert status == 404 and told["error"]["message"].startswith("Video with id")
        assert len(studio.calls) == asked


@pytest.mark.parametrize(
    ("price", "fields", "status", "param"),
    [
        (price_of(PriceDetail(per_second=DIME)), {}, 404, "model"),
        (price_of(PriceDetail(image_classes=(ImagePrice(each=DIME),))), {}, 404, "model"),
        (
            price_of(PriceDetail(video_classes=(VideoPrice(per_second=1, size="720x1280"),))),
            {},
            400,
            "size",
        ),
        (price_of(), {"seconds": "soon"}, 400, "seconds"),
        (price_of(), {"seconds": "-4"}, 400, "seconds"),
        (price_of(), {"seconds": [4]}, 400, "seconds"),
        (price_of(), {"seconds": "nan"}, 400, "seconds"),
        (price_of(), {"seconds": "1e9"}, 400, "seconds"),
    ],
)
@pytest.mark.parametrize("unpriced", ["refuse", "strip"])
async def test_what_has_no_price_is_refused_by_name(
    price: Price, fields: dict[str, Any], status: int, param: str, unpriced: str
) -> None:
    async with standing(price=price, unpriced=unpriced) as ([rig], [studio]):
        found, told = await ask(rig, "/v1/videos", ASKED | fields)
        assert (found, told["error"]["param"]) == (status, param)
        assert studio.calls == []


@pytest.mark.usefixtures("hurry")
async def test_a_remix_is_of_what_is_there_and_has_a_price() -> None:
    async with standing() as ([rig], [studio]):
        name = await begin(rig, size="1792x1024", seconds="12")
        path = f"/v1/videos/{name}/remix"
        assert (await ask(rig, path, {"prompt": "more"}))[0] == 409
        studio.finish(name)
        await rig.ended(2)
        _, again = await ask(rig, path, {"prompt": "more"})
        studio.finish(again["id"])
        ends = await rig.ended(3)
        assert ends[-1].cost_nanos == 12 * 3 * DIME // 2
        studio.dead = True
        assert (await ask(rig, path, {"prompt": "more"}))[0] == 503
        studio.dead = False
        del studio.videos[name]
        assert (await ask(rig, path, {"prompt": "more"}))[0] == 404


async def test_a_line_that_hedges_begins_one_video() -> None:
    async with standing(channels=2, hedge_ms=1) as ([rig], studios):
        await begin(rig)
        assert sorted(len(one.videos) for one in studios) == [0, 1]


async def test_a_film_passes_in_pieces_whatever_its_length() -> None:
    async with standing() as ([rig], [studio]):
        name = await begin(rig)
        studio.pieces = 1024  # 64 MiB
        async with AsyncOpenAI(base_url=rig.url, api_key=KEY, max_retries=0) as client:
            path = f"/videos/{name}/content"
            films = client.with_streaming_response
            async with films.videos.download_content(name) as film:
                pieces = film.iter_bytes(len(PIECE))
                assert await anext(pieces) == PIECE
                held = studio.sent_bytes
                assert held < 32 * 1024 * 1024, path  # its client takes no more, so none is read
                left = [len(piece) async for piece in pieces]
            assert sum(left) == 1023 * len(PIECE)


@pytest.mark.parametrize("shared", [True, False])
async def test_an_account_lists_its_own_videos_wherever_they_are(shared: bool) -> None:
    async with standing(channels=2, relays=2 if shared else 1) as (rigs, studios):
        if not shared:
            rigs[0].server.engine.owners.store = None
        names = [
            await begin(rigs[number % len(rigs)], prompt=f"{number} dogs") for number in range(25)
        ]
        assert all(one.videos for one in studios)
        assert (await ask(rigs[0], "/v1/videos", ASKED, key=OTHER_KEY))[0] == 200
        async with AsyncOpenAI(base_url=rigs[-1].url, api_key=KEY, max_retries=0) as client:
            assert [one.id async for one in client.videos.list()] == names[::-1]
            assert [one.id async for one in client.videos.list(order="asc", limit=7)] == names
            for studio in studios:
                studio.videos.pop(names[3], None)
            left = [one.id async for one in client.videos.list()]
            assert left == [name for name in names[::-1] if name != names[3]]
        for query in ("limit=0", "limit=x", "order=up"):
            assert (await get(rigs[0], "GET", f"/v1/videos?{query}"))[0] == 400
        studios[0].dead = True
        assert (await get(rigs[0], "GET", "/v1/videos?limit=20"))[0] == 503
        ends = [end for end in rigs[0].journal.ends if end.endpoint == "videos/{id}"]
        assert {end.cost_nanos for end in ends} == {0}


async def test_paths_that_are_none_are_refused() -> None:
    async with standing() as ([rig], [studio]):
        for method, path, status in (
            ("PUT", "videos", 405),
            ("POST", "videos/edits", 404),
            ("POST", "videos/characters", 404),
            ("GET", "videos/video_1/film", 404),
            ("POST", "videos/video_1", 405),
        ):
            assert (await get(rig, method, f"/v1/{path}"))[0] == status, path
        assert studio.calls == []
