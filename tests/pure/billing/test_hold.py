"""Goal: a hold covers what a call may cost.

Method: the hold is compared with the charge of any usage within it.
"""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from relay.billing.hold import drains, hold_nanos
from relay.billing.price import charge
from relay.billing.shapes import Ask
from relay.extras import Asked, Extras
from relay.model import AbortBills, Price, PriceDetail, ServiceTier
from relay.units import PPM, parse_usd
from relay.usage import Usage

CHEAP = Price(id=1, model="a", input=parse_usd("1"), output=parse_usd("2"), cached_input=0)
DEAR = Price(id=2, model="b", input=parse_usd("3"), output=parse_usd("4"), cached_input=0)
NO_CAP = 10**30

rates = st.integers(0, 100_000_000_000)
maybe_rates = st.none() | rates
prices = st.builds(
    Price,
    id=st.just(1),
    model=st.just("m"),
    input=rates,
    output=rates,
    cached_input=rates,
    cache_write=rates,
    per_call=rates,
    model_multiplier_ppm=st.integers(0, 5 * PPM),
    detail=st.none()
    | st.builds(
        PriceDetail,
        cache_write_1h=maybe_rates,
        reasoning=maybe_rates,
        audio_input=maybe_rates,
        audio_output=maybe_rates,
        image_input=maybe_rates,
        image_output=maybe_rates,
        per_image=rates,
    ),
)
parts = st.integers(0, 100_000)


@given(prices, parts, parts, parts, parts, parts, parts, st.integers(0, 5 * PPM))
def test_hold_covers_any_usage_within_the_ask(  # the parts may fall as they like
    price: Price,
    fresh: int,
    cached: int,
    written: int,
    audio: int,
    text: int,
    reasoning: int,
    group_ppm: int,
) -> None:
    usage = Usage(
        input_tokens=fresh + cached + written + audio,
        cached_tokens=cached,
        cache_write_tokens=written,
        output_tokens=text + reasoning,
        reasoning_tokens=reasoning,
        cache_write_1h_tokens=written // 2,
        audio_input_tokens=audio,
        images=2,
    )
    held = hold_nanos(
        Ask(usage.input_tokens, usage.output_tokens, Asked(images=2)),
        price,
        group_multiplier_ppm=group_ppm,
        nanos_max=NO_CAP,
    )
    assert held >= charge(usage, price, group_multiplier_ppm=group_ppm).cost_nanos


def test_hold_is_capped() -> None:
    ask = Ask(1_000_000, 1_000_000)
    assert hold_nanos(ask, DEAR, group_multiplier_ppm=PPM, nanos_max=parse_usd("1")) == (
        parse_usd("1")
    )


def test_hold_is_rounded_up() -> None:
    price = msgspec.structs.replace(CHEAP, input=1)
    assert hold_nanos(Ask(1, 0), price, group_multiplier_ppm=1, nanos_max=NO_CAP) == 1


def test_a_hold_covers_what_multiplies_and_what_is_no_token() -> None:
    detail = PriceDetail(
        per_image=parse_usd("0.04"),
        per_second=parse_usd("0.0001"),
        character=parse_usd("15"),
        per_search=parse_usd("0.01"),
        per_session=parse_usd("0.03"),
        per_search_unit=parse_usd("0.002"),
        service_tiers=(
            ServiceTier(name="priority", input=2 * CHEAP.input, output=7 * CHEAP.output,
                        cached_input=0),
        ),
    )  # fmt: skip
    price = msgspec.structs.replace(CHEAP, detail=detail)
    asked = Asked(
        tier="priority", images=3, characters=1_000, audio_ms=2_000, searches=10, sessions=1,
        search_units=2,
    )  # fmt: skip
    held = hold_nanos(
        Ask(1_000_000, 1_000_000, asked), price, group_multiplier_ppm=PPM, nanos_max=NO_CAP
    )
    assert held == parse_usd("2") + parse_usd("14") + parse_usd("0.2692")


def test_only_a_paid_answer_of_a_full_biller_is_drained() -> None:
    assert drains(AbortBills.FULL, delivered=True)
    assert not drains(AbortBills.FULL, delivered=False)
    assert not drains(AbortBills.PARTIAL, delivered=True)


def test_a_batch_is_held_at_its_own_rates_and_a_call_for_each_request() -> None:
    tier = ServiceTier(
        name="batch",
        input=parse_usd("0.5"),
        output=parse_usd("1"),
        cached_input=0,
    )
    price = msgspec.structs.replace(
        CHEAP, per_call=1_000, detail=PriceDetail(service_tiers=(tier,))
    )
    asked = Asked(tier="batch", requests=7)
    held = hold_nanos(
        Ask(1_000_000, 2_000_000, asked), price, group_multiplier_ppm=PPM, nanos_max=NO_CAP
    )
    assert held == parse_usd("0.5") + 2 * parse_usd("1") + 7_000
    usage = Usage(1_000_000, 0, 0, 2_000_000, extras=Extras(tier="batch", requests=7))
    assert charge(usage, price, group_multiplier_ppm=PPM).cost_nanos == held
