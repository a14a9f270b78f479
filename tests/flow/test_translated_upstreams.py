"""Goal: a request is written for the server that gets it: its bound, its names, what it refuses.

Method: channels and models as operators name them, looked at one by one.
"""

import pytest

from relay.billing.tariff import Tariff
from relay.flow.translated.upstreams import describe_upstream
from relay.model import Channel, Price, PriceDetail, Secret
from relay.translate.middle import Upstream
from relay.units import PPM


def seen(
    model: str, url: str = "https://api.example.com/v1", tariff: Tariff | None = None
) -> Upstream:
    channel = Channel(id=1, name="c", base_url=url, api_key=Secret(""), models={})
    return describe_upstream(channel, model, tariff)


@pytest.mark.parametrize(
    ("model", "most"),
    [
        *(("claude-opus-4-1-20250805", 32_000), ("anthropic/claude-sonnet-5", 32_000)),
        *(("claude-haiku-4-5", 32_000), ("claude-3-5-sonnet-20241022", 8192)),
        *(("claude-3-haiku-20240307", 4096), ("some-model", 8192)),
    ],
)
def test_a_bound_that_nobody_gave_is_one_that_the_model_takes(model: str, most: int) -> None:
    assert seen(model).output_tokens_max == most


def test_a_price_knows_the_bound_better() -> None:
    detail = PriceDetail(output_max=128_000)
    price = Price(id=1, model="m", input=1, output=1, cached_input=1, detail=detail)
    assert seen("claude-opus-4-7", tariff=Tariff(price, PPM)).output_tokens_max == 128_000


@pytest.mark.parametrize(
    ("model", "adaptive", "sampled"),
    [
        *(("claude-opus-4-6", True, True), ("claude-opus-4-7", True, False)),
        *(("claude-sonnet-4-5", False, True), ("claude-sonnet-5", True, True)),
        *(("claude-opus-5", True, False), ("gpt-5.1-codex", False, False)),
        *(("openai/o3-mini", False, False), ("gpt-4o", False, True), ("gemini-3-pro", False, True)),
    ],
)
def test_what_a_model_refuses_is_known_by_its_name(
    model: str, *, adaptive: bool, sampled: bool
) -> None:
    found = seen(model)
    assert (found.adaptive_thinking, found.takes_sampling) == (adaptive, sampled)


@pytest.mark.parametrize(
    ("model", "url", "legacy"),
    [
        ("deepseek-chat", "https://api.deepseek.com/v1", True),
        ("gpt-4o", "https://api.openai.com/v1", False),
        ("gpt-4o", "https://example.openai.azure.com/openai/v1", False),
        ("openai/gpt-5", "https://openrouter.ai/api/v1", False),
        ("llama", "http://127.0.0.1:8000/v1", True),
    ],
)
def test_compatible_servers_are_told_the_bound_by_its_older_name(
    model: str, url: str, *, legacy: bool
) -> None:
    assert seen(model, url).legacy_max_tokens is legacy
