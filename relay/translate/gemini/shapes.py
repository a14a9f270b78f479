"""What is read of generated content, whole or in chunks: both have one shape.

Source: Gemini API reference, `GenerateContentResponse`; recorded streams of Gemini and Vertex.
"""

from typing import Any

import msgspec


class Names(msgspec.Struct, rename="camel"):
    """A struct whose fields are camelCase on the wire."""


class FunctionCall(Names):
    """A call, always whole."""

    name: str = ""
    id: str | None = None
    args: dict[str, Any] | None = None


class Blob(Names):
    """Bytes in base64."""

    mime_type: str = ""
    data: str = ""


class Part(Names):
    """A part of the content."""

    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: FunctionCall | None = None
    inline_data: Blob | None = None
    executable_code: Any = None
    code_execution_result: Any = None


class Content(Names):
    """What the model said."""

    parts: list[Part] | None = None


class Web(Names):
    """A page."""

    uri: str | None = None
    title: str | None = None


class GroundingChunk(Names):
    """A source."""

    web: Web | None = None


class Segment(Names):
    """Some bytes of the answer's UTF-8."""

    start_index: int = 0
    end_index: int = 0
    text: str | None = None


class GroundingSupport(Names):
    """Which words come from which sources."""

    segment: Segment | None = None
    grounding_chunk_indices: list[int] | None = None


class Grounding(Names):
    """Where the answer comes from."""

    grounding_chunks: list[GroundingChunk] | None = None
    grounding_supports: list[GroundingSupport] | None = None


class Token(Names):
    """A token and how likely it was."""

    token: str | None = None
    log_probability: float | None = None


class Alternatives(Names):
    """The likeliest tokens at one place."""

    candidates: list[Token] | None = None


class LogprobsResult(Names):
    """Of the tokens of a piece."""

    chosen_candidates: list[Token] | None = None
    top_candidates: list[Alternatives] | None = None


class Candidate(Names):
    """One of the answers."""

    content: Content | None = None
    finish_reason: str | None = None
    finish_message: str | None = None
    index: int = 0
    grounding_metadata: Grounding | None = None
    citation_metadata: Any = None
    logprobs_result: LogprobsResult | None = None


class Counts(Names):
    """Usage so far."""

    prompt_token_count: int | None = None
    cached_content_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None
    tool_use_prompt_token_count: int | None = None


class Feedback(Names):
    """Why a prompt was not answered."""

    block_reason: str | None = None


class Chunk(Names):
    """One event, or a whole body."""

    candidates: list[Candidate] | None = None
    prompt_feedback: Feedback | None = None
    usage_metadata: Counts | None = None
    error: Any = None
