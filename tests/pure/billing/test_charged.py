"""Goal: charged is what was said; the rest is estimated and marked; nothing is that cannot be.

Method: a table of what an upstream reported, what is known beside it, and what is charged.
"""

import dataclasses
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.billing.charged import (
    ANSWER_TOKENS,
    SAMPLINGS,
    WINDOW_TOKENS,
    complete,
    input_max,
    output_max,
)
from relay.billing.shapes import Delivered
from relay.extras import NO_EXTRAS, NOTHING_ASKED, REACHES_OUT, Asked, Extras
from relay.usage import INPUT_UNTOLD as INPUT
from relay.usage import OUTPUT_UNTOLD as OUTPUT
from relay.usage import Usage

WHOLE = Delivered(
    whole=True, input_estimate=100, output_estimate=40, input_max=10_000, output_max=1_000
)
CUT = msgspec.structs.replace(WHOLE, whole=False)


@pytest.mark.parametrize(
    ("reported", "facts", "charged"),
    [
        (Usage(90, 50, 0, 700), WHOLE, Usage(90, 50, 0, 700)),
        (None, WHOLE, Usage(100, output_tokens=40, estimated=True)),
        (None, CUT, Usage(100, output_tokens=40, estimated=True)),
        (Usage(90, 50, 0, 1), CUT, Usage(90, 50, 0, 40, estimated=True)),
        (Usage(90, 50, 0, 60), CUT, Usage(90, 50, 0, 60, estimated=True)),
        # What is said is used, what is missing is estimated and marked.
        (Usage(90, untold=OUTPUT), WHOLE, Usage(90, output_tokens=40, estimated=True)),
        (Usage(0, 0, 0, 7, untold=INPUT), WHOLE, Usage(100, output_tokens=7, estimated=True)),
        (
            Usage(untold=INPUT | OUTPUT, total_tokens=150),
            WHOLE,
            Usage(100, output_tokens=50, estimated=True),
        ),
        (
            Usage(untold=INPUT | OUTPUT, total_tokens=60),
            WHOLE,
            Usage(60, output_tokens=0, estimated=True),
        ),
        # An answer without text leaves no output out.
        (Usage(6, untold=OUTPUT), msgspec.structs.replace(WHOLE, output_estimate=0), Usage(6)),
    ],
)
def test_what_is_charged(reported: Usage | None, facts: Delivered, charged: Usage) -> None:
    assert complete(reported, facts) == charged


@pytest.mark.parametrize(
    ("claimed", "charged"),
    [
        (Usage(90, output_tokens=99_999_990), (90, 1_000, 0, 99_998_990)),
        (Usage(50_000, output_tokens=7), (10_000, 7, 40_000, 0)),
        (Usage(50_000, 49_000, output_tokens=5_000), (10_000, 1_000, 40_000, 4_000)),
    ],
)
def test_a_claim_beyond_what_can_be_is_charged_to_nobody(
    claimed: Usage, charged: tuple[int, int, int, int]
) -> None:
    usage = complete(claimed, WHOLE)
    extras = usage.extras or NO_EXTRAS
    disputed = extras.disputed_input_tokens, extras.disputed_output_tokens
    assert (usage.input_tokens, usage.output_tokens, *disputed) == charged
    assert usage.cached_tokens <= usage.input_tokens


def test_what_can_be() -> None:
    assert input_max(1_000, 0) == 1_000 + 4_096
    assert input_max(1_000, 2) == 1_000 + 4_096 + 100_000
    assert input_max(1_000, 0, REACHES_OUT) == WINDOW_TOKENS
    assert input_max(1_000, 0, Asked(searches=10)) == SAMPLINGS * WINDOW_TOKENS
    assert output_max(16, 1, 0) == 80
    assert output_max(16, 8, 0) == 640
    assert output_max(16, 1, 0, Asked(sessions=1)) == SAMPLINGS * 80
    assert output_max(None, 2, 0) == 2 * ANSWER_TOKENS
    assert output_max(None, 1, 10**7) == 10**7


