"""The shapes that usage has on the wire, by every name that a dialect gives to a count.

Source: docs/streams.md, "Usage: shapes".
"""

from typing import Annotated, Final

import msgspec

TOKENS_MAX: Final = 100_000_000
"""What is over this is no count: it would go onto a bill."""

Count = Annotated[int, msgspec.Meta(le=TOKENS_MAX)]
Quantity = Annotated[float, msgspec.Meta(le=TOKENS_MAX)]


NOTHING: Final = msgspec.Raw(b"null")


class InputDetails(msgspec.Struct):
    """Parts of the input."""

    cached_tokens: Count | None = None
    cache_write_tokens: Count | None = None
    audio_tokens: Count | None = None
    image_tokens: Count | None = None


class OutputDetails(msgspec.Struct):
    """Parts of the output."""

    reasoning_tokens: Count | None = None
    thinking_tokens: Count | None = None
    audio_tokens: Count | None = None
    image_tokens: Count | None = None


class CacheCreation(msgspec.Struct):
    """What was written to a cache, by how long it is kept; the rest is for five minutes."""

    ephemeral_1h_input_tokens: Count | None = None


class Modality(msgspec.Struct):
    """The tokens of one kind of content."""

    modality: str | None = None
    tokenCount: Count | None = None  # noqa: N815 - the wire's own name


class Units(msgspec.Struct):
    """Cohere's counts, which are floats."""

    input_tokens: Quantity | None = None
    output_tokens: Quantity | None = None


class ServerTools(msgspec.Struct):
    """Tools that the provider itself ran for an answer."""

    web_search_requests: Count | None = None
    code_execution_requests: Count | None = None


class ToolCalls(msgspec.Struct):
    """xAI's count of the same."""

    web_search_calls: Count | None = None
    x_search_calls: Count | None = None
    code_interpreter_calls: Count | None = None


class BilledUnits(msgspec.Struct):
    """Cohere's own units; its rerankers tell nothing else."""

    search_units: Quantity | None = None


class WireUsage(msgspec.Struct):
    """Every name a dialect gives to a count."""

    # OpenAI chat, completions, embeddings, and all that follow them
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    total_tokens: Count | None = None
    prompt_tokens_details: InputDetails | None = None
    completion_tokens_details: OutputDetails | None = None
    # OpenAI responses, images, transcription; Anthropic
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    input_tokens_details: InputDetails | None = None
    output_tokens_details: OutputDetails | None = None
    # Writer; OpenAI transcription
    prompt_token_details: InputDetails | None = None
    input_token_details: InputDetails | None = None
    # Anthropic: its input_tokens leaves these two out
    cache_read_input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_creation: CacheCreation | None = None
    iterations: msgspec.Raw = NOTHING
    """Its samplings one by one; read apart, since an odd one must not hide the counts above."""
    # DeepSeek; Moonshot, Together
    prompt_cache_hit_tokens: Count | None = None
    cached_tokens: Count | None = None
    # Gemini: its candidates leave the thoughts out
    promptTokenCount: Count | None = None  # noqa: N815 - the wire's own names
    candidatesTokenCount: Count | None = None  # noqa: N815
    thoughtsTokenCount: Count | None = None  # noqa: N815
    cachedContentTokenCount: Count | None = None  # noqa: N815
    toolUsePromptTokenCount: Count | None = None  # noqa: N815
    promptTokensDetails: list[Modality] | None = None  # noqa: N815
    candidatesTokensDetails: list[Modality] | None = None  # noqa: N815
    # Gemini interactions
    total_input_tokens: Count | None = None
    total_output_tokens: Count | None = None
    total_cached_tokens: Count | None = None
    total_thought_tokens: Count | None = None
    total_tool_use_tokens: Count | None = None
    # Cohere
    tokens: Units | None = None
    billed_units: BilledUnits | None = None
    # what is no token: Anthropic, Perplexity, xAI; OpenAI's transcription; whose rates they were
    server_tool_use: ServerTools | None = None
    num_search_queries: Count | None = None
    num_sources_used: Count | None = None
    server_side_tool_usage_details: ToolCalls | None = None
    seconds: Quantity | None = None
    service_tier: str | None = None
    serviceTier: str | None = None  # noqa: N815
    speed: str | None = None


class Iteration(msgspec.Struct):
    """One of the samplings that made an answer of Anthropic's."""

    type: str = ""
    input_tokens: Count = 0
    output_tokens: Count = 0
    cache_read_input_tokens: Count = 0
    cache_creation_input_tokens: Count = 0
    cache_creation: CacheCreation | None = None


class UsageRest(msgspec.Struct):
    """The rest of a body from its usage on, as an object of its own."""

    usage: WireUsage


class Duration(msgspec.Struct):
    """A transcription that says how long its sound is, and nothing of tokens."""

    duration: float | str


class Reranked(msgspec.Struct):
    """What a reranker says of its cost."""

    billed_units: BilledUnits


class RerankAnswer(msgspec.Struct):
    """An answer of a reranker."""

    meta: Reranked
