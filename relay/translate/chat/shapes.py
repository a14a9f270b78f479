"""What is read of a chat completion, whole or in chunks.

So many servers speak this dialect that what stands beside words and calls is taken as it comes
(`Any`): an odd shape there must not break an answer.

Source: OpenAI API reference, "Chat completion chunk"; recorded streams of 20 providers.
"""

from typing import Any

import msgspec


class FunctionDelta(msgspec.Struct):
    """A piece of a call."""

    name: str | None = None
    arguments: Any = None


class CallDelta(msgspec.Struct):
    """A piece of one of the calls. Mistral gives no index, Gemini's door gives 0 to all."""

    index: int | None = None
    id: str | None = None
    type: str | None = None
    function: FunctionDelta | None = None


class Delta(msgspec.Struct):
    """A piece of the message, or the whole of it."""

    content: Any = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: Any = None
    reasoning_details: Any = None
    tool_calls: list[CallDelta] | None = None
    annotations: Any = None
    images: Any = None


class Choice(msgspec.Struct):
    """One of the answers."""

    index: int = 0
    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: str | None = None
    native_finish_reason: str | None = None
    logprobs: Any = None


class Details(msgspec.Struct):
    """Parts of a count."""

    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    audio_tokens: int | None = None
    reasoning_tokens: int | None = None


class Counts(msgspec.Struct):
    """Usage. The cache fields at its top are DeepSeek's, Moonshot's and Anthropic's names."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: Details | None = None
    completion_tokens_details: Details | None = None
    prompt_cache_hit_tokens: int | None = None
    cached_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class Chunk(msgspec.Struct):
    """One event, or a whole body."""

    choices: list[Choice] | None = None
    usage: Any = None
    citations: Any = None
    """Perplexity's: the pages that the whole answer is made of."""
    error: Any = None
