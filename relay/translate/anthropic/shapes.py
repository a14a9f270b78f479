"""What is read of an Anthropic message, whole or in events.

Source: Anthropic API reference, "Streaming Messages"; recorded streams.
"""

from typing import Any

import msgspec


class Written(msgspec.Struct):
    """What was written to a cache, by how long it stays."""

    ephemeral_1h_input_tokens: int | None = None


class Details(msgspec.Struct):
    """Parts of the output."""

    thinking_tokens: int | None = None


class Counts(msgspec.Struct):
    """Usage; a later event's fields replace an earlier one's, one by one."""

    input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation: Written | None = None
    output_tokens: int | None = None
    output_tokens_details: Details | None = None


class Block(msgspec.Struct):
    """A block of the content."""

    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: Any = None
    citations: list[dict[str, Any]] | None = None


class Delta(msgspec.Struct):
    """A piece of a block, or (message_delta) the end of the message."""

    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    partial_json: str | None = None
    citation: dict[str, Any] | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None


class Message(msgspec.Struct):
    """The message as it begins."""

    usage: Counts | None = None


class Event(msgspec.Struct):
    """One event, or a whole body (`type` "message")."""

    type: str = ""
    index: int | None = None
    message: Message | None = None
    content_block: Block | None = None
    delta: Delta | None = None
    usage: Counts | None = None
    content: list[Block] | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    error: Any = None
