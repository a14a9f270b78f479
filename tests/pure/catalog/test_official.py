"""Goal: official prices are taken over exactly or not at all, and what is dearer is found.

Method: entries of a price list written by hand in the package's own types, the real list as a
whole, and the rule over hand-made prices.
"""

import datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from genai_prices import types as listed_types

from relay.control.catalog.official import OfficialError, PriceBook, to_price
from relay.model import Price
from relay.store.catalog.prices import to_entry
from relay.store.catalog.prices import to_price as declared_price
from relay.store.catalog.sale.official import Move, PriceMove, compare_price, find_breaches
from relay.store.log.margins import spent_nanos
from relay.units import PPM

NOW = datetime.datetime(2026, 11, 30, tzinfo=datetime.UTC)


def entry(prices: Any, variants: Any = None) -> listed_types.ModelInfo:
    return listed_types.ModelInfo(
        id="m",
        match=listed_types.ClauseEquals(equals="m"),
        prices=prices,
        price_variants=variants,
    )


def rates(**said: Any) -> listed_types.ModelPrice:
    return listed_types.ModelPrice(**{key: Decimal(value) for key, value in said.items()})


def test_a_plain_price_is_kept_to_the_last_digit() -> None:
    price = to_price("m", entry(rates(input_mtok="0.0375", output_mtok="1.25")), NOW)
    assert (price.input, price.output, price.cached_input) == (
        37_500_000,
        1_250_000_000,
        37_500_000,
    )
    assert price.detail is None


def test_caches_searches_and_hours_are_kept() -> None:
    price = to_price(
        "m",
        entry(
            rates(
                input_mtok="3",
                output_mtok="15",
                cache_read_mtok="0.3",
                cache_write_mtok="3.75",
                cache_write_1h_mtok="6",
                web_searches_kcount="10",
            )
        ),
        NOW,
    )
    assert (price.cached_input, price.cache_write) == (300_000_000, 3_750_000_000)
    assert price.detail is not None
    assert (price.detail.cache_write_1h, price.detail.per_search) == (6_000_000_000, 10_000_000)


def test_tiers_hold_what_is_not_told_apart_in_them() -> None:
    tiered = listed_types.TieredPrices(
        base=Decimal(1), tiers=[listed_types.Tier(start=200_000, price=Decimal(2))]
    )
    found = entry(listed_types.ModelPrice(input_mtok=tiered, output_mtok=Decimal(8)))
    price = to_price("m", found, NOW)
    assert price.input == 1_000_000_000
    assert price.detail is not None
    (tier,) = price.detail.tiers
    assert (tier.above_tokens, tier.input, tier.output) == (200_000, 2_000_000_000, 8_000_000_000)


def test_a_price_that_starts_tomorrow_is_not_in_force() -> None:
    tomorrow = listed_types.StartDateConstraint(start_date=datetime.date(2026, 12, 1))
    found = entry(
        [
            listed_types.ConditionalPrice(prices=rates(input_mtok="1", output_mtok="2")),
            listed_types.ConditionalPrice(
                constraint=tomorrow, prices=rates(input_mtok="9", output_mtok="9")
            ),
        ]
    )
    assert to_price("m", found, NOW).input == 1_000_000_000
    assert to_price("m", found, NOW + datetime.timedelta(days=2)).input == 9_000_000_000


def test_service_tiers_are_priced_beside_the_standard_one() -> None:
    flex = listed_types.PriceVariant(
        when={"service_tier": "flex"}, prices=rates(input_mtok="0.5", output_mtok="1")
    )
    batch = listed_types.PriceVariant(
        when={"processing": "batch"}, prices=rates(input_mtok="0.1", output_mtok="0.1")
    )
    price = to_price("m", entry(rates(input_mtok="1", output_mtok="2"), [flex, batch]), NOW)
    assert price.detail is not None
    (tier,) = price.detail.service_tiers
    assert (tier.name, tier.input, tier.output) == ("flex", 500_000_000, 1_000_000_000)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"audio_hours": "0.1"}, "not billed here"),
        ({"input_mtok": "1", "output_mtok": "1", "input_mchars": "1"}, "not billed here"),
        ({"output_mtok": "0"}, "without a price"),
        ({"input_mtok": "0.0000000001", "output_mtok": "1"}, "finer than can be kept"),
    ],
)
def test_what_cannot_be_billed_exactly_is_left_out(said: dict[str, str], reason: str) -> None:
    with pytest.raises(OfficialError, match=reason):
        to_price("m", entry(rates(**said)), NOW)


