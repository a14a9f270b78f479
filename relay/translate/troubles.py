"""Errors: read from any dialect's body, written into any.

The words of a message are kept: coding agents recover by them. What they recognise a prompt by
that is too long is said in the words of the client's own provider as well.

Source: error bodies recorded from 14 providers; Anthropic's and OpenAI's lists of error types,
google.rpc.Code; the phrases that coding agents look for.
"""

import re
from collections.abc import Callable
from typing import Any, Final

from relay.translate.answer import Trouble
from relay.translate.fields import decode_json, encode
from relay.translate.middle import JsonObject, TranslateDialect

MESSAGE_CHARS_MAX: Final = 4096
TOO_LONG: Final = "context_length_exceeded"

_WHOLE: Final = re.compile("[0-9]{1,9}")
_TOO_LONG_WORDS: Final = re.compile(
    r"prompt is too long|input token count.{0,40}exceeds the maximum|maximum context length"
    r"|exceeds the context window|prompt too long|context_length_exceeded",
    re.IGNORECASE,
)
_TWO_COUNTS: Final = re.compile(r"\((\d{1,12})\) exceeds the maximum .{0,60}\((\d{1,12})\)")
_KIND_OF_STATUS: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
"""Anthropic's types."""
_STATUS_OF_KIND: Final = {
    **{kind: status for status, kind in reversed(_KIND_OF_STATUS.items())},
    "overloaded_error": 529,
    "server_error": 500,
    "insufficient_quota": 429,
    "invalid_api_key": 401,
}
_GOOGLE: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_STATUS_OF_CODE: Final = {
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "invalid_api_key": 401,
    "model_not_found": 404,
    "server_is_overloaded": 503,
    "slow_down": 503,
    "server_error": 500,
}


def read_error(body: bytes | object, status: int = 0) -> Trouble:
    """Return what an error's body says, whatever its dialect.

    Args:
        body: The body, or the object of it.
        status: The HTTP status; 0 where the error stood inside a 200.
    """
    found = decode_json(body) if isinstance(body, bytes) else body
    if isinstance(found, list) and found:
        found = found[0]
    fields: JsonObject = found if isinstance(found, dict) else {}
    fault = fields.get("error")
    if isinstance(fault, str):
        fault = {"message": fault}
    elif not isinstance(fault, dict):
        fault = fields
    return _trouble(fault, status)


def _trouble(fault: JsonObject, status: int) -> Trouble:
    message = fault.get("message", fault.get("Message"))  # AWS writes it so
    text = message[:MESSAGE_CHARS_MAX] if isinstance(message, str) else "The upstream failed."
    code = fault.get("code")
    kind = fault.get("type") or fault.get("status")
    if not status:
        status = _status(fault, code, kind)
    word = code if isinstance(code, str) and not code.isdigit() else None
    if _TOO_LONG_WORDS.search(text):
        word = TOO_LONG
    param = fault.get("param")
    return Trouble(
        status,
        _openai_kind(status, kind),
        text,
        word,
        param if isinstance(param, str) else None,
    )


def _status(fault: JsonObject, code: Any, kind: Any) -> int:
    for found in (fault.get("status_code"), code):
        number = int(found) if isinstance(found, str) and _WHOLE.fullmatch(found) else found
        if isinstance(number, int) and 400 <= number < 600:
            return number
    if isinstance(code, str) and code in _STATUS_OF_CODE:
        return _STATUS_OF_CODE[code]
    return _STATUS_OF_KIND.get(kind, 502) if isinstance(kind, str) else 502


def _openai_kind(status: int, kind: Any) -> str:
    if isinstance(kind, str) and kind.endswith("_error") and status < 500:
        return kind
    return _KIND_OF_STATUS.get(status, "invalid_request_error" if status < 500 else "server_error")


def write_error(dialect: TranslateDialect, trouble: Trouble) -> bytes:
    """Return an error's JSON body in a dialect."""
    return encode(_WRITERS[dialect](trouble))


def openai_fault(trouble: Trouble) -> JsonObject:
    """Return the inner object of OpenAI's error."""
    return {
        "message": trouble.message,
        "type": "server_error" if trouble.status >= 500 else trouble.kind,
        "param": trouble.param,
        "code": trouble.code,
    }


def _openai_error(trouble: Trouble) -> JsonObject:
    return {"error": openai_fault(trouble)}


def anthropic_error(trouble: Trouble) -> JsonObject:
    """Return the whole object of Anthropic's error."""
    kind = _KIND_OF_STATUS.get(trouble.status)
    if kind is None:
        kind = "invalid_request_error" if trouble.status < 500 else "api_error"
    message = trouble.message
    if trouble.code == TOO_LONG and "prompt is too long" not in message:
        counts = _TWO_COUNTS.search(message)
        said = f": {counts[1]} tokens > {counts[2]} maximum" if counts else ""
        message = f"prompt is too long{said}. {message}"
    return {"type": "error", "error": {"type": kind, "message": message}}


def too_long_for(client: TranslateDialect, trouble: Trouble, said: str) -> str:
    """Return how a client's own provider tells of a prompt that is too long; `said`: as it is."""
    if client is not TranslateDialect.ANTHROPIC:
        return said
    return str(anthropic_error(trouble)["error"]["message"])


def gemini_error(trouble: Trouble) -> JsonObject:
    """Return the whole object of Gemini's error."""
    status = 503 if trouble.status == 529 else trouble.status
    word = _GOOGLE.get(status, "INVALID_ARGUMENT" if status < 500 else "UNAVAILABLE")
    return {"error": {"code": status, "message": trouble.message, "status": word}}


_WRITERS: Final[dict[TranslateDialect, Callable[[Trouble], JsonObject]]] = {
    TranslateDialect.OPENAI_CHAT: _openai_error,
    TranslateDialect.ANTHROPIC: anthropic_error,
    TranslateDialect.GEMINI: gemini_error,
    TranslateDialect.RESPONSES: _openai_error,
}


def translate_error(target: TranslateDialect, status: int, body: bytes) -> bytes:
    """Return an upstream's error body in the client's dialect; its status goes on as it is."""
    return write_error(target, read_error(body, status))
