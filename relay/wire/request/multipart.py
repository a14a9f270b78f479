"""Multipart forms: the few text fields the relay needs, and the model's name replaced in place.

Files pass through untouched. Only what is needed is looked at: part heads, and the values of
`model` and `stream`. Where two parsers could read a form in two ways it is refused: who is billed
for one model must not get another out of the upstream.

Source: RFC 7578 (multipart/form-data), RFC 2046 section 5.1 (boundaries).
"""

import re
from typing import Final

import msgspec

from relay.errors import BadRequest
from relay.wire.request.json_request import CHOICES_MAX, check_model

PARTS_MAX: Final = 128
PART_HEAD_BYTES_MAX: Final = 8 * 1024
FIELD_BYTES_MAX: Final = 1024

# A quoted value with a backslash before its last quote is one that some parsers read on from.
_PARAMETER: Final = re.compile(
    rb';[ \t]*([a-z*]+)=(?:"([^"\r\n]*(?<!\\))"|([^\s";\\]+))[ \t]*', re.IGNORECASE
)
# Python's clients escape the quotes of a file's name. A parser that knows no escapes takes the name
# to end at the first of them; without a semicolon behind it, it can read no other parameter there.
_FILE_NAME: Final = re.compile(
    rb';[ \t]*(filename)="((?:[^"\\\r\n;]|\\[^\r\n;])*)"[ \t]*(?=;|$)', re.IGNORECASE
)
_BOUNDARY: Final = re.compile(rb"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
_HEADER: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\r\n]*)")
_WORDS: Final = (b"quality", b"size", b"response_format", b"seconds")
_READ: Final = frozenset({b"model", b"stream", b"n", *_WORDS})
"""What we read of a form: a field given twice could be read in two ways."""
_FILES: Final = frozenset({b"file", b"image", b"image[]", b"mask", b"input_reference"})
WORD_BYTES_MAX: Final = 32
_DISPOSITION: Final = b"content-disposition"
_ENCODING: Final = b"content-transfer-encoding"
_PLAIN: Final = frozenset({b"7bit", b"8bit", b"binary"})


class Form(msgspec.Struct, frozen=True):
    """A form's body, and what it says. `model_start`, `model_end`: where the model's name is.

    `n`, `quality`, `size`: of images. `seconds`: of a video. `format`: of the answer, "" = the
    default. `text_bytes`: of its prompt. `file_bytes`, `file_start`: of the largest file.
    """

    body: bytes
    model: str
    stream: bool
    model_start: int
    model_end: int
    n: int = 1
    quality: str = ""
    size: str = ""
    format: str = ""
    text_bytes: int = 0
    file_bytes: int = 0
    file_start: int = 0
    seconds: str = ""


def peek_multipart(body: bytes, content_type: str) -> Form:
    """Return what a form asks for.

    Raises:
        BadRequest: CLIENT; no boundary, parts that do not end, too many or too large heads, a
            `model` that is missing, given twice, or no plain text. The message quotes nothing.
    """
    delimiter = b"\r\n--" + _read_boundary(content_type)
    spans: dict[bytes, tuple[int, int]] = {}
    files = (0, 0)
    for name, start, end in _parts(body, delimiter):
        if name in _READ and name in spans:
            raise BadRequest("The form gives a field twice.", param=name.decode("latin-1"))
        spans[name] = (start, end)
        if name in _FILES and end - start > files[1] - files[0]:
            files = (start, end)
    if b"model" not in spans:
        raise BadRequest("The form names no model.", param="model")
    start, end = spans[b"model"]
    stream_start, stream_end = spans.get(b"stream", (0, 0))
    prompt_start, prompt_end = spans.get(b"prompt", (0, 0))
    words = {name: _read_word(body, spans.get(name)) for name in _WORDS}
    return Form(
        body=body,
        model=_read_model(body[start:end]),
        stream=body[stream_start:stream_end].strip().lower() == b"true",
        model_start=start,
        model_end=end,
        n=_read_number(_read_word(body, spans.get(b"n"))),
        quality=words[b"quality"],
        size=words[b"size"],
        format=words[b"response_format"],
        text_bytes=prompt_end - prompt_start,
        file_bytes=files[1] - files[0],
        file_start=files[0],
        seconds=words[b"seconds"],
    )


