"""Goal: a declared price is stored and read back without a change, and derived rates are exact.

Method: hypothesis over whole entries, there and back; the two multipliers on known cases.
"""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.model import PriceDetail
from relay.store.catalog.declaration import (
    DETAIL_PRICES,
    UNIT_PRICES,
    ImagePriceEntry,
    PriceEntry,
    PriceTierEntry,
    ServiceTierEntry,
    VideoPriceEntry,
)
from relay.store.catalog.prices import to_entry, to_price
from relay.units import format_multiplier, format_usd

usd = st.integers(0, 10**15).map(format_usd)
multiplier = st.integers(0, 10**9).map(format_multiplier)
tier = st.builds(
    PriceTierEntry,
    above_tokens=st.just(200_000),
    input=usd,
    output=usd,
    cached_input=st.just("") | usd,
    cache_write_1h=st.just("") | usd,
)
served = st.builds(
    ServiceTierEntry, name=st.sampled_from(("priority", "flex")), input=usd, output=usd,
    cached_input=usd, cache_write=usd,
)  # fmt: skip
image = st.builds(ImagePriceEntry, each=usd, quality=st.just("high"), size=st.just("1024x1024"))

video = st.builds(VideoPriceEntry, per_second=usd, size=st.just("1280x720"))


@st.composite
def entries(draw: st.DrawFn) -> PriceEntry:
    by_multiplier = draw(st.booleans())
    cache_by_multiplier = draw(st.booleans())
    plain = PriceEntry(
        model="m",
        input=draw(usd),
        output="" if by_multiplier else draw(usd),
        completion_multiplier=draw(multiplier) if by_multiplier else "",
        cached_input="" if cache_by_multiplier else draw(st.just("") | usd),
        cache_multiplier=draw(multiplier) if cache_by_multiplier else "",
        cache_write=draw(usd),
        per_call=draw(usd),
        per_image=draw(usd),
        model_multiplier=draw(multiplier),
        tiers=draw(st.lists(tier, max_size=1)),
        service_tiers=draw(st.lists(served, max_size=1)),
        image_classes=draw(st.lists(image, max_size=1)),
        video_classes=draw(st.lists(video, max_size=1)),
        output_max=draw(st.integers(0, 10**6)),
    )
    rare = {field: draw(st.just("") | usd) for field in DETAIL_PRICES}
    units = {field: draw(usd) for field in UNIT_PRICES}
    return msgspec.structs.replace(plain, **rare, **units)


@settings(max_examples=100)
@given(entries())
def test_there_and_back(entry: PriceEntry) -> None:
    assert to_entry(to_price(entry)) == entry


def test_plain_price_has_no_detail() -> None:
    price = to_price(PriceEntry(model="m", input="0.15", output="0.6"))
    assert price.detail is None
    assert (price.input, price.output, price.cached_input) == (
        150_000_000,
        600_000_000,
        150_000_000,
    )


def test_derived_rates() -> None:
    price = to_price(
        PriceEntry(model="m", input="3", completion_multiplier="5", cache_multiplier="0.1")
    )
    assert (price.output, price.completion_multiplier_ppm) == (15_000_000_000, 5_000_000)
    assert price.cached_input == 300_000_000
    assert price.detail == PriceDetail(cache_multiplier_ppm=100_000)