def test_five_hundred_models_and_more_are_priced_by_the_real_list() -> None:
    book = PriceBook(NOW)
    from genai_prices.data import providers

    priced = 0
    for provider in providers:
        for model in provider.models:
            found, reason = book.find(model.id, [provider.id])
            assert (found is None) == bool(reason)
            if found is not None:
                priced += 1
                declared = to_entry(found.price)
                assert declared_price(declared) == found.price, "a file could say the same"
    assert priced > 1500


def test_a_model_is_looked_for_where_it_is_bought_and_then_at_its_maker() -> None:
    book = PriceBook(NOW)
    bought, _ = book.find("openai/gpt-4o", ["openrouter"])
    assert bought is not None and bought.source.startswith("openrouter/")
    made, _ = book.find("deepseek/deepseek-chat", [])
    assert made is not None and made.source.startswith("deepseek/")
    free, reason = book.find("someone/gpt-4o:free", [])
    assert free is None and reason == "no list names it"


def price(**fields: int) -> Price:
    plain = Price(id=3, model="m", input=1000, output=4000, cached_input=100)
    return msgspec.structs.replace(plain, **fields)


def test_a_price_of_ours_follows_its_list_and_no_other() -> None:
    was, now = price(), price(output=5000)
    assert compare_price(None, None, now) is Move.NEW
    assert compare_price(was, was, now) is Move.MOVED
    assert compare_price(price(input=1001), was, now) is Move.OWN
    assert compare_price(was, None, now) is Move.OWN
    assert compare_price(now, was, now) is Move.SAME
    assert compare_price(was, was, price(output=8001)) is Move.JUMPED
    assert compare_price(was, was, price(output=0)) is Move.JUMPED


def test_what_is_proposed_keeps_our_multiplier() -> None:
    ours = price(model_multiplier_ppm=800_000)
    move = PriceMove(
        model="public", move=Move.MOVED, official=price(output=5000), was=price(), ours=ours
    )
    assert move.proposed is not None
    assert (move.proposed.model, move.proposed.model_multiplier_ppm) == ("public", 800_000)
    assert msgspec.structs.replace(move, move=Move.OWN).proposed is None


def test_the_dearest_group_counts_against_the_ceiling() -> None:
    official = {"m": price()}
    assert find_breaches({"m": price()}, official, PPM, PPM) == []
    assert find_breaches({"m": price(), "other": price(input=9)}, official, PPM, PPM) == []
    dear = {"m": price(model_multiplier_ppm=900_000)}
    assert find_breaches(dear, official, 1_100_000, PPM) == []
    found = find_breaches(dear, official, 1_200_000, PPM)
    assert {one.rate for one in found} == {"input", "output", "cached_input"}
    assert found[0].times == "1.08"
    assert find_breaches(dear, official, 1_200_000, 2 * PPM) == []
    (made_up,) = find_breaches({"m": price(per_call=5)}, official, PPM, 9 * PPM)
    assert (made_up.rate, made_up.times) == ("per_call", "inf")


def test_output_that_is_a_multiple_of_input_counts_as_it_is_charged() -> None:
    official = {"m": price(input=1_000, output=4_000)}
    multiple = price(input=1_000, output=0, completion_multiplier_ppm=4 * PPM)
    assert find_breaches({"m": multiple}, official, PPM, PPM) == []
    dear = msgspec.structs.replace(multiple, completion_multiplier_ppm=5 * PPM)
    (found,) = find_breaches({"m": dear}, official, PPM, PPM)
    assert (found.rate, found.times) == ("output", "1.25")


def test_what_tokens_cost_at_a_provider_is_its_share_of_the_official_price() -> None:
    official = price(input=1_000_000_000, output=4_000_000_000, cached_input=100_000_000)
    million = 1_000_000
    assert spent_nanos(official, PPM, (million, 0, 0), million, 1) == 5_000_000_000
    assert spent_nanos(official, PPM // 2, (million, million, 0), 0, 1) == 50_000_000
    written = msgspec.structs.replace(official, cache_write=1_250_000_000)
    assert spent_nanos(written, PPM, (million, 0, million), 0, 1) == 1_250_000_000
    assert spent_nanos(official, PPM, (million, 0, million), 0, 1) == 1_000_000_000