def reframe_multipart(form: Form, *, model: str) -> bytes:
    """Return the form for an upstream that knows the model as `model`."""
    if model == form.model:
        return form.body
    return b"".join((form.body[: form.model_start], model.encode(), form.body[form.model_end :]))


def _read_word(body: bytes, span: tuple[int, int] | None) -> str:
    """Return the start of a short field, "" where it is none."""
    if span is None:
        return ""
    return body[span[0] : min(span[1], span[0] + WORD_BYTES_MAX)].decode("latin-1").strip().lower()


def _read_number(word: str) -> int:
    """Return how many images a form asks for."""
    if not word:
        return 1
    if not (word.isascii() and word.isdecimal() and 1 <= int(word) <= CHOICES_MAX):
        raise BadRequest(f"n must be from 1 to {CHOICES_MAX}.", param="n")
    return int(word)


def _read_boundary(content_type: str) -> bytes:
    # Only ASCII: the header goes to the upstream as it came.
    kind, semicolon, rest = content_type.partition(";")
    found = _parameters((semicolon + rest).encode()) if content_type.isascii() else None
    boundary = found.get(b"boundary", b"") if found is not None else b""
    if _BOUNDARY.fullmatch(boundary) is None or not kind:
        raise BadRequest("The multipart content type names no boundary, or no proper one.")
    return boundary


def _read_model(value: bytes) -> str:
    try:
        return check_model(value[: FIELD_BYTES_MAX + 1].decode())
    except UnicodeDecodeError:
        pass
    raise BadRequest("model must be UTF-8.", param="model")


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
        # A value that is empty shares its CRLF with the head's end.
        parts.append((_read_name(body[at + 2 : head_end]), start, max(start, end)))
        at = end + len(delimiter)
    return parts


def _after(body: bytes, delimiter: bytes, at: int) -> int:
    found = body.find(delimiter, at)
    if found < 0:
        raise BadRequest("The form does not hold its boundary.")
    return found + len(delimiter)


def _read_name(head: bytes) -> bytes:
    """Return the field name that a part's head gives, as the one way to read it."""
    headers: dict[bytes, bytes] = {}
    for line in head.split(b"\r\n"):
        found = _HEADER.fullmatch(line)
        if found is None or found[1].lower() in headers:
            raise BadRequest("A part of the form has no proper head.")
        headers[found[1].lower()] = found[2].strip()
    if headers.get(_ENCODING, b"binary").lower() not in _PLAIN:
        raise BadRequest("A part of the form is encoded: send it as it is.")
    kind, semicolon, rest = headers.get(_DISPOSITION, b"").partition(b";")
    parameters = _parameters(semicolon + rest)
    if kind.strip().lower() != b"form-data" or parameters is None or b"name" not in parameters:
        raise BadRequest("A part of the form has no proper name.")
    if b"\\" in parameters[b"name"] or b"name*" in parameters:
        raise BadRequest("A part of the form has no proper name.")
    return parameters[b"name"]


def _parameters(text: bytes) -> dict[bytes, bytes] | None:
    """Return the parameters of `; a=b; c="d"`, names in lower case; None if it is no such list."""
    parameters: dict[bytes, bytes] = {}
    at = 0
    while at < len(text):
        found = _FILE_NAME.match(text, at) or _PARAMETER.match(text, at)
        if found is None or found[1].lower() in parameters:
            return None
        # The last group that took part: a quoted value, or a bare one.
        parameters[found[1].lower()] = found[found.lastindex or 0]
        at = found.end()
    return parameters