@pytest.mark.parametrize(
    ("asked", "reported", "whole", "images", "extras"),
    [
        (Asked(images=10, image_class="high auto"), Usage(5), True, 10,
         Extras(image_class="high auto")),
        (Asked(characters=1_000), None, True, 0, Extras(characters=1_000)),
        (Asked(audio_ms=9_000), None, True, 0, Extras(audio_ms=9_000)),
        (Asked(audio_ms=9_000), Usage(extras=Extras(audio_ms=8_470)), True, 0,
         Extras(audio_ms=8_470)),
        (Asked(search_units=2), Usage(extras=Extras(search_units=3)), True, 0,
         Extras(search_units=3)),
        (Asked(search_units=2), Usage(9), True, 0, Extras(search_units=2)),
        # Tools may have run where nobody says how often.
        (Asked(searches=10, sessions=1), Usage(9), False, 0, Extras(searches=1, sessions=1)),
        (Asked(searches=10, sessions=1), None, True, 0, Extras(searches=1, sessions=1)),
        (Asked(searches=10), Usage(9, 0, 0, 1), True, 0, None),
        (Asked(searches=10), Usage(9, extras=Extras(searches=3)), False, 0, Extras(searches=3)),
    ],
)  # fmt: skip
def test_units_that_the_request_tells(
    asked: Asked, reported: Usage | None, whole: Any, images: int, extras: Extras | None
) -> None:
    facts = msgspec.structs.replace(WHOLE, asked=asked, whole=whole)
    usage = complete(reported, facts)
    assert (usage.images, usage.extras) == (images, extras)


@pytest.mark.parametrize(
    ("reported", "tier"),
    [
        (Usage(9, 0, 0, 1), "priority"),  # nobody says: the one that was asked for, if dearer
        (Usage(9, 0, 0, 1, tier_told=True), ""),
        (Usage(9, 0, 0, 1, extras=Extras(tier="flex"), tier_told=True), "flex"),
    ],
)
def test_the_tier_that_served(reported: Usage, tier: str) -> None:
    facts = msgspec.structs.replace(WHOLE, asked=Asked(tier="priority"), tier="priority")
    assert (complete(reported, facts).extras or NO_EXTRAS).tier == tier


counts = st.integers(0, 10**8)


@given(
    st.none()
    | st.builds(
        Usage,
        input_tokens=counts,
        output_tokens=counts,
        untold=st.integers(0, 3),
        total_tokens=counts,
    ),
    st.booleans(),
    counts,
    counts,
)
def test_nothing_is_ever_charged_beyond_what_can_be(
    reported: Usage | None, whole: Any, given_estimate: int, output_estimate: int
) -> None:
    before = None if reported is None else dataclasses.replace(reported)
    facts = msgspec.structs.replace(
        WHOLE, whole=whole, input_estimate=given_estimate, output_estimate=output_estimate
    )
    usage = complete(reported, facts)
    assert 0 <= usage.input_tokens <= facts.input_max
    assert 0 <= usage.output_tokens <= facts.output_max
    assert not usage.untold
    assert reported == before
    assert facts.asked is NOTHING_ASKED


@pytest.mark.parametrize(
    ("told", "asked", "charged"),
    [(2, 2, 2), (1, 2, 1), (0, 2, 0), (3, 2, 2), (10**9, 2, 2), (10**9, 50_000, 50_000)],
)
@pytest.mark.parametrize("whole", [True, False])
def test_no_more_requests_of_a_batch_were_served_than_it_had(
    told: int, asked: int, charged: int, *, whole: bool
) -> None:
    """Its provider counts them, in results that may be gone: a price for each call is by that."""
    extras = msgspec.structs.replace(NO_EXTRAS, requests=told)
    facts = msgspec.structs.replace(WHOLE, whole=whole, asked=Asked(requests=asked))
    found = complete(Usage(90, output_tokens=50, extras=extras, tier_told=True), facts)
    assert (found.extras or NO_EXTRAS).requests == charged
