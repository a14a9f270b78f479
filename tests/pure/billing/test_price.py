"""Goal: a charge is exact. Method: new-api's formula as golden cases, laws as properties."""

import dataclasses
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.billing.price import COST_NANOS_MAX, charge, itemise, receipt
from relay.billing.shapes import Charge
from relay.extras import Extras
from relay.model import ImagePrice, Price, PriceDetail, PriceTier, ServiceTier, VideoPrice
from relay.units import PPM, TOKENS_PER_PRICE, parse_multiplier, parse_usd
from relay.usage import Usage

GPT = Price(
    id=7,
    model="gpt",
    input=parse_usd("5"),
    output=parse_usd("30"),
    cached_input=parse_usd("0.5"),
)
QUOTA_NANOS = 2_000  # 500,000 quota = 1 USD


def cost(usage: Usage, price: Price, group: str = "1") -> int:
    return charge(usage, price, group_multiplier_ppm=parse_multiplier(group)).cost_nanos


tokens = st.integers(0, 2_000_000)
rates = st.integers(0, 200_000_000_000)
multipliers = st.integers(0, 5_000_000)
maybe_rates = st.none() | rates


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    """Return a usage whose parts fit into their wholes."""
    fresh, cached, written, audio_in, image_in = (draw(tokens) for _ in range(5))
    text, reasoning, audio_out, image_out = (draw(tokens) for _ in range(4))
    return Usage(
        input_tokens=fresh + cached + written + audio_in + image_in,
        cached_tokens=cached,
        cache_write_tokens=written,
        output_tokens=text + reasoning + audio_out + image_out,
        reasoning_tokens=reasoning,
        cache_write_1h_tokens=draw(st.integers(0, written)),
        audio_input_tokens=audio_in,
        audio_output_tokens=audio_out,
        image_input_tokens=image_in,
        image_output_tokens=image_out,
        images=draw(st.integers(0, 10)),
    )


plain_prices = st.builds(
    Price,
    id=st.just(1),
    model=st.just("m"),
    input=rates,
    output=rates,
    cached_input=rates,
    cache_write=rates,
    per_call=rates,
    model_multiplier_ppm=multipliers,
    completion_multiplier_ppm=st.none() | multipliers,
)
details = st.builds(
    PriceDetail,
    cache_write_1h=maybe_rates,
    reasoning=maybe_rates,
    audio_input=maybe_rates,
    audio_output=maybe_rates,
    image_input=maybe_rates,
    image_output=maybe_rates,
    per_image=rates,
    cache_multiplier_ppm=st.none() | multipliers,
)
prices = st.builds(
    lambda price, detail: msgspec.structs.replace(price, detail=detail),
    plain_prices,
    st.none() | details,
)


def by_ratios(
    *,
    model: str,
    completion: str = "1",
    cache: str = "1",
    creation: str = "0",
    detail: PriceDetail | None = None,
) -> Price:
    """Return the price that new-api's ratios say: ratio 1 = 2 USD per 1M tokens."""
    usd = 2 * parse_usd(model)
    return Price(
        id=1,
        model="m",
        input=usd,
        output=0,
        cached_input=usd * parse_multiplier(cache) // PPM,
        cache_write=usd * parse_multiplier(creation) // PPM,
        completion_multiplier_ppm=parse_multiplier(completion),
        detail=detail,
    )


