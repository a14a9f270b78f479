"""Goal: an answer's usage, as its provider reports it, costs what new-api's formula says.

Method: whole bodies in both conventions through the parser and an imported ratio list, worked out
by hand; then the published formula itself, in fractions, as an oracle over random ratios.
"""

import json
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.billing.import_prices import parse_ratios
from relay.billing.price import charge
from relay.model import Price
from relay.units import PPM, parse_multiplier
from relay.usage import Usage
from relay.wire.usage.reader import find_usage

QUOTA_NANOS = 2_000
"""500,000 quota = 1 USD."""


def imported(**ratios: float | str) -> Price:
    """Return the price of model "m" in a ratio list."""
    document = {table: {"m": float(ratio)} for table, ratio in ratios.items()}
    (price,) = parse_ratios(json.dumps(document).encode()).prices
    return price


def cost_of_body(usage: dict[str, Any], price: Price, group: str) -> int:
    found = find_usage(b"", json.dumps({"id": "x", "usage": usage}).encode())
    assert found is not None
    return charge(found, price, group_multiplier_ppm=parse_multiplier(group)).cost_nanos


CLAUDE = imported(model_ratio=1.5, completion_ratio=5, cache_ratio=0.1, create_cache_ratio=1.25)

BODIES: dict[str, tuple[dict[str, Any], Price, str, int | Fraction]] = {
    # OpenAI's prompt includes what was cached: (3,000 - 2,000 + 2,000 x 0.5 + 500 x 4) x 1.25
    "openai": (
        {
            "prompt_tokens": 3_000,
            "completion_tokens": 500,
            "total_tokens": 3_500,
            "prompt_tokens_details": {"cached_tokens": 2_000},
        },
        imported(model_ratio=1.25, completion_ratio=4, cache_ratio=0.5),
        "1",
        5_000,
    ),
    # Anthropic's input does not: (1,000 + 8,000 x 0.1 + 2,000 x 1.25 + 300 x 5) x 1.5 x 0.8
    "anthropic": (
        {
            "input_tokens": 1_000,
            "cache_read_input_tokens": 8_000,
            "cache_creation_input_tokens": 2_000,
            "output_tokens": 300,
        },
        CLAUDE,
        "0.8",
        6_960,
    ),
    # 1,500 of the 2,000 for five minutes, 500 for an hour (x 1.6):
    # (1,000 + 1,500 x 1.25 + 500 x 1.25 x 1.6) x 1.5
    "anthropic, an hour": (
        {
            "input_tokens": 1_000,
            "cache_creation_input_tokens": 2_000,
            "cache_creation": {
                "ephemeral_5m_input_tokens": 1_500,
                "ephemeral_1h_input_tokens": 500,
            },
            "output_tokens": 0,
        },
        CLAUDE,
        "1",
        Fraction("5812.5"),
    ),
    # A model price is by the call, whatever was said: 0.04 x 0.5 x 500,000
    "per call": (
        {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18},
        imported(model_price=0.04),
        "0.5",
        10_000,
    ),
}


@pytest.mark.parametrize("case", BODIES)
def test_a_body_costs_what_new_api_makes_of_it(case: str) -> None:
    usage, price, group, quota = BODIES[case]
    assert cost_of_body(usage, price, group) == quota * QUOTA_NANOS


ratios = st.decimals("0.001", "100", places=3)
shares = st.decimals("0", "2", places=2)
counts = st.integers(0, 500_000)


usages = st.tuples(counts, counts, counts)


@given(ratios, ratios, shares, shares, st.decimals("0", "3", places=3), usages)
def test_the_published_formula_is_an_oracle(
    model: Decimal,
    completion: Decimal,
    cache: Decimal,
    creation: Decimal,
    group: Decimal,
    used: tuple[int, int, int],
) -> None:
    """Quota = (fresh + read x cache + written x creation + made x completion) x model x group."""
    fresh, read, made = used
    written = (fresh + read) // 3
    document = {
        "model_ratio": {"m": float(model)},
        "completion_ratio": {"m": float(completion)},
        "cache_ratio": {"m": float(cache)},
        "create_cache_ratio": {"m": float(creation)},
    }
    (price,) = parse_ratios(json.dumps(document).encode()).prices
    usage = Usage(
        input_tokens=fresh + read + written,
        cached_tokens=read,
        cache_write_tokens=written,
        output_tokens=made,
    )
    charged = charge(usage, price, group_multiplier_ppm=int(group * PPM)).cost_nanos
    # Without a price of its own a written token costs what input costs.
    write_ratio = Fraction(creation) or Fraction(1)
    quota = (
        (fresh + read * Fraction(cache) + written * write_ratio + made * Fraction(completion))
        * Fraction(model)
        * Fraction(group)
    )
    assert abs(charged - quota * QUOTA_NANOS) <= Fraction(1, 2)
