"""Multipart forms: the few text fields the relay needs, and the model's name replaced in place.

Files pass through untouched. Only what is needed is looked at: part heads, and the values of
`model` and `stream`.

Source: RFC 7578 (multipart/form-data), RFC 2046 section 5.1 (boundaries).
"""

import re
from typing import Final

import msgspec

from relay.errors import BadRequest
from relay.wire.request import MODEL_CHARS_MAX

PARTS_MAX: Final = 128
PART_HEAD_BYTES_MAX: Final = 8 * 1024
FIELD_BYTES_MAX: Final = 1024

_BOUNDARY: Final = re.compile(r';\s*boundary=(?:"([^"\r\n]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
_NAME: Final = re.compile(rb'[;\s]name="([^"]*)"', re.IGNORECASE)


class Form(msgspec.Struct, frozen=True):
    """A form's body, and what it says. `model_start`, `model_end`: where the model's name is."""

    body: bytes
    model: str
    stream: bool
    model_start: int
    model_end: int


def peek_multipart(body: bytes, content_type: str) -> Form:
    """Return what a form asks for.

    Raises:
        BadRequest: CLIENT; no boundary, parts that do not end, too many or too large heads, a
            `model` that is missing, given twice, or no plain text. The message quotes nothing.
    """
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise BadRequest("The multipart content type names no boundary.")
    delimiter = b"\r\n--" + (found[1] or found[2]).encode("latin-1", "replace")
    spans: dict[bytes, tuple[int, int]] = {}
    for name, start, end in _parts(body, delimiter):
        if name == b"model" and name in spans:
            raise BadRequest("The form names the model twice.", param="model")
        spans[name] = (start, end)
    if b"model" not in spans:
        raise BadRequest("The form names no model.", param="model")
    start, end = spans[b"model"]
    stream_start, stream_end = spans.get(b"stream", (0, 0))
    return Form(
        body=body,
        model=_model(body[start:end]),
        stream=body[stream_start:stream_end].strip().lower() == b"true",
        model_start=start,
        model_end=end,
    )


def reframe_multipart(form: Form, *, model: str) -> bytes:
    """Return the form for an upstream that knows the model as `model`."""
    if model == form.model:
        return form.body
    return b"".join((form.body[: form.model_start], model.encode(), form.body[form.model_end :]))


def _model(value: bytes) -> str:
    if not 0 < len(value) <= FIELD_BYTES_MAX:
        raise BadRequest("model must be a short text.", param="model")
    try:
        model = value.decode()
    except UnicodeDecodeError:
        model = ""
    if not 0 < len(model) <= MODEL_CHARS_MAX:
        raise BadRequest(f"model must have 1 to {MODEL_CHARS_MAX} characters.", param="model")
    return model


def _parts(body: bytes, delimiter: bytes) -> list[tuple[bytes, int, int]]:
    """Return (name, start, end) of each part's value."""
    # The first delimiter has no CRLF of its own when nothing precedes it.
    at = len(delimiter) - 2 if body.startswith(delimiter[2:]) else _after(body, delimiter, 0)
    parts: list[tuple[bytes, int, int]] = []
    while body[at : at + 2] != b"--":
        if len(parts) == PARTS_MAX:
            raise BadRequest(f"The form has more than {PARTS_MAX} parts.")
        head_end = body.find(b"\r\n\r\n", at, at + PART_HEAD_BYTES_MAX)
        if body[at : at + 2] != b"\r\n" or head_end < 0:
            raise BadRequest("A part of the form has no proper head.")
        start = head_end + 4
        end = body.find(delimiter, start - 2)
        if end < 0:
            raise BadRequest("A part of the form does not end.")
        name = _NAME.search(body, at, head_end)
        # A value that is empty shares its CRLF with the head's end.
        parts.append((name[1] if name else b"", start, max(start, end)))
        at = end + len(delimiter)
    return parts


def _after(body: bytes, delimiter: bytes, at: int) -> int:
    found = body.find(delimiter, at)
    if found < 0:
        raise BadRequest("The form does not hold its boundary.")
    return found + len(delimiter)
