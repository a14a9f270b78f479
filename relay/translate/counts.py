"""Usage in each dialect's words, from the one convention of `relay.usage`.

OpenAI's and Gemini's input include what a cache gave, Anthropic's does not; Gemini's candidates
leave the thoughts out, all others' output includes them. Counts are never added up over events.
"""

from typing import Final

from relay.translate.middle import JsonObject
from relay.usage import Usage

ZERO: Final = Usage()


def bounded(count: int | None) -> int:
    """Return a count that an upstream claims, never below zero."""
    return count if count is not None and count > 0 else 0


def chat_usage(usage: Usage | None) -> JsonObject:
    """Return chat's usage."""
    used = usage or ZERO
    inward: JsonObject = {"cached_tokens": used.cached_tokens}
    if used.cache_write_tokens:
        inward["cache_write_tokens"] = used.cache_write_tokens
    if used.audio_input_tokens:
        inward["audio_tokens"] = used.audio_input_tokens
    outward: JsonObject = {"reasoning_tokens": used.reasoning_tokens}
    if used.audio_output_tokens:
        outward["audio_tokens"] = used.audio_output_tokens
    return {
        "prompt_tokens": used.input_tokens,
        "completion_tokens": used.output_tokens,
        "total_tokens": used.input_tokens + used.output_tokens,
        "prompt_tokens_details": inward,
        "completion_tokens_details": outward,
    }


def responses_usage(usage: Usage | None) -> JsonObject:
    """Return Responses' usage."""
    used = usage or ZERO
    # Both are always there: the client's types insist on it.
    inward: JsonObject = {
        "cached_tokens": used.cached_tokens,
        "cache_write_tokens": used.cache_write_tokens,
    }
    return {
        "input_tokens": used.input_tokens,
        "input_tokens_details": inward,
        "output_tokens": used.output_tokens,
        "output_tokens_details": {"reasoning_tokens": used.reasoning_tokens},
        "total_tokens": used.input_tokens + used.output_tokens,
    }


def anthropic_usage(usage: Usage | None) -> JsonObject:
    """Return Anthropic's usage."""
    used = usage or ZERO
    cached, written = used.cached_tokens, used.cache_write_tokens
    fields: JsonObject = {
        "input_tokens": max(used.input_tokens - cached - written, 0),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": cached,
        "output_tokens": used.output_tokens,
    }
    if written:
        hour = used.cache_write_1h_tokens
        fields["cache_creation"] = {
            "ephemeral_5m_input_tokens": written - hour,
            "ephemeral_1h_input_tokens": hour,
        }
    if used.reasoning_tokens:
        fields["output_tokens_details"] = {"thinking_tokens": used.reasoning_tokens}
    return fields


def gemini_usage(usage: Usage | None) -> JsonObject:
    """Return Gemini's usage."""
    used = usage or ZERO
    fields: JsonObject = {
        "promptTokenCount": used.input_tokens,
        "candidatesTokenCount": max(used.output_tokens - used.reasoning_tokens, 0),
        "totalTokenCount": used.input_tokens + used.output_tokens,
    }
    if used.cached_tokens:
        fields["cachedContentTokenCount"] = used.cached_tokens
    if used.reasoning_tokens:
        fields["thoughtsTokenCount"] = used.reasoning_tokens
    return fields
