"""Refusals as providers and the CDNs in front of them word them, by status.

Some quote a credential, a prompt or an organisation on purpose: a relay that passes such a body on
is found out by the test that looks for it.
"""

from http import HTTPStatus
from typing import Final

from relay.mock.answers.answer import HTML, MockAnswer, encode

RETRY_AFTER: Final = b"Retry-After: %d\r\n"

_MASKED_KEY: Final = "sk-mock****************CRET"
_TYPES: Final = {
    400: ("invalid_request_error", "context_length_exceeded", "Your input is too long."),
    401: ("invalid_request_error", "invalid_api_key", f"Incorrect API key: {_MASKED_KEY}."),
    402: ("unknown_error", "invalid_request_error", "Insufficient Balance"),
    403: ("permission_error", "permission_denied", "Organization org-mock may not do this."),
    404: ("invalid_request_error", "model_not_found", "The model does not exist."),
    405: ("invalid_request_error", "method_not_supported", "Not allowed to use this method."),
    408: ("timeout_error", "request_timeout", "The request took too long to arrive."),
    413: ("invalid_request_error", "request_too_large", "The request is too large."),
    429: ("requests", "rate_limit_exceeded", "Rate limit reached in organization org-mock."),
    500: ("server_error", "internal_error", "The server had an error."),
    503: ("server_error", "overloaded", "That model is currently overloaded."),
}
_UNPROCESSABLE: Final = {
    "detail": [{"type": "missing", "loc": ["body", "messages"], "msg": "Field required"}]
}
"""Source: FastAPI's RequestValidationError body, which Mistral and vLLM answer with."""
_OVERLOADED: Final = {
    "type": "error",
    "error": {"type": "overloaded_error", "message": "Overloaded"},
}
"""Source: Anthropic API reference, "Errors", 529."""
_PAGES: Final = {
    502: "Bad gateway",
    504: "Gateway time-out",
    520: "Web server is returning an unknown error",
    522: "Connection timed out",
    524: "A timeout occurred",
}
"""Statuses that a CDN answers itself, with a page of HTML. Source: Cloudflare, "5xx errors"."""


def reject(status: int, message: str = "", *, headers: bytes = b"") -> MockAnswer:
    """Return the answer of a provider that refuses with `status`.

    Args:
        status: 400 to 599.
        message: Instead of the status's usual one.
        headers: Further header lines, each with its CRLF.
    """
    if status in _PAGES:
        return _page(status, _PAGES[status], headers)
    if status == 422:
        return _refusal(status, _UNPROCESSABLE, headers)
    if status == 529:
        return _refusal(status, _OVERLOADED, headers)
    kind, code, usual = _TYPES.get(status, ("server_error", "error", "The server had an error."))
    error: dict[str, str | None] = {"message": usual, "type": kind, "param": None, "code": code}
    if message:
        error |= {"message": message, "code": None}
    return _refusal(status, {"error": error}, headers)


def block() -> MockAnswer:
    """Return the page of a web application firewall: 403 and HTML, whatever was asked."""
    return _page(403, "Attention Required! | Sorry, you have been blocked", b"")


def page(status: int, title: str) -> MockAnswer:
    """Return a page of HTML where an API answer was due."""
    return _page(status, title, b"")


def reason(status: int) -> str:
    """Return the reason phrase of a status line."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def _refusal(status: int, body: object, headers: bytes) -> MockAnswer:
    return MockAnswer(events=((encode(body), 0),), status=status, headers=headers)


def _page(status: int, title: str, headers: bytes) -> MockAnswer:
    text = (
        "<!DOCTYPE html>\n<html><head><title>"
        f"{title}</title></head><body><center><h1>{status} {title}</h1></center>"
        "<hr><center>cloudflare</center></body></html>\n"
    )
    return MockAnswer(
        events=((text.encode(), 0),), status=status, content_type=HTML, headers=headers
    )
