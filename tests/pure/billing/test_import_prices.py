"""Goal: foreign price lists are read exactly or not at all.

Method: small documents by hand, the starter list as shipped, and arbitrary JSON as a fuzz.
"""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import relay.billing
from relay.billing.import_prices import parse_cost_map, parse_ratios
from relay.model import Price, PriceDetail, PriceTier
from relay.units import parse_usd

STARTER = Path(relay.billing.__file__).with_name("starter_prices.json")


def only(prices: list[Price]) -> Price:
    (price,) = prices
    return price


class TestCostMap:
    """LiteLLM's map: USD a token, in scientific notation."""

    def test_plain_model(self) -> None:
        found = parse_cost_map(
            b'{"m": {"input_cost_per_token": 1.5e-07, "output_cost_per_token": 6e-07,'
            b' "cache_read_input_token_cost": 7.5e-08, "litellm_provider": "openai"}}'
        )
        assert found.skipped == {}
        assert only(found.prices) == Price(
            id=0,
            model="m",
            input=parse_usd("0.15"),
            output=parse_usd("0.6"),
            cached_input=parse_usd("0.075"),
        )

    def test_without_a_cache_price_cached_tokens_cost_what_input_costs(self) -> None:
        found = parse_cost_map(
            b'{"m": {"input_cost_per_token": 1e-06, "output_cost_per_token": 0}}'
        )
        assert only(found.prices).cached_input == parse_usd("1")

    def test_every_part(self) -> None:
        entry = {
            "input_cost_per_token": 3e-06,
            "output_cost_per_token": 1.5e-05,
            "cache_read_input_token_cost": 3e-07,
            "cache_creation_input_token_cost": 3.75e-06,
            "cache_creation_input_token_cost_above_1hr": 6e-06,
            "output_cost_per_reasoning_token": 2e-05,
            "input_cost_per_audio_token": 4e-05,
            "output_cost_per_audio_token": 8e-05,
            "input_cost_per_image_token": 8e-06,
            "output_cost_per_image_token": 3.2e-05,
            "output_cost_per_image": 0.04,
            "input_cost_per_query": 0.002,
            "input_cost_per_token_above_200k_tokens": 6e-06,
            "output_cost_per_token_above_200k_tokens": 2.25e-05,
            "cache_read_input_token_cost_above_200k_tokens": 6e-07,
            "cache_creation_input_token_cost_above_200k_tokens": 7.5e-06,
            "cache_creation_input_token_cost_above_1hr_above_200k_tokens": 1.2e-05,
            "input_cost_per_token_batches": 1e-06,
        }
        price = only(parse_cost_map(json.dumps({"m": entry}).encode()).prices)
        assert price == Price(
            id=0,
            model="m",
            input=parse_usd("3"),
            output=parse_usd("15"),
            cached_input=parse_usd("0.3"),
            cache_write=parse_usd("3.75"),
            per_call=parse_usd("0.002"),
            detail=PriceDetail(
                cache_write_1h=parse_usd("6"),
                reasoning=parse_usd("20"),
                audio_input=parse_usd("40"),
                audio_output=parse_usd("80"),
                image_input=parse_usd("8"),
                image_output=parse_usd("32"),
                per_image=parse_usd("0.04"),
                tiers=(
                    PriceTier(
                        above_tokens=200_000,
                        input=parse_usd("6"),
                        output=parse_usd("22.5"),
                        cached_input=parse_usd("0.6"),
                        cache_write=parse_usd("7.5"),
                        cache_write_1h=parse_usd("12"),
                    ),
                ),
            ),
        )

    def test_a_part_priced_as_its_whole_is_not_told_apart(self) -> None:
        found = parse_cost_map(
            b'{"m": {"input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06,'
            b' "output_cost_per_reasoning_token": 2e-06, "input_cost_per_image_token": 1e-06}}'
        )
        assert only(found.prices).detail is None

    def test_an_image_model_without_token_prices(self) -> None:
        price = only(parse_cost_map(b'{"m": {"output_cost_per_image": 0.04}}').prices)
        assert (price.input, price.detail) == (0, PriceDetail(per_image=parse_usd("0.04")))

    def test_seconds_of_video_alone(self) -> None:
        film = b'{"sora": {"output_cost_per_video_per_second": 0.1}}'
        price = only(parse_cost_map(film).prices)
        assert (price.input, price.detail) == (0, PriceDetail(per_video_second=parse_usd("0.1")))

    @pytest.mark.parametrize(
        ("entry", "reason"),
        [
            ({}, "no price"),
            ({"input_cost_per_token": 0.0, "output_cost_per_token": 0.0}, "no price"),
            ({"input_cost_per_token": 1e-06}, "has no output_cost_per_token"),
            ({"output_cost_per_token": 1e-06}, "has no input_cost_per_token"),
            ({"input_cost_per_token": 1e-16, "output_cost_per_token": 1}, "finer"),
            ({"input_cost_per_token": -1e-06, "output_cost_per_token": 1}, "negative"),
            ({"input_cost_per_token": 1e90, "output_cost_per_token": 1}, "absurdly large"),
            ({"input_cost_per_token": "1", "output_cost_per_token": 1}, "not a number"),
            ({"input_cost_per_token": True, "output_cost_per_token": 1}, "not a number"),
            ({"output_cost_per_token": 1e-06, "input_cost_per_second": 1e-04}, "per_second"),
            (
                {
                    "input_cost_per_token": 1e-06,
                    "output_cost_per_token": 1e-06,
                    "input_cost_per_token_above_200k_tokens": 0,
                },
                "free above 200k tokens",
            ),
        ],
    )
    def test_what_cannot_be_billed_exactly_is_skipped(
        self, entry: dict[str, object], reason: str
    ) -> None:
        found = parse_cost_map(json.dumps({"m": entry}).encode())
        assert found.prices == []
        assert reason in found.skipped["m"]

    def test_notes_and_the_sample_are_no_models(self) -> None:
        found = parse_cost_map(b'{"sample_spec": {"input_cost_per_token": 0}, "_about": {}}')
        assert (found.prices, found.skipped) == ([], {})

    @pytest.mark.parametrize("raw", [b"", b"[]", b'{"m": 1}', b"{", b"\xff"])
    def test_what_is_no_map_is_refused(self, raw: bytes) -> None:
        with pytest.raises(ValueError):
            parse_cost_map(raw)


