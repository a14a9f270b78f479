"""The names of what a channel keeps, or alone can read, and those that a request holds.

A mark is a kind and a name: `r:` and the id of a response. An id of a provider's is a mark as it
stands; of what only its maker reads (encrypted reasoning, signatures) the head is one, which is
random and tells two of them apart. Marks are never kept or sent anywhere as they are: whoever keeps
them keeps a keyed digest (flow.state.owners).

A request without any of them costs a look for few names, and a search of its bytes or two.

Source: OpenAI API reference, Responses, Conversations, Files; Anthropic, Extended thinking, Files,
Code execution; Gemini API, Context caching, Thought signatures, Files.
"""

import re
from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec

from relay.decoding import Decoder, Undecodable, decoder_of
from relay.errors import BadRequest
from relay.records import Endpoint
from relay.wire.request.asked import holds_escape
from relay.wire.state.shapes import InputFile, Named, NamedItem

RESPONSE: Final = b"r:"
CONVERSATION: Final = b"c:"
ITEM: Final = b"i:"
ENCRYPTED: Final = b"e:"
SIGNATURE: Final = b"s:"
THOUGHT: Final = b"t:"
FILE: Final = b"f:"
CONTAINER: Final = b"k:"
CACHED: Final = b"g:"
BATCH: Final = b"b:"
MESSAGE_BATCH: Final = b"m:"
CONTENT_BATCH: Final = b"j:"
VIDEO: Final = b"v:"
KIND_BYTES: Final = 2

SOFT: Final = (SIGNATURE, THOUGHT, CONTAINER)
"""Another channel may do with them, or say so: their maker is asked first, and no more than that.
Anthropic's signatures are good at each of its providers; a container is made anew."""
HEAD_CHARS: Final = 160
"""Of what only its maker reads: behind a version and a time stand 16 random bytes at the least."""
READ_CHARS: Final = 2 * HEAD_CHARS
"""Some clients write each slash with a backslash before it."""
MARKS_MAX: Final = 48
"""Of one request, the last ones: what came last was made by the channel that holds the rest."""
NAME_CHARS_MAX: Final = 256

_ENCRYPTED: Final = re.compile(rb'"encrypted_content"\s*:\s*"([^"]{16,%d})' % READ_CHARS)
_SIGNATURE: Final = re.compile(rb'"signature"\s*:\s*"([^"]{16,%d})' % READ_CHARS)
_THOUGHT: Final = re.compile(
    rb'"thought_?[sS]ignature"\s*:\s*"([^"]{16,%d})' % READ_CHARS,
)
_FILE: Final = re.compile(rb'"file_id"\s*:\s*"([^"\\]{1,%d})"' % NAME_CHARS_MAX)
_FILE_URI: Final = re.compile(rb'"file_?[uU]ri"\s*:\s*"[^"]*?(files/[A-Za-z0-9\-]{1,64})"')
_ESCAPED: Final = re.compile(rb"\\u00(?!22|5[cC])([2-7][0-9a-fA-F])")
"""A character that names are made of, as JSON may write any: no spelling hides a mark."""
_BLOBS: Final = {ENCRYPTED: _ENCRYPTED, SIGNATURE: _SIGNATURE, THOUGHT: _THOUGHT}
BLOB_KINDS: Final = {
    Endpoint.RESPONSES: (ENCRYPTED, b'"encrypted_content"'),
    Endpoint.COMPACT: (ENCRYPTED, b'"encrypted_content"'),
    Endpoint.INPUT_TOKENS: (ENCRYPTED, b'"encrypted_content"'),
    Endpoint.MESSAGES: (SIGNATURE, b'"signature"'),
    Endpoint.GENERATE: (THOUGHT, b"ignature"),
    Endpoint.STREAM_GENERATE: (THOUGHT, b"ignature"),
}
"""What only its maker reads, by endpoint, and the bytes that stand where there is any."""
_RESPONSES: Final = frozenset({Endpoint.RESPONSES, Endpoint.COMPACT, Endpoint.INPUT_TOKENS})
_FILES: Final = frozenset({Endpoint.CHAT, Endpoint.MESSAGES}) | _RESPONSES
_CONTENT: Final = frozenset({Endpoint.GENERATE, Endpoint.STREAM_GENERATE})
STATEFUL: Final = frozenset(BLOB_KINDS) | _FILES
"""Endpoints whose requests may hold marks."""
_NAMES: Final = (("previous_response_id", RESPONSE), ("conversation", CONVERSATION))
_CONTAINER: Final = (("container", CONTAINER),)
_CACHED: Final = (("cachedContent", CACHED), ("cached_content", CACHED))

_named = decoder_of(str | Named | None)
INPUT_HEAD_BYTES: Final = 64 * 1024
_PURPOSE: Final = re.compile(rb'name="?purpose"?[^\r\n]*(?:\r\n[^\r\n]+)*\r\n\r\nbatch\r\n')
_INPUT_MODEL: Final = re.compile(rb'"model"\s*:\s*"([^"\\]{1,256})"')
_input = Decoder(InputFile)
_all_items = Decoder(list[NamedItem])
_items = Decoder(list[msgspec.Raw])
_item = Decoder(NamedItem)

