"""The conventions by which providers count, brought into ours: one function each.

    OpenAI      prompt includes what was cached; a total beyond both parts is output left out of it
    Anthropic   input leaves both caches out; samplings beside the answer are listed apart
    Gemini      candidates leave the thoughts out        Cohere   floats

What was not said is marked as untold (relay.usage), never taken for zero; what is more than its
whole is cut to it: an upstream's numbers are claims.

Source: the recorded answers of 20 providers (tests/pure/wire/test_usage_shapes.py).
"""

import dataclasses
from typing import Final

from relay.decoding import Undecodable, decoder_of
from relay.extras import Extras
from relay.usage import INPUT_UNTOLD, OUTPUT_UNTOLD, Usage, bounded
from relay.wire.usage.shapes import (
    NOTHING,
    CacheCreation,
    InputDetails,
    Iteration,
    Modality,
    OutputDetails,
    Units,
    WireUsage,
)

BESIDE: Final = frozenset({"compaction", "advisor_message"})
"""Samplings that Anthropic's totals leave out though it charges them. Source: its Python client,
BetaUsage.iterations, and its documentation of both betas."""
STANDARD_TIERS: Final = frozenset(
    {"", "auto", "default", "standard", "standard_only", "scale", "on_demand", "unspecified"}
)
"""What providers call service at their list price (OpenAI's scale tier is paid beforehand)."""

_decode_iterations = decoder_of(list[Iteration] | None).decode
_NO_INPUT_DETAILS: Final = InputDetails()
_NO_OUTPUT_DETAILS: Final = OutputDetails()


def normalise(wire: WireUsage, tier: str = "") -> Usage:
    """Return a claim in our convention, within its own bounds.

    Args:
        wire: The claim; it has a count (usage_claims.has_count).
        tier: What the answer beside it calls the rates it was served at, "" = it does not say.
    """
    usage = _convert(wire)
    usage.tier_told = bool(tier or wire.service_tier or wire.serviceTier)
    extras = _extras_of(wire, tier)
    if extras is not None:
        usage.extras = extras
    return bounded(usage)


def plain_tier(tier: str | None) -> str:
    """Return a service tier as prices name it, "" for the standard one."""
    told = (tier or "").lower()
    return "" if told in STANDARD_TIERS else told[:32]


def _convert(wire: WireUsage) -> Usage:
    if wire.prompt_tokens is not None:
        return _from_openai(wire)
    if wire.promptTokenCount is not None or wire.candidatesTokenCount is not None:
        return _from_gemini(wire)
    if wire.total_input_tokens is not None:
        return _from_interactions(wire)
    if wire.tokens is not None:
        return _from_cohere(wire.tokens, _count(wire.cached_tokens))
    # Servers that translate Anthropic to OpenAI's shape give these beside a prompt_tokens, which
    # includes them: those were told apart above.
    caches = (wire.cache_read_input_tokens, wire.cache_creation_input_tokens)
    if caches != (None, None) or wire.iterations is not NOTHING:
        return _from_anthropic(wire)
    return _from_openai(wire)


def _from_openai(wire: WireUsage) -> Usage:
    inward = (
        wire.prompt_tokens_details
        or wire.input_tokens_details
        or wire.prompt_token_details
        or wire.input_token_details
        or _NO_INPUT_DETAILS
    )
    outward = wire.completion_tokens_details or wire.output_tokens_details or _NO_OUTPUT_DETAILS
    # Negative counts are left for `bounded`: the common way asks nothing of a count twice.
    input_tokens = wire.prompt_tokens or wire.input_tokens or 0
    output_tokens = wire.completion_tokens or wire.output_tokens or 0
    cached = inward.cached_tokens
    if cached is None:
        cached = _first(
            wire.prompt_cache_hit_tokens, wire.cached_tokens, wire.cache_read_input_tokens
        )
    reasoning = outward.reasoning_tokens or outward.thinking_tokens or 0
    usage = Usage(
        input_tokens,
        cached,
        inward.cache_write_tokens or wire.cache_creation_input_tokens or 0,
        output_tokens,
        reasoning,
        0,
        inward.audio_tokens or 0,
        outward.audio_tokens or 0,
        inward.image_tokens or 0,
        outward.image_tokens or 0,
    )
    total = wire.total_tokens
    if input_tokens <= 0 or output_tokens <= 0:
        _mark_untold(usage, _count(total))
    elif total is not None and total > input_tokens + output_tokens:
        _spread(usage, total - input_tokens - output_tokens)
    return usage


def _spread(usage: Usage, excess: int) -> None:
    """Count what a total holds beyond both of its parts.

    Where it is as much as the caches (and not as the reasoning), the input was told without them.
    Else it is output left out of the count: xAI's reasoning, Gemini's thoughts in OpenAI's shape.
    """
    caches = usage.cached_tokens + usage.cache_write_tokens
    if excess == caches and excess != usage.reasoning_tokens:
        usage.input_tokens += excess
        return
    usage.output_tokens += excess
    usage.reasoning_tokens = max(usage.reasoning_tokens, excess)