class TestRatios:
    """new-api's export: ratio 1 = 2 USD per 1M tokens."""

    def test_every_ratio(self) -> None:
        found = parse_ratios(
            b'{"model_ratio": {"m": 1.5}, "completion_ratio": {"m": 5},'
            b' "cache_ratio": {"m": 0.1}, "create_cache_ratio": {"m": 1.25},'
            b' "image_ratio": {"m": 2}, "audio_ratio": {"m": 16},'
            b' "audio_completion_ratio": {"m": 2}}'
        )
        assert only(found.prices) == Price(
            id=0,
            model="m",
            input=parse_usd("3"),
            output=parse_usd("15"),
            cached_input=parse_usd("0.3"),
            cache_write=parse_usd("3.75"),
            completion_multiplier_ppm=5_000_000,
            detail=PriceDetail(
                cache_write_1h=parse_usd("6"),
                audio_input=parse_usd("48"),
                audio_output=parse_usd("96"),
                image_input=parse_usd("6"),
            ),
        )

    def test_below_data_as_its_endpoint_answers(self) -> None:
        found = parse_ratios(
            b'{"success": true, "data": {"model_ratio": {"m": 0.075},'
            b' "completion_ratio": {"m": 4}, "model_price": {"n": 0.04}}}'
        )
        assert [(price.model, price.input, price.per_call) for price in found.prices] == [
            ("m", parse_usd("0.15"), 0),
            ("n", 0, parse_usd("0.04")),
        ]
        assert found.prices[0].detail is None

    @pytest.mark.parametrize(
        ("tables", "reason"),
        [
            ({"model_ratio": {"m": 1}}, "no completion ratio"),
            ({"model_ratio": {"m": 0}, "completion_ratio": {"m": 1}}, "zero"),
            ({"model_price": {"m": 0}}, "zero"),
            ({"model_price": {"m": None}}, "zero"),
            ({"model_ratio": {"m": 1e-12}, "completion_ratio": {"m": 1}}, "finer"),
        ],
    )
    def test_skipped(self, tables: dict[str, object], reason: str) -> None:
        found = parse_ratios(json.dumps(tables).encode())
        assert found.prices == []
        assert reason in found.skipped["m"]

    @pytest.mark.parametrize("raw", [b"", b"[]", b'{"model_ratio": 1}', b'{"data": 1}'])
    def test_what_is_no_export_is_refused(self, raw: bytes) -> None:
        with pytest.raises(ValueError):
            parse_ratios(raw)


def test_the_starter_list_is_whole() -> None:
    found = parse_cost_map(STARTER.read_bytes())
    assert found.skipped == {}
    assert len(found.prices) >= 40
    assert all(price.input and price.cached_input <= price.input for price in found.prices)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=3,
)
cost_keys = st.sampled_from(
    [
        "input_cost_per_token",
        "output_cost_per_token",
        "input_cost_per_token_above_200k_tokens",
        "input_cost_per_token_above_0k_tokens",
        "output_cost_per_image",
        "input_cost_per_second",
    ]
)
ratio_keys = st.sampled_from(["model_ratio", "completion_ratio", "model_price", "data"])


@given(st.dictionaries(st.text(max_size=3), st.dictionaries(cost_keys, json_values)))
def test_any_map_is_sorted_into_prices_and_reasons(document: object) -> None:
    found = parse_cost_map(json.dumps(document).encode())
    for price in found.prices:
        assert price.input >= 0
        assert price.input + price.output + price.per_call or price.detail


@given(st.dictionaries(ratio_keys, json_values | st.dictionaries(st.text(max_size=2), json_values)))
def test_any_export_is_read_or_refused(document: object) -> None:
    try:
        found = parse_ratios(json.dumps(document).encode())
    except ValueError:
        return
    assert all(price.input or price.per_call for price in found.prices)
