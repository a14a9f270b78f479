"""Goal: a hold covers what a call may cost, and an aborted one is charged fairly.

Method: the hold is compared with the charge of any usage within it; the abort rule is a table.
"""

import dataclasses

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.billing.hold import drains, hold_nanos, usage_to_charge
from relay.billing.price import charge
from relay.billing.shapes import Ask, Ending
from relay.model import AbortBills, Price, PriceDetail
from relay.records import EndReason
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
        Ask(usage.input_tokens, usage.output_tokens, images=2),
        [price],
        group_multiplier_ppm=group_ppm,
        nanos_max=NO_CAP,
    )
    assert held >= charge(usage, price, group_multiplier_ppm=group_ppm).cost_nanos


def test_hold_is_the_dearest_of_the_failover_set() -> None:
    ask = Ask(1_000_000, 1_000_000)
    held = hold_nanos(ask, [CHEAP, DEAR], group_multiplier_ppm=PPM // 2, nanos_max=NO_CAP)
    assert held == parse_usd("3.5")


def test_hold_is_capped() -> None:
    ask = Ask(1_000_000, 1_000_000)
    assert hold_nanos(ask, [DEAR], group_multiplier_ppm=PPM, nanos_max=parse_usd("1")) == (
        parse_usd("1")
    )


def test_hold_is_rounded_up() -> None:
    price = msgspec.structs.replace(CHEAP, input=1)
    assert hold_nanos(Ask(1, 0), [price], group_multiplier_ppm=1, nanos_max=NO_CAP) == 1


PART = Usage(input_tokens=90, cached_tokens=50, output_tokens=1)
WHOLE = Usage(input_tokens=90, cached_tokens=50, output_tokens=700)
GONE = Ending(reason=EndReason.CLIENT_GONE, delivered=True, input_estimate=100, output_estimate=40)


@pytest.mark.parametrize(
    ("ending", "charged"),
    [
        pytest.param(
            Ending(
                reason=EndReason.COMPLETED,
                delivered=True,
                input_estimate=100,
                output_estimate=650,
                reported=WHOLE,
                reported_whole=True,
            ),
            WHOLE,
            id="complete: what the channel reported",
        ),
        pytest.param(
            Ending(
                reason=EndReason.COMPLETED,
                delivered=True,
                input_estimate=100,
                output_estimate=650,
            ),
            Usage(input_tokens=100, output_tokens=650, estimated=True),
            id="complete, no usage: estimated",
        ),
        pytest.param(
            Ending(
                reason=EndReason.COMPLETED,
                delivered=False,
                input_estimate=100,
                reported=PART,
                reported_whole=True,
            ),
            PART,
            id="complete and empty: what the channel reported",
        ),
        pytest.param(
            GONE,
            Usage(input_tokens=100, output_tokens=40, estimated=True),
            id="client gone: prompt and delivered output",
        ),
        pytest.param(
            msgspec.structs.replace(GONE, reported=PART),
            Usage(input_tokens=90, cached_tokens=50, output_tokens=40, estimated=True),
            id="client gone, prompt known exactly",
        ),
        pytest.param(
            msgspec.structs.replace(GONE, reported=WHOLE, reported_whole=True),
            WHOLE,
            id="client gone, drained to the end: what the provider charges",
        ),
        pytest.param(
            msgspec.structs.replace(GONE, output_tokens_max=30),
            Usage(input_tokens=100, output_tokens=30, estimated=True),
            id="an estimate is never above what the client allowed",
        ),
        pytest.param(
            msgspec.structs.replace(GONE, reported=WHOLE),
            dataclasses.replace(WHOLE, estimated=True),
            id="a running count of the channel beats a lower estimate",
        ),
        pytest.param(
            msgspec.structs.replace(GONE, delivered=False, reported=PART),
            None,
            id="client gone before any output: nothing",
        ),
        pytest.param(
            msgspec.structs.replace(GONE, reason=EndReason.TRUNCATED),
            Usage(input_tokens=100, output_tokens=40, estimated=True),
            id="upstream broke off: prompt and delivered output",
        ),
    ],
)
def test_usage_to_charge(ending: Ending, charged: Usage | None) -> None:
    assert usage_to_charge(ending) == charged


@pytest.mark.parametrize(
    "reason", [EndReason.REJECTED, EndReason.UPSTREAM_REJECTED, EndReason.UPSTREAM_FAILED]
)
@pytest.mark.parametrize("reported", [None, WHOLE])
def test_a_refused_call_costs_nothing(reason: EndReason, reported: Usage | None) -> None:
    ending = msgspec.structs.replace(GONE, reason=reason, reported=reported, reported_whole=True)
    assert usage_to_charge(ending) is None


def test_only_a_paid_answer_of_a_full_biller_is_drained() -> None:
    assert drains(AbortBills.FULL, delivered=True)
    assert not drains(AbortBills.FULL, delivered=False)
    assert not drains(AbortBills.PARTIAL, delivered=True)
