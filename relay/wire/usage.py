"""What an answer used, found in its last bytes without decoding it.

A usage object stands near the end of every protocol's answer. Inside a JSON string its quotes would
be escaped, so the bytes `"usage":{` are never model text; they may be a key of an echoed tool
schema, so an object without a known count is passed over for one further left. Gemini and
Perplexity send running totals: the last one counts, nothing is ever summed. Anthropic sends two
objects: the second one's fields win.

Source: docs/streams.md, "Usage: places".
"""

import dataclasses
import math
import re
from itertools import islice
from typing import Final

import msgspec

from relay.usage import Usage
from relay.wire.usage_shapes import (
    NOTHING,
    CacheCreation,
    InputDetails,
    Iteration,
    Modality,
    OutputDetails,
    UsageRest,
    WireUsage,
)

TOKENS_PER_BYTE: Final = 0.25
"""English text has about four bytes to a token in every common tokenizer."""
OBJECT_BYTES_MAX: Final = 16 * 1024
"""Anthropic lists every sampling of an answer, in about 220 bytes each."""
SEARCH_BYTES_MAX: Final = 32 * 1024
"""The farthest usage from an end that was ever recorded stood 4,151 bytes before it."""
CANDIDATES_MAX: Final = 64
"""Objects looked at before an answer counts as silent: nearly always the first has the counts."""
USAGE_OBJECT: Final = re.compile(rb'"(?:usage|usageMetadata)"\s*:\s*\{')

BESIDE: Final = frozenset({"compaction", "advisor_message"})
"""Samplings that Anthropic's totals leave out though it charges them. Source: its Python client,
BetaUsage.iterations, and its documentation of both betas."""


_decode = msgspec.json.Decoder(WireUsage).decode
_decode_rest = msgspec.json.Decoder(UsageRest).decode
_decode_iterations = msgspec.json.Decoder(list[Iteration] | None).decode
_NO_INPUT_DETAILS: Final = InputDetails()
_NO_OUTPUT_DETAILS: Final = OutputDetails()


def find_usage(first: bytes, tail: bytes) -> Usage | None:
    """Return what an answer used, None where it does not say.

    Args:
        first: The first whole events of a stream (Anthropic reports its input there), b"" for a
            plain body.
        tail: The last events or bytes; may be cut at its start.
    """
    last = _last_object(tail) or _last_object(first)
    if last is None:
        return None
    # A short stream is whole in `first`, so the object that message_start brought is the first one
    # there, not the last.
    begun = _first_object(first) if b'"message_start"' in first else None
    return _bounded(_normalise(last if begun is None else _merge(begun, last)))


def find_usage_of_body(body: bytes) -> Usage | None:
    """Return what a plain JSON answer used, None where it does not say.

    Nearly always usage is a member of the outermost object: then the rest of the body, from there
    on, is an object by itself, and its first member is what we want.
    """
    at = body.rfind(b'"usage":', -SEARCH_BYTES_MAX)
    if at >= 0:
        try:
            wire = _decode_rest(b"{" + body[at:]).usage
        except msgspec.DecodeError:
            return find_usage(b"", body)
        if _has_count(wire):
            return _bounded(_normalise(wire))
    return find_usage(b"", body)


def estimate_tokens(text_bytes: int) -> int:
    """Return about how many tokens `text_bytes` bytes of text are."""
    return math.ceil(text_bytes * TOKENS_PER_BYTE)


def _last_object(block: bytes) -> WireUsage | None:
    """Return the last usage object near the end of `block` that holds a count."""
    if len(block) > SEARCH_BYTES_MAX:
        block = block[-SEARCH_BYTES_MAX:]
    at = len(block)
    for _ in range(CANDIDATES_MAX):
        at = block.rfind(b'"usage', 0, at)
        if at < 0:
            break
        found = USAGE_OBJECT.match(block, at)
        wire = None if found is None else _read_object(block, found.end() - 1)
        if wire is not None:
            return wire
    return None


def _first_object(block: bytes) -> WireUsage | None:
    """Return the first usage object of `block` that holds a count."""
    for found in islice(USAGE_OBJECT.finditer(block), CANDIDATES_MAX):
        wire = _read_object(block, found.end() - 1)
        if wire is not None:
            return wire
    return None


def _read_object(block: bytes, at: int) -> WireUsage | None:
    """Return the usage object that opens at `at`, None where it is none."""
    try:
        wire = _decode(block[at : _end_of_object(block, at)])
    except msgspec.DecodeError:
        return None
    return wire if _has_count(wire) else None


def _has_count(wire: WireUsage) -> bool:
    if wire.prompt_tokens is not None or wire.input_tokens is not None:
        return True
    return any(
        count is not None
        for count in (
            wire.completion_tokens,
            wire.output_tokens,
            wire.promptTokenCount,
            wire.total_input_tokens,
            wire.tokens,
        )
    )


def _end_of_object(block: bytes, at: int) -> int | None:
    """Return where the object that opens at `at` ends. Usage objects hold no brace in a string."""
    depth = 1
    limit = at + OBJECT_BYTES_MAX
    while depth:
        close = block.find(b"}", at + 1, limit)
        if close < 0:
            return None
        depth += block.count(b"{", at + 1, close) - 1
        at = close
    return at + 1


def _merge(begun: WireUsage, last: WireUsage) -> WireUsage:
    fields = {
        name: value for name, value in msgspec.structs.asdict(last).items() if value is not None
    }
    return msgspec.structs.replace(begun, **fields)


