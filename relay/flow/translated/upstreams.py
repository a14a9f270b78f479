"""What is known of the server behind a channel, as far as a translated request depends on it.

The catalog says what it can say (a price's `output_max`, a channel's `include_usage`); the rest is
known by names: what a provider calls its models, and where it is.

Source: the model pages and migration guides of Anthropic and OpenAI ("Adaptive thinking",
"Reasoning models": max_completion_tokens, parameters that are refused).
"""

import re
from typing import Final
from urllib.parse import urlsplit

from relay.billing.tariff import Tariff
from relay.model import Channel
from relay.translate.middle import Upstream

OUTPUT_TOKENS_MAX: Final = 8192
"""What Anthropic is asked for where neither client nor price sets a bound, of a model that nobody
knows more of."""
OUTPUT_TOKENS: Final = (
    (re.compile(r"claude-(?:opus|sonnet|haiku)-(?:[4-9]|\d\d)\b|mythos|fable"), 32_000),
    (re.compile(r"claude-3-(?:5|7)-"), 8192),
    (re.compile(r"claude-3-|claude-2"), 4096),
)
"""The same of those that are known: what each of such models takes. A coding agent names no bound,
and its patches are long."""

_ADAPTIVE: Final = re.compile(
    r"claude-(?:opus|sonnet|haiku)-(?:4-[6-9]|[5-9])(?:\b|-)|mythos|fable"
)
_UNSAMPLED: Final = re.compile(
    r"claude-opus-(?:4-[7-9]|[5-9])\b|mythos|fable|(?:^|/)(?:o[1-9]|gpt-[5-9])(?:\b|[.-])"
)
_BOUNDED_ANEW: Final = re.compile(r"(?:^|/)(?:o[1-9]|gpt-[5-9])(?:\b|[.-])")
_OWN_HOSTS: Final = (".openai.com", ".azure.com")


def describe_upstream(channel: Channel, model: str, tariff: Tariff | None) -> Upstream:
    """Return what a request to `channel`, which knows the model as `model`, is written by."""
    detail = tariff.price.detail if tariff is not None else None
    host = urlsplit(channel.base_url).hostname or ""
    return Upstream(
        model,
        output_tokens_max=(detail.output_max if detail is not None else 0) or _output_max(model),
        # Compatible servers know the older name; OpenAI's own reasoning models refuse it.
        legacy_max_tokens=not host.endswith(_OWN_HOSTS) and not _BOUNDED_ANEW.search(model),
        adaptive_thinking=_ADAPTIVE.search(model) is not None,
        include_usage=channel.include_usage,
        takes_sampling=_UNSAMPLED.search(model) is None,
    )


def _output_max(model: str) -> int:
    return next((most for name, most in OUTPUT_TOKENS if name.search(model)), OUTPUT_TOKENS_MAX)
