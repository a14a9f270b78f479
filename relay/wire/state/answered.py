"""What an answer makes that only its channel has: found by a search of its bytes, not decoded.

The id of a response and of its conversation stand in the first event, in which they are looked for
once; what only its maker reads stands anywhere, and one search of a read tells whether it is there;
the items that a later request may refer to are named again in the last event.
"""

import re
from typing import Final

from relay.decoding import Decoder, Undecodable
from relay.records import Endpoint
from relay.wire.sse import event_payload, split_events
from relay.wire.state.content_batches import read_content_batch
from relay.wire.state.marks import (
    BATCH,
    BLOB_KINDS,
    CONTAINER,
    CONTENT_BATCH,
    CONVERSATION,
    FILE,
    ITEM,
    MESSAGE_BATCH,
    NAME_CHARS_MAX,
    RESPONSE,
    VIDEO,
    blob_marks,
)
from relay.wire.state.shapes import Kept, Opening

ITEMS_MAX: Final = 64
MADE_KINDS: Final = {
    Endpoint.RESPONSES: RESPONSE,
    Endpoint.COMPACT: RESPONSE,
    Endpoint.CONVERSATION: CONVERSATION,
    Endpoint.FILE: FILE,
    Endpoint.UPLOAD: FILE,
    Endpoint.BATCHES: BATCH,
    Endpoint.MESSAGE_BATCHES: MESSAGE_BATCH,
    Endpoint.CONTENT_BATCHES: CONTENT_BATCH,
    Endpoint.EMBED_BATCHES: CONTENT_BATCH,
    Endpoint.VIDEOS: VIDEO,
    Endpoint.VIDEO_REMIX: VIDEO,
}
"""What an answer of an endpoint is, where its provider keeps it."""
UNENDED: Final = frozenset({"queued", "in_progress"})
"""What a background response is until it has ended."""
_RESPONSE: Final = re.compile(rb'"response"\s*:\s*\{\s*"id"\s*:\s*"([^"\\]{1,256})"')
_FIRST_ID: Final = re.compile(rb'\s*\{\s*"id"\s*:\s*"([^"\\]{1,256})"')
_CONVERSATION: Final = re.compile(rb'"conversation"\s*:\s*\{\s*"id"\s*:\s*"([^"\\]{1,256})"')
_CONTAINER: Final = re.compile(rb'"container"\s*:\s*\{\s*"id"\s*:\s*"([^"\\]{1,256})"')
_FILE_ID: Final = re.compile(rb'"file"\s*:\s*\{[^{}]*?"id"\s*:\s*"([^"\\]{1,256})"')
_ITEM: Final = re.compile(rb'"id"\s*:\s*"([a-z]{2,6}_[A-Za-z0-9_\-]{8,120})"')
_opening = Decoder(Opening)
_kept = Decoder(Kept)


def opened(block: bytes) -> list[bytes]:
    """Return the marks of a stream's response and of its conversation, by its first events."""
    found = _RESPONSE.search(block)
    name = found[1] if found is not None else _opened_slowly(block)
    return _named(RESPONSE, name) + _conversation(block)


def _opened_slowly(block: bytes) -> bytes:
    for event in split_events(block):
        try:
            response = _opening.decode(event_payload(event)).response
        except Undecodable:
            continue
        if response is not None and response.id:
            return response.id.encode()
    return b""


def answered(kind: bytes, body: bytes) -> list[bytes]:
    """Return the same of an answer in one piece, or of its beginning; `kind`: of what it is."""
    if kind == CONTENT_BATCH:
        return _named(kind, read_content_batch(body).id.encode())
    found = _FIRST_ID.match(body)
    name = found[1] if found is not None else read_kept(body).id.encode()
    return _named(kind, name) + _conversation(body)


def made_items(end: bytes) -> list[bytes]:
    """Return the marks of the items that an answer is made of, by how it ends."""
    return [ITEM + name for name in dict.fromkeys(_ITEM.findall(end))][:ITEMS_MAX]


def made_blobs(endpoint: Endpoint, block: bytes) -> list[bytes]:
    """Return the marks of what only its maker reads; called for each read of such a stream."""
    kind = BLOB_KINDS.get(endpoint)
    if kind is None or block.find(kind[1]) < 0:
        return []
    return blob_marks(kind[0], block)


def made_file(body: bytes) -> list[bytes]:
    """Return the mark of the file that an upload has become."""
    return [FILE + name for name in _FILE_ID.findall(body)[:1]]


def made_container(block: bytes) -> list[bytes]:
    """Return the mark of the container that an answer of Anthropic's names."""
    return [CONTAINER + name for name in _CONTAINER.findall(block)[:1]]


def read_kept(body: bytes) -> Kept:
    """Return how a response stands that its provider keeps; all empty where it is none."""
    try:
        return _kept.decode(body)
    except Undecodable:
        return Kept()


def _named(kind: bytes, name: bytes) -> list[bytes]:
    return [kind + name] if name and len(name) <= NAME_CHARS_MAX else []


def _conversation(block: bytes) -> list[bytes]:
    return [CONVERSATION + name for name in _CONVERSATION.findall(block)[:1]]