def _normalise(wire: WireUsage) -> Usage:
    if wire.prompt_tokens is not None:
        return _from_openai(wire)
    if wire.promptTokenCount is not None:
        return _from_gemini(wire)
    if wire.total_input_tokens is not None:
        return _from_interactions(wire)
    if wire.tokens is not None:
        return Usage(
            input_tokens=_count(round(wire.tokens.input_tokens or 0)),
            output_tokens=_count(round(wire.tokens.output_tokens or 0)),
            cached_tokens=_count(wire.cached_tokens),
        )
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
    # Negative counts are left for `_bounded`: the common way asks nothing of a count twice.
    input_tokens = wire.prompt_tokens or wire.input_tokens or 0
    output_tokens = wire.completion_tokens or wire.output_tokens or 0
    if inward is _NO_INPUT_DETAILS and outward is _NO_OUTPUT_DETAILS:
        return Usage(
            input_tokens=input_tokens,
            cached_tokens=_first(
                wire.prompt_cache_hit_tokens, wire.cached_tokens, wire.cache_read_input_tokens
            ),
            cache_write_tokens=wire.cache_creation_input_tokens or 0,
            output_tokens=output_tokens,
        )
    reasoning = outward.reasoning_tokens or outward.thinking_tokens or 0
    if wire.total_tokens == input_tokens + output_tokens + reasoning:
        # xAI's completion_tokens leaves the reasoning out; only the total tells.
        output_tokens += reasoning
    cached = inward.cached_tokens
    if cached is None:
        cached = _first(
            wire.prompt_cache_hit_tokens, wire.cached_tokens, wire.cache_read_input_tokens
        )
    return Usage(
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


def _from_anthropic(wire: WireUsage) -> Usage:
    read = _count(wire.cache_read_input_tokens)
    written = _count(wire.cache_creation_input_tokens)
    details = wire.output_tokens_details or OutputDetails()
    usage = Usage(
        input_tokens=_count(wire.input_tokens) + read + written,
        cached_tokens=read,
        cache_write_tokens=written,
        output_tokens=_count(wire.output_tokens),
        reasoning_tokens=_count(details.thinking_tokens),
        cache_write_1h_tokens=_written_1h(wire.cache_creation),
    )
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
    except msgspec.DecodeError:
        return []
    return [one for one in iterations if one.type in BESIDE]


def _from_gemini(wire: WireUsage) -> Usage:
    thoughts = _count(wire.thoughtsTokenCount)
    inward, outward = wire.promptTokensDetails or [], wire.candidatesTokensDetails or []
    return Usage(
        input_tokens=_count(wire.promptTokenCount) + _count(wire.toolUsePromptTokenCount),
        cached_tokens=_count(wire.cachedContentTokenCount),
        output_tokens=_count(wire.candidatesTokenCount) + thoughts,
        reasoning_tokens=thoughts,
        audio_input_tokens=_of_modality(inward, "AUDIO"),
        audio_output_tokens=_of_modality(outward, "AUDIO"),
        image_input_tokens=_of_modality(inward, "IMAGE"),
        image_output_tokens=_of_modality(outward, "IMAGE"),
    )


def _from_interactions(wire: WireUsage) -> Usage:
    thoughts = _count(wire.total_thought_tokens)
    return Usage(
        input_tokens=_count(wire.total_input_tokens) + _count(wire.total_tool_use_tokens),
        cached_tokens=_count(wire.total_cached_tokens),
        output_tokens=_count(wire.total_output_tokens) + thoughts,
        reasoning_tokens=thoughts,
    )


def _of_modality(details: list[Modality], modality: str) -> int:
    return sum(_count(detail.tokenCount) for detail in details if detail.modality == modality)


def _bounded(usage: Usage) -> Usage:
    """Return `usage` with no part larger than its whole: an upstream's numbers are claims.

    Recorded: Grok on Azure reporting 403 cached tokens of a prompt of 347.
    """
    inward, outward = usage.input_tokens, usage.output_tokens
    cached, written = usage.cached_tokens, usage.cache_write_tokens
    in_bounds = (
        0 <= cached <= inward - written <= inward
        and 0 <= usage.cache_write_1h_tokens <= written
        and 0 <= usage.audio_input_tokens <= inward
        and 0 <= usage.image_input_tokens <= inward
        and 0 <= usage.reasoning_tokens <= outward
        and 0 <= usage.audio_output_tokens <= outward
        and 0 <= usage.image_output_tokens <= outward
    )
    return usage if in_bounds else _cut_to_bounds(usage)


def _cut_to_bounds(usage: Usage) -> Usage:
    inward, outward = max(usage.input_tokens, 0), max(usage.output_tokens, 0)
    cached = _within(usage.cached_tokens, inward)
    written = _within(usage.cache_write_tokens, inward - cached)
    return dataclasses.replace(
        usage,
        input_tokens=inward,
        cached_tokens=cached,
        cache_write_tokens=written,
        output_tokens=outward,
        reasoning_tokens=_within(usage.reasoning_tokens, outward),
        cache_write_1h_tokens=_within(usage.cache_write_1h_tokens, written),
        audio_input_tokens=_within(usage.audio_input_tokens, inward),
        audio_output_tokens=_within(usage.audio_output_tokens, outward),
        image_input_tokens=_within(usage.image_input_tokens, inward),
        image_output_tokens=_within(usage.image_output_tokens, outward),
    )


def _within(count: int, whole: int) -> int:
    return max(0, min(count, whole))


def _first(*found: int | None) -> int:
    """Return the first count that was given."""
    return next((count for count in found if count is not None), 0)


def _count(*found: int | None) -> int:
    """Return the first count that was given, never below zero: an upstream's number is a claim."""
    for count in found:
        if count is not None:
            return max(count, 0)
    return 0
