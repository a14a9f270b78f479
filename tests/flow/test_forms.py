"""Goal: sound and pictures that come as forms are served, priced by their unit and told.

Method: the mock upstream behind a relay, forms as the official client sends them.
"""

from typing import Any

import msgspec
import pytest
from openai import AsyncOpenAI, NotFoundError

from relay.mock.options import MockOptions
from relay.mock.server import start
from relay.model import PriceDetail
from tests.flow.rig import KEY, MODEL, Rig, make_channel, make_snapshot

SOUND = ("speech.mp3", b"\xff\xfb" + b"x" * 8_000, "audio/mpeg")
PICTURE = ("cat.png", b"\x89PNG" + b"x" * 500, "image/png")


def priced(port: int, detail: PriceDetail | None) -> Any:
    snapshot = make_snapshot([make_channel(1, port)])
    price = msgspec.structs.replace(
        snapshot.prices[MODEL], input=0, output=0, cached_input=0, detail=detail
    )
    return msgspec.structs.replace(snapshot, prices={MODEL: price})


async def translate(client: AsyncOpenAI) -> None:
    told = await client.audio.translations.create(model=MODEL, file=SOUND)
    assert told.text


async def vary(client: AsyncOpenAI) -> None:
    made = await client.images.create_variation(model=MODEL, image=PICTURE, n=2)
    assert made.data is not None and len(made.data) == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # variations: old, and still served
@pytest.mark.parametrize(
    ("ask", "endpoint", "detail", "unit"),
    [
        (translate, "audio/translations", PriceDetail(per_second=1_000_000), "audio_ms"),
        (vary, "images/variations", PriceDetail(per_image=40_000_000), "images"),
    ],
)
async def test_a_form_is_served_and_charged_by_its_unit(
    ask: Any, endpoint: str, detail: PriceDetail, unit: str
) -> None:
    mock = await start(MockOptions())
    try:
        async with Rig(priced(mock.port, detail)) as rig:
            async with AsyncOpenAI(base_url=rig.url, api_key=KEY, max_retries=0) as client:
                await ask(client)
            (end,) = await rig.ended()
        assert end.endpoint == endpoint and end.status == 200 and end.cost_nanos > 0
        assert (end.images == 2) == (unit == "images")
        if unit == "audio_ms":
            assert end.extras is not None and end.extras.audio_ms > 0
        assert {call.endpoint for call in mock.served} == {endpoint}
        async with (
            Rig(priced(mock.port, None)) as rig,
            AsyncOpenAI(base_url=rig.url, api_key=KEY, max_retries=0) as client,
        ):
            with pytest.raises(NotFoundError) as refused:
                await ask(client)
            assert refused.value.code == "unpriced"
    finally:
        await mock.close()
