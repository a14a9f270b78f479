"""Whole answers of our own: errors, model lists, greetings."""

from relay.errors import RelayError
from relay.model import DEFAULT_DIALECT, Dialect
from relay.wire.dialects.known import TABLES
from relay.wire.http import CLOSE, JSON, identity_head, status_line
from relay.wire.retry_headers import error_headers


def error_answer(
    error: RelayError,
    request_id: str,
    dice: float,
    *,
    notes: bytes = b"",
    closing: bool,
    dialect: Dialect = DEFAULT_DIALECT,
) -> bytes:
    """Return the whole answer that tells `error`; `notes`: header lines."""
    lines = [f"{name}: {value}\r\n" for name, value in error_headers(error, dice)]
    extra = "".join(lines).encode("latin-1") + notes
    table = TABLES[dialect]
    body = error.own_body or table.error_body(error, request_id)
    return _answer(table.error_status(error), request_id, body, extra, closing=closing)


def json_answer(body: bytes, request_id: str, *, closing: bool) -> bytes:
    """Return a 200 with a JSON body."""
    return _answer(200, request_id, body, b"", closing=closing)


def empty_answer(request_id: str, *, closing: bool) -> bytes:
    """Return a 200 without a body, as to HEAD."""
    return _answer(200, request_id, b"", b"", closing=closing)


def _answer(status: int, request_id: str, body: bytes, extra: bytes, *, closing: bool) -> bytes:
    head = b"%bContent-Type: %b\r\nContent-Length: %d\r\n%b%b%b\r\n" % (
        status_line(status),
        JSON,
        len(body),
        identity_head(request_id.encode()),
        extra,
        CLOSE if closing else b"",
    )
    return head + body
