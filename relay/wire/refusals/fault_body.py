"""What an upstream says instead of an answer, read from any shape that a provider gives it.

{"error": {"message", "type", "param", "code", "status", "details", "metadata"}}   most
[{"error": {...}}]                      Gemini, of a stream that was not asked for as events
{"type": "error", "error": {...}}       Anthropic
{"code": "...", "error": "text"}        xAI
{"message": "..."}                      Bedrock, Cohere
{"detail": "..."}                       FastAPI's own
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from relay.decoding import Decoder, Undecodable

PARAM_CHARS_MAX: Final = 256
DEPTH: Final = 3
"""An upstream that relays itself wraps what its own upstream said."""
WAIT_S_MAX: Final = 3600.0

_HTML: Final = re.compile(rb"\s*(?:<!doctype|<html|<head|<body|<\?xml)", re.IGNORECASE)
_PARAM: Final = re.compile(r"[\x20-\x7e]+")
_SAFE: Final = re.compile(r"[A-Za-z0-9_.\-]{1,64}")
_WAIT: Final = re.compile(r"(?:try again|retry) in (\d{1,9}(?:\.\d{1,12})?) ?(ms|s|seconds?)\b")
_DELAY: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")
_decode = Decoder(Any).decode


@dataclass(slots=True)
class FaultWords:
    """What a body says is wrong. Nothing of it goes into a log."""

    message: str = ""
    codes: set[str] = field(default_factory=set)
    """Everything that stands where a code stands, in lower case: code, type, status, reasons."""
    code: str | None = None
    """The code to tell: a plain token that can hold nothing private."""
    param: str | None = None
    flagged: bool = False
    """Moderation says what it did not like."""
    retry_after_s: float | None = None
    html: bool = False
    whole: bool = False
    """It is a JSON object, so that it can be passed on as it is."""

    @property
    def empty(self) -> bool:
        """Whether it says nothing that could be understood."""
        return not self.message and not self.codes


def read_fault(body: bytes) -> FaultWords:
    """Return what a body says is wrong; whatever it is, this does not fail."""
    words = FaultWords(html=_HTML.match(body) is not None)
    try:
        found = _decode(body)
    except Undecodable:
        return words
    words.whole = isinstance(found, dict)
    if isinstance(found, list) and found:
        found = found[0]
    if isinstance(found, dict):
        _read_outer(words, found)
    words.message = words.message.strip()
    words.retry_after_s = words.retry_after_s or _wait_in(words.message)
    return words


def safe_code(code: object) -> str | None:
    """Return `code` if it is a plain token that can hold nothing private, else None."""
    text = str(code) if isinstance(code, int) else code
    return text if isinstance(text, str) and _SAFE.fullmatch(text) else None


def _read_outer(words: FaultWords, found: dict[str, object]) -> None:
    for _ in range(DEPTH):
        inner = found.get("error")
        response = found.get("response")
        if isinstance(inner, dict):
            _read_fields(words, inner)
            found = inner
        elif isinstance(response, dict):
            found = response  # an event of the Responses dialect
        else:
            _read_fields(words, found)
            if isinstance(inner, str):
                words.message = words.message or inner
            break
    errors = found.get("errors")
    if not words.message and isinstance(errors, str):
        words.message = errors


def _read_fields(words: FaultWords, fields: dict[str, object]) -> None:
    """Add what an error object says; the outermost one's words count."""
    for name in ("message", "detail", "msg"):
        text = fields.get(name)
        if isinstance(text, str) and not words.message:
            words.message = text
    for name in ("code", "type", "status", "__type", "reason"):
        code = fields.get(name)
        if isinstance(code, str | int) and not isinstance(code, bool):
            words.codes.add(str(code).lower().rpartition("#")[2])
            if words.code is None and name in ("code", "type") and not str(code).isdigit():
                words.code = safe_code(code)
    param = fields.get("param")
    if isinstance(param, str) and len(param) <= PARAM_CHARS_MAX and _PARAM.fullmatch(param):
        words.param = words.param or param
    metadata = fields.get("metadata")
    if isinstance(metadata, dict) and ("flagged_input" in metadata or "reasons" in metadata):
        words.flagged = True
    if isinstance(fields.get("innererror"), dict):
        _read_fields(words, fields["innererror"])  # type: ignore[arg-type]
    details = fields.get("details")
    if isinstance(details, list):
        _read_details(words, details)


def _read_details(words: FaultWords, details: Iterable[object]) -> None:
    """Add what google.rpc's details say: reasons, and when to come back."""
    for detail in details:
        if not isinstance(detail, dict):
            continue
        reason = detail.get("reason")
        if isinstance(reason, str):
            words.codes.add(reason.lower())
        delay = detail.get("retryDelay")
        found = _DELAY.fullmatch(delay) if isinstance(delay, str) else None
        if found is not None:
            words.retry_after_s = min(float(found.group(1)), WAIT_S_MAX)


def _wait_in(message: str) -> float | None:
    found = _WAIT.search(message)
    if found is None:
        return None
    unit_s = 1e-3 if found.group(2) == "ms" else 1.0
    return min(float(found.group(1)) * unit_s, WAIT_S_MAX)