def _mark_untold(usage: Usage, total: int) -> None:
    """Find the side that was not said in the total, or mark it.

    Zero is not said: a prompt has tokens, and so has an answer that has text.
    """
    if total > usage.input_tokens > 0:
        usage.output_tokens = total - usage.input_tokens
    elif total > usage.output_tokens > 0:
        usage.input_tokens = total - usage.output_tokens
    _mark_zeros(usage)
    usage.total_tokens = total if usage.untold else 0


def _mark_zeros(usage: Usage) -> None:
    usage.untold = (0 if usage.input_tokens > 0 else INPUT_UNTOLD) | (
        0 if usage.output_tokens > 0 else OUTPUT_UNTOLD
    )


def _from_anthropic(wire: WireUsage) -> Usage:
    read = _count(wire.cache_read_input_tokens)
    written = _count(wire.cache_creation_input_tokens)
    details = wire.output_tokens_details or _NO_OUTPUT_DETAILS
    usage = Usage(
        input_tokens=_count(wire.input_tokens) + read + written,
        cached_tokens=read,
        cache_write_tokens=written,
        output_tokens=_count(wire.output_tokens),
        reasoning_tokens=_count(details.thinking_tokens),
        cache_write_1h_tokens=_written_1h(wire.cache_creation),
    )
    _mark_zeros(usage)
    for beside in _beside(wire):
        read = _count(beside.cache_read_input_tokens)
        written = _count(beside.cache_creation_input_tokens)
        usage = dataclasses.replace(
            usage,
            input_tokens=usage.input_tokens + _count(beside.input_tokens) + read + written,
            cached_tokens=usage.cached_tokens + read,
            cache_write_tokens=usage.cache_write_tokens + written,
            output_tokens=usage.output_tokens + _count(beside.output_tokens),
            cache_write_1h_tokens=usage.cache_write_1h_tokens + _written_1h(beside.cache_creation),
        )
    return usage


def _written_1h(creation: CacheCreation | None) -> int:
    return _count(creation.ephemeral_1h_input_tokens) if creation is not None else 0


def _beside(wire: WireUsage) -> list[Iteration]:
    try:
        iterations = _decode_iterations(wire.iterations) or []
    except Undecodable:
        return []
    return [one for one in iterations if one.type in BESIDE]


def _from_gemini(wire: WireUsage) -> Usage:
    thoughts = _count(wire.thoughtsTokenCount)
    inward, outward = wire.promptTokensDetails or [], wire.candidatesTokensDetails or []
    usage = Usage(
        input_tokens=_count(wire.promptTokenCount) + _count(wire.toolUsePromptTokenCount),
        cached_tokens=_count(wire.cachedContentTokenCount),
        output_tokens=_count(wire.candidatesTokenCount) + thoughts,
        reasoning_tokens=thoughts,
        audio_input_tokens=_of_modality(inward, "AUDIO"),
        audio_output_tokens=_of_modality(outward, "AUDIO"),
        image_input_tokens=_of_modality(inward, "IMAGE"),
        image_output_tokens=_of_modality(outward, "IMAGE"),
    )
    _mark_zeros(usage)
    return usage


def _from_interactions(wire: WireUsage) -> Usage:
    thoughts = _count(wire.total_thought_tokens)
    usage = Usage(
        input_tokens=_count(wire.total_input_tokens) + _count(wire.total_tool_use_tokens),
        cached_tokens=_count(wire.total_cached_tokens),
        output_tokens=_count(wire.total_output_tokens) + thoughts,
        reasoning_tokens=thoughts,
    )
    _mark_zeros(usage)
    return usage


def _from_cohere(tokens: Units, cached_tokens: int) -> Usage:
    usage = Usage(
        input_tokens=_count(round(tokens.input_tokens or 0)),
        output_tokens=_count(round(tokens.output_tokens or 0)),
        cached_tokens=cached_tokens,
    )
    _mark_zeros(usage)
    return usage


def _of_modality(details: list[Modality], modality: str) -> int:
    return sum(_count(detail.tokenCount) for detail in details if detail.modality == modality)


def _extras_of(wire: WireUsage, tier: str) -> Extras | None:
    """Return what a claim says beside tokens, None where that is nothing."""
    told = plain_tier(wire.service_tier or wire.serviceTier) or plain_tier(tier)
    if wire.speed is not None and wire.speed != "standard":
        told = plain_tier(wire.speed)
    tools, calls = wire.server_tool_use, wire.server_side_tool_usage_details
    searches = _count(wire.num_search_queries, wire.num_sources_used)
    sessions = 0
    if tools is not None:
        searches += _count(tools.web_search_requests)
        sessions = min(_count(tools.code_execution_requests), 1)
    if calls is not None:
        searches += _count(calls.web_search_calls) + _count(calls.x_search_calls)
        sessions = min(_count(calls.code_interpreter_calls), 1)
    units = wire.billed_units.search_units if wire.billed_units is not None else None
    if not told and not searches and not sessions and wire.seconds is None and not units:
        return None
    return Extras(
        tier=told,
        audio_ms=max(0, round((wire.seconds or 0) * 1000)),
        searches=searches,
        sessions=sessions,
        search_units=max(0, round(units or 0)),
    )


def _first(*found: int | None) -> int:
    """Return the first count that was given."""
    return next((count for count in found if count is not None), 0)


def _count(*found: int | None) -> int:
    """Return the first count that was given, never below zero: an upstream's number is a claim."""
    for count in found:
        if count is not None:
            return max(count, 0)
    return 0
