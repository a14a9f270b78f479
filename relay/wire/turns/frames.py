"""Frames to requests, and events and errors to frames.

A frame that begins a turn is the body of a `POST /v1/responses`, flat, with a type; what belongs to
the socket alone is taken out of it. An event goes out as the text of its data, and nothing of it is
changed but that the lane it belongs to stands in it, where the client named one.

Source: OpenAI API reference, Responses over WebSocket; openai/codex (wrapped bodies, `generate`,
`status` of errors).
"""

import math
import re
from typing import Final

import msgspec

from relay.decoding import Decoder, Undecodable
from relay.errors import BadRequest, RelayError, TooLarge
from relay.wire.request.json_request import decode_fields
from relay.wire.turns.shapes import ToldError

CREATE: Final = "response.create"
LANE_CHARS_MAX: Final = 128
_SOCKETS_OWN: Final = ("type", "event_id", "stream_id", "generate", "background", "stream")
_LANE: Final = re.compile(r"[A-Za-z0-9_.:\-]+")
_TRUE: Final = msgspec.Raw(b"true")
_text = Decoder(str)
_error = Decoder(ToldError)
_encode = msgspec.json.Encoder().encode

Fields = dict[str, msgspec.Raw]


class Delta:
    """What is new in a turn that goes on from another one.

    `before`: the response that it goes on from. `new`: the input as its client wrote it. `whole`:
    with all that was said before.
    """

    __slots__ = ("before", "new", "whole")

    def __init__(self, before: str, new: msgspec.Raw, whole: msgspec.Raw) -> None:
        self.before = before
        self.new = new
        self.whole = whole


class Create:
    """What a frame asks for.

    `fields`: of the request's body. `lane`: the client's name of it, "" = none. `generates`: False
    where only the context is to be taken in. `delta`: set where the input was made whole.
    """

    __slots__ = ("delta", "fields", "generates", "lane")

    def __init__(self, fields: Fields, lane: str, *, generates: bool) -> None:
        self.delta: Delta | None = None
        self.fields = fields
        self.lane = lane
        self.generates = generates

    def text(self, name: str) -> str:
        """Return a field that is a string, "" where it is none."""
        raw = self.fields.get(name)
        try:
            return _text.decode(raw) if raw is not None else ""
        except Undecodable:
            return ""

    def is_false(self, name: str) -> bool:
        """Tell whether a field says no."""
        return bytes(self.fields.get(name, b"")).strip() == b"false"

    def body(self) -> bytes:
        """Return the body of the request that it stands for."""
        return _encode(self.fields)


def read_create(payload: bytes) -> Create:
    """Return what a text frame asks for.

    Raises:
        BadRequest: CLIENT; it is not JSON, or no beginning of a turn, or names a lane oddly.
    """
    fields = decode_fields(payload)
    create = Create(fields, "", generates=True)
    if create.text("type") != CREATE:
        error = BadRequest(f"Only {CREATE} can be asked for over this socket.", param="type")
        error.code = "unknown_event"
        raise error
    lane = create.text("stream_id")
    if "stream_id" in fields and (len(lane) > LANE_CHARS_MAX or not _LANE.fullmatch(lane)):
        raise BadRequest("stream_id must be a short name of plain characters.", param="stream_id")
    generates = not create.is_false("generate")
    wrapped = fields.get("response")
    if wrapped is not None and "model" not in fields:
        fields = decode_fields(bytes(wrapped))
    for name in _SOCKETS_OWN:
        fields.pop(name, None)
    fields["stream"] = _TRUE
    return Create(fields, lane, generates=generates)


def event_text(payload: bytes, lane: str) -> bytes:
    """Return an event's data as the text of a frame."""
    if not lane or payload[-1:] != b"}" or len(payload) <= 2:
        return payload
    return b'%b,"stream_id":"%b"}' % (payload[:-1], lane.encode())


def error_text(error: RelayError, request_id: str, lane: str) -> bytes:
    """Return the text of the frame that tells an error, with the status that HTTP would have.

    A client takes 413 for something that may pass, and sends the same again: it is told 400.
    """
    said: dict[str, object] = {
        "type": error.kind,
        "code": error.code,
        "message": f"{error.message} (request id: {request_id})",
        "param": error.param,
    }
    if error.own_body:
        said |= _own_words(error.own_body)
    status = 400 if isinstance(error, TooLarge) else error.status
    told: dict[str, object] = {"type": "error", "status": status, "error": said}
    if error.retry_after_s is not None:
        told["headers"] = {"retry-after": str(max(1, math.ceil(error.retry_after_s)))}
    if lane:
        told["stream_id"] = lane
    return _encode(told)


def _own_words(body: bytes) -> dict[str, object]:
    try:
        return dict(_error.decode(body).error)
    except Undecodable:
        return {}


def warm_up_texts(create: Create, name: str, created_s: int) -> list[bytes]:
    """Return the texts that answer a turn which only takes in its context."""
    response: dict[str, object] = {
        "id": name,
        "object": "response",
        "created_at": created_s,
        "status": "in_progress",
        "model": create.text("model"),
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "error": None,
        "incomplete_details": None,
        "usage": None,
    }
    usage = {
        "input_tokens": 0,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 0,
    }
    ended = response | {"status": "completed", "usage": usage}
    events = (("response.created", response), ("response.completed", ended))
    texts = [
        _encode({"type": kind, "sequence_number": number, "response": told})
        for number, (kind, told) in enumerate(events)
    ]
    return [event_text(text, create.lane) for text in texts]