Fields = Mapping[str, msgspec.Raw]
_Value = TypeVar("_Value")


def marks_of(
    endpoint: Endpoint, fields: Fields, body: bytes, *, reaches_out: bool
) -> tuple[bytes, ...]:
    """Return the marks that a request holds, the most telling ones last; () for most.

    Args:
        endpoint: Where it goes.
        fields: Its top level.
        body: As it came; only looked through.
        reaches_out: It may name what is elsewhere (wire.request.asked): else it names no file.
    """
    if reaches_out and holds_escape(body):
        body = _ESCAPED.sub(_unescaped, body)
    marks: list[bytes] = []
    blob = BLOB_KINDS.get(endpoint)
    if blob is not None and body.rfind(blob[1]) >= 0:
        marks += blob_marks(blob[0], body)
    if reaches_out:
        marks += _files(endpoint, body)
    names: tuple[tuple[str, bytes], ...] = ()
    if endpoint in _RESPONSES:
        names = _NAMES
        if body.rfind(b'"id"') >= 0:
            marks += _references(fields)
    elif endpoint is Endpoint.MESSAGES:
        names = _CONTAINER
    elif endpoint in _CONTENT:
        names = _CACHED
    for name, kind in names:
        raw = fields.get(name)
        if raw is not None:
            marks += _named_by(kind, raw)
    return tuple(dict.fromkeys(marks[-MARKS_MAX:])) if marks else ()


def input_marks(body: bytes) -> tuple[bytes, ...]:
    """Return the mark of the file that a batch is to be made of."""
    try:
        name = _input.decode(body).input_file_id
    except Undecodable:
        return ()
    return (FILE + name.encode(),) if 0 < len(name) <= NAME_CHARS_MAX else ()


def input_model(form: bytes) -> str:
    """Return the model of the first request in a file that is sent to be a batch, else "".

    A guess that only tells which channel had better have the file: what is begun of it is read.
    """
    head = form[:INPUT_HEAD_BYTES]
    if _PURPOSE.search(head) is None and _PURPOSE.search(form[-INPUT_HEAD_BYTES:]) is None:
        return ""
    found = _INPUT_MODEL.search(head)
    return found[1].decode("utf-8", "replace") if found is not None else ""


def _too_deep() -> BadRequest:
    """Return the error for what cannot be looked at: it may name what is another account's."""
    return BadRequest("The request body could not be read: it is nested too deeply.")


def _unescaped(found: re.Match[bytes]) -> bytes:
    return bytes((int(found[1], 16),))


def _files(endpoint: Endpoint, body: bytes) -> list[bytes]:
    if endpoint in _FILES and body.rfind(b'"file_id"') >= 0:
        return [FILE + name for name in _FILE.findall(body)]
    if endpoint in _CONTENT and body.rfind(b"/files") >= 0:
        return [FILE + name for name in _FILE_URI.findall(body.replace(b"\\/", b"/"))]
    return []


def blob_marks(kind: bytes, said: bytes) -> list[bytes]:
    """Return the marks of what only its maker reads, in the order in which they stand."""
    return [kind + head.replace(b"\\", b"")[:HEAD_CHARS] for head in _BLOBS[kind].findall(said)]


def is_soft(mark: bytes) -> bool:
    """Tell whether another channel may do without what is named."""
    return mark[:KIND_BYTES] in SOFT


def _named_by(kind: bytes, raw: msgspec.Raw) -> list[bytes]:
    told = _read(_named, raw)  # the provider says what is wrong with it
    name = told.id if isinstance(told, Named) else told
    return [kind + name.encode()] if name and len(name) <= NAME_CHARS_MAX else []


def _references(fields: Fields) -> list[bytes]:
    raw = fields.get("input")
    if raw is None or not bytes(raw).lstrip().startswith(b"["):
        return []
    items = _read(_all_items, raw)
    if items is None:  # whatever else is wrong with one of them
        found = (_read(_item, one) for one in _read(_items, raw) or ())
        items = [one for one in found if one is not None]
    return [mark for item in items for mark in _reference(item)]


def _reference(item: NamedItem) -> list[bytes]:
    """Return the mark of an item that is a reference: it says so, or says nothing but an id."""
    name = item.id
    if not isinstance(name, str) or not 0 < len(name) <= NAME_CHARS_MAX:
        return []
    bare = item.type is None and item.role is None
    return [ITEM + name.encode()] if bare or item.type == "item_reference" else []


def _read(decoder: Decoder[_Value], raw: msgspec.Raw) -> _Value | None:
    """Return a value, None where it is none: it names nothing.

    Raises:
        BadRequest: CLIENT; it is nested so deeply that nobody can see what it names.
    """
    try:
        return decoder.decode(raw)
    except Undecodable as error:
        if not error.deep:
            return None
    raise _too_deep()
