"""What a list of models says beyond its dialect: the lines of each model, and what it is and costs.

The lines are a field of our own, in every list. The rest is for who asks for it, in the fields of
OpenRouter's list, which tools for many providers read: context, modalities, and USD a token as
decimal strings, as this very key pays them.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

import msgspec

from relay.facts import ModelFacts
from relay.model import Price
from relay.units import NANOS_PER_USD, PPM, TOKENS_PER_PRICE

DETAIL_HEADER: Final = "x-relay-detail"
DETAIL_QUERY: Final = "detail=true"


def with_lines(
    body: bytes,
    lines: Mapping[str, Sequence[str]],
    described: Mapping[str, dict[str, Any]] | None = None,
) -> bytes:
    """Return a model or a list of models, each with the names of the lines that serve it.

    Args:
        body: What the dialect says.
        lines: By model.
        described: What else is said, by model; None = nothing.
    """
    said = msgspec.json.decode(body)
    listed = said.get("data") or said.get("models") or [said]
    for model in listed:
        name = model.get("id") or str(model.get("name", "")).removeprefix("models/")
        if name in lines:
            model["lines"] = lines[name]
        if described is not None:
            model.update(described.get(name, {}))
    return msgspec.json.encode(said)


def wants_detail(header: str, path: str) -> bool:
    """Tell whether a client asks what models are and cost: by a header, or in its query."""
    if header.lower() in ("true", "1"):
        return True
    return DETAIL_QUERY in path.partition("?")[2].split("&")


def describe(price: Price | None, facts: ModelFacts | None, group_ppm: int) -> dict[str, Any]:
    """Return what a model is and costs, in OpenRouter's fields; what nobody knows is null."""
    facts = facts or ModelFacts()
    inputs = list(facts.input_modalities) or ["text"]
    outputs = list(facts.output_modalities) or ["text"]
    context = facts.context_tokens or None
    return {
        "context_length": context,
        "architecture": {
            "modality": f"{'+'.join(inputs)}->{'+'.join(outputs)}",
            "input_modalities": inputs,
            "output_modalities": outputs,
        },
        "pricing": None if price is None else _pricing(price, group_ppm),
        "top_provider": {
            "context_length": context,
            "max_completion_tokens": facts.output_tokens or _output_max(price) or None,
        },
    }


def _pricing(price: Price, group_ppm: int) -> dict[str, str]:
    ppm2 = price.model_multiplier_ppm * group_ppm
    per_search = 0 if price.detail is None else price.detail.per_search
    return {
        "prompt": _usd(price.input * ppm2, TOKENS_PER_PRICE),
        "completion": _usd(price.output * ppm2, TOKENS_PER_PRICE),
        "input_cache_read": _usd(price.cached_input * ppm2, TOKENS_PER_PRICE),
        "input_cache_write": _usd((price.cache_write or price.input) * ppm2, TOKENS_PER_PRICE),
        "request": _usd(price.per_call * ppm2, 1),
        "web_search": _usd(per_search * ppm2, 1),
    }


def _output_max(price: Price | None) -> int:
    return 0 if price is None or price.detail is None else price.detail.output_max


def _usd(nanos_ppm2: int, units: int) -> str:
    """Return an amount a unit as a decimal string, exactly."""
    usd = Decimal(nanos_ppm2) / (NANOS_PER_USD * PPM * PPM * units)
    said = f"{usd:f}"
    return said.rstrip("0").rstrip(".") if "." in said else said
