"""Goal: in lowest terms a call costs, and holds, the very same. Method: laws as properties."""

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from relay.billing.hold import hold_nanos
from relay.billing.price import charge
from relay.billing.shapes import Ask
from relay.billing.tariff import NO_TARIFF, Tariff
from relay.extras import NOTHING_ASKED, REACHES_OUT, Asked
from relay.model import FREE_PRICE, Price, PriceDetail, PriceTier
from relay.units import PPM, parse_usd
from relay.usage import Usage
from tests.pure.billing.test_price import GPT, multipliers, plain_prices, prices, tokens, usages

claims = st.builds(
    Usage,
    input_tokens=st.integers(0, 10**15),
    cached_tokens=st.integers(0, 10**15),
    cache_write_tokens=st.integers(0, 10**15),
    output_tokens=st.integers(0, 10**15),
)
"""What an upstream may say it used."""


@given(usages(), prices, multipliers)
@example(Usage(input_tokens=100, output_tokens=50), GPT, 690_000)
def test_a_call_costs_the_same(usage: Usage, price: Price, group_ppm: int) -> None:
    tariff = Tariff(price, group_ppm)
    charged = charge(usage, price, group_multiplier_ppm=group_ppm)
    assert tariff.cost_nanos(usage) == charged.cost_nanos
    assert tariff.price_id == charged.price_id
    assert tariff.group_multiplier_ppm == charged.group_multiplier_ppm
    assert tariff.model_multiplier_ppm == charged.model_multiplier_ppm


@given(claims, plain_prices, multipliers)
def test_a_usage_that_cannot_be_costs_the_same(usage: Usage, price: Price, group_ppm: int) -> None:
    charged = charge(usage, price, group_multiplier_ppm=group_ppm)
    assert Tariff(price, group_ppm).cost_nanos(usage) == charged.cost_nanos


@given(prices, multipliers, tokens, tokens, st.integers(0, 128), st.integers(1, 10**12))
def test_a_call_holds_the_same(
    price: Price, group_ppm: int, asked: int, output: int, images: int, nanos_max: int
) -> None:
    extra = Asked(images=images) if images else NOTHING_ASKED
    held = hold_nanos(
        Ask(asked, output, extra), price, group_multiplier_ppm=group_ppm, nanos_max=nanos_max
    )
    tariff = Tariff(price, group_ppm)
    assert tariff.hold_nanos(asked, output, extra, nanos_max=nanos_max) == held
    if not images:
        assert tariff.hold_nanos(asked, output, REACHES_OUT, nanos_max=nanos_max) == held


@given(tokens, tokens)
def test_a_price_with_tiers_holds_by_the_prompt(asked: int, output: int) -> None:
    tier = PriceTier(above_tokens=200_000, input=10**10, output=6 * 10**10, cached_input=10**9)
    price = msgspec.structs.replace(GPT, detail=PriceDetail(tiers=(tier,)))
    held = hold_nanos(Ask(asked, output), price, group_multiplier_ppm=PPM, nanos_max=10**15)
    assert Tariff(price, PPM).hold_nanos(asked, output, NOTHING_ASKED, nanos_max=10**15) == held


def test_common_prices_end_in_small_numbers() -> None:
    price = msgspec.structs.replace(GPT, model_multiplier_ppm=1_500_000)
    tariff = Tariff(price, 690_000)
    assert tariff.cost_nanos(Usage(input_tokens=1_000_000)) == parse_usd("5.175")
    assert max(tariff._fresh, tariff._output, tariff._divisor) < 10**9


def test_what_is_free_costs_nothing() -> None:
    usage = Usage(input_tokens=1_000_000, output_tokens=1_000_000)
    assert Tariff(FREE_PRICE, PPM).free
    assert not Tariff(GPT, PPM).free
    for tariff in (NO_TARIFF, Tariff(FREE_PRICE, PPM), Tariff(GPT, 0)):
        assert tariff.cost_nanos(usage) == 0
        assert tariff.hold_nanos(1000, 1000, NOTHING_ASKED, nanos_max=10**9) == 0
