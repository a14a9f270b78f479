"""Asking an upstream over its WebSocket: requests to frames, and frames to what HTTP would bring.

Source: OpenAI API reference, Responses over WebSocket; openai/codex (`status`, `status_code` and
`headers` of errors).
"""

import re
from typing import Final

import msgspec

from relay.decoding import Decoder, Undecodable
from relay.wire.turns.frames import CREATE, Delta
from relay.wire.turns.shapes import RefusalTold

CREATED: Final = b"response.created"
COMPLETED: Final = b"response.completed"
ERROR: Final = b"error"
ENDS: Final = frozenset({COMPLETED, b"response.incomplete", b"response.failed", ERROR})
HEAD_BYTES: Final = 128
FORGOTTEN: Final = "previous_response_not_found"
OVER: Final = "websocket_connection_limit_reached"
STATUS_MIN: Final = 400
STATUS_MAX: Final = 599
_HTTPS_OWN: Final = ("type", "stream", "stream_options", "background")
_TYPE: Final = re.compile(rb'\s*\{\s*"type"\s*:\s*"([A-Za-z0-9_.]+)"')
_BREAKS: Final = bytes.maketrans(b"\r\n", b"  ")

_fields = Decoder(dict[str, msgspec.Raw])
_text = Decoder(str)
_refusal = Decoder(RefusalTold)
_encode = msgspec.json.Encoder().encode


class ToldRefusal:
    """What an upstream says instead of an answer.

    `status`: 0 = it names none. `headers`: names in lower case. `body`: as HTTP would have it.
    `forgets`: it does not have the turn before. `is_over`: it takes no more over this socket.
    """

    __slots__ = ("body", "code", "headers", "status")

    def __init__(self, status: int, code: str, headers: dict[bytes, bytes], body: bytes) -> None:
        self.status = status
        self.code = code
        self.headers = headers
        self.body = body

    @property
    def forgets(self) -> bool:
        """Whether it does not have the turn before."""
        return self.code == FORGOTTEN

    @property
    def is_over(self) -> bool:
        """Whether it takes no more over this socket."""
        return self.code == OVER


def create_text(body: bytes, delta: Delta | None) -> bytes:
    """Return the frame that asks for what the body of a request asks for.

    Args:
        body: Of a `POST /v1/responses`.
        delta: What is new in it, where the socket has the turn before.

    Returns:
        b"" where the body does not ask for the turn that `delta` is of.
    """
    fields = _fields.decode(body)
    for name in _HTTPS_OWN:
        fields.pop(name, None)
    if delta is not None:
        if bytes(fields.get("input", b"")) != bytes(delta.whole):
            return b""
        fields["input"] = delta.new
        fields["previous_response_id"] = msgspec.Raw(_encode(delta.before))
    return _encode({"type": CREATE} | fields)


def type_of(text: bytes) -> bytes:
    """Return the type of an event, b"" where it has none."""
    found = _TYPE.match(text, 0, HEAD_BYTES)
    if found is not None:
        return found[1]
    try:
        return _text.decode(_fields.decode(text)["type"]).encode()
    except (Undecodable, KeyError):
        return b""


def event_of(kind: bytes, text: bytes) -> bytes:
    """Return a text as the event that HTTP would have brought; JSON says nothing by its lines."""
    if text.find(b"\n") >= 0 or text.find(b"\r") >= 0:
        text = text.translate(_BREAKS)
    return b"event: %b\ndata: %b\n\n" % (kind, text)


def read_refusal_text(text: bytes) -> ToldRefusal:
    """Return what an error that comes instead of an answer amounts to."""
    try:
        told = _refusal.decode(text)
    except Undecodable:
        return ToldRefusal(0, "", {}, b"")
    status = told.status or told.status_code or 0
    if not STATUS_MIN <= status <= STATUS_MAX:
        status = 0
    code = told.error.get("code")
    given = told.headers or {}
    headers = {
        name.lower().encode("latin-1", "replace"): str(value).encode("latin-1", "replace")
        for name, value in given.items()
    }
    headers[b"content-type"] = b"application/json"
    body = _encode({"error": told.error})
    return ToldRefusal(status, code if isinstance(code, str) else "", headers, body)
