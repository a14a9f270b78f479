"""What a client is told whose state cannot be reached, and its request without that state.

The words are those of the provider whose dialect it is: agents know them, and begin their turn anew
with the whole of it. Where a request carries all of its context, and beside it reasoning that only
a lost channel can read, it can be asked of another one without that.

Source: openai/codex and opencode, which recover from `previous_response_not_found`; litellm, which
recorded `invalid_encrypted_content`; OpenAI API reference, Responses.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from relay.decoding import Decoder, Undecodable
from relay.errors import ClientError
from relay.wire.state.marks import (
    BATCH,
    CACHED,
    CONTENT_BATCH,
    CONVERSATION,
    ENCRYPTED,
    FILE,
    ITEM,
    KIND_BYTES,
    MESSAGE_BATCH,
    RESPONSE,
    SIGNATURE,
    VIDEO,
    is_soft,
)
from relay.wire.state.shapes import Item

_items = Decoder(list[msgspec.Raw])
_item = Decoder(Item)
_encode = msgspec.json.Encoder().encode

Words = tuple[int, str, str, str]
"""Status, code, the field at fault, and what is said."""
_WORDS: Final[dict[bytes, Words]] = {
    RESPONSE: (
        404,
        "previous_response_not_found",
        "previous_response_id",
        "Previous response with id '{name}' not found.",
    ),
    CONVERSATION: (404, "not_found", "conversation", "Conversation with id '{name}' not found."),
    ITEM: (404, "not_found", "input", "Item with id '{name}' not found."),
    ENCRYPTED: (
        400,
        "invalid_encrypted_content",
        "input",
        "The encrypted content of an item in the input could not be verified: what made it cannot "
        "be reached. Send the turn without its reasoning items.",
    ),
    FILE: (404, "not_found", "file_id", "No such File object: {name}"),
    CACHED: (404, "not_found", "cachedContent", "CachedContent not found (or permission denied)"),
    VIDEO: (404, "not_found", "video_id", "Video with id '{name}' not found."),
    BATCH: (404, "not_found", "id", "No batch found with id '{name}'."),
    MESSAGE_BATCH: (404, "not_found", "id", "No message batch found with id '{name}'."),
    CONTENT_BATCH: (404, "not_found", "name", "No batch found with the name 'batches/{name}'."),
}
_OTHER: Final[Words] = (404, "not_found", "", "What this request refers to was not found.")


class StateLost(ClientError):
    """What a request refers to is not there: its maker is gone, or it is another account's."""


def lost(mark: bytes) -> StateLost:
    """Return the error that tells a client what its request refers to in vain.

    The name is the client's own, and is told to nobody else.
    """
    status, code, param, said = _WORDS.get(mark[:KIND_BYTES], _OTHER)
    name = mark[KIND_BYTES:].decode("utf-8", "replace")
    error = StateLost(said.format(name=name), param=param or None)
    error.status, error.code = status, code
    return error


def hard_mark(marks: tuple[bytes, ...]) -> bytes:
    """Return the mark that binds a request to a channel most, b"" where none does."""
    return next((mark for mark in reversed(marks) if not is_soft(mark)), b"")


def may_be_left_out(marks: tuple[bytes, ...]) -> bool:
    """Tell whether all that binds a request is reasoning that stands beside its context."""
    return all(mark[:KIND_BYTES] in (ENCRYPTED, SIGNATURE) for mark in marks)


def without_reasoning(fields: Mapping[str, msgspec.Raw]) -> dict[str, msgspec.Raw] | None:
    """Return a Responses request without what only its maker reads; None where that is context.

    A reasoning item goes as a whole. A compaction holds the turns that it stands for: without it
    the model would answer something else.
    """
    raw = fields.get("input")
    if raw is None:
        return None
    kept: list[msgspec.Raw] = []
    try:
        for item in _items.decode(raw):
            if b'"encrypted_content"' not in bytes(item):
                kept.append(item)
                continue
            read = _item.decode(item)
            if read.type != "reasoning":
                return None
    except Undecodable:
        return None
    return {**fields, "input": msgspec.Raw(_encode(kept))} if kept else None