# quota = (input + cached x cache ratio + written x creation ratio + output x completion ratio)
# x model ratio x group ratio, worked out by hand in the comments.
GOLDEN = {
    # OpenAI: 3,000 prompt tokens, 2,000 of them cached. (1,000 + 2,000 x 0.5 + 500 x 4) x 1.25
    "openai, cached": (
        Usage(input_tokens=3_000, cached_tokens=2_000, output_tokens=500),
        by_ratios(model="1.25", completion="4", cache="0.5"),
        "1",
        5_000 * QUOTA_NANOS,
    ),
    # (1,234 + 567 x 4) x 0.075 x 1.5 = 393.975, which new-api rounds to 394
    "openai, group ratio": (
        Usage(input_tokens=1_234, output_tokens=567),
        by_ratios(model="0.075", completion="4"),
        "1.5",
        787_950,
    ),
    # (100 + 50 x 1.33) x 0.25 x 0.69 = 28.72125; half a nano-dollar is rounded up
    "openai, odd ratios": (
        Usage(input_tokens=100, output_tokens=50),
        by_ratios(model="0.25", completion="1.33"),
        "0.69",
        57_443,
    ),
    # OpenAI's cached and written prefixes may overlap: the rest is never below zero.
    # (0 + 800 x 0.1 + 400 x 1.25) x 1
    "openai, overlap": (
        Usage(input_tokens=1_000, cached_tokens=800, cache_write_tokens=400),
        by_ratios(model="1", cache="0.1", creation="1.25"),
        "1",
        580 * QUOTA_NANOS,
    ),
    # Anthropic says 1,000 input and beside it 8,000 read, 2,000 written: the parser adds them up.
    # (1,000 + 8,000 x 0.1 + 2,000 x 1.25 + 300 x 5) x 1.5 x 0.8
    "anthropic": (
        Usage(
            input_tokens=11_000, cached_tokens=8_000, cache_write_tokens=2_000, output_tokens=300
        ),
        by_ratios(model="1.5", completion="5", cache="0.1", creation="1.25"),
        "0.8",
        6_960 * QUOTA_NANOS,
    ),
    # 1,000 of the written ones for an hour. (1,000 + 1,000 x 1.25 + 1,000 x 2) x 1.5
    "anthropic, 5 minutes and an hour": (
        Usage(input_tokens=3_000, cache_write_tokens=2_000, cache_write_1h_tokens=1_000),
        by_ratios(model="1.5", creation="1.25", detail=PriceDetail(cache_write_1h=parse_usd("6"))),
        "1",
        6_375 * QUOTA_NANOS,
    ),
    # (100 + 20 x 4 + 30 x 16 + 10 x 16 x 2) x 1.25
    "audio": (
        Usage(input_tokens=130, output_tokens=30, audio_input_tokens=30, audio_output_tokens=10),
        by_ratios(
            model="1.25",
            completion="4",
            detail=PriceDetail(audio_input=parse_usd("40"), audio_output=parse_usd("80")),
        ),
        "1",
        1_225 * QUOTA_NANOS,
    ),
    # model price 0.04 USD x 0.5 x 500,000
    "per call": (
        Usage(input_tokens=10),
        Price(id=1, model="m", input=0, output=0, cached_input=0, per_call=parse_usd("0.04")),
        "0.5",
        10_000 * QUOTA_NANOS,
    ),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_charge_is_the_number_of_new_api(case: str) -> None:
    usage, price, group, expected = GOLDEN[case]
    assert cost(usage, price, group) == expected


def test_charge_keeps_what_it_was_computed_from() -> None:
    price = msgspec.structs.replace(GPT, model_multiplier_ppm=2 * PPM)
    charged = charge(Usage(input_tokens=1), price, group_multiplier_ppm=690_000)
    assert charged == Charge(6_900, 7, 690_000, 2 * PPM)


@pytest.mark.parametrize(
    ("usage", "nanos"),
    [
        (Usage(output_tokens=10**30), COST_NANOS_MAX),
        (Usage(output_tokens=-1), 0),
        (Usage(input_tokens=5, cached_tokens=-(10**30)), COST_NANOS_MAX),
    ],
)
def test_a_lying_upstream_cannot_make_a_cost_that_cannot_be_booked(
    usage: Usage, nanos: int
) -> None:
    assert cost(usage, GPT) == nanos


def test_each_part_has_its_rate() -> None:
    detail = PriceDetail(
        cache_write_1h=parse_usd("10"),
        reasoning=parse_usd("60"),
        audio_input=parse_usd("40"),
        audio_output=parse_usd("80"),
        image_input=parse_usd("8"),
        image_output=parse_usd("32"),
        per_image=parse_usd("0.02"),
    )
    price = msgspec.structs.replace(GPT, detail=detail, per_call=parse_usd("0.01"))
    usage = Usage(
        input_tokens=1_000_000 * 6,
        cached_tokens=1_000_000,
        cache_write_tokens=2_000_000,
        cache_write_1h_tokens=1_000_000,
        audio_input_tokens=1_000_000,
        image_input_tokens=1_000_000,
        output_tokens=1_000_000 * 4,
        reasoning_tokens=1_000_000,
        audio_output_tokens=1_000_000,
        image_output_tokens=1_000_000,
        images=3,
    )
    # input 5, cached 0.5, written 5 (no rate of its own), an hour 10, audio 40, image 8;
    # output 30, reasoning 60, audio 80, image 32; three images, one call
    expected = "270.57"
    assert cost(usage, price) == parse_usd(expected)


class TestUnits:
    """Seconds, images by class, and the tier that served."""

    FAST = ServiceTier(
        name="priority",
        input=parse_usd("10"),
        output=parse_usd("60"),
        cached_input=parse_usd("1"),
    )
    CLASSES = (
        ImagePrice(quality="high", size="1024x1024", each=parse_usd("0.167")),
        ImagePrice(quality="low", size="1024x1024", each=parse_usd("0.011")),
        ImagePrice(quality="high", size="1536x1024", each=parse_usd("0.25")),
    )

    def test_the_tier_that_served_is_charged(self) -> None:
        price = msgspec.structs.replace(GPT, detail=PriceDetail(service_tiers=(self.FAST,)))
        usage = Usage(1_000_000, 500_000, output_tokens=1_000_000)
        assert cost(usage, price) == parse_usd("32.75")
        for tier, usd in (("priority", "65.5"), ("flex", "32.75"), ("", "32.75")):
            served = dataclasses.replace(usage, extras=Extras(tier=tier))
            assert cost(served, price) == parse_usd(usd)

    @pytest.mark.parametrize(
        ("image_class", "usd"),
        [
            ("high 1024x1024", "0.334"),
            ("low 1024x1024", "0.022"),
            ("auto 1024x1024", "0.334"),
            ("high auto", "0.5"),
            ("", "0.5"),
            ("low 512x512", "0.08"),
        ],
    )
    def test_an_image_costs_the_dearest_class_it_may_be_of(
        self, image_class: str, usd: str
    ) -> None:
        detail = PriceDetail(per_image=parse_usd("0.04"), image_classes=self.CLASSES)
        price = Price(id=1, model="m", input=0, output=0, cached_input=0, detail=detail)
        usage = Usage(images=2, extras=Extras(image_class=image_class))
        assert cost(usage, price) == parse_usd(usd)

    @pytest.mark.parametrize(
        ("size", "usd"),
        [("720x1280", "0.8"), ("1024x1792", "2.4"), ("", "2.4"), ("auto", "2.4")],
    )
    def test_a_video_costs_its_seconds_at_the_dearest_size_it_may_have(
        self, size: str, usd: str
    ) -> None:
        detail = PriceDetail(
            per_video_second=parse_usd("0.1"),
            video_classes=(VideoPrice(per_second=parse_usd("0.3"), size="1024x1792"),),
        )
        price = Price(id=1, model="m", input=0, output=0, cached_input=0, detail=detail)
        usage = Usage(extras=Extras(video_ms=8_000, video_class=size))
        assert cost(usage, price) == parse_usd(usd)


def test_a_detail_that_tells_nothing_apart_changes_nothing() -> None:
    usage = Usage(input_tokens=10, output_tokens=10, reasoning_tokens=9, audio_input_tokens=8)
    assert cost(usage, msgspec.structs.replace(GPT, detail=PriceDetail())) == cost(usage, GPT)


class TestTiers:
    """A long prompt moves the whole call to the rates of its tier."""

    PRICE = msgspec.structs.replace(
        GPT,
        detail=PriceDetail(
            cache_write_1h=parse_usd("10"),
            tiers=(
                PriceTier(
                    above_tokens=100,
                    input=parse_usd("10"),
                    output=parse_usd("45"),
                    cached_input=parse_usd("1"),
                ),
                PriceTier(
                    above_tokens=200,
                    input=parse_usd("20"),
                    output=parse_usd("90"),
                    cached_input=parse_usd("2"),
                    cache_write=parse_usd("25"),
                    cache_write_1h=parse_usd("40"),
                ),
            ),
        ),
    )

    @pytest.mark.parametrize(
        ("input_tokens", "usd_per_million"), [(100, "5"), (101, "10"), (200, "10"), (201, "20")]
    )
    def test_tier_begins_above_its_length(self, input_tokens: int, usd_per_million: str) -> None:
        nanos = cost(Usage(input_tokens=input_tokens), self.PRICE)
        assert nanos * 1_000_000 == input_tokens * parse_usd(usd_per_million)

    def test_tier_prices_all_parts(self) -> None:
        usage = Usage(
            input_tokens=300,
            cached_tokens=100,
            cache_write_tokens=100,
            cache_write_1h_tokens=50,
            output_tokens=10,
        )
        nanos = 100 * 20_000 + 100 * 2_000 + 50 * 25_000 + 50 * 40_000 + 10 * 90_000
        assert cost(usage, self.PRICE) == nanos

    def test_an_hour_costs_what_it_costs_below_where_the_tier_is_silent(self) -> None:
        usage = Usage(input_tokens=150, cache_write_tokens=150, cache_write_1h_tokens=150)
        assert cost(usage, self.PRICE) == 150 * 10_000

    def test_multipliers_apply_to_the_rates_of_the_tier(self) -> None:
        assert self.PRICE.detail is not None
        detail = msgspec.structs.replace(self.PRICE.detail, cache_multiplier_ppm=PPM // 2)
        price = msgspec.structs.replace(
            self.PRICE, detail=detail, completion_multiplier_ppm=3 * PPM
        )
        usage = Usage(input_tokens=150, cached_tokens=150, output_tokens=10)
        assert cost(usage, price) == 150 * 5_000 + 10 * 30_000


class TestReceipt:
    """What the payer is shown."""

    def test_receipt_is_the_sum_in_full(self) -> None:
        usage = Usage(input_tokens=92_039, cached_tokens=89_472, output_tokens=550)
        assert receipt(usage, GPT, group_multiplier_ppm=690_000) == (
            "2,567 x $5/M + 89,472 x $0.5/M + 550 x $30/M, x 0.69 = $0.05110899"
        )

    def test_receipt_names_both_multipliers_and_pieces(self) -> None:
        price = msgspec.structs.replace(
            GPT,
            per_call=parse_usd("0.01"),
            model_multiplier_ppm=2 * PPM,
            detail=PriceDetail(per_image=parse_usd("0.04")),
        )
        assert receipt(Usage(images=3), price, group_multiplier_ppm=PPM // 2) == (
            "3 x $0.04 + 1 x $0.01, x 0.5 x 2 = $0.13"
        )

    def test_receipt_names_what_is_no_token(self) -> None:
        price = msgspec.structs.replace(
            GPT,
            detail=PriceDetail(
                per_second=parse_usd("0.0001"),
                character=parse_usd("15"),
                per_search=parse_usd("0.01"),
                per_session=parse_usd("0.03"),
                per_search_unit=parse_usd("0.002"),
                video_classes=(VideoPrice(per_second=parse_usd("0.3"), size="1024x1792"),),
            ),
        )
        extras = Extras(
            audio_ms=11_500,
            characters=1_000,
            searches=3,
            sessions=1,
            search_units=2,
            video_ms=8_000,
            video_class="1024x1792",
        )
        assert receipt(Usage(extras=extras), price, group_multiplier_ppm=PPM) == (
            "11.5 s x $0.0001 + 1,000 characters x $15/M + 3 searches x $0.01 + "
            "1 sessions x $0.03 + 2 search units x $0.002 + 8 s x $0.3 = $2.48015"
        )

    def test_receipt_of_nothing(self) -> None:
        assert receipt(Usage(), GPT, group_multiplier_ppm=PPM) == "0 = $0"

    def test_large_rates_have_no_exponent(self) -> None:
        price = msgspec.structs.replace(GPT, input=parse_usd("100"))
        line = receipt(Usage(input_tokens=1_000_000), price, group_multiplier_ppm=PPM)
        assert line == "1,000,000 x $100/M = $100"


@given(usages(), prices, multipliers)
def test_charge_is_the_sum_of_its_items_rounded_once(
    usage: Usage, price: Price, group_ppm: int
) -> None:
    charged = charge(usage, price, group_multiplier_ppm=group_ppm)
    exact = Fraction(
        sum(item.cost_scaled for item in itemise(usage, price))
        * group_ppm
        * price.model_multiplier_ppm,
        1_000_000 * PPM**3,
    )
    assert abs(charged.cost_nanos - exact) <= Fraction(1, 2)


@given(usages(), prices)
def test_items_count_every_token_once(usage: Usage, price: Price) -> None:
    counted = sum(item.count for item in itemise(usage, price) if item.per == TOKENS_PER_PRICE)
    assert counted == usage.input_tokens + usage.output_tokens


@given(usages(), prices, multipliers, tokens, tokens)
def test_more_tokens_never_cost_less(
    usage: Usage, price: Price, group_ppm: int, more_input: int, more_output: int
) -> None:
    more = dataclasses.replace(
        usage,
        input_tokens=usage.input_tokens + more_input,
        output_tokens=usage.output_tokens + more_output,
    )
    less_nanos = charge(usage, price, group_multiplier_ppm=group_ppm).cost_nanos
    assert charge(more, price, group_multiplier_ppm=group_ppm).cost_nanos >= less_nanos >= 0


@given(usages(), usages(), plain_prices, multipliers)
def test_two_calls_cost_what_their_sum_costs_but_for_the_rounding(
    one: Usage, other: Usage, price: Price, group_ppm: int
) -> None:
    price = msgspec.structs.replace(price, per_call=0)
    both = Usage(
        input_tokens=one.input_tokens + other.input_tokens,
        cached_tokens=one.cached_tokens + other.cached_tokens,
        cache_write_tokens=one.cache_write_tokens + other.cache_write_tokens,
        output_tokens=one.output_tokens + other.output_tokens,
    )
    costs = [
        charge(usage, price, group_multiplier_ppm=group_ppm).cost_nanos
        for usage in (one, other, both)
    ]
    assert abs(costs[0] + costs[1] - costs[2]) <= 1
