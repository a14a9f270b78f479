"""What is read of a response, whole or in events.

Source: OpenAI API reference, "Streaming events" of Responses; recorded streams.
"""

from typing import Any

import msgspec


class Details(msgspec.Struct):
    """Parts of a count."""

    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None


class Counts(msgspec.Struct):
    """Usage."""

    input_tokens: int | None = None
    input_tokens_details: Details | None = None
    output_tokens: int | None = None
    output_tokens_details: Details | None = None
    total_tokens: int | None = None


class ItemPart(msgspec.Struct):
    """A part of an item's content, or of its summary."""

    type: str = ""
    text: str | None = None
    refusal: str | None = None
    annotations: list[dict[str, Any]] | None = None
    logprobs: list[dict[str, Any]] | None = None


class Item(msgspec.Struct):
    """An item of the output."""

    type: str = ""
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    input: str | None = None
    content: list[ItemPart] | None = None
    summary: list[ItemPart] | None = None
    encrypted_content: str | None = None
    result: str | None = None
    output_format: str | None = None


class Incomplete(msgspec.Struct):
    """Why a response is not whole."""

    reason: str | None = None


class Response(msgspec.Struct):
    """A response at some point of its life."""

    status: str | None = None
    output: list[Item] | None = None
    usage: Counts | None = None
    error: Any = None
    incomplete_details: Incomplete | None = None


class Event(Response):
    """One event, or a whole body (`object` "response")."""

    object: str | None = None
    type: str = ""
    response: Response | None = None
    item: Item | None = None
    output_index: int = 0
    delta: Any = None
    logprobs: list[dict[str, Any]] | None = None
    annotation: dict[str, Any] | None = None
    code: Any = None
    message: Any = None
    param: Any = None
